"""A FastAPI application: pages, a WebSocket, a stream, a task in the background, a beginning and an end.

    python examples/fastapi_app.py [ADDRESS]        # "127.0.0.1:8080" unless given; needs `pip install fastapi`

It knows nothing of gows, and any ASGI server serves it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import BackgroundTasks, Depends, FastAPI, Request, WebSocket, WebSocketDisconnect, WebSocketException
from fastapi.responses import PlainTextResponse, StreamingResponse

import gows

done: list[str] = []


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    yield {"started": "FastAPI"}
    done.clear()


app = FastAPI(lifespan=lifespan)


@app.get("/", response_class=PlainTextResponse)
async def page(request: Request) -> str:
    return f"hello from {request.state.started}"


@app.post("/upper", response_class=PlainTextResponse)
async def upper(request: Request) -> str:
    return (await request.body()).decode().upper()


@app.get("/count")
async def count(upto: int = 3) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for number in range(upto):
            yield f"{number}\n"

    return StreamingResponse(lines(), media_type="text/plain")


@app.post("/later", status_code=202)
async def later(what: str, tasks: BackgroundTasks) -> dict[str, str]:
    tasks.add_task(done.append, what)
    return {"accepted": what}


@app.get("/done")
def see_done() -> list[str]:  # a plain function: FastAPI calls it in a thread
    return done


async def named(ws: WebSocket, name: str = "") -> str:
    if not name:
        raise WebSocketException(1008, "who are you?")  # before accept: 403
    return name


@app.websocket("/talk")
async def talk(ws: WebSocket, name: str = Depends(named)) -> None:
    await ws.accept("chat" if "chat" in ws.scope["subprotocols"] else None)
    try:
        while (text := await ws.receive_text()) != "bye":
            await ws.send_text(f"{name}: {text}")
        await ws.close(4000, "bye, " + name)
    except WebSocketDisconnect:
        pass


def main(address: str = "127.0.0.1:8080") -> None:
    """Serve until Ctrl-C."""
    server = gows.Server(asgi=app)
    server.listen_and_serve(address, ready=lambda: print(f"serving on {server.addresses[0]}", flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:2])
