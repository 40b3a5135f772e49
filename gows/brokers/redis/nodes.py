"""Nodes: the other processes that use the same Redis, and how they hear of each other.

On one channel each process greets the others, and says every three seconds that it is there; ten seconds of silence
count as its end. On the wire: the kind of the message, the sender's name, the name of the receiver ("": all), a line
feed, and, if the kind is `tell`, the data.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gows.brokers.base import BrokerEvents
from gows.brokers.redis.jobs import PeerMessage
from gows.brokers.redis.wire import read_greeting

PEER_TIMEOUT = 10.0
"""Seconds without a word after which another process is taken for dead."""
MOST_PEERS = 4096
"""Processes that are known at a time."""


class Nodes:
    """The other processes that are there. Of the broker's thread, but for `last_seen`."""

    events: BrokerEvents

    def __init__(self, name: str, submit: Callable[[PeerMessage], object]) -> None:
        """`name`: of this process. `submit`: sends a message in its turn."""
        self.name = name
        self._submit = submit
        self.last_seen: dict[str, float] = {}
        """By process: when it said something. Other threads may look who is in it."""

    def greeting(self, kind: str, to: str = "") -> PeerMessage:
        """Return a message of a kind: "hello", "alive" or "bye"."""
        return PeerMessage(f"{kind} {self.name} {to}", b"")

    def data_message(self, data: bytes, to: str | None) -> PeerMessage:
        """Return a message with data for all other processes, or for the process `to`."""
        return PeerMessage(f"tell {self.name} {to or ''}", data)

    def restart_timeouts(self) -> None:
        """Give all processes their time anew: during an outage nothing could be received."""
        now = time.monotonic()
        for name in self.last_seen:
            self.last_seen[name] = now

    def report_all(self) -> None:
        """Say of all processes that they are there, so that all is sent to them again."""
        for name in self.last_seen:
            self.events.on_peer_up(name)

    def drop_silent(self) -> None:
        """Forget the processes that have said nothing for too long."""
        now = time.monotonic()
        for name in [name for name, at in self.last_seen.items() if now - at > PEER_TIMEOUT]:
            self.drop(name)

    def drop(self, name: str) -> None:
        """Forget a process, if it is known."""
        if self.last_seen.pop(name, None) is not None:
            self.events.on_peer_down(name)

    def receive(self, head: str, body: bytes) -> None:
        """Take a message of another process. Raises ValueError for what is not ours."""
        kind, name, to = read_greeting(head)
        if name == self.name:
            return
        if kind == "bye":
            self.drop(name)
            return
        known = name in self.last_seen
        if not known and len(self.last_seen) >= MOST_PEERS:
            raise ValueError(f"more than {MOST_PEERS} processes")
        self.last_seen[name] = time.monotonic()
        if not known or (kind == "hello" and to in ("", self.name)):
            self.events.on_peer_up(name)
        if not known and kind == "alive":  # it was taken for dead, and does not know: have it send everything again
            self._submit(self.greeting("hello", name))
        if kind == "tell" and to in ("", self.name):
            self.events.on_peer_message(name, body)
