"""Handlers that take long, and what those wait who have nothing to do with them.

    python -m bench.stuck [--kind sleep|burn] [--workers N]

100 connections echo. Meanwhile, with "sleep", one other's handler is stuck for 100 ms every second; with "burn", two
others' handlers compute in Python without end, so that the loop has to wait for the interpreter lock. Prints latencies.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
import time

import gows
from bench.loading import Load, run_load
from bench.serving import serving
from bench.tools import Unavailable
from gows.commands.echo import Echo
from gows.processes.interpreter import dedicate

REQUEST = (
    b"GET /%s HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MESSAGE = b"\x81\x82\0\0\0\0go"
STUCK_SECONDS = 0.1
BURNERS = 2


class Sleeper(gows.Handler):
    """Is stuck for a tenth of a second."""

    __slots__ = ()

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        time.sleep(STUCK_SECONDS)
        ws.write_string("done")


class Burner(gows.Handler):
    """Computes for a tenth of a second."""

    __slots__ = ()

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        end = time.perf_counter() + STUCK_SECONDS
        while time.perf_counter() < end:
            sum(n * n for n in range(100))
        ws.write_string("done")


def serve(port: int, workers: int) -> None:
    """The server's process."""
    server = gows.Server(workers=workers)
    server.add_route("/", lambda request: gows.accept(request).serve(Echo()))
    server.add_route("/sleep", lambda request: gows.accept(request).serve(Sleeper()))
    server.add_route("/burn", lambda request: gows.accept(request).serve(Burner()))
    dedicate()
    server.listen_and_serve(("127.0.0.1", port))


def bother(port: int, kind: str, pause: float, ended: threading.Event) -> None:
    """Have one handler busy, again and again."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(REQUEST % kind.encode())
        sock.recv(4096)
        while not ended.is_set():
            sock.sendall(MESSAGE)
            if not sock.recv(100):
                return
            ended.wait(pause)


def measure(kind: str, workers: int, seconds: float, pure: bool) -> dict[str, float]:
    """Latencies of the others, microseconds. Raises Unavailable."""

    def command(port: int) -> list[str]:
        return [sys.executable, "-m", "bench.stuck", "--serve", str(port), "--workers", str(workers)]

    ended = threading.Event()
    with serving(command, cpus="0", environment={"GOWS_PURE": "1"} if pure else {}) as (pid, port):
        count, pause = (1, 1 - STUCK_SECONDS) if kind == "sleep" else (BURNERS, 0.0)
        busy = [threading.Thread(target=bother, args=(port, kind, pause, ended)) for _ in range(count)]
        for thread in busy:
            thread.start()
        try:
            cost = run_load(Load(connections=100, seconds=max(seconds, 3.0), warm_up=0.5), pid, port)
        finally:
            ended.set()
            for thread in busy:
                thread.join()
    return cost._asdict()


def stuck_figures(name: str, kind: str, seconds: float) -> dict[str, float]:
    """The same for a server by its name in the tables."""
    return measure(kind, 0 if name.endswith("workers=0") else 4, seconds, name.startswith("plain"))


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.stuck", description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", choices=("sleep", "burn"), default="sleep")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="default: %(default)s")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.serve is not None:
        serve(chosen.serve, chosen.workers)
        return 0
    try:
        found = measure(chosen.kind, chosen.workers, chosen.seconds, os.environ.get("GOWS_PURE", "0") not in ("", "0"))
    except Unavailable as error:
        raise SystemExit(f"bench.stuck: {error}") from None
    times = "  ".join(f"{name} {found[f'{name}_us'] / 1000:.2f}" for name in ("p50", "p99", "p999", "max"))
    print(f"100 connections echo, ms: {times}; {found['messages_per_s']:,.0f} messages a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
