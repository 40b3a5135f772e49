"""Messages and requests from the C load generators, and what they cost a server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

from bench.tools import Unavailable, build
from bench.usage import cpu_seconds, family

LOAD_CPU = "1"
"""Where the load runs; the servers have CPU 0."""


class Load(NamedTuple):
    """What wsload is to do; see native/wsload.c."""

    connections: int = 1000
    flight: int = 1
    size: int = 32
    seconds: float = 3.0
    warm_up: float = 1.0
    mode: str = "echo"
    path: str = "/"
    binary: bool = False
    tls: bool = False
    compressed: str | None = None
    """A file with a payload, compressed as RFC 7692 says, to send instead of `size` bytes."""
    in_flight: int = 200
    """New connections at a time."""
    socketio: bool = False

    def command(self, port: int) -> list[str]:
        """Its command line. Raises Unavailable."""
        words = [*("-c", self.connections), *("-p", self.flight), *("-s", self.size), *("-r", self.in_flight)]
        words += [*("-d", self.seconds), *("-w", self.warm_up), *("-m", self.mode), *("-u", self.path)]
        if self.binary:
            words.append("-B")
        if self.tls:
            words.append("-T")
        if self.compressed is not None:
            words += ["-z", "-f", self.compressed]
        if self.socketio:
            words.append("-E")
        return [str(build("wsload-tls" if self.tls else "wsload")), *map(str, words), str(port)]


class HttpLoad(NamedTuple):
    """What httpload is to do; see native/httpload.c."""

    path: str
    connections: int = 100
    seconds: float = 3.0
    warm_up: float = 1.0

    def command(self, port: int) -> list[str]:
        """Return its command line. Raises Unavailable."""
        words = [*("-c", self.connections), *("-d", self.seconds), *("-w", self.warm_up), *("-u", self.path)]
        return [str(build("httpload")), *map(str, words), str(port)]


class Cost(NamedTuple):
    """What came of it."""

    cpu_us: float
    """The server's CPU time for each message, in microseconds."""
    messages_per_s: float
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    connects_per_s: float


def generate(load: Load | HttpLoad, port: int, measuring: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Run wsload or httpload; what it says. `measuring` is called when the warm-up is over. Raises Unavailable when
    connections fail."""
    command = ["taskset", "-c", LOAD_CPU, *load.command(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline():
                measuring()
            printed, errors = process.communicate(timeout=load.seconds + load.warm_up + 90)
        finally:
            process.kill()
    try:
        result: dict[str, Any] = json.loads(printed)
    except ValueError:
        raise Unavailable(f"the load generator said {printed!r} {errors!r}") from None
    if result["failed"] or result["closed"]:
        raise Unavailable(f"{result['failed']} connections failed, {result['closed']} were closed")
    return result


def run_load(load: Load | HttpLoad, server: int, port: int) -> Cost:
    """Load the server, which is process `server`. Raises Unavailable when connections fail, or nothing comes back."""
    before = 0.0

    def measuring() -> None:
        nonlocal before
        before = cpu_seconds(family(server))

    result = generate(load, port, measuring)
    spent = cpu_seconds(family(server)) - before
    if not result["msgs"]:
        raise Unavailable("no message came back")
    times = result["us"]
    return Cost(
        spent * 1e6 / result["msgs"],
        result["msgs_per_s"],
        times["p50"],
        times["p99"],
        times["p999"],
        times["max"],
        result["connects_per_s"],
    )
