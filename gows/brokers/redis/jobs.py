"""Jobs: what waits for the broker's thread, and how much may."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from gows.brokers.base import Done, Envelope
from gows.debug import checked_lock
from gows.errors import QueueFullError
from gows.session.websocket import WebSocket
from gows.topics.publication import Publication, Since

MOST_REQUESTS = 1024
"""Subscribing and unsubscribing requests of one connection that may wait."""
MOST_WAITING_REQUESTS = 1 << 18
"""… and of all connections."""


class Post(NamedTuple):
    """Publish a message."""

    number: int
    envelope: Envelope
    body: bytes
    done: Done
    sent_to: str | None = None
    """The incarnation of the server that may have it."""
    sent_at: float = 0.0
    """When it was sent first."""


class Follow(NamedTuple):
    """Let a connection subscribe to a topic."""

    topic: str
    since: Since
    then: Callable[[list[Publication] | None], object]
    owner: WebSocket | None
    room: int


class Call(NamedTuple):
    """Call something after what was asked for the same connection before."""

    call: Callable[[], object]
    owner: WebSocket | None


class Interest(NamedTuple):
    """Count a topic or pattern that has its first subscriber here (1), or has lost the last (-1)."""

    topic: str
    change: int


class Release(NamedTuple):
    """Count a follower no more: it was answered, and is a subscriber by now, or was refused."""

    topic: str


class CatchUp(NamedTuple):
    """Look up what was missed of a topic."""

    topic: str


class PeerMessage(NamedTuple):
    """Send something to other processes."""

    head: str
    body: bytes


Job = Post | Follow | Call | Interest | Release | CatchUp | PeerMessage


class Requests:
    """Counts requests that wait, by connection; the lock of the Mailbox guards every call, and nothing is allocated."""

    __slots__ = ("_by_owner", "_total")

    def __init__(self) -> None:
        self._by_owner: dict[WebSocket | None, int] = {}
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def add(self, owner: WebSocket | None) -> int:
        """Count one more, and return 0; or the limit that forbids it."""
        mine = self._by_owner.get(owner, 0)
        if mine >= MOST_REQUESTS and owner is not None:
            return MOST_REQUESTS
        if self._total >= MOST_WAITING_REQUESTS:
            return MOST_WAITING_REQUESTS
        self._by_owner[owner] = mine + 1
        self._total += 1
        return 0

    def remove(self, owner: WebSocket | None) -> None:
        """Count one less."""
        self._total -= 1
        left = self._by_owner.pop(owner) - 1
        if left:
            self._by_owner[owner] = left


class Mailbox:
    """The jobs of the broker's thread, and what is counted of them. Any thread.

    `lock` guards everything but `jobs`. Nothing is allocated under it: a finaliser that publishes would wait for it.
    """

    def __init__(self) -> None:
        self.lock = checked_lock(threading.RLock, "redis broker")
        self.jobs: deque[Job] = deque()
        self.wake: Callable[[], object] = lambda: None
        """Wakes the broker's thread."""
        self.counts = Counter(refused=0, queued=0, full=0, unknown=0, failed=0, reconnects=0, foreign=0, gaps_found=0)
        self.waiting = 0
        """Bytes of publications that are not acknowledged."""
        self.peer_bytes = 0
        """Bytes for other processes that are not sent."""
        self.peers_missed = False
        """Whether something for other processes was dropped."""
        self.requests = Requests()
        self.is_connected = False
        self.is_closing = False
        self.number = 0
        """That of the last publication."""

    def submit(self, job: Job) -> None:
        """Have the broker's thread do a job."""
        self.jobs.append(job)
        self.wake()

    def request(self, job: Follow | Call) -> None:
        """Submit the request of a connection. Raises QueueFullError when too many wait, of the connection or of all."""
        with self.lock:
            limit = self.requests.add(job.owner)
        if limit:
            raise QueueFullError(f"{limit} requests wait for Redis already; ask again when they are answered")
        self.submit(job)

    def request_done(self, job: Follow | Call) -> None:
        """Count a request no more."""
        with self.lock:
            self.requests.remove(job.owner)

    def peer_message_done(self, job: PeerMessage) -> None:
        """Count the bytes of a message to other processes no more."""
        size = len(job.body)  # no call within a change of a count: a signal handler may publish amid it
        with self.lock:
            self.peer_bytes -= size

    def count_one(self, name: str) -> None:
        """Add one to a count."""
        with self.lock:
            self.counts[name] += 1
