"""A Litestar application: pages, a WebSocket, a stream, a task in the background, a beginning and an end.

    python examples/litestar_app.py [ADDRESS]        # "127.0.0.1:8080" unless given; needs `pip install litestar`

It knows nothing of gows, and any ASGI server serves it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response, WebSocket, get, post, websocket
from litestar.background_tasks import BackgroundTask
from litestar.exceptions import WebSocketDisconnect
from litestar.response import Stream

import gows

done: list[str] = []


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    app.state.started = "Litestar"
    yield
    done.clear()


async def note(what: str) -> None:
    """Do what is to be done later."""
    done.append(what)


@get("/", media_type="text/plain")
async def page(request: Request[Any, Any, Any]) -> str:
    return f"hello from {request.app.state.started}"


@post("/upper", media_type="text/plain", status_code=200)
async def upper(request: Request[Any, Any, Any]) -> str:
    return (await request.body()).decode().upper()


@get("/count")
async def count(upto: int = 3) -> Stream:
    async def lines() -> AsyncIterator[str]:
        for number in range(upto):
            yield f"{number}\n"

    return Stream(lines(), media_type="text/plain")


@post("/later")
async def later(what: str) -> Response[dict[str, str]]:
    return Response({"accepted": what}, status_code=202, background=BackgroundTask(note, what))


@get("/done", sync_to_thread=True)
def see_done() -> list[str]:
    return done


@websocket("/talk")
async def talk(socket: WebSocket[Any, Any, Any]) -> None:
    name = socket.query_params.get("name")
    if not name:
        await socket.close(1008)  # before accept: 403
        return
    await socket.accept("chat" if "chat" in socket.scope["subprotocols"] else None)
    try:
        while (text := await socket.receive_text()) != "bye":
            await socket.send_text(f"{name}: {text}")
        await socket.close(4000, "bye, " + name)
    except WebSocketDisconnect:
        pass


app = Litestar([page, upper, count, later, see_done, talk], lifespan=[lifespan])


def main(address: str = "127.0.0.1:8080") -> None:
    """Serve until Ctrl-C."""
    server = gows.Server(asgi=app)
    server.listen_and_serve(address, ready=lambda: print(f"serving on {server.addresses[0]}", flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:2])
