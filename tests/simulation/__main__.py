"""Runs seeds, and says which promises were not kept: `python -m tests.simulation --help`."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.run import Outcome, simulate, simulate_bounded

SHOWN = 5
"""Faults of one seed that are printed."""


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if all promises were kept."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description="Simulate several processes of a server with their clients, in virtual time; each seed is another "
        "run, and always the same one. GOWS_PURE=1 interrupts threads at more places, and is what CI runs.",
    )
    parser.add_argument("--seeds", type=int, default=2000, metavar="N", help="how many seeds (default %(default)s)")
    parser.add_argument("--from", type=int, default=0, metavar="N", dest="first", help="the first (default 0)")
    parser.add_argument("--seed", type=int, metavar="N", help="this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: print what happens, line by line")
    parser.add_argument("--steps", action="store_true", help="with --trace: each step of a thread, too")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="how many at once")
    parser.add_argument("--most", type=int, default=20, metavar="N", help="stop after so many seeds with faults")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _one(options.seed, trace=options.trace or options.steps, steps=options.steps)
    return _many(options.first, options.seeds, options.jobs, options.most)


def _one(seed: int, *, trace: bool, steps: bool) -> int:
    outcome = simulate(seed, trace=trace)
    for line in outcome.trace:
        if steps or " " in line.partition(" ")[2]:
            print(line)
    print(outcome.scenario)
    print(f"seed {seed}: {outcome.steps} steps, {outcome.seconds:.1f} s of virtual time, digest {outcome.digest}")
    return _report(outcome, most=1000)


def _report(outcome: Outcome, most: int) -> int:
    for fault in outcome.faults[:most]:
        print(f"seed {outcome.seed}: {fault.check}: {fault.text}")
    if len(outcome.faults) > most:
        print(f"seed {outcome.seed}: and {len(outcome.faults) - most} more")
    return 1 if outcome.faults else 0


def _many(first: int, count: int, jobs: int, most: int) -> int:
    began = last = time.monotonic()
    done = steps = bad = 0
    checks: Counter[str] = Counter()
    for outcome in _outcomes(range(first, first + count), jobs):
        done += 1
        steps += outcome.steps
        if outcome.faults:
            bad += 1
            checks.update({fault.check for fault in outcome.faults})
            _report(outcome, SHOWN)
            if bad >= most:
                print(f"stopped after {bad} seeds with faults")
                break
        now = time.monotonic()
        if now - last >= 5.0:
            last = now
            rate = done / (now - began)
            left = (count - done) / rate
            print(
                f"{done} of {count} seeds, {rate:.0f} a second, {left:.0f} s left, {bad} with faults", file=sys.stderr
            )
    took = time.monotonic() - began
    for check, seeds in checks.most_common():
        print(f"{check}: {seeds} seeds")
    print(f"{done} seeds from {first} on, {steps} steps, {took:.0f} s, {done / took:.0f} a second: {bad} with faults")
    if bad:
        print("look at one with: python -m tests.simulation --seed N --trace")
    return 1 if bad else 0


def _outcomes(seeds: range, jobs: int) -> Iterator[Outcome]:
    """In the order of the seeds."""
    if jobs <= 1:
        gc.freeze()
        yield from map(simulate_bounded, seeds)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=gc.freeze) as pool:
        try:
            yield from pool.map(simulate_bounded, seeds, chunksize=8)
        finally:
            pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    sys.exit(main())
