"""Overflow: what becomes of messages for peers that do not take them, and how much may wait for all peers together.

A write asks for room when more is queued than the `mark` of its policy. Each policy is one class here, a subclass of
`Policy`; one object of it serves all connections of a context and keeps nothing of any single one. CONTRIBUTING.md says
how to add one.

Everything that ends in `_locked` is called with the lock of the connection's stream.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Protocol

from gows.codes import CloseCause, CloseCode
from gows.debug import DEBUG, check_owned
from gows.errors import ConnectionClosedError, LoopClosedError, QueueFullError
from gows.options import AcceptOptions
from gows.protocol.connection import Connection, to_bytes
from gows.protocol.states import TEXT
from gows.reactor import Loop
from gows.reactor.sockets import FRESH
from gows.reactor.stream import Stream
from gows.reactor.waits import inner_lock
from gows.session.backlog import Backlog
from gows.session.states import ENDING

LOOK_INTERVAL = 0.02
"""Seconds between two looks at what waits in all, once that is too much."""
LOOKS = 64
"""The budget is looked at whenever a part of it so small may have been queued: it is exceeded by no more than that."""
MAX_WAIT = 3600.0
"""Seconds that a blocked write waits at a time."""
BUDGET_WAIT = 0.05
"""The same, when others may give room as well."""

CAUSES = (
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
        self.counts = dict.fromkeys(CAUSES, 0)
        self.backlogs: dict[Sender, Backlog] = {}
        """Of connections that have one. An entry is its connection's: it changes under the lock of the stream."""
        self.on_drop: Callable[[Any, bytes], object] | None = None
        """Called with the payload of each message that was kept back and is dropped, under the lock of the stream."""
        self._loop = loop
        self._lock = inner_lock("overflow")  # a finaliser or a signal handler may come amid it, and write
        self._notices: dict[Sender, Callable[[], object]] = {}
        self._waiting: dict[Sender, list[threading.Event]] = {}
        self._grown = 0  # bytes since the last look, at most
        self._over = False
        self._next_look = 0.0

    def count(self, cause: str, number: int = 1) -> None:
        """Add `number` to one of `counts`."""
        with self._lock:
            self.counts[cause] += number

    # ------------------------------------------------------------------ the budget

    def queued(self) -> int:
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
                self._over = self.queued() + size > self.max_queued
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

    def enlist_locked(self, sender: Sender) -> threading.Event:
        """Return an event that is set when `sender` has room, or has ended."""
        if DEBUG:
            check_owned(sender.stream.lock)
        event = threading.Event()
        with self._lock:
            self._waiting.setdefault(sender, []).append(event)
        return event

    def delist_locked(self, sender: Sender, event: threading.Event) -> None:
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
        """Tell those who wait for it that `sender` has room, or has ended. Without the lock of
        its stream."""
        if self._notices:
            call = self._notices.pop(sender, None)
            if call is not None:
                call()
        if self._waiting:
            with self._lock:
                for event in self._waiting.get(sender, ()):
                    event.set()


def may_wait_locked(stream: Stream) -> bool:
    """Return whether this thread may wait for the peer. The lock is let go meanwhile: if it is still ours then, it was
    held twice, and would be held while we wait."""
    lock = stream.lock
    lock.release()
    try:
        return bool(stream.loop.may_wait())
    finally:
        lock.acquire()


class Policy:
    """Decides what becomes of a message for which there is no room. One object for all connections of a context."""

    __slots__ = ("_high_water", "_loop", "_overflow", "_write_timeout", "mark")

    def __init__(self, loop: Loop, overflow: Overflow, options: AcceptOptions) -> None:
        self._loop = loop
        self._overflow = overflow
        self._high_water = options.high_water
        self._write_timeout = options.write_timeout
        self.mark = options.high_water if overflow.max_queued is None else 0
        """Queued bytes above which a write has to ask for room."""

    def make_room_locked(
        self,
        sender: Sender,
        opcode: int,
        data: Any,
        compress: bool,
        key: Hashable,
        deferred: int,
        expires: float,
        wait: bool,
    ) -> bool:
        """With the queue over `mark`: find out whether there is room for a message, and else apply the policy.

        - `opcode`: 0, if the message is not known yet as a whole, so that it cannot be kept back.
        - `data`: its payload, str or bytes; `compress`, `key`: as the user gave them.
        - `deferred`: bytes that wait for the end of a streamed message and count as queued.
        - `expires`: the loop's time after which the message is not kept any longer.
        - `wait`: whether the caller is the user, for whom "block" may wait.

        True: the message may be queued. False: that is settled, it is kept back or dropped. Raises QueueFullError for
        the policies "refuse" and "block".
        """
        stream, overflow = sender.stream, self._overflow
        if sender.connection.state in ENDING:
            return True  # the encoder raises the right error
        if stream.queued + deferred > self._high_water:
            stream.flush_locked()
        if stream.queued + deferred <= self._high_water:
            if not stream.blocked or not overflow.over_budget(len(data)):
                return True
            overflow.count("over_budget")
        if stream.queued:
            stream.owe_drained_locked()  # whoever is refused waits for it, though the queue may be far below the mark
        return self.decide_locked(sender, len(data), deferred, wait)

    def decide_locked(self, sender: Sender, size: int, deferred: int, wait: bool) -> bool:
        """Apply the policy to a message of `size` bytes; answer as `make_room_locked`."""
        raise NotImplementedError


class Refuse(Policy):
    """Refuse the message: the write raises QueueFullError ("refuse")."""

    __slots__ = ()

    def decide_locked(self, sender: Sender, size: int, deferred: int, wait: bool) -> bool:
        self._overflow.count("refused")
        raise QueueFullError(f"{sender.stream.queued + deferred} bytes are queued and the peer does not take them")


class Block(Refuse):
    """Let the thread that writes wait for room; refuse the message if it must not wait ("block")."""

    __slots__ = ()

    def decide_locked(self, sender: Sender, size: int, deferred: int, wait: bool) -> bool:
        if not wait or deferred:
            return Refuse.decide_locked(self, sender, size, deferred, wait)
        stream, overflow, pool = sender.stream, self._overflow, self._loop.pool
        seconds = self._write_timeout
        inside = pool.in_worker()
        if not may_wait_locked(stream) or (inside and not pool.step_aside()):
            overflow.count("refused")
            raise QueueFullError(f"{stream.queued} bytes are queued, and this thread must not wait")
        overflow.count("blocked")
        end = math.inf if seconds is None else time.monotonic() + seconds
        try:
            while not stream.closed and sender.connection.state not in ENDING:
                if stream.queued <= self._high_water and not (stream.blocked and overflow.over_budget(size)):
                    break
                left = end - time.monotonic()
                if left <= 0:
                    overflow.count("block_timeouts")
                    raise QueueFullError(f"the peer took nothing of {stream.queued} bytes for {seconds:g} s")
                if stream.queued:
                    stream.owe_drained_locked()
                event = overflow.enlist_locked(sender)
                stream.lock.release()
                try:
                    # not for ever: if others' queues drain, which gives room as well, this event is not set
                    event.wait(min(left, MAX_WAIT if overflow.max_queued is None else BUDGET_WAIT))
                finally:
                    stream.lock.acquire()
                    overflow.delist_locked(sender, event)
        finally:
            if inside:
                pool.step_back()
        return True


class Drop(Policy):
    """Drop the new message ("drop")."""

    __slots__ = ()

    def decide_locked(self, sender: Sender, size: int, deferred: int, wait: bool) -> bool:
        self._overflow.count("dropped")
        return False


class Close(Policy):
    """Close the connection with 1013 ("close")."""

    __slots__ = ()

    def decide_locked(self, sender: Sender, size: int, deferred: int, wait: bool) -> bool:
        self._overflow.count("closed")
        sender.send_close_locked(CloseCode.TRY_AGAIN_LATER, "too slow", CloseCause.SLOW)
        self._loop.call_soon(sender.arm)
        return False


class DropOldest(Drop):
    """Keep messages back in a Backlog as soon as the kernel takes no more, and drop the oldest there ("drop_oldest").
    A message that is not known as a whole is dropped itself."""

    __slots__ = ("_by_key",)

    def __init__(self, loop: Loop, overflow: Overflow, options: AcceptOptions) -> None:
        Drop.__init__(self, loop, overflow, options)
        self.mark = -1  # always ask
        self._by_key = False

    def make_room_locked(
        self,
        sender: Sender,
        opcode: int,
        data: Any,
        compress: bool,
        key: Hashable,
        deferred: int,
        expires: float,
        wait: bool,
    ) -> bool:
        if not opcode:
            return Drop.make_room_locked(self, sender, opcode, data, compress, key, deferred, expires, wait)
        stream, overflow = sender.stream, self._overflow
        if sender.connection.state in ENDING:
            return True  # the encoder raises the right error
        backlog = overflow.backlogs.get(sender)
        if backlog is None:
            if stream.queued > min(self._high_water, FRESH) and not stream.blocked:
                stream.flush_locked()
            if not stream.blocked:
                return True
            backlog = overflow.keep_locked(sender, self._high_water)
        payload = data.encode() if isinstance(data, str) else to_bytes(data)
        if opcode == TEXT and payload is not data and not isinstance(data, str) and not payload.isascii():
            payload.decode()  # an error belongs to whoever wrote this message
        over = overflow.over_budget(len(payload))
        if over:
            overflow.count("over_budget")
        message = (opcode, payload, compress, expires)
        replaced, dropped = backlog.put(key if self._by_key else None, message, grow=not over)
        if replaced:
            overflow.count("replaced")
        if dropped:
            overflow.count("dropped_oldest", dropped)
        if stream.queued:
            stream.owe_drained_locked()
        return False


class Latest(DropOldest):
    """Keep messages back in the same way, each in the place of one with the same key that still waits ("latest")."""

    __slots__ = ()

    def __init__(self, loop: Loop, overflow: Overflow, options: AcceptOptions) -> None:
        DropOldest.__init__(self, loop, overflow, options)
        self._by_key = True


POLICIES: dict[str, type[Policy]] = {
    "refuse": Refuse,
    "block": Block,
    "drop": Drop,
    "drop_oldest": DropOldest,
    "latest": Latest,
    "close": Close,
}
"""By the names of `AcceptOptions.overflow`."""
