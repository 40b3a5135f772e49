"""MemoryPoller: watches the sockets of a MemoryNetwork, and lets virtual time go by instead of sleeping."""

from __future__ import annotations

import math

from gows.reactor import ERROR, Poller
from gows.reactor.poller import Events
from tests.support.fakes.network import MemoryNetwork


class MemoryPoller(Poller):
    """A poller for one loop.

    With `advances`, `poll` moves the clock to the next arrival or to its timeout when nothing is ready. Without, it
    returns at once and notes in `patience` how long it would have slept: so a World can turn several loops in one
    time.
    """

    name = "memory"

    def __init__(self, network: MemoryNetwork, max_events: int = 512, *, advances: bool = True) -> None:
        self._network = network
        self._max_events = max_events
        self._advances = advances
        self._masks: dict[int, int] = {}
        self._closed = False
        self.patience: float | None = 0.0

    def register(self, fd: int, mask: int) -> None:
        if fd in self._masks:
            raise FileExistsError(f"descriptor {fd} is watched already")
        if fd not in self._network.open:
            raise OSError(9, f"descriptor {fd} is not open")
        self._masks[fd] = mask
        self._network.registered.add(fd)

    def modify(self, fd: int, mask: int) -> None:
        if fd not in self._masks:
            raise FileNotFoundError(f"descriptor {fd} is not watched")
        assert mask, "watching for nothing"
        self._masks[fd] = mask

    def unregister(self, fd: int) -> None:
        if fd not in self._masks:
            raise FileNotFoundError(f"descriptor {fd} is not watched")
        del self._masks[fd]
        self._network.registered.discard(fd)

    def poll(self, timeout: float | None) -> Events:
        assert not self._closed
        ready = self._ready()
        self.patience = 0.0 if ready else timeout
        if ready or timeout == 0 or not self._advances:
            return ready
        clock = self._network.clock
        end = math.inf if timeout is None else clock() + math.ceil(timeout * 1000) / 1000
        while not ready and clock() < end:
            arrival = self._network.next_event()
            until = end if arrival is None else min(end, arrival)
            assert until < math.inf, "nothing is ready, due or under way: this loop would sleep for ever"
            clock.advance_to(until)
            ready = self._ready()
        return ready

    def _ready(self) -> Events:
        ready = []
        for fd, mask in list(self._masks.items()):
            events = self._network.readiness(fd) & (mask | ERROR)
            if events:
                ready.append((fd, events))
        del ready[self._max_events :]
        for fd, _ in ready:  # to the end of the queue, so that the others come first next time
            self._masks[fd] = self._masks.pop(fd)
        return ready

    def close(self) -> None:
        self._closed = True
        self._network.registered -= self._masks.keys()
        self._masks.clear()
