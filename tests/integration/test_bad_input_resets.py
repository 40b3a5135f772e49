"""Connections that break: RST in every state, peers that vanish from a TLS handshake, peers that never answer. The
server goes on serving others, and every handler hears of the end once (the fixtures)."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable

import pytest
import trustme

from gows import AcceptOptions, ConnectionClosedError, Opcode, Request, WebSocket, accept
from tests.integration.conftest import MakeServing
from tests.support import wire
from tests.support.raw import RawPeer
from tests.support.serving import Recorder, Serving
from tests.support.waiting import wait_until
from tests.support.wire import BINARY, CONTINUE, DEFLATE, TEXT, frame

HEAD = wire.request("/ws")
VANISHING: dict[str, Callable[[RawPeer], None]] = {"FIN": RawPeer.close, "RST": RawPeer.reset}

# ---------------------------------------------------------------------- RST


@pytest.mark.parametrize("sent", [b"", HEAD[:1], HEAD[:60], HEAD[:-1]], ids=["nothing", "a byte", "half", "almost all"])
def test_reset_during_the_head(server: Serving, sent: bytes) -> None:
    with server.connect() as peer:
        peer.send(sent)
        server.assert_serves()  # what was sent is read by now
        peer.reset()


@pytest.mark.parametrize("workers", [4], indirect=True)  # inline, nothing is heard while the view works
@pytest.mark.parametrize("behind", [b"", frame(TEXT, "early")], ids=["quiet", "with a frame before the 101"])
def test_reset_during_the_view(server: Serving, behind: bytes) -> None:
    begun, go_on = threading.Event(), threading.Event()
    accept = server.view
    refusals: list[Exception] = []

    def view(request: Request) -> None:
        begun.set()
        assert go_on.wait(10)
        try:
            accept(request)
        except Exception as error:
            refusals.append(error)
            raise

    server.view = view
    with server.connect() as peer:
        peer.send(HEAD)
        assert begun.wait(10)
        peer.send(behind)
        server.assert_serves()
        peer.reset()
    server.wait_gone(1)  # the bystander is left
    go_on.set()
    wait_until(lambda: refusals)
    assert isinstance(refusals[0], ConnectionClosedError)
    assert not server.handlers


def test_reset_right_behind_the_request(server: Serving) -> None:
    for _ in range(20):
        with server.connect() as peer:
            peer.send(HEAD)
            peer.reset()
    server.wait_gone(1)


def test_reset_right_after_the_101(server: Serving) -> None:
    server.upgraded().reset()
    assert server.wait_closed().close_code == 1006


CUTS = {
    "in a frame's header": frame(TEXT, "x" * 200)[:3],
    "in a frame's key": frame(TEXT, "x" * 200)[:6],
    "in a frame's payload": frame(TEXT, "x" * 200)[:100],
    "in a control frame": frame(wire.PING, "x" * 100)[:50],
    "in a message": frame(TEXT, "one", fin=False),
    "in a message's second frame": frame(TEXT, "one", fin=False) + frame(CONTINUE, "x" * 200)[:50],
    "in a large message": frame(BINARY, length=1 << 20) + bytes(500_000),
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("extensions", [(), (DEFLATE,)], ids=["plain", "deflate"])
@pytest.mark.parametrize("way", VANISHING)
def test_end_in_the_middle(server: Serving, cut: bytes, extensions: tuple[str, ...], way: str) -> None:
    with server.upgraded(*extensions) as peer:
        peer.send(frame(TEXT, "whole"), cut)
        assert peer.read_text() == "whole"
        VANISHING[way](peer)
    handler = server.wait_closed()
    assert handler.messages == [b"whole"]
    assert (handler.close_code, handler.close_reason) == (1006, "")


def test_reset_in_the_middle_of_a_compressed_message(server: Serving) -> None:
    with server.upgraded(DEFLATE) as peer:
        peer.send(frame(TEXT, b"\x4a\xcc", rsv=4, fin=False), frame(wire.PING))
        assert peer.read().opcode == wire.PONG
        peer.reset()
    assert server.wait_closed().close_code == 1006


@pytest.mark.parametrize("way", ["close_handshake", "close"])
def test_reset_after_our_close(server: Serving, way: str) -> None:
    with server.upgraded() as peer:
        wait_until(lambda: server.handlers and server.handler.calls)
        getattr(server.handler.ws, way)()
        if way == "close_handshake":
            assert peer.read().close_code == 1000
        else:
            assert peer.read_end() == "FIN"
        peer.reset()
    assert server.wait_closed().close_code == 1006


class Flood(Recorder):
    """Sends more than the kernel takes."""

    def on_open(self, ws: WebSocket) -> None:
        super().on_open(ws)
        assert ws.stream.sock is not None
        ws.stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ws.write_binary(bytes(250_000))


@pytest.mark.parametrize("way", VANISHING)
def test_end_while_the_queue_is_full(server: Serving, way: str) -> None:
    server.make_handler = Flood
    with server.connect(receive_buffer=4096) as peer:
        peer.send(HEAD)
        wait_until(lambda: server.handlers and server.handler.calls)
        wait_until(lambda: server.handler.ws.buffered >= 100_000)
        VANISHING[way](peer)  # to close with unread bytes is RST too
    handler = server.wait_closed()
    assert handler.close_code == 1006
    assert handler.ws.buffered == 0


class Slow(Recorder):
    """Is at work until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.refused: Exception | None = None

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: object) -> None:
        self.calls.append("on_message")
        self.begun.set()
        assert self.go_on.wait(10)
        try:
            ws.write_text(b"too late")
        except ConnectionClosedError as error:
            self.refused = error
            raise


@pytest.mark.parametrize("workers", [4], indirect=True)
def test_reset_while_the_handler_works(server: Serving) -> None:
    server.make_handler = Slow
    with server.upgraded() as peer:
        peer.send(frame(TEXT, "one"), frame(TEXT, "two"))
        wait_until(lambda: server.handlers)
        handler: Slow = server.handler
        assert handler.begun.wait(10)
        peer.reset()
    server.wait_gone(1)
    assert handler.closes == 0, "not while another callback runs"
    handler.go_on.set()
    server.wait_closed()
    assert isinstance(handler.refused, ConnectionClosedError)
    assert handler.calls == ["on_open", "on_message", "on_close"]


# ---------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server's, client's) contexts."""
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    return server_side, client_side


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


def client_hello(context: ssl.SSLContext) -> bytes:
    """The first flight of a TLS client."""
    outgoing = ssl.MemoryBIO()
    handshake = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        handshake.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("way", VANISHING)
@pytest.mark.parametrize("part", ["nothing", "a byte", "half", "all of it"])
def test_end_during_the_tls_handshake(make_serving: MakeServing, tls: Contexts, part: str, way: str) -> None:
    server = make_serving(ssl_context=tls[0], asked_with={"ssl_context": tls[1]})
    hello = client_hello(tls[1])
    with server.connect() as peer:
        peer.send(hello[: {"nothing": 0, "a byte": 1, "half": len(hello) // 2, "all of it": len(hello)}[part]])
        server.assert_serves()
        assert server.loop.live_streams >= 1
        VANISHING[way](peer)
    server.wait_gone()


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\nHost: gows.test\r\n\r\n", bytes(100), bytes(range(7, 250))])
def test_what_is_not_tls(make_serving: MakeServing, tls: Contexts, garbage: bytes) -> None:
    server = make_serving(ssl_context=tls[0], asked_with={"ssl_context": tls[1]})
    with server.connect() as peer:
        peer.send(garbage)
        assert peer.drain() in ("FIN", "RST")


@pytest.mark.slow
def test_tls_handshake_that_never_ends(make_serving: MakeServing, tls: Contexts) -> None:
    server = make_serving(ssl_context=tls[0], asked_with={"ssl_context": tls[1]}, head_timeout=0.2)
    with server.connect() as peer:
        peer.send(client_hello(tls[1])[:-1])
        assert peer.drain() in ("FIN", "RST")
    server.wait_gone()


@pytest.mark.parametrize("way", VANISHING)
def test_end_under_tls_in_the_middle_of_a_message(make_serving: MakeServing, tls: Contexts, way: str) -> None:
    server = make_serving(ssl_context=tls[0], asked_with={"ssl_context": tls[1]})
    with server.upgraded(ssl_context=tls[1]) as peer:
        peer.send(frame(TEXT, "whole"), CUTS["in a message's second frame"])
        assert peer.read_text() == "whole"
        VANISHING[way](peer)
    assert server.wait_closed().close_code == 1006


# ---------------------------------------------------------------------- silence


@pytest.mark.slow
def test_peer_that_never_answers_our_close(make_serving: MakeServing) -> None:
    server = make_serving(options=AcceptOptions(close_timeout=0.2))
    with server.upgraded() as peer:
        wait_until(lambda: server.handlers and server.handler.calls)
        server.handler.ws.close_handshake(4000, "go")
        assert peer.read().close_code == 4000
        peer.send(frame(TEXT, "I go on talking"), frame(wire.PING))
        assert peer.read_end() == "RST"
        assert server.wait_closed().close_code == 1006
        assert server.handler.messages == []


@pytest.mark.slow
def test_peer_that_is_never_served(make_serving: MakeServing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gows.session.session.SERVE_TIMEOUT", 0.2)
    server = make_serving()
    kept: list[WebSocket] = []
    server.view = lambda request: kept.append(accept(request, server.options))
    with server.upgraded() as peer:
        peer.expect_close(1011)
    assert len(server.faults.take()) == 1
