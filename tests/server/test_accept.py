"""accept(): what a request is upgraded to, and sockets of a program's own. Other WSGI servers are in
tests/integration."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

import gows
from gows import options
from gows.reactor import Loop, shared_loop
from gows.server import accept as accept_module
from tests.support import wire
from tests.support.raw import RawPeer
from tests.support.stage import Actor, Echo, Stage
from tests.support.waiting import wait_until
from tests.support.wire import DEFLATE, TEXT, Answer, FrameReader, frame

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
    before = options._default
    yield
    options._default = before


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
        with connect(url, origin=Origin("http://other.test")):
            found = 101
    except InvalidStatus as refusal:
        found = refusal.response.status_code
    assert (found, asked) == (status, ["http://other.test"])


def test_extra_headers(serve: MakeServer) -> None:
    with connect(serve(headers=[("Set-Cookie", "a=b"), ("Set-Cookie", "c=d")])) as ws:
        assert ws.response is not None
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
    head = accept_module._wsgi_head(ENVIRON | extra).decode()
    assert head.split("\r\n") == [
        line,
        "Host: example.test",
        "Sec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Upgrade: websocket",
        "",
        "",
    ]


def test_the_head_of_an_environ_tells_of_a_body() -> None:
    assert b"\r\nContent-Length: 5\r\n" in accept_module._wsgi_head(ENVIRON | {"CONTENT_LENGTH": "5"})


# ---------------------------------------------------------------------- what is agreed on


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


def answer_to(stage: Stage, *headers: str, options: gows.AcceptOptions | None = None, extra: Any = None) -> Answer:
    """What a request for an upgrade is answered with."""

    def view(request: gows.Request) -> None:
        gows.accept(request, options, extra).serve(Actor())

    stage.view = view
    guest = stage.connect()
    answer = guest.upgrade(*headers)
    guest.sock.close()
    stage.run_until(lambda: not stage.loop.live_streams)
    return answer


@pytest.mark.parametrize(
    ("ours", "theirs", "chosen"),
    [
        ([], [], None),
        (["chat"], [], None),
        ([], ["chat"], None),
        (["chat"], ["soap"], None),
        (["chat", "soap"], ["soap, chat"], "chat"),
        (["chat", "soap"], ["soap"], "soap"),
        (["chat"], ["soap", "chat"], "chat"),
        (["chat"], ["Chat"], None),
    ],
)
def test_our_best_subprotocol_of_theirs_is_chosen(
    stage: Stage, ours: list[str], theirs: list[str], chosen: str | None
) -> None:
    lines = [f"Sec-WebSocket-Protocol: {value}" for value in theirs]
    answer = answer_to(stage, *lines, options=gows.AcceptOptions(subprotocols=ours))
    assert answer.headers.get("sec-websocket-protocol") == chosen


@pytest.mark.parametrize(
    ("offer", "answered"),
    [
        ("", {"server_no_context_takeover", "client_no_context_takeover"}),
        (
            "; server_max_window_bits=10",
            {"server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits=10"},
        ),
    ],
)
def test_the_offered_compression_is_answered_as_it_was_asked_for(stage: Stage, offer: str, answered: set[str]) -> None:
    answer = answer_to(stage, DEFLATE + offer, options=gows.AcceptOptions(compression=True))
    name, *parameters = answer.headers["sec-websocket-extensions"].split("; ")
    assert name == "permessage-deflate"
    assert set(parameters) == answered


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "a\r\nInjected: yes"},
        {"X": "a\nInjected: yes"},
        {"X": "a\rInjected: yes"},
        {"X\r\nInjected": "yes"},
        {"X": "a\0"},
        {"X": "\xe9"},
        {"X": "\u2028"},
        {"": "a"},
        {"X Y": "a"},
        {"Sec-WebSocket-Accept": "forged"},
        {"sec-websocket-protocol": "forged"},
        {'Sec-WebSocket-Protocol"': "forged"},
        {"Connection": "close"},
        {"Upgrade": "h2c"},
        {"Content-Length": "5"},
        {"Transfer-Encoding": "chunked"},
    ],
)
def test_headers_that_may_not_be_sent(stage: Stage, headers: dict[str, str]) -> None:
    refusals: list[Exception] = []

    def view(request: gows.Request) -> str:
        try:
            gows.accept(request, headers=headers)
        except gows.InvalidHeaderError as error:
            refusals.append(error)
        return "no upgrade"

    stage.view = view
    guest = stage.connect()
    answer = guest.upgrade()
    assert answer.status == 200
    assert "njected" not in answer.text
    assert "forged" not in answer.text
    assert len(refusals) == 1


def test_module_level_defaults(stage: Stage, defaults: None) -> None:
    def view(request: gows.Request) -> None:
        gows.accept(request).serve(Greeter())

    class Greeter(gows.Handler):
        def on_open(self, ws: gows.WebSocket) -> None:
            ws.write_string("x" * 600)
            ws.write_string("x" * 400)

    stage.view = view
    plain = stage.connect()
    assert "sec-websocket-extensions" not in plain.upgrade(DEFLATE).headers
    gows.use_flate(level=9)
    gows.set_min_compress_size(512)
    gows.set_message_buffer_size(100)
    gows.set_frame_read_buffer_size(1000)
    guest = stage.connect()
    assert "sec-websocket-extensions" in guest.upgrade(DEFLATE).headers
    assert [guest.read().rsv, guest.read().rsv] == [4, 0]
    assert gows.default_options().compression_level == 9
    server = gows.Server()
    assert len(server.loop.scratch) == 1000
    server.stop()
    for change, wrong in (
        (gows.use_flate, 10),
        (gows.set_min_compress_size, -1),
        (gows.set_message_buffer_size, 0),
        (gows.set_frame_read_buffer_size, 511),
    ):
        with pytest.raises(ValueError, match="must be"):
            change(wrong)
    assert gows.default_options().compression_level == 9


def test_a_request_is_upgraded_once(stage: Stage) -> None:
    refusals: list[Exception] = []

    def view(request: gows.Request) -> None:
        gows.accept(request).serve(Echo())
        try:
            gows.accept(request)
        except gows.ConnectionClosedError as error:
            refusals.append(error)

    stage.view = view
    guest = stage.connect()
    assert guest.upgrade().status == 101
    guest.send(frame(TEXT, "x"))
    assert guest.text() == "x"
    assert len(refusals) == 1


def test_an_origin_check_that_raises_is_500(stage: Stage) -> None:
    def check(request: gows.Request) -> bool:
        raise RuntimeError("as the test wants it")

    assert answer_to(stage, options=gows.AcceptOptions(check_origin=check)).status == 500
    assert len(stage.log.take()) == 1


def test_a_refused_handshake_can_be_answered_by_the_view(stage: Stage) -> None:
    def view(request: gows.Request) -> gows.Response:
        try:
            gows.accept(request)
        except gows.HandshakeError as error:
            return gows.Response.text(f"my own {error.status}", status=200)
        raise AssertionError

    stage.view = view
    guest = stage.connect()
    assert guest.upgrade("Sec-WebSocket-Version: 8").status == 200


# ---------------------------------------------------------------------- sockets of a program's own


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop(workers=1) as loop:
        loop.start()
        yield loop


class Pair:
    """Two connected sockets: a peer's, and one that a program has accepted."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.peer = RawPeer(listener.getsockname())
            self.sock, _ = listener.accept()

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self.peer.close()
        self.sock.close()


def echoes(peer: RawPeer) -> None:
    """The upgrade succeeded, and the connection is served."""
    peer.send(frame(TEXT, "hello"))
    assert peer.read_text() == "hello"
    peer.send(wire.close(1000))
    peer.expect_close(1000)


@pytest.mark.parametrize("known", [0, 1, 60, None], ids=["nothing", "a byte", "half", "all"])
def test_a_raw_socket_with_part_of_its_head(loop: Loop, known: int | None) -> None:
    with Pair() as pair:
        head = wire.request("/anything", "X: 1")
        known = len(head) if known is None else known
        pair.peer.send(head[known:])
        source = (pair.sock, head[:known]) if known else pair.sock
        ws = gows.accept(source, headers={"X-Extra": "yes"}, loop=loop)
        assert ws.request is not None
        assert ws.request.path == "/anything"
        assert ws.request.headers["x"] == "1"
        ws.serve(Echo())
        answer, _ = pair.peer.read_answer()
        assert (answer.status, answer.headers["x-extra"]) == (101, "yes")
        echoes(pair.peer)


def test_a_raw_socket_whose_head_trickles_in(loop: Loop) -> None:
    with Pair() as pair:

        def send_slowly() -> None:
            for byte in wire.request("/"):
                pair.peer.send(bytes([byte]))

        trickle = threading.Thread(target=send_slowly)
        trickle.start()
        gows.accept(pair.sock, loop=loop).serve(Echo())
        trickle.join()
        assert pair.peer.read_answer()[0].status == 101
        echoes(pair.peer)


def test_a_unix_socket_pair(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    with closing(theirs):
        theirs.sendall(wire.request("/"))
        ws = gows.accept(ours, loop=loop)
        ws.serve(Echo())
        theirs.settimeout(10)
        received = b""
        while b"\r\n\r\n" not in received:
            received += theirs.recv(1000)
        theirs.sendall(frame(TEXT, "hello"))
        assert FrameReader().feed(theirs.recv(1000)) == [(TEXT, b"hello", True, 0)]
    wait_until(lambda: ws.closed)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (wire.request("/", method="POST"), 405),
        (wire.request("/", "Sec-WebSocket-Version: 8"), 426),
        (wire.request("/", without=("sec-websocket-key",)), 400),
        (wire.request("/", "Origin: http://evil.test"), 403),
        (wire.request("/") + frame(TEXT, "early"), 400),
        (b"GET / HTTP/1.1\r\nbad\r\n\r\n", 400),
        (wire.request("/", "X: " + "x" * 20_000), 431),
    ],
)
@pytest.mark.parametrize("given", [False, True], ids=["read from it", "given"])
def test_a_raw_socket_is_told_why_it_is_refused(loop: Loop, head: bytes, status: int, given: bool) -> None:
    with Pair() as pair:
        source: Any = pair.sock
        if given:
            source = (pair.sock, head)
        else:
            pair.peer.send(head)
        with pytest.raises(gows.HandshakeError) as caught:
            gows.accept(source, loop=loop)
        assert caught.value.status == status
        assert pair.peer.read_answer()[0].status == status
        assert pair.peer.drain() == "FIN"
        assert pair.sock.fileno() == -1, "it is the engine's to close"


@pytest.mark.parametrize("part", [b"", wire.request("/")[:50]])
def test_a_raw_socket_whose_peer_leaves(loop: Loop, part: bytes) -> None:
    for way in (RawPeer.close, RawPeer.reset):
        with Pair() as pair:
            pair.peer.send(part)
            way(pair.peer)
            with pytest.raises(gows.ConnectionClosedError):
                gows.accept(pair.sock, loop=loop)
            assert pair.sock.fileno() == -1


@pytest.mark.slow
def test_a_raw_socket_whose_head_does_not_come_in_time(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept_module, "HEAD_TIMEOUT", 0.1)
    with Pair() as pair:
        pair.peer.send(b"GET / HTTP/1.1\r\n")
        with pytest.raises(gows.HandshakeError) as caught:
            gows.accept(pair.sock, loop=loop)
        assert caught.value.status == 408
        assert pair.peer.read_answer()[0].status == 408


def test_a_raw_socket_that_resets_right_after_its_request(loop: Loop) -> None:
    with Pair() as pair:
        pair.peer.send(wire.request("/"))
        ws = gows.accept(pair.sock, loop=loop)
        pair.peer.reset()
        handler = Actor()
        ws.serve(handler)
        wait_until(lambda: "on_close" in handler.calls)
        assert handler.calls == ["on_open", "on_close"]


def test_sockets_of_a_program_live_on_the_loop_of_the_process() -> None:
    with Pair() as pair:
        pair.peer.send(wire.request("/"))
        ws = gows.accept(pair.sock)
        ws.serve(Echo())
        assert ws.context.loop is shared_loop()
        assert pair.peer.read_answer()[0].status == 101
        echoes(pair.peer)
    shared_loop().close()


def test_headers_that_may_not_be_sent_leave_the_socket_alone(loop: Loop) -> None:
    with Pair() as pair:
        with pytest.raises(gows.InvalidHeaderError):
            gows.accept(pair.sock, headers={"Upgrade": "mine"}, loop=loop)
        assert pair.sock.fileno() >= 0


def test_a_tls_socket_cannot_be_taken_over(loop: Loop) -> None:
    with Pair() as pair:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        under_tls = context.wrap_socket(pair.sock, server_side=True, do_handshake_on_connect=False)
        with closing(under_tls), pytest.raises(gows.UsageError):
            gows.accept(under_tls, loop=loop)


@pytest.mark.parametrize("source", [None, object(), "GET", b"GET", 5, (1, 2), (socket, b""), []])
def test_what_cannot_be_accepted(source: Any) -> None:
    with pytest.raises(TypeError, match=r"accept\(\) takes"):
        gows.accept(source)


def test_an_environ_without_a_socket() -> None:
    with pytest.raises(gows.UsageError, match="socket"):
        gows.accept(dict(ENVIRON))


def test_a_request_from_nowhere() -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        request = accept_module._parse(wire.request("/"))
        with pytest.raises(gows.UsageError):
            gows.accept(request)


def test_a_head_that_is_not_whole() -> None:
    with pytest.raises(gows.HandshakeError):
        accept_module._parse(b"GET / HTTP/1.1\r\n")


# ---------------------------------------------------------------------- http.server


class Site(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        if self.path == "/page":
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"page")
            return
        try:
            ws = gows.accept(self, loop=self.server.gows_loop)
        except gows.HandshakeError as error:
            self.send_error(error.status)
            return
        ws.serve(Echo())
        if self.path == "/careless":
            self.wfile.write(b"nobody must see this")

    def log_message(self, format: str, *args: Any) -> None:
        """Not into the test's output."""


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken pipe, where a view wrote to a connection that is not its any more."""


@pytest.fixture
def site(loop: Loop) -> Iterator[Any]:
    server = QuietServer(("127.0.0.1", 0), Site)
    server.gows_loop = loop  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["/ws", "/careless"])
def test_a_request_of_http_server(site: Any, path: str) -> None:
    with RawPeer(site) as peer:
        answer = peer.ask(b"GET /page HTTP/1.1\r\nHost: gows.test\r\n\r\n")
        assert answer.status == 200
    with RawPeer(site) as peer:
        peer.upgrade(path)
        for number in range(3):
            peer.send(frame(TEXT, str(number)))
            assert peer.read_text() == str(number)
        echoes(peer)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (wire.request("/ws", "Sec-WebSocket-Version: 8"), 426),
        (wire.request("/ws", "Origin: http://evil.test"), 403),
        (wire.request("/ws", "X: a\r\n b"), 400),
        (wire.request("/ws", "Content-Length: 5") + b"hello", 400),
    ],
)
def test_a_request_of_http_server_that_is_refused(site: Any, head: bytes, status: int) -> None:
    with RawPeer(site) as peer:
        assert peer.ask(head).status == status


def test_a_connection_of_http_server_that_breaks(site: Any, loop: Loop) -> None:
    with RawPeer(site) as peer:
        peer.upgrade()
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: not loop.live_streams)
