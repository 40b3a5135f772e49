"""What clients in asyncio cost: gows.aio.connect beside the websockets library, in one run.

    python -m bench.async_client [--connections 100] [--messages 30000] [--idle 10000] [--rounds 3] [--json FILE]

An echo server of gows runs in a process of its own, and each library in another. Prints the microseconds of CPU time
that the client's process takes for a message that goes there and back, one in flight on each connection (the median of
the rounds), and the bytes of user memory of an idle connection. Needs so many descriptors a process as there are
connections.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench.servers import PLAIN, running
from bench.tools import Unavailable
from bench.usage import user_bytes

SERVER = "gows, workers=0"
MESSAGE = "x" * 32
AT_ONCE = 100
"""Connections that are opened at the same time."""
SETTLE_SECONDS = 1.0

Connect = Callable[[AsyncExitStack, str], Awaitable[Any]]


async def connect_gows(stack: AsyncExitStack, url: str) -> Any:
    """Connect with gows."""
    from gows import aio

    return await stack.enter_async_context(aio.connect(url, compression=False, proxy=None))


async def connect_websockets(stack: AsyncExitStack, url: str) -> Any:
    """Connect with the websockets library, without its keepalive task."""
    from websockets.asyncio.client import connect

    return await stack.enter_async_context(connect(url, compression=None, proxy=None, ping_interval=None))


LIBRARIES: dict[str, Connect] = {"gows": connect_gows, "websockets": connect_websockets}


async def open_all(stack: AsyncExitStack, connect: Connect, url: str, count: int) -> list[Any]:
    """Open so many connections."""
    found: list[Any] = []
    while len(found) < count:
        found += await asyncio.gather(*(connect(stack, url) for _ in range(min(AT_ONCE, count - len(found)))))
    return found


async def echo(connect: Connect, url: str, connections: int, messages: int) -> float:
    """Send messages to and fro; return the seconds of CPU time of one."""
    each = messages // connections
    async with AsyncExitStack() as stack:
        clients = await open_all(stack, connect, url, connections)

        async def talk(ws: Any) -> None:
            for _ in range(each):
                await ws.send(MESSAGE)
                await ws.recv()

        await asyncio.gather(*(ws.send(MESSAGE) for ws in clients))
        await asyncio.gather(*(ws.recv() for ws in clients))
        began = time.process_time()
        await asyncio.gather(*(talk(ws) for ws in clients))
        return (time.process_time() - began) / (each * connections)


async def idle(connect: Connect, url: str, connections: int) -> float:
    """Hold connections; return the bytes of user memory of one."""
    async with AsyncExitStack() as stack:
        async with AsyncExitStack() as first:
            await open_all(first, connect, url, 50)  # what is made once only is no connection's
        gc.collect()
        before = user_bytes([os.getpid()])
        kept = await open_all(stack, connect, url, connections)
        gc.collect()
        await asyncio.sleep(SETTLE_SECONDS)
        assert len(kept) == connections
        return (user_bytes([os.getpid()]) - before) / connections


def measure(library: str, what: str, url: str, *numbers: int, uvloop: bool) -> float:
    """Measure in a process of its own."""
    flags = ["--uvloop"] if uvloop else []
    command = [sys.executable, "-m", "bench.async_client", "--child", library, what, url, *map(str, numbers), *flags]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=600).stdout)


def child(library: str, what: str, url: str, numbers: list[int], *, uvloop: bool) -> None:
    """Measure here, and print the figure."""
    connect = LIBRARIES[library]
    coroutine = echo(connect, url, *numbers) if what == "echo" else idle(connect, url, *numbers)
    gc.freeze()
    if uvloop:
        import uvloop as other

        print(other.run(coroutine))
    else:
        print(asyncio.run(coroutine))


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.async_client", description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=100, metavar="N", help="that talk; default: %(default)s")
    parser.add_argument("--messages", type=int, default=30_000, metavar="N", help="in a round; default: %(default)s")
    parser.add_argument("--idle", type=int, default=10_000, metavar="N", help="idle ones; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--uvloop", action="store_true", help="in uvloop; default: asyncio's own loop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child:
        library, what, url, *numbers = chosen.child
        child(library, what, url, list(map(int, numbers)), uvloop=chosen.uvloop)
        return 0
    results: dict[str, dict[str, float]] = {name: {} for name in LIBRARIES}
    try:
        with running(SERVER, PLAIN, cpus=None) as (_, port):
            url = f"ws://127.0.0.1:{port}/"
            rounds: dict[str, list[float]] = {name: [] for name in LIBRARIES}
            for _ in range(chosen.rounds):
                for name, figures in rounds.items():
                    counts = chosen.connections, chosen.messages
                    figures.append(measure(name, "echo", url, *counts, uvloop=chosen.uvloop) * 1e6)
            for name, figures in rounds.items():
                results[name]["echo"] = statistics.median(figures)
                results[name]["idle"] = measure(name, "idle", url, chosen.idle, uvloop=chosen.uvloop)
    except Unavailable as error:
        print(f"not measured: {error}")
        return 1
    print(f"{'':16}{'µs a message':>14}{'bytes, idle':>14}")
    for name, found in results.items():
        print(f"{name:16}{found['echo']:14.1f}{found['idle']:14,.0f}", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
