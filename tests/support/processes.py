"""Processes that a program of the tests starts, the echo server above all; all of them end with the program."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "artifacts"

START_SECONDS = 20


class Children:
    """The processes this run started. A context: leaving it ends them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[Any]] = set()
        self._ending = False

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.end_all()

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[Any]:
        """Start `command` in the checkout's root, with no standard input. SystemExit once the run is ending."""
        with self._lock:
            if self._ending:
                raise SystemExit("stopped")
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=ROOT, **options)
            self._running.add(child)
        return child

    def end(self, child: subprocess.Popen[Any]) -> None:
        """Terminate `child` if it still runs, and reap it."""
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        with self._lock:
            self._running.discard(child)

    def end_all(self) -> None:
        """End every child, and start no more."""
        with self._lock:
            self._ending = True
            running = list(self._running)
        for child in running:
            self.end(child)


def start_echo(children: Children, *flags: str) -> int:
    """Start `python -m gows echo` on a port of its own choice; the port, from the line it prints.

    What it says on standard error goes to artifacts/echo.log. SystemExit when it does not come up.
    """
    ARTIFACTS.mkdir(exist_ok=True)
    log = ARTIFACTS / "echo.log"
    command = [sys.executable, "-m", "gows", "echo", "--host", "127.0.0.1", "--port", "0", *flags]
    with log.open("wb") as errors:
        server = children.start(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert server.stdout is not None
    overdue = threading.Timer(START_SECONDS, server.kill)
    overdue.start()
    try:
        for line in server.stdout:
            address = re.search(r"listening on .*?127\.0\.0\.1:(\d+)", line)
            if address:
                threading.Thread(target=_drain, args=(server.stdout,), daemon=True).start()
                return int(address[1])
    finally:
        overdue.cancel()
    raise SystemExit(f"the echo server did not start (exit status {server.wait()}); see {log}")


def _drain(pipe: IO[str]) -> None:
    """Read `pipe` to its end: a full one would block who writes into it."""
    with pipe:
        for _ in pipe:
            pass


def stop_on_sigterm() -> None:
    """Let SIGTERM (of `timeout`, of a CI) unwind this program, so that its children end with it."""

    def stop(_signal: int, _frame: object) -> NoReturn:
        sys.exit("stopped")

    signal.signal(signal.SIGTERM, stop)
