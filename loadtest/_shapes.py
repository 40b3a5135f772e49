"""Load shapes, chosen with --shape; Locust does not load this file by itself, for a shape overrides -u and -r.

ramp    to `-u` users in steps over a quarter of the time, stays, and down again
storm   `-u` users; every minute half of them leave at once and come back as fast as they can
"""

from __future__ import annotations

from locust import LoadTestShape


class Shape(LoadTestShape):
    """What both are told: users, users a second, seconds."""

    use_common_options = True  # the page goes on asking for them

    def __init__(self, users: int, rate: float, seconds: float) -> None:
        super().__init__()
        self.users = users
        self.rate = rate
        self.seconds = seconds


class Ramp(Shape):
    """Up in ten steps over a quarter of the time, and down in the last."""

    def tick(self) -> tuple[int, float] | None:
        """(users, users a second) of now."""
        now = self.get_run_time()
        if now >= self.seconds:
            return None
        part = self.seconds / 4
        share = min(1.0, now / part, (self.seconds - now) / part)
        return max(1, round(self.users * min(1.0, (int(share * 10) + 1) / 10))), self.rate


class Storm(Shape):
    """Every minute half of the users are gone for ten seconds, and come back all at once."""

    period = 60.0
    away = 10.0

    def tick(self) -> tuple[int, float] | None:
        """(users, users a second) of now."""
        now = self.get_run_time()
        if now >= self.seconds:
            return None
        gone = now >= self.period / 2 and (now - self.period / 2) % self.period < self.away
        return (max(1, self.users // 2), self.users) if gone else (self.users, max(self.rate, self.users / 10))


SHAPES: dict[str, type[Shape]] = {"ramp": Ramp, "storm": Storm}
