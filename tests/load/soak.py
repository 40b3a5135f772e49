"""A soak: clients that come, go, do not read, or are killed, against a server with `async def` handlers, for long.

    python -m tests.load.soak [--minutes 20] [--clients 200] [--loop asyncio|uvloop] [--seed N]

Each quarter of a minute it prints what the server holds. It fails when the memory of the second half grows, or when in
the end a task, a connection, a buffer or a descriptor is left, or when Python says that something was never awaited,
or not closed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
from typing import Any
from urllib.request import urlopen

from tests.support import wire
from tests.support.processes import Children, stop_on_sigterm

LOOK_INTERVAL = 15.0
GROWTH_KB = 8192
"""How much more memory the server may hold at the end than at half time."""
PATHS = ("/at-once", "/waiting", "/cancelling", "/pushing", "/failing", "/mixed", "/asgi/echo")
PAGES = ("/asgi/page", "/asgi/fails")
COMPLAINTS = re.compile(
    r"Warning|never awaited|was destroyed|never retrieved|^\S*(?:Error|Exception)\b(?!: of the soak)"
)
"""Lines of the server's that nothing of this explains; what `Failing` raises is logged."""


class Client:
    """One of those that come and go."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._random = random.Random(seed)
        self.rounds = 0

    async def run(self, until: float) -> None:
        """Come and go until then."""
        while time.monotonic() < until:
            try:
                await asyncio.wait_for(self._visit(), 20.0)
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
                pass
            self.rounds += 1

    async def _visit(self) -> None:
        choose = self._random
        sock = socket.socket()
        sock.setblocking(False)
        if choose.random() < 0.3:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            if choose.random() < 0.2:
                await self._ask(reader, writer)
                return
            request = wire.request(choose.choice(PATHS))
            if choose.random() < 0.05:
                writer.write(request[: choose.randrange(len(request))])
                return
            writer.write(request)
            await reader.readuntil(b"\r\n\r\n")
            for _ in range(choose.randrange(1, 20)):
                writer.write(wire.frame(wire.TEXT, "x" * choose.choice((1, 32, 126, 3000))))
                habit = choose.random()
                if habit < 0.6:
                    await reader.read(65536)
                elif habit < 0.65:
                    return
                elif habit < 0.7:
                    await asyncio.sleep(choose.random())
            if choose.random() < 0.5:
                writer.write(wire.close(1000))
                await reader.read()
        finally:
            if choose.random() < 0.3:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send a request with a body, and read the answer, all of each or not."""
        choose = self._random
        size = choose.choice((0, 100, 300_000))
        head = f"POST {choose.choice(PAGES)} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
        body = bytes(size)
        writer.write(head.encode() + (body[: size // 2] if choose.random() < 0.1 else body))
        if choose.random() < 0.8:
            await reader.read()
        else:
            await reader.read(1000)


def look(port: int) -> dict[str, int]:
    """Return what the server holds now."""
    with urlopen(f"http://127.0.0.1:{port}/left", timeout=20.0) as answer:
        found: dict[str, int] = json.loads(answer.read())
    return found


async def load(port: int, seconds: float, clients: int, seed: int) -> list[dict[str, int]]:
    """Have clients come and go, and look at the server from time to time."""
    began = time.monotonic()
    visitors = [Client(port, seed * 1000 + number) for number in range(clients)]
    running = [asyncio.create_task(visitor.run(began + seconds)) for visitor in visitors]
    seen: list[dict[str, int]] = []
    while time.monotonic() < began + seconds:
        await asyncio.sleep(min(LOOK_INTERVAL, seconds / 4))
        seen.append(await asyncio.to_thread(look, port))
        visits = sum(visitor.rounds for visitor in visitors)
        print(f"{time.monotonic() - began:7.0f} s  {visits:9,} visits  {seen[-1]}", file=sys.stderr, flush=True)
    await asyncio.gather(*running)
    return seen


def faults(seen: list[dict[str, int]], left: dict[str, int], first: dict[str, int], errors: str) -> list[str]:
    """Return what is wrong."""
    found = [f"{left[name]} {name} are left" for name in ("tasks", "streams", "lent", "waiting", "held") if left[name]]
    if left["descriptors"] > first["descriptors"]:
        found.append(f"{left['descriptors']} descriptors are left, {first['descriptors']} were there at first")
    grown = max(each["rss_kb"] for each in seen[-len(seen) // 4 :]) - max(
        each["rss_kb"] for each in seen[len(seen) // 4 : len(seen) // 2 + 1]
    )
    if grown > GROWTH_KB:
        found.append(f"the server grew by {grown:,} kB in the second half")
    return found + [line for line in errors.splitlines() if COMPLAINTS.search(line)][:5]


def main(arguments: list[str] | None = None) -> int:
    """Run the soak; 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    chosen = parser.parse_args(arguments)
    stop_on_sigterm()
    print(f"soak: seed {chosen.seed}", file=sys.stderr, flush=True)
    with Children() as children, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-X", "dev", "-m", "tests.load.soak_server", chosen.loop]
        environment = {**os.environ, "GOWS_DEBUG": "0"}
        server = children.start(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        assert server.stdout is not None
        port = int(server.stdout.readline())
        first = look(port)
        seen = asyncio.run(load(port, chosen.minutes * 60, chosen.clients, chosen.seed))
        server.terminate()
        printed = server.stdout.read()
        status = server.wait(30.0)
        server.stdout.close()
        errors.seek(0)
        complaints = errors.read()
    left: dict[str, Any] = json.loads(printed.splitlines()[-1]) if printed else {}
    wrong = [f"the server ended with {status}"] if status or not left else faults(seen, left, first, complaints)
    print(f"soak: {left}; {'; '.join(wrong) or 'all well'}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
