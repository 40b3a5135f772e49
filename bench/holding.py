"""Holding connections open with `hold`, the C program, and hearing from it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from bench.tools import Unavailable, build


class Holder:
    """Very many connections to one port, as clients that answer pings and say nothing. A context: leaving it ends them.

    `counts` has the newest figures, see native/hold.c.
    """

    def __init__(self, port: int, connections: int, path: str = "/", in_flight: int = 100) -> None:
        self.connections = connections
        command = [str(build("hold")), "-c", str(connections), "-u", path, "-r", str(in_flight), str(port)]
        self.began = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.counts: dict[str, float] = dict.fromkeys(("opened", "failed", "closed", "pings", "messages", "last"), 0)
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, pipe: IO[str]) -> None:
        for line in pipe:
            self.counts = json.loads(line)

    @property
    def live(self) -> int:
        """Connections that are open now."""
        return int(self.counts["opened"] - self.counts["closed"])

    def wait_open(self, seconds: float, progress: Callable[[Holder], None] | None = None) -> float:
        """Until all that can be is open; seconds that took. Prints progress, where somebody looks."""
        while self.counts["opened"] + self.counts["failed"] < self.connections:
            if time.monotonic() - self.began > seconds:
                break
            if self.process.poll() is not None:
                raise SystemExit(f"hold ended with status {self.process.returncode}")
            if progress is not None:
                progress(self)
            time.sleep(0.2)
        return time.monotonic() - self.began

    def check(self) -> None:
        """Raises Unavailable unless all connections are there."""
        if self.live < self.connections:
            raise Unavailable(f"{self.live:,} of {self.connections:,} connections were held")

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_exception: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def holding(port: int, connections: int) -> Iterator[None]:
    """So many connections to one port while the block runs. Raises Unavailable unless all of them opened, and are still
    there at its end."""
    with Holder(port, connections) as holder:
        holder.wait_open(120)
        holder.check()
        yield
        holder.check()


def say(text: str, *, end: str = "\n") -> None:
    """A line of progress: on standard error, rewritten in place on a terminal when `end` is a carriage return."""
    if end == "\r" and not sys.stderr.isatty():
        end = "\n"
    print(text, end=end, file=sys.stderr, flush=True)
