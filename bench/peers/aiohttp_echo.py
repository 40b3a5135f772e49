"""An echo server with aiohttp, on uvloop."""

import aiohttp
import uvloop
from _settings import DEFLATE, PORT, ssl_context
from aiohttp import web

everybody = set()


async def serve(request, answer):
    ws = web.WebSocketResponse(compress=DEFLATE)
    await ws.prepare(request)
    if answer is to_all:
        everybody.add(ws)
    try:
        async for message in ws:
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                await answer(ws, message)
    finally:
        everybody.discard(ws)
    return ws


async def send(ws, message):
    if message.type == aiohttp.WSMsgType.TEXT:
        await ws.send_str(message.data)
    else:
        await ws.send_bytes(message.data)


async def to_all(_ws, message):
    for ws in list(everybody):
        await send(ws, message)


app = web.Application()
app.router.add_get("/", lambda request: serve(request, send))
app.router.add_get("/broadcast", lambda request: serve(request, to_all))
uvloop.install()
web.run_app(app, host="127.0.0.1", port=PORT, backlog=4096, ssl_context=ssl_context(), print=None)
