"""Rates: how much may come in a second, and the connection that is held to that.

A token bucket is written as one number, the time at which it will be full again (the "virtual scheduling" of ITU-T
I.371's generic cell rate algorithm, which does the same): to take is to move that time, and a bucket that is full needs
no number at all. So `Meter` remembers only who has taken something lately, and a connection that is idle costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from gows.codes import CloseCause, CloseCode
from gows.errors import ProtocolError
from gows.protocol.connection import Connection, Event
from gows.protocol.states import CHUNK, CLOSE, FAIL, ConnectionState

Clock = Callable[[], float]
"""Seconds, never going back."""


class Rate:
    """`rate` a second on the long run, and `burst` at once."""

    __slots__ = ("_interval", "span")

    def __init__(self, rate: float, burst: float) -> None:
        self._interval = 1.0 / rate
        self.span = burst / rate
        """Seconds in which an empty bucket fills."""

    def room(self, full_at: float, now: float) -> int:
        """How many may be taken now from a bucket that is full at `full_at`."""
        # a hair more, for a sum of intervals falls short of the time it stands for
        return int((self.span - max(full_at - now, 0.0)) / self._interval + 1e-6)

    def take(self, full_at: float, now: float, amount: float) -> float:
        """When the bucket is full after `amount` was taken."""
        return max(full_at, now) + amount * self._interval


class Meter:
    """A bucket of one rate for each of many keys. For one thread.

    There are two generations, of at least the time in which any bucket fills: a key that took nothing for so long has a
    full bucket, and goes with the older one. No timer does that, but the next to take something, whoever it is.
    """

    __slots__ = ("_clock", "_new", "_old", "_rate", "_turn")

    def __init__(self, rate: float, burst: float, clock: Clock) -> None:
        self._rate = Rate(rate, burst)
        self._clock = clock
        self._new: dict[Hashable, float] = {}
        self._old: dict[Hashable, float] = {}
        self._turn = clock() + self._rate.span

    def take(self, key: Hashable, amount: int) -> int:
        """Take up to `amount`; returns how much there was."""
        now = self._clock()
        if now >= self._turn:
            self._old = self._new if now < self._turn + self._rate.span else {}
            self._new = {}
            self._turn = now + self._rate.span
        full_at = self._new.get(key) or self._old.get(key, 0.0)
        taken = min(amount, self._rate.room(full_at, now))
        self._new[key] = self._rate.take(full_at, now, taken)
        return taken

    def room(self, key: Hashable) -> int:
        """Return how much there is to take."""
        now = self._clock()
        full_at = 0.0 if now >= self._turn + self._rate.span else self._new.get(key) or self._old.get(key, 0.0)
        return self._rate.room(full_at, now)

    def forget(self, key: Hashable) -> None:
        """The key is gone."""
        self._new.pop(key, None)
        self._old.pop(key, None)

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._new.keys() | self._old.keys())


class Rates:
    """What connections of one kind may receive in a second: messages and control frames, and bytes. None: no limit."""

    __slots__ = ("bytes", "messages")

    def __init__(self, messages: Meter | None, bytes: Meter | None) -> None:
        self.messages = messages
        self.bytes = bytes


class RateError(ProtocolError):
    """The peer sent more than it may in a time."""

    cause = CloseCause.RATE

    def __init__(self, what: str) -> None:
        super().__init__(CloseCode.POLICY_VIOLATION, f"too many {what} a second")


class MeteredConnection(Connection):
    """A Connection whose config has `rates`. What came within them is received; the rest is the peer's fault (1008)."""

    __slots__ = ()

    def receive_one(self, buf: bytes | bytearray, pos: int, n: int) -> None:
        """Nothing: `receive` counts."""

    def receive(self, buf: bytes | bytearray, n: int, events: list[Event], pos: int = 0) -> None:
        """Parse and count; `pos` is 0, for `receive_one` takes nothing. Of a read that is too large, only what was
        allowed is parsed."""
        if self.state is not ConnectionState.OPEN:  # what was under way when we closed is read past
            super().receive(buf, n, events)
            return
        rates = self.config.rates
        assert rates is not None
        known = len(events)
        allowed = n if rates.bytes is None else rates.bytes.take(self, n)
        super().receive(buf, allowed, events)
        if rates.messages is not None and len(events) > known:
            self._count(rates.messages, events, known)
        if allowed < n and self.state is ConnectionState.OPEN:
            self.fail(RateError("bytes"), events)

    def _count(self, meter: Meter, events: list[Event], known: int) -> None:
        came = [index for index in range(known, len(events)) if _counts(events[index])]
        allowed = meter.take(self, len(came))
        if allowed < len(came):
            for kind, value in events[came[allowed] :]:
                if kind < CLOSE:
                    (value[2] if kind == CHUNK else value).release()
            del events[came[allowed] :]
            self.fail(RateError("messages"), events)

    def receive_eof(self) -> None:
        """The stream is gone, and is remembered no longer."""
        super().receive_eof()
        rates = self.config.rates
        assert rates is not None
        for meter in (rates.messages, rates.bytes):
            if meter is not None:
                meter.forget(self)


def _counts(event: Event) -> bool:
    """Whether an event is a message or a control frame: of a message in pieces, the last one is."""
    kind, value = event
    return kind not in (CLOSE, FAIL) and (kind != CHUNK or value[1])
