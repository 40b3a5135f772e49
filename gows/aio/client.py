"""connect: make a connection in an asyncio loop, or one after the other."""

from __future__ import annotations

import asyncio
import inspect
import logging
import ssl
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypedDict, cast

from gows.aio.shared import shared_loop
from gows.aio.websocket import AsyncWebSocket, FetchedWebSocket
from gows.client.cookies import Cookies
from gows.client.opening import Opening
from gows.client.proxy import ProxyRule
from gows.client.request import ClientRequest, HeaderRule, default_ssl_context, make_request
from gows.client.retry import Failures, Reconnect
from gows.codes import CloseCause, CloseCode
from gows.errors import ConnectError, GowsError, UsageError
from gows.http1.headers import HeaderSource
from gows.options import AcceptOptions
from gows.protocol.connection import Connection
from gows.reactor.stream import Stream
from gows.reactor.transports import Loop
from gows.session.context import SessionContext
from gows.session.handler import Handler
from gows.session.websocket import WebSocket

logger = logging.getLogger("gows")

AsyncUrl = str | Callable[[], str | Awaitable[str]]
AsyncHeaders = HeaderRule | Callable[[], Awaitable[HeaderSource]]
AsyncCookies = Cookies | Callable[[], Awaitable[Mapping[str, str]]]

Make = Callable[[Stream, Connection, SessionContext, "str | None"], WebSocket]

_HANDLER = Handler()  # does nothing; for all connections


class Arguments(TypedDict):
    """Of `connect`, as `make_request` wants them."""

    options: AcceptOptions | None
    subprotocols: Sequence[str]
    origin: str | None
    compression: bool | None
    ssl_context: ssl.SSLContext | None
    timeout: float
    proxy: ProxyRule
    redirects: int


def connect(
    url: AsyncUrl,
    *,
    options: AcceptOptions | None = None,
    subprotocols: Sequence[str] = (),
    headers: AsyncHeaders | None = None,
    cookies: AsyncCookies | None = None,
    origin: str | None = None,
    compression: bool | None = None,
    ssl_context: ssl.SSLContext | None = None,
    timeout: float = 10.0,
    proxy: ProxyRule = True,
    redirects: int = 0,
    reconnect: Reconnect | None = None,
) -> Connecting:
    """Connect to a WebSocket server (RFC 6455 §4.1) in the running asyncio loop.

    - `async with connect(url) as ws:` closes in the end: with 1000, with 1011 when the block raised, with 1001 when it
      was cancelled.
    - `ws = await connect(url)`: close it yourself.
    - `async for ws in connect(url, reconnect=Reconnect(…))`: one connection after the other, each attempt but the first
      after a delay; without `reconnect`, by its defaults. A connection that is still open at the end of the loop's body
      is closed, and so is the last one when the loop is left; `await ws.close()` in the body ends the iteration. When
      it gives up (`Reconnect.retry_if`, `attempts`), it raises what failed last. The first attempt may fail, too.

    The arguments are those of `gows.connect`. `url`, `headers` and `cookies` may be functions, `async def` ones, too;
    they are called for each attempt, in the task that connects. All clients of an asyncio loop share one gows loop,
    which asyncio turns; names are looked up in a thread. Whoever is cancelled leaves nothing behind.

    Awaiting it raises what `gows.connect` raises: ValueError and TypeError for arguments that cannot be,
    InvalidHeaderError, ConnectError (ConnectTimeoutError, ProxyError), HandshakeError. In any asyncio loop that can
    watch descriptors, uvloop's, too.
    """
    if reconnect is not None and not isinstance(reconnect, Reconnect):
        raise TypeError(f"reconnect must be a gows.Reconnect or None, not {type(reconnect).__name__}")
    arguments = Arguments(
        options=options,
        subprotocols=subprotocols,
        origin=origin,
        compression=compression,
        ssl_context=ssl_context,
        timeout=timeout,
        proxy=proxy,
        redirects=redirects,
    )
    return Connecting(url, headers, cookies, arguments, reconnect)


class Connecting:
    """What `connect` returns: to be awaited, entered with `async with`, or iterated over with `async for`."""

    __slots__ = ("_arguments", "_cookies", "_headers", "_policy", "_url", "_ws")

    def __init__(
        self,
        url: AsyncUrl,
        headers: AsyncHeaders | None,
        cookies: AsyncCookies | None,
        arguments: Arguments,
        policy: Reconnect | None,
    ) -> None:
        self._url = url
        self._headers = headers
        self._cookies = cookies
        self._arguments = arguments
        self._policy = policy
        self._ws: AsyncWebSocket | None = None

    def __await__(self) -> Generator[Any, Any, AsyncWebSocket]:
        return self.open().__await__()

    async def __aenter__(self) -> AsyncWebSocket:
        if self._ws is not None:
            raise UsageError("this connect() is in use: each `async with` needs one of its own")
        self._ws = ws = await self.open()
        return ws

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._ws is not None
        ws, self._ws = self._ws, None
        await ws.close(close_code_for(kind))

    def __aiter__(self) -> Connections:
        return Connections(self, self._policy or Reconnect())

    async def open(self) -> AsyncWebSocket:
        """Make one attempt. Raises as `connect` says."""
        shared = shared_loop()
        shared.hold()
        try:
            request = await self._request(shared.loop)
            ws = await attempt(request, _HANDLER, partial(FetchedWebSocket, shared))
        finally:
            shared.release()
        return AsyncWebSocket(cast(FetchedWebSocket, ws))

    async def _request(self, loop: Loop) -> ClientRequest:
        url: str = await value_of(self._url)
        headers: HeaderSource | None = await value_of(self._headers)
        cookies: Mapping[str, str] | None = await value_of(self._cookies)
        await prepare_tls(url, self._arguments)
        return make_request(url, loop, headers=headers, cookies=cookies, **self._arguments)


def close_code_for(kind: type[BaseException] | None) -> int:
    """Return the code with which a block that ended with such an error closes its connection."""
    if kind is None:
        return CloseCode.NORMAL_CLOSURE
    return CloseCode.GOING_AWAY if issubclass(kind, asyncio.CancelledError) else CloseCode.INTERNAL_ERROR


async def value_of(rule: Any) -> Any:
    """Return what an argument is that may be a function, or an `async def`."""
    value = rule() if callable(rule) else rule
    return await value if inspect.isawaitable(value) else value


async def prepare_tls(url: object, arguments: Arguments) -> None:
    """Read the system's authorities in a thread, if they may be needed and were not read yet: that takes tens of
    milliseconds."""
    wanted = arguments["ssl_context"] is None and (str(url)[:3].lower() == "wss" or arguments["redirects"])
    if wanted and not default_ssl_context.cache_info().currsize:
        await asyncio.to_thread(default_ssl_context)


async def attempt(request: ClientRequest, handler: Handler, make: Make) -> WebSocket:
    """Make one attempt, and return its WebSocket. Cancelled, it gives up. Raises what failed."""
    outcome: asyncio.Future[WebSocket] = asyncio.get_running_loop().create_future()

    def opened(ws: WebSocket) -> None:
        if not outcome.done():
            outcome.set_result(ws)

    def failed(_: Opening, error: GowsError) -> None:
        if not outcome.done():
            outcome.set_exception(error)

    opening = Opening(request, handler, failed, make=make, opened=opened)
    opening.start()
    try:
        return await outcome
    except asyncio.CancelledError:
        opening.cancel()  # also a connection that was made in this very turn
        if outcome.done() and not outcome.cancelled():
            outcome.exception()
        raise


class Connections:
    """The iterator of `async for ws in connect(…)`."""

    __slots__ = ("_connecting", "_failures", "_opened_at", "_ws")

    def __init__(self, connecting: Connecting, policy: Reconnect) -> None:
        self._connecting = connecting
        self._failures = Failures(policy)
        self._ws: AsyncWebSocket | None = None
        self._opened_at = 0.0

    def __aiter__(self) -> Connections:
        return self

    async def __anext__(self) -> AsyncWebSocket:
        """Close the connection that there was, and return the next. Raises what failed last when it gives up."""
        clock = asyncio.get_running_loop().time
        error: GowsError | None = None
        first = self._ws is None
        if self._ws is not None:
            if self._ws.close_cause is CloseCause.LOCAL:
                await self._ws.close()
                raise StopAsyncIteration
            await self._ws.close()
            self._failures.lost(clock() - self._opened_at)
            error, self._ws = self._ws.closed_error(), None
        try:
            while True:
                if error is not None:
                    if not self._failures.may_retry(error):
                        raise error
                    delay = self._failures.delay(error)
                    logger.info("%s; connecting again in %.1f s", error, delay)
                    await asyncio.sleep(delay)
                try:
                    self._ws = await self._connecting.open()
                except GowsError as failure:
                    error = failure
                except Exception as failure:
                    if first:  # arguments that cannot be
                        raise
                    logger.exception("there is no URL, or there are no headers or cookies, for the next attempt")
                    error = ConnectError(f"no URL, headers or cookies for the next attempt: {failure!r}")
                    error.__cause__ = failure
                else:
                    self._opened_at = clock()
                    return self._ws
                self._failures.add()
                first = False
        finally:
            error = None  # whose traceback leads here: the iterator would stay until a garbage collection

    def __del__(self) -> None:
        """Close the connection of the last round: the loop was left. Any thread."""
        ws: AsyncWebSocket | None = getattr(self, "_ws", None)
        if ws is not None:
            ws.abandon()
