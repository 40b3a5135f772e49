"""The process-wide loop, for connections of programs that have no loop of their own."""

from __future__ import annotations

import threading

from gows.reactor.loop import Loop

_lock = threading.Lock()
_loop: Loop | None = None


def shared_loop() -> Loop:
    """The loop that the whole process shares. Made and started at first use; after it was closed, a new one. Any
    thread."""
    global _loop
    with _lock:
        if _loop is None or not _loop.running:
            _loop = Loop()
            _loop.start()
        return _loop
