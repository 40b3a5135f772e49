"""ReconnectingClient: one connection after the other to the same server."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable

from gows.client.opening import Opening, closed_error, refuse_in_callback, refuse_in_loop
from gows.client.request import ClientRequest
from gows.client.retry import Failures, Reconnect
from gows.codes import CloseCode
from gows.debug import DEBUG, check_owned
from gows.errors import ConnectError, ConnectionClosedError, GowsError, LoopClosedError
from gows.protocol.connection import Connection
from gows.protocol.frames import encode_close_body
from gows.reactor.stream import Stream
from gows.reactor.timers import TICKS_PER_SECOND, Timer
from gows.reactor.transports import Loop
from gows.reactor.workers import stepping_aside
from gows.session.context import SessionContext
from gows.session.handler import Handler
from gows.session.websocket import WebSocket

logger = logging.getLogger("gows")

NEVER_OPENED = -1


class ReconnectingClient:
    """What `gows.connect(url, handler, reconnect=…)` returns: keeps a connection up until it is told to stop.

    The handler gets `on_open(ws)` and `on_close(ws)` for every connection, with a new `ws` each time; attempts that
    fail in between are only logged. When the client gives up (`Reconnect.retry_if`, `attempts`) after a failed
    attempt, `on_close` is called once more, with a `ws` that never opened (1006, the reason says what failed).
    `ws.close_handshake()`, `ws.close()` and `stop()` end it.

    Every method may be called from every thread.
    """

    # Exactly one of these holds, and its end starts the next step: `_opening` (an attempt runs), `_ws` (a connection
    # is up), `_timer` (waiting), a worker makes a decision or a new request (`_Decision`, `_Preparation`), or `_over`
    # is set.

    __slots__ = (
        "__weakref__",
        "_failures",
        "_fresh",
        "_handler",
        "_lock",
        "_opened_at",
        "_opening",
        "_over",
        "_request",
        "_stopping",
        "_timer",
        "_when_over",
        "_ws",
        "error",
    )

    def __init__(
        self,
        request: ClientRequest,
        handler: Handler,
        policy: Reconnect,
        fresh: Callable[[], ClientRequest] | None = None,
    ) -> None:
        """`fresh`: makes the request of each attempt but the first; the user's code, so for a worker."""
        if not isinstance(request, ClientRequest):
            raise TypeError("a ReconnectingClient is made by gows.connect(…, reconnect=True)")
        self._request = request
        self._fresh = fresh
        self._handler = handler
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._stopping = False
        self._failures = Failures(policy)
        self._opened_at = NEVER_OPENED
        self._opening: Opening | None = None
        self._ws: _ClientWebSocket | None = None
        self._timer: Timer | None = None
        self._when_over: Callable[[], object] | None = None
        _remember(self)
        self.error: GowsError | None = None
        """What failed last: an attempt, or the connection (ConnectionClosedError). None before anything did. The end
        that the user asked for is no failure."""

    # ------------------------------------------------------------------ the user's side

    @property
    def ws(self) -> WebSocket:
        """The connection that is up now. Raises ConnectionClosedError while there is none."""
        ws = self._ws
        if ws is None or ws.closed:
            raise ConnectionClosedError(f"not connected to {self._request.url.address}")
        return ws

    @property
    def connected(self) -> bool:
        """Whether a connection is up."""
        ws = self._ws
        return ws is not None and not ws.closed

    @property
    def place(self) -> str:
        """Where it connects to."""
        return str(self._request.url.address)

    @property
    def loop(self) -> Loop:
        """Where its connections live."""
        return self._request.context.loop

    @property
    def stopped(self) -> bool:
        """Whether it is over: stopped, or given up. `on_close` has returned by then."""
        return self._over.is_set()

    def stop(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection with `code`, if one is up, and connect no more. Returns at once; idempotent.

        Raises InvalidCloseCodeError for a code that may not travel, or a reason over 123 bytes of UTF-8.
        """
        encode_close_body(code, reason)
        ws = self.halt()
        if ws is not None:
            ws.begin_close(code, reason)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over, up to `timeout` seconds (None: as long as it takes); return whether it is.

        Raises UsageError in the loop's thread, and in a callback of this client, which ends before the client does. In
        a callback of another connection it lets another thread take this one's place in the pool.
        """
        if self._over.is_set() or (timeout is not None and timeout <= 0):
            return self._over.is_set()
        refuse_in_loop(self._request.context.loop, "wait()")
        refuse_in_callback(self, "wait()")
        with stepping_aside():
            return self._over.wait(timeout)

    def __repr__(self) -> str:
        state = "stopped" if self.stopped else "connected" if self.connected else "connecting"
        return f"<ReconnectingClient {self._request.url.address} {state}>"

    # ------------------------------------------------------------------ the steps

    def start(self) -> None:
        """Make the first attempt. Any thread; returns at once."""
        self._attempt()

    def _attempt(self) -> None:
        with self._lock:
            self._timer = None
            if self._stopping:
                return
            if self._fresh is None or (self._opened_at == NEVER_OPENED and self.error is None):
                self._open_locked()
            else:
                self.loop.pool.submit(_Preparation(self))

    def _open_locked(self) -> None:
        """Begin an attempt with the request that there is."""
        if DEBUG:
            check_owned(self._lock)
        self._opening = Opening(self._request, self._handler, self._failed, make=self.make)
        self._opening.start()

    def prepare(self) -> None:
        """Make the request of the next attempt, and begin it. Worker."""
        assert self._fresh is not None
        error: GowsError | None = None
        try:
            request = self._fresh()
        except GowsError as failure:
            error = failure
        except Exception as failure:
            logger.exception("there is no URL, or there are no headers or cookies, for the next attempt")
            error = ConnectError(f"no URL, headers or cookies for the next attempt: {failure!r}")
            error.__cause__ = failure
        if error is not None:
            with self._lock:
                self._failures.add()
            self.decide(error, Opening(self._request, self._handler, self._failed, make=self.make))
            return
        with self._lock:
            over = self._stopping
            if not over:
                self._request = request
                try:
                    self._open_locked()
                except LoopClosedError:
                    over = True
        if over:
            self._end()

    def make(
        self, stream: Stream, connection: Connection, context: SessionContext, subprotocol: str | None
    ) -> WebSocket:
        """Make the WebSocket of an attempt that succeeded; `on_open` follows. Loop thread."""
        ws = _ClientWebSocket(stream, connection, context, subprotocol)
        ws.client = self
        with self._lock:
            self._ws = ws
            self._opening = None
            self._opened_at = context.loop.now()
        return ws

    def ended(self, ws: WebSocket) -> None:
        """Begin what follows the end of a connection: its `on_close` has returned. Worker; idempotent."""
        with self._lock:
            if ws is not self._ws:
                return
            self._ws = None
            self._failures.lost((self._request.context.loop.now() - self._opened_at) / TICKS_PER_SECOND)
        self.decide(closed_error(ws), None)

    def _failed(self, opening: Opening, error: GowsError) -> None:
        """Have a worker decide what follows a failed attempt. Loop thread."""
        with self._lock:
            self._opening = None
            self._failures.add()
        self._request.context.loop.pool.submit(_Decision(self, opening, error))

    def decide(self, error: GowsError, opening: Opening | None) -> None:
        """Try again, and when? `opening`: the attempt that failed; None when a connection ended. Worker."""
        again = not self._stopping and self._failures.may_retry(error)
        delay = self._failures.delay(error)
        loop = self._request.context.loop
        with self._lock:
            over = stopped = self._stopping
            if not stopped:
                self.error = error
                try:
                    if again:
                        self._timer = loop.call_later(delay, self._attempt)
                    else:
                        self._stopping = True
                        if opening is None:
                            over = True
                        else:  # a connection that ends before it opened: `make`, `on_close`, `ended`
                            loop.call_soon(opening.report, error)
                except LoopClosedError:
                    over = True
        if not stopped and again and not over:  # without the lock: a logging handler is the user's code
            logger.info("%s; connecting again in %.1f s", error, delay)
        elif not stopped:
            logger.warning("%s; not connecting again", error)
        if over:
            self._end()

    def halt(self) -> WebSocket | None:
        """Connect no more; returns the connection that is up. Any thread."""
        with self._lock:
            self._stopping = True
            timer, self._timer = self._timer, None
            ws = self._ws
            if timer is not None:
                timer.cancel()
            elif self._opening is not None:
                self._opening.cancel()
        if timer is not None:
            self._end()
        return ws

    def when_over(self, fn: Callable[[], object]) -> None:
        """Have `fn()` called when it is over, just before `wait` returns; at once if it is. Any thread."""
        with self._lock:
            over = self._over.is_set()
            if not over:
                self._when_over = fn
        if over:
            fn()

    def _end(self) -> None:
        """Tell those who wait that the client connects no more."""
        with self._lock:
            fn, self._when_over = self._when_over, None
            if fn is None:
                self._over.set()
        if fn is not None:
            try:
                fn()
            finally:
                self._over.set()


def _remember(client: ReconnectingClient) -> None:
    """Have a client end with its loop: its timers never fire then."""
    with _registering:
        loop = client.loop
        clients = loop.shared.get(ReconnectingClient)
        if clients is None:
            clients = loop.shared[ReconnectingClient] = weakref.WeakSet()
            loop.on_close.append(lambda: [client.halt() for client in list(clients)])
        clients.add(client)


_registering = threading.Lock()


class _Preparation:
    """The task of making the request of the next attempt."""

    __slots__ = ("client",)

    def __init__(self, client: ReconnectingClient) -> None:
        self.client = client

    def run(self) -> None:
        """Do the step, in a worker."""
        self.client.prepare()

    def stalled(self) -> None:
        """Do nothing: nothing waits for this task."""


class _Decision:
    """The task of deciding on a failed attempt, for the pool: `retry_if` is the user's code."""

    __slots__ = ("_error", "_opening", "client")

    def __init__(self, client: ReconnectingClient, opening: Opening, error: GowsError) -> None:
        self.client = client
        self._opening = opening
        self._error = error

    def run(self) -> None:
        """Do the step, in a worker."""
        self.client.decide(self._error, self._opening)

    def stalled(self) -> None:
        """Do nothing: nothing waits for this task."""


class _ClientWebSocket(WebSocket):
    """A connection of a ReconnectingClient."""

    __slots__ = ("client",)

    client: ReconnectingClient

    def close_handshake(self, code: int = CloseCode.NORMAL_CLOSURE, text: str = "") -> None:
        """Close as every WebSocket does; the client connects no more."""
        encode_close_body(code, text)
        self.client.halt()
        super().close_handshake(code, text)

    def close(self) -> None:
        """Close as every WebSocket does; the client connects no more."""
        self.client.halt()
        super().close()

    def _finish(self) -> None:
        super()._finish()
        self.client.ended(self)
