"""The contract of a poller: the same for every selector of the platform and for the one in memory."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from gows.reactor import READ, WRITE, Poller, available_pollers, make_poller
from gows.reactor.poller import SelectorPoller
from tests.support.fakes import MemoryNetwork, MemoryPoller, VirtualClock


@dataclass
class Rig:
    """A poller, and connected pairs of sockets for it to watch."""

    make: Callable[[int], Poller]
    pair: Callable[[], tuple[Any, Any]]
    clock: Callable[[], float]


@pytest.fixture(params=[*available_pollers(), "memory"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    pollers: list[Poller] = []
    socks: list[Any] = []
    network = MemoryNetwork(VirtualClock())

    def make(max_events: int) -> Poller:
        memory = request.param == "memory"
        pollers.append(MemoryPoller(network, max_events) if memory else make_poller(request.param, max_events))
        return pollers[-1]

    def pair() -> tuple[Any, Any]:
        one, other = network.pair() if request.param == "memory" else socket.socketpair()
        if isinstance(one, socket.socket):
            one.setblocking(False)
        socks.extend((one, other))
        return one, other

    yield Rig(make, pair, network.clock if request.param == "memory" else time.monotonic)
    for poller in pollers:
        poller.close()
    for sock in socks:
        sock.close()


def test_reports_what_is_asked_for(rig: Rig) -> None:
    poller = rig.make(16)
    one, other = rig.pair()
    poller.register(one.fileno(), READ)
    assert poller.poll(0) == []
    other.send(b"x")
    assert poller.poll(0) == [(one.fileno(), READ)]
    poller.modify(one.fileno(), WRITE)
    assert poller.poll(0) == [(one.fileno(), WRITE)]
    poller.modify(one.fileno(), READ | WRITE)
    assert poller.poll(0) == [(one.fileno(), READ | WRITE)]
    poller.unregister(one.fileno())
    assert poller.poll(0) == []


def test_reports_again_what_was_not_dealt_with(rig: Rig) -> None:
    poller = rig.make(16)
    one, other = rig.pair()
    poller.register(one.fileno(), READ)
    other.send(b"xy")
    assert poller.poll(0) == poller.poll(0) == [(one.fileno(), READ)]
    one.recv(2)
    assert poller.poll(0) == []


def test_end_of_file_is_readable(rig: Rig) -> None:
    poller = rig.make(16)
    one, other = rig.pair()
    poller.register(one.fileno(), READ)
    other.shutdown(socket.SHUT_WR)
    assert poller.poll(0) == [(one.fileno(), READ)]


def test_a_bounded_batch_is_fair(rig: Rig) -> None:
    """Ten are always ready, three fit in a batch: within four batches each was reported."""
    poller = rig.make(3)
    descriptors = set()
    for _ in range(10):
        one, other = rig.pair()
        other.send(b"x")
        poller.register(one.fileno(), READ)
        descriptors.add(one.fileno())
    seen: set[int] = set()
    for _ in range(4):
        batch = poller.poll(0)
        assert len(batch) == 3
        seen |= {fd for fd, _ in batch}
    assert seen == descriptors


@pytest.mark.parametrize("timeout", [0.0004, 0.0101])
def test_a_timeout_is_not_cut_short(rig: Rig, timeout: float) -> None:
    poller = rig.make(16)
    one, _ = rig.pair()
    poller.register(one.fileno(), READ)
    before = rig.clock()
    assert poller.poll(timeout) == []
    assert rig.clock() - before >= timeout


class NothingEver(selectors.SelectSelector):
    """Notes how long it is asked to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.timeouts: list[float | None] = []

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.timeouts.append(timeout)
        return []


def test_a_selector_is_asked_for_whole_milliseconds() -> None:
    selector = NothingEver()
    poller = SelectorPoller("nothing", selector, 1)
    for timeout in (0.0004, 0.0101, 0.0, 2, None):
        assert poller.poll(timeout) == []
    assert selector.timeouts == [0.001, 0.011, 0, 2, None]
    poller.close()


def test_watching_twice_is_an_error(rig: Rig) -> None:
    poller = rig.make(16)
    one, _ = rig.pair()
    poller.register(one.fileno(), READ)
    with pytest.raises((OSError, KeyError)):
        poller.register(one.fileno(), READ)


def test_what_is_not_watched_cannot_be_changed(rig: Rig) -> None:
    poller = rig.make(16)
    one, _ = rig.pair()
    with pytest.raises((OSError, KeyError)):
        poller.modify(one.fileno(), READ)
    with pytest.raises((OSError, KeyError)):
        poller.unregister(one.fileno())


def test_closing_twice_is_harmless(rig: Rig) -> None:
    poller = rig.make(16)
    poller.close()
    poller.close()


def test_the_best_comes_first() -> None:
    assert make_poller().name == available_pollers()[0]


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no selector 'eqoll' .* choose from"):
        make_poller("eqoll")


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="max_events"):
        make_poller(max_events=0)


def test_select_says_which_descriptors_it_cannot_watch() -> None:
    """Not at the next poll, which would fail for all of them."""
    poller = make_poller("select")
    one, other = socket.socketpair()
    high = os.dup2(one.fileno(), 1500)
    try:
        with pytest.raises(OSError, match="1024"):
            poller.register(high, READ)
        assert poller.poll(0) == []
    finally:
        poller.close()
        os.close(high)
        one.close()
        other.close()
