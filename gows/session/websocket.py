"""WebSocket: the user's side of one connection. Every method may be called from every thread."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from gows.codes import CloseCause, Opcode
from gows.errors import ConnectionClosedError, QueueFullError, UsageError, WriterBusyError
from gows.jsontext import to_json_text
from gows.options import Keep, check_seconds
from gows.printable import show_address
from gows.protocol.connection import Connection, ConnectionState, to_bytes
from gows.reactor.address import SocketAddress
from gows.reactor.stream import Stream
from gows.session.context import SessionContext
from gows.session.handler import Handler
from gows.session.owner import Owner
from gows.session.session import Session
from gows.session.states import ENDING
from gows.session.writer import Data as Data
from gows.session.writer import MessageWriter as MessageWriter

if TYPE_CHECKING:
    from gows.http.request import Request


class WebSocket(Session):
    """One WebSocket connection, as `gows.accept` or `gows.connect` returns it.

    Writing never blocks: a message is encoded, queued and sent as soon as the kernel takes it. Writing raises
    ConnectionClosedError once the connection is closed or closing, and, over the high-water mark, what
    `AcceptOptions.overflow` says (QueueFullError by default). Nothing was sent when a write raises.
    """

    __slots__ = ("__weakref__", "data")

    def __init__(
        self,
        stream: Stream,
        connection: Connection,
        context: SessionContext,
        subprotocol: str | None = None,
        request: object = None,
    ) -> None:
        if not isinstance(context, SessionContext):
            raise TypeError("a WebSocket is made by gows.accept or gows.connect")
        super().__init__(stream, connection, context, subprotocol, request)
        self.data: Any = None
        """Free for the user."""

    def serve(self, handler: Handler) -> None:
        """Attach the handler and start delivery; returns at once. Once for a connection."""
        self.begin(handler)

    # ------------------------------------------------------------------ writing

    def write_message(self, opcode: Opcode | int, data: Data, compress: bool = True, key: Hashable = None) -> None:
        """Send one message: TEXT (must be UTF-8, ValueError otherwise), BINARY, or a control frame (at most 125
        bytes). `key`: as for `write_string`."""
        if opcode == Opcode.TEXT or opcode == Opcode.BINARY:
            self._write(int(opcode), data, compress, key)
        elif opcode == Opcode.PING:
            self.write_ping(data)
        elif opcode == Opcode.PONG:
            self.write_pong(data)
        else:
            raise ValueError(f"a message is TEXT, BINARY, PING or PONG, not {opcode!r}; close with close_handshake()")

    def write_string(self, text: str, compress: bool = True, key: Hashable = None) -> None:
        """Send a text message. `compress=False`: never compressed, e.g. for secrets beside a peer's own text. `key`:
        with the overflow policy "latest", it takes the place of a message with the same key that still waits."""
        stream = self.stream
        lock = stream.lock
        lock.acquire()  # `with` would cost twice as much
        try:
            if stream.queued > self.context.mark and not self.make_room_locked(1, text, compress, key):
                return
            if self._writer is None:
                frame = self.connection.encode_text(text, compress)
                stream.write_locked(frame)
                size = len(frame)  # no call within an increment: other threads may have their turn after it
                traffic = self.context.traffic
                traffic.sent += 1
                traffic.sent_bytes += size
            else:
                self._writer.defer_locked(Opcode.TEXT, text.encode(), compress)
        except AttributeError:
            if isinstance(text, str):
                raise
            raise TypeError(
                f"write_string takes a str, not {type(text).__name__}; write_text takes UTF-8 as bytes"
            ) from None
        finally:
            lock.release()

    def write_text(self, data: Data, compress: bool = True, key: Hashable = None) -> None:
        """Send a text message that is UTF-8 already; ValueError when it is not."""
        self._write(1, data, compress, key)

    def write_binary(self, data: Data, compress: bool = True, key: Hashable = None) -> None:
        """Send a binary message."""
        self._write(2, data, compress, key)

    def write_json(self, value: object, compress: bool = True, key: Hashable = None) -> None:
        """Send `value` as JSON in a text message; what `json` cannot write raises TypeError or ValueError, and
        nothing is sent."""
        self.write_string(to_json_text(value), compress, key)

    def write_ping(self, data: Data = b"") -> None:
        """Send a ping of at most 125 bytes."""
        with self.stream.lock:
            self.stream.write_locked(self.connection.encode_ping(data))

    def write_pong(self, data: Data = b"") -> None:
        """Send an unasked pong of at most 125 bytes; those that were asked for are sent by the engine."""
        with self.stream.lock:
            self.stream.write_locked(self.connection.encode_pong(data))

    def next_writer(self, opcode: Opcode | int = 1, compress: bool = True) -> MessageWriter:
        """Write one message in pieces: `with ws.next_writer(Opcode.TEXT) as w: w.write_string(…)`. 1 is `Opcode.TEXT`.

        One writer at a time: WriterBusyError while another is open. Whole messages that other threads write meanwhile
        are sent after it; they count as queued.
        """
        if opcode != Opcode.TEXT and opcode != Opcode.BINARY:
            raise ValueError(f"a message is written as TEXT or BINARY, not {opcode!r}")
        with self.stream.lock:
            if self.connection.state in ENDING:
                raise ConnectionClosedError("the connection is closed")
            if self._writer is not None:
                raise WriterBusyError("another writer is open on this connection")
            self._writer = writer = MessageWriter(self, Opcode(opcode), compress)
        return writer

    async def send(self, data: str | Data, compress: bool = True, key: Hashable = None) -> None:
        """Send one message, str as TEXT and bytes as BINARY, and wait before that as long as more than the high-water
        mark is queued. For coroutines, in any asyncio loop; cancelled while it waits, it sends nothing.

        It waits with the overflow policies "refuse" and "block", at most until the write timeout ends the connection.
        The others decide at once, as for `write_string`. Raises ConnectionClosedError.
        """
        from gows.session.awaiting import pause  # imports asyncio, which not every program has

        waits = self.context.options.overflow in ("refuse", "block")
        if waits and self.buffered > self.context.high_water:
            await self.drain()
        while True:
            try:
                if isinstance(data, str):
                    self.write_string(data, compress, key)
                else:
                    self._write(2, data, compress, key)
                return
            except QueueFullError:
                if not waits:
                    raise
            await pause()  # others have filled the queue meanwhile, or the budget of all connections

    async def drain(self) -> None:
        """Wait, if more than the high-water mark is queued, until it fell to the low-water mark. For coroutines, in any
        asyncio loop. Raises ConnectionClosedError when the connection ends."""
        from gows.session.awaiting import until_room

        context = self.context
        if self.buffered > context.high_water:
            await until_room(self, context.overflow, self.low_water)
        elif self.stream.closed:
            raise ConnectionClosedError("the connection is closed")

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, however it does; `on_close` may still be to come. For coroutines, in any
        asyncio loop."""
        from gows.session.awaiting import until_lost

        await until_lost(self, self.context.overflow)

    def _write(self, opcode: int, data: Data, compress: bool, key: Hashable) -> None:
        if type(data) is not bytes:
            data = to_bytes(data)  # without the lock: where the bytes are may be the user's code (PEP 688)
        stream = self.stream
        lock = stream.lock
        lock.acquire()
        try:
            if stream.queued > self.context.mark and not self.make_room_locked(opcode, data, compress, key):
                return
            if self._writer is None:
                frame = self.connection.encode_message(opcode, data, compress)
                stream.write_locked(frame)
                size = len(frame)  # no call within an increment: other threads may have their turn after it
                traffic = self.context.traffic
                traffic.sent += 1
                traffic.sent_bytes += size
            else:
                self._writer.defer_locked(opcode, data, compress)
        finally:
            lock.release()

    # ------------------------------------------------------------------ topics

    def subscribe(self, topic: str) -> bool:
        """Have what is published to a topic (`Server.publish`) sent to this connection, until it ends. In a pattern the
        word `*` stands for any one word, and `>` at the end for one or more: "prices.*.gold", "prices.>".

        False: it was subscribed already. Raises ValueError for what is no topic, NotAllowedError when `may_subscribe`
        says no, UsageError for more than `max_topics` and for a connection that is no server's, ConnectionClosedError.
        """
        return self._owner().publishing.subscribe(self, topic)

    def unsubscribe(self, topic: str) -> bool:
        """End a subscription; `topic` is what was given to `subscribe`. False: there was none. What was published
        before may still come."""
        return self._owner().publishing.unsubscribe(self, topic)

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics it is subscribed to, in the order in which it subscribed."""
        return self._owner().publishing.subscriptions.of(self)

    def publish(
        self,
        topic: str,
        data: object,
        opcode: Opcode | int | None = None,
        *,
        key: str | int | None = None,
        ttl: float | None = None,
        history: Keep | int | timedelta | None = None,
        compress: bool = True,
        done: Callable[[Exception | None], object] | None = None,
    ) -> None:
        """`Server.publish` in the name of this client: it does not get the message itself, and `may_publish` is asked
        (NotAllowedError)."""
        owner = self._owner()
        owner.publishing.subscriptions.check_publish(self, topic)
        owner.publish(
            topic, data, opcode, exclude=self, key=key, ttl=ttl, history=history, compress=compress, done=done
        )

    def publisher(self) -> Any:
        """Return the Publisher of its server, for `gows.topics`, which needs more of it than `Owner` names. Raises
        UsageError."""
        return self._owner().publishing

    def _owner(self) -> Owner[WebSocket]:
        """Return its server. Raises UsageError."""
        owner = self.context.owner
        if owner is None:
            raise UsageError("topics are those of a gows.Server, and this connection was not accepted by one")
        return owner

    # ------------------------------------------------------------------ closing

    def close_handshake(self, code: int = 1000, text: str = "") -> None:
        """Send a close frame and let the peer answer, for at most `AcceptOptions.close_timeout` seconds. Returns
        at once; idempotent. 1000 is `CloseCode.NORMAL_CLOSURE`.

        Raises InvalidCloseCodeError for a code that may not travel, or a text over 123 bytes of UTF-8.
        """
        self.begin_close(code, text)

    def close(self) -> None:
        """End the connection at once, without a close handshake: the peer sees 1006. Idempotent; `on_close`
        follows."""
        self._blame(CloseCause.LOCAL)
        with self.stream.lock:
            self.release_backlog_locked()
        self.connection.end()
        self.stream.close()
        self.context.overflow.wake(self)

    # ------------------------------------------------------------------ facts

    @property
    def closed(self) -> bool:
        """Whether nothing can be written any more: a close has begun, from either side, or the connection is gone."""
        return self.connection.state is not ConnectionState.OPEN or self.stream.closed

    @property
    def close_code(self) -> int | None:
        """How it ended: the peer's close code; 1005 if its close frame had none; 1006 if there was none. None
        while open.

        When the peer broke the protocol: the code that we sent to it.
        """
        return None if self.connection.state is ConnectionState.OPEN else self.connection.close_code

    @property
    def close_reason(self) -> str:
        """The text that came with the close code, or what the engine found (e.g. a timeout)."""
        return self.connection.close_reason

    @property
    def close_cause(self) -> CloseCause | None:
        """What made it end, as the engine saw it; None while open. 1006 may be IDLE, SLOW or LOST."""
        return None if self.connection.state is ConnectionState.OPEN else self._cause

    @property
    def buffered(self) -> int:
        """Bytes that are queued and not yet taken by the kernel, that are kept back for a peer that takes none, or that
        wait for the end of a streamed message."""
        writer, backlog = self._writer, self.context.overflow.backlogs.get(self)
        kept = 0 if backlog is None else backlog.size
        return self.stream.queued + kept + (0 if writer is None else writer.waiting)

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol agreed on, or None."""
        return self._subprotocol

    @property
    def group(self) -> str:
        """The label of its AcceptOptions."""
        return self.context.options.group

    @property
    def request(self) -> Request | None:
        """The `gows.Request` of the upgrade, until `on_open` has returned (then None, unless
        `AcceptOptions.keep_request`)."""
        return cast("Request | None", self._request)

    @property
    def local_addr(self) -> SocketAddress | None:
        """Our address, e.g. ("127.0.0.1", 8080); asked of the kernel each time. None once the socket is gone."""
        return self.stream.local_address

    @property
    def remote_addr(self) -> SocketAddress | None:
        """The peer's address, e.g. ("127.0.0.1", 50000); asked of the kernel each time. None once the socket is
        gone. Behind a proxy of `Admission(trusted_proxies=…)`, the client's; its port is 0 if the proxy did not name
        it."""
        return self.stream.peer_address

    # ------------------------------------------------------------------ timeouts

    def set_read_timeout(self, seconds: float | None) -> None:
        """Close with 1001 when no byte came for `seconds` (pongs count); None: no limit. For this connection only."""
        check_seconds("seconds", seconds)
        self._set_timeouts(read_timeout=seconds)

    def set_write_timeout(self, seconds: float | None) -> None:
        """Drop the connection (1006) when the peer took no byte of a waiting queue for `seconds`; None: no limit.
        For this connection only."""
        check_seconds("seconds", seconds)
        self._set_timeouts(write_timeout=seconds)

    def _set_timeouts(self, **timeouts: float | None) -> None:
        self.context = self.context.with_timeouts(**timeouts)
        self.context.loop.call_soon(self._rearm)

    def _rearm(self) -> None:
        if not self.stream.closed:
            self.arm()

    def __repr__(self) -> str:
        return f"<WebSocket {show_address(self.remote_addr)} {self.connection.state.name}>"
