"""What the interoperability tests share: the messages that everybody has to carry, certificates, and our side."""

from __future__ import annotations

import random
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import trustme

from gows import (
    AcceptOptions,
    ByteBuffer,
    ConnectionClosedError,
    Handler,
    Opcode,
    Request,
    Server,
    WebSocket,
    accept,
)
from gows.client import BlockingWebSocket
from gows.reactor import Loop
from tests.support.addresses import tcp
from tests.support.waiting import wait_until
from tests.support.warming import start_all_workers

SECONDS = 20.0
"""Nothing here takes so long."""

WORKERS = 2

MESSAGES: list[str | bytes] = [
    "",
    b"",
    "hello",
    "grüß 漢字 🙂",
    b"\x00\xff\x80",
    *("x" * size for size in (125, 126, 127, 1023, 1024, 65535, 65536)),
    *(random.Random(size).randbytes(size) for size in (125, 126, 65535, 65536, 300_000)),
    "all work and no play " * 20_000,
    b"\x00" * 500_000,
]
"""Every length form, empty ones, what can be compressed and what cannot."""


@lru_cache(maxsize=1)
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context, and one of clients that trust it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # websockets' blocking client reads in one thread while another writes its request. A session ticket that comes then
    # changes the one TLS object which both use, and which CPython guards from 3.13 on only: on a busy machine the
    # client lost one handshake in some hundred ("did not receive a valid HTTP response"), and none without tickets.
    server.num_tickets = 0
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def server_tls(secure: bool) -> ssl.SSLContext | None:
    return tls()[0] if secure else None


def client_tls(secure: bool) -> ssl.SSLContext | None:
    return tls()[1] if secure else None


class Echo(Handler):
    """Sends back what comes; "close CODE REASON" is an order."""

    def __init__(self) -> None:
        self.ws: WebSocket
        self.pings = 0
        self.pongs: list[bytes] = []
        self.closed = threading.Event()

    def on_open(self, ws: WebSocket) -> None:
        self.ws = ws

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        if buff.clone_bytes().startswith(b"close "):
            _, code, reason = buff.get_string().split(" ", 2)
            ws.close_handshake(int(code), reason)
        else:
            ws.write_message(opcode, buff)

    def on_ping(self, ws: WebSocket, data: bytes) -> None:
        self.pings += 1

    def on_pong(self, ws: WebSocket, data: bytes) -> None:
        self.pongs.append(data)

    def on_close(self, ws: WebSocket) -> None:
        self.closed.set()


class OurServer:
    """A gows.Server that echoes, with one Echo for each connection. A context."""

    def __init__(self, secure: bool, options: AcceptOptions) -> None:
        self.handlers: list[Echo] = []
        self._options = options
        self._server = Server(workers=WORKERS, ssl_context=server_tls(secure))
        self._server.add_route("/echo", self._accept)
        self.port = tcp(self._server.listen("127.0.0.1:0"))[1]
        self.url = f"{'wss' if secure else 'ws'}://127.0.0.1:{self.port}/echo"

    def _accept(self, request: Request) -> None:
        handler = Echo()
        self.handlers.append(handler)
        accept(request, self._options).serve(handler)

    @property
    def handler(self) -> Echo:
        """Of the latest connection."""
        wait_until(lambda: self.handlers and hasattr(self.handlers[-1], "ws"))
        return self.handlers[-1]

    def assert_closed(self, code: int, reason: str = "") -> None:
        """The latest connection ended like this."""
        assert self.handler.closed.wait(SECONDS), "still open"
        ended = self.handler.ws.close_code, self.handler.ws.close_reason
        assert ended == (code, reason), ended

    def __enter__(self) -> OurServer:
        self._server.start()
        start_all_workers(self._server.loop, WORKERS)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.stop()


@contextmanager
def running_loop() -> Iterator[Loop]:
    """A loop for our client."""
    with Loop(workers=1) as loop:
        loop.start()
        start_all_workers(loop, 1)
        yield loop


def exchange(ws: BlockingWebSocket) -> None:
    """Send every message to an echo, one after the other, then all at once."""
    for message in MESSAGES:
        send(ws, message)
        assert ws.recv(SECONDS) == message
    for message in MESSAGES[:10]:
        send(ws, message)
    assert [ws.recv(SECONDS) for _ in MESSAGES[:10]] == MESSAGES[:10]


def send(ws: BlockingWebSocket, message: str | bytes) -> None:
    if isinstance(message, str):
        ws.write_string(message)
    else:
        ws.write_binary(message)


def how_it_ended(ws: BlockingWebSocket) -> tuple[int | None, str]:
    """The code and the reason of the close that `recv` meets."""
    try:
        message = ws.recv(SECONDS)
    except ConnectionClosedError as error:
        return error.code, error.reason
    raise AssertionError(f"{message!r} came instead")
