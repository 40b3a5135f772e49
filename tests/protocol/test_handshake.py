"""The opening handshake, both roles."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from gows.errors import HandshakeError, HttpError, InvalidHeaderError
from gows.http1.head import RequestHead, RequestParser, ResponseHead, ResponseParser
from gows.protocol.deflate import DeflateOptions, DeflateParams
from gows.protocol.handshake import (
    accept_key,
    check_headers,
    check_request,
    check_response,
    choose_subprotocol,
    new_key,
    request_bytes,
    response_101,
    response_error,
    same_origin,
    status_phrase,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

REQUEST = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def request(line: str = "GET /chat HTTP/1.1", /, **changes: str | None) -> RequestHead:
    """A valid upgrade, with fields changed (`_` for `-`) or, with None, left out."""
    fields: dict[str, str | None] = {**REQUEST, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [line, *(f"{name}: {value}" for name, value in fields.items() if value is not None), "", ""]
    parser = RequestParser()
    parser.feed("\r\n".join(lines).encode())
    assert parser.head is not None
    return parser.head


def refusal(head: RequestHead) -> tuple[int, dict[str, str]]:
    with pytest.raises(HandshakeError) as caught:
        check_request(head)
    return caught.value.status, dict(caught.value.headers)


# ---------------------------------------------------------------------- the server's look at a request


def test_the_example_of_rfc_6455() -> None:
    assert check_request(request()) == KEY
    assert accept_key(KEY) == ACCEPT


@pytest.mark.parametrize(
    "changes",
    [
        {"Upgrade": "WebSocket"},
        {"Upgrade": "h2c, websocket"},
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "upgrade"},
        {"Content-Length": "0"},
        {"Sec_WebSocket_Key": base64.b64encode(bytes(16)).decode()},
        {"Sec_WebSocket_Key": base64.b64encode(b"\xff" * 16).decode()},
    ],
)
def test_an_upgrade_is_an_upgrade(changes: dict[str, str]) -> None:
    assert check_request(request(**changes))


@pytest.mark.parametrize("method", ["POST", "HEAD", "OPTIONS", "PUT"])
def test_wrong_method_is_405(method: str) -> None:
    assert refusal(request(f"{method} / HTTP/1.1")) == (405, {"Allow": "GET"})


def test_http_1_0_is_505() -> None:
    assert refusal(request("GET / HTTP/1.0")) == (505, {})


@pytest.mark.parametrize(
    "changes",
    [
        {"Upgrade": None},
        {"Upgrade": "h2c"},
        {"Upgrade": "websockets"},
        {"Connection": None},
        {"Connection": "close"},
        {"Connection": "keep-alive"},
        {"Upgrade": None, "Connection": None, "Sec_WebSocket_Key": None, "Sec_WebSocket_Version": None},
    ],
)
def test_no_upgrade_is_426(changes: dict[str, str | None]) -> None:
    assert refusal(request(**changes)) == (426, {"Upgrade": "websocket"})


@pytest.mark.parametrize("version", ["8", "7", "0", "14", "013", "13.0", "13, 8", "", "x", None])
def test_wrong_version_is_426_naming_13(version: str | None) -> None:
    expected = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    assert refusal(request(Sec_WebSocket_Version=version)) == (426, expected)


@pytest.mark.parametrize(
    "key",
    [
        None,
        "",
        "a",
        KEY[:-1],
        KEY[:-2],
        KEY + "=",
        KEY[:-3] + "R==",  # the same bytes, not canonical
        KEY.replace("=", ""),
        KEY[:5] + " " + KEY[6:],
        KEY[:5] + "-" + KEY[6:],
        base64.b64encode(bytes(15)).decode(),
        base64.b64encode(bytes(17)).decode(),
        base64.b64encode(bytes(32)).decode(),
        f"{KEY}, {KEY}",
    ],
)
def test_a_key_that_is_not_16_bytes_of_base64_is_400(key: str | None) -> None:
    assert refusal(request(Sec_WebSocket_Key=key)) == (400, {})


# ---------------------------------------------------------------------- subprotocols


@pytest.mark.parametrize(
    ("asked", "offered", "chosen"),
    [
        (None, ["chat"], None),
        ("chat", [], None),
        ("chat", ["chat"], "chat"),
        ("a, chat", ["chat", "a"], "chat"),  # ours, best first
        ("a,\tb", ["x", "b"], "b"),
        ("Chat", ["chat"], None),  # case counts
        (", chat,,", ["chat"], "chat"),  # RFC 9110 §5.6.1.2: empty elements are skipped
        ("", ["chat"], None),
    ],
)
def test_choose_subprotocol(asked: str | None, offered: list[str], chosen: str | None) -> None:
    assert choose_subprotocol(request(Sec_WebSocket_Protocol=asked), offered) == chosen


@pytest.mark.parametrize("asked", ["a b", "a, (b)", "a/b", 'a"', "chat, chat", "a;b"])
def test_a_list_that_is_not_made_of_tokens_is_400(asked: str) -> None:
    with pytest.raises(HandshakeError, match="400 malformed Sec-WebSocket-Protocol"):
        choose_subprotocol(request(Sec_WebSocket_Protocol=asked), ["chat"])


# ---------------------------------------------------------------------- headers of the user


def test_headers_of_the_user_as_pairs() -> None:
    assert check_headers({"Set-Cookie": "a=b"}) == [("Set-Cookie", "a=b")]
    assert check_headers([("Set-Cookie", "a=b"), ("Set-Cookie", "c=d")]) == [
        ("Set-Cookie", "a=b"),
        ("Set-Cookie", "c=d"),
    ]
    assert check_headers(()) == []


@pytest.mark.parametrize(
    "name",
    [
        "Upgrade",
        "upgrade",
        "Connection",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Key",
        "sec-websocket-version",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Extensions",
        "SEC-WEBSOCKET-ANYTHING",
        "Content-Length",
        "Transfer-Encoding",
        "Trailer",
        "TE",
        "Host",
    ],
)
def test_names_of_the_handshake_may_not_be_given(name: str) -> None:
    with pytest.raises(InvalidHeaderError):
        check_headers({name: "x"})


@pytest.mark.parametrize("value", ["a\r\nX-Injected: b", "a\n", "a\r", "a\0", "a\x0bb", "a\x1cb", "a\x85b", "\xe4"])
def test_values_that_could_split_the_answer_may_not_be_given(value: str) -> None:
    for send in (lambda: check_headers({"X": value}), lambda: response_101(KEY, headers={"X": value})):
        with pytest.raises(InvalidHeaderError):
            send()


# ---------------------------------------------------------------------- the server's answers


def test_the_plain_101() -> None:
    assert response_101(KEY) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )


def test_the_101_with_all_there_may_be() -> None:
    wire = response_101(KEY, subprotocol="chat", extensions="permessage-deflate", headers={"Set-Cookie": "a=b"})
    assert wire == response_101(KEY)[:-2] + (
        b"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSet-Cookie: a=b\r\n\r\n"
    )


def test_the_101_with_headers_alone() -> None:
    assert response_101(KEY, headers=[("A", "b")]) == response_101(KEY)[:-2] + b"A: b\r\n\r\n"


def test_a_subprotocol_that_is_no_token_is_not_sent() -> None:
    with pytest.raises(InvalidHeaderError):
        response_101(KEY, subprotocol="a\r\nb")


def test_a_refusal_as_http() -> None:
    assert response_error(HttpError(404, "nothing here", [("X", "y")])) == (
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 13\r\n"
        b"Connection: close\r\nX: y\r\n\r\nnothing here\n"
    )


def test_a_refusal_that_asks_for_an_upgrade_says_so_in_connection() -> None:
    """RFC 9110 §7.8."""
    with pytest.raises(HandshakeError) as caught:
        check_request(request(Sec_WebSocket_Version="8"))
    wire = response_error(caught.value)
    assert wire.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    assert b"\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n" in wire


def test_a_refusal_with_a_header_that_may_not_be_sent_is_not_sent() -> None:
    with pytest.raises(InvalidHeaderError):
        response_error(HttpError(400, "no", [("X", "a\r\nb")]))


def test_what_another_server_answered_may_be_passed_on() -> None:
    """By a view that lets the error of its client pass: there is one length, and one end."""
    fields = [
        ("Content-Length", "99"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "keep-alive"),
        ("Content-Type", "text/html"),
        ("WWW-Authenticate", "Basic"),
        ("X", "f\xfcr"),
    ]
    wire = response_error(HandshakeError(401, "nicht f\xfcr Sie", fields))
    assert wire == (
        b"HTTP/1.1 401 Unauthorized\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 15\r\n"
        b"Connection: close\r\nWWW-Authenticate: Basic\r\nX: f\xfcr\r\n\r\nnicht f\xc3\xbcr Sie\n"
    )


@pytest.mark.parametrize("status", [101, 200, 302, 600, 999])
def test_what_is_no_refusal_is_a_bad_gateway(status: int) -> None:
    assert response_error(HandshakeError(status, "no", [("Location", "/")])).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")


def test_reason_phrases() -> None:
    assert status_phrase(101) == "Switching Protocols"
    assert status_phrase(299) == ""


# ---------------------------------------------------------------------- Origin


@pytest.mark.parametrize(
    ("origin", "host", "secure"),
    [
        (None, "a", False),
        (None, None, False),
        ("http://a", "a", False),
        ("http://A.Example", "a.example", False),
        ("http://a", "A:80", False),
        ("http://a:80", "a", False),
        ("http://a:8080", "a:8080", False),
        ("https://a", "a", True),
        ("https://a:443", "a", True),
        ("https://a", "a:443", True),
        ("https://a", "a", False),  # TLS ended at a proxy
        ("https://a", "a:", False),
        ("wss://a", "a", True),
        ("http://[::1]:8080", "[::1]:8080", False),
        ("http://[::1]", "[::1]", False),
    ],
)
def test_same_origin(origin: str | None, host: str | None, secure: bool) -> None:
    assert same_origin(origin, host, secure)


@pytest.mark.parametrize(
    ("origin", "host", "secure"),
    [
        ("http://evil", "a", False),
        ("http://a.evil", "a", False),
        ("http://evil-a", "a", False),
        ("http://a:81", "a", False),
        ("http://a", "a:8080", False),
        ("http://a", "a", True),  # a page that anybody on the way could have changed
        ("http://a", None, False),
        ("http://a", "", False),
        ("null", "null", False),
        ("", "a", False),
        ("a", "a", False),
        ("//a", "a", False),
        ("file://", "", False),
        ("file://a", "a", False),
        ("chrome-extension://a", "a", False),
        ("http://a/", "a", False),
        ("http://a/path", "a", False),
        ("http://u@a", "a", False),
        ("http://a@evil", "a", False),
        ("http://evil#a", "a", False),
        ("http://a http://evil", "a", False),
        ("http://a\n", "a", False),
        ("http://a:", "a", False),
        ("http://[::1", "[::1", False),
        ("http://[::1]", "[::2]", False),
    ],
)
def test_foreign_origin(origin: str, host: str | None, secure: bool) -> None:
    assert not same_origin(origin, host, secure)


# ---------------------------------------------------------------------- the client's request


def test_keys_are_fresh_and_valid() -> None:
    keys = {new_key() for _ in range(50)}
    assert len(keys) == 50
    for key in keys:
        assert check_request(request(Sec_WebSocket_Key=key)) == key


def test_the_plain_request() -> None:
    assert request_bytes("a:81", "/chat?x=y", KEY) == (
        b"GET /chat?x=y HTTP/1.1\r\nHost: a:81\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )


def test_the_request_with_all_there_may_be_is_understood_by_the_server() -> None:
    parser = RequestParser()
    wire = request_bytes(
        "a",
        "/",
        KEY,
        subprotocols=["chat", "v2"],
        extensions="permessage-deflate",
        origin="http://a",
        headers={"Cookie": "a=b"},
    )
    parser.feed(wire)
    head = parser.head
    assert head is not None
    assert check_request(head) == KEY
    assert choose_subprotocol(head, ["v2"]) == "v2"
    assert head.headers["sec-websocket-extensions"] == "permessage-deflate"
    assert same_origin(head.headers.get("origin"), head.headers.get("host"), False)
    assert head.headers["cookie"] == "a=b"


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "a b"},
        {"host": "a\r\nX: y"},
        {"host": ""},
        {"target": ""},
        {"target": "chat"},
        {"target": "/a b"},
        {"target": "/a\r\n"},
        {"target": "/a#b"},
        {"target": "/\xe4"},
        {"subprotocols": ["a b"]},
        {"subprotocols": ["a", "a"]},
        {"subprotocols": [""]},
        {"origin": "http://a\r\nX: y"},
        {"extensions": "a\nb"},
        {"headers": {"Host": "b"}},
        {"headers": {"Sec-WebSocket-Key": "b"}},
        {"headers": {"X": "a\r\nb"}},
    ],
)
def test_a_request_that_could_be_split_is_not_made(wrong: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"host": "a", "target": "/", "key": KEY, **wrong}
    with pytest.raises(InvalidHeaderError):
        request_bytes(**arguments)


# ---------------------------------------------------------------------- the client's look at an answer


def response(line: str = "HTTP/1.1 101 Switching Protocols", /, *extra: str, **changes: str | None) -> ResponseHead:
    fields: dict[str, str | None] = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": ACCEPT,
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    lines = [line, *(f"{name}: {value}" for name, value in fields.items() if value is not None), *extra, "", ""]
    parser = ResponseParser()
    parser.feed("\r\n".join(lines).encode())
    assert parser.head is not None
    return parser.head


def failure(head: ResponseHead, **offered: Any) -> HandshakeError:
    with pytest.raises(HandshakeError) as caught:
        check_response(head, KEY, **offered)
    return caught.value


def test_a_plain_answer_is_accepted() -> None:
    assert check_response(response(), KEY) == (None, None)
    assert check_response(response(Upgrade="WebSocket", Connection="x, upgrade"), KEY) == (None, None)


def test_what_was_offered_may_be_chosen() -> None:
    head = response(
        Sec_WebSocket_Protocol="v2", Sec_WebSocket_Extensions="permessage-deflate; server_no_context_takeover"
    )
    subprotocol, params = check_response(head, KEY, subprotocols=["v1", "v2"], deflate_options=DeflateOptions())
    assert subprotocol == "v2"
    assert isinstance(params, DeflateParams)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Upgrade": None}, "Upgrade is not websocket"),
        ({"Upgrade": "h2c"}, "Upgrade is not websocket"),
        ({"Connection": None}, "Connection does not name upgrade"),
        ({"Connection": "close"}, "Connection does not name upgrade"),
        ({"Sec_WebSocket_Accept": None}, "does not answer our key"),
        ({"Sec_WebSocket_Accept": accept_key("another")}, "does not answer our key"),
        ({"Sec_WebSocket_Accept": ACCEPT.lower()}, "does not answer our key"),
        ({"Sec_WebSocket_Protocol": "v3"}, "subprotocol that was not offered"),
        ({"Sec_WebSocket_Protocol": "v1, v2"}, "subprotocol that was not offered"),
        ({"Sec_WebSocket_Extensions": "permessage-bzip2"}, "extension that was not offered"),
        ({"Sec_WebSocket_Extensions": "a b"}, "malformed Sec-WebSocket-Extensions"),
    ],
)
def test_a_101_that_is_not_valid_fails(changes: dict[str, str | None], reason: str) -> None:
    error = failure(response(**changes), subprotocols=["v1", "v2"])
    assert error.status == 101
    assert reason in error.reason


@pytest.mark.parametrize("extra", [f"Sec-WebSocket-Accept: {ACCEPT}", "Sec-WebSocket-Protocol: v1"])
def test_a_101_that_says_a_thing_twice_fails(extra: str) -> None:
    error = failure(response("HTTP/1.1 101 S", extra, Sec_WebSocket_Protocol="v1"), subprotocols=["v1"])
    assert error.status == 101
    assert "more than one" in error.reason


def test_compression_that_was_not_offered_fails() -> None:
    assert failure(response(Sec_WebSocket_Extensions="permessage-deflate")).status == 101


def test_a_101_in_http_1_0_fails() -> None:
    assert "HTTP/1.0" in failure(response("HTTP/1.0 101 S")).reason


@pytest.mark.parametrize(
    ("line", "field", "status", "reason"),
    [
        ("HTTP/1.1 302 Found", "Location: /there", 302, "Found"),
        ("HTTP/1.1 401 Unauthorized", "WWW-Authenticate: Basic", 401, "Unauthorized"),
        ("HTTP/1.1 403", "X: y", 403, "Forbidden"),
        ("HTTP/1.1 200 OK", "X: y", 200, "OK"),
    ],
)
def test_another_status_travels_with_the_error(line: str, field: str, status: int, reason: str) -> None:
    error = failure(response(line, field))
    assert (error.status, error.reason) == (status, reason)
    assert tuple(field.split(": ")) in error.headers
