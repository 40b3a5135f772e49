"""The server of a soak: `async def` handlers of every habit inside an asyncio loop, and a page with what is left.

    python -m tests.load.soak_server [asyncio|uvloop]

It prints its port, serves until SIGTERM, and then prints as JSON what is left when everything has ended.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import warnings
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import gows
from gows import ByteBuffer, Opcode, WebSocket
from gows.session.receiving import Receiving

HIGH_WATER = 65536


class AtOnce(gows.Handler):
    """Echoes without a wait."""

    __slots__ = ()

    async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        ws.write_message(opcode, buff)


class Waiting(gows.Handler):
    """Echoes after a moment."""

    __slots__ = ()

    async def on_open(self, ws: WebSocket) -> None:
        await asyncio.sleep(0.001)

    async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        await asyncio.sleep(len(buff) % 7 / 1000)
        await ws.send(buff.clone_bytes())

    async def on_close(self, ws: WebSocket) -> None:
        await asyncio.sleep(0.001)


class Cancelling(gows.Handler):
    """Begins tasks, and cancels them in every way."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(asyncio.sleep(3600))
        try:
            await asyncio.wait_for(asyncio.sleep(3600), 0.002)
        except asyncio.TimeoutError:
            pass
        ws.write_message(opcode, buff)

    async def on_close(self, ws: WebSocket) -> None:
        if self._task is not None:
            self._task.cancel()


class Pushing(gows.Handler):
    """Sends a MiB for each message, as fast as the peer reads."""

    __slots__ = ()

    async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        for _ in range(32):
            await ws.send(bytes(32768))


class Failing(gows.Handler):
    """Raises, before a wait or after it."""

    __slots__ = ()

    async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        if len(buff) % 2:
            await asyncio.sleep(0)
        raise RuntimeError("of the soak")


class Mixed(gows.Handler):
    """Some on workers, some in the loop."""

    __slots__ = ()

    async def on_open(self, ws: WebSocket) -> None:
        await asyncio.sleep(0)

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        ws.write_message(opcode, buff)

    async def on_close(self, ws: WebSocket) -> None:
        await asyncio.sleep(0)


HANDLERS: dict[str, type[gows.Handler]] = {
    "/at-once": AtOnce,
    "/waiting": Waiting,
    "/cancelling": Cancelling,
    "/pushing": Pushing,
    "/failing": Failing,
    "/mixed": Mixed,
}


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ASGI application: an echo, a page that takes an upload and answers in pieces, and failures."""
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": message["text"]})
    elif scope["path"] == "/asgi/fails":
        await receive()
        raise RuntimeError("of the soak")
    else:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        for left in reversed(range(8)):
            await send({"type": "http.response.body", "body": bytes(32768), "more_body": left > 0})
            if left % 4 == 0:
                await asyncio.sleep(0.001)


def what_is_left(server: gows.Server) -> dict[str, int]:
    """Return what a server and its asyncio loop hold now."""
    return {
        "rss_kb": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "streams": server.loop.live_streams,
        "lent": server.loop.buffers.lent,
        "waiting": len(server.overflow._waiting),
        "held": Receiving.of(server.loop).total,
        "tasks": len(asyncio.all_tasks()),
    }


async def serve() -> None:
    """Serve until SIGTERM."""
    options = gows.AcceptOptions(high_water=HIGH_WATER, write_timeout=5.0)
    server = gows.Server(options=options, workers=2, asgi=application)
    for path, kind in HANDLERS.items():
        server.add_route(path, lambda request, kind=kind: gows.accept(request).serve(kind()))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with server.serve("127.0.0.1:0"):
        aloop = asyncio.get_running_loop()

        async def left() -> dict[str, int]:
            return what_is_left(server)

        def page(request: gows.Request) -> dict[str, int]:
            return asyncio.run_coroutine_threadsafe(left(), aloop).result(10.0)

        server.add_route("/left", page)
        address = server.addresses[0]
        print(address[1], flush=True)
        await ended.wait()
    gc.collect()
    print(json.dumps({**what_is_left(server), "tasks": len(asyncio.all_tasks()) - 1}), flush=True)


def main() -> None:
    """Serve, and end in order."""
    warnings.simplefilter("error", ResourceWarning)
    run: Coroutine[Any, Any, None] = serve()
    if sys.argv[1:] == ["uvloop"]:
        import uvloop

        uvloop.run(run)
    else:
        asyncio.run(run)


if __name__ == "__main__":
    main()
