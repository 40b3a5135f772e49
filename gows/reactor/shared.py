"""The process-wide loop, for connections of programs that have no loop of their own."""

from __future__ import annotations

import os
import threading

from gows.debug import checked_lock
from gows.reactor.transports import Loop

_lock = checked_lock(threading.RLock, "shared loop")  # a finaliser may come amid it, and want the loop
_loop: Loop | None = None


def shared_loop() -> Loop:
    """Return the loop that the whole process shares. It is made and started at first use; after it was closed, and in a
    forked process, a new one is. Any thread."""
    global _loop
    with _lock:
        if _loop is None or not _loop.running:
            loop = Loop()
            if _loop is None or not _loop.running:  # still
                _loop = loop
                loop.start()
            else:
                loop.close()
        return _loop


def _forget() -> None:
    """Forget loop and lock in a forked process (fork(2)): none of the parent's threads goes on there, neither the
    loop's nor one that held the lock."""
    global _lock, _loop
    _lock = checked_lock(threading.RLock, "shared loop")
    _loop = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
