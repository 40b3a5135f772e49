"""The descriptor reserve: accepting stops before it is touched, and goes on when there is room; exactly, in virtual
time."""

from __future__ import annotations

import resource
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from gows.reactor import SocketLayer, Stream, Target
from gows.reactor.listener import Listener
from gows.reactor.reserve import LEAST_CONNECTIONS, Reserve
from gows.reactor.transports import Loop
from tests.support.fakes import MemorySocket, World
from tests.support.fakes.network import FIRST_DESCRIPTOR
from tests.support.recorder import Recorder
from tests.support.stage import Log

ADDRESS = ("10.0.0.1", 80)


class Port:
    """A listener with a reserve; its clients are other processes."""

    def __init__(self, limit: int, size: int) -> None:
        self.world = World(descriptors=limit - FIRST_DESCRIPTOR)
        self.loop: Loop = self.world.loop()
        self.listeners: list[Listener] = []
        self.pauses: list[float] = []
        self.reserve = Reserve(self.loop, self.listeners, size, lambda: self.pauses.append(self.world.clock()))
        self.streams: list[Stream] = []
        self.listeners.append(self.loop.listen(ADDRESS, self._accept))
        self.world.run_for(0)
        self.log = Log()

    def _accept(self, stream: Stream) -> None:
        assert stream.sock is not None
        stream.observer = Recorder(stream)
        self.streams.append(stream)
        self.reserve.accepted(stream.sock.fileno())

    def dial(self, count: int) -> list[MemorySocket]:
        """So many clients more."""
        network = self.world.network
        network.elsewhere = True
        made = [network.dial(Target(socket.AF_INET, ADDRESS))[0] for _ in range(count)]
        network.elsewhere = False
        network.peers += made
        return made

    @property
    def open(self) -> int:
        return FIRST_DESCRIPTOR + self.world.network.taken

    @property
    def waiting(self) -> int:
        return len(self.world.network._listeners[ADDRESS].waiting)

    def close(self) -> None:
        self.log.close()
        self.world.close()


@pytest.fixture
def port() -> Iterator[Port]:
    port = Port(limit=100, size=20)
    yield port
    port.close()


def test_accepting_stops_at_the_reserve_and_goes_on_when_there_is_room(port: Port) -> None:
    before = port.open
    port.dial(100)
    port.world.run_for(0)
    assert port.open == 80
    assert len(port.streams) == 80 - before
    assert port.waiting == 100 - len(port.streams)
    assert len(port.pauses) == 1
    (said,) = port.log.take()
    assert "80 descriptors are open, and 20 kept free" in said
    port.world.run_for(5)
    assert (port.open, len(port.pauses)) == (80, 1)
    waiting = port.waiting
    for stream in port.streams[:3]:
        stream.abort()
    port.world.run_for(1)
    assert (port.open, port.waiting, len(port.pauses)) == (80, waiting - 3, 2)
    assert port.log.take() == [], "it is said once"


def test_the_reserve_is_not_eaten_up_while_low_numbers_come_and_go(port: Port) -> None:
    files = [port.world.network.take_reserve() for _ in range(10)]
    port.dial(200)
    port.world.run_for(0)
    most = 0
    for _ in range(80):
        port.streams.pop(0).abort()
        port.world.run_for(0.3)
        most = max(most, port.open)
    assert most == 80
    for fd in files:  # below all of the connections
        port.world.network.drop_reserve(fd)
        port.world.run_for(0.3)
    assert port.open <= 82, "what others open above the lowest free one is not seen at once, but soon"
    port.log.take()


def test_it_wakes_up_ten_times_a_second_and_no_more(port: Port) -> None:
    port.dial(100)
    port.world.run_for(0)
    port.log.take()
    looks: list[float] = []
    free = port.reserve._free

    def look() -> Any:
        looks.append(port.world.clock())
        return free()

    port.reserve._free = look  # type: ignore[method-assign]
    port.world.run_for(10)
    assert 50 <= len(looks) <= 101
    assert port.waiting


def test_what_others_open_counts(port: Port) -> None:
    network = port.world.network
    files = [network.take_reserve() for _ in range(70)]
    port.dial(20)
    port.world.run_for(0)
    assert port.open == 80
    assert port.waiting
    for fd in files:
        network.drop_reserve(fd)
    port.world.run_for(0.3)
    assert not port.waiting
    port.log.take()


def test_what_others_open_between_two_counts_is_seen_by_the_number(port: Port) -> None:
    network = port.world.network
    port.dial(2)
    port.world.run_for(0)
    assert port.reserve._left > 10
    files = []
    while port.open < 80:
        files.append(network.take_reserve())
    port.dial(2)
    port.world.run_for(0)
    assert (port.waiting, len(port.pauses)) == (1, 1)
    for fd in files:
        network.drop_reserve(fd)
    port.log.take()


def test_when_nothing_at_all_is_left(port: Port) -> None:
    network = port.world.network
    port.dial(10)
    files = []
    while (fd := network.take_reserve()) >= 0:
        files.append(fd)
    network.drop_reserve(files.pop())
    port.world.run_for(0)
    assert len(port.streams) == 1
    port.world.run_for(1)
    assert (len(port.streams), port.waiting) == (1, 9)
    for fd in files:
        network.drop_reserve(fd)
    port.world.run_for(1)
    assert len(port.streams) == 10
    port.log.take()


def test_only_what_it_paused_is_resumed(port: Port) -> None:
    other = port.loop.listen(("10.0.0.1", 81), port._accept)
    port.listeners.append(other)
    other.pause()
    port.dial(90)
    port.world.run_for(0)
    for stream in port.streams:
        stream.abort()
    port.world.run_for(10)
    assert other.paused
    assert not port.listeners[0].paused
    port.log.take()


def test_a_listener_that_was_closed_is_let_go(port: Port) -> None:
    port.dial(90)
    port.world.run_for(0)
    assert port.loop.active_timers == 1
    port.listeners[0].close()
    port.world.run_for(1)
    assert port.loop.active_timers == 0
    port.log.take()


def test_it_is_said_again_after_a_while(port: Port) -> None:
    port.dial(80)
    port.world.run_for(0)
    assert len(port.log.take()) == 1
    for seconds, lines in ((10, 0), (100, 1)):
        for stream in port.streams:
            stream.abort()
        port.world.run_for(seconds)
        assert not port.waiting
        port.dial(80)
        port.world.run_for(0)
        assert port.waiting
        assert len(port.log.take()) == lines


def test_a_limit_that_is_raised_is_seen(port: Port) -> None:
    port.dial(90)
    port.world.run_for(0)
    assert port.waiting
    port.world.network.descriptors = 1000
    port.world.run_for(0.3)
    assert not port.waiting
    port.log.take()


def test_a_low_limit_leaves_some_connections() -> None:
    port = Port(limit=30, size=64)
    port.dial(40)
    port.world.run_for(0)
    assert port.open == LEAST_CONNECTIONS
    port.log.take()
    port.close()


def test_the_limit_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SocketLayer().descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    monkeypatch.setattr("resource.getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert SocketLayer().descriptor_limit() == sys.maxsize
