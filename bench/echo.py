"""The echo: CPU time a message of gows, in both variants, beside other libraries and a bare C loop, in one run.

    python -m bench.echo [--rounds 3] [--connections 1000] [--size 32] [--flight 1 16] [--only NAME ...] [--json FILE]

Every server in turn, round by round, bound to CPU 0, with the load on CPU 1. Prints the medians of the server's CPU
microseconds for each message, their spread, the ratio to the C loop, and messages and new connections a second.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

from bench.holding import say
from bench.loading import Cost, Load, run_load
from bench.serving import Command, floor, gows_echo, peer, serving
from bench.tools import Unavailable

PURE = {"GOWS_PURE": "1"}
FLOOR = "C epoll loop"

SERVERS: dict[str, tuple[Command, dict[str, str]]] = {
    FLOOR: (floor, {}),
    "gows, workers=0": (gows_echo("--workers", "0"), {}),
    "gows": (gows_echo(), {}),
    "plain, workers=0": (gows_echo("--workers", "0"), PURE),
    "plain": (gows_echo(), PURE),
    "picows": (peer("picows"), {}),
    "socketify": (peer("socketify"), {}),
    "aiohttp": (peer("aiohttp"), {}),
    "tornado": (peer("tornado"), {}),
    "websockets": (peer("websockets"), {}),
}

Costs = dict[tuple[int, str], list[Cost]]
"""By messages in flight, and server."""


def measure(names: list[str], loads: list[Load], rounds: int) -> tuple[Costs, dict[str, str]]:
    """Every server and load, so many times; and why some were not measured."""
    found: Costs = defaultdict(list)
    missing: dict[str, str] = {}
    for number in range(rounds):
        for name in names:
            if name in missing:
                continue
            say(f"round {number + 1} of {rounds}: {name} ...", end="\r")
            command, environment = SERVERS[name]
            try:
                with serving(command, cpus="0", environment=environment) as (pid, port):
                    for load in loads:
                        found[load.flight, name].append(run_load(load, pid, port, cpus="1"))
            except Unavailable as error:
                missing[name] = str(error)
    return found, missing


def report(found: Costs, missing: dict[str, str], load: Load) -> None:
    """A table for one load."""
    print(f"\n{load.connections:,} connections, {load.size} B, {load.flight} in flight each")
    print(f"{'':20}{'us CPU':>8}{'(least to most)':>18}{'to the C loop':>15}{'messages/s':>12}{'connects/s':>12}")
    least = found.get((load.flight, FLOOR))
    for name in SERVERS:
        costs = found.get((load.flight, name))
        if not costs:
            if name in missing:
                print(f"{name:20}  not measured: {missing[name]}")
            continue
        cpu = sorted(cost.cpu_us for cost in costs)
        ratio = f"{median(cpu) / median(cost.cpu_us for cost in least):.2f}" if least else "-"
        messages, connects = (median(figures) for figures in zip(*((c[1], c[5]) for c in costs), strict=True))
        spread = f"({cpu[0]:.2f} to {cpu[-1]:.2f})"
        print(f"{name:20}{median(cpu):8.2f}{spread:>18}{ratio:>15}{messages:12,.0f}{connects:12,.0f}")


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a table for each load."""
    parser = argparse.ArgumentParser(prog="python -m bench.echo", description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=1000, metavar="N", help="default: %(default)s")
    parser.add_argument("--size", type=int, default=32, metavar="BYTES", help="default: %(default)s")
    parser.add_argument("--flight", type=int, nargs="+", default=[1, 16], metavar="N", help="default: 1 16")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="of each load (default: %(default)s)")
    parser.add_argument("--only", nargs="*", choices=list(SERVERS), metavar="NAME", help=", ".join(SERVERS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    chosen = parser.parse_args(arguments)
    loads = [
        Load(connections=chosen.connections, flight=flight, size=chosen.size, seconds=chosen.seconds)
        for flight in chosen.flight
    ]
    found, missing = measure(chosen.only or list(SERVERS), loads, chosen.rounds)
    for load in loads:
        report(found, missing, load)
    if chosen.json:
        rows = [{"flight": flight, "server": name, "rounds": costs} for (flight, name), costs in found.items()]
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
