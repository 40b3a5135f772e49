"""AsgiSite: a server with an ASGI application on real sockets, in each way of serving; HttpPeer: a client of it that
sees every byte."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

from gows import Server
from tests.support.raw import RawPeer
from tests.support.serving import Faults

WAYS = ("thread", "inside")
"""In a thread of its own, and inside an asyncio loop that runs already."""


class AsgiSite:
    """A running server with an application. A context that stops it, and looks whether tasks are left."""

    def __init__(self, app: Any, way: str = "thread", *, stop_timeout: float = 5.0, **settings: Any) -> None:
        self.faults = Faults()
        self.server = Server(asgi=app, **{"lifespan": "off", **settings})  # most applications of tests have none
        self.way = way
        self.stop_timeout = stop_timeout
        self.tasks_left: set[Any] = set()
        self._loggers = [logging.getLogger(name) for name in ("gows", "asyncio")]
        self._over: asyncio.Event | None = None
        self._serving = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None
        for logger in self._loggers:
            logger.addHandler(self.faults)

    def __enter__(self) -> AsgiSite:
        if self.way == "thread":
            self.server.start("127.0.0.1:0")
        else:
            self._thread = threading.Thread(target=self._run)
            self._thread.start()
            assert self._serving.wait(10.0)
            if self._failed is not None:
                raise self._failed
        return self

    def _run(self) -> None:
        async def main() -> None:
            self._over = asyncio.Event()
            async with self.server.serve("127.0.0.1:0", timeout=self.stop_timeout):
                self.aloop = asyncio.get_running_loop()
                self._serving.set()
                await self._over.wait()
            self.tasks_left = asyncio.all_tasks() - {asyncio.current_task()}

        try:
            asyncio.run(main())
        except BaseException as error:
            self._failed = error
        finally:
            self._serving.set()

    def stop(self) -> None:
        """End it. Idempotent."""
        if self.way == "thread":
            self.server.stop(self.stop_timeout)
        elif self._thread is not None:
            assert self._over is not None
            self.aloop.call_soon_threadsafe(self._over.set)
            self._thread.join(20.0)
            assert not self._thread.is_alive()
            self._thread = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            for logger in self._loggers:
                logger.removeHandler(self.faults)
        if error is None:
            assert self._failed is None, self._failed
            assert self.tasks_left == set()
            assert self.faults.messages == []

    def peer(self, **settings: Any) -> HttpPeer:
        """A connection, nothing sent."""
        return HttpPeer(self.server.addresses[0], **settings)

    def fetch(self, wire: bytes) -> Answer:
        """The answer to one request on a connection of its own."""
        with self.peer() as peer:
            peer.send(wire)
            return peer.answer(head=wire.startswith(b"HEAD"))


class Answer(NamedTuple):
    """An answer as it came; `headers` has the last value of each name."""

    status: int
    headers: dict[str, str]
    body: bytes
    trailers: dict[str, str]


class HttpPeer(RawPeer):
    """A client that reads answers of every framing."""

    def answer(self, *, head: bool = False) -> Answer:
        """The next answer, which may be an interim one. `head`: it answers HEAD."""
        status, headers = self._head()
        if head or status in (204, 304) or status < 200:
            return Answer(status, headers, b"", {})
        if "content-length" in headers:
            return Answer(status, headers, self.take(int(headers["content-length"])), {})
        if headers.get("transfer-encoding") == "chunked":
            body = []
            while piece := self.chunk():
                body.append(piece)
            return Answer(status, headers, b"".join(body), self._fields())
        return Answer(status, headers, self.rest(), {})

    def chunk(self) -> bytes:
        """The next chunk; empty: the last. Trailers are not read."""
        size = int(self._line(), 16)
        data = self.take(size)
        if size:
            assert self.take(2) == b"\r\n"
        return data

    def head(self) -> tuple[int, dict[str, str]]:
        """The status and the fields of the next answer, not its body."""
        return self._head()

    def take(self, size: int) -> bytes:
        """So many bytes, which must come."""
        pieces = [self._buffer[:size]]
        self._buffer = self._buffer[size:]
        missing = size - len(pieces[0])
        while missing:
            data = self._more(missing)
            pieces.append(data)
            missing -= len(data)
        return b"".join(pieces)

    def rest(self) -> bytes:
        """All up to the server's FIN."""
        data, self._buffer = self._buffer, b""
        while piece := self.sock.recv(65536):
            data += piece
        return data

    def ended(self) -> str:
        """How the server ended the connection, "FIN" or "RST"; whatever came before."""
        self._buffer = b""
        return self.drain()

    def _more(self, size: int = 65536) -> bytes:
        data = self.sock.recv(min(size, 1 << 20))
        assert data, f"the server closed after {self._buffer!r}"
        return data

    def _line(self) -> str:
        while b"\r\n" not in self._buffer:
            self._buffer += self._more()
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line.decode("latin-1")

    def _fields(self) -> dict[str, str]:
        fields = {}
        while line := self._line():
            name, _, value = line.partition(": ")
            fields[name.lower()] = value
        return fields

    def _head(self) -> tuple[int, dict[str, str]]:
        version, status, _ = self._line().split(" ", 2)
        assert version == "HTTP/1.1"
        return int(status), self._fields()


def get(target: str = "/", *fields: str, method: str = "GET", version: str = "HTTP/1.1", body: bytes = b"") -> bytes:
    """A request, with a Content-Length if it has a body."""
    lines = [f"{method} {target} {version}", "Host: example.com", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def answer(*pieces: bytes, status: int = 200, headers: Any = (), **start: Any) -> Callable[..., Any]:
    """An application that answers with these pieces."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers, **start})
        for piece in pieces[:-1]:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": pieces[-1] if pieces else b""})

    return app
