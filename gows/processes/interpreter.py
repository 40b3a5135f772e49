"""The interpreter's settings in a process whose work is to serve, its beginning after fork(2), and its end."""

from __future__ import annotations

import atexit
import gc
import logging
import sys
import threading

from gows.client.exit import end_clients

logger = logging.getLogger("gows")

SWITCH_INTERVAL = 0.0005
"""Seconds that a thread may compute while others wait for the interpreter lock; Python's default is 0.005."""


KEPT = 4 << 20
"""Bytes that the C library may keep for the next messages, twice at most, before it gives freed memory back."""


def dedicate() -> None:
    """Have a process that is set up serve its connections evenly.

    All that is there now, modules, functions, an app's tables, is collected and then passed over by later collections
    of garbage: a full one takes 6 ms beside 15,000 connections instead of 13. What is reachable now and becomes part of
    a cycle of garbage later is not freed any more; everything made later is, as ever.

    A handler that computes in Python gives the interpreter lock to the loop within half a millisecond. With two of them
    computing without end, the echo of others takes 0.7 ms (median) instead of 15. See `gc.freeze` and
    `sys.setswitchinterval`.

    Freed memory of a turn's messages is kept for the next turn's. By default glibc gives back all over 128 KiB, and
    takes it again page by page: an echo of 16 KiB in the pool cost twice as much. It learns from the largest block it
    was given back (mallopt(3), "dynamic mmap threshold"), so it is given one; elsewhere that changes nothing.
    """
    bytearray(KEPT)  # not touched, so it costs no memory
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_INTERVAL)


def begin_anew() -> None:
    """Forget, in a process that was just forked, what the program wants done at its own end, not what Python does at
    the end of every process."""
    atexit._clear()
    atexit.register(logging.shutdown)
    if "multiprocessing.util" in sys.modules:
        from multiprocessing import process, util

        process._children.clear()  # type: ignore[attr-defined]  # they are the parent's, to end and to wait for
        atexit.register(util._exit_function)  # type: ignore[attr-defined]
    atexit.register(end_clients)


def leave(seconds: float) -> None:
    """Do what Python does when a program ends: wait for threads, and for what was given to executors
    (`concurrent.futures`); then call the functions of `atexit`. Threads that take longer than `seconds` are left
    behind."""
    waiting = threading.Thread(target=threading._shutdown, name="gows-leave", daemon=True)  # type: ignore[attr-defined]
    try:
        waiting.start()
        waiting.join(seconds)
    except RuntimeError:  # no thread to be had
        pass
    if waiting.is_alive():
        logger.warning("threads or executors of this process did not end within %.1f s; they are left behind", seconds)
    atexit._run_exitfuncs()
