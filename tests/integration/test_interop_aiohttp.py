"""aiohttp: its client against our server, our client against its server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gows import AcceptOptions, HandshakeError
from gows.client import connect
from tests.support.interop import (
    MESSAGES,
    SECONDS,
    Echo,
    OurServer,
    client_tls,
    exchange,
    how_it_ended,
    running_loop,
    server_tls,
)
from tests.support.needs import need_module
from tests.support.waiting import wait_until

need_module("aiohttp")

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web  # noqa: E402

SECURE = pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])

# Options of ours, and the window bits that aiohttp offers, 0 for no compression
COMPRESSION: dict[str, tuple[AcceptOptions, int]] = {
    "plain": (AcceptOptions(), 0),
    "they do not compress": (AcceptOptions(compression=True, min_compress_size=0), 0),
    "no takeover": (AcceptOptions(compression=True, min_compress_size=0), 15),
    "takeover": (
        AcceptOptions(
            compression=True, min_compress_size=0, server_context_takeover=True, client_context_takeover=True
        ),
        15,
    ),
    "small windows": (AcceptOptions(compression=True, min_compress_size=0), 9),
}
BY_COMPRESSION = pytest.mark.parametrize("compression", COMPRESSION)


# ---------------------------------------------------------------------- their client


def with_their_client(
    server: OurServer,
    secure: bool,
    bits: int,
    talk: Callable[[Any], Awaitable[None]],
    **settings: Any,
) -> None:
    async def run() -> None:
        async with (
            ClientSession() as session,
            session.ws_connect(
                server.url, ssl=client_tls(secure) or True, compress=bits, max_msg_size=0, **settings
            ) as ws,
        ):
            await asyncio.wait_for(talk(ws), SECONDS)
        await transports_closed()

    asyncio.run(run())


async def transports_closed() -> None:
    """aiohttp begins to close its transports and does not wait for the end of it, for which the loop is needed."""
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    end = time.monotonic() + SECONDS
    while len(selector.get_map()) > 1:  # one is the loop's own
        assert time.monotonic() < end
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.005)  # connection_lost comes a turn after


@SECURE
@BY_COMPRESSION
def test_their_client_gets_its_messages_back(secure: bool, compression: str) -> None:
    options, bits = COMPRESSION[compression]

    async def talk(ws: ClientWebSocketResponse) -> None:
        assert bool(ws.compress) is (options.compression and bits > 0)
        for message in MESSAGES:
            await send(ws, message)
            assert (await ws.receive()).data == message
        for message in MESSAGES[:10]:
            await send(ws, message)
        assert [(await ws.receive()).data for _ in MESSAGES[:10]] == MESSAGES[:10]

    with OurServer(secure, options) as server:
        with_their_client(server, secure, bits, talk)
        server.assert_closed(1000)


async def send(ws: ClientWebSocketResponse | web.WebSocketResponse, message: str | bytes) -> None:
    if isinstance(message, str):
        await ws.send_str(message)
    else:
        await ws.send_bytes(message)


@SECURE
def test_their_client_and_pings(secure: bool) -> None:
    with OurServer(secure, AcceptOptions()) as server:

        async def talk(ws: ClientWebSocketResponse) -> None:
            await ws.ping(b"from them")
            assert await ws.receive() == (WSMsgType.PONG, b"from them", "")
            server.handler.ws.write_ping(b"from us")
            assert await ws.receive() == (WSMsgType.PING, b"from us", "")
            await ws.pong(b"from us")
            wait_until(lambda: server.handler.pongs == [b"from us"])

        with_their_client(server, secure, 0, talk, autoping=False)


@pytest.mark.slow
def test_their_client_keeps_the_connection_with_its_heartbeat() -> None:
    with OurServer(False, AcceptOptions()) as server:

        async def talk(ws: ClientWebSocketResponse) -> None:
            receiving = asyncio.ensure_future(ws.receive())
            while server.handler.pings < 2:
                done, _ = await asyncio.wait([receiving], timeout=0.05)
                assert not done
            await ws.send_str("still there")
            assert (await receiving).data == "still there"

        # it waits half of this for the pong: long enough for a busy machine
        with_their_client(server, False, 0, talk, heartbeat=1.0)


def test_their_client_chooses_a_subprotocol_of_ours() -> None:
    async def talk(ws: ClientWebSocketResponse) -> None:
        assert ws.protocol == "chat"

    with OurServer(False, AcceptOptions(subprotocols=["best", "chat"])) as server:
        with_their_client(server, False, 0, talk, protocols=["other", "chat"])


@SECURE
def test_their_client_closes(secure: bool) -> None:
    async def talk(ws: ClientWebSocketResponse) -> None:
        assert await ws.close(code=4000, message=b"enough")
        assert ws.close_code == 4000

    with OurServer(secure, AcceptOptions()) as server:
        with_their_client(server, secure, 0, talk)
        server.assert_closed(4000, "enough")


@SECURE
def test_we_close_their_client(secure: bool) -> None:
    async def talk(ws: ClientWebSocketResponse) -> None:
        await ws.send_str("close 4001 that is all")
        message = await ws.receive()
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 4001, "that is all")

    with OurServer(secure, AcceptOptions()) as server:
        with_their_client(server, secure, 0, talk)
        server.assert_closed(1000)  # what it answers to every code


# ---------------------------------------------------------------------- their server


class TheirServer:
    """An aiohttp application in a thread. A context; gives its URL."""

    def __init__(self, secure: bool, compress: bool, **settings: Any) -> None:
        self._secure = secure
        self._settings = {"compress": compress, "max_msg_size": 0, "timeout": SECONDS, **settings}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._ready = threading.Event()
        self._end = asyncio.Event()
        self._port = 0

    def __enter__(self) -> str:
        self._thread.start()
        assert self._ready.wait(SECONDS)
        return f"{'wss' if self._secure else 'ws'}://127.0.0.1:{self._port}/echo"

    def __exit__(self, *_exception: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        self._loop.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        application = web.Application()
        application.router.add_get("/echo", self._echo)
        runner = web.AppRunner(application, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_tls(self._secure))
        await site.start()
        self._port = runner.addresses[0][1]
        self._ready.set()
        await self._end.wait()
        await runner.cleanup()
        await transports_closed()

    async def _echo(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(**self._settings)
        await ws.prepare(request)
        async for message in ws:
            if message.type == WSMsgType.TEXT and message.data.startswith("close "):
                _, code, reason = message.data.split(" ", 2)
                await ws.close(code=int(code), message=reason.encode())
            else:
                await send(ws, message.data)
        return ws


@SECURE
@pytest.mark.parametrize("theirs", [False, True], ids=["they do not compress", "they compress"])
@pytest.mark.parametrize("compression", ["plain", "no takeover", "takeover"])
def test_our_client_gets_its_messages_back(secure: bool, theirs: bool, compression: str) -> None:
    options, _ = COMPRESSION[compression]
    with (
        running_loop() as loop,
        TheirServer(secure, theirs) as url,
        connect(url, options=options, ssl_context=client_tls(secure), loop=loop) as ws,
    ):
        assert (ws.connection.deflate is not None) is (options.compression and theirs)
        exchange(ws)


@pytest.mark.slow
def test_our_client_and_their_heartbeat() -> None:
    handler = Echo()
    with running_loop() as loop, TheirServer(False, False, heartbeat=1.0) as url:
        ws = connect(url, handler, loop=loop)
        wait_until(lambda: handler.pings >= 2)
        assert not ws.closed
        ws.close_handshake()
        assert handler.closed.wait(SECONDS)


def test_their_server_chooses_a_subprotocol() -> None:
    with (
        running_loop() as loop,
        TheirServer(False, False, protocols=["chat"]) as url,
        connect(url, subprotocols=["other", "chat"], loop=loop) as ws,
    ):
        assert ws.subprotocol == "chat"


@SECURE
def test_we_close_their_server(secure: bool) -> None:
    with running_loop() as loop, TheirServer(secure, False) as url:
        with connect(url, ssl_context=client_tls(secure), loop=loop) as ws:
            ws.close_handshake(4000, "enough")
            assert how_it_ended(ws) == (1000, "")  # what it answers to every code
        with connect(url, ssl_context=client_tls(secure), loop=loop) as ws:
            pass
        assert ws.close_code == 1000


@SECURE
def test_their_server_closes(secure: bool) -> None:
    with (
        running_loop() as loop,
        TheirServer(secure, False) as url,
        connect(url, ssl_context=client_tls(secure), loop=loop) as ws,
    ):
        ws.write_string("close 4001 that is all")
        assert how_it_ended(ws) == (4001, "that is all")


def test_their_server_does_not_know_the_path() -> None:
    with running_loop() as loop, TheirServer(False, False) as url:
        with pytest.raises(HandshakeError, match="Not Found") as caught:
            connect(url + "es", loop=loop)
        assert (caught.value.status, caught.value.body) == (404, b"404: Not Found")
