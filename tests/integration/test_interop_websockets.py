"""websockets: its client against our server, our client against its server.

Its asyncio side: that of its threads lets two of them into one SSL object, which OpenSSL does not allow and Python
forbids from 3.13 on, so that one handshake in some hundreds is lost on a busy machine.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from gows import AcceptOptions, HandshakeError
from gows.client import connect
from tests.support.interop import (
    MESSAGES,
    SECONDS,
    OurServer,
    client_tls,
    exchange,
    how_it_ended,
    running_loop,
    server_tls,
)
from tests.support.needs import need_module
from tests.support.waiting import wait_until

need_module("websockets")

from websockets.asyncio.client import ClientConnection  # noqa: E402
from websockets.asyncio.client import connect as their_connect  # noqa: E402
from websockets.asyncio.server import Server, ServerConnection, serve  # noqa: E402
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK  # noqa: E402
from websockets.extensions.permessage_deflate import (  # noqa: E402
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)

SECURE = pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])

# Options of ours, and what is offered or accepted on the other side
COMPRESSION: dict[str, tuple[AcceptOptions, dict[str, Any] | None]] = {
    "plain": (AcceptOptions(), {}),
    "they do not compress": (AcceptOptions(compression=True), None),
    "no takeover": (AcceptOptions(compression=True, min_compress_size=0), {}),
    "takeover": (
        AcceptOptions(
            compression=True, min_compress_size=0, server_context_takeover=True, client_context_takeover=True
        ),
        {},
    ),
    "small windows": (
        AcceptOptions(compression=True, min_compress_size=0, server_max_window_bits=9, client_max_window_bits=9),
        {"server_max_window_bits": 9, "client_max_window_bits": 9},
    ),
}
BY_COMPRESSION = pytest.mark.parametrize("compression", COMPRESSION)

T = TypeVar("T")


class TheirLoop:
    """An asyncio loop in a thread of its own; `do` runs something there and waits for it."""

    def __enter__(self) -> TheirLoop:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        self._loop.close()

    def do(self, work: Awaitable[T]) -> T:
        async def bounded() -> T:
            return await asyncio.wait_for(work, 2 * SECONDS)

        return asyncio.run_coroutine_threadsafe(bounded(), self._loop).result(3 * SECONDS)


# ---------------------------------------------------------------------- their client


class TheirClient:
    """Their connection, from a thread that waits for what it does."""

    def __init__(self, loop: TheirLoop, connection: ClientConnection) -> None:
        self._loop = loop
        self.connection = connection

    def send(self, message: Any) -> None:
        self._loop.do(self.connection.send(message))

    def recv(self) -> str | bytes:
        return self._loop.do(asyncio.wait_for(self.connection.recv(), SECONDS))

    def ping(self, data: bytes) -> float:
        """Seconds until its pong came."""

        async def ping() -> float:
            return await (await self.connection.ping(data))

        return self._loop.do(ping())

    def close(self, code: int, reason: str) -> None:
        self._loop.do(self.connection.close(code, reason))


@contextmanager
def their_client(server: OurServer, secure: bool, settings: dict[str, Any] | None) -> Iterator[TheirClient]:
    async def opened() -> ClientConnection:
        return await their_connect(
            server.url,
            ssl=client_tls(secure),
            extensions=None if settings is None else [ClientPerMessageDeflateFactory(**settings)],
            compression=None,
            subprotocols=["other", "chat"],  # type: ignore[list-item]
            max_size=None,
            open_timeout=SECONDS,
            close_timeout=SECONDS,
        )

    async def closed() -> None:
        await connection.close()
        connection.transport.close()  # as in `their_echo`

    with TheirLoop() as loop:
        connection = loop.do(opened())
        try:
            yield TheirClient(loop, connection)
        finally:
            loop.do(closed())


@SECURE
@BY_COMPRESSION
def test_their_client_gets_its_messages_back(secure: bool, compression: str) -> None:
    options, settings = COMPRESSION[compression]
    with OurServer(secure, options) as server, their_client(server, secure, settings) as ws:
        compressed = options.compression and settings is not None
        assert bool(ws.connection.protocol.extensions) is compressed
        for message in MESSAGES:
            ws.send(message)
            assert ws.recv() == message
        for message in MESSAGES[:10]:
            ws.send(message)
        assert [ws.recv() for _ in MESSAGES[:10]] == MESSAGES[:10]


@BY_COMPRESSION
def test_their_client_sends_fragments(compression: str) -> None:
    options, settings = COMPRESSION[compression]
    with OurServer(False, options) as server, their_client(server, False, settings) as ws:
        ws.send(["one, ", "two, ", "", "grüß", " " * 5000])
        assert ws.recv() == "one, two, grüß" + " " * 5000
        ws.send([b"\x00" * 70_000, b"\x01" * 70_000])
        assert ws.recv() == b"\x00" * 70_000 + b"\x01" * 70_000


@SECURE
def test_their_client_and_pings(secure: bool) -> None:
    with OurServer(secure, AcceptOptions()) as server, their_client(server, secure, None) as ws:
        assert ws.ping(b"from them") >= 0
        server.handler.ws.write_ping(b"from us")
        wait_until(lambda: server.handler.pongs == [b"from us"])


def test_their_client_chooses_a_subprotocol_of_ours() -> None:
    options = AcceptOptions(subprotocols=["best", "chat"])
    with OurServer(False, options) as server, their_client(server, False, None) as ws:
        assert ws.connection.subprotocol == "chat"
        ws.send("")
        ws.recv()
        assert server.handler.ws.subprotocol == "chat"


@SECURE
def test_their_client_closes(secure: bool) -> None:
    with OurServer(secure, AcceptOptions()) as server, their_client(server, secure, None) as ws:
        ws.close(4000, "enough")
        server.assert_closed(4000, "enough")
        assert ws.connection.close_code == 4000


@SECURE
def test_we_close_their_client(secure: bool) -> None:
    with OurServer(secure, AcceptOptions()) as server, their_client(server, secure, None) as ws:
        ws.send("close 4001 that is all")
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv()
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "that is all")
        server.assert_closed(4001, "that is all")


def test_the_server_stops_with_their_client_on_it() -> None:
    with OurServer(False, AcceptOptions()) as server:
        with their_client(server, False, None) as ws:
            ws.send("here")
            assert ws.recv() == "here"
            server.__exit__()
            with pytest.raises(ConnectionClosedOK) as caught:
                ws.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001


# ---------------------------------------------------------------------- their server


async def their_echo(ws: ServerConnection) -> None:
    try:
        async for message in ws:
            if isinstance(message, str) and message.startswith("close "):
                _, code, reason = message.split(" ", 2)
                await ws.close(int(code), reason)
            elif isinstance(message, str) and message.startswith("pieces "):
                await ws.send(message.split(" "))
            elif message == "ping":
                pong = await ws.ping(b"from them")
                await pong
                await ws.send("pong")
            else:
                await ws.send(message)
    finally:
        ws.transport.close()  # asyncio of 3.10 warns of a TLS transport that the peer closed


@contextmanager
def their_server(secure: bool, settings: dict[str, Any] | None, subprotocols: Any = None) -> Iterator[str]:
    """Its URL."""

    async def started() -> Server:
        server: Server = await serve(
            their_echo,
            "127.0.0.1",
            0,
            ssl=server_tls(secure),
            extensions=None if settings is None else [ServerPerMessageDeflateFactory(**settings)],
            compression=None,
            subprotocols=subprotocols,
            max_size=None,
            close_timeout=SECONDS,
        )
        return server

    async def stop() -> None:
        server.close()
        await server.wait_closed()

    with TheirLoop() as loop:
        server = loop.do(started())
        try:
            yield f"{'wss' if secure else 'ws'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/any?a=b"
        finally:
            loop.do(stop())


@SECURE
@BY_COMPRESSION
def test_our_client_gets_its_messages_back(secure: bool, compression: str) -> None:
    options, settings = COMPRESSION[compression]
    with (
        running_loop() as loop,
        their_server(secure, settings) as url,
        connect(url, options=options, ssl_context=client_tls(secure), loop=loop) as ws,
    ):
        assert (ws.connection.deflate is not None) is (options.compression and settings is not None)
        exchange(ws)


@BY_COMPRESSION
def test_their_server_sends_fragments(compression: str) -> None:
    options, settings = COMPRESSION[compression]
    with (
        running_loop() as loop,
        their_server(False, settings) as url,
        connect(url, options=options, loop=loop) as ws,
    ):
        ws.write_string("pieces grüß " + "x" * 70_000 + "  end")
        assert ws.recv(SECONDS) == "piecesgrüß" + "x" * 70_000 + "end"
        with ws.next_writer() as writer:
            for _ in range(10):
                writer.write_string("ä" * 9999)
        assert ws.recv(SECONDS) == "ä" * 99990


def test_their_server_and_pings() -> None:
    with running_loop() as loop, their_server(False, None) as url, connect(url, loop=loop) as ws:
        ws.write_string("ping")
        assert ws.recv(SECONDS) == "pong"
        ws.write_ping(b"from us")
        ws.write_string("behind the ping")
        assert ws.recv(SECONDS) == "behind the ping"


def test_their_server_chooses_a_subprotocol() -> None:
    with running_loop() as loop, their_server(False, None, ["chat"]) as url:
        with connect(url, subprotocols=["other", "chat"], loop=loop) as ws:
            assert ws.subprotocol == "chat"
        with pytest.raises(HandshakeError, match="refused the upgrade") as caught:
            connect(url, subprotocols=["unknown"], loop=loop)
        assert caught.value.status == 400
        assert b"subprotocol" in caught.value.body


@SECURE
def test_we_close_their_server(secure: bool) -> None:
    with running_loop() as loop, their_server(secure, None) as url:
        with connect(url, ssl_context=client_tls(secure), loop=loop) as ws:
            ws.close_handshake(4000, "enough")
            assert how_it_ended(ws) == (4000, "enough")
        with connect(url, ssl_context=client_tls(secure), loop=loop) as ws:
            pass
        assert ws.close_code == 1000


@SECURE
def test_their_server_closes(secure: bool) -> None:
    with (
        running_loop() as loop,
        their_server(secure, None) as url,
        connect(url, ssl_context=client_tls(secure), loop=loop) as ws,
    ):
        ws.write_string("close 4001 that is all")
        assert how_it_ended(ws) == (4001, "that is all")
