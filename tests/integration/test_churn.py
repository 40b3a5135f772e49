"""After very many connections of every kind nothing of them is left: no object, descriptor, timer, thread or buffer."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from gows import AcceptOptions, ByteBuffer, Handler, Opcode, Request, WebSocket
from gows.http.connection import HttpConnection
from gows.http1.head import RequestHead, RequestParser
from gows.protocol.assembly import Assembly
from gows.protocol.connection import Connection
from gows.reactor import Stream
from tests.support import wire
from tests.support.living import living, no_collector
from tests.support.raw import RawPeer
from tests.support.serving import Serving
from tests.support.waiting import wait_until
from tests.support.wire import BINARY, CONTINUE, DEFLATE, PING, TEXT, frame

OF_ONE_CONNECTION = (
    WebSocket,
    Connection,
    Assembly,
    Stream,
    HttpConnection,
    Request,
    RequestHead,
    RequestParser,
    ByteBuffer,
)


class Guest(Handler):
    """Echoes, and does as it is told."""

    opened = 0
    closed = 0

    def __init__(self) -> None:
        self.seen = 0

    def on_open(self, ws: WebSocket) -> None:
        Guest.opened += 1
        ws.data = {"of": "one connection"}

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self.seen += 1
        text = buff.clone_bytes()[:10]
        if text == b"close":
            ws.close_handshake(4000)
        elif text == b"drop":
            ws.close()
        elif text == b"stream":
            with ws.next_writer() as writer:
                writer.write_string("x" * 40_000)
        elif text == b"timeout":
            ws.set_read_timeout(100)
        else:
            ws.write_message(opcode, buff)

    def on_close(self, ws: WebSocket) -> None:
        Guest.closed += 1


def polite(peer: RawPeer) -> None:
    peer.upgrade()
    peer.send(frame(TEXT, "hello"), frame(PING))
    assert {peer.read().payload for _ in range(2)} == {b"hello", b""}
    peer.send(wire.close(1000))
    peer.expect_close(1000)


def compressed(peer: RawPeer) -> None:
    peer.upgrade("/ws", DEFLATE)
    peer.send(frame(TEXT, "x" * 2000))
    assert peer.read().rsv == 4


def asks_for_a_page(peer: RawPeer) -> None:
    for _ in range(2):
        assert peer.ask(b"GET /nowhere HTTP/1.1\r\nHost: gows.test\r\n\r\n").status == 404


def is_refused(peer: RawPeer) -> None:
    peer.ask(wire.request("/ws", "Sec-WebSocket-Version: 8"))


def gives_up_in_its_head(peer: RawPeer) -> None:
    peer.send(b"GET /ws HTTP/1.1\r\nHost:")


def leaves_while_it_is_upgraded(peer: RawPeer) -> None:
    peer.send(wire.request("/ws"))


def leaves_in_a_frame(peer: RawPeer) -> None:
    peer.upgrade()
    peer.send(frame(BINARY, length=100_000), bytes(50_000))


def leaves_in_a_compressed_message(peer: RawPeer) -> None:
    peer.upgrade("/ws", DEFLATE)
    peer.send(frame(TEXT, b"\x4a\xcc", rsv=4, fin=False), frame(CONTINUE, length=10))


def breaks_a_rule(peer: RawPeer) -> None:
    peer.upgrade()
    peer.send(frame(TEXT, "hello"), frame(TEXT, key=None))
    assert peer.read_text() == "hello"
    peer.expect_close(1002)


def is_closed(peer: RawPeer) -> None:
    peer.upgrade()
    peer.send(frame(TEXT, "close"))
    assert peer.read().close_code == 4000
    peer.send(wire.close(4000))


def is_dropped(peer: RawPeer) -> None:
    peer.upgrade()
    peer.send(frame(TEXT, "drop"))
    assert peer.read_end() == "FIN"


def gets_a_stream(peer: RawPeer) -> None:
    peer.upgrade()
    peer.send(frame(TEXT, "stream"), frame(TEXT, "timeout"))
    while not peer.read().fin:
        pass


WAYS: list[Callable[[RawPeer], None]] = [
    polite,
    compressed,
    asks_for_a_page,
    is_refused,
    gives_up_in_its_head,
    leaves_while_it_is_upgraded,
    leaves_in_a_frame,
    leaves_in_a_compressed_message,
    breaks_a_rule,
    is_closed,
    is_dropped,
    gets_a_stream,
]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0


def kept() -> Counter[str]:
    return Counter(type(found).__name__ for found in living(*OF_ONE_CONNECTION, Guest))


def churn(server: Serving, count: int) -> None:
    """So many connections, a few of them at once, each of a way of its own; half of them end with RST."""
    chance = random.Random(count)
    peers: list[RawPeer] = []
    for number in range(count):
        peers.append(server.connect())
        WAYS[number % len(WAYS)](peers[-1])
        if len(peers) > chance.randrange(20):
            for peer in peers:
                (RawPeer.close if chance.random() < 0.5 else RawPeer.reset)(peer)
            peers.clear()
    for peer in peers:
        peer.close()


@pytest.mark.slow
@pytest.mark.parametrize("takeover", [False, True], ids=["", "with context takeover"])
def test_very_many_connections_leave_nothing(module_server: Serving, takeover: bool) -> None:
    server = module_server
    server.options = AcceptOptions(
        compression=True, min_compress_size=0, server_context_takeover=takeover, client_context_takeover=takeover
    )
    server.make_handler = Guest
    server.keeps_handlers = False
    churn(server, 50)  # what is made once is there after this
    server.wait_gone()
    before = descriptors(), threading.active_count()
    Guest.opened = Guest.closed = 0
    with no_collector():
        others = kept()  # of tests that ran before, and of what they left running
        churn(server, 600)
        server.wait_gone()
        wait_until(lambda: Guest.closed == Guest.opened > 350)
        wait_until(lambda: not kept() - others, what=lambda: str(kept() - others))
    assert server.loop.buffers.lent == 0
    wait_until(lambda: server.loop.active_timers == 0)  # that which looks after unfinished messages ends by itself
    assert (descriptors(), threading.active_count()) == before
    assert not server.faults.take()
    server.forget()
