"""A Starlette application: pages, a WebSocket, a stream, a task in the background, a beginning and an end.

    python examples/starlette_app.py [ADDRESS]        # "127.0.0.1:8080" unless given; needs `pip install starlette`

It knows nothing of gows, and any ASGI server serves it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import gows

done: list[str] = []


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    yield {"started": "Starlette"}
    done.clear()


async def page(request: Request) -> Response:
    return PlainTextResponse(f"hello from {request.state.started}")


async def upper(request: Request) -> Response:
    return PlainTextResponse((await request.body()).decode().upper())


async def count(request: Request) -> Response:
    async def lines() -> AsyncIterator[str]:
        for number in range(int(request.query_params.get("upto", 3))):
            yield f"{number}\n"

    return StreamingResponse(lines(), media_type="text/plain")


async def later(request: Request) -> Response:
    what = request.query_params["what"]
    return JSONResponse({"accepted": what}, 202, background=BackgroundTask(done.append, what))


def see_done(request: Request) -> Response:  # a plain function: Starlette calls it in a thread
    return JSONResponse(done)


async def talk(ws: WebSocket) -> None:
    name = ws.query_params.get("name")
    if not name:
        await ws.send_denial_response(PlainTextResponse("who are you?", 401))
        return
    await ws.accept("chat" if "chat" in ws.scope["subprotocols"] else None, headers=[(b"x-name", name.encode())])
    async for text in ws.iter_text():
        if text == "bye":
            await ws.close(4000, "bye, " + name)
            return
        await ws.send_text(f"{name}: {text}")


app = Starlette(
    routes=[
        Route("/", page),
        Route("/upper", upper, methods=["POST"]),
        Route("/count", count),
        Route("/later", later, methods=["POST"]),
        Route("/done", see_done),
        WebSocketRoute("/talk", talk),
    ],
    lifespan=lifespan,
)


def main(address: str = "127.0.0.1:8080") -> None:
    """Serve until Ctrl-C."""
    server = gows.Server(asgi=app)
    server.listen_and_serve(address, ready=lambda: print(f"serving on {server.addresses[0]}", flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:2])
