"""Reconnecting: when to try again, and the client that does.

A server that restarts loses all its clients in one moment; if they all came back in one moment they would knock it over
again. So every delay is random over its whole range ("full jitter"), the ranges grow with each failure, and what the
server says is heeded: Retry-After on 429 and 503, and the close codes 1012 and 1013.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from gows.client.opening import Opening, closed_error, refuse_in_callback, refuse_in_loop
from gows.client.request import Plan
from gows.codes import CloseCode
from gows.errors import ConnectError, ConnectionClosedError, GowsError, HandshakeError, LoopClosedError
from gows.http1.dates import parse_date
from gows.options import check_answer, check_plain_function, check_seconds
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

RESTART_DELAY = (5.0, 30.0)
"""Seconds after 1012 (service restart) or 1013 (try again later): the registry of close codes asks for 5 to 30,
randomized."""
MAX_RETRY_AFTER = 3600.0
"""Seconds; a Retry-After beyond an hour counts as an hour."""

NEVER_OPENED = -1

TOO_FAST = " a second"
"""The end of the reason with which a server of ours closes (1008) a client that is over its rate; it says what 429
does."""

_TEMPORARY = frozenset({408, 425, 429})
_FINAL_CODES = frozenset({CloseCode.POLICY_VIOLATION, *(4000 + status for status in range(400, 500))}) - frozenset(
    4000 + status for status in _TEMPORARY
)


def is_temporary(error: GowsError) -> bool:
    """Whether trying again may help. The default of `Reconnect.retry_if`.

    Yes: the connection was lost or closed by the server, the server could not be reached, or it refused with 408, 425,
    429 or 5xx. No: any other refusal (401, 403, 404, a redirect), an answer that is not a valid 101, and the close
    codes that say the same of a connection that was up: 1008 (but when it was too fast for a server of ours), and 4400
    to 4499 (4401: not authorized, and so on), but 4408, 4425 and 4429.
    """
    if isinstance(error, HandshakeError):
        return error.status >= 500 or error.status in _TEMPORARY
    if isinstance(error, ConnectionClosedError) and error.code in _FINAL_CODES:
        return error.code == CloseCode.POLICY_VIOLATION and error.reason.endswith(TOO_FAST)
    return isinstance(error, (ConnectError, ConnectionClosedError))


@dataclass(frozen=True)
class Reconnect:
    """How a client comes back. Times are seconds. The delay after n failures in a row is random between 0 and
    `min(maximum, initial * factor ** n)`."""

    initial: float = 0.5
    """Range of the delay after the loss of a connection that was up for `stable` seconds."""
    maximum: float = 30.0
    """Largest range."""
    factor: float = 2.0
    """Growth of the range with each failure."""
    jitter: float = 1.0
    """Random part of the delay: 1 all of it, 0 none (for tests only: clients without jitter come back in step)."""
    stable: float = 10.0
    """A connection that was up for so long makes the failures before it forgotten."""
    attempts: int | None = None
    """Give up after so many failures in a row; None: never."""
    retry_if: Callable[[GowsError], bool] = is_temporary
    """Whether to try again after a ConnectError, a HandshakeError, or a ConnectionClosedError (which has the close
    code). Called on a worker."""

    def __post_init__(self) -> None:
        for name in ("initial", "maximum", "stable"):
            check_seconds(name, getattr(self, name), optional=False)
        for name in ("factor", "jitter"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"{name} must be a number, not {type(value).__name__}")
        if not self.factor >= 1:
            raise ValueError(f"factor must be 1 or more, not {self.factor}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be from 0 to 1, not {self.jitter}")
        if self.attempts is not None:
            if not isinstance(self.attempts, int) or isinstance(self.attempts, bool):
                raise TypeError(f"attempts must be an int or None, not {type(self.attempts).__name__}")
            if self.attempts < 1:
                raise ValueError(f"attempts must be 1 or more, or None, not {self.attempts}")
        check_plain_function("retry_if", self.retry_if)

    def delay(self, failures: int, error: GowsError | None = None) -> float:
        """Seconds to wait after `failures` failures in a row (0: a stable connection was lost), the last of which was
        `error`."""
        try:
            limit = min(self.maximum, self.initial * self.factor**failures)
        except OverflowError:
            limit = self.maximum
        delay = limit - random.uniform(0.0, limit * self.jitter)
        if isinstance(error, HandshakeError):
            return retry_after(error) + delay
        if isinstance(error, ConnectionClosedError) and error.code in (
            CloseCode.SERVICE_RESTART,
            CloseCode.TRY_AGAIN_LATER,
        ):
            high = min(self.maximum, RESTART_DELAY[1])
            low = min(high / 2, RESTART_DELAY[0])  # random with a small maximum, too
            return max(delay, random.uniform(low, high))
        return delay


def retry_after(error: HandshakeError) -> float:
    """The seconds that Retry-After asks for (RFC 9110 §10.2.3: a number, or a date); 0.0 without it, or when it is
    malformed."""
    value = {name.lower(): value for name, value in error.headers}.get("retry-after", "")
    if value.isdecimal():
        return min(MAX_RETRY_AFTER, float(value))
    date = parse_date(value)
    return 0.0 if date is None else min(MAX_RETRY_AFTER, max(0.0, date - time.time()))


class ReconnectingClient:
    """What `gows.connect(url, handler, reconnect=…)` returns: keeps a connection up until it is told to stop.

    The handler gets `on_open(ws)` and `on_close(ws)` for every connection, with a new `ws` each time; attempts that
    fail in between are only logged. When the client gives up (`Reconnect.retry_if`, `attempts`) after a failed
    attempt, `on_close` is called once more, with a `ws` that never opened (1006, the reason says what failed).
    `ws.close_handshake()`, `ws.close()` and `stop()` end it.

    Every method may be called from every thread.
    """

    # Exactly one of these holds, and its end starts the next step: `_opening` (an attempt runs), `_ws` (a connection
    # is up), `_timer` (waiting), a worker makes a decision or a new plan (`_Decision`, `_Preparation`), or `_over` is
    # set.

    __slots__ = (
        "__weakref__",
        "_failures",
        "_fresh",
        "_handler",
        "_lock",
        "_opened_at",
        "_opening",
        "_over",
        "_plan",
        "_policy",
        "_stopping",
        "_timer",
        "_when_over",
        "_ws",
        "error",
    )

    def __init__(
        self, plan: Plan, handler: Handler, policy: Reconnect, fresh: Callable[[], Plan] | None = None
    ) -> None:
        """`fresh`: makes the plan of each attempt but the first; the user's code, so for a worker."""
        if not isinstance(plan, Plan):
            raise TypeError("a ReconnectingClient is made by gows.connect(…, reconnect=True)")
        self._plan = plan
        self._fresh = fresh
        self._handler = handler
        self._policy = policy
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._stopping = False
        self._failures = 0
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
            raise ConnectionClosedError(f"not connected to {self._plan.url.address}")
        return ws

    @property
    def connected(self) -> bool:
        """Whether a connection is up."""
        ws = self._ws
        return ws is not None and not ws.closed

    @property
    def place(self) -> str:
        """Where it connects to."""
        return str(self._plan.url.address)

    @property
    def loop(self) -> Loop:
        """Where its connections live."""
        return self._plan.context.loop

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
        refuse_in_loop(self._plan.context.loop, "wait()")
        refuse_in_callback(self, "wait()")
        with stepping_aside():
            return self._over.wait(timeout)

    def __repr__(self) -> str:
        state = "stopped" if self.stopped else "connected" if self.connected else "connecting"
        return f"<ReconnectingClient {self._plan.url.address} {state}>"

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
                self._open()
            else:
                self.loop.pool.submit(_Preparation(self))

    def _open(self) -> None:
        """Lock held."""
        self._opening = Opening(self._plan, self._handler, self._failed, make=self.make)
        self._opening.start()

    def prepare(self) -> None:
        """Make the plan of the next attempt, and begin it. Worker."""
        assert self._fresh is not None
        error: GowsError | None = None
        try:
            plan = self._fresh()
        except GowsError as failure:
            error = failure
        except Exception as failure:
            logger.exception("there is no URL, or there are no headers, for the next attempt")
            error = ConnectError(f"no URL or headers for the next attempt: {failure!r}")
            error.__cause__ = failure
        if error is not None:
            with self._lock:
                self._failures += 1
            self.decide(error, Opening(self._plan, self._handler, self._failed, make=self.make))
            return
        with self._lock:
            over = self._stopping
            if not over:
                self._plan = plan
                try:
                    self._open()
                except LoopClosedError:
                    over = True
        if over:
            self._end()

    def make(
        self, stream: Stream, connection: Connection, context: SessionContext, subprotocol: str | None
    ) -> WebSocket:
        """The attempt succeeded; `on_open` follows. Loop thread."""
        ws = _ClientWebSocket(stream, connection, context, subprotocol)
        ws.client = self
        with self._lock:
            self._ws = ws
            self._opening = None
            self._opened_at = context.loop.now()
        return ws

    def ended(self, ws: WebSocket) -> None:
        """`on_close` has returned. Worker; idempotent."""
        with self._lock:
            if ws is not self._ws:
                return
            self._ws = None
            up = (self._plan.context.loop.now() - self._opened_at) / TICKS_PER_SECOND
            self._failures = 0 if up >= self._policy.stable else self._failures + 1
        self.decide(closed_error(ws), None)

    def _failed(self, opening: Opening, error: GowsError) -> None:
        """Loop thread."""
        with self._lock:
            self._opening = None
            self._failures += 1
        self._plan.context.loop.pool.submit(_Decision(self, opening, error))

    def decide(self, error: GowsError, opening: Opening | None) -> None:
        """Try again, and when? `opening`: the attempt that failed; None when a connection ended. Worker."""
        again = not self._stopping and self._may_retry(error)
        delay = self._policy.delay(self._failures, error)
        loop = self._plan.context.loop
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

    def _may_retry(self, error: GowsError) -> bool:
        policy = self._policy
        if policy.attempts is not None and self._failures >= policy.attempts:
            return False
        try:
            return check_answer("retry_if", policy.retry_if(error))
        except Exception:
            logger.exception("retry_if raised; not connecting again")
            return False

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
        """It is over."""
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
    """The task of making the plan of the next attempt."""

    __slots__ = ("client",)

    def __init__(self, client: ReconnectingClient) -> None:
        self.client = client

    def run(self) -> None:
        """Worker."""
        self.client.prepare()

    def stalled(self) -> None:
        """Nothing waits for it."""


class _Decision:
    """The task of deciding on a failed attempt, for the pool: `retry_if` is the user's code."""

    __slots__ = ("_error", "_opening", "client")

    def __init__(self, client: ReconnectingClient, opening: Opening, error: GowsError) -> None:
        self.client = client
        self._opening = opening
        self._error = error

    def run(self) -> None:
        """Worker."""
        self.client.decide(self._error, self._opening)

    def stalled(self) -> None:
        """Nothing waits for it."""


class _ClientWebSocket(WebSocket):
    """A connection of a ReconnectingClient."""

    __slots__ = ("client",)

    client: ReconnectingClient

    def close_handshake(self, code: int = CloseCode.NORMAL_CLOSURE, text: str = "") -> None:
        """As of every WebSocket; the client connects no more."""
        encode_close_body(code, text)
        self.client.halt()
        super().close_handshake(code, text)

    def close(self) -> None:
        """As of every WebSocket; the client connects no more."""
        self.client.halt()
        super().close()

    def _finish(self) -> None:
        super()._finish()
        self.client.ended(self)
