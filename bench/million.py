"""As many connections as this machine can hold, over many processes: a million, where memory allows.

    python -m bench.million [--connections 200000] [--processes N] [--interval 60] [--seconds 60]

Brings up the server (`gows.run`), then the clients, then waits for a round of pings, then broadcasts one message to
all. Prints what was held and for how long, the time to get there, user and kernel bytes of each connection (the
kernel's for both ends), pings answered, connections lost, and the time of the broadcast from its sending to its last
arrival.

A process here may hold as many connections as it has descriptors; by default one process a 19,000 on each side. The
kernel takes 7 to 11 kB for a connection with both ends on one machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import gows
from bench.holding import Holder, say
from bench.serving import fetch, serving
from bench.tools import Unavailable
from bench.usage import cpu_seconds, family, kernel_bytes, user_bytes

EACH = 18_900
"""Connections a process: SO_REUSEPORT shares them out at random, so some get a few hundred more."""
KERNEL_EACH = 11_000
"""Bytes to reckon with for both ends of a connection."""


class Member(gows.Handler):
    """One for each connection, with an attribute, as a user's would be."""

    def __init__(self) -> None:
        self.received = 0


def serve(port: int, processes: int, interval: float) -> None:
    """The server's processes. A GET of /broadcast sends one message to everybody."""
    options = gows.AcceptOptions(ping_interval=interval, compression=True)

    def make_server() -> gows.Server:
        server = gows.Server()

        @server.route("/")
        def join(request: gows.Request) -> None:
            gows.accept(request, options).serve(Member())

        @server.route("/broadcast")
        def broadcast(request: gows.Request) -> str:
            now = time.monotonic()
            server.broadcast(f"now {now:.6f}")
            return f"{now:.6f}"

        return server

    gows.run(make_server, ("127.0.0.1", port), processes=processes)


def check_machine(connections: int, processes: int) -> None:
    """SystemExit when it cannot hold that many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and connections / processes > hard - 500:
        raise SystemExit(f"bench.million: at most {hard} descriptors a process: use more than {processes} processes")
    rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(rows["MemAvailable"].split()[0]) * 1024
    need = connections * (KERNEL_EACH + 700) + processes * (12 << 20)
    if need > free:
        raise SystemExit(f"bench.million: needs about {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free")
    files = int(Path("/proc/sys/fs/file-max").read_text())
    if 2 * connections > files:
        raise SystemExit(
            f"bench.million: sysctl fs.file-max is {files:,}; {2 * connections:,} are needed for both ends"
        )


def broadcast(port: int, holder: Holder) -> float:
    """Send one message to all; seconds until the last of them had it."""
    before = holder.counts["messages"]
    sent = float(fetch(port, "/broadcast"))
    end = time.monotonic() + 300
    while holder.counts["messages"] - before < holder.live:
        if time.monotonic() > end:
            raise Unavailable(f"{holder.counts['messages'] - before:,.0f} of {holder.live:,} got the broadcast")
        time.sleep(0.1)
        say(f"broadcast: {holder.counts['messages'] - before:,.0f} of {holder.live:,}", end="\r")
    return float(holder.counts["last"]) - sent


def measure(connections: int, processes: int, interval: float, seconds: float) -> dict[str, Any]:
    """All of it. Raises Unavailable."""

    def command(port: int) -> list[str]:
        words = ["--serve", port, "--processes", processes, "--interval", interval]
        return [sys.executable, "-m", "bench.million", *map(str, words)]

    def progress(holder: Holder) -> None:
        counts = holder.counts
        passed = time.monotonic() - holder.began
        say(f"{counts['opened']:,} open, {counts['failed']:,.0f} failed, {passed:.0f} s", end="\r")

    with serving(command) as (pid, port):
        while True:  # one of them answers; until all do, the slots' queues wait
            time.sleep(1.0)
            if len(family(pid)) > processes:
                break
        with Holder(port, 200 * processes) as few:  # what a process makes once only is no connection's
            few.wait_open(60)
        time.sleep(3.0)
        user, kernel = user_bytes(family(pid)), kernel_bytes()
        in_flight = max(4, 2000 // processes)
        with Holder(port, connections, in_flight=in_flight) as holder:
            took = holder.wait_open(1800, progress)
            held = holder.live
            if not held:
                raise Unavailable("no connection was opened")
            say(f"{held:,} open after {took:.0f} s; the first round of pings ...")
            time.sleep(interval)
            pings, before, began = holder.counts["pings"], cpu_seconds(family(pid)), time.monotonic()
            while (passed := time.monotonic() - began) < seconds:
                time.sleep(1.0)
                say(f"{holder.live:,} live, {holder.counts['pings']:,} pings answered, {passed:.0f} s", end="\r")
            share = (cpu_seconds(family(pid)) - before) / passed
            rate = (holder.counts["pings"] - pings) / passed
            say("measuring memory ...")
            found = {
                "connections": held,
                "failed": int(holder.counts["failed"]),
                "seconds_to_open": took,
                "user_bytes": (user_bytes(family(pid)) - user) / held,
                "kernel_bytes": (kernel_bytes() - kernel) / held,
                "server_bytes": user_bytes(family(pid)),
                "pings_per_s": rate,
                "ping_cpus": share,
            }
            found["broadcast_seconds"] = broadcast(port, holder)
            found["lost"] = int(holder.counts["closed"])
            found["pings"] = int(holder.counts["pings"])
            say("closing ...")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.million", description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=200_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--processes", type=int, metavar="N", help="of the server (default: one for 18,900)")
    parser.add_argument("--interval", type=float, default=60.0, metavar="S", help="of pings (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="to hold them (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    processes = chosen.processes or -(-chosen.connections // EACH)
    if chosen.serve is not None:
        serve(chosen.serve, processes, chosen.interval)
        return 0
    check_machine(chosen.connections, processes)
    say(f"{processes} server processes, {os.cpu_count()} CPUs ...")
    try:
        found = measure(chosen.connections, processes, chosen.interval, chosen.seconds)
    except Unavailable as error:
        raise SystemExit(f"bench.million: {error}") from None
    held, rate = found["connections"], found["connections"] / found["seconds_to_open"]
    print(f"{held:,} connections in {processes} processes, {found['failed']} failed, {found['lost']} lost")
    print(f"  open after {found['seconds_to_open']:.0f} s ({rate:,.0f} a second)")
    print(f"  user memory {found['user_bytes']:.0f} B each, the kernel's {found['kernel_bytes']:,.0f} B, both ends")
    print(f"  the server's processes take {found['server_bytes'] / 1e6:,.0f} MB in all")
    print(
        f"  pinged every {chosen.interval * 0.75:g} to {chosen.interval:g} s: {found['pings_per_s']:,.0f} pings "
        f"answered a second, {found['ping_cpus']:.2f} CPUs; {found['pings']:,} in all"
    )
    print(f"  one broadcast to all: {found['broadcast_seconds']:.2f} s to the last")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["failed"] or found["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
