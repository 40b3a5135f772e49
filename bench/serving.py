"""Servers under measurement: gows in both variants, other libraries, and the bare C loop; each a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from bench.tools import ROOT, Unavailable

START_SECONDS = 60.0
STOP_SECONDS = 10.0

Command = Callable[[int], list[str]]
"""From a port to the command that serves there."""


def gows_echo(*flags: str) -> Command:
    """`gows echo` with these flags."""
    return lambda port: [sys.executable, "-m", "gows", "echo", "--port", str(port), *flags]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def fetch(port: int, path: str) -> str:
    """GET a page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        text: str = answer.read().decode()
        return text


@contextmanager
def serving(
    command: Command, *, cpus: str | None = None, environment: dict[str, str] | None = None
) -> Iterator[tuple[int, int]]:
    """Run a server while the block runs; its process and its port. `cpus`: those it is bound to ("0", "0,1"), as
    taskset(1) reads them. Raises Unavailable when it does not come up."""
    port = free_port()
    prefix: Sequence[str] = () if cpus is None else ("taskset", "-c", cpus)
    process = subprocess.Popen(
        [*prefix, *command(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | (environment or {}),
        start_new_session=True,
    )
    try:
        _await_port(process, port)
        yield process.pid, port
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        with suppress(ProcessLookupError):  # some leave processes behind when they are ended, which would serve on
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _await_port(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        except OSError:
            pass
        if process.poll() is not None:
            assert process.stderr is not None
            words = process.stderr.read().decode(errors="replace").strip().splitlines()
            raise Unavailable(words[-1] if words else f"it ended with status {process.returncode}")
        if time.monotonic() > end:
            raise Unavailable("it did not come up")
        time.sleep(0.05)
