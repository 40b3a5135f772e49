"""Where a server's time goes: a flame graph, and what each part takes of a message.

    python -m bench.flame [echo | churn] [--plain] [--seconds 8] [--output FILE.svg]

Samples `gows echo --workers 0` with py-spy, native frames too, under 1,000 connections that echo 32 B, or under clients
that connect, echo once, close, and come again. The kernel's part shows as recv, send, accept4 and epoll_wait. Prints
microseconds of CPU a message, by function, with what it calls. The server has CPU 0, the load CPU 1. Needs py-spy, and
the right to look into a process (root, or kernel.yama.ptrace_scope 0).
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bench.loading import Load, run_load
from bench.servers import running
from bench.tools import Unavailable

RATE = 500
"""Samples a second."""
LEAST = 0.02
"""The part of the whole from which on a function is printed."""

LOADS = {"echo": Load(), "churn": Load(connections=100, mode="churn")}


def profiler() -> str:
    """The path of py-spy. Raises Unavailable."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise Unavailable("py-spy is not installed (pip install 'gows[bench]')")
    return found


def sample(kind: str, server: str, seconds: float, form: str, output: Path) -> float:
    """Have py-spy write `output` while the load runs; microseconds of CPU a message. Raises Unavailable."""
    load = LOADS[kind]._replace(seconds=seconds + 2.0, warm_up=0.5)
    with running(server) as (pid, port):
        words = [
            "--native",
            "--rate",
            str(RATE),
            "--duration",
            f"{seconds:g}",
            "--format",
            form,
            "--output",
            str(output),
        ]
        spy = subprocess.Popen(
            [profiler(), "record", "--pid", str(pid), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            cost = run_load(load, pid, port)
            _, said = spy.communicate(timeout=60)
        finally:
            spy.kill()
            spy.wait()
        if spy.returncode:
            raise Unavailable(f"py-spy failed: {said.strip().splitlines()[-1] if said.strip() else spy.returncode}")
    return cost.cpu_us


def shares(raw: str) -> dict[str, float]:
    """By function, the part of all samples in which it runs, or what it calls does."""
    found: Counter[str] = Counter()
    total = 0
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        total += int(count)
        names = {re.sub(r"(:\d+)?\)$", ")", frame.strip()) for frame in stack.split(";")}
        for name in names:
            found[name] += int(count)
    return {name: count / total for name, count in found.most_common()} if total else {}


def main(arguments: list[str] | None = None) -> int:
    """Sample twice: for the picture, and for the list."""
    parser = argparse.ArgumentParser(prog="python -m bench.flame", description=__doc__.partition("\n")[0])
    parser.add_argument("kind", nargs="?", choices=LOADS, default="echo", help="default: %(default)s")
    parser.add_argument("--plain", action="store_true", help="plain Python; default: as installed")
    parser.add_argument(
        "--seconds", type=float, default=8.0, metavar="S", help="of each sampling (default: %(default)g)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the picture goes (default: none is made)")
    chosen = parser.parse_args(arguments)
    server = "plain, workers=0" if chosen.plain else "gows, workers=0"
    try:
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / "stacks"
            cpu_us = sample(chosen.kind, server, chosen.seconds, "raw", raw)
            found = shares(raw.read_text())
        if chosen.output is not None:
            sample(chosen.kind, server, chosen.seconds, "flamegraph", chosen.output)
    except Unavailable as error:
        print(f"bench.flame: {error}", file=sys.stderr)
        return 1
    print(f"{server}, {chosen.kind}: {cpu_us:.2f} us of CPU a message while it was sampled")
    print(f"{'us':>8} {'part':>6}")
    for name, part in found.items():
        if part >= LEAST:
            print(f"{part * cpu_us:8.2f} {part:6.1%}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
