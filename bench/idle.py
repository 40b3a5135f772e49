"""What an idle connection costs in memory: gows beside other libraries, in one run.

    python -m bench.idle [--connections 15000] [--only NAME ...] [--json FILE]

Each server in turn holds the connections, which say nothing; gows with compression negotiated, its heartbeat on and a
handler object with an attribute for each. Prints bytes of user memory a connection (growth of the proportional set
size), and of the kernel's objects for both ends of it (growth of slab and the like, which holds for the machine, so let
nothing else run). Needs a C compiler, and so many descriptors a process as there are connections.
"""

from __future__ import annotations

import argparse
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench.holding import holding, say
from bench.loading import Load
from bench.servers import DEFLATE, FLOOR, PLAIN, SERVERS, TLS, running
from bench.tools import Unavailable
from bench.usage import family, kernel_bytes, user_bytes

NAMES = [name for name in SERVERS if name != FLOOR]
SETTLE_SECONDS = 2.0


def idle_bytes(name: str, connections: int, mode: str = PLAIN) -> dict[str, float]:
    """Hold the connections; user and kernel bytes of each. Raises Unavailable."""
    if mode == PLAIN and SERVERS[name].kind == "gows":
        mode = DEFLATE  # which costs an idle one nothing
    with running(name, mode, cpus=None) as (pid, port):

        def held(count: int) -> AbstractContextManager[None]:
            return _holding_tls(port, count) if mode == TLS else holding(port, count)

        with held(50):  # what a server makes once only is no connection's
            time.sleep(SETTLE_SECONDS)
        time.sleep(SETTLE_SECONDS)
        user, kernel = user_bytes(family(pid)), kernel_bytes()
        with held(connections):
            time.sleep(SETTLE_SECONDS)
            return {
                "user": (user_bytes(family(pid)) - user) / connections,
                "kernel": (kernel_bytes() - kernel) / connections,
            }


@contextmanager
def _holding_tls(port: int, connections: int) -> Iterator[None]:
    load = Load(connections=connections, seconds=300, warm_up=0.0, mode="idle", tls=True)
    with subprocess.Popen(load.command(port), stdout=subprocess.PIPE) as held:
        assert held.stdout is not None
        try:
            ready, _, _ = select.select([held.stdout], [], [], 60)
            if not ready or held.stdout.readline() != b"measuring\n":
                raise Unavailable(f"it did not hold {connections:,} connections")
            yield
        finally:
            held.terminate()


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=15000, metavar="N", help="default: %(default)s")
    parser.add_argument("--only", nargs="*", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    chosen = parser.parse_args(arguments)
    results: dict[str, dict[str, float]] = {}
    print(f"{chosen.connections:,} idle connections, bytes for each")
    print(f"{'':24}{'user':>8}{'kernel':>8}")
    for name in chosen.only or NAMES:
        say(f"{name} ...", end="\r")
        try:
            results[name] = found = idle_bytes(name, chosen.connections)
        except Unavailable as error:
            print(f"{name:24}  not measured: {error}")
            continue
        print(f"{name:24}{found['user']:8,.0f}{found['kernel']:8,.0f}", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
