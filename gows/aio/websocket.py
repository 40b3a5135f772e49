"""AsyncWebSocket: a client's connection that is read with `await ws.recv()`.

Two objects, since both have a `close`: FetchedWebSocket is what the engine knows, AsyncWebSocket what the user has. All
of it happens in the thread of the asyncio loop, which is the one of the gows loop, so nothing here needs a lock of its
own, or a task.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Hashable
from secrets import token_bytes

from gows.aio.shared import SharedLoop
from gows.bytebuffer import ByteBuffer
from gows.client.opening import IN_ORDER, closed_error
from gows.codes import CloseCause, CloseCode
from gows.errors import ConnectionClosedError, LoopClosedError, UsageError
from gows.protocol.connection import Connection
from gows.protocol.states import BINARY, PONG, TEXT
from gows.reactor.address import SocketAddress
from gows.reactor.stream import Stream
from gows.session.context import SessionContext
from gows.session.states import INBOX_FULL, Event
from gows.session.websocket import Data, WebSocket

Pings = dict[bytes, tuple["asyncio.Future[float]", float]]
"""By what was sent: who waits for the pong, and when it was sent."""


class FetchedWebSocket(WebSocket):
    """A connection whose messages are fetched by one coroutine."""

    # The same as in a BlockingWebSocket: the loop puts events in the session's inbox, `advance` takes them from there,
    # deals with all that comes before the next message, and leaves the inbox taken as long as one waits. So a full
    # inbox stops the reading, and a message may be answered even if the peer's close frame came right behind it.

    __slots__ = ("_dropping", "_events", "_handed", "_pings", "_receiver", "_shared", "gone")

    def __init__(
        self,
        shared: SharedLoop,
        stream: Stream,
        connection: Connection,
        context: SessionContext,
        subprotocol: str | None = None,
    ) -> None:
        # in_workers: else the session would hand messages to the handler itself
        super().__init__(stream, connection, context.in_workers(), subprotocol)
        self._events: list[Event] | None = None  # the next comes last
        self._handed = False  # the last message was taken, and `advance` has not gone on since
        self._dropping = False  # messages are thrown away: the user has closed
        self._receiver: asyncio.Future[None] | None = None
        self._pings: Pings | None = None
        self.gone = False
        """Whether the last event was dealt with."""
        self._shared = shared
        shared.hold()

    # ------------------------------------------------------------------ messages

    def take(self) -> str | bytes | None:
        """Return the next message, if one has come."""
        if self._handed:
            self.advance()
        if not self._events:
            return None
        kind, buff = self._events.pop()
        self._handed = True
        message: str | bytes = buff.get_string() if kind == TEXT else buff.clone_bytes()
        buff.release()
        return message

    async def wait(self) -> None:
        """Wait until there is a message, or the connection has ended. Raises UsageError for a second that waits, and
        in another asyncio loop."""
        if self._receiver is not None:
            raise UsageError("another task waits in recv(): messages are received by one at a time")
        if not self.context.loop.in_loop():
            raise UsageError("recv() is called in another asyncio loop than the one of this connection")
        self._receiver = asyncio.get_running_loop().create_future()
        try:
            await self._receiver
        finally:
            self._receiver = None

    def _wake(self) -> None:
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)

    def _submit(self) -> None:
        self.advance()

    def advance(self) -> None:
        """Deal with all that comes before the next message."""
        self._handed = False
        while True:
            events = self._events
            while events:
                kind, value = events[-1]
                if kind == TEXT or kind == BINARY:
                    if not self._dropping:
                        self._wake()
                        return
                    value.release()
                    events.pop()
                else:
                    events.pop()
                    self._deliver_other(kind, value)
            with self.stream.lock:
                full = self._flags & INBOX_FULL
                events = self.take_events_locked()
            if not events:
                self._events = None
                break
            events.reverse()
            self._events = events
        if full and not self.stream.closed:
            self.context.loop.call_soon(self._resume_reading)

    def drop_messages(self) -> None:
        """Throw away what came and what comes, so that the peer's close has its turn."""
        self._dropping = True
        if self._events or self._handed:
            self.advance()

    # ------------------------------------------------------------------ pings

    def send_ping(self, data: bytes | None) -> asyncio.Future[float]:
        """Send a ping. Return what will have the seconds until its pong. Raises as `write_ping`, and UsageError when
        the pong of one with the same data is still to come."""
        if self._pings is None:
            self._pings = {}
        data = token_bytes(8) if data is None else bytes(data)
        if data in self._pings:
            raise UsageError(f"the pong of another ping with {data!r} is still to come")
        self.write_ping(data)
        pong: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._pings[data] = pong, time.monotonic()
        return pong

    def _answer_pings(self, events: list[Event]) -> list[Event]:
        """Take pongs ahead of the messages, too: they tell how fast the peer is, and not how fast we are."""
        for kind, value in events:
            if kind == PONG and self._pings:
                self._ponged(bytes(value))
        return [event for event in super()._answer_pings(events) if event[0] != PONG]

    def _ponged(self, data: bytes) -> None:
        """End the wait for a pong, and for those of the pings before it (RFC 6455 §5.5.3)."""
        pings = self._pings
        if not pings or data not in pings:
            return
        for sent, (pong, began) in list(pings.items()):
            del pings[sent]
            if not pong.done():
                pong.set_result(time.monotonic() - began)
            if sent == data:
                return

    # ------------------------------------------------------------------ the end

    def _finish(self) -> None:
        """Note that the connection has ended, and that all that came is dealt with."""
        super()._finish()
        self.gone = True
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """Let the loop go: the stream is gone. Messages that wait stay, without the loop's buffers."""
        super().connection_lost(error)
        with self.stream.lock:
            for events in (self._events, self._inbox):
                for n, (kind, value) in enumerate(events or ()):
                    if kind == TEXT or kind == BINARY:
                        events[n] = kind, ByteBuffer.of(value.clone_bytes())  # type: ignore[index]
                        value.release()
        pings, self._pings = self._pings, None
        for pong, _ in (pings or {}).values():
            if not pong.done():
                pong.set_exception(closed_error(self))
                pong.exception()  # if nobody waits for it, nobody needs to know
        self._shared.release()

    async def end(self, code: int, reason: str = "") -> None:
        """See `AsyncWebSocket.close`."""
        self.close_handshake(code, reason)
        self.drop_messages()
        try:
            await self.wait_closed()
        except asyncio.CancelledError:
            self.close()
            raise

    def abandon(self, code: int) -> None:
        """Close without a wait for the end: nobody will receive or send any more. Any thread."""
        try:
            self.close_handshake(code)
            self.context.loop.call_soon(self.drop_messages)
        except (LoopClosedError, RuntimeError):  # asyncio's was closed
            pass


class AsyncWebSocket:
    """What `gows.aio.connect` gives: a WebSocket whose messages are fetched with `await ws.recv()`, or by
    `async for message in ws`.

        async with gows.aio.connect("ws://localhost:8080/ws") as ws:
            await ws.send("hello")
            print(await ws.recv())

    For the tasks of the asyncio loop in which it was made. Any number of them may send; one at a time receives.
    Messages that nobody fetches are kept up to `AcceptOptions.inbox_messages` or `max_message_size` bytes (and what one
    read brought beyond); then the socket is not read any more until they are. The peer's close takes its turn behind
    them.
    """

    __slots__ = ("_ws",)

    def __init__(self, ws: FetchedWebSocket) -> None:
        if not isinstance(ws, FetchedWebSocket):
            raise TypeError("an AsyncWebSocket is made by gows.aio.connect")
        self._ws = ws

    # ------------------------------------------------------------------ receiving

    async def recv(self) -> str | bytes:
        """Return the next message: a str for TEXT, bytes for BINARY. Cancelled, it loses none.

        Raises ConnectionClosedError (with `code` and `reason`) when there will be none, UsageError when another task
        waits here.
        """
        ws = self._ws
        while True:
            message = ws.take()
            if message is not None:
                return message
            if ws.gone:
                raise closed_error(ws)
            await ws.wait()

    def __aiter__(self) -> AsyncWebSocket:
        return self

    async def __anext__(self) -> str | bytes:
        """Return the next message; end after a close with 1000, 1001 or without a code, raise ConnectionClosedError
        after any other end."""
        try:
            return await self.recv()
        except ConnectionClosedError as error:
            if error.code in IN_ORDER:
                raise StopAsyncIteration from None
            raise

    # ------------------------------------------------------------------ sending

    async def send(self, data: str | Data, compress: bool = True, key: Hashable = None) -> None:
        """Send one message, str as TEXT and bytes as BINARY, and wait before that as long as more than the high-water
        mark is queued (`WebSocket.send`). Raises ConnectionClosedError; with an overflow policy that does not wait,
        what that raises."""
        await self._ws.send(data, compress, key)

    async def drain(self) -> None:
        """Wait, if more than the high-water mark is queued, until it fell to the low-water mark. Raises
        ConnectionClosedError when the connection ends."""
        await self._ws.drain()

    async def ping(self, data: bytes | None = None) -> asyncio.Future[float]:
        """Send a ping of at most 125 bytes (None: random ones), and return what the seconds until its pong can be
        awaited with: `latency = await (await ws.ping())`. Pongs are taken ahead of messages that wait.

        Raises ConnectionClosedError, here and there; UsageError when the pong of one with the same data is still to
        come.
        """
        return self._ws.send_ping(data)

    # ------------------------------------------------------------------ closing

    async def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Send a close frame, behind what is queued, and wait for the end of the connection, at most
        `AcceptOptions.close_timeout` seconds after the peer took the last of it. Idempotent.

        Messages that were not fetched are thrown away. Cancelled while it waits, it ends the connection at once. Raises
        InvalidCloseCodeError for a code that may not travel, or a reason over 123 bytes of UTF-8.
        """
        await self._ws.end(code, reason)

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, however it does. While messages wait that nobody fetches, the peer's
        close waits behind them."""
        await self._ws.wait_closed()

    def abandon(self, code: int = CloseCode.NORMAL_CLOSURE) -> None:
        """Close without a wait for the end. Any thread."""
        self._ws.abandon(code)

    def __del__(self) -> None:
        """Close a connection that was left open. Any thread: it may be a garbage collection's."""
        ws: FetchedWebSocket | None = getattr(self, "_ws", None)
        if ws is not None and not ws.closed:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)
            ws.abandon(CloseCode.GOING_AWAY)

    # ------------------------------------------------------------------ facts

    def closed_error(self) -> ConnectionClosedError:
        """Return the error that tells of its end."""
        return closed_error(self._ws)

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more: a close has begun, from either side, or the connection is gone."""
        return self._ws.closed

    @property
    def close_code(self) -> int | None:
        """How it ended: the peer's close code; 1005 if its close frame had none; 1006 if there was none. None while
        open."""
        return self._ws.close_code

    @property
    def close_reason(self) -> str:
        """The text that came with the close code, or what the engine found (e.g. a timeout)."""
        return self._ws.close_reason

    @property
    def close_cause(self) -> CloseCause | None:
        """What made it end, as the engine saw it; None while open."""
        return self._ws.close_cause

    @property
    def buffered(self) -> int:
        """Bytes that are queued and not yet taken by the kernel."""
        return self._ws.buffered

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol agreed on, or None."""
        return self._ws.subprotocol

    @property
    def local_addr(self) -> SocketAddress | None:
        """Our address; None once the socket is gone."""
        return self._ws.local_addr

    @property
    def remote_addr(self) -> SocketAddress | None:
        """The peer's address; None once the socket is gone."""
        return self._ws.remote_addr

    def __repr__(self) -> str:
        return f"<AsyncWebSocket {repr(self._ws)[len('<WebSocket ') : -1]}>"
