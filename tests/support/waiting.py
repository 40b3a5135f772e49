"""Waiting for something to become true, with a deadline: what tests do instead of sleeping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from gows.reactor import Loop

_pause = threading.Event()


def wait_until(condition: Callable[[], object], seconds: float = 5.0, what: Callable[[], str] | None = None) -> None:
    """Return when `condition()` holds; AssertionError when it does not within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what() if what else condition}"
        _pause.wait(0.002)


def turn_until(loop: Loop, condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Turn `loop` in this thread until `condition()` holds; AssertionError when it does not within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        loop.run_once(0.02)
