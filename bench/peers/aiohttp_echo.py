"""An echo server with aiohttp, on uvloop."""

import sys

import aiohttp
import uvloop
from aiohttp import web


async def echo(request):
    ws = web.WebSocketResponse(compress=False)
    await ws.prepare(request)
    async for message in ws:
        if message.type == aiohttp.WSMsgType.TEXT:
            await ws.send_str(message.data)
        elif message.type == aiohttp.WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    return ws


app = web.Application()
app.router.add_get("/", echo)
uvloop.install()
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), backlog=4096, print=None)
