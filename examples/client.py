"""Three ways to be a client.

    python examples/client.py ask URL         # blocking: write, receive, leave
    python examples/client.py many URL        # callbacks: a hundred connections at once, one thread for all of them
    python examples/client.py watch URL       # callbacks, and a connection that comes back when it is lost

`gows echo` is a server to try them on: ws://127.0.0.1:9001/
"""

from __future__ import annotations

import sys
import threading

import gows


def ask(url: str) -> None:
    """Leaving the block closes the connection, with a handshake."""
    with gows.connect(url) as ws:
        ws.write_string("hello")
        print(ws.recv(timeout=5))
        ws.write_binary(b"\x00\x01\x02")
        print(ws.recv(timeout=5))


class Member(gows.Handler):
    """One of many: says who it is, and is done when it hears that back."""

    def __init__(self, name: str, done: threading.Semaphore) -> None:
        self.name = name
        self.done = done
        self.heard = ""

    def on_open(self, ws: gows.WebSocket) -> None:
        ws.write_string(self.name)

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        self.heard = buff.get_string()
        ws.close_handshake()

    def on_close(self, ws: gows.WebSocket) -> None:
        if self.heard != self.name:  # it never opened, or was closed early: the reason says why
            print(f"{self.name}: {ws.close_code} {ws.close_reason}")
        self.done.release()


def many(url: str, count: int = 100) -> None:
    """`wait=False` returns at once; success reaches `on_open`, failure `on_close`."""
    done = threading.Semaphore(0)
    members = [Member(f"member {number}", done) for number in range(count)]
    for member in members:
        gows.connect(url, member, wait=False)
    for _ in members:
        done.acquire()
    print(f"{sum(member.heard == member.name for member in members)} of {count} were answered")


class Watcher(gows.Handler):
    """The same object hears of every connection, each with its own `ws`."""

    def on_open(self, ws: gows.WebSocket) -> None:
        print("connected", flush=True)
        ws.write_string("here I am")

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        print(f"heard {buff.get_string()}", flush=True)

    def on_close(self, ws: gows.WebSocket) -> None:
        print(f"lost: {ws.close_code} {ws.close_reason}", flush=True)


def watch(url: str) -> None:
    """Until Ctrl-C, or until the server says that it is no use (404, 403, …)."""
    client = gows.connect(url, Watcher(), reconnect=gows.Reconnect(initial=0.5, maximum=10.0), wait=False)
    try:
        client.wait()
    except KeyboardInterrupt:
        client.stop()
        client.wait(timeout=5)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("ask", "many", "watch"):
        sys.exit(__doc__)
    try:
        {"ask": ask, "many": many, "watch": watch}[sys.argv[1]](sys.argv[2])
    except (gows.GowsError, ValueError) as error:
        sys.exit(f"{error}")
