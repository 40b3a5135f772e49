"""Publishing: what becomes of a message to a topic, in this process and in the others of its server.

Topics of which a history is kept are numbered by one process each, their *home*: all processes find the same one by
hashing, as long as they see each other. It gives every message its position and sends it to all; each process keeps
what it hears, so that whoever missed something is told by the process it has come to. A home that dies takes its
numbering with it: the next one begins another epoch, and clients hear that they may have missed something.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

from gows.fanout import Fanout
from gows.history import History, Keep
from gows.reactor import Loop
from gows.topics import Position, Publication, Subscriptions
from gows.websocket import WebSocket

if TYPE_CHECKING:
    from gows.remote import Remote, RemoteConnection

MOST_MESSAGES = 10_000
"""Of a topic that is kept by time alone."""
MAX_AWAY = 4096
"""Publications of ours that may be on their way to their home, and still leave somebody out."""

Token = tuple[str, int]
"""A process, and the number by which it knows whom a publication of its own leaves out."""
KeepRule = Callable[[str], "Keep | int | timedelta | None"]
Told = Callable[["Position | None", "list[Publication] | None"], object]


def as_keep(value: Keep | int | timedelta | None) -> Keep | None:
    """A number of messages, a time, or both. Raises TypeError and ValueError for anything else."""
    if value is None or isinstance(value, Keep):
        return value
    if isinstance(value, timedelta):
        return Keep(MOST_MESSAGES, value.total_seconds())
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"history is a number of messages, a timedelta or a gows.Keep, not {type(value).__name__}")
    return None if value == 0 else Keep(value)


class Publishing:
    """A server's. Any thread."""

    def __init__(
        self,
        loop: Loop,
        fanout: Fanout,
        subscriptions: Subscriptions,
        history: History,
        keep: KeepRule | None,
        lock: threading.Lock,
    ) -> None:
        """`keep`: how much of a topic is kept where `publish` does not say. `lock`: held while something is given to
        the bus and to the fan-out, so that both have one order."""
        self.remote: Remote | None = None
        self.published = 0
        """Messages that began here."""
        self._loop = loop
        self._fanout = fanout
        self._subscriptions = subscriptions
        self.history = history
        self._keep = keep
        self._lock = lock
        self._tokens = itertools.count(1)
        self._away: OrderedDict[int, WebSocket] = OrderedDict()  # whom a publication leaves out that is with its home

    def publish(
        self,
        publication: Publication,
        ttl: float | None,
        history: Keep | int | timedelta | None,
        exclude: WebSocket | RemoteConnection | None,
    ) -> None:
        """See `Server.publish`."""
        keep = as_keep(history)
        if history is None and self._keep is not None:
            keep = as_keep(self._keep(publication.topic))
        own = exclude if isinstance(exclude, WebSocket) else None
        remote = self.remote
        with self._lock:
            self._fanout.check(publication.bare)
            self.published += 1
            if keep is not None and remote is not None:
                home = home_of(publication.topic, [remote.bus.name, *remote.bus.peers])
                if home != remote.bus.name:
                    token = None if own is None else (remote.bus.name, self._leave_out(own))
                    remote.record(publication, keep, ttl, exclude, token, home)
                    return
            self._spread(publication, keep, ttl, exclude, own, None)

    def record(
        self,
        publication: Publication,
        keep: Keep,
        ttl: float | None,
        exclude: RemoteConnection | None,
        own: WebSocket | None,
        token: Token | None,
    ) -> None:
        """Number a publication of another process, and send it to all but one: `exclude`, which is `own` if it is ours.
        Bus thread."""
        with self._lock:
            self._spread(publication, keep, ttl, exclude, own, token)

    def receive(
        self, publication: Publication, keep: Keep | None, exclude: WebSocket | None, token: Token | None
    ) -> None:
        """A publication comes from another process. Bus thread."""
        with self._lock:
            if token is not None and self.remote is not None and token[0] == self.remote.bus.name:
                exclude = self._away.pop(token[1], exclude)
            if keep is not None:
                self.history.add(publication, keep, self._loop.time())
            self._subscriptions.deliver(publication, self._fanout.send, exclude)

    def subscribe(self, ws: WebSocket, topic: str, since: Position | None, told: Told) -> None:
        """Subscribe, and call `told` with where the topic stands and what came after `since` (None: that is not known),
        before anything that is published later goes out to `ws`. It must not block. Raises as `ws.subscribe`."""
        # without the lock: a user's function may take its time, or publish
        words = self._subscriptions.check_subscribe(ws, topic)
        with self._lock:
            self._subscriptions.add(ws, topic, words)
            missed = None if since is None else self.history.since(topic, since, self._loop.time())
            told(self.history.position(topic), missed)

    # ------------------------------------------------------------------ lock held

    def _spread(
        self,
        publication: Publication,
        keep: Keep | None,
        ttl: float | None,
        exclude: WebSocket | RemoteConnection | None,
        own: WebSocket | None,
        token: Token | None,
    ) -> None:
        if keep is not None:
            publication.position = self.history.number(publication.topic)
        if self.remote is not None:
            self.remote.publish(publication, keep, ttl, exclude, token)
        if keep is not None:
            self.history.add(publication, keep, self._loop.time())
        self._subscriptions.deliver(publication, self._fanout.send, own)

    def _leave_out(self, ws: WebSocket) -> int:
        """A number by which `ws` is known again when the publication comes back."""
        token = next(self._tokens)
        self._away[token] = ws
        if len(self._away) > MAX_AWAY:
            self._away.popitem(last=False)
        return token


def home_of(topic: str, names: Iterable[str]) -> str:
    """The process that numbers a topic: the one of `names` that hashes highest with it (rendezvous hashing), so that
    few topics move when one comes or goes."""
    return max(names, key=lambda name: (hashlib.blake2b(f"{name}\n{topic}".encode(), digest_size=8).digest(), name))


def expiry(loop: Loop, ttl: float | None) -> float:
    """The time, by the loop's clock, at which something expires."""
    return math.inf if ttl is None else loop.time() + ttl
