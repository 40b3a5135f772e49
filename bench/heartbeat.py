"""What the heartbeat costs: 19,000 silent connections, pinged every 30 s at the latest.

    python -m bench.heartbeat [--connections 19000] [--interval 30] [--seconds 60] [--busy]

Prints the share of one CPU that the server takes, how many pings were answered in each second (the spread), and how
many connections were lost: none should be. `--busy`: handlers that block for 10 ms, on a pool of 4 workers, all the
time.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import fmean, pstdev

import gows
from bench.holding import Holder, say
from bench.serving import serving
from bench.tools import Unavailable
from bench.usage import cpu_seconds, family


class Silent(gows.Handler):
    """One for each connection, with an attribute, as a user's would be."""

    def __init__(self) -> None:
        self.received = 0


class Busy(gows.Handler):
    """Blocks a worker for a while after each message, and asks for the next."""

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        time.sleep(0.01)
        ws.write_message(opcode, buff)


def serve(port: int, interval: float) -> None:
    """The server's process."""
    server = gows.Server()
    options = gows.AcceptOptions(ping_interval=interval, compression=True)

    @server.route("/")
    def silent(request: gows.Request) -> None:
        gows.accept(request, options).serve(Silent())

    @server.route("/busy")
    def busy(request: gows.Request) -> None:
        gows.accept(request, options).serve(Busy())

    server.listen_and_serve(("127.0.0.1", port))


def watch(holder: Holder, seconds: int) -> list[int]:
    """The pings that were answered in each second."""
    counts = []
    before = holder.counts["pings"]
    for second in range(seconds):
        time.sleep(1.0)
        now = holder.counts["pings"]
        counts.append(int(now - before))
        before = now
        say(f"{second + 1} of {seconds} s: {counts[-1]:,} pings answered, {holder.live:,} connections", end="\r")
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.heartbeat", description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=19000, metavar="N", help="default: %(default)s")
    parser.add_argument("--interval", type=float, default=30.0, metavar="S", help="default: %(default)s")
    parser.add_argument("--seconds", type=int, default=60, metavar="S", help="of measuring (default: %(default)s)")
    parser.add_argument("--busy", action="store_true", help="with workers that block all the time")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.serve is not None:
        serve(chosen.serve, chosen.interval)
        return 0

    def command(port: int) -> list[str]:
        return [sys.executable, "-m", "bench.heartbeat", "--serve", str(port), "--interval", str(chosen.interval)]

    try:
        with serving(command) as (pid, port), Holder(port, chosen.connections) as holder:
            holder.wait_open(120)
            busy = []
            if chosen.busy:
                for _ in range(8):
                    busy.append(gows.connect(f"ws://127.0.0.1:{port}/busy"))
                    busy[-1].write_string("x" * 32)
            say(f"{holder.live:,} connections; the first round of pings ...", end="\r")
            time.sleep(chosen.interval)
            before, began = cpu_seconds(family(pid)), time.monotonic()
            counts = watch(holder, chosen.seconds)
            share = (cpu_seconds(family(pid)) - before) / (time.monotonic() - began)
            for ws in busy:
                ws.close()
            lost = int(holder.counts["closed"] + holder.counts["failed"])
    except Unavailable as error:
        raise SystemExit(f"bench.heartbeat: {error}") from None
    least = chosen.interval * 0.75
    print(f"{chosen.connections:,} connections, pinged every {least:g} to {chosen.interval:g} s: {lost} lost")
    print(f"  {100 * share:.2f} % of one CPU, {share * 1e6 / max(fmean(counts), 1e-9):.1f} us a ping with its answer")
    print(
        f"  pings answered a second: {fmean(counts):,.0f}, from {min(counts):,} to {max(counts):,}, "
        f"deviation {pstdev(counts):,.0f}"
    )
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
