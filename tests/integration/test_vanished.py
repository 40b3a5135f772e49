"""Peers that vanish without FIN: their kernel drops every packet, as when a cable is pulled or the network is gone."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
import time
from collections.abc import Iterator

import pytest

from gows import AcceptOptions, ByteBuffer, CloseCause, Handler, Opcode, Request, Server, WebSocket, accept
from tests.support.raw import RawPeer
from tests.support.waiting import wait_until
from tests.support.wire import PING, PONG, TEXT, frame

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="SO_ATTACH_FILTER is Linux's"),
]

SO_ATTACH_FILTER = 26
INTERVAL, TIMEOUT = 0.6, 0.6


class Held(Handler):
    """Keeps what became of it."""

    def __init__(self) -> None:
        self.ws: WebSocket
        self.ended_at: float | None = None

    def on_open(self, ws: WebSocket) -> None:
        self.ws = ws

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        ws.write_message(opcode, buff)

    def on_close(self, ws: WebSocket) -> None:
        self.ended_at = time.monotonic()


@pytest.fixture
def site() -> Iterator[tuple[Server, list[Held]]]:
    handlers: list[Held] = []
    server = Server(options=AcceptOptions(ping_interval=INTERVAL, ping_timeout=TIMEOUT))

    @server.route("/")
    def hold(request: Request) -> None:
        handlers.append(Held())
        accept(request).serve(handlers[-1])

    server.start("127.0.0.1:0")
    yield server, handlers
    server.stop(1.0)


def drop_all(sock: socket.socket) -> None:
    """From now on the kernel drops every packet for this socket before TCP sees it: nothing is acknowledged (socket(7),
    and the classic BPF program `ret 0`)."""
    code = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(code)))


def test_a_peer_whose_packets_are_dropped_is_closed_in_time(site: tuple[Server, list[Held]]) -> None:
    server, handlers = site
    with RawPeer(server.addresses[0]) as gone, RawPeer(server.addresses[0]) as stays:
        for peer in (gone, stays):
            assert peer.upgrade("/").status == 101
        wait_until(lambda: len(handlers) == 2 and all(hasattr(handler, "ws") for handler in handlers))
        drop_all(gone.sock)
        vanished_at = time.monotonic()
        while handlers[0].ended_at is None:
            assert time.monotonic() < vanished_at + 20
            found = stays.read()
            assert found.opcode == PING
            stays.send(frame(PONG, found.payload))
        assert (handlers[0].ws.close_code, handlers[0].ws.close_cause) == (1006, CloseCause.IDLE)
        assert handlers[1].ended_at is None
        stays.send(frame(TEXT, "still here"))
        while (found := stays.read()).opcode == PING:
            pass
        assert found.payload == b"still here"


def test_the_kernel_has_not_told_us(site: tuple[Server, list[Held]]) -> None:
    """The filter does what it says: without a heartbeat the connection would seem alive."""
    server, handlers = site
    server.options.ping_interval = None
    with RawPeer(server.addresses[0]) as gone:
        assert gone.upgrade("/").status == 101
        wait_until(lambda: handlers and hasattr(handlers[0], "ws"))
        drop_all(gone.sock)
        handlers[0].ws.write_string("nobody hears this")
        time.sleep(2 * (INTERVAL + TIMEOUT))
        assert not handlers[0].ws.closed
        gone.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            gone.sock.recv(100)
