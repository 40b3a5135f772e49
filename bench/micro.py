"""Instructions for each operation of the codec, which do not depend on what else a machine does. Needs valgrind.

    python -m bench.micro [--plain] [--store] [--tolerance 0.05]

Compares with what is stored for this CPython and variant in bench/micro.json, and exits with 1 when an operation takes
more by the tolerance; with 2 when nothing is stored to compare with. `--store` stores what it counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.tools import ROOT, Unavailable
from gows.commands.check import is_compiled

STORED = ROOT / "bench" / "micro.json"
TOLERANCE = 0.05
SECONDS = 300

Counts = dict[str, int]
"""Instructions a message, by operation."""


def count(*, pure: bool) -> Counts:
    """Run bench.codec under callgrind. Raises Unavailable."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise Unavailable("there is no valgrind")
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "counts"
        words = ["--tool=callgrind", f"--callgrind-out-file={found}", "--dump-before=getpgid"]
        done = subprocess.run(
            [valgrind, *words, sys.executable, "-m", "bench.codec"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": "0", "GOWS_PURE": "1" if pure else "0"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode:
            raise Unavailable(f"bench.codec failed under valgrind: {done.stderr[-2000:]}")
        counts: Counts = {}
        # what valgrind wrote when the first mark came is the beginning; then each operation, and what lies between two
        for number, line in enumerate(done.stdout.splitlines(), 1):
            messages, name = line.split("\t")
            took = round(instructions(found.with_name(f"counts.{2 * number}")) / int(messages))
            counts[name] = min(took, counts.get(name, took))
    return counts


def stored() -> dict[str, Counts]:
    """What is stored, by environment."""
    known: dict[str, Counts] = json.loads(STORED.read_text()) if STORED.exists() else {}
    return known


def instructions(part: Path) -> int:
    """The sum of one part of callgrind's output."""
    with part.open() as lines:
        for line in lines:
            if line.startswith("summary:"):
                return int(line.split()[1])
    raise Unavailable(f"{part} has no sum")


def environment(*, pure: bool) -> str:
    """What the counts depend on beside the code."""
    major, minor = sys.version_info[:2]
    return f"CPython {major}.{minor}, {platform.machine()}, {'plain' if pure else 'compiled'}"


def compare(counts: Counts, before: Counts, tolerance: float) -> list[str]:
    """Print both; the names of what takes more than the tolerance allows, or is not stored."""
    worse = []
    print(f"{'instructions a message':40} {'now':>9} {'stored':>9}")
    for name, now in counts.items():
        then = before.get(name)
        if then is None:
            print(f"{name:40} {now:9,} {'-':>9}  not stored")
            worse.append(name)
            continue
        verdict = (
            "WORSE" if now > then * (1 + tolerance) else "better: store it" if now < then * (1 - tolerance) else ""
        )
        print(f"{name:40} {now:9,} {then:9,} {now / then - 1:+7.1%}  {verdict}".rstrip())
        if verdict == "WORSE":
            worse.append(name)
    return worse


def main(arguments: list[str] | None = None) -> int:
    """Count, and compare or store."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro", description=__doc__.partition("\n")[0])
    parser.add_argument("--plain", action="store_true", help="plain Python; default: as installed")
    parser.add_argument("--store", action="store_true", help=f"write the figures to {STORED.relative_to(ROOT)}")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, metavar="PART", help="how much more is worse (default: 0.05)"
    )
    chosen = parser.parse_args(arguments)
    pure = chosen.plain or not is_compiled("gows.session.session")
    key = environment(pure=pure)
    known = stored()
    try:
        counts = count(pure=pure)
    except (Unavailable, subprocess.TimeoutExpired) as error:
        print(f"bench.micro: {error}", file=sys.stderr)
        return 2
    if chosen.store:
        STORED.write_text(json.dumps({**known, key: counts}, indent=1, sort_keys=True) + "\n")
    print(key)
    worse = compare(counts, counts if chosen.store else known.get(key, {}), chosen.tolerance)
    if not chosen.store and key not in known:
        print(f"bench.micro: nothing is stored for {key}; --store does it", file=sys.stderr)
        return 2
    if worse:
        print(f"bench.micro: more than {chosen.tolerance:.0%} worse: {', '.join(worse)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
