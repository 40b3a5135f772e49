"""Jobs of a RedisBroker: what waits for its thread, and how many requests may."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gows.brokers.base import Done, Envelope
from gows.session.websocket import WebSocket
from gows.topics.subscriptions import Publication, Since

MOST_REQUESTS = 1024
"""Subscribing and unsubscribing requests of one connection that may wait."""
MOST_WAITING_REQUESTS = 1 << 18
"""… and of all connections."""


class Post(NamedTuple):
    """A publication that waits."""

    number: int
    envelope: Envelope
    body: bytes
    done: Done
    sent_to: str | None = None
    """The incarnation of the server that may have it."""
    sent_at: float = 0.0
    """When it was sent first."""


class Follow(NamedTuple):
    """A connection wants to subscribe to a topic."""

    topic: str
    since: Since
    then: Callable[[list[Publication] | None], object]
    owner: WebSocket | None
    room: int


class Call(NamedTuple):
    """Something that is to be done in its turn, after what was asked for the same connection before."""

    call: Callable[[], object]
    owner: WebSocket | None


class Interest(NamedTuple):
    """There is a subscriber more (1) or less (-1)."""

    topic: str
    change: int


class Release(NamedTuple):
    """A follower was answered: it is a subscriber by now, or it was refused."""

    topic: str


class CatchUp(NamedTuple):
    """Some of a topic was missed."""

    topic: str


class Tell(NamedTuple):
    """Something for other processes."""

    head: str
    body: bytes


Job = Post | Follow | Call | Interest | Release | CatchUp | Tell


class Requests:
    """Counts requests that wait, by connection; the broker's lock guards every call, and nothing is allocated."""

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
