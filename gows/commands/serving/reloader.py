"""Reloader: a worker that is ended and started anew after each change of a file. For development.

The supervisor holds the sockets, so that the port is never closed: who connects meanwhile waits. It runs nothing of the
application. A worker that ends by itself, for its import is broken, is started again after the next change, not before.

Nothing here waits for a worker for ever. It has half a second to end its connections in, and is killed after PATIENCE,
whatever it does: waits in a callback, in the application's shutdown, or in an endless loop.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from gows.commands.serving.changes import Watcher
from gows.server.signals import SECOND_SIGNAL

logger = logging.getLogger("gows")

DRAIN = 0.2
"""Seconds over which connections are closed. Requests that came just before are answered in that time."""
STOP_TIMEOUT = 0.3
"""Seconds that they have to end in after that."""
PATIENCE = 1.2
"""Seconds after which a worker that was to end is killed."""
POLL = 0.01
"""Seconds between two looks whether it has ended."""

NAMED = 3
"""Changed files of which the log tells the names."""

Start = Callable[[], "subprocess.Popen[bytes]"]


class Reloader:
    """The supervisor. Main thread."""

    def __init__(self, start: Start, watcher: Watcher) -> None:
        """`start()` starts a worker, which ends in order at SIGTERM."""
        self._start = start
        self._watcher = watcher
        self._worker: subprocess.Popen[bytes] | None = None
        self._signal: int | None = None
        self._signal_at = 0.0
        self._at_once = False

    def run(self) -> int:
        """Run until SIGINT or SIGTERM; return the exit status, 130 if a second signal ended it at once."""
        before = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._worker = self._start()
            while self._signal is None:
                changed = self._watcher.wait()
                if changed and self._signal is None:
                    logger.info("%s: starting anew", _names(changed))
                    self._end()
                    if self._signal is None:
                        self._worker = self._start()
                self._look()
            self._end()
        finally:
            self._kill()
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        return 130 if self._at_once else 0

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signal is None:
            self._signal, self._signal_at = number, now
        elif now - self._signal_at > SECOND_SIGNAL:
            self._at_once = True

    def _look(self) -> None:
        """See whether the worker has ended by itself."""
        if self._worker is not None and (status := self._worker.poll()) is not None:
            self._worker = None
            if self._signal is None:  # else the terminal has told it, too
                how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
                logger.error("the worker has ended %s; it is started again after the next change", how)

    def _end(self) -> None:
        """End the worker in order, and kill it if that takes too long."""
        worker = self._worker
        if worker is None:
            return
        if self._signal == signal.SIGINT:  # of which a terminal tells the worker, too, but kill(1) does not
            self._wait(worker, DRAIN + STOP_TIMEOUT)
        if worker.poll() is None and not self._at_once:
            worker.terminate()
            self._wait(worker, PATIENCE)
        if worker.poll() is None and not self._at_once:
            logger.warning("the worker did not end within %.1f s, and is killed", PATIENCE)
        self._kill()

    def _wait(self, worker: subprocess.Popen[bytes], seconds: float) -> None:
        end = time.monotonic() + seconds
        while worker.poll() is None and not self._at_once and time.monotonic() < end:
            time.sleep(POLL)

    def _kill(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            if worker.poll() is None:
                worker.kill()
            worker.wait()


def _names(changed: set[Path]) -> str:
    here = Path.cwd()
    names = sorted(str(each.relative_to(here)) if each.is_relative_to(here) else str(each) for each in changed)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more} changed"


def starter(command: Sequence[str], descriptors: Sequence[int]) -> Start:
    """Return what starts `command` as a worker, which inherits the descriptors, and one more, its last argument: the
    end of a pipe that is at its end when this process is no more. It begins with SIGINT blocked, or Ctrl-C would meet
    it amid its imports, and be answered by a traceback."""
    ours: int | None = None

    def start() -> subprocess.Popen[bytes]:
        nonlocal ours
        if ours is not None:
            os.close(ours)
        theirs, ours = os.pipe()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return subprocess.Popen([*command, str(theirs)], pass_fds=(*descriptors, theirs))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(theirs)

    return start
