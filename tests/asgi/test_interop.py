"""Applications of others: Starlette and FastAPI as they are, and that an application sees what uvicorn shows it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.asgi.conftest import MakeSite
from tests.support.asgi_site import Answer, AsgiSite, HttpPeer, get
from tests.support.needs import need_module
from tests.support.waiting import wait_until


@contextmanager
def under_uvicorn(app: Any) -> Iterator[Any]:
    """Serve with uvicorn in a thread. Yields how to connect."""
    uvicorn = need_module("uvicorn")
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        address = server.servers[0].sockets[0].getsockname()
        yield lambda: HttpPeer(address)
    finally:
        server.should_exit = True
        thread.join(10.0)


def conversation(peer: HttpPeer, *wires: bytes) -> list[Answer]:
    """The answers to some requests on one connection."""
    answers = []
    with peer:
        for wire in wires:
            peer.send(wire)
            answers.append(peer.answer(head=wire.startswith(b"HEAD")))
    return answers


async def parrot(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it sees."""
    messages = []
    more = True
    while more:
        message = await receive()
        messages.append(message)
        more = message.get("more_body", False)
    body = b"".join(message["body"] for message in messages)
    hidden = ("client", "server", "extensions", "state")
    shown = {name: value for name, value in sorted(scope.items()) if name not in hidden}
    shown["asgi"] = shown["asgi"]["version"]
    headers = [(b"content-type", b"text/plain"), (b"x-kinds", repr(sorted({m["type"] for m in messages})).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": repr(shown).encode(), "more_body": True})
    await send({"type": "http.response.body", "body": body})


REQUESTS = [
    get("/"),
    get("/a%20b/%C3%A4?x=1&y=%20"),
    get("/x", "Accept: a", "Accept: b", "X-Odd: \xe4"),
    get("/x", method="POST", body=b"x" * 100_000),
    get("/x", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\n\r\n",
    get("/x", method="HEAD"),
    get("/x", method="DELETE"),
    get("/x?", "Connection: keep-alive", version="HTTP/1.1"),
]


@pytest.mark.slow
def test_an_application_sees_what_uvicorn_shows_it(serve: MakeSite) -> None:
    with under_uvicorn(parrot) as peer:
        expected = conversation(peer(), *REQUESTS)
    with serve(parrot) as site:
        found = conversation(site.peer(), *REQUESTS)
    for ours, theirs, wire in zip(found, expected, REQUESTS, strict=True):
        assert (ours.status, ours.body) == (theirs.status, theirs.body), wire
        names = ["content-type", "x-kinds", "content-length", "connection"]
        if not wire.startswith(b"HEAD"):  # which may say what GET would get, or not (RFC 9110 §9.3.2)
            names.append("transfer-encoding")
        assert [ours.headers.get(name) for name in names] == [theirs.headers.get(name) for name in names], wire


def starlette_site(folder: Path, events: list[str]) -> Any:
    need_module("starlette")
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route

    async def upload(request: Request) -> Response:
        size = 0
        try:
            async for piece in request.stream():
                size += len(piece)
        except ClientDisconnect:
            events.append("upload ended")
            raise
        return JSONResponse({"size": size})

    async def pieces() -> Any:
        for number in range(5):
            yield b"%d;" % number
            await asyncio.sleep(0)

    async def stream(request: Request) -> Response:
        return StreamingResponse(pieces())

    async def endless() -> Any:
        try:
            while True:
                yield b"x" * 10_000
                await asyncio.sleep(0.001)
        finally:
            events.append("endless ended")

    async def forever(request: Request) -> Response:
        return StreamingResponse(endless())

    async def background(request: Request) -> Response:
        async def task() -> None:
            await asyncio.sleep(0.01)
            events.append("background")

        return PlainTextResponse("first", background=BackgroundTask(task))

    async def file(request: Request) -> Response:
        return FileResponse(folder / "file")

    async def fails(request: Request) -> Response:
        raise RuntimeError("a fault of the view's")

    async def tag(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-tag"] = "1"
        return response

    return Starlette(
        routes=[
            Route("/upload", upload, methods=["POST"]),
            Route("/stream", stream),
            Route("/forever", forever),
            Route("/background", background),
            Route("/file", file),
            Route("/fails", fails),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=tag)],
    )


@pytest.mark.slow
def test_starlette(serve: MakeSite, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"f" * 300_000)
    events: list[str] = []
    with serve(starlette_site(tmp_path, events)) as site:
        with site.peer() as peer:
            peer.send(get("/upload", method="POST", body=b"u" * 500_000))
            assert peer.answer().body == b'{"size":500000}'
            peer.send(get("/stream"))
            found = peer.answer()
            assert (found.body, found.headers["x-tag"]) == (b"0;1;2;3;4;", "1")
            peer.send(get("/background"), get("/file"))
            assert peer.answer().body == b"first"
            assert peer.answer().body == b"f" * 300_000
            peer.send(get("/file", "Range: bytes=1-3"))
            found = peer.answer()
            assert (found.status, found.body) == (206, b"fff")
            peer.send(get("/nowhere"))
            assert peer.answer().status == 404
            peer.send(get("/upload"))
            assert peer.answer().status == 405
        wait_until(lambda: events == ["background"])
        assert site.fetch(get("/fails")).status == 500
        wait_until(lambda: site.faults.messages)
        assert site.faults.take() == ["GET /fails: the ASGI application failed"]


@pytest.mark.slow
def test_starlette_and_clients_that_go(serve: MakeSite, tmp_path: Path) -> None:
    events: list[str] = []
    with serve(starlette_site(tmp_path, events)) as site:
        with site.peer() as peer:
            peer.send(get("/forever"))
            assert peer.head()[0] == 200
            peer.chunk()
        wait_until(lambda: events == ["endless ended"])
        with site.peer() as peer:
            peer.send(get("/upload", "Content-Length: 100", method="POST"), b"some")
        wait_until(lambda: not [each for each in site.server.loop.streams if hasattr(each, "peer_address")])
        site.faults.take()  # what Starlette raises then is its own, without a word of ours in it


@pytest.mark.slow
def test_fastapi() -> None:
    fastapi = need_module("fastapi")
    app = fastapi.FastAPI(root_path="")

    @app.get("/items/{item}")  # type: ignore[untyped-decorator]
    async def item(item: int, q: str = "") -> dict[str, Any]:
        return {"item": item, "q": q}

    @app.post("/sync")  # type: ignore[untyped-decorator]
    def in_a_thread(data: dict[str, int]) -> int:
        return sum(data.values())

    with AsgiSite(app) as site:
        assert site.fetch(get("/items/7?q=a%20b")).body == b'{"item":7,"q":"a b"}'
        assert site.fetch(get("/items/x")).status == 422
        body = b'{"a": 1, "b": 2}'
        assert site.fetch(get("/sync", "Content-Type: application/json", method="POST", body=body)).body == b"3"
