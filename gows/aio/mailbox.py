"""Mailbox: what has come for a subscription of a TopicClient, until the task that iterates over it takes it.

A mailbox that is full stops the reading of the connection, as a slow callback would. But the connection carries more
than that: the answer for which the task waits that should empty the mailbox, or the messages of another subscription.
So the connection is read as long as somebody waits for something of it. A mailbox that gets far too full thereby loses
its oldest messages, and says so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from gows.errors import TopicError, UsageError

MOST = 10_000
"""Messages above which the oldest are dropped: as many as a history may have."""


class TopicMessage(NamedTuple):
    """A message of a topic: `data, topic = message`."""

    data: Any
    """What JSON carries, or bytes."""
    topic: str


Note = tuple[Callable[[Any], object], Any]
"""A function of the user's, and its argument: to be called in the order of the messages."""


class Reading:
    """Whether the connection of one TopicClient is read from. In the thread of its asyncio loop."""

    __slots__ = ("_paused", "_waiting", "full")

    def __init__(self) -> None:
        self.full: set[Mailbox] = set()
        self._waiting = 0
        self._paused: asyncio.Future[None] | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Have the connection read from while the block waits for something of it."""
        self._waiting += 1
        self.look()
        try:
            yield
        finally:
            self._waiting -= 1

    @property
    def pauses(self) -> bool:
        """Whether the connection is not to be read from now."""
        return len(self.full) > 0 and not self._waiting

    def look(self) -> None:
        """Go on reading, if there is a reason by now."""
        if self._paused is not None and not self._paused.done() and not self.pauses:
            self._paused.set_result(None)

    async def pause(self) -> None:
        """Wait as long as the connection is not to be read from."""
        while self.pauses:
            self._paused = asyncio.get_running_loop().create_future()
            try:
                await self._paused
            except asyncio.CancelledError:  # asyncio cancels all tasks when it ends, and this is none of the user's
                return
            finally:
                self._paused = None


class Mailbox:
    """What has come for one subscription, in its order. In the thread of its asyncio loop."""

    __slots__ = ("__weakref__", "_dropped", "_ended", "_error", "_items", "_limit", "_messages", "_reading", "_taker")

    def __init__(self, limit: int, reading: Reading) -> None:
        """`limit`: messages that make it full."""
        self._limit = limit
        self._reading = reading
        self._items: deque[TopicMessage | Note] = deque()
        self._messages = 0
        self._dropped: dict[str, None] = {}
        self._ended = False
        self._error: TopicError | None = None
        self._taker: asyncio.Future[None] | None = None

    def put(self, data: Any, topic: str) -> None:
        """Put a message behind what waits."""
        if self._ended:
            return
        self._items.append(TopicMessage(data, topic))
        self._messages += 1
        if self._messages >= self._limit:
            self._reading.full.add(self)
            while self._messages > max(self._limit, MOST):
                self._drop_oldest()
        self._wake()

    def _drop_oldest(self) -> None:
        for n, item in enumerate(self._items):
            if isinstance(item, TopicMessage):
                self._dropped[item.topic] = None
                self._messages -= 1
                del self._items[n]
                return

    def note(self, fn: Callable[[Any], object], argument: Any) -> None:
        """Have `fn(argument)` called behind the messages that wait."""
        if not self._ended:
            self._items.append((fn, argument))
            self._wake()

    def end(self, error: TopicError | None = None, *, drop: bool = False) -> None:
        """Take nothing more. What waits is still to be had, unless it is to be dropped; then the iteration ends, or
        raises `error`. Only the first call counts."""
        if not self._ended:
            self._ended, self._error = True, error
        if drop:
            self._items.clear()
            self._messages = 0
        self._reading.full.discard(self)
        self._reading.look()
        self._wake()

    def _wake(self) -> None:
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)

    def dropped(self) -> list[str]:
        """Return the topics of messages that were dropped since the last call."""
        if not self._dropped:
            return []
        topics, self._dropped = list(self._dropped), {}
        return topics

    async def get(self) -> TopicMessage | Note | None:
        """Return what comes next; None when there will be nothing. Raises the TopicError with which it ended, and
        UsageError for a second task that waits."""
        if self._taker is not None:
            raise UsageError("another task waits for this subscription: its messages are taken by one at a time")
        while not self._items:
            if self._ended:
                if self._error is not None:
                    raise self._error
                return None
            self._taker = asyncio.get_running_loop().create_future()
            try:
                with self._reading.waiting():
                    await self._taker
            finally:
                self._taker = None
        item = self._items.popleft()
        if isinstance(item, TopicMessage):
            self._messages -= 1
            if self._messages <= self._limit // 2 and self in self._reading.full:
                self._reading.full.discard(self)
                self._reading.look()
        return item
