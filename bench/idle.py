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
import sys
import time
from pathlib import Path

from bench.holding import Holder, say
from bench.serving import Command, gows_echo, peer, serving
from bench.tools import Unavailable
from bench.usage import family, kernel_bytes, user_bytes

PURE = {"GOWS_PURE": "1"}

SERVERS: dict[str, tuple[Command, dict[str, str]]] = {
    "gows": (gows_echo("--compression"), {}),
    "gows, plain Python": (gows_echo("--compression"), PURE),
    "gows, workers=0": (gows_echo("--compression", "--workers", "0"), {}),
    "websockets": (peer("websockets"), {}),
    "aiohttp": (peer("aiohttp"), {}),
    "picows": (peer("picows"), {}),
    "socketify": (peer("socketify"), {}),
}
SETTLE_SECONDS = 2.0


def measure(command: Command, environment: dict[str, str], connections: int) -> dict[str, float]:
    """Hold the connections; user and kernel bytes of each. Raises Unavailable."""
    with serving(command, environment=environment) as (pid, port):
        with Holder(port, 50) as few:  # what a server makes once only is no connection's
            few.wait_open(20)
        time.sleep(SETTLE_SECONDS)
        user, kernel = user_bytes(family(pid)), kernel_bytes()
        with Holder(port, connections) as holder:
            holder.wait_open(120)
            time.sleep(SETTLE_SECONDS)
            held = holder.live
            if held < connections:
                raise Unavailable(f"it held {held:,} of {connections:,} connections")
            return {
                "user": (user_bytes(family(pid)) - user) / held,
                "kernel": (kernel_bytes() - kernel) / held,
            }


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=15000, metavar="N", help="default: %(default)s")
    parser.add_argument("--only", nargs="*", choices=list(SERVERS), metavar="NAME", help=", ".join(SERVERS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    chosen = parser.parse_args(arguments)
    results: dict[str, dict[str, float]] = {}
    print(f"{chosen.connections:,} idle connections, bytes for each")
    print(f"{'':24}{'user':>8}{'kernel':>8}")
    for name in chosen.only or SERVERS:
        say(f"{name} ...", end="\r")
        try:
            results[name] = found = measure(*SERVERS[name], chosen.connections)
        except Unavailable as error:
            print(f"{name:24}  not measured: {error}")
            continue
        print(f"{name:24}{found['user']:8,.0f}{found['kernel']:8,.0f}", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
