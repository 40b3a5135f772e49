"""Everything at once: every scenario over every server, in turn, for several rounds.

    python -m bench [SCENARIO ...] [--servers NAME ...] [--rounds 3] [--quick] [--output FOLDER]

Builds what it needs: C programs, other libraries in an environment of their own, Node's ws where Node is. The server
has CPU 0, the load CPU 1. Writes results.json and results.md after every round, so that an interrupted run has what it
found, and in the end a plot for each scenario. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import os
import resource
import sys
import time
from pathlib import Path

from bench import report
from bench.holding import say
from bench.scenarios import SCENARIOS, Settings
from bench.servers import FLOOR, SERVERS
from bench.tools import ROOT, Unavailable

QUICK_SCENARIOS = ("echo", "echo-16", "echo-16k", "fanout-1000", "accept", "idle")
QUICK_SERVERS = (FLOOR, "gows, workers=0", "gows", "plain, workers=0", "picows", "websockets")
QUICK = Settings(seconds=1.0, warm_up=0.3, idle=3000, idle_tls=500)


def choice(kind: str, known: dict[str, object], chosen: list[str]) -> list[str]:
    """Those that were named; raises SystemExit for one that there is not."""
    for name in chosen:
        if name not in known:
            raise SystemExit(f"bench: there is no {kind} {name!r}; there are: {', '.join(known)}")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """Measure all that was asked for; 1 when nothing could be."""
    listed = "\n".join(f"  {name:14} {scenario.title}" for name, scenario in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__.partition("\n")[0],
        epilog=f"scenarios:\n{listed}\n\nservers: {', '.join(SERVERS)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="default: all")
    parser.add_argument("--servers", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 3")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each load (default: 2)")
    parser.add_argument("--quick", action="store_true", help="one short round of the main ones, in under 3 minutes")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "bench" / "results", metavar="FOLDER", help="default: bench/results"
    )
    chosen = parser.parse_args(arguments)
    names = choice("scenario", dict(SCENARIOS), chosen.scenarios) or list(
        QUICK_SCENARIOS if chosen.quick else SCENARIOS
    )
    servers = choice("server", dict(SERVERS), chosen.servers or []) or list(QUICK_SERVERS if chosen.quick else SERVERS)
    rounds = (1 if chosen.quick else 3) if chosen.rounds is None else chosen.rounds
    if rounds < 1 or (chosen.seconds is not None and chosen.seconds <= 0):
        raise SystemExit("bench: rounds and seconds must be more than 0")
    settings = QUICK if chosen.quick else Settings()
    if chosen.seconds is not None:
        settings = settings._replace(seconds=chosen.seconds)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found: dict[str, report.Rounds] = {name: {} for name in names}
    missing: dict[str, dict[str, str]] = {name: {} for name in names}
    facts = {
        "date": datetime.date.today().isoformat(),
        "machine": report.machine(),
        "command": " ".join(["python -m bench", *(sys.argv[1:] if arguments is None else arguments)]),
        "rounds": rounds,
    }
    began = time.monotonic()
    asked = [(name, server) for name in names for server in servers if server in SCENARIOS[name].servers]
    for number in range(rounds):
        for done, (name, server) in enumerate(asked, number * len(asked) + 1):
            if server in missing[name]:
                continue
            took = time.monotonic() - began
            say(f"[{took:5.0f} s] {done} of {rounds * len(asked)}: round {number + 1}, {name}, {server}")
            try:
                figures = SCENARIOS[name].measure(server, settings)
                found[name].setdefault(server, []).append(figures)
            except Unavailable as error:
                missing[name][server] = str(error)
                say(f"  not measured: {error}")
        report.write(chosen.output, found, missing, facts)
    report.plots(chosen.output, found)
    print((chosen.output / "results.md").read_text())
    print(f"took {time.monotonic() - began:.0f} s; written to {os.path.relpath(chosen.output)}")
    return 0 if any(found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
