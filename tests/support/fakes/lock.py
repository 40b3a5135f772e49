"""MeddlingLock: a stream's lock with which another thread comes in between, at a moment that the test chooses."""

from __future__ import annotations

from collections.abc import Callable

from gows.reactor.lock import Lock


class MeddlingLock(type(Lock())):  # type: ignore[misc]  # in plain Python `Lock` is a function
    """`before` runs before the lock is acquired, `after` when it was released: each with the lock free, in the thread
    that uses it, in the place of another one. Neither runs within the other."""

    before: Callable[[], object] | None = None
    after: Callable[[], object] | None = None

    def __init__(self) -> None:
        self._depth = 0
        self._meddling = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self._meddle(self.before)
        super().acquire()
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        super().release()
        self._meddle(self.after)

    __enter__ = acquire

    def __exit__(self, *details: object) -> None:
        self.release()

    def _meddle(self, action: Callable[[], object] | None) -> None:
        if action is None or self._depth or self._meddling:
            return
        self._meddling = True
        try:
            action()
        finally:
            self._meddling = False
