"""Opening: one attempt to connect, from looking up the name to the answered handshake (RFC 6455 §4.1).

    connecting -> (TCP and TLS are up, the request goes out) -> asking -> WebSocket
                                                                       -> refused: the body of the refusal is read
                                                                       -> sent on (`redirect`): connecting
    and from each of them -> failed

All of it has one deadline. An Opening observes its stream until the WebSocket takes over; everything here but `start`
and `cancel` happens in the loop's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from gows.client.redirect import FOLLOWED, redirected
from gows.client.request import ClientRequest
from gows.client.tunnelling import Tunnelling
from gows.client.url import WebSocketUrl
from gows.codes import CloseCode
from gows.errors import (
    ConnectError,
    ConnectionClosedError,
    ConnectTimeoutError,
    GowsError,
    HandshakeError,
    HttpError,
    LoopClosedError,
    UsageError,
)
from gows.http1.chunked import ChunkedDecoder
from gows.http1.head import ResponseHead, ResponseParser
from gows.printable import printable
from gows.protocol.connection import Connection
from gows.protocol.deflate import DeflateParams
from gows.protocol.handshake import check_response, new_key
from gows.reactor.interfaces import Observer
from gows.reactor.stream import NO_OBSERVER, Stream
from gows.reactor.timers import TICKS_PER_SECOND
from gows.reactor.transports import Loop
from gows.reactor.workers import current_task
from gows.session.context import SessionContext
from gows.session.handler import Handler
from gows.session.websocket import WebSocket

logger = logging.getLogger("gows")

REFUSAL_BYTES = 4096
"""Of the body of a refusal so much is kept: enough for what people write there."""
REFUSAL_SECONDS = 2.0
"""The body of a refusal is waited for no longer than this."""

IN_ORDER = frozenset({CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_CLOSE_RCVD})
"""Closed as it should be: an iteration over messages ends quietly."""


def closed_error(ws: WebSocket) -> ConnectionClosedError:
    """Return the error that tells of the end of `ws`."""
    code, reason = ws.close_code, ws.close_reason
    return ConnectionClosedError(f"the connection is closed: {code} {printable(reason)}".rstrip(), code, reason)


def refuse_in_loop(loop: Loop, what: str) -> None:
    """Raise UsageError when a caller is about to wait for the loop in its own thread."""
    if loop.in_loop():
        raise UsageError(f"{what} waits for the loop, so it must not be called in the loop's own thread")


def refuse_in_callback(client: object, what: str) -> None:
    """Raise UsageError when a caller is about to wait for `client` in one of its callbacks: what it waits for comes
    after that callback has returned."""
    if getattr(current_task(), "client", None) is client:
        raise UsageError(f"{what} waits for this client, so it must not be called in one of its own callbacks")


class Opening(Observer):
    """One attempt. When it succeeds, `make` is called for the WebSocket, then the handler is attached, and
    `opened(ws)` called; otherwise `failed(opening, error)`. Loop thread.
    """

    __slots__ = (
        "_body",
        "_done",
        "_due",
        "_failed",
        "_handler",
        "_key",
        "_make",
        "_opened",
        "_parser",
        "_refusal",
        "_request",
        "_stream",
        "_visited",
    )

    _stream: Stream  # from `_start` on, also when that fails

    def __init__(
        self,
        request: ClientRequest,
        handler: Handler,
        failed: Callable[[Opening, GowsError], object],
        *,
        make: Callable[[Stream, Connection, SessionContext, str | None], WebSocket] = WebSocket,
        opened: Callable[[WebSocket], object] | None = None,
    ) -> None:
        self._request = request
        self._handler = handler
        self._failed = failed
        self._make = make
        self._opened = opened
        self._key = new_key()
        self._parser = ResponseParser()
        self._due = 0
        self._refusal: HandshakeError | None = None
        self._body: _Body | None = None
        self._done = False
        self._visited: set[WebSocketUrl] = set()

    def start(self) -> None:
        """Begin. Any thread; returns at once."""
        self._request.context.loop.call_soon(self._start)

    def cancel(self) -> None:
        """Give up: the attempt fails, or the connection that it made is dropped. Any thread; returns at once."""
        try:
            self._request.context.loop.call_soon(self._cancel)
        except LoopClosedError:  # and with it every connection
            pass

    def _cancel(self) -> None:
        if self._done:
            self._stream.abort()
        self.fail(ConnectError(f"connecting to {self._place()} was given up"))

    def _websocket(self, params: DeflateParams | None = None, subprotocol: str | None = None) -> WebSocket:
        context = self._request.context
        return self._make(self._stream, context.connection(params), context, subprotocol)

    def _start(self) -> None:
        self._due = self._request.context.loop.now() + round(self._request.timeout * TICKS_PER_SECOND)
        self._connect(self._request.timeout)

    def _connect(self, seconds: float) -> None:
        """Begin to connect, directly or through a proxy."""
        request, loop = self._request, self._request.context.loop
        try:
            if request.proxy is not None:
                self._stream = Tunnelling(request, request.proxy, self).start()
                return
            self._stream = loop.connect(
                request.url.address,
                self,
                ssl_context=request.ssl_context,
                server_hostname=request.url.server_hostname if request.ssl_context is not None else None,
                timeout=seconds,
            )
        except Exception as error:  # nobody else would tell whoever waits for the outcome
            self._stream = Stream(loop, None, self)
            self._stream.abort()
            self.fail(ConnectError(f"cannot connect to {self._place()}: {error}"), error)

    # ------------------------------------------------------------------ observer of the stream

    def connected(self, stream: Stream) -> None:
        """Ask for the upgrade: TCP and TLS are up. A Unix-domain connection is made before `Loop.connect` returns."""
        self._stream = stream
        stream.write(self._request.encode(self._key))
        self._await(self.remaining())

    def data_received(self, buf: bytearray | bytes, n: int, /) -> None:
        """Take a piece of the answer."""
        try:
            data = bytes(memoryview(buf)[:n])
            if self._refusal is not None:
                self._read_refusal(data)
                return
            self._parser.feed(data)
            if self._parser.head is not None:
                self._answered(self._parser.head)
        except HttpError as error:
            self.fail(error)
        except Exception as error:  # ours, or the handler's: the attempt ends all the same
            logger.exception("the answer of %s could not be dealt with", self._place())
            self.fail(ConnectError(f"the answer of {self._place()} could not be dealt with: {error}"), error)

    def eof_received(self) -> None:
        """End the attempt, or the body of a refusal: the server sends nothing more."""
        if self._refusal is not None:
            self.fail(self._refused())
        else:
            self.fail(ConnectError(f"{self._place()} closed the connection during the handshake"))

    def deadline_reached(self) -> None:
        """End the attempt, or the body of a refusal: its time is up."""
        if self._refusal is not None:
            self.fail(self._refused())
        else:
            self.fail(self._late("did not answer the handshake"))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail: no connection could be made, or it broke before the handshake was over."""
        if self._refusal is not None:
            self.fail(self._refused())
        elif isinstance(error, ConnectError):  # the reactor's, which says where and why
            cause = error.__cause__
            self.fail(self._late("could not be reached") if isinstance(cause, TimeoutError) else error, cause)
        else:
            self.fail(ConnectError(f"{self._place()} broke the connection during the handshake: {error}"), error)

    # ------------------------------------------------------------------ the answer

    def _answered(self, head: ResponseHead) -> None:
        request, stream = self._request, self._stream
        try:
            subprotocol, params = check_response(
                head, self._key, subprotocols=request.subprotocols, deflate_options=request.deflate
            )
        except HandshakeError as error:
            if head.status == 101:
                raise
            if head.status in FOLLOWED and self._request.redirects:
                self._follow_redirect(head, error)
                return
            self._refusal = error
            self._body = _Body(head)
            self._await(min(self.remaining(), REFUSAL_SECONDS))
            self._read_refusal(self._parser.trailing)
            return
        ws = self._websocket(params, subprotocol)
        stream.set_deadline(None)
        stream.observer = ws
        try:
            ws.begin(self._handler)
        except BaseException:
            stream.observer = self
            raise
        self._done = True
        if self._opened is not None:
            self._opened(ws)
        frames = self._parser.trailing
        if frames:
            ws.data_received(bytearray(frames), len(frames))

    def _follow_redirect(self, head: ResponseHead, refusal: HandshakeError) -> None:
        """Connect to where the server sends us. Raises HandshakeError when that is not to be done."""
        locations = head.headers.get_all("location")
        try:
            if len(locations) != 1:
                raise ValueError("without one Location")
            self._visited.add(replace(self._request.url, authorization=None))
            request = redirected(self._request, locations[0])
            if request.url in self._visited:
                raise ValueError("where it was already: the redirects go round in circles")
        except ValueError as error:
            where = f" to {locations[0]}" if locations else ""
            raise HandshakeError(
                refusal.status, f"{self._place()} redirects{where}, {error}", refusal.headers
            ) from None
        stream = self._stream
        stream.observer = NO_OBSERVER
        stream.close(linger=False)
        self._request = request
        self._key = new_key()
        self._parser = ResponseParser()
        self._connect(max(self.remaining(), 0.0))

    def _read_refusal(self, data: bytes) -> None:
        assert self._body is not None
        if self._body.feed(data):
            self.fail(self._refused())

    def _refused(self) -> HandshakeError:
        refusal, body = self._refusal, self._body
        assert refusal is not None
        assert body is not None
        reason = f"{self._place()} refused the upgrade: {refusal.reason}"
        location = {name.lower(): value for name, value in refusal.headers}.get("location")
        if 300 <= refusal.status < 400 and location is not None:
            why = "no more redirects are followed" if self._visited else "redirects are not followed"
            if refusal.status not in FOLLOWED:
                why = f"{refusal.status} is not followed"
            reason = f"{self._place()} redirects to {location}, and {why}"
        error = HandshakeError(refusal.status, reason, refusal.headers)
        error.body = body.read()
        return error

    # ------------------------------------------------------------------ the end

    def follow(self, stream: Stream) -> None:
        """Take note that this is its stream from now on. Loop thread."""
        self._stream = stream

    def fail(self, error: GowsError, cause: BaseException | None = None) -> None:
        """End because of `error`, and close the stream. Loop thread; idempotent."""
        if self._done:
            return
        self._done = True
        error.__cause__ = cause
        self._stream.close()
        self._failed(self, error)

    def report(self, error: GowsError) -> None:
        """Tell the handler of the failure with `on_close`, as of a connection that ended before it opened. Loop
        thread."""
        if not hasattr(self, "_stream"):  # it was never begun
            self._stream = Stream(self._request.context.loop, None, self)
        ws = self._websocket()
        ws.connection.receive_eof()
        ws.connection.close_reason = str(error)
        ws.handler = self._handler
        ws.connection_lost(error)

    def _await(self, seconds: float) -> None:
        self._stream.set_deadline(max(seconds, 0.0))

    def remaining(self) -> float:
        """Return the seconds that are left of the timeout. Loop thread."""
        return (self._due - self._request.context.loop.now()) / TICKS_PER_SECOND

    def _late(self, what: str) -> ConnectTimeoutError:
        return ConnectTimeoutError(f"{self._place()} {what} within {self._request.timeout:g} s")

    def _place(self) -> str:
        """Where it connects to, and by which proxy."""
        request = self._request
        return f"{request.url.address}" + ("" if request.proxy is None else f" behind the proxy {request.proxy}")


class _Body:
    """The first bytes of the body of a refusal. A body that is malformed is kept as far as it could be read."""

    __slots__ = ("_buffer", "_chunks", "_length")

    def __init__(self, head: ResponseHead) -> None:
        length = head.headers.get("content-length", "")
        coding = head.headers.joined("transfer-encoding")
        self._buffer = bytearray()
        self._chunks = None if coding is None else ChunkedDecoder(REFUSAL_BYTES)
        self._length = REFUSAL_BYTES
        if head.status in (204, 304):  # RFC 9112 §6.3: these have none
            self._length = 0
        elif coding is None and length is not None and length.isdecimal():
            self._length = min(int(length), REFUSAL_BYTES)

    def feed(self, data: bytes) -> bool:
        """Take a piece; whether there is all that is wanted."""
        self._buffer += data
        if self._chunks is None:
            return len(self._buffer) >= self._length
        try:
            return self._chunks.decode(self._buffer)
        except HttpError:
            return True

    def read(self) -> bytes:
        """Return what came of the body."""
        return bytes(self._buffer if self._chunks is None else self._chunks.body)[: self._length]
