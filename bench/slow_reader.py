"""Readers that stop reading, while 10,000 others are fed: what they cost, and whether they hold up anybody.

    python -m bench.slow_reader [--connections 10000] [--slow 20] [--messages 20] [--overflow drop_oldest]

First the others alone get broadcasts of 1 KiB; then some peers connect, are written to until their queues are full, and
never read; then everybody gets as many broadcasts again. Prints the time of a broadcast to its last arrival in both
cases, and the memory that each slow reader holds. Clients and server share the machine.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from statistics import median

import gows
from bench.holding import Holder, say
from bench.serving import fetch, serving
from bench.tools import Unavailable
from bench.usage import family, user_bytes
from gows.server.server import Server

POLICIES = ("refuse", "drop", "drop_oldest", "latest", "close")
FILL = 16 << 20
"""Bytes written to a slow reader at first: more than kernel and queue take."""


class Member(gows.Handler):
    """Listens."""


class Slow(gows.Handler):
    """Is written to until nothing more is taken."""

    def on_open(self, ws: gows.WebSocket) -> None:
        try:
            for _ in range(FILL // 16384):
                ws.write_binary(bytes(16384), key="fill")
        except gows.GowsError:
            pass


def serve(port: int, overflow: str) -> None:
    """The server's process."""
    server = Server()
    options = gows.AcceptOptions(overflow=overflow)

    @server.route("/")
    def join(request: gows.Request) -> None:
        gows.accept(request, options).serve(Member())

    @server.route("/slow")
    def slow(request: gows.Request) -> None:
        gows.accept(request, options).serve(Slow())

    @server.route("/broadcast")
    def broadcast(request: gows.Request) -> str:
        now = time.monotonic()
        server.broadcast("x" * 1024, key="news")
        return f"{now:.6f}"

    @server.route("/counts")
    def counts(request: gows.Request) -> dict[str, int]:
        return server.overflow.counts

    server.listen_and_serve(("127.0.0.1", port))


def feed(port: int, holder: Holder, messages: int) -> list[float]:
    """Broadcast, one after the other; seconds until the last had it."""
    times = []
    for number in range(messages):
        before = holder.counts["messages"]
        sent = float(fetch(port, "/broadcast"))
        end = time.monotonic() + 60
        while holder.counts["messages"] - before < holder.live:
            if time.monotonic() > end:
                raise Unavailable("a broadcast did not reach all within a minute")
            time.sleep(0.02)
        times.append(holder.counts["last"] - sent)
        say(f"broadcast {number + 1} of {messages}: {times[-1] * 1000:.0f} ms", end="\r")
    return times


def stop_reading(port: int) -> socket.socket:
    """A peer that has connected, and reads nothing any more."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=20)
    sock.sendall(
        b"GET /slow HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    return sock


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.slow_reader", description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=10000, metavar="N", help="default: %(default)s")
    parser.add_argument("--slow", type=int, default=20, metavar="N", help="readers that stop (default: %(default)s)")
    parser.add_argument("--messages", type=int, default=20, metavar="N", help="broadcasts (default: %(default)s)")
    parser.add_argument("--overflow", choices=POLICIES, default="drop_oldest", help="default: %(default)s")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.serve is not None:
        serve(chosen.serve, chosen.overflow)
        return 0

    def command(port: int) -> list[str]:
        return [sys.executable, "-m", "bench.slow_reader", "--serve", str(port), "--overflow", chosen.overflow]

    try:
        with serving(command) as (pid, port), Holder(port, chosen.connections) as holder:
            holder.wait_open(120)
            alone = feed(port, holder, chosen.messages)
            before = user_bytes(family(pid))
            slow = [stop_reading(port) for _ in range(chosen.slow)]
            time.sleep(2.0)
            beside = feed(port, holder, chosen.messages)
            grown = user_bytes(family(pid)) - before
            counts = fetch(port, "/counts")
            for sock in slow:
                sock.close()
            lost = holder.counts["closed"]
    except Unavailable as error:
        raise SystemExit(f"bench.slow_reader: {error}") from None
    print(f"{chosen.connections:,} connections get 1 KiB each, {lost:.0f} lost; milliseconds to the last of them:")
    for name, times in (("alone", alone), (f"beside {chosen.slow} that do not read", beside)):
        print(f"  {name:32} {median(times) * 1000:6.0f} ({min(times) * 1000:.0f} to {max(times) * 1000:.0f})")
    print(f"  memory for each that does not read: {grown / max(chosen.slow, 1) / 1024:,.0f} KiB")
    print(f"  {counts}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
