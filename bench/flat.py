"""What idle connections cost the busy ones: 100 that echo, alone and beside 15,000 that say nothing.

    python -m bench.flat [--idle 15000] [--active 100] [--rounds 3] [--workers N] [--json FILE]

Prints CPU time a message and latencies of both, and the ratio of the medians; then how long the server paused for
garbage: in full collections of its own while the idle ones connected and the others echoed, and in one that is asked
for, with all connections held. The server has CPU 0, the load CPU 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import gows
from bench.holding import holding, say
from bench.loading import Cost, Load, run_load
from bench.serving import fetch, serving
from bench.tools import Unavailable
from gows.commands.echo import Echo
from gows.processes.interpreter import dedicate


def serve(port: int, workers: int) -> None:
    """The server's process: what `gows echo` does, and a page that tells of pauses, collects, and forgets them."""
    server = gows.Server(workers=workers)
    pauses: list[float] = []
    began = 0.0

    def clock(phase: str, info: dict[str, Any]) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
        elif info["generation"] == 2:
            pauses.append((time.perf_counter() - began) * 1000)

    gc.callbacks.append(clock)

    @server.route("/")
    def echo(request: gows.Request) -> None:
        gows.accept(request).serve(Echo())

    @server.route("/collect")
    def collect(request: gows.Request) -> str:
        own = max(pauses, default=0.0)
        gc.collect()
        forced = pauses[-1]
        pauses.clear()
        return json.dumps({"own": own, "forced": forced})

    dedicate()
    server.listen_and_serve(("127.0.0.1", port))


def measure(idle: int, load: Load, workers: int) -> tuple[Cost, Cost, dict[str, float]]:
    """One round: the cost without, and with idle connections; pauses in milliseconds. Raises Unavailable."""

    def command(port: int) -> list[str]:
        return [sys.executable, "-m", "bench.flat", "--serve", str(port), "--workers", str(workers)]

    with serving(command, cpus="0") as (pid, port):
        without = run_load(load, pid, port)
        fetch(port, "/collect")
        with holding(port, idle):
            beside = run_load(load, pid, port)
            pauses: dict[str, float] = json.loads(fetch(port, "/collect"))
    return without, beside, pauses


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.flat", description=__doc__.partition("\n")[0])
    parser.add_argument("--idle", type=int, default=15000, metavar="N", help="default: %(default)s")
    parser.add_argument("--active", type=int, default=100, metavar="N", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each load (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="of the server (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.serve is not None:
        serve(chosen.serve, chosen.workers)
        return 0
    load = Load(connections=chosen.active, seconds=chosen.seconds)
    rounds = []
    try:
        for number in range(chosen.rounds):
            say(f"round {number + 1} of {chosen.rounds} ...", end="\r")
            rounds.append(measure(chosen.idle, load, chosen.workers))
    except Unavailable as error:
        raise SystemExit(f"bench.flat: {error}") from None
    print(f"{chosen.active} connections echo; medians of {chosen.rounds} rounds (least to most)")
    for name, costs in (
        ("alone", [a for a, _, _ in rounds]),
        (f"beside {chosen.idle:,} idle", [b for _, b, _ in rounds]),
    ):
        cpu = sorted(cost.cpu_us for cost in costs)
        p50, p99, p999 = (
            median(times) / 1000 for times in zip(*((c.p50_us, c.p99_us, c.p999_us) for c in costs), strict=True)
        )
        print(
            f"  {name:20} {median(cpu):6.2f} us CPU a message ({cpu[0]:.2f} to {cpu[-1]:.2f}), "
            f"p50 {p50:.2f}, p99 {p99:.2f}, p99.9 {p999:.2f} ms"
        )
    ratio = median(b.cpu_us for _, b, _ in rounds) / median(a.cpu_us for a, _, _ in rounds)
    print(f"  beside over alone: {ratio:.3f}")
    own, forced = (sorted(pauses[name] for _, _, pauses in rounds) for name in ("own", "forced"))
    print(
        f"  pauses of full collections, ms: at most {own[-1]:.1f} of its own accord; "
        f"when asked {median(forced):.1f} ({forced[0]:.1f} to {forced[-1]:.1f})"
    )
    if chosen.json:
        chosen.json.write_text(json.dumps({"ratio": ratio, "rounds": rounds}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
