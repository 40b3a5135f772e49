"""Overflow: what the connections of one server have too much of, in numbers, and how much may wait for all of them.

What becomes of a single message is decided by a policy (`policy.py`), which counts it here, keeps messages back here,
and enlists here the threads that wait for room.

Everything that ends in `_locked` is called with the lock of the connection's stream.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from gows.codes import CloseCause
from gows.debug import DEBUG, check_owned
from gows.errors import ConnectionClosedError, LoopClosedError, QueueFullError
from gows.protocol.connection import Connection
from gows.reactor import Loop
from gows.reactor.stream import Stream
from gows.reactor.waits import inner_lock
from gows.session.backlog import Backlog

LOOK_INTERVAL = 0.02
"""Seconds between two looks at what waits in all, once that is too much."""
LOOKS = 64
"""The budget is looked at whenever a part of it so small may have been queued: it is exceeded by no more than that."""

OUTCOMES = (
    "refused",
    "blocked",
    "block_timeouts",
    "dropped",
    "dropped_oldest",
    "expired",
    "replaced",
    "closed",
    "over_budget",
)
"""The keys of `Overflow.counts`: what becomes of messages and writes for which there is no room."""


class Sender(Protocol):
    """The sending half of a session, as an overflow policy sees it."""

    stream: Stream
    connection: Connection

    def queue_locked(self, opcode: int, data: bytes, compress: bool) -> bool:
        """Queue a message behind all others. Return whether that was done. Raises what the encoder raises."""

    def send_close_locked(self, code: int, reason: str, cause: CloseCause) -> None:
        """Queue our close frame."""

    def arm(self) -> None:
        """Set the deadline anew. Loop thread."""


class Event(Protocol):
    """What somebody waits for: a `threading.Event`, or its like for a coroutine."""

    def set(self) -> None:
        """Let those who wait go on. Any thread."""


class Overflow:
    """Counts what the connections of one server, or the clients of one loop, have too much of. Any thread.

    `counts` has, since the beginning: messages `refused` (QueueFullError), `dropped` (new ones), `dropped_oldest`,
    `expired` while they were kept back, `replaced` by a newer one with their key; writes that `blocked`, and
    `block_timeouts` of them; connections `closed` for it; and `over_budget`, how many of the messages met the policy
    because of `max_queued`.
    """

    def __init__(self, loop: Loop, max_queued: int | None = None) -> None:
        """`max_queued`: bytes that may wait for all connections of the loop together; None: no limit."""
        if max_queued is not None and (isinstance(max_queued, bool) or not isinstance(max_queued, int)):
            raise TypeError(f"max_queued must be an int, not {type(max_queued).__name__}")
        if max_queued is not None and max_queued < 1:
            raise ValueError(f"max_queued must be 1 or more, not {max_queued}")
        self.max_queued = max_queued
        self.counts = dict.fromkeys(OUTCOMES, 0)
        self.backlogs: dict[Sender, Backlog] = {}
        """Of connections that have one. An entry is its connection's: it changes under the lock of the stream."""
        self.on_drop: Callable[[Any, bytes], object] | None = None
        """Called with the payload of each message that was kept back and is dropped, under the lock of the stream."""
        self._loop = loop
        self._lock = inner_lock("overflow")  # a finaliser or a signal handler may come amid it, and write
        self._notices: dict[Sender, Callable[[], object]] = {}
        self._waiting: dict[Sender, list[Event]] = {}
        self._grown = 0  # bytes since the last look, at most
        self._over = False
        self._next_look = 0.0

    def count(self, outcome: str, number: int = 1) -> None:
        """Add `number` to the count of an outcome."""
        with self._lock:
            self.counts[outcome] += number

    # ------------------------------------------------------------------ the budget

    def total_queued(self) -> int:
        """Return the bytes that wait for all connections of the loop, at about this moment."""
        streams = sum(stream.queued for stream in list(self._loop.streams) if isinstance(stream, Stream))
        return streams + sum(backlog.size for backlog in list(self.backlogs.values()))

    def over_budget(self, size: int) -> bool:
        """Return whether `size` bytes more would be too much for all connections together. They count as queued."""
        if self.max_queued is None:
            return False
        with self._lock:
            self._grown += size
            if self._grown >= self.max_queued // LOOKS or (self._over and self._loop.time() >= self._next_look):
                self._over = self.total_queued() + size > self.max_queued
                self._grown = 0
                self._next_look = self._loop.time() + LOOK_INTERVAL
            return self._over

    # ------------------------------------------------------------------ what is kept back

    def keep_locked(self, sender: Sender, limit: int) -> Backlog:
        """Return the backlog of a connection that has none yet."""
        if DEBUG:
            check_owned(sender.stream.lock)
        on_drop = None if self.on_drop is None else partial(self.on_drop, sender)
        backlog = self.backlogs[sender] = Backlog(limit, on_drop)
        return backlog

    def release_locked(self, sender: Sender, most: int = 1 << 62) -> None:
        """Queue what was kept back, in portions, until the kernel takes no more, or `most` bytes are queued."""
        if DEBUG:
            check_owned(sender.stream.lock)
        backlog = self.backlogs.get(sender)
        if backlog is None:
            return
        stream = sender.stream
        now = self._loop.time()
        try:
            while len(backlog):
                if stream.queued > most:
                    stream.flush_locked()
                    if stream.queued > most:
                        stream.owe_drained_locked()
                        return
                opcode, data, compress, expires = backlog.take()
                if expires <= now:
                    self.count("expired")
                else:
                    sender.queue_locked(opcode, data, compress)
        except (ConnectionClosedError, QueueFullError):  # it is too late for the rest
            backlog.drop()
        del self.backlogs[sender]
        stream.flush_locked()

    # ------------------------------------------------------------------ those that wait

    def enlist_locked(self, sender: Sender, event: Event) -> None:
        """Have `event` set each time when `sender` has room, and when it has ended."""
        if DEBUG:
            check_owned(sender.stream.lock)
        with self._lock:
            self._waiting.setdefault(sender, []).append(event)

    def delist_locked(self, sender: Sender, event: Event) -> None:
        """Forget an event that nobody waits for any more."""
        if DEBUG:
            check_owned(sender.stream.lock)
        with self._lock:
            left = self._waiting[sender]
            left.remove(event)
            if not left:
                del self._waiting[sender]

    def when_room(self, sender: Sender, call: Callable[[], object]) -> bool:
        """Have `call()` called once, with no lock held, when there is room for `sender`, or it ends; asking again
        before that changes nothing. False: it has ended, and nothing is called. Also under the lock of its stream."""
        stream = sender.stream
        with stream.lock:
            if stream.closed:
                return False
            asked = sender in self._notices
            self._notices.setdefault(sender, call)
            if stream.queued:
                stream.owe_drained_locked()
                return True
        if not asked:  # nothing is queued, so nothing would say that there is room
            try:
                self._loop.call_soon(self.wake, sender)
            except LoopClosedError:
                self._notices.pop(sender, None)
                return False
        return True

    def wake(self, sender: Sender) -> None:
        """Tell those who wait for it that `sender` has room, or has ended. Without the lock of its stream."""
        if self._notices:
            call = self._notices.pop(sender, None)
            if call is not None:
                call()
        if self._waiting:
            with self._lock:
                events = list(self._waiting.get(sender, ()))
            for event in events:
                event.set()
