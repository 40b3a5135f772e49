"""accept(): what a request is upgraded to. Where it may come from is in tests/integration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import gows
from gows import upgrade

MakeServer = Callable[..., str]


class Named(gows.Handler):
    def on_open(self, ws: gows.WebSocket) -> None:
        ws.write_string(f"max_message_size {ws.context.options.max_message_size}")


@pytest.fixture
def serve() -> Iterator[MakeServer]:
    """Starts a server whose only route accepts with the given arguments; its URL."""
    servers: list[gows.Server] = []

    def start(*arguments: Any, options: gows.AcceptOptions | None = None, **keywords: Any) -> str:
        server = gows.Server(options=options, workers=1)
        server.add_route("/", lambda request: gows.accept(request, *arguments, **keywords).serve(Named()))
        server.start("127.0.0.1:0")
        servers.append(server)
        return f"ws://127.0.0.1:{server.addresses[0][1]}/"

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def defaults() -> Iterator[None]:
    """The process-wide defaults are put back."""
    yield
    gows.set_origin_check_func(None)
    gows.set_message_buffer_size(gows.AcceptOptions().message_buffer_size)


def size_of(url: str) -> str:
    with connect(url) as ws:
        told = ws.recv(10)
    assert isinstance(told, str)
    return told


def test_options_of_the_call_come_before_those_of_the_server(serve: MakeServer) -> None:
    url = serve(gows.AcceptOptions(max_message_size=1), options=gows.AcceptOptions(max_message_size=2))
    assert size_of(url) == "max_message_size 1"


def test_options_of_the_server_come_before_the_defaults(serve: MakeServer) -> None:
    assert size_of(serve(options=gows.AcceptOptions(max_message_size=2))) == "max_message_size 2"


def test_the_defaults_are_those_of_the_moment(serve: MakeServer, defaults: None) -> None:
    url = serve()
    assert size_of(url) == "max_message_size 1048576"
    gows.set_origin_check_func(lambda request: False)
    with pytest.raises(InvalidStatus), connect(url):
        pass


@pytest.mark.parametrize(("welcome", "status"), [(True, 101), (False, 403)])
def test_a_check_of_ones_own_decides_on_the_origin(serve: MakeServer, welcome: bool, status: int) -> None:
    asked: list[str] = []

    def check(request: gows.Request) -> bool:
        asked.append(request.headers["origin"])
        return welcome

    url = serve(gows.AcceptOptions(check_origin=check))
    try:
        with connect(url, origin="http://other.test") as ws:
            found = ws.response.status_code
    except InvalidStatus as refusal:
        found = refusal.response.status_code
    assert (found, asked) == (status, ["http://other.test"])


def test_extra_headers(serve: MakeServer) -> None:
    with connect(serve(headers=[("Set-Cookie", "a=b"), ("Set-Cookie", "c=d")])) as ws:
        assert ws.response.headers.get_all("Set-Cookie") == ["a=b", "c=d"]


ENVIRON = {
    "REQUEST_METHOD": "GET",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "SCRIPT_NAME": "/app",
    "PATH_INFO": "/caf\xc3\xa9 x",
    "QUERY_STRING": "a=%20b",
    "CONTENT_TYPE": "text/plain",
    "HTTP_HOST": "example.test",
    "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
    "HTTP_UPGRADE": "websocket",
    "wsgi.input": None,
}


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ({}, "GET /app/caf%C3%A9%20x?a=%20b HTTP/1.1"),
        ({"QUERY_STRING": ""}, "GET /app/caf%C3%A9%20x HTTP/1.1"),
        ({"SCRIPT_NAME": "", "PATH_INFO": ""}, "GET /?a=%20b HTTP/1.1"),
        ({"REQUEST_URI": "/sent/as/it/was?x"}, "GET /sent/as/it/was?x HTTP/1.1"),
        ({"RAW_URI": "/sent/as/it/was?x"}, "GET /sent/as/it/was?x HTTP/1.1"),
    ],
)
def test_the_head_that_an_environ_was_made_from(extra: dict[str, str], line: str) -> None:
    head = upgrade._wsgi_head(ENVIRON | extra).decode()
    assert head.split("\r\n") == [
        line,
        "Host: example.test",
        "Sec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Upgrade: websocket",
        "",
        "",
    ]


def test_the_head_of_an_environ_tells_of_a_body() -> None:
    assert b"\r\nContent-Length: 5\r\n" in upgrade._wsgi_head(ENVIRON | {"CONTENT_LENGTH": "5"})
