"""An echo server with websockets, on uvloop."""

import uvloop
from _settings import DEFLATE, PORT, ssl_context
from websockets.asyncio.server import broadcast, serve

everybody = set()


async def echo(ws):
    if ws.request.path == "/broadcast":
        everybody.add(ws)
    try:
        async for message in ws:
            if ws in everybody:
                broadcast(everybody, message)
            else:
                await ws.send(message)
    finally:
        everybody.discard(ws)


async def main():
    settings = {"compression": "deflate" if DEFLATE else None, "backlog": 4096, "ping_interval": None}
    async with serve(echo, "127.0.0.1", PORT, ssl=ssl_context(), max_size=16 << 20, **settings) as server:
        await server.serve_forever()


uvloop.run(main())
