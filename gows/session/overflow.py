"""Overflow: what becomes of messages for peers that do not take them, and how much may wait for all peers together."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from gows.errors import LoopClosedError
from gows.reactor import Loop, Stream
from gows.reactor.waits import inner_lock

if TYPE_CHECKING:
    from gows.session.session import Session

LOOK_INTERVAL = 0.02
"""Seconds between two looks at what waits in all, once that is too much."""
LOOKS = 64
"""The budget is looked at whenever a part of it so small may have been queued: it is exceeded by no more than that."""

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

Message = tuple[int, bytes, bool, float]
"""Opcode, payload, whether it may be compressed, and the time after which nobody wants it."""


class Backlog:
    """Whole messages of one connection whose peer takes nothing at present, for the policies "drop_oldest" and
    "latest".

    They are not encoded yet, and nothing of them was sent: so each may be dropped without harm to those that follow,
    also when compression keeps a window between messages (RFC 7692 §7.1.1).
    """

    __slots__ = ("_limit", "_messages", "_most", "_on_drop", "size")

    def __init__(self, limit: int, on_drop: Callable[[bytes], object] | None = None) -> None:
        """`limit`: bytes of payload above which the oldest are dropped; one message may always stay. Of very small
        messages so many are kept as the limit has times 16 bytes, for each takes some 300 here. `on_drop`: called with
        the payload of each that is dropped."""
        self._limit = limit
        self._most = max(limit // 16, 1024)
        self._on_drop = on_drop
        self._messages: OrderedDict[Hashable, Message] = OrderedDict()
        self.size = 0
        """Bytes of payload."""

    def put(self, key: Hashable, message: Message, *, grow: bool = True) -> tuple[int, int]:
        """Add a message; in the place of that with the same key, if there is one. None is the key of none. Without
        `grow`, older ones make way for all of it. How many were (replaced, dropped)."""
        messages = self._messages
        most = self._limit if grow else min(self._limit, self.size)
        size = len(message[1])  # no call within an increment: a signal handler may write amid it
        replaced = None if key is None else messages.get(key)
        if replaced is not None:
            size -= len(replaced[1])
        messages[object() if key is None else key] = message
        self.size += size
        dropped = 0
        while (self.size > most or len(messages) > self._most) and len(messages) > 1:
            _, (_, data, _, _) = messages.popitem(last=False)
            size = len(data)
            self.size -= size
            dropped += 1
            if self._on_drop is not None:
                self._on_drop(data)
        return int(replaced is not None), dropped

    def take(self) -> Message:
        """The oldest; it is no longer here. KeyError when there is none."""
        _, message = self._messages.popitem(last=False)
        size = len(message[1])
        self.size -= size
        return message

    def drop(self) -> None:
        """Drop all that is here."""
        while self._messages:
            data = self.take()[1]
            if self._on_drop is not None:
                self._on_drop(data)

    def __len__(self) -> int:
        return len(self._messages)


class Overflow:
    """What the connections of one server, or the clients of one loop, have too much of. Any thread.

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
        self.backlogs: dict[Session, Backlog] = {}
        """Of connections that have one. An entry is its connection's: it changes under the lock of the stream."""
        self.on_drop: Callable[[Session, bytes], object] | None = None
        """Called with the payload of each message that was kept back and is dropped, under the lock of the stream."""
        self._loop = loop
        self._lock = inner_lock("overflow")  # a finaliser or a signal handler may come amid it, and write
        self._notices: dict[Session, Callable[[], object]] = {}
        self._waiting: dict[Session, list[threading.Event]] = {}
        self._grown = 0  # bytes since the last look, at most
        self._over = False
        self._next_look = 0.0

    def count(self, cause: str, number: int = 1) -> None:
        """So many more in `counts`."""
        with self._lock:
            self.counts[cause] += number

    # ------------------------------------------------------------------ the budget

    def queued(self) -> int:
        """Bytes that wait for all connections of the loop, at about this moment."""
        streams = sum(stream.queued for stream in list(self._loop.streams) if isinstance(stream, Stream))
        return streams + sum(backlog.size for backlog in list(self.backlogs.values()))

    def over_budget(self, size: int) -> bool:
        """Whether `size` bytes more would be too much. They are taken for queued."""
        if self.max_queued is None:
            return False
        with self._lock:
            self._grown += size
            if self._grown >= self.max_queued // LOOKS or (self._over and self._loop.time() >= self._next_look):
                self._over = self.queued() + size > self.max_queued
                self._grown = 0
                self._next_look = self._loop.time() + LOOK_INTERVAL
            return self._over

    # ------------------------------------------------------------------ those that wait

    def enlist(self, session: Session) -> threading.Event:
        """An event that is set when `session` has room, or has ended. Under the lock of its stream."""
        event = threading.Event()
        with self._lock:
            self._waiting.setdefault(session, []).append(event)
        return event

    def delist(self, session: Session, event: threading.Event) -> None:
        """Nobody waits for the event any more."""
        with self._lock:
            left = self._waiting[session]
            left.remove(event)
            if not left:
                del self._waiting[session]

    def when_room(self, session: Session, call: Callable[[], object]) -> bool:
        """Have `call()` called once, with no lock held, when there is room for `session`, or it ends; asking again
        before that changes nothing. False: it has ended, and nothing is called. Also under the lock of its stream."""
        stream = session.stream
        with stream.lock:
            if stream.closed:
                return False
            asked = session in self._notices
            self._notices.setdefault(session, call)
            if stream.queued:
                stream.owe_drained_locked()
                return True
        if not asked:  # nothing is queued, so nothing would say that there is room
            try:
                self._loop.call_soon(self.wake, session)
            except LoopClosedError:
                self._notices.pop(session, None)
                return False
        return True

    def wake(self, session: Session) -> None:
        """It has room, or has ended."""
        if self._notices:
            call = self._notices.pop(session, None)
            if call is not None:
                call()
        if self._waiting:
            with self._lock:
                for event in self._waiting.get(session, ()):
                    event.set()
