"""An echo server with aiohttp, on uvloop."""

from collections.abc import Awaitable, Callable

import aiohttp
import uvloop
from _settings import DEFLATE, PORT, ssl_context
from aiohttp import web

Answer = Callable[[web.WebSocketResponse, aiohttp.WSMessage], Awaitable[None]]

everybody: set[web.WebSocketResponse] = set()


async def serve(request: web.Request, answer: Answer) -> web.WebSocketResponse:
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


async def send(ws: web.WebSocketResponse, message: aiohttp.WSMessage) -> None:
    if message.type == aiohttp.WSMsgType.TEXT:
        await ws.send_str(message.data)
    else:
        await ws.send_bytes(message.data)


async def to_all(_ws: web.WebSocketResponse, message: aiohttp.WSMessage) -> None:
    for ws in list(everybody):
        await send(ws, message)


app = web.Application()
app.router.add_get("/", lambda request: serve(request, send))
app.router.add_get("/broadcast", lambda request: serve(request, to_all))
uvloop.install()
web.run_app(app, host="127.0.0.1", port=PORT, backlog=4096, ssl_context=ssl_context(), print=None)
