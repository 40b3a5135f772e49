"""Heartbeat: when an open connection is looked at next, and what is found then.

Each stream has one deadline. What it means depends on the state of its connection:

    accepted, not served      it was not served in time: close with 1011
    open                      `Heartbeat.look`: one of the verdicts below
    a close has begun         the close timeout is over: reset, unless the peer still takes what is queued

An open connection is looked at for its write timeout (the peer takes nothing of a queue that waits), its read timeout
(no byte came) and its pings. A ping is answered with a pong (RFC 6455 §5.5.3), but any byte that came since proves that
the peer lives. Pings are spread at random over a part of their interval.
"""

from __future__ import annotations

import math
from random import random

from gows.options import AcceptOptions
from gows.reactor.progress import CHECKS_PER_TIMEOUT, LARGE_BACKLOG
from gows.reactor.stream import Stream
from gows.reactor.timers import TICKS_PER_SECOND

PING_SPREAD = 0.25
"""The part of the ping interval over which pings are spread at random: clients that came, or answered, all in one
moment would be pinged all in one moment, too, and ever after."""
FIRST_PING_SPREAD = 0.5
"""The same for the first one, which comes that much earlier in addition: the rest needs some rounds to spread."""
MAX_QUEUED_PONGS = 16
"""Pongs queued for a peer that does not read; for further pings none is queued (RFC 6455 §5.5.3 asks only for the
latest)."""

# The verdicts of `Heartbeat.look`.
WAIT = 0
"""The peer lives, or has time left: look again later."""
SEND_PING = 1
"""The peer is silent: ping it, and look again later."""
STALLED = 2
"""The write timeout is over: the peer takes nothing, so it would not take a close frame either."""
SILENT = 3
"""The read timeout is over."""
DEAD = 4
"""The ping timeout is over: nothing came since the ping."""


class Heartbeat:
    """Judges the connections with the same options; it keeps nothing of any single one. What belongs to one is passed
    in: its stream, and `pinged`, the tick of a ping that may still be unanswered (0: there is none). Loop
    thread."""

    __slots__ = ("ping_interval", "ping_timeout", "read_timeout", "write_timeout")

    def __init__(self, options: AcceptOptions) -> None:
        self.ping_interval = options.ping_interval
        self.ping_timeout = options.ping_timeout
        self.read_timeout = options.read_timeout
        self.write_timeout = options.write_timeout

    def begin(self, stream: Stream) -> None:
        """Spread the first pings: take a new connection for one that was silent for some time already."""
        if self.ping_interval is not None and self.read_timeout is None:
            stream.seen -= round(self.ping_interval * FIRST_PING_SPREAD * TICKS_PER_SECOND * random())

    def next_look(self, stream: Stream, pinged: int) -> float | None:
        """Return the seconds until there is something to look at; None: never."""
        due = math.inf
        silent = stream.silent_for()
        if self.ping_interval is not None:
            if pinged and stream.seen < pinged:
                # an answer sets no deadline: where the interval is the shorter of the two, the next ping is due before
                due = min(self._patience() - _seconds_since(stream, pinged), self.ping_interval)
            else:
                due = self.ping_interval * (1.0 - _spread(stream) * random()) - silent
        if self.read_timeout is not None:
            due = min(due, self.read_timeout - silent)
        if self.write_timeout is not None and stream.blocked:
            # sooner than the timeout: what the peer takes of the kernel's buffer shows between two looks
            due = min(due, self.write_timeout - stream.stalled_for(), self.write_timeout / CHECKS_PER_TIMEOUT)
        return None if due == math.inf else max(due, 0.0)

    def look(self, stream: Stream, pinged: int) -> tuple[int, int]:
        """Judge an open connection whose deadline has come. Return the verdict, and what `pinged` is from now on."""
        progress = stream.loop.progress
        progress.look(stream)
        silent, stalled = stream.silent_for(), stream.stalled_for()
        if self.write_timeout is not None and stalled >= self.write_timeout:
            return STALLED, pinged
        if self.read_timeout is not None and silent >= self.read_timeout:
            return SILENT, pinged
        if self.ping_interval is None:
            return WAIT, pinged
        ticks = stream.loop.ticks
        if pinged and stream.seen < pinged:  # `seen` may lie before the loop's first tick
            late = _seconds_since(stream, pinged) - self._patience()
            if late < 0:
                return WAIT, pinged
            if self.ping_timeout is not None:
                if (stream.queued or progress.last(stream) is not None) and stream.stalled_for() < self.ping_timeout:
                    return WAIT, ticks  # it takes what stands before our ping: it will come to that
                if late < 1.0:
                    return DEAD, pinged
                # The loop itself was held up, and has not read all that came meanwhile: judge in a second.
                return WAIT, min(ticks, pinged + round((late + 1.0) * TICKS_PER_SECOND))
        if silent < self.ping_interval * (1.0 - _spread(stream)):
            return WAIT, 0
        progress.begin(stream, least=LARGE_BACKLOG)
        return SEND_PING, ticks

    def _patience(self) -> float:
        """Return the seconds after a ping at which to look again."""
        return self.ping_interval if self.ping_timeout is None else self.ping_timeout  # type: ignore[return-value]


def _spread(stream: Stream) -> float:
    """Return the part of the interval by which a ping may come early. A connection that is blocked is looked at often,
    for its write timeout, and would always be pinged at the earliest time."""
    return 0.0 if stream.blocked else PING_SPREAD


def _seconds_since(stream: Stream, pinged: int) -> float:
    """Return the seconds since the ping."""
    return (stream.loop.ticks - pinged) / TICKS_PER_SECOND
