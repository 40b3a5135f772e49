"""A FastAPI application: what people write, where `_asgi` is the least that a server can be asked."""

from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI(openapi_url=None)
everybody: set[WebSocket] = set()


@app.websocket("/")
async def echo(ws: WebSocket) -> None:
    await ws.accept()
    try:
        while True:
            await ws.send_text(await ws.receive_text())
    except WebSocketDisconnect:
        pass


@app.websocket("/broadcast")
async def broadcast(ws: WebSocket) -> None:
    await ws.accept()
    everybody.add(ws)
    try:
        while True:
            text = await ws.receive_text()
            for each in list(everybody):
                await each.send_text(text)
    except WebSocketDisconnect:
        pass
    finally:
        everybody.discard(ws)


@app.get("/hello")
async def hello() -> str:
    return "Hello, World!"


@app.get("/json")
async def json() -> dict[str, Any]:
    return {"id": 7, "name": "Ann", "tags": ["a", "b"], "ok": True}
