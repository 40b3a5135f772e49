"""Handlers that take long, and what those wait who have nothing to do with them.

    python -m bench.stuck [--kind sleep|burn] [--workers N]

100 connections echo. Meanwhile, with "sleep", one other's handler is stuck for 100 ms every second; with "burn", two
others' handlers compute in Python without end, so that the loop has to wait for the interpreter lock. Prints latencies.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time

import gows
from bench.loading import Load, run_load
from bench.servers import Server
from bench.serving import serving
from bench.tools import Unavailable
from gows.commands.echo import Echo
from gows.processes.interpreter import dedicate

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
    with gows.connect(f"ws://127.0.0.1:{port}/{kind}") as ws:
        while not ended.is_set():
            ws.write_string("go")
            ws.recv(10)
            ended.wait(pause)


def latencies(server: Server, kind: str, seconds: float) -> dict[str, float]:
    """What the others meet, microseconds. Raises Unavailable."""

    def command(port: int) -> list[str]:
        return [sys.executable, "-m", "bench.stuck", *server.flags, "--serve", str(port)]

    ended = threading.Event()
    with serving(command, cpus="0", environment=server.environment) as (pid, port):
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
        found = latencies(Server("gows", ("--workers", str(chosen.workers))), chosen.kind, chosen.seconds)
    except Unavailable as error:
        raise SystemExit(f"bench.stuck: {error}") from None
    times = "  ".join(f"{name} {found[f'{name}_us'] / 1000:.2f}" for name in ("p50", "p99", "p999", "max"))
    print(f"100 connections echo, ms: {times}; {found['messages_per_s']:,.0f} messages a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
