"""What idle connections cost the busy ones: 100 that echo, alone and beside 15,000 that say nothing.

    python -m bench.flat [--idle 15000] [--active 100] [--rounds 3] [--workers N] [--json FILE]

Prints CPU time a message and latencies of both, and the ratio of the medians. A collection of garbage that had to look
at all connections would show in p99.9. The server has CPU 0, the load CPU 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median

from bench.holding import Holder, say
from bench.loading import Cost, Load, run_load
from bench.serving import gows_echo, serving
from bench.tools import Unavailable


def measure(idle: int, load: Load, flags: list[str]) -> tuple[Cost, Cost]:
    """One round: the cost without, and with idle connections. Raises Unavailable."""
    with serving(gows_echo(*flags), cpus="0") as (pid, port):
        without = run_load(load, pid, port, cpus="1")
        with Holder(port, idle) as holder:
            holder.wait_open(120)
            beside = run_load(load, pid, port, cpus="1")
            if holder.live < idle:
                raise Unavailable(f"{holder.live:,} of {idle:,} connections were held")
    return without, beside


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.flat", description=__doc__.partition("\n")[0])
    parser.add_argument("--idle", type=int, default=15000, metavar="N", help="default: %(default)s")
    parser.add_argument("--active", type=int, default=100, metavar="N", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each load (default: %(default)s)")
    parser.add_argument("--workers", default="4", metavar="N", help="of gows echo (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    chosen = parser.parse_args(arguments)
    load = Load(connections=chosen.active, seconds=chosen.seconds)
    rounds = []
    try:
        for number in range(chosen.rounds):
            say(f"round {number + 1} of {chosen.rounds} ...", end="\r")
            rounds.append(measure(chosen.idle, load, ["--workers", chosen.workers]))
    except Unavailable as error:
        raise SystemExit(f"bench.flat: {error}") from None
    print(f"{chosen.active} connections echo; medians of {chosen.rounds} rounds (least to most)")
    for name, costs in (("alone", [a for a, _ in rounds]), (f"beside {chosen.idle:,} idle", [b for _, b in rounds])):
        cpu = sorted(cost.cpu_us for cost in costs)
        p50, p99, p999 = (
            median(times) / 1000 for times in zip(*((c.p50_us, c.p99_us, c.p999_us) for c in costs), strict=True)
        )
        print(
            f"  {name:20} {median(cpu):6.2f} us CPU a message ({cpu[0]:.2f} to {cpu[-1]:.2f}), "
            f"p50 {p50:.2f}, p99 {p99:.2f}, p99.9 {p999:.2f} ms"
        )
    ratio = median(b.cpu_us for _, b in rounds) / median(a.cpu_us for a, _ in rounds)
    print(f"  beside over alone: {ratio:.3f}")
    if chosen.json:
        chosen.json.write_text(json.dumps({"ratio": ratio, "rounds": rounds}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
