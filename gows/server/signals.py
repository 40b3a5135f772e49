"""EndSignals: SIGINT and SIGTERM, as long as a server runs in the main thread."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

SECOND_SIGNAL = 0.3
"""Seconds after the first signal from which on another one counts: timeout(1) and some supervisors send each signal
twice, to the process and to its group."""

_replaced: list[dict[signal.Signals, Any]] = []
"""The signal handlers in whose place servers of this process have put theirs."""


def _put_back(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        # None: not installed by Python, which cannot put it back either
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _disown_signals() -> None:
    """Give up our signal handlers in a forked process (fork(2)), where the server does not go on: what ends its program
    is to end a child, too."""
    while _replaced:
        _put_back(_replaced.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_signals)


class EndSignals:
    """A context in which SIGINT and SIGTERM call a function, once, instead of what they did before.

    A second signal raises KeyboardInterrupt. In a thread that is not the main one no handler can be installed, and
    nothing happens.
    """

    def __init__(self, on_first: Callable[[], object]) -> None:
        """`on_first`: called in the signal handler, so that it may only do what is allowed amid any line of Python."""
        self._on_first = on_first
        self._at: float | None = None
        self._installed = False

    @property
    def came(self) -> bool:
        """Whether there was a signal."""
        return self._at is not None

    def __enter__(self) -> EndSignals:
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
            _replaced.append(before)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._installed and _replaced:  # not in a process that was forked meanwhile
            _put_back(_replaced.pop())

    def _signalled(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self._at is None:  # the first, though another thread may have called stop() before
            self._at = now
            self._on_first()
        elif now - self._at > SECOND_SIGNAL:
            raise KeyboardInterrupt  # at once, then
