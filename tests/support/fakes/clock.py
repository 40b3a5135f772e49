"""A clock that stands still until it is told to go on."""

from __future__ import annotations


class VirtualClock:
    """Seconds since it was made; call it like `time.monotonic`."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time go by."""
        assert seconds >= 0
        self._now += seconds

    def advance_to(self, time: float) -> None:
        """Let time go by until `time`, to the last bit: a sum of steps might never get there."""
        self._now = max(self._now, time)
