"""HTTP of ASGI: `receive` and `send` of one request.

What goes wrong, and what becomes of it:

| the application | the client gets |
|---|---|
| raises, or returns, before it has sent anything | 500; the fault is logged |
| raises, or returns, amid its answer | what was sent, then RST: it is not to be taken for the whole |
| sends what is no message, or in the wrong order | nothing: `send` raises ValueError or RuntimeError |
| sends to a client that has gone | `send` raises DisconnectedError, an OSError; that is not logged |
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from gows.asgi.scope import Message, Scope, http_scope
from gows.errors import DisconnectedError, HttpError
from gows.http.exchange import Exchange, ExchangeCarrier
from gows.http.request import Request
from gows.printable import show_path

logger = logging.getLogger("gows")

BURST = 1 << 20
"""Bytes that an application sends before other connections have their turn, if the client takes them that fast."""
FILE_PIECE = 262144
"""Bytes of a file that are read at once."""

Run = Callable[["HttpExchange", Scope], None]


class HttpExchange(Exchange):
    """One request, as an application reads and answers it. Loop thread."""

    __slots__ = ("_burst", "_change", "_root_path", "_run", "_state", "_told", "_told_gone")

    def __init__(
        self, request: Request, carrier: ExchangeCarrier, run: Run, root_path: str, state: dict[str, Any]
    ) -> None:
        """`run(exchange, scope)` calls the application."""
        super().__init__(request, carrier)
        self._run = run
        self._root_path = root_path
        self._state = state
        self._told = False  # that the body is complete
        self._told_gone = False
        self._burst = 0  # bytes sent since the application last waited
        self._change: asyncio.Event | None = None  # set when it is to look again

    # ------------------------------------------------------------------ what the connection calls

    def begin(self) -> None:
        """Call the application."""
        try:
            scope = http_scope(self.request, self._root_path, self._state)
        except HttpError as error:  # of what a proxy passed on
            self.refuse(error)
            return
        self._run(self, scope)

    def changed(self) -> None:
        """Have `receive` and `send` look again, if they wait."""
        if self._change is not None:
            self._change.set()

    # ------------------------------------------------------------------ what the application calls

    async def receive(self) -> Message:
        """Return the next piece of the body, or `http.disconnect`: the client has gone, or has its answer."""
        while not (self.gone or self.answered):
            if not self._told:
                if self.waiting or self.body_complete:
                    self._told = self.body_complete
                    return {"type": "http.request", "body": self.take_body(), "more_body": not self._told}
                self.send_continue()
            elif self.peer_ended:
                break
            await self._wait()
        self._told_gone = True
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send a part of the answer; return when there is room for the next. Raises ValueError and RuntimeError for
        what is no message, or comes at the wrong time, DisconnectedError when the client has gone."""
        kind = message.get("type") if type(message) is dict else None
        if type(kind) is not str:
            kind = type_of(message)
        if self.gone:
            raise DisconnectedError("the client has gone")
        if kind == "http.response.body":
            body = message.get("body", b"")
            if not isinstance(body, (bytes, bytearray, memoryview)):
                raise ValueError(f"the body of http.response.body must be bytes, not {type(body).__name__}")
            data = body if type(body) is bytes else bytes(body)
            more = bool(message.get("more_body", False))
            self.write(data, more)
            if more:
                await self._make_room(len(data))
        elif kind == "http.response.start":
            if "status" not in message:
                raise ValueError("http.response.start has no status")
            self.start_answer(message["status"], message.get("headers", ()), bool(message.get("trailers", False)))
        elif kind == "http.response.pathsend":
            await self._send_file(message.get("path"))
        elif kind == "http.response.trailers":
            self.write_trailers(message.get("headers", ()), bool(message.get("more_trailers", False)))
        elif kind == "http.response.early_hint":
            self.send_hint(message.get("links", ()))
        else:
            raise ValueError(f"{kind!r} is no message that answers an HTTP request")

    async def _make_room(self, size: int) -> None:
        """Wait until the client has taken enough of what was sent; give way to others after much that it took."""
        self._burst += size
        while self.full:
            await self._wait()
            if self.gone:
                raise DisconnectedError("the client has gone")
        if self._burst >= BURST:
            self._burst = 0
            await asyncio.sleep(0)

    async def _wait(self) -> None:
        """Wait for a change."""
        self._burst = 0
        change = self._change
        if change is None:
            change = self._change = asyncio.Event()
        change.clear()
        await change.wait()

    async def _send_file(self, path: object) -> None:
        """Send a file as the whole body."""
        if not isinstance(path, str):
            raise ValueError(f"the path of http.response.pathsend must be a str, not {type(path).__name__}")
        file = await asyncio.to_thread(open, path, "rb", 0)
        try:
            piece = await asyncio.to_thread(file.read, FILE_PIECE)
            more = True
            while more:
                following = await asyncio.to_thread(file.read, FILE_PIECE)
                if self.gone:
                    raise DisconnectedError("the client has gone")
                more = bool(following)
                self.write(piece, more)
                if more:
                    await self._make_room(len(piece))
                piece = following
        finally:
            file.close()

    # ------------------------------------------------------------------ the end of the application

    def ended(self, error: BaseException | None) -> None:
        """Deal with what the application has left: `error` is what it raised."""
        if error is not None and not (self.gone and comes_of_disconnect(error)):
            self._log("failed", error)
        elif not (self.gone or self.answered or self._told_gone):
            self._log("returned amid its answer" if self.begun else "returned without an answer")
        if not (self.gone or self.answered):
            self.refuse(HttpError(500, "internal server error"))

    def _log(self, what: str, error: BaseException | None = None) -> None:
        request = self.request
        logger.error(
            "%s %s: the ASGI application %s", request.method, show_path(request.head.path), what, exc_info=error
        )


def type_of(message: object) -> str:
    """Return the type of a message. Raises ValueError for what is none."""
    if isinstance(message, dict):
        kind = message.get("type")
        if isinstance(kind, str):
            return kind
    raise ValueError(f"a message is a dict with a type, not {message!r:.200}")


def comes_of_disconnect(error: BaseException | None) -> bool:
    """Return whether an error is ours about a client that has gone, or was raised because of it."""
    for _ in range(16):  # an application may have made a circle of them
        if error is None or isinstance(error, DisconnectedError):
            break
        error = error.__cause__ or error.__context__
    return isinstance(error, DisconnectedError)
