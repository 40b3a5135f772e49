"""Requests and answers: each vector whole, byte by byte, in odd pieces, and with bytes behind it: the same outcome."""

from __future__ import annotations

from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gows.errors import HandshakeError, HttpError
from gows.http1.head import RequestHead, RequestParser, ResponseParser, is_host

STEPS = [1, 7, 10**6]


def feed(parser: Any, wire: bytes, step: int) -> None:
    for at in range(0, len(wire), step):
        parser.feed(wire[at : at + step])


def parse(wire: bytes, step: int = 10**6, **limits: int) -> RequestParser:
    parser = RequestParser(**limits)
    feed(parser, wire, step)
    return parser


def head_of(wire: bytes) -> RequestHead:
    parser = parse(wire)
    assert parser.head is not None
    return parser.head


def request(*lines: str, body: bytes = b"") -> bytes:
    """A request with its Host, and `lines` behind it."""
    first, *fields = lines or ("GET / HTTP/1.1",)
    return "\r\n".join([first, "Host: example.com", *fields, "", ""]).encode("latin-1") + body


def get(*fields: str, body: bytes = b"") -> bytes:
    return request("GET / HTTP/1.1", *fields, body=body)


def upgrade(*fields: str, body: bytes = b"") -> bytes:
    return get("Upgrade: websocket", "Connection: Upgrade", *fields, body=body)


# ---------------------------------------------------------------------- what is served


@pytest.mark.parametrize("step", STEPS)
def test_a_plain_request(step: int) -> None:
    parser = parse(request("GET /chat%20room?user=a&x HTTP/1.1", "X-One: 1", "x-one:\t2 "), step)
    head = parser.head
    assert head is not None
    assert (head.method, head.target, head.version) == ("GET", "/chat%20room?user=a&x", "HTTP/1.1")
    assert (head.path, head.query) == ("/chat%20room", "user=a&x")
    assert head.headers.items() == [("Host", "example.com"), ("X-One", "1"), ("x-one", "2")]
    assert head.keep_alive
    assert not head.upgrade
    assert (head.content_length, head.chunked, head.expect_continue) == (None, False, False)
    assert parser.complete
    assert parser.body == b""
    assert parser.trailing == b""


@pytest.mark.parametrize("step", STEPS)
def test_one_empty_line_before_the_request_is_skipped(step: int) -> None:
    assert parse(b"\r\n" + get(), step).complete
    with pytest.raises(HttpError, match="400"):
        parse(b"\r\n\r\n" + get(), step)


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        ("/", "/", "", "example.com"),
        ("/a//b", "/a//b", "", "example.com"),
        ("/?", "/", "", "example.com"),
        ("/a?b?c", "/a", "b?c", "example.com"),
        ("http://other:81/a?b", "/a", "b", "other:81"),
        ("HTTPS://other", "/", "", "other"),
        ("ws://other?b", "/", "b", "other"),
    ],
)
def test_targets(target: str, path: str, query: str, host: str) -> None:
    """An absolute target's host replaces the Host field (RFC 9112 §3.2.2)."""
    head = head_of(request(f"GET {target} HTTP/1.1"))
    assert (head.target, head.path, head.query, head.headers["host"]) == (target, path, query, host)


def test_options_of_the_whole_server() -> None:
    assert head_of(request("OPTIONS * HTTP/1.1")).path == "*"


@pytest.mark.parametrize(
    ("wire", "keep_alive"),
    [
        (get("Connection: keep-alive"), True),
        (get("Connection: Close"), False),
        (get("Connection: x, close"), False),
        (request("GET / HTTP/1.0"), False),
        (request("GET / HTTP/1.0", "Connection: x, Keep-Alive"), True),
        (request("GET / HTTP/1.0", "Connection: keep-alive, close"), False),
        (request("GET / HTTP/1.0", "Connection: x"), False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
    ],
)
def test_keep_alive(wire: bytes, keep_alive: bool) -> None:
    assert head_of(wire).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("value", "found"),
    [("websocket", True), ("WebSocket", True), ("h2c, websocket", True), ("h2c", False), ("", False)],
)
def test_upgrade_is_set_when_the_field_names_websocket(value: str, found: bool) -> None:
    assert head_of(get(f"Upgrade: {value}", "Connection: Upgrade")).upgrade is found


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("behind", [b"", b"GET /next HTTP/1.1\r\n"])
@pytest.mark.parametrize(
    ("fields", "sent", "body"),
    [
        (["Content-Length: 5"], b"hello", b"hello"),
        (["Content-Length: 0"], b"", b""),
        (["Content-Length: 4"], b"\r\n\r\n", b"\r\n\r\n"),
        (["Transfer-Encoding: Chunked"], b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        # an upgrade to something else is ignored, and must not hide the body (RFC 9110 §7.8)
        (["Upgrade: h2c", "Connection: Upgrade", "Content-Length: 5"], b"hello", b"hello"),
        (["Upgrade: h2c", "Connection: Upgrade", "Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    ],
)
def test_bodies_end_where_they_end(fields: list[str], sent: bytes, body: bytes, behind: bytes, step: int) -> None:
    parser = parse(request("POST / HTTP/1.1", *fields, body=sent) + behind, step)
    assert parser.complete
    assert parser.body == body
    assert parser.trailing == behind


def test_trailing_is_kept_for_the_next_request() -> None:
    parser = parse(request("POST /1 HTTP/1.1", "Content-Length: 1", body=b"a") + request("GET /2 HTTP/1.1"))
    parser.feed(b"more")
    parser.reset()
    assert (parser.head, parser.body, parser.complete, parser.trailing) == (None, b"", False, b"")
    assert parser.started
    parser.feed(b"")
    assert parser.head is not None
    assert parser.head.path == "/2"
    assert parser.trailing == b"more"


def test_a_request_after_one_that_came_in_pieces() -> None:
    """The places of what was searched and checked start over."""
    parser = parse(get("X: " + "y" * 300), 1)
    for step in (10**6, 1, 10**6, 1):
        parser.reset()
        assert not parser.started
        feed(parser, get(*["X: y"] * 60), step)
        assert parser.complete


def test_started_tells_a_request_that_is_under_way() -> None:
    parser = RequestParser()
    assert not parser.started
    feed(parser, b"G", 1)
    assert parser.started
    parser.feed(request("GET / HTTP/1.1", "Content-Length: 1")[1:])
    assert parser.started
    parser.feed(b"x")
    assert not parser.started


@pytest.mark.parametrize(
    ("fields", "version", "expected"),
    [
        (["Content-Length: 5"], "1.1", True),
        (["Transfer-Encoding: chunked"], "1.1", True),
        ([], "1.1", False),
        (["Content-Length: 0"], "1.1", False),
        (["Content-Length: 5"], "1.0", False),
    ],
)
def test_expect_continue(fields: list[str], version: str, expected: bool) -> None:
    parser = RequestParser()
    assert not parser.expect_continue
    parser.feed(request(f"POST / HTTP/{version}", "Expect: 100-Continue", *fields))
    assert parser.expect_continue is expected


@pytest.mark.parametrize(("field", "sent"), [("Content-Length: 5", b"h"), ("Transfer-Encoding: chunked", b"5\r\nh")])
def test_expect_continue_is_over_when_the_body_comes(field: str, sent: bytes) -> None:
    parser = parse(request("POST / HTTP/1.1", "Expect: 100-continue", field, body=sent))
    assert not parser.complete
    assert not parser.expect_continue


@pytest.mark.parametrize("step", [1, 7, 10**6])
def test_bytes_above_ascii_are_opaque(step: int) -> None:
    """RFC 9110 §5.5: as characters of Latin-1, none of which is white space or ends a line."""
    wire = request("GET / HTTP/1.1", "Cookie: a=Zo\u00c3\u00ab; b=1", "X: \xa0\x85\xff ", "Y: \x80")
    head = parse(wire, step).head
    assert head is not None
    assert head.headers["cookie"] == "a=ZoÃ«; b=1"
    assert head.headers["x"] == "\xa0\x85\xff"
    assert head.headers.items()[-1] == ("Y", "\x80")


# ---------------------------------------------------------------------- what is refused

LIMITS = {"max_head": 512, "max_headers": 5, "max_body": 64}

BAD: dict[str, tuple[int, bytes]] = {
    # bytes that have no place in a head
    "control byte in a value": (400, get("X: a\x01b")),
    "NUL in a value": (400, get("X: a\0b")),
    "DEL in a value": (400, get("X: a\x7fb")),
    "vertical tab in a value": (400, get("X: a\x0bHost: b")),
    "file separator in a value": (400, get("X: a\x1cHost: b")),
    "non-ASCII in a name": (400, get("X\xe4: a")),
    "control byte in a name": (400, get("X\x01: a")),
    "control byte in the target": (400, request("GET /\x01 HTTP/1.1")),
    "non-ASCII in the host": (400, b"GET / HTTP/1.1\r\nHost: \xe4\r\n\r\n"),
    "non-ASCII in the method": (400, request("G\xe4T / HTTP/1.1")),
    "non-ASCII in the version": (400, request("GET / HTTP/1.\xb9")),
    "non-ASCII in a length": (400, get("Content-Length: \xb9", body=b"a")),
    "non-ASCII in a coding": (501, get("Transfer-Encoding: chunked\xa0")),
    "non-ASCII at the start of a line": (400, get("X: a", "\xa0b: c")),
    "non-ASCII without a colon": (400, get("X\xff")),
    "non-ASCII and a control byte": (400, get("X: \xe4\x01")),
    "non-ASCII in the target": (400, request("GET /\xe4 HTTP/1.1")),
    "control byte in the method": (400, request("G\x01T / HTTP/1.1")),
    "TLS ClientHello": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50)),
    "bare LF at the line ends": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "bare LF in a value": (400, get("X: a\nY: b")),
    "bare CR in a value": (400, get("X: a\rb")),
    "bare CR at the line end": (400, get("X: a\r")),
    "two CR before LF": (400, get("X: a\r\r\nY: b")),
    "obs-fold with a space": (400, get("X: a", " b")),
    "obs-fold with a tab": (400, get("X: a", "\tb")),
    "folded first field": (400, b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    # the request line
    "no request line": (400, b"\r\n\r\n"),
    "no version": (400, b"GET /\r\nHost: a\r\n\r\n"),
    "no target": (400, request("GET HTTP/1.1")),
    "no method": (400, request(" / HTTP/1.1")),
    "two spaces": (400, request("GET  / HTTP/1.1")),
    "space in the target": (400, request("GET /a b HTTP/1.1")),
    "space at the end": (400, request("GET / HTTP/1.1 ")),
    "tab instead of a space": (400, request("GET\t/ HTTP/1.1")),
    "method that is no token": (400, request("G@T / HTTP/1.1")),
    "unknown method": (501, request("FOO / HTTP/1.1")),
    "method in lower case": (501, request("get / HTTP/1.1")),
    "method of another protocol": (400, request("SETUP / HTTP/1.1")),
    "HTTP/2": (505, request("GET / HTTP/2.0")),
    "HTTP/2 preface": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/1.2": (505, request("GET / HTTP/1.2")),
    "HTTP/0.9": (505, request("GET / HTTP/0.9")),
    "version without minor": (400, request("GET / HTTP/1")),
    "version in lower case": (400, request("GET / http/1.1")),
    "version with a leading zero": (400, request("GET / HTTP/1.01")),
    "another protocol": (400, request("GET / RTSP/1.0")),
    "relative target": (400, request("GET a HTTP/1.1")),
    "asterisk for GET": (400, request("GET * HTTP/1.1")),
    "target of CONNECT": (400, request("CONNECT a:80 HTTP/1.1")),
    "fragment": (400, request("GET /a#b HTTP/1.1")),
    "fragment in an absolute target": (400, request("GET http://a/#b HTTP/1.1")),
    "absolute target of another scheme": (400, request("GET ftp://a/ HTTP/1.1")),
    "absolute target without a host": (400, request("GET http:///a HTTP/1.1")),
    "absolute target with a user": (400, request("GET http://u@h/ HTTP/1.1")),
    # field lines
    "field without a colon": (400, get("X")),
    "space before the colon": (400, get("X : a")),
    "field without a name": (400, get(": a")),
    "name that is no token": (400, get("X(): a")),
    # Host
    "no Host": (400, b"GET / HTTP/1.1\r\nX: a\r\n\r\n"),
    "no field at all": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, get("Host: example.com")),
    "two different Hosts": (400, get("host: evil.example")),
    "two Hosts in HTTP/1.0": (400, request("GET / HTTP/1.0", "Host: a")),
    "empty Host": (400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    "Host with a path": (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "Host with a space": (400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    "Host with a user": (400, b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"),
    "Host with a bad port": (400, b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
    "Host with a bad bracket": (400, b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    "malformed Host in HTTP/1.0": (400, b"GET / HTTP/1.0\r\nHost: a/b\r\n\r\n"),
    # other fields that may stand once
    "two keys": (400, upgrade("Sec-WebSocket-Key: a", "sec-websocket-key: a")),
    "two WebSocket versions": (400, upgrade("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8")),
    "two Origins": (400, upgrade("Origin: http://a", "Origin: http://b")),
    "two Content-Lengths": (400, get("Content-Length: 1", "Content-Length: 2", body=b"aa")),
    "two equal Content-Lengths": (400, get("Content-Length: 1", "Content-Length: 1", body=b"a")),
    # framing
    "Content-Length list": (400, get("Content-Length: 1, 1", body=b"a")),
    "Content-Length with a sign": (400, get("Content-Length: +1", body=b"a")),
    "negative Content-Length": (400, get("Content-Length: -1", body=b"a")),
    "hexadecimal Content-Length": (400, get("Content-Length: 0x1", body=b"a")),
    "empty Content-Length": (400, get("Content-Length:")),
    "Content-Length over 64 bits": (400, get("Content-Length: 99999999999999999999999")),
    "Transfer-Encoding with Content-Length": (400, get("Transfer-Encoding: chunked", "Content-Length: 5")),
    "Content-Length with Transfer-Encoding": (400, get("Content-Length: 5", "Transfer-Encoding: chunked")),
    "Content-Length with unknown Transfer-Encoding": (400, get("Content-Length: 5", "Transfer-Encoding: x")),
    "Transfer-Encoding in HTTP/1.0": (400, request("POST / HTTP/1.0", "Transfer-Encoding: chunked")),
    "chunked twice": (400, get("Transfer-Encoding: chunked, chunked")),
    "chunked not last": (400, get("Transfer-Encoding: chunked, gzip")),
    "unknown coding": (501, get("Transfer-Encoding: gzip")),
    "unknown coding under chunked": (501, get("Transfer-Encoding: gzip, chunked")),
    "coding like chunked": (501, get("Transfer-Encoding: xchunked")),
    "chunked with a parameter": (501, get("Transfer-Encoding: chunked;q=1")),
    "identity": (501, get("Transfer-Encoding: identity")),
    "malformed chunk": (400, get("Transfer-Encoding: chunked", body=b"x\r\n")),
    # bodies
    "declared body over the limit": (413, get("Content-Length: 65")),
    "declared body over the limit, to be continued": (413, get("Content-Length: 65", "Expect: 100-continue")),
    "largest Content-Length": (413, get("Content-Length: 18446744073709551615")),
    "chunked body over the limit": (413, get("Transfer-Encoding: chunked", body=b"41\r\n" + bytes(65))),
    "body on an upgrade": (400, upgrade("Content-Length: 5", body=b"hello")),
    "chunked body on an upgrade": (400, upgrade("Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    "Transfer-Encoding: gzip on an upgrade": (400, upgrade("Transfer-Encoding: gzip")),
    "unknown expectation": (417, get("Expect: 200-ok", "Content-Length: 1", body=b"a")),
    # limits
    "head too large": (431, get("X: " + "a" * 500)),
    "head too large without an end": (431, b"GET / HTTP/1.1\r\n" + b"a" * 600),
    "no newline ever": (431, b"A" * 600),
    "request line too long": (414, request("GET /" + "a" * 600 + " HTTP/1.1")),
    "method too long": (431, request("G" * 600 + " / HTTP/1.1")),
    "too many fields": (431, get(*["a: b"] * 5)),
    "too many fields without an end": (431, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 6),
    "too many fields, behind them a control byte": (431, get(*["a: b"] * 5, "X: \x01")),
    "a control byte, behind it too many fields": (400, get("X: \x01", *["a: b"] * 5)),
    "too many fields, one of them malformed": (431, get("a b", *["a: b"] * 4)),
}


def outcome(wire: bytes, step: int) -> int | None:
    try:
        parse(wire, step, **LIMITS)
    except HttpError as error:
        return error.status
    return None


@pytest.mark.parametrize("name", BAD)
def test_bad_request(name: str) -> None:
    status, wire = BAD[name]
    for behind in (b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x81\x80\x00\xff" * 200):
        for step in STEPS:
            assert outcome(wire + behind, step) == status, (step, behind)


@given(st.sampled_from(sorted(BAD)), st.data())
def test_bad_requests_in_random_pieces(name: str, data: st.DataObject) -> None:
    status, wire = BAD[name]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(wire)), max_size=10)))
    parser = RequestParser(**LIMITS)
    refused = None
    try:
        for start, stop in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            parser.feed(wire[start:stop])
    except HttpError as error:
        refused = error.status
    assert refused == status


@pytest.mark.parametrize("step", STEPS)
def test_what_is_just_within_the_limits_is_served(step: int) -> None:
    room = 512 - len(get("X: "))
    assert parse(get("X: " + "a" * room), step, **LIMITS).complete
    with pytest.raises(HttpError, match="431"):
        parse(get("X: " + "a" * (room + 1)), step, **LIMITS)
    assert parse(get(*["a: b"] * 4), step, **LIMITS).complete
    assert parse(get("Content-Length: 64", body=bytes(64)), step, **LIMITS).complete


def test_a_head_that_never_ends_is_refused_at_its_limit() -> None:
    parser = RequestParser(max_head=512)
    feed(parser, b"A" * 511, 1)
    with pytest.raises(HttpError, match="431"):
        parser.feed(b"A")


def test_the_default_limits_are_16_kib_and_100_fields_and_1_mib() -> None:
    assert parse(get(*["a: b"] * 99)).complete
    with pytest.raises(HttpError, match="431 more than 100 header fields"):
        parse(get(*["a: b"] * 100))
    with pytest.raises(HttpError, match="431 head larger than 16384 bytes"):
        parse(get("X: " + "a" * 16384))
    assert not parse(get("Content-Length: 1048576")).complete
    with pytest.raises(HttpError, match="413"):
        parse(get("Content-Length: 1048577"))


class CountingBuffer(bytearray):
    """Counts the bytes that are searched and counted over."""

    looked = 0

    def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        CountingBuffer.looked += (len(self) if end is None else min(end, len(self))) - start
        return super().find(sub, start, len(self) if end is None else end)

    def count(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        CountingBuffer.looked += (len(self) if end is None else end) - start
        return super().count(sub, start, len(self) if end is None else end)


def test_a_head_byte_by_byte_is_looked_at_a_bounded_number_of_times() -> None:
    """No byte is searched again for each byte that follows: a 16 KiB head in single bytes stays linear."""
    parser = RequestParser()
    parser._buffer = CountingBuffer()
    CountingBuffer.looked = 0
    wire = get(*[f"X: {'a' * 150}"] * 90)
    feed(parser, wire, 1)
    assert parser.complete
    assert 0 < CountingBuffer.looked < 10 * len(wire)


def test_what_httptools_refuses_behind_the_last_field_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when our own checks know no reason."""

    class Refusing:
        def __init__(self, protocol: Any) -> None:
            self.protocol = protocol

        def feed_data(self, data: bytes) -> None:
            self.protocol.on_header(b"Host", b"a")
            raise httptools.HttpParserError("no")

    monkeypatch.setattr(httptools, "HttpRequestParser", Refusing)
    with pytest.raises(HttpError, match="400 malformed head"):
        parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")


@given(st.binary(max_size=200), st.integers(1, 60))
def test_any_bytes_end_in_a_request_or_a_refusal(wire: bytes, step: int) -> None:
    assert outcome(wire, step) == outcome(wire, 10**6)


@given(st.text("GET /:%aH ostTP.1\r\n\t,#?\x00ä", max_size=60), st.integers(1, 9))
def test_almost_requests_have_one_outcome_however_they_are_cut(text: str, step: int) -> None:
    wire = b"GET / HTTP/1.1\r\nHost: a\r\n" + text.encode("latin-1") + b"\r\n\r\n"
    assert outcome(wire, step) == outcome(wire, 10**6)


@pytest.mark.parametrize("text", ["a", "a.b:80", "a:", "[::1]:8080", "127.0.0.1", "a_b", "xn--a", "a%20b"])
def test_hosts(text: str) -> None:
    assert is_host(text)


@pytest.mark.parametrize(
    "text", ["", ":80", "a b", "a/b", "a?b", "a#b", "a@b", "[::1", "::1", "a:123456", "a:b", "ä", "a\n"]
)
def test_no_hosts(text: str) -> None:
    assert not is_host(text)


# ---------------------------------------------------------------------- answers

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def answer(wire: bytes, step: int = 10**6, **limits: int) -> ResponseParser:
    parser = ResponseParser(**limits)
    feed(parser, wire, step)
    return parser


@pytest.mark.parametrize("step", STEPS)
def test_an_upgrade_is_answered(step: int) -> None:
    parser = answer(SWITCH + b"\x81\x01a", step)
    head = parser.head
    assert head is not None
    assert (head.version, head.status, head.reason) == ("HTTP/1.1", 101, "Switching Protocols")
    assert head.headers.items() == [("Upgrade", "websocket"), ("Connection", "Upgrade")]
    assert parser.trailing == b"\x81\x01a"


@pytest.mark.parametrize("step", STEPS)
def test_nothing_is_known_before_the_head_is_whole(step: int) -> None:
    parser = answer(SWITCH[:-1], step)
    assert parser.head is None
    assert parser.trailing == b""


@pytest.mark.parametrize("step", STEPS)
def test_interim_answers_are_skipped(step: int) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    parser = answer(early + SWITCH, step)
    assert parser.head is not None
    assert parser.head.status == 101


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("wire", "status", "reason"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 4\r\n\r\nbody", 401, "Unauthorized"),
        (b"HTTP/1.0 302 Found\r\nLocation: /x\r\n\r\n", 302, "Found"),
        (b"HTTP/1.1 200\r\nX: y\r\n\r\n", 200, ""),
        (b"HTTP/1.1 503 Not now, later\r\nX: y\r\n\r\n", 503, "Not now, later"),
        (
            b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            426,
            "Upgrade Required",
        ),
        (b"HTTP/1.1 101 Switching Protocols\r\nX: y\r\n\r\n", 101, "Switching Protocols"),
        (b"HTTP/1.1 401 f\xfcr Sie\r\nDate: S\xe1.\r\n\r\n", 401, "f\xfcr Sie"),
    ],
)
def test_other_answers(wire: bytes, status: int, reason: str, step: int) -> None:
    head = answer(wire, step).head
    assert head is not None
    assert (head.status, head.reason) == (status, reason)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/2.0 200 OK\r\nX: y\r\n\r\n",
        b"HTTP/1.1 99 No\r\nX: y\r\n\r\n",
        b"HTTP/1.1 000 No\r\nX: y\r\n\r\n",
        b"HTTP/1.1 1011 No\r\nX: y\r\n\r\n",
        b"HTTP/1.1  200 OK\r\nX: y\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"ICY 200 OK\r\nX: y\r\n\r\n",
        b"HTTP/1.1 101 S\r\nX : y\r\n\r\n",
        b"HTTP/1.1 101 S\r\nX: \x01\r\n\r\n",
        b"HTTP/1.1 101 S\xe4\x01\r\nX: y\r\n\r\n",
        b"HTTP/1.1 \xb2\xb0\xb0 S\r\nX: y\r\n\r\n",
        b"HTTP/1.1 101 S\r\nX\xe4: y\r\n\r\n",
        b"HTTP/1.1 101 S\r\nX: y\r\n z\r\n\r\n",
        b"HTTP/1.1 101 S\nX: y\n\n",
        b"\r\n\r\n",
        b"HTTP/1.1 101 S\r\n" + b"a: b\r\n" * 6 + b"\r\n",
        b"HTTP/1.1 101 S\r\nX: " + b"a" * 600 + b"\r\n\r\n",
        b"A" * 600,
    ],
)
def test_what_is_no_answer_is_refused(wire: bytes, step: int) -> None:
    with pytest.raises(HandshakeError) as caught:
        answer(wire, step, max_head=512, max_headers=5)
    assert caught.value.status == 502
