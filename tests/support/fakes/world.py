"""World: loops, sockets and peers that share one virtual time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gows.reactor import Loop
from tests.support.fakes.clock import VirtualClock
from tests.support.fakes.network import MemoryNetwork
from tests.support.fakes.poller import MemoryPoller


class World:
    """Makes loops, and turns them all in this thread until something holds."""

    def __init__(self, **network_settings: Any) -> None:
        self.clock = VirtualClock()
        self.network = MemoryNetwork(self.clock, **network_settings)
        self.loops: list[Loop] = []
        self._pollers: list[MemoryPoller] = []

    def loop(self, *, max_events: int = 512, **settings: Any) -> Loop:
        """A loop of this world; its tasks run inline."""
        poller = MemoryPoller(self.network, max_events, advances=False)
        loop = Loop(poller=poller, clock=self.clock, sockets=self.network, workers=0, **settings)
        self.loops.append(loop)
        self._pollers.append(poller)
        return loop

    def turn(self) -> bool:
        """One turn of every loop. Whether any had something to do."""
        busy = False
        for loop, poller in zip(self.loops, self._pollers, strict=True):
            busy |= loop.run_once() > 0
            busy |= poller.patience == 0.0
        return busy

    def run_until(self, condition: Callable[[], object], limit: float = 60.0) -> None:
        """Turn until `condition` holds; AssertionError when it does not within `limit` virtual seconds, or cannot
        any more."""
        end = self.clock() + limit
        while not condition():
            if self.turn():
                continue
            assert self.clock() < end, f"not true within {limit:g} virtual seconds"
            wake = self._next_wake()
            assert wake < math.inf, "nothing is ready, due or under way: it can never become true"
            self.clock.advance_to(min(wake, end))

    def run_for(self, seconds: float) -> None:
        """Let `seconds` go by."""
        end = self.clock() + seconds
        while True:
            if self.turn():
                continue
            if self.clock() >= end:
                return
            self.clock.advance_to(min(self._next_wake(), end))

    def close(self) -> None:
        """Close every loop and every peer; nothing may be open then."""
        for loop in self.loops:
            loop.close()
        for peer in self.network.peers:
            peer.close()
        assert not self.network.open, f"descriptors left open: {self.network.open}"

    def _next_wake(self) -> float:
        now = self.clock()
        wakes = [
            now + math.ceil(poller.patience * 1000) / 1000 for poller in self._pollers if poller.patience is not None
        ]
        arrival = self.network.next_event()
        return min([*wakes, math.inf if arrival is None else arrival])
