"""Progress: whether peers take what was sent to them, as far as the kernel tells.

A send buffer of the kernel holds megabytes, and becomes writable again only when a third of it is free. So a peer that
takes 100 kB a second may look, for half a minute, like one that takes nothing, and a ping may stand behind all of it.
The kernel knows better (SIOCOUTQ of ioctl(2), tcp(7), unix(7)), but only how it is now: progress shows when two looks
are compared. Looks are few, at deadlines of connections that something waits for, and kept in tables by stream, so
other connections do not pay for them.
"""

from __future__ import annotations

from collections.abc import Callable

from gows.reactor.interfaces import Transport
from gows.reactor.sockets import SocketLayer
from gows.reactor.timers import TICKS_PER_SECOND

MIN_RATE = 2048
"""Bytes a second that a peer must take of an HTTP answer, and of what was sent before a close, on the average of each
timeout. A peer that takes a byte now and then would otherwise hold the memory, and the descriptor, for as long as it
likes."""
CHECKS_PER_TIMEOUT = 8
"""How often it is looked, within a timeout, whether the peer takes anything: so exactly the timeout is kept."""
CREDIT_SECONDS = 30.0
"""Seconds for which it counts in a peer's favour that it took more than MIN_RATE."""
LARGE_BACKLOG = 16384
"""Bytes held by the kernel from which on they explain a late answer to a ping."""


class Progress:
    """Remembers what the streams of one loop had sent, and their peers had taken, at the last look. Loop thread."""

    __slots__ = ("_answers", "_closing", "_now", "_sockets", "_taken")

    def __init__(self, sockets: SocketLayer, now: Callable[[], int]) -> None:
        """`now()` returns the present tick."""
        self._sockets = sockets
        self._now = now
        self._taken: dict[Transport, tuple[int, int]] = {}  # the kernel's count, and the tick at which it last grew
        self._closing: dict[Transport, tuple[int, float]] = {}  # what the peer had not taken
        self._answers: dict[Transport, tuple[int, int]] = {}  # the kernel's count when a time began, and that tick

    def begin(self, stream: Transport, *, least: int = 1) -> None:
        """Look for the first time, unless the kernel holds less than `least` bytes: then there is nothing to see."""
        sock = stream.sock
        if sock is not None and stream not in self._taken and self._sockets.held(sock) >= least:
            self._taken[stream] = self._sockets.acknowledged(sock), self._now()

    def look(self, stream: Transport) -> None:
        """Look again, if something waits for the kernel, or `begin` has found something."""
        before = self._taken.get(stream)
        if stream.sock is None or (before is None and not stream.blocked):
            return
        sockets = self._sockets
        taken = sockets.acknowledged(stream.sock)
        if before is None:
            self._taken[stream] = taken, 0
        elif not stream.blocked and taken - before[0] < LARGE_BACKLOG and not sockets.held(stream.sock):
            del self._taken[stream]  # it has all, and had little to take
        elif taken > before[0]:
            self._taken[stream] = taken, self._now()
        else:  # it falls where only what is held can be counted, and more was sent
            self._taken[stream] = taken, before[1]

    def last(self, stream: Transport) -> int | None:
        """Return the tick at which the peer was last seen to have taken something, 0 for never; None: nothing waits.
        Any thread."""
        found = self._taken.get(stream)
        return None if found is None else found[1]

    def begin_close(self, stream: Transport) -> None:
        """Note what the peer has still to take: nothing more will be sent."""
        self._closing[stream] = stream.untaken(), 0.0

    def is_fast_enough(self, stream: Transport, seconds: float) -> bool:
        """Return whether the peer has taken enough in the `seconds` since `begin_close`, or this, was called.

        If neither was, it has so many seconds more when there is much to take. What it took beyond `MIN_RATE` counts
        for the `CREDIT_SECONDS` seconds after: the window of a slow peer opens in lumps, of 64 kB on loopback.
        """
        before = self._closing.get(stream)
        left = stream.untaken()
        if before is None:
            self._closing[stream] = left, 0.0
            return left >= LARGE_BACKLOG
        last, ahead = before
        ahead += last - left - MIN_RATE * seconds
        self._closing[stream] = left, min(ahead, MIN_RATE * CREDIT_SECONDS)
        return ahead >= 0.0

    def begin_answer(self, stream: Transport) -> None:
        """Begin the time in which the peer has to take enough (`too_slow`): the kernel takes no more."""
        if stream.sock is not None:
            self._answers[stream] = self._sockets.acknowledged(stream.sock), self._now()

    def too_slow(self, stream: Transport, seconds: float) -> bool:
        """Return whether the peer took less than MIN_RATE in a time of `seconds`. `begin_answer` begins the first,
        and each that has ended the next. Only where the kernel counts the bytes: more may have been sent meanwhile."""
        found = self._answers.get(stream)
        if found is None or stream.sock is None:
            self.begin_answer(stream)
            return False
        before, began = found
        passed = (self._now() - began) / TICKS_PER_SECOND
        if passed < seconds:
            return False
        self.begin_answer(stream)
        count = self._answers[stream][0]
        return before > 0 and count - before < MIN_RATE * seconds

    def forget(self, stream: Transport) -> None:
        """Forget a stream that has ended."""
        if self._taken or self._closing or self._answers:
            self._taken.pop(stream, None)
            self._closing.pop(stream, None)
            self._answers.pop(stream, None)
