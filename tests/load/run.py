"""A short load run: many connections echo for a few seconds, and not one of them may suffer.

    python -m tests.load.run [--connections N] [--seconds S] [--flight N] [--size BYTES]

No speed is judged here. The run fails when a connection could not be opened, was closed, or was sent a masked frame, or
when nothing was echoed at all. Needs a C compiler for the load generator, bench/native/wsload.c.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

from bench.tools import Unavailable, build
from tests.support.processes import Children, start_echo, stop_on_sigterm


def allow_descriptors(wanted: int) -> None:
    """Raise the soft limit on open files: the server and the load generator inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SystemExit(f"load: at most {hard} open files are allowed, {wanted} are needed")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def faults(result: dict[str, int], connections: int) -> list[str]:
    """What went wrong, by wsload's figures."""
    wrong = [f"{result[name]} connections {name}" for name in ("failed", "closed") if result[name]]
    if result["opened"] != connections:
        wrong.append(f"{result['opened']} of {connections} connections opened")
    if result["bad"]:
        wrong.append(f"{result['bad']} masked frames came from the server")
    if result["msgs"] == 0:
        wrong.append("nothing was echoed")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="A short load run against the gows echo server.")
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--flight", type=int, default=1, help="messages in flight per connection")
    parser.add_argument("--size", type=int, default=32, help="payload bytes")
    arguments = parser.parse_args()
    stop_on_sigterm()
    try:
        program = build("wsload")
    except Unavailable as error:
        raise SystemExit(f"load: {error}") from None
    allow_descriptors(arguments.connections + 200)
    figures = ["-c", arguments.connections, "-d", arguments.seconds, "-p", arguments.flight, "-s", arguments.size]
    with Children() as children:
        port = start_echo(children)
        load = children.start([str(program), *map(str, figures), str(port)], stdout=subprocess.PIPE, text=True)
        try:
            printed, _ = load.communicate(timeout=arguments.seconds + 60)
        except subprocess.TimeoutExpired:
            print("load: the load generator did not end", file=sys.stderr)
            return 1
    try:
        result = json.loads(printed.splitlines()[-1])
    except (IndexError, ValueError):
        print(f"load: no figures (exit status {load.returncode}): {printed!r}", file=sys.stderr)
        return 1
    print(f"load: {printed.splitlines()[-1]}")
    wrong = faults(result, arguments.connections)
    for fault in wrong:
        print("load FAILED:", fault)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
