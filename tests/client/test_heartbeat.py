from __future__ import annotations

from collections.abc import Iterator

import pytest

from gows.client import connect
from gows.http.request import Request
from gows.options import AcceptOptions
from gows.reactor.transports import Loop
from gows.server.accept import accept
from gows.server.server import Server
from gows.session.states import INBOX_FULL
from gows.session.websocket import WebSocket
from tests.support.fakes import World
from tests.support.fakes.network import MemorySocket
from tests.support.recording import Recorder
from tests.support.scripted import Peer, ScriptedServer, frame
from tests.support.waiting import wait_until


class PingCounter(Recorder):
    """The server's side: counts what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.pings = 0

    def on_ping(self, ws: WebSocket, data: bytes) -> None:
        self.pings += 1


class Pair:
    """A client and a server in virtual time; only the client asks."""

    def __init__(self, world: World, options: AcceptOptions) -> None:
        self.world = world
        self.theirs, self.ours = PingCounter(), Recorder()
        server = Server(loop=world.loop())
        server.add_route("/", self.view)
        server.listen("10.0.0.1:80")
        connect("ws://10.0.0.1:80/", self.ours, options=options, wait=False, loop=world.loop())
        world.run_until(self.ours.opened.is_set)
        self.ws = self.ours.sockets[0]

    def view(self, request: Request) -> None:
        accept(request, AcceptOptions(ping_interval=None)).serve(self.theirs)

    def cut(self) -> None:
        """From now on nothing arrives, in either direction."""
        sock = self.ws.stream.sock
        assert isinstance(sock, MemorySocket)
        sock.partition()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


TIMEOUTS = [(30.0, 20.0), (10.0, 20.0), (20.0, 20.0), (0.1, 0.1), (30.0, 0.1), (10.0, None)]


@pytest.mark.parametrize(("interval", "timeout"), TIMEOUTS)
def test_who_answers_every_ping_is_alive(interval: float, timeout: float | None, world: World) -> None:
    """The pong comes in the same tenth of a second as the ping went out, and nothing else comes for minutes."""
    pair = Pair(world, AcceptOptions(ping_interval=interval, ping_timeout=timeout))
    world.run_for(20 * interval + 100)
    assert not pair.ws.closed
    assert pair.theirs.pings >= 10
    assert pair.theirs.pings <= (20 * interval + 100) / interval + 1


@pytest.mark.parametrize(("interval", "timeout"), TIMEOUTS[:-1])
def test_who_is_gone_is_missed_in_time(interval: float, timeout: float, world: World) -> None:
    pair = Pair(world, AcceptOptions(ping_interval=interval, ping_timeout=timeout))
    world.run_for(3 * interval)
    pair.cut()
    lost_at = world.clock()
    world.run_until(pair.ours.closed.is_set, limit=200)
    assert timeout <= world.clock() - lost_at + 0.1
    assert world.clock() - lost_at <= interval + timeout + 0.5
    assert pair.ours.calls == ["open", (1006, "ping timeout: nothing came from the peer")]


def test_without_a_timeout_nobody_is_missed_but_pings_go_on(world: World) -> None:
    pair = Pair(world, AcceptOptions(ping_interval=10.0, ping_timeout=None))
    pair.cut()
    world.run_for(105)
    assert not pair.ws.closed
    assert pair.ws.stream.deadline


def test_who_speaks_is_not_pinged(world: World) -> None:
    pair = Pair(world, AcceptOptions(ping_interval=10.0, ping_timeout=5.0))
    for _ in range(20):
        world.run_for(6.0)
        pair.theirs.sockets[0].write_string("here")
    assert not pair.ws.closed
    assert pair.theirs.pings == 0


def test_a_loop_that_was_held_up_reads_before_it_judges(world: World) -> None:
    """The pong has long come, but stands behind more events than one turn takes."""
    pair = Pair(world, AcceptOptions(ping_interval=10.0, ping_timeout=5.0))
    world.run_until(lambda: pair.ws._ping_tick, limit=20)
    pair.ws.stream.pause_reading()
    world.clock.advance(100.0)
    world.run_for(0.5)
    assert not pair.ws.closed
    pair.ws.stream.resume_reading()
    world.run_for(30.0)
    assert not pair.ws.closed


def test_a_deadline_of_the_heartbeat_is_not_one_of_the_close(world: World) -> None:
    """It comes due between the close, as another thread begins it, and the loop's hearing of that."""
    pair = Pair(world, AcceptOptions(ping_interval=10.0, ping_timeout=5.0))
    stream = pair.ws.stream
    pair.ws.close_handshake()
    world.clock.advance((stream.deadline - stream.loop.now()) / 10 + 0.01)
    world.run_until(pair.ours.closed.is_set)
    assert pair.ours.calls == ["open", (1000, "")]


@pytest.mark.slow
def test_the_same_with_real_sockets(loop: Loop) -> None:
    pings = []

    def script(peer: Peer) -> None:
        peer.accept()
        pings.append(peer.read_frame())
        peer.send(frame(10, pings[0][1]))
        pings.append(peer.read_frame())
        peer.wait_end()

    handler = Recorder()
    options = AcceptOptions(ping_interval=0.1, ping_timeout=0.2)
    with ScriptedServer(script) as server:
        connect(server.url, handler, options=options, loop=loop)
        assert handler.closed.wait(10)
    assert [opcode for opcode, _ in pings] == [9, 9]
    assert handler.calls == ["open", (1006, "ping timeout: nothing came from the peer")]


@pytest.mark.slow
def test_a_server_that_is_not_read_from_is_not_taken_for_dead(loop: Loop) -> None:
    """Nothing can come while a full inbox keeps us from reading: neither a pong nor anything else."""
    count = 5000  # more than one read takes

    def script(peer: Peer) -> None:
        peer.accept()
        peer.send(b"".join(frame(1, b"%0120d" % number) for number in range(count)))
        opcode, body = peer.read_frame()
        while opcode == 9:
            peer.send(frame(10, body))  # or a slow machine makes us dead once reading has begun again
            opcode, body = peer.read_frame()
        peer.send(frame(8, body))

    options = AcceptOptions(ping_interval=0.1, ping_timeout=0.7, read_timeout=0.8)
    with ScriptedServer(script) as server:
        with connect(server.url, options=options, loop=loop) as ws:
            wait_until(lambda: ws._flags & INBOX_FULL)
            begun = loop.now()
            wait_until(lambda: loop.now() > begun + 10)  # far beyond each of these timeouts
            assert [int(ws.recv(10)) for _ in range(count)] == list(range(count))
        assert (ws.close_code, ws.close_reason) == (1000, "")
