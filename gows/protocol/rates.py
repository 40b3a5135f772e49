"""Rates: how much may come in a second.

A token bucket is written as one number, the time at which it will be full again (the "virtual scheduling" of ITU-T
I.371's generic cell rate algorithm, which does the same): to take is to move that time, and a bucket that is full needs
no number at all. So `Meter` remembers only who has taken something lately, and a connection that is idle costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

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
        """Return how many may be taken now from a bucket that is full at `full_at`."""
        # a hair more, for a sum of intervals falls short of the time it stands for
        return int((self.span - max(full_at - now, 0.0)) / self._interval + 1e-6)

    def take(self, full_at: float, now: float, amount: float) -> float:
        """Return when the bucket is full after `amount` was taken."""
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
        """Forget a key that is gone."""
        self._new.pop(key, None)
        self._old.pop(key, None)

    def __len__(self) -> int:
        """Return how many keys are remembered."""
        return len(self._new.keys() | self._old.keys())


class Rates:
    """What connections of one kind may receive in a second: messages and control frames, and bytes. None: no limit."""

    __slots__ = ("bytes", "messages")

    def __init__(self, messages: Meter | None, bytes: Meter | None) -> None:
        self.messages = messages
        self.bytes = bytes
