"""What metrics cost: `gows echo` with and without them, in turn.

    python -m bench.metrics [--rounds 5] [--workers 0]

Prints CPU time a message at 1,000 connections, medians and spread, and the ratio; while messages flow, the page is
asked for once a second. The server has CPU 0, the load CPU 1.
"""

from __future__ import annotations

import argparse
import sys
import threading
import urllib.request
from statistics import median

from bench.holding import say
from bench.loading import Load, run_load
from bench.serving import gows_echo, serving
from bench.tools import Unavailable


def ask(port: int, over: threading.Event) -> None:
    """Be Prometheus."""
    while not over.wait(1.0):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/-/metrics", timeout=10).read()


def measure(flags: list[str], load: Load, *, asked: bool) -> float:
    """Microseconds of CPU a message. Raises Unavailable."""
    over = threading.Event()
    with serving(gows_echo(*flags), cpus="0") as (pid, port):
        prometheus = threading.Thread(target=ask, args=(port, over))
        if asked:
            prometheus.start()
        try:
            return run_load(load, pid, port).cpu_us
        finally:
            over.set()
            if asked:
                prometheus.join()


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.metrics", description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=1000, metavar="N", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="of each load (default: %(default)s)")
    parser.add_argument("--workers", default="0", metavar="N", help="of gows echo (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    load = Load(connections=chosen.connections, seconds=chosen.seconds)
    found: dict[bool, list[float]] = {False: [], True: []}
    try:
        for number in range(chosen.rounds):
            say(f"round {number + 1} of {chosen.rounds} ...", end="\r")
            for on in (False, True):
                flags = ["--workers", chosen.workers, *(["--metrics"] if on else [])]
                found[on].append(measure(flags, load, asked=on))
    except Unavailable as error:
        raise SystemExit(f"bench.metrics: {error}") from None
    for on, name in ((False, "without"), (True, "with metrics")):
        times = sorted(found[on])
        print(f"{name:14}{median(times):6.2f} us CPU a message ({times[0]:.2f} to {times[-1]:.2f})")
    print(f"with over without: {median(found[True]) / median(found[False]):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
