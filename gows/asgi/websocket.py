"""WebSockets of an ASGI application (ASGI, HTTP & WebSocket Message Format 2.5).

One coroutine of the application serves one connection. The upgrade waits for its word: `websocket.accept` answers it
with 101, `websocket.close` with 403, and `websocket.http.response.start` and `.body` with what they say (extension
"websocket.http.response"). What it may send, and when, is the table `SENDS`:

    CONNECTING ──accept──> OPEN ──close──> CLOSING ──> ENDED        ENDED: nobody is there any more
         │                   └─────the connection ends───┘
         ├──close──────────────────────────────────────┘
         └──http.response.start──> DENYING ──the last http.response.body──> ENDED

An open connection is an engine's WebSocket with the handler `AsgiWebSocket`. Its messages wait here until they are
received: QUEUE_MESSAGES of them, or QUEUE_BYTES and one message more. Then `on_message` waits, so that the engine's own
inbox fills, and the peer is not read from. An idle connection has the application's task, and the future that waits for
the next message; the request, and what it came by, are let go when it is accepted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from gows.asgi.http import comes_of_disconnect, type_of
from gows.asgi.scope import Message, Scope, base_scope
from gows.bytebuffer import ByteBuffer
from gows.codes import CloseCause, CloseCode, Opcode
from gows.errors import ConnectionClosedError, DisconnectedError, HandshakeError, HttpError
from gows.http.exchange import Exchange, ExchangeCarrier
from gows.http.request import Request
from gows.http1.answer import Fields
from gows.printable import show_path
from gows.protocol.handshake import asked_subprotocols, check_request
from gows.reactor.timers import Timer
from gows.server.accept import accept_for_application, check_origin
from gows.server.gateway import Owner
from gows.session.handler import Handler, Result
from gows.session.websocket import WebSocket

logger = logging.getLogger("gows")

QUEUE_MESSAGES = 32
"""Messages that wait for the application's `receive`, beside those in the engine's inbox."""
QUEUE_BYTES = 65536
"""Bytes of them, without the last."""
ACCEPT_TIMEOUT = 60.0
"""Seconds in which an application has to answer an upgrade; then the client gets 503."""
AGAIN = 0.1
"""Seconds that `receive` waits before it tells of the same end once more: an application that does not notice it, and
asks in a loop, must not keep the others from their turns."""

EXTENSION = "websocket.http.response"

CONNECTING, DENYING, OPEN, CLOSING, ENDED = range(5)
NAMES = ("before websocket.accept", "amid a response", "after websocket.accept", "after websocket.close", "at the end")

SENDS: dict[str, tuple[int, ...]] = {
    "websocket.accept": (CONNECTING,),
    "websocket.send": (OPEN,),
    "websocket.close": (CONNECTING, OPEN),
    "websocket.http.response.start": (CONNECTING,),
    "websocket.http.response.body": (DENYING,),
}
"""The states in which an application may send each message. In CLOSING and ENDED a `websocket.close` does nothing, and
the others raise DisconnectedError, an OSError; elsewhere they raise RuntimeError."""

Run = Callable[["AsgiWebSocket", Scope], None]


class Upgrade(Exchange):
    """An upgrade request that waits for the application's word. Loop thread."""

    __slots__ = ("_owner", "_run", "_state", "_timer", "_websocket", "asked")

    def __init__(
        self, request: Request, carrier: ExchangeCarrier, run: Run, owner: Owner, state: dict[str, Any]
    ) -> None:
        """`run(websocket, scope)` calls the application; `state`: what the lifespan has left."""
        super().__init__(request, carrier)
        self._run = run
        self._owner = owner
        self._state = state
        self._websocket: AsgiWebSocket | None = None
        self._timer: Timer | None = None
        self.asked: list[str] = []
        """The subprotocols that the client asks for."""

    def begin(self) -> None:
        """Check the request, and call the application."""
        request, options = self.request, self._owner.options
        try:
            check_request(request.head)
            if options.check_origin is not None:
                check_origin(request, options)
            self.asked = asked_subprotocols(request.head)
            scope = websocket_scope(request, self._owner.root_path, self._state, self.asked)
        except HttpError as error:
            self.deny(error)
            return
        self._websocket = websocket = AsgiWebSocket(self)
        self._run(websocket, scope)
        if websocket.connecting:
            self._timer = self._owner.loop.call_later(ACCEPT_TIMEOUT, self._expire)

    def changed(self) -> None:
        """Tell the application that the client has gone, or that there is room for more of the answer."""
        websocket = self._websocket
        if websocket is None:
            return
        if self.gone or self.answered:
            self._end()
            websocket.end(CloseCode.ABNORMAL_CLOSURE, "")
        elif self.peer_ended and websocket.connecting:
            self.refuse(HttpError(400, "the client closed its side before the upgrade was answered"))
        else:
            websocket.room()

    def accept(self, subprotocol: str | None, headers: list[tuple[str, str]]) -> WebSocket:
        """Answer with 101. Raises HandshakeError when that cannot be any more, which is the answer then,
        ConnectionClosedError, and InvalidHeaderError."""
        ws = accept_for_application(self.request, subprotocol, headers)
        self._end()
        return ws

    def deny(self, error: HttpError) -> None:
        """Answer with a refusal."""
        self._owner.traffic.refused(error.status)
        self.refuse(error)

    def start_denial(self, status: int, headers: Fields) -> None:
        """Begin a refusal that the application writes. Raises as `start_answer`."""
        self.start_answer(status, headers)
        self._owner.traffic.refused(status)

    def _expire(self) -> None:
        """Answer for an application that does not."""
        path = show_path(self.request.head.path)
        logger.error("the application did not accept the WebSocket at %s within %g s", path, ACCEPT_TIMEOUT)
        self.deny(HttpError(503, "the application did not answer in time"))

    def _end(self) -> None:
        """Let go of what waits for the application's word."""
        self._websocket = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class AsgiWebSocket(Handler):
    """One connection, as the application sees it: `receive` and `send`, and the handler behind them. Loop thread."""

    __slots__ = ("_end", "_greeted", "_queue", "_room", "_size", "_state", "_told", "_upgrade", "_waiter", "_ws")

    inline = True

    def __init__(self, upgrade: Upgrade) -> None:
        self._upgrade: Upgrade | None = upgrade  # until it is answered
        self._ws: WebSocket | None = None  # from then on, if that is a 101, to the end
        self._state = CONNECTING
        self._queue: list[str | bytes] = []
        self._size = 0  # of what is in the queue
        self._greeted = False  # the application was told of the connection
        self._told = False  # … and of its end
        self._end: tuple[int, str] = (CloseCode.ABNORMAL_CLOSURE, "")
        self._waiter: asyncio.Future[None] | None = None  # of `receive`, for a message
        self._room: asyncio.Future[None] | None = None  # of `on_message`, for the queue; of `send`, for the peer

    # ------------------------------------------------------------------ what the application calls

    async def receive(self) -> Message:
        """Return the next message for the application: `websocket.connect`, `.receive` or `.disconnect`. Raises
        RuntimeError when another task waits for it."""
        queue = self._queue
        while not queue:
            if not self._greeted:
                self._greeted = True
                return {"type": "websocket.connect"}
            if self._state == ENDED:
                if self._told:
                    await asyncio.sleep(AGAIN)
                self._told = True
                code, reason = self._end
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
            if self._waiter is not None:
                raise RuntimeError("another task is waiting in receive() of this connection")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = queue.pop(0)
        size = len(data)
        self._size -= size
        if self._room is not None and len(queue) <= QUEUE_MESSAGES // 2 and self._size < QUEUE_BYTES:
            self.room()
        if type(data) is str:
            return {"type": "websocket.receive", "text": data}
        return {"type": "websocket.receive", "bytes": data}

    async def send(self, message: Message) -> None:
        """Take a message of the application's, and wait while the peer is slow. Raises DisconnectedError when nobody is
        there, ValueError for what is no message, RuntimeError for one at the wrong time, and what the engine raises."""
        ws = self._ws
        if ws is None or self._state != OPEN or type_of(message) != "websocket.send":
            await self._send_other(type_of(message), message)
            return
        text, data = message.get("text"), message.get("bytes")
        if (text is None) is (data is None):
            raise ValueError(f'websocket.send has either "text" or "bytes", not {"both" if text else "neither"}')
        try:
            if ws.stream.queued > ws.context.high_water:
                await ws.send(data if text is None else text)  # type: ignore[arg-type]
            elif text is None:
                ws.write_binary(data)  # type: ignore[arg-type]
            else:
                ws.write_string(text)
        except ConnectionClosedError as error:
            raise DisconnectedError(str(error), ws.close_code, ws.close_reason) from None

    async def _send_other(self, kind: str, message: Message) -> None:
        states = SENDS.get(kind)
        if states is None:
            raise ValueError(f"{kind!r} is no message of a WebSocket application: those are {', '.join(SENDS)}")
        state = self._state
        if state not in states:
            if state < CLOSING:
                raise RuntimeError(f"{kind} comes {NAMES[states[0]]}, not {NAMES[state]}")
            if kind != "websocket.close":
                code, reason = self._end
                raise DisconnectedError("the connection is closed", code, reason)
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._close(message)
        elif kind == "websocket.http.response.start":
            assert self._upgrade is not None
            if "status" not in message:
                raise ValueError("websocket.http.response.start has no status")
            self._upgrade.start_denial(message["status"], message.get("headers") or ())
            self._state = DENYING
        else:
            await self._send_denial(message.get("body") or b"", bool(message.get("more_body")))

    def _accept(self, message: Message) -> None:
        upgrade = self._upgrade
        assert upgrade is not None
        subprotocol = message.get("subprotocol") or None
        if subprotocol is not None and subprotocol not in upgrade.asked:
            offer = ", ".join(upgrade.asked) or "none"
            raise ValueError(f"the client did not offer the subprotocol {subprotocol!r}, but {offer} (RFC 6455 §4.2.2)")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers") or ()]
        try:
            ws = upgrade.accept(subprotocol, headers)
        except HandshakeError as error:  # the server stops, for instance
            upgrade.deny(error)
            raise DisconnectedError(f"the upgrade was refused: {error}") from None
        except ConnectionClosedError as error:
            upgrade.lose()
            raise DisconnectedError(str(error)) from None
        self._upgrade, self._ws, self._state = None, ws, OPEN
        ws.serve(self)

    def _close(self, message: Message) -> None:
        if self._upgrade is not None:
            self._upgrade.deny(HttpError(403, "the application refused the connection"))
            return
        assert self._ws is not None
        code = message.get("code")
        self._ws.close_handshake(CloseCode.NORMAL_CLOSURE if code is None else code, message.get("reason") or "")
        self._state = CLOSING
        self.room()

    async def _send_denial(self, body: bytes, more: bool) -> None:
        upgrade = self._upgrade
        assert upgrade is not None
        while upgrade.full and not upgrade.gone:
            await self._wait_for_room()
        if upgrade.gone:
            raise DisconnectedError("the client has gone")
        upgrade.write(body, more)

    # ------------------------------------------------------------------ the end of the application

    def ended(self, error: BaseException | None) -> None:
        """Close what the application has left open: with 1000, or with 1011 if it raised `error`. What it did not
        accept is refused with 500."""
        state, upgrade, ws = self._state, self._upgrade, self._ws
        if error is not None:
            if not (state == ENDED and comes_of_disconnect(error)):
                logger.error("the ASGI application failed in a WebSocket, %s", NAMES[state], exc_info=error)
        elif state <= DENYING:
            logger.error("the ASGI application returned from a WebSocket %s", NAMES[state])
        if upgrade is not None:
            upgrade.deny(HttpError(500, "internal server error"))
        elif state == OPEN:
            assert ws is not None
            if error is None:
                ws.close_handshake(CloseCode.NORMAL_CLOSURE)
            else:
                ws.begin_close(CloseCode.INTERNAL_ERROR, "", CloseCause.HANDLER_ERROR)
            self._state = CLOSING
        self._queue.clear()
        self.room()

    # ------------------------------------------------------------------ the engine

    @property
    def connecting(self) -> bool:
        """Return whether the application has not answered the upgrade."""
        return self._state == CONNECTING

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> Result:
        """Queue a message, or wait for room in the queue first."""
        if self._state != OPEN:
            return None
        queue = self._queue
        if queue and (len(queue) >= QUEUE_MESSAGES or self._size >= QUEUE_BYTES):
            return self._queue_later(opcode, buff)
        data: str | bytes = buff.get_string() if opcode == 1 else buff.clone_bytes()
        queue.append(data)
        size = len(data)
        self._size += size
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        return None

    async def _queue_later(self, opcode: Opcode, buff: ByteBuffer) -> None:
        await self._wait_for_room()
        if self._state == OPEN:
            self._queue.append(buff.get_string() if opcode == Opcode.TEXT else buff.clone_bytes())
            size = len(self._queue[-1])
            self._size += size
            self._wake()

    def on_close(self, ws: WebSocket) -> None:
        """Tell the application of the end, behind what it has not received yet."""
        self.end(ws.close_code or CloseCode.ABNORMAL_CLOSURE, ws.close_reason)

    def end(self, code: int, reason: str) -> None:
        """Tell the application that nobody is there any more."""
        self._state = ENDED
        self._end = (code, reason)
        self._upgrade = self._ws = None
        self._wake()
        self.room()

    def room(self) -> None:
        """Let go on what waits for room."""
        room = self._room
        if room is not None and not room.done():
            room.set_result(None)

    async def _wait_for_room(self) -> None:
        self._room = asyncio.get_running_loop().create_future()
        try:
            await self._room
        finally:
            self._room = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def is_upgrade(request: Request) -> bool:
    """Return whether a request is for a WebSocket, be it malformed; others that ask for an upgrade are answered as if
    they did not (RFC 9110 §7.8)."""
    head = request.head
    return head.upgrade and head.method == "GET" and head.headers.has_token("connection", "upgrade")


def websocket_scope(request: Request, root_path: str, state: dict[str, Any], asked: list[str]) -> Scope:
    """Return the scope of an upgrade request. Raises as `base_scope`."""
    scope = base_scope("websocket", request, root_path, state)
    scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
    scope["subprotocols"] = asked
    scope["extensions"] = {EXTENSION: {}}
    return scope
