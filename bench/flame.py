"""Where a server's time goes: a flame graph, and what each part takes of a message.

    python -m bench.flame [echo | churn] [--plain] [--seconds 5] [--output FILE.svg]

Samples `gows echo --workers 0` with perf(1), the kernel too, under 1,000 connections that echo 32 B, or under clients
that connect, echo once, close, and come again. Prints microseconds of CPU a message, by function, with what it calls.
The server has CPU 0, the load CPU 1. Needs perf (Debian: linux-perf), and the right to use it (root, or
kernel.perf_event_paranoid 0).

A profiler that stops the process to look at it would not do: it finds it in system calls more often than it is there.
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
from xml.sax.saxutils import escape

from bench.loading import Load, run_load
from bench.servers import running
from bench.tools import Unavailable

RATE = 499
"""Samples a second of CPU time; no divisor of what the kernel's clock does."""
STACK = 8192
"""Bytes of the stack that are kept of a sample, to be unwound later."""
WIDTH, ROW = 1200, 15
"""Pixels of the picture, and of a function in it."""
LEAST = 0.01
"""The part of the whole from which on a function is printed."""

LOADS = {"echo": Load(), "churn": Load(connections=100, mode="churn")}

BELOW = ("thread_run", "Py_BytesMain")
"""Where a thread's work begins."""
PLUMBING = re.compile(
    r"_?Py\w*Vectorcall\w*|\w*vectorcall\w*|_PyEval_Vector|_PyFunction\w*|entry_SYSCALL\w*|do_syscall_64"
)
"""Calls of calls, left out."""

Stacks = dict[tuple[str, ...], int]
"""How often each was seen; functions with their library, what calls first."""


def sample(kind: str, server: str, seconds: float) -> tuple[float, str]:
    """Microseconds of CPU a message, and what perf script says of the samples. Raises Unavailable."""
    perf = shutil.which("perf")
    if perf is None:
        raise Unavailable("there is no perf")
    load = LOADS[kind]._replace(seconds=seconds + 1.0, warm_up=1.0)
    with tempfile.TemporaryDirectory() as folder, running(server) as (pid, port):
        data = str(Path(folder) / "perf.data")
        words = ["-q", "-F", str(RATE), "-e", "cpu-clock", "--call-graph", f"dwarf,{STACK}", "-o", data, "-p", str(pid)]
        with subprocess.Popen(
            [perf, "record", *words, "--", "sleep", f"{seconds:g}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as record:
            cost = run_load(load, pid, port)
            _, said = record.communicate(timeout=60)
        if record.returncode:
            raise Unavailable(f"perf failed: {said.strip() or record.returncode}")
        script = subprocess.run(
            [perf, "script", "-i", data, "-F", "comm,ip,sym,dso"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    return cost.cpu_us, script.stdout


def stacks(script: str) -> Stacks:
    """What `perf script` says, without what is the same in all of them."""
    found: Counter[tuple[str, ...]] = Counter()
    for block in script.split("\n\n"):
        frames = []
        for line in block.splitlines()[1:]:  # what was running comes first, what called it after it
            match = re.match(r"\s*[0-9a-f]+ (\S+) \((.*)\)$", line)
            if match is None or match[2] == "inlined":
                continue
            if match[1] in BELOW:
                break
            if not PLUMBING.fullmatch(match[1]):
                frames.append(f"{plain_name(match[1])} ({match[2].rpartition('/')[2].strip('[]')})")
        if frames:
            found[tuple(reversed(frames))] += 1
    return found


def plain_name(symbol: str) -> str:
    """A function's name as it stands in the source: Cython puts the lengths of all parts into it."""
    match = re.match(r"__pyx_[a-z]+_(?=\d)", symbol)
    if match is None:
        return symbol
    rest, parts = symbol[match.end() :], []
    while match := re.match(r"(\d+)[a-zA-Z_]", rest):
        begin = len(match[1])
        end = begin + int(match[1])
        if rest[end : end + 1] != "_":  # a number that is no length: which wrapper it is
            break
        parts.append(rest[begin:end])
        rest = rest[end + 1 :]
    return ".".join([*parts[-1:], re.sub(r"^\d+", "", rest)])


def shares(found: Stacks) -> dict[str, float]:
    """By function, the part of all samples in which it runs, or what it calls does."""
    counts: Counter[str] = Counter()
    for stack, count in found.items():
        for name in set(stack):
            counts[name] += count
    total = sum(found.values())
    return {name: count / total for name, count in counts.most_common()}


def draw(found: Stacks, title: str) -> str:
    """A flame graph in SVG: what is called stands on what calls it, as wide as its part of the time."""
    total = sum(found.values())
    height = 24 + max(map(len, found), default=0) * ROW
    rows = [f'<text x="4" y="14" font-size="13">{escape(title)}</text>']

    def box(frames: Stacks, level: int, left: float) -> None:
        by_name: dict[str, Stacks] = {}
        for stack, count in frames.items():
            if len(stack) > level:
                by_name.setdefault(stack[level], {})[stack] = count
        for name, below in by_name.items():
            part = sum(below.values()) / total
            width = part * WIDTH
            if width >= 1.0:
                y = height - (level + 1) * ROW
                label = name.partition(" (")[0][: int(width / 6.2)] if width > 20 else ""
                rows.append(f"<g><title>{escape(name)}: {part:.1%}</title>")
                place = f'x="{left:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}"'
                rows.append(f'<rect {place} fill="{colour(name)}"/>')
                rows.append(f'<text x="{left + 2:.1f}" y="{y + 11}">{escape(label)}</text></g>')
                box(below, level + 1, left)
            left += width

    box(found, 0, 0.0)
    font = 'font-family="monospace" font-size="10"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {font}>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *rows, "</svg>", ""])


def colour(name: str) -> str:
    """The kernel's, gows' own, the interpreter's and the others'."""
    library = name.rpartition(" (")[2]
    if library.startswith("kernel.kallsyms"):
        return "#d8d8d8"
    if "cpython-" in library:
        return "#9cc4e4"
    return "#e8b080" if library.startswith("libpython") else "#c8e0b0"


def main(arguments: list[str] | None = None) -> int:
    """Sample, print, and draw."""
    parser = argparse.ArgumentParser(prog="python -m bench.flame", description=__doc__.partition("\n")[0])
    parser.add_argument("kind", nargs="?", choices=LOADS, default="echo", help="default: %(default)s")
    parser.add_argument("--plain", action="store_true", help="plain Python; default: as installed")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of sampling (default: %(default)g)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the picture goes (default: none is made)")
    chosen = parser.parse_args(arguments)
    server = "plain, workers=0" if chosen.plain else "gows, workers=0"
    try:
        cpu_us, script = sample(chosen.kind, server, chosen.seconds)
    except Unavailable as error:
        print(f"bench.flame: {error}", file=sys.stderr)
        return 1
    found = stacks(script)
    title = f"{server}, {chosen.kind}: {cpu_us:.1f} us of CPU a message while it was sampled"
    print(title)
    if chosen.output is not None:
        chosen.output.write_text(draw(found, title))
    print(f"{'us':>8} {'part':>6}")
    for name, part in shares(found).items():
        if part >= LEAST:
            print(f"{part * cpu_us:8.2f} {part:6.1%}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
