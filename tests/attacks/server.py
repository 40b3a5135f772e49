"""The server that is attacked: `python -m tests.attacks.server [KIND]`.

It prints its port, and ends with its standard input. Its limits are the defaults of gows. Only what an application must
say for itself is set: routes, rights, what is kept. KIND: "plain" (the default), or "stuck", the same; "block", whose
topics' subscribers have `overflow="block"`; "inline", with `workers=0`.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import gows

PAGE = "x" * 60_000
HISTORY = 2_000
"""Messages that topics `room.…` keep."""
DOWNLOAD = 20 << 20
"""Bytes of the streamed answer."""


class Echo(gows.Handler):
    """Answers what is not empty."""

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        if len(buff):
            ws.write_message(opcode, buff)


class Stuck(gows.Handler):
    """A callback that does not come back."""

    gate = threading.Event()

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        self.gate.wait()


class AsyncEcho(gows.Handler):
    """Answers in coroutines, each of which waits until the peer reads."""

    async def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        await ws.send(buff.clone_bytes())


class AsyncStuck(gows.Handler):
    """A coroutine that does not come back."""

    async def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        await asyncio.Event().wait()


def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """A WSGI application that streams a large answer."""
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(DOWNLOAD))])
    return (b"x" * 65536 for _ in range(DOWNLOAD // 65536))


def serving(make: Callable[[], gows.Handler], **options: Any) -> Callable[[gows.Request], Any]:
    """A view that accepts every upgrade."""
    accepting = gows.AcceptOptions(**options)
    return lambda request: gows.accept(request, accepting).serve(make())


def make(kind: str) -> gows.Server:
    """The server, not started."""
    options = gows.AcceptOptions(compression=True, overflow="block" if kind == "block" else "refuse")
    server = gows.Server(
        workers=0 if kind == "inline" else 4,
        options=options,
        wsgi=application,
        health=True,
        may_subscribe=lambda ws, topic: topic.startswith(("room.", "public.", "hall", "good")),
        may_publish=lambda ws, topic: topic.startswith(("room.", "public.", "hall", "good")),
        keep=lambda topic: HISTORY if topic.startswith("room.") else None,
        presence=lambda ws, topic: {"name": "n" * 20} if topic.startswith("hall") else None,
    )
    server.add_route("/echo", serving(Echo, compression=True))
    server.add_route("/idle", serving(gows.Handler, compression=True))
    server.add_route("/stuck", serving(Stuck, compression=True))
    server.add_route("/async/echo", serving(AsyncEcho, compression=True))
    server.add_route("/async/stuck", serving(AsyncStuck, compression=True))
    server.add_route("/page", lambda request: PAGE)
    server.add_route("/form", lambda request: str(len(request.form) + len(request.files)), methods=["POST"])
    server.add_route("/json", lambda request: str(type(request.json())), methods=["POST"])
    server.add_route("/cookies", lambda request: str(len(request.cookies)))
    folder = Path(tempfile.mkdtemp())
    (folder / "large").write_bytes(bytes(4 << 20))
    server.static("/files", str(folder))
    gows.serve_topics(server, "/live")
    return server


def main() -> None:
    server = make(sys.argv[1] if len(sys.argv) > 1 else "plain")
    server.start("127.0.0.1:0")
    for number in range(HISTORY):
        server.publish("room.full", {"number": number, "text": "x" * 100})
    print(server.addresses[0][1], flush=True)
    for _ in lines():
        pass
    server.stop(timeout=1)


def lines() -> Iterator[str]:
    """Standard input, to its end."""
    yield from sys.stdin


if __name__ == "__main__":
    main()
