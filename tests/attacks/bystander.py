"""An honest client beside an attack, in a process of its own: `python -m tests.attacks.bystander PORT`.

It sends a message each 50 ms, waits for its echo, and opens a page now and then. When its standard input ends, it
prints as JSON how long each of them took, in seconds. An answer that does not come within 10 s counts as 10 s, and the
client connects anew.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time

from tests.support import wire
from tests.support.raw import RawPeer

PAUSE = 0.05
PATIENCE = 10.0
"""Seconds after which an answer is given up."""


class Waits:
    """What one kind of request has waited."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def measure(self, ask: object) -> None:
        """Call `ask`, and note how long it took."""
        began = time.monotonic()
        try:
            ask()  # type: ignore[operator]
        except (OSError, AssertionError):
            self.seconds.append(PATIENCE)
            raise
        self.seconds.append(time.monotonic() - began)


class Bystander:
    """One echoing connection, and a page for each tenth message."""

    def __init__(self, port: int) -> None:
        self._address = ("127.0.0.1", port)
        self._peer: RawPeer | None = None
        self.echo, self.page = Waits(), Waits()

    def look(self, number: int) -> None:
        """One round; what fails is in the figures."""
        try:
            if self._peer is None:
                self._peer = RawPeer(self._address)
                self._peer.sock.settimeout(PATIENCE)
                self._peer.upgrade("/echo")
            self.echo.measure(self._echo)
            if number % 10 == 0:
                self.page.measure(self._page)
        except (OSError, AssertionError):
            if self._peer is not None:
                self._peer.sock.close()
            self._peer = None

    def _echo(self) -> None:
        assert self._peer is not None
        self._peer.send(wire.frame(wire.TEXT, "hello"))
        assert self._peer.read_text() == "hello"

    def _page(self) -> None:
        with socket.create_connection(self._address, timeout=PATIENCE) as sock:
            sock.sendall(b"GET /cookies HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 200 "), "no page"


def main() -> None:
    bystander = Bystander(int(sys.argv[1]))
    ended = threading.Event()

    def await_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=await_end, daemon=True).start()
    bystander.look(0)
    print("ready", flush=True)
    number = 0
    while not ended.wait(PAUSE):
        number += 1
        bystander.look(number)
    print(json.dumps({"echo": bystander.echo.seconds, "page": bystander.page.seconds}), flush=True)


if __name__ == "__main__":
    main()
