"""A storm: 15,000 clients connect at once, while 100 others go on echoing.

    python -m bench.storm [--connections 15000] [--active 100] [--workers N] [--in-flight 1000]

Prints how long the storm took, and the latencies of the 100 while it went on, beside those in calm. The server has CPU
0, the load CPU 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from bench.holding import Holder, say
from bench.loading import Load, generate, run_load
from bench.serving import gows_echo, serving
from bench.tools import Unavailable


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.storm", description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=15000, metavar="N", help="default: %(default)s")
    parser.add_argument("--active", type=int, default=100, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--in-flight", type=int, default=1000, metavar="N", help="new connections at a time (default: %(default)s)"
    )
    parser.add_argument("--workers", default="4", metavar="N", help="of gows echo (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    try:
        with serving(gows_echo("--workers", chosen.workers), cpus="0") as (pid, port):
            say("in calm ...", end="\r")
            calm = run_load(Load(connections=chosen.active, seconds=3), pid, port)
            say("the storm, to see how long it takes ...", end="\r")
            with Holder(port, chosen.connections, in_flight=chosen.in_flight) as holder:
                holder.wait_open(120)
            time.sleep(3)  # the server has seen the last of them go
            say("the storm, and echoes ...", end="\r")
            load = Load(connections=chosen.active, seconds=2.0, warm_up=0.3)
            with ThreadPoolExecutor(1) as thread:
                echoing = thread.submit(generate, load, port)
                time.sleep(0.4)
                with Holder(port, chosen.connections, in_flight=chosen.in_flight) as holder:
                    stormy = echoing.result()
                    took = holder.wait_open(120)
                    held = holder.live
    except Unavailable as error:
        raise SystemExit(f"bench.storm: {error}") from None
    print(f"{held:,} of {chosen.connections:,} clients connected within {took:.1f} s")
    print(f"{chosen.active} others echo meanwhile, milliseconds:")
    print(f"  in calm  p50 {calm.p50_us / 1000:7.2f}  p99 {calm.p99_us / 1000:7.2f}  p99.9 {calm.p999_us / 1000:7.2f}")
    times = {name: stormy["us"][name] / 1000 for name in ("p50", "p99", "p999")}
    print(f"  in storm p50 {times['p50']:7.2f}  p99 {times['p99']:7.2f}  p99.9 {times['p999']:7.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
