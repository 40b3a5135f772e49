"""An echo server with `async def` callbacks, inside an asyncio loop.

python -m bench.async_echo PORT [--suspend] [--uvloop]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
from collections.abc import Coroutine
from typing import Any

import gows


class Echo(gows.Handler):
    """Echoes without a wait."""

    __slots__ = ()

    async def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        ws.write_message(opcode, buff)


class Suspending(gows.Handler):
    """Lets others have their turn before each echo, so that each message needs a task."""

    __slots__ = ()

    async def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        await asyncio.sleep(0)
        ws.write_message(opcode, buff)


async def serve(port: int, make_handler: type[gows.Handler]) -> None:
    """Serve until the process ends."""
    options = gows.AcceptOptions(check_origin=lambda request: True)
    server = gows.Server(workers=0, options=options)
    server.add_route("/", lambda request: gows.accept(request).serve(make_handler()))
    async with server.serve(("127.0.0.1", port)):
        print(f"serving on {server.addresses[0]}", flush=True)
        await asyncio.Event().wait()


def main(arguments: list[str] | None = None) -> None:
    """Serve on a port of 127.0.0.1."""
    parser = argparse.ArgumentParser(prog="python -m bench.async_echo", description=__doc__.partition("\n")[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--suspend", action="store_true", help="wait once before each echo")
    parser.add_argument("--uvloop", action="store_true", help="inside uvloop; default: asyncio's own loop")
    chosen = parser.parse_args(arguments)
    gc.freeze()
    coroutine: Coroutine[Any, Any, None] = serve(chosen.port, Suspending if chosen.suspend else Echo)
    if chosen.uvloop:
        import uvloop

        uvloop.run(coroutine)
    else:
        asyncio.run(coroutine)


if __name__ == "__main__":
    main()
