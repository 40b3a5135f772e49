"""PublishLock: one order for what a process publishes and receives, even if a call comes in the middle of another."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from gows import debug
from gows.debug import checked_lock
from gows.reactor.waits import holds_inner_lock

logger = logging.getLogger("gows")

PAUSE = 0.0005
PATIENCE = 20
"""How often a thread looks whether the lock is free, that many seconds apart, before it queues for it. A thread that
queues gets the lock when it is let go, but not the interpreter: until it has that too, up to 5 ms later, nobody can
publish. With several threads in a queue all would go on at that pace; so one at work may take the lock again."""


class PublishLock:
    """A lock that a thread may take again while it holds it: a finaliser, which the collector may run in any
    allocation, a signal handler, or a logging handler may come amid something, and publish.

    Such a caller (`held`) must not act at once, for what it came amid is half done: it leaves its call to
    `before_release`, which makes it when that is complete. What must not run with the lock held, since it may wait, or
    is the user's, is left to `after_release`.
    """

    name = "publish"

    __slots__ = ("_after_release", "_before_release", "_depth", "_lock", "_owner", "guards")

    def __init__(self) -> None:
        self.guards: list[Callable[[], bool]] = []
        """Say, beside `holds_inner_lock`, whether the calling thread has a lock that is taken under this one."""
        self._lock = checked_lock(threading.RLock, "publish")
        self._owner: int | None = None
        self._depth = 0
        self._before_release: deque[Callable[[], object]] = deque()
        self._after_release: deque[Callable[[], object]] = deque()

    def held(self) -> bool:
        """Return whether the calling thread holds it."""
        return self._owner == threading.get_ident()

    _is_owned = held  # what `threading.Condition` and `check_owned` call

    def enter(self, call: Callable[..., object], *arguments: Any) -> bool:
        """Take the lock, and return True. A caller that came amid something that the lock's holder may be waiting for
        must not wait for the lock: it gets False, and `call(*arguments)` is called later with the lock held."""
        if self._lock.acquire(blocking=False):
            self._taken()
            return True
        if not (holds_inner_lock() or any(held() for held in self.guards)):
            self.__enter__()
            return True
        self._before_release.append(partial(call, *arguments))
        if self._lock.acquire(blocking=False):  # its holder may have looked for calls for the last time before
            self._taken()
            self.__exit__()
        return False

    def before_release(self, call: Callable[..., object], *arguments: Any) -> None:
        """Have `call(*arguments)` called with the lock held, when what goes on under it now is complete. For its holder
        alone."""
        self._before_release.append(partial(call, *arguments))

    def after_release(self, call: Callable[..., object], *arguments: Any) -> None:
        """Have `call(*arguments)` called in this thread once the lock is released. For its holder alone."""
        self._after_release.append(partial(call, *arguments))

    def __enter__(self) -> PublishLock:
        if debug.DEBUG and not self.held():
            debug.check_order(self._lock)  # it may come to wait, though it looks first
        for _ in range(PATIENCE):
            if self._lock.acquire(blocking=False):
                break
            time.sleep(PAUSE)
        else:
            self._lock.acquire()
        self._taken()
        return self

    def _taken(self) -> None:
        self._depth += 1
        self._owner = threading.get_ident()

    def __exit__(self, *error: object) -> None:
        calls: deque[Callable[[], object]] | None = None
        try:
            if self._depth == 1:
                while self._before_release:
                    self._call(self._before_release.popleft())
                if self._after_release:
                    calls, self._after_release = self._after_release, deque()
        finally:
            self._depth -= 1
            if not self._depth:
                self._owner = None
            self._lock.release()
        if calls:
            for call in calls:
                try:
                    call()
                except Exception:
                    logger.exception("a call that was left until the publish lock was free failed")
        if self._before_release and not self.held():  # a signal came while we let go
            with self:
                pass

    def _call(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            self.after_release(
                partial(logger.error, "a call that waited for its turn under the publish lock failed", exc_info=error)
            )
