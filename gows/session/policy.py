"""Policy: what becomes of a message for a peer that does not take what is written to it.

A write asks for room when more is queued than the `mark` of its policy. Each policy is one class here; one object of it
serves all connections of a context and keeps nothing of any single one. CONTRIBUTING.md says how to add one.

Everything that ends in `_locked` is called with the lock of the connection's stream.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Hashable
from typing import Any

from gows.codes import CloseCause, CloseCode
from gows.debug import DEBUG, check_owned
from gows.errors import QueueFullError
from gows.options import AcceptOptions
from gows.protocol.connection import to_bytes
from gows.protocol.states import TEXT
from gows.reactor import Loop
from gows.reactor.sockets import FRESH
from gows.reactor.stream import Stream
from gows.session.overflow import Overflow, Sender
from gows.session.states import ENDING

MAX_WAIT = 3600.0
"""Seconds that a blocked write waits at a time."""
BUDGET_WAIT = 0.05
"""The same, when others may give room as well."""


def may_wait_locked(stream: Stream) -> bool:
    """Return whether this thread may wait for the peer. The lock is let go meanwhile: if it is still ours then, it was
    held twice, and would be held while we wait."""
    if DEBUG:
        check_owned(stream.lock)
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
        """Find out whether there is room for a message in a queue that is over `mark`, and else apply the policy.

        - `opcode`: 0, if the message is not known yet as a whole, so that it cannot be kept back.
        - `data`: its payload, str or bytes; `compress`, `key`: as the user gave them.
        - `deferred`: bytes that wait for the end of a streamed message and count as queued.
        - `expires`: the loop's time after which the message is not kept any longer.
        - `wait`: whether the caller is the user, for whom "block" may wait.

        True: the message may be queued. False: that is settled, it is kept back or dropped. Raises QueueFullError for
        the policies "refuse" and "block".
        """
        if DEBUG:
            check_owned(sender.stream.lock)
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

    def has_room_locked(self, sender: Sender, size: int) -> bool:
        """Return whether messages of so many bytes may be queued together without asking for room for each."""
        if DEBUG:
            check_owned(sender.stream.lock)
        stream = sender.stream
        return stream.queued + size <= self._high_water and not (stream.queued > self.mark and stream.blocked)

    def decide_locked(self, sender: Sender, size: int, deferred: int, wait: bool) -> bool:
        """Apply the policy to a message of `size` bytes; answer as `make_room_locked`."""
        raise NotImplementedError


class Refuse(Policy):
    """Refuse the message: the write raises QueueFullError ("refuse")."""

    __slots__ = ()

    def decide_locked(self, sender: Sender, size: int, deferred: int, wait: bool) -> bool:
        if DEBUG:
            check_owned(sender.stream.lock)
        self._overflow.count("refused")
        raise QueueFullError(f"{sender.stream.queued + deferred} bytes are queued and the peer does not take them")


class Block(Refuse):
    """Let the thread that writes wait for room; refuse the message if it must not wait ("block")."""

    __slots__ = ()

    def decide_locked(self, sender: Sender, size: int, deferred: int, wait: bool) -> bool:
        if DEBUG:
            check_owned(sender.stream.lock)
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
                event = threading.Event()
                overflow.enlist_locked(sender, event)
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
        if DEBUG:
            check_owned(sender.stream.lock)
        self._overflow.count("dropped")
        return False


class Close(Policy):
    """Close the connection with 1013 ("close")."""

    __slots__ = ()

    def decide_locked(self, sender: Sender, size: int, deferred: int, wait: bool) -> bool:
        if DEBUG:
            check_owned(sender.stream.lock)
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
        if DEBUG:
            check_owned(sender.stream.lock)
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

    def has_room_locked(self, sender: Sender, size: int) -> bool:
        if DEBUG:
            check_owned(sender.stream.lock)
        stream = sender.stream
        most = min(self._high_water, FRESH)
        return stream.queued + size <= most and not stream.blocked and sender not in self._overflow.backlogs


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
