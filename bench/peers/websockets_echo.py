"""An echo server with websockets, on uvloop."""

import uvloop
from _settings import DEFLATE, PORT, ssl_context
from websockets.asyncio.server import ServerConnection, broadcast, serve

everybody: set[ServerConnection] = set()


async def echo(ws: ServerConnection) -> None:
    if ws.request is not None and ws.request.path == "/broadcast":
        everybody.add(ws)
    try:
        async for message in ws:
            if ws in everybody:
                broadcast(everybody, message)
            else:
                await ws.send(message)
    finally:
        everybody.discard(ws)


async def main() -> None:
    async with serve(
        echo,
        "127.0.0.1",
        PORT,
        ssl=ssl_context(),
        max_size=16 << 20,
        compression="deflate" if DEFLATE else None,
        backlog=4096,
        ping_interval=None,
    ) as server:
        await server.serve_forever()


uvloop.run(main())
