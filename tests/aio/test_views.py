"""Views that are coroutines, in every way of running a server."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import gows
from gows import HttpError, Request, Response, Server
from tests.aio.test_ends import Echo
from tests.aio.test_inside import Guest, Serve, serve, until, where, workers
from tests.support.addresses import tcp
from tests.support.raw import RawPeer
from tests.support.waiting import wait_until

__all__ = ["serve", "workers"]  # fixtures

Talk = Callable[[RawPeer], None]


def talk(serve: Serve, server: Server, *talks: Talk) -> None:
    """Talk to a server in threads, one connection each."""

    async def body(server: Server, port: int) -> None:
        def one(talk: Talk) -> None:
            with RawPeer(("127.0.0.1", port)) as peer:
                talk(peer)

        await asyncio.gather(*(asyncio.to_thread(one, each) for each in talks))

    serve(server, body)


def get(peer: RawPeer, path: str, *headers: str) -> tuple[int, bytes]:
    """Ask for a path, and return the status and the body."""
    send(peer, path, *headers)
    answer, body = peer.read_answer()
    return answer.status, body


def send(peer: RawPeer, *paths: str) -> None:
    """Ask for paths, all at once."""
    peer.send(*(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths))


async def at_once(request: Request, name: str) -> str:
    return f"{name} in {where()}"


async def after_a_wait(request: Request, name: str) -> dict[str, str]:
    task = asyncio.current_task()
    await asyncio.sleep(0.001)
    assert asyncio.current_task() is task
    return {"name": name, "where": where()}


def plain(request: Request) -> str:
    return where()


class Fails:
    """Raises, at once or after a wait."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def __call__(self, request: Request) -> None:
        if "wait" in request.query:
            await asyncio.sleep(0.001)
        raise self.error


def test_a_view_may_be_a_coroutine(serve: Serve, workers: int) -> None:
    server = Server(workers=workers)
    server.add_route("/once/{name}", at_once)
    server.route("/wait/{name}")(after_a_wait)
    server.add_route("/plain", plain)
    server.add_route("/lambda", lambda request: at_once(request, "lambda"))

    def each(peer: RawPeer) -> None:
        for _ in range(3):
            assert get(peer, "/once/a") == (200, b"a in loop")
            assert get(peer, "/wait/b") == (200, b'{"name":"b","where":"loop"}')
            assert get(peer, "/plain") == (200, b"worker" if workers else b"loop")
            assert get(peer, "/lambda") == (200, b"lambda in loop")
        assert get(peer, "/none")[0] == 404

    talk(serve, server, each, each, each)


def test_pipelined_requests_are_answered_in_order(serve: Serve, workers: int) -> None:
    server = Server(workers=workers)
    server.add_route("/wait/{name}", after_a_wait)
    server.add_route("/once/{name}", at_once)
    server.add_route("/plain", plain)

    def pipelined(peer: RawPeer) -> None:
        send(peer, *["/wait/1", "/once/2", "/plain", "/wait/3"] * 20)
        for _ in range(20):
            assert b'"1"' in peer.read_answer()[1]
            assert peer.read_answer()[1] == b"2 in loop"
            assert peer.read_answer()[1] in (b"worker", b"loop")
            assert b'"3"' in peer.read_answer()[1]

    talk(serve, server, pipelined, pipelined)


@pytest.mark.parametrize("wait", ["", "?wait=1"], ids=["at once", "after a wait"])
@pytest.mark.parametrize(
    ("error", "status", "logged"),
    [
        (HttpError(418, "short and stout"), 418, False),
        (gows.HandshakeError(426, "no upgrade"), 426, False),
        (ValueError("mine"), 500, True),
        (SystemExit(3), 500, True),
        (asyncio.CancelledError(), 500, True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_a_view_raises_is_answered(
    serve: Serve, workers: int, wait: str, error: BaseException, status: int, logged: bool, caplog: Any
) -> None:
    server = Server(workers=workers)
    server.add_route("/fails", Fails(error))
    server.add_route("/nothing", lambda request: asyncio.sleep(0))

    def each(peer: RawPeer) -> None:
        assert get(peer, "/fails" + wait)[0] == status

    def nothing(peer: RawPeer) -> None:
        assert get(peer, "/nothing")[0] == 500

    talk(serve, server, each)
    assert ("the view failed" in caplog.text) is logged
    assert server.traffic.refusals == ({426: 1} if status == 426 else {})
    talk(serve, nothing_server(), nothing)
    assert "returned nothing" in caplog.text


def nothing_server() -> Server:
    server = Server()
    server.add_route("/nothing", lambda request: asyncio.sleep(0))
    return server


def test_a_coroutine_may_upgrade(serve: Serve, workers: int) -> None:
    server = Server(workers=workers)

    @server.route("/")
    async def upgrade(request: Request) -> None:
        if not workers:
            await asyncio.sleep(0.001)
        ws = gows.accept(request)
        await asyncio.sleep(0.001)
        ws.serve(Echo())

    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)
        assert await guest.ask("a", "wait", "b") == ["a", "wait", "b"]
        await guest.close()

    serve(server, body)


def test_a_body_in_pieces_is_asked_for_where_it_may_block(serve: Serve, workers: int) -> None:
    server = Server(workers=workers)

    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield where().encode().ljust(50_000)

    @server.route("/pieces/{bound}")
    async def view(request: Request, bound: str) -> Response:
        await asyncio.sleep(0)
        response = Response(pieces(), length=40 * 50_000)
        response.one_thread = bound == "bound"
        return response

    def each(peer: RawPeer) -> None:
        for path in ("/pieces/free", "/pieces/bound"):
            status, body = get(peer, path)
            assert status == 200
            assert len(body) == 40 * 50_000
            assert set(body.split()) == {b"worker" if workers else b"loop"}

    talk(serve, server, each, each)


def test_a_client_that_goes_away_cancels_nothing(serve: Serve, workers: int, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(workers=workers)
    calls: list[str] = []
    gate = threading.Event()

    @server.route("/")
    async def view(request: Request) -> str:
        calls.append("begun")
        while not gate.is_set():
            await asyncio.sleep(0.001)
        calls.append("ended")
        return "nobody reads it"

    async def body(server: Server, port: int) -> None:
        def leave() -> None:
            with RawPeer(("127.0.0.1", port)) as peer:
                send(peer, "/")
                wait_until(lambda: calls, what=lambda: "the view")
                peer.reset()

        await asyncio.to_thread(leave)
        await until(lambda: not server.loop.live_streams)
        gate.set()
        await until(lambda: len(calls) == 2)

    serve(server, body)
    assert calls == ["begun", "ended"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and record.name == "gows"]


@pytest.mark.slow
def test_a_stop_cancels_a_view_after_its_timeout(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    calls: list[str] = []

    @server.route("/")
    async def view(request: Request) -> str:
        calls.append("begun")
        try:
            await asyncio.sleep(1000)
        finally:
            calls.append("cancelled")
        return ""

    server.start("127.0.0.1:0")
    with RawPeer(tcp(server.addresses[0])) as peer:
        send(peer, "/")
        wait_until(lambda: calls, what=lambda: "the view")
        server.stop(0.1)
    assert calls == ["begun", "cancelled"]
    assert "failed" not in caplog.text


def test_a_view_of_which_a_call_runs_nothing_is_refused() -> None:
    def generator(request: Request) -> Iterator[bytes]:
        yield b""

    async def asynchronous(request: Request) -> Any:
        yield b""

    server = Server()
    for view in (generator, asynchronous):
        with pytest.raises(TypeError, match="generator"):
            server.add_route("/", view)
    server.stop()
