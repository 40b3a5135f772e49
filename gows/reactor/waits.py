"""Waits: which threads may wait for a peer. The program's own may, and workers that step aside; no other thread of ours
may, for others need it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_here = threading.local()  # .never: how many `never_wait` this thread is in


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
