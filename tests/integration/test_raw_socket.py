"""gows.accept on a raw accepted socket, with and without its request head read already."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gows
from gows.http1.head import RequestParser
from gows.reactor import Loop, live_loops, shared_loop
from gows.server import accept as accept_module
from tests.support import wire
from tests.support.raw import RawPeer
from tests.support.serving import Recorder
from tests.support.waiting import wait_until

Outcome = gows.WebSocket | Exception


class Door:
    """A listening socket; `accept` is called for the next connection in a thread, and its outcome kept."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.address: Any = listener.getsockname()
        self.outcomes: list[Outcome] = []
        self._thread: threading.Thread | None = None

    def open(self, accept: Callable[[socket.socket], gows.WebSocket]) -> None:
        def run() -> None:
            sock, _ = self.listener.accept()
            try:
                self.outcomes.append(accept(sock))
            except Exception as error:
                self.outcomes.append(error)

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def outcome(self) -> Outcome:
        assert self._thread is not None
        self._thread.join(10)
        (outcome,) = self.outcomes
        return outcome


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop(workers=1) as loop:
        loop.start()
        yield loop
        wait_until(lambda: loop.live_streams == 0)


@pytest.fixture(params=["tcp", "unix"])
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Door]:
    if request.param == "tcp":
        listener = socket.create_server(("127.0.0.1", 0))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "door"))
        listener.listen()
    with listener:
        listener.settimeout(10)
        yield Door(listener)


def talk(peer: RawPeer, handler: Recorder) -> None:
    """Messages in both directions, and the end."""
    for message in ("hello", "x" * 300_000):
        peer.send(wire.frame(wire.TEXT, message))
        assert peer.read_text() == message
    peer.send(wire.close(4000, "enough"))
    peer.expect_close(4000)
    wait_until(lambda: handler.closes)
    assert (handler.close_code, handler.close_reason) == (4000, "enough")


def test_the_head_is_read_from_it(loop: Loop, door: Door) -> None:
    handler = Recorder()

    def accept(sock: socket.socket) -> gows.WebSocket:
        ws = gows.accept(sock, loop=loop)
        assert ws.request is not None
        assert ws.request.path == "/room"
        ws.serve(handler)
        return ws

    door.open(accept)
    with RawPeer(door.address) as peer:
        request = wire.request("/room")
        peer.send(request[:10])  # it waits for the rest
        answer = peer.ask(request[10:])
        assert (answer.status, answer.headers["sec-websocket-accept"]) == (101, wire.ACCEPT)
        talk(peer, handler)


def test_the_head_was_read_already(loop: Loop, door: Door) -> None:
    handler = Recorder()

    def accept(sock: socket.socket) -> gows.WebSocket:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        options = gows.AcceptOptions(subprotocols=["a", "b"])
        ws = gows.accept((sock, head), options, headers=[("X-Note", "1")], loop=loop)
        ws.serve(handler)
        return ws

    door.open(accept)
    with RawPeer(door.address) as peer:
        answer = peer.ask(wire.request("/room", "Sec-WebSocket-Protocol: c, b"))
        assert answer.headers["sec-websocket-protocol"] == "b"
        assert answer.headers["x-note"] == "1"
        talk(peer, handler)


def test_the_shared_loop_is_where_it_lives_by_default(door: Door) -> None:
    handler = Recorder()
    try:
        door.open(lambda sock: serve(gows.accept(sock), handler))
        with RawPeer(door.address) as peer:
            peer.upgrade("/")
            talk(peer, handler)
        wait_until(lambda: shared_loop().live_streams == 0)
    finally:
        shared_loop().close()


def serve(ws: gows.WebSocket, handler: gows.Handler) -> gows.WebSocket:
    ws.serve(handler)
    return ws


REFUSED = {
    "no upgrade": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 426),
    "POST": (wire.request("/").replace(b"GET", b"POST"), 405),
    "old version": (wire.request("/").replace(b"Version: 13", b"Version: 8"), 426),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "foreign Origin": (wire.request("/", "Origin: http://evil.test"), 403),
    "not HTTP": (b"hello\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "head too large": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000, 431),
    "frames before the 101": (wire.request("/") + wire.frame(wire.TEXT, "too soon"), 400),
    "more than is read, unread at the end": (b"\0" * 500_000, 400),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refusal_is_answered_and_raised(loop: Loop, door: Door, sent: bytes, status: int) -> None:
    door.open(lambda sock: gows.accept(sock, loop=loop))
    with RawPeer(door.address) as peer:
        peer.send(sent)
        answer, body = peer.read_answer()
        assert (answer.status, answer.headers["connection"].partition(",")[0]) == (status, "close")
        assert body
        assert peer.read_end() == "FIN"
    refusal = door.outcome()
    assert isinstance(refusal, gows.HandshakeError)
    assert refusal.status == status
    assert refusal.reason.encode() == body.rstrip()


def test_a_head_that_does_not_come(loop: Loop, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept_module, "HEAD_TIMEOUT", 0.05)
    door.open(lambda sock: gows.accept(sock, loop=loop))
    with RawPeer(door.address) as peer:
        peer.send(b"GET / HTTP/1.1\r\n")
        assert peer.read_answer()[0].status == 408
    refusal = door.outcome()
    assert isinstance(refusal, gows.HandshakeError)
    assert refusal.status == 408


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_a_peer_that_leaves_within_its_head(loop: Loop, door: Door, how: str) -> None:
    door.open(lambda sock: gows.accept(sock, loop=loop))
    peer = RawPeer(door.address)
    peer.send(b"GET / HTTP/1.1\r\n")
    if how == "FIN":
        peer.close()
    else:
        peer.reset()
    assert isinstance(door.outcome(), gows.ConnectionClosedError)


@pytest.mark.parametrize("when", ["before serve", "after serve"])
def test_a_peer_that_leaves_at_once_is_heard(loop: Loop, door: Door, when: str) -> None:
    """Its FIN may be there before the loop has looked at the socket for the first time."""
    handler = Recorder()
    left = threading.Event()

    def accept(sock: socket.socket) -> gows.WebSocket:
        if when == "before serve":
            assert left.wait(10)
        ws = gows.accept(sock, loop=loop)
        ws.serve(handler)
        return ws

    door.open(accept)
    peer = RawPeer(door.address)
    peer.send(wire.request("/"))
    peer.close()
    left.set()
    wait_until(lambda: handler.closes)
    assert handler.close_code == gows.CloseCode.ABNORMAL_CLOSURE


def test_what_is_never_served_is_closed(loop: Loop, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gows.session.session.SERVE_TIMEOUT", 0.1)
    door.open(lambda sock: gows.accept(sock, loop=loop))
    with RawPeer(door.address) as peer:
        peer.upgrade("/")
        assert peer.expect_close(1011).reason == "not served"


def test_an_ssl_socket_cannot_be_taken_over() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        context = ssl.create_default_context()
        sock = context.wrap_socket(ours, server_hostname="x", do_handshake_on_connect=False)
        with sock, pytest.raises(gows.UsageError, match="TLS state of an SSLSocket"):
            gows.accept(sock)
        assert not live_loops()


@pytest.mark.parametrize("source", [None, "environ", 5, (1, 2), (socket, b"", b"")])
def test_what_is_no_source_is_a_type_error(source: Any) -> None:
    with pytest.raises(TypeError, match=r"takes a gows\.Request, a WSGI environ"):
        gows.accept(source)


def test_a_request_without_a_connection() -> None:
    parser = RequestParser()
    parser.feed(wire.request("/"))
    assert parser.head is not None
    with pytest.raises(gows.UsageError, match="did not come by a connection"):
        gows.accept(gows.Request(parser.head))


def test_headers_that_may_not_be_sent_leave_the_socket_alone() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(gows.InvalidHeaderError):
            gows.accept(ours, headers={"Sec-WebSocket-Accept": "x"})
        theirs.sendall(b"still open")
        assert ours.recv(10) == b"still open"
