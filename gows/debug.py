"""Checks of the rules on threads and locks, made where the environment variable GOWS_DEBUG is set; the tests set it.

    if DEBUG:
        check_owned(self.lock)

It is read once, when this is imported. A compiled module declares `cdef bint DEBUG` in its .pxd: then such a line costs
it one comparison. The rules stand in docs/explanation/design.md, "Threads and locks".

It is for tests: a checked lock is written in Python, so a KeyboardInterrupt amid its lines may leave it taken.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

DEBUG = os.environ.get("GOWS_DEBUG", "0") not in ("", "0")
"""Whether the rules are checked."""

LOCK_ORDER = (
    ("shared loop",),
    ("topic client",),
    ("publish",),
    ("notices",),
    ("subscriptions", "fanout"),
    ("redis broker",),
    ("outlet",),
    ("stream",),
    (
        "admission",
        "budget of files",
        "bus",
        "bus answers",
        "connection numbers",
        "enciphered",
        "lost",
        "overflow",
        "receiving",
        "recovery budget",
        "waiting outlets",
        "workers",
    ),
    ("wakeup",),
)
"""The names of locks, outer ones first: a thread that waits for a lock holds only locks of rows above its own."""

_RANKS = {name: rank for rank, names in enumerate(LOCK_ORDER) for name in names}
_classes: dict[Any, Any] = {}  # of checked locks, by the class of the plain ones
_here = threading.local()  # .locks: the checked locks that this thread has taken, in order


def checked_lock(make: Callable[[], Any], name: str) -> Any:
    """Return `make()`, a re-entrant lock. With DEBUG, `held_locks` knows it by its name, and a thread that waits for it
    observes the order. Raises KeyError for a name that does not stand in LOCK_ORDER.
    """
    if not DEBUG:
        return make()
    lock = _checked_class(type(make()))()
    lock.name = name
    lock.rank = _RANKS[name]
    return lock


def held_locks() -> list[str]:
    """Return the names of the checked locks that the calling thread holds, in the order in which it took them."""
    return [lock.name for lock in getattr(_here, "locks", ()) if lock._is_owned()]


def check_order(lock: Any) -> None:
    """Raise AssertionError if the calling thread holds a lock that is to be taken after `lock`, for another thread may
    hold `lock` and wait for that one."""
    for held in getattr(_here, "locks", ()):
        if held.rank >= lock.rank and held._is_owned():
            thread = threading.current_thread().name
            raise AssertionError(f"{thread} holds {held.name} and is about to take {lock.name}, which comes before it")


def check_owned(lock: Any) -> None:
    """Raise AssertionError unless the calling thread holds `lock`; with a `threading.Lock`, which does not know its
    owner, unless any thread does."""
    if not (lock._is_owned() if hasattr(lock, "_is_owned") else lock.locked()):
        raise AssertionError(f"{threading.current_thread().name} must hold {getattr(lock, 'name', lock)!r} here")


def check_unlocked(action: str) -> None:
    """Raise AssertionError if the calling thread holds a checked lock. `action` is what it is about to do: to wait, or
    to call code that is not ours."""
    held = held_locks()
    if held:
        raise AssertionError(f"{threading.current_thread().name} holds {', '.join(held)} and is about to {action}")


def _checked_class(base: Any) -> Any:
    """Return a subclass of a class of locks, whose objects are known to `held_locks`.

    A signal handler may run between any two lines here and take locks, too. So that a lock is in the list does not say
    that it is held: who looks asks it.
    """

    if base in _classes:
        return _classes[base]

    class CheckedLock(base):  # type: ignore[misc]
        name: str
        rank: int

        def acquire(self, *arguments: Any, **named: Any) -> bool:
            again = self._is_owned()
            if not (again or arguments or named):  # whoever does not wait may take any
                check_order(self)
            taken: bool = super().acquire(*arguments, **named)
            if taken and not again:
                try:
                    _here.locks.append(self)
                except AttributeError:
                    _here.locks = [self]
            return taken

        def release(self) -> None:
            super().release()
            if not self._is_owned():
                locks: list[Any] = getattr(_here, "locks", [])
                for position in range(len(locks) - 1, -1, -1):  # by identity, the last one first
                    if locks[position] is self:
                        del locks[position]
                        break

        def __enter__(self) -> Any:
            self.acquire()
            return self

        def __exit__(self, *error: object) -> None:
            self.release()

    return _classes.setdefault(base, CheckedLock)
