"""Messages from `wsload`, the C load generator, and what they cost a server."""

from __future__ import annotations

import json
import subprocess
from typing import Any, NamedTuple

from bench.tools import Unavailable, build
from bench.usage import cpu_seconds, family


class Load(NamedTuple):
    """What wsload is to do; see native/wsload.c."""

    connections: int = 1000
    flight: int = 1
    size: int = 32
    seconds: float = 3.0
    warm_up: float = 1.0
    path: str = "/"

    def command(self, port: int) -> list[str]:
        """Its command line."""
        words = ["-c", self.connections, "-p", self.flight, "-s", self.size, "-d", self.seconds, "-w", self.warm_up]
        return [str(build("wsload")), *map(str, words), "-u", self.path, str(port)]


class Cost(NamedTuple):
    """What came of it."""

    cpu_us: float
    """The server's CPU time for each message, in microseconds."""
    messages_per_s: float
    p50_us: float
    p99_us: float
    p999_us: float
    connects_per_s: float


def run_load(load: Load, server: int, port: int, *, cpus: str | None = None) -> Cost:
    """Load the server, which is process `server`, from the CPUs `cpus`. Raises Unavailable when connections fail."""
    prefix = [] if cpus is None else ["taskset", "-c", cpus]
    pids = family(server)
    before = cpu_seconds(pids)
    done = subprocess.run(
        [*prefix, *load.command(port)],
        capture_output=True,
        text=True,
        timeout=load.seconds + load.warm_up + 60,
        check=False,
    )
    spent = cpu_seconds(pids) - before
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise Unavailable(f"wsload said {done.stdout!r} {done.stderr!r}") from None
    if result["failed"] or result["closed"] or not result["msgs"]:
        raise Unavailable(f"{result['failed']} connections failed, {result['closed']} were closed")
    # what was echoed while it warmed up is in the CPU time, too
    messages = result["msgs"] * (load.seconds + load.warm_up) / load.seconds
    times = result["us"]
    return Cost(
        spent * 1e6 / messages,
        result["msgs_per_s"],
        times["p50"],
        times["p99"],
        times["p999"],
        result["connects_per_s"],
    )
