"""Notices: tells subscribers of gows.v1 who joined a topic and who left, those that come together in one piece.

A thousand clients that come to one topic in a moment are half a million notices: each member hears of each that comes
after it. A notice is a hundred bytes, and a send costs as much as the copy of many of them. So a notice waits for the
next turn of the loop, and as long as earlier ones are still on their way; what has come by then goes to a subscriber in
one piece, 8 KiB at a time. Its messages are the same as if each had gone alone, and those of one topic are in the same
order.

Whom a notice is for is known when it is made: those who are subscribed then. To note them would cost as much as to tell
them. What is noted instead is who comes while notices wait, and how many of them were there before. Who ends its
subscription meanwhile is not told any more.
"""

from __future__ import annotations

from gows.codes import Opcode
from gows.debug import DEBUG, check_owned
from gows.errors import LoopClosedError
from gows.protocol.prepared import PreparedMessage
from gows.reactor import Loop
from gows.reactor.waits import inner_lock
from gows.session.fanout import Fanout, Item
from gows.session.websocket import WebSocket
from gows.topics.names import is_pattern
from gows.topics.publication import About
from gows.topics.subscriptions import Subscriptions

TARGETS_PER_TURN = 4096
"""Subscribers that are looked up in one turn, for so many topics as that takes."""


class Notices:
    """The notices of one process that are not given to its fan-out yet, by topic. Any thread."""

    def __init__(self, loop: Loop, subscriptions: Subscriptions, fanout: Fanout) -> None:
        """`fanout`: sends nothing else."""
        self.waiting = 0
        """Bytes of them."""
        self._loop = loop
        self._subscriptions = subscriptions
        self._fanout = fanout
        self._lock = inner_lock("notices")  # a finaliser or a signal handler may come amid it, and publish
        self._pending: dict[str, _Pending] = {}
        self._scheduled = False

    def add(self, topic: str, event: bytes, exclude: WebSocket | None) -> None:
        """Tell the subscribers of a topic something, but not `exclude`. The publish lock is held. Raises
        QueueFullError, LoopClosedError."""
        message = PreparedMessage(Opcode.TEXT, event)
        size = len(event)
        with self._lock:
            self._fanout.check(message, self.waiting)
            if not self._scheduled:
                self._loop.call_soon(self._turn)
                self._scheduled = True
            pending = self._pending.get(topic)
            if pending is None:
                pending = self._pending[topic] = _Pending()
            pending.items.append((message, exclude, About(topic)))
            pending.size += size
            self.waiting += size

    def before_subscribing(self, ws: WebSocket, pattern: str, words: list[str]) -> None:
        """Note that a connection is about to subscribe to a pattern of these words: what waits is not for it. The
        publish lock is held."""
        with self._lock:
            if is_pattern(words):  # it may stand for any of them
                while self._pending:
                    self._hand_over_locked()
                return
            pending = self._pending.get(pattern)
            if pending is not None and not self._subscriptions.covers(ws, pattern):
                pending.first[ws] = len(pending.items)

    def _turn(self) -> None:
        """Hand over what waits, unless earlier ones are under way. Loop thread."""
        if self._fanout.busy:
            self._loop.call_soon(self._turn)
            return
        with self._lock:
            self._hand_over_locked()
            self._scheduled = bool(self._pending)
            if self._scheduled:
                self._loop.call_soon(self._turn)

    def _hand_over_locked(self) -> None:
        """Give what waits to the fan-out, for those who are subscribed now; of some topics, if there are many."""
        if DEBUG:
            check_owned(self._lock)
        left = TARGETS_PER_TURN
        while self._pending and left > 0:
            topic = next(iter(self._pending))
            notices = self._pending.pop(topic)
            size = notices.size
            self.waiting -= size
            targets = self._subscriptions.targets(topic).enclosed
            left -= 1 + len(targets)
            try:
                self._fanout.send_together(notices.items, targets, notices.first)
            except LoopClosedError:  # this server has stopped
                pass


class _Pending:
    """Notices of one topic."""

    __slots__ = ("first", "items", "size")

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.size = 0
        self.first: dict[WebSocket, int] = {}
        """Of connections that have subscribed since they wait: how many of them were there before."""
