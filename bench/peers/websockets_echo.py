"""An echo server with websockets, on uvloop."""

import sys

import uvloop
from websockets.asyncio.server import serve


async def echo(ws):
    async for message in ws:
        await ws.send(message)


async def main():
    settings = {"compression": None, "backlog": 4096, "ping_interval": None}
    async with serve(echo, "127.0.0.1", int(sys.argv[1]), **settings) as server:
        await server.serve_forever()


uvloop.run(main())
