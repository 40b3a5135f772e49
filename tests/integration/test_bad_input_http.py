"""Bad input before the 101: each has its HTTP status, and the server goes on serving others (the `server` fixture)."""

from __future__ import annotations

import base64
import threading

import pytest

from gows import Request, Response
from tests.integration.conftest import MakeServing
from tests.support import wire
from tests.support.serving import Serving
from tests.support.wire import DEFLATE, request


def refused(server: Serving, head: bytes) -> wire.Answer:
    """The answer to `head`, after which the connection must end; no WebSocket may have come of it."""
    with server.connect() as peer:
        answer = peer.ask(head)
        assert peer.read_end() == "FIN"
    assert answer.status != 101
    assert answer.headers["connection"].startswith("close")
    assert not server.handlers
    return answer


# ---------------------------------------------------------------------- sizes and time


def test_head_too_large(server: Serving) -> None:
    assert refused(server, request("/ws", "X: " + "a" * 17000)).status == 431


def test_head_too_large_that_never_ends(server: Serving) -> None:
    assert refused(server, b"GET /ws HTTP/1.1\r\n" + b"X: " + b"a" * 16384).status == 431


def test_request_line_too_long(server: Serving) -> None:
    assert refused(server, request("/ws?" + "a" * 17000)).status == 414


def test_too_many_headers(server: Serving) -> None:
    assert refused(server, request("/ws", *(f"X-{i}: 1" for i in range(96)))).status == 431


def test_as_many_headers_as_may_be(server: Serving) -> None:
    with server.connect() as peer:
        peer.upgrade("/ws", *(f"X-{i}: 1" for i in range(95)))


@pytest.mark.slow
@pytest.mark.parametrize("begun", [b"", b"G", b"GET /ws HTTP/1.1\r\nHost: gows.test\r\nX: "])
def test_head_that_is_not_complete_in_time(make_serving: MakeServing, begun: bytes) -> None:
    server = make_serving(head_timeout=0.1)
    with server.connect() as peer:
        peer.send(begun)
        if begun:
            assert peer.read_answer()[0].status == 408
        assert peer.read_end() == "FIN"  # who said nothing is not told anything


@pytest.mark.slow
def test_slowloris_gains_nothing_by_its_trickle(make_serving: MakeServing) -> None:
    server = make_serving(head_timeout=0.3)
    with server.connect() as peer:
        peer.send(b"GET /ws HTTP/1.1\r\nHost: gows.test\r\n")
        peer.sock.settimeout(0.02)
        lines = 0
        while True:
            peer.send(b"X: 1\r\n")
            lines += 1
            try:
                answer, _ = peer.read_answer()
                break
            except TimeoutError:
                assert lines < 95, "it is kept for ever"
        assert answer.status == 408


# ---------------------------------------------------------------------- what a head must have


@pytest.mark.parametrize(
    "host",
    [
        (),
        ("Host: gows.test", "Host: gows.test"),
        ("Host: gows.test", "host: other.test"),
        ("Host: ",),
        ("Host: a b",),
        ("Host: a/b",),
        ("Host: user@gows.test",),
        ("Host: gows.test:port",),
    ],
)
def test_no_host_or_two_or_a_malformed_one(server: Serving, host: tuple[str, ...]) -> None:
    assert refused(server, request("/ws", *host, without=("host",))).status == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD", "DELETE"])
def test_wrong_method(server: Serving, method: str) -> None:
    with server.connect() as peer:
        answer = peer.ask(request("/ws", method=method))
    assert answer.status == 405
    assert answer.headers["allow"] == "GET"


def test_method_that_no_route_takes(server: Serving) -> None:
    with server.connect() as peer:
        answer = peer.ask(request("/echo", method="POST"))
    assert answer.status == 405
    assert "GET" in answer.headers["allow"]


def test_method_that_nobody_knows(server: Serving) -> None:
    assert refused(server, request("/ws", method="FETCH")).status == 501


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(((), ("upgrade",)), id="no Upgrade"),
        pytest.param((("Upgrade: h2c",), ()), id="another Upgrade"),
        pytest.param((("Upgrade: websockets",), ()), id="almost websocket"),
        pytest.param(((), ("connection",)), id="no Connection"),
        pytest.param((("Connection: keep-alive",), ()), id="Connection without upgrade"),
        pytest.param((("Connection: upgraded",), ()), id="almost upgrade"),
    ],
)
def test_no_upgrade(server: Serving, headers: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    answer = refused(server, request("/ws", *headers[0], without=headers[1]))
    assert answer.status == 426
    assert answer.headers["upgrade"] == "websocket"


@pytest.mark.parametrize("version", [None, "", "12", "8", "14", "013", "+13", "13, 8", "13.0"])
def test_wrong_version_is_told_the_right_one(server: Serving, version: str | None) -> None:
    headers = () if version is None else (f"Sec-WebSocket-Version: {version}",)
    answer = refused(server, request("/ws", *headers, without=("sec-websocket-version",)))
    assert answer.status == 426
    assert answer.headers["sec-websocket-version"] == "13"
    assert answer.headers["upgrade"] == "websocket"


def test_two_versions(server: Serving) -> None:
    answer = refused(server, request("/ws", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"))
    assert answer.status == 400


@pytest.mark.parametrize(
    ("version", "status"), [("HTTP/1.0", 505), ("HTTP/2.0", 505), ("HTTP/0.9", 505), ("HTTP/1", 400), ("http/1.1", 400)]
)
def test_http_of_another_version(server: Serving, version: str, status: int) -> None:
    assert refused(server, request("/ws", version=version)).status == status


@pytest.mark.parametrize(
    "key",
    [
        pytest.param((), id="missing"),
        pytest.param(("",), id="empty"),
        pytest.param((base64.b64encode(bytes(15)).decode(),), id="15 bytes"),
        pytest.param((base64.b64encode(bytes(17)).decode(),), id="17 bytes"),
        pytest.param((base64.b64encode(bytes(18)).decode(),), id="18 bytes, 24 characters"),
        pytest.param(("dGhlIHNhbXBsZSBub25jZQ",), id="without padding"),
        pytest.param(("dGhlIHNhbXBsZSBub25jZR==",), id="bits behind the 16th byte"),
        pytest.param(("dGhlIHNhbXBsZSBub25j_-==",), id="the other alphabet"),
        pytest.param(("dGhlIHNhbXBsZSBu b25jZQ==",), id="a blank inside"),
        pytest.param(("not base64 at all!!!!!!!",), id="not base64"),
        pytest.param((wire.KEY, wire.KEY), id="two"),
        pytest.param((f"{wire.KEY}, {wire.KEY}",), id="two in one"),
    ],
)
def test_missing_or_malformed_key(server: Serving, key: tuple[str, ...]) -> None:
    headers = [f"Sec-WebSocket-Key: {value}" for value in key]
    assert refused(server, request("/ws", *headers, without=("sec-websocket-key",))).status == 400


@pytest.mark.parametrize(
    ("origins", "status"),
    [
        ((), 101),
        (("http://gows.test",), 101),
        (("HTTP://GOWS.TEST",), 101),
        (("http://gows.test:80",), 101),
        (("http://evil.test",), 403),
        (("http://gows.test.evil.test",), 403),
        (("http://evil.test/gows.test",), 403),
        (("http://gows.test@evil.test",), 403),
        (("http://gows.test:81",), 403),
        (("null",), 403),
        (("",), 403),
        (("file://",), 403),
        (("gows.test",), 403),
        (("http://gows.test", "http://evil.test"), 400),
    ],
)
def test_foreign_origin(server: Serving, origins: tuple[str, ...], status: int) -> None:
    with server.connect() as peer:
        assert peer.ask(request("/ws", *(f"Origin: {origin}" for origin in origins))).status == status


@pytest.mark.parametrize("path", ["/nowhere", "/ws/", "/WS", "//ws", "/ws/../nowhere", "/%00", "/ws%2F"])
def test_unknown_path(server: Serving, path: str) -> None:
    with server.connect() as peer:
        assert peer.ask(request(path)).status == 404


# ---------------------------------------------------------------------- bytes that do not belong there


@pytest.mark.parametrize("byte", ["\0", "\x01", "\x08", "\x0b", "\x0c", "\x1b", "\x1c", "\x7f"])
def test_control_character_in_a_header(server: Serving, byte: str) -> None:
    assert refused(server, request("/ws", f"X: a{byte}b")).status == 400


@pytest.mark.parametrize("byte", ["\x1c", "\xe9"])
@pytest.mark.parametrize("place", ["X{}: b", "Sec-WebSocket-Protocol: chat{}", "Host: gows{}.test"])
def test_non_ascii_or_control_character_in_any_header(server: Serving, place: str, byte: str) -> None:
    assert refused(server, request("/ws", place.format(byte))).status == 400


def test_non_ascii_in_an_origin_is_another_origin(server: Serving) -> None:
    assert refused(server, request("/ws", "Origin: http://gows\xe9.test")).status == 403


def test_a_cookie_of_another_application_breaks_nothing(server: Serving) -> None:
    with server.connect() as peer:
        assert peer.ask(request("/ws", "Cookie: theirs=Zo\xc3\xab\x85; ours=1")).status == 101


@pytest.mark.parametrize("byte", ["\0", "\x0b", "\x7f", "\x85", "\xff", "\t"])
def test_non_ascii_or_control_character_in_the_request_line(server: Serving, byte: str) -> None:
    assert refused(server, request(f"/ws?{byte}")).status == 400


@pytest.mark.parametrize("end", ["\r", "\n", "\r\r\n", "\n\r"])
def test_bare_cr_or_lf(server: Serving, end: str) -> None:
    assert refused(server, request("/ws", f"X: a{end}Y: b")).status == 400


@pytest.mark.parametrize("fold", ["\r\n ", "\r\n\t"])
def test_folded_line(server: Serving, fold: str) -> None:
    assert refused(server, request("/ws", f"X: a{fold}b")).status == 400


@pytest.mark.parametrize("line", ["X : a", " X: a", "X", ": a", "X\x20Y: a", "(X): a"])
def test_malformed_field(server: Serving, line: str) -> None:
    assert refused(server, request("/ws", line)).status == 400


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 5",),
        ("Transfer-Encoding: chunked",),
        ("Transfer-Encoding: identity",),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Content-Length: 0", "Content-Length: 5"),
        ("Content-Length: -1",),
        ("Content-Length: 0x0",),
    ],
)
def test_body_on_an_upgrade(server: Serving, headers: tuple[str, ...]) -> None:
    assert refused(server, request("/ws", *headers) + b"hello").status == 400


def test_body_of_nothing_on_an_upgrade(server: Serving) -> None:
    with server.connect() as peer:
        assert peer.ask(request("/ws", "Content-Length: 0")).status == 101


@pytest.mark.parametrize("protocols", ["a b", "a,,a", "a, a", "(a)", "a;b", 'a, "b"'])
def test_malformed_subprotocols(server: Serving, protocols: str) -> None:
    assert refused(server, request("/ws", f"Sec-WebSocket-Protocol: {protocols}")).status == 400


@pytest.mark.parametrize("extensions", ["a b", ";", "a;", "a; =1", "a; b=", 'a; b="', 'a; b="1 2"', "a; b=1 2", "(a)"])
def test_malformed_extensions(server: Serving, extensions: str) -> None:
    assert refused(server, request("/ws", f"Sec-WebSocket-Extensions: {extensions}")).status == 400


@pytest.mark.parametrize(
    "bits", ["server_max_window_bits=99", "server_max_window_bits", "client_max_window_bits=7", "x=1"]
)
def test_bad_window_bits_are_no_compression(server: Serving, bits: str) -> None:
    with server.connect() as peer:
        answer = peer.upgrade("/ws", f"{DEFLATE}; {bits}")
        assert "sec-websocket-extensions" not in answer.headers


# ---------------------------------------------------------------------- too early


@pytest.mark.parametrize(
    "early", [wire.frame(wire.TEXT, "early"), wire.frame(wire.TEXT, "early")[:1], wire.close(1000)]
)
def test_frames_before_the_101_behind_the_head(server: Serving, early: bytes) -> None:
    assert refused(server, request("/ws") + early).status == 400


@pytest.mark.parametrize("workers", [4], indirect=True)  # inline, nothing is read while the view works
def test_frames_before_the_101_while_the_view_works(server: Serving) -> None:
    begun, go_on = threading.Event(), threading.Event()
    accept = server.view

    def view(request: Request) -> Response | None:
        begun.set()
        assert go_on.wait(10)
        accept(request)
        return None

    server.view = view
    with server.connect() as peer:
        peer.send(request("/ws"))
        assert begun.wait(10)
        with server.connect() as other:
            peer.send(wire.frame(wire.TEXT, "early"))
            other.upgrade("/echo")  # the loop has made a turn since, so it has read that frame
        go_on.set()
        answer, _ = peer.read_answer()
        assert answer.status == 400
        assert peer.read_end() == "FIN"
