"""An ASGI application: what its servers echo with."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

everybody: set[Send] = set()


async def respond(path: str, send: Send) -> None:
    """A line of text, or a little JSON."""
    if path == "/json":
        kind, body = b"application/json", json.dumps({"id": 7, "name": "Ann", "tags": ["a", "b"], "ok": True}).encode()
    else:
        kind, body = b"text/plain", b"Hello, World!"
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def app(scope: Event, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "http":
        await respond(scope["path"], send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    to_all = scope["path"] == "/broadcast"
    if to_all:
        everybody.add(send)
    try:
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            answer = {"type": "websocket.send"} | ({"bytes": message["bytes"]} if text is None else {"text": text})
            for each in list(everybody) if to_all else (send,):
                await each(answer)
    finally:
        everybody.discard(send)
