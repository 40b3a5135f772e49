"""Waits: which threads may wait, and for what.

For a peer the program's own threads may wait, and workers that step aside; no other thread of ours may, for others need
it. For the publish lock of a broker no thread may wait that has a lock which is taken under it (`inner_lock`): that is
a finaliser or a signal handler that came amid something, and the holder of the publish lock may wait for just that one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

from gows.debug import checked_lock

_here = threading.local()  # .never: how many `never_wait` this thread is in

_inner: list[ref[Any]] = []
_making = threading.RLock()  # of `_inner`, which is read without


def inner_lock(name: str) -> Any:
    """Return a re-entrant lock that a thread with the publish lock may take, and that `holds_inner_lock` knows."""
    global _inner
    lock = checked_lock(threading.RLock, name)
    with _making:
        _inner = [each for each in _inner if each() is not None] + [ref(lock)]
    return lock


def holds_inner_lock() -> bool:
    """Return whether the calling thread has a lock that `inner_lock` made."""
    for each in _inner:
        lock = each()
        if lock is not None and lock._is_owned():  # what `threading.Condition` calls
            return True
    return False


@contextmanager
def never_wait() -> Iterator[None]:
    """Forbid waiting for peers to the calling thread, as long as the context lasts: it is one of ours."""
    _here.never = getattr(_here, "never", 0) + 1
    try:
        yield
    finally:
        _here.never -= 1


def thread_may_wait() -> bool:
    """Return whether the calling thread is in no `never_wait`."""
    return not getattr(_here, "never", 0)
