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
from collections.abc import Callable
from dataclasses import dataclass

from gows.client.opening import Opening, closed_error, refuse_in_callback, refuse_in_loop
from gows.client.plan import Plan
from gows.codes import CloseCode
from gows.errors import ConnectError, ConnectionClosedError, GowsError, HandshakeError, LoopClosedError
from gows.handler import Handler
from gows.options import check_answer, check_plain_function, check_seconds
from gows.protocol.connection import Connection
from gows.protocol.dates import parse_date
from gows.protocol.frames import encode_close_body
from gows.reactor.loop import Loop
from gows.reactor.stream import Stream
from gows.reactor.timers import TICKS_PER_SECOND, Timer
from gows.reactor.workers import stepping_aside
from gows.session import SessionContext
from gows.websocket import WebSocket

logger = logging.getLogger("gows")

RESTART_DELAY = (5.0, 30.0)
"""Seconds after 1012 (service restart) or 1013 (try again later): the registry of close codes asks for 5 to 30,
randomized."""
MAX_RETRY_AFTER = 3600.0
"""Seconds; a Retry-After beyond an hour counts as an hour."""

_TEMPORARY = frozenset({408, 425, 429})


def is_temporary(error: GowsError) -> bool:
    """Whether trying again may help. The default of `Reconnect.retry_if`.

    Yes: the connection was lost or closed by the server, the server could not be reached, or it refused with 408, 425,
    429 or 5xx. No: any other refusal (401, 403, 404, a redirect), and an answer that is not a valid 101.
    """
    if isinstance(error, HandshakeError):
        return error.status >= 500 or error.status in _TEMPORARY
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
        if not self.factor >= 1:
            raise ValueError(f"factor must be 1 or more, not {self.factor}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be from 0 to 1, not {self.jitter}")
        if self.attempts is not None and self.attempts < 1:
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
            low, high = (min(self.maximum, seconds) for seconds in RESTART_DELAY)
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
    # is up), `_timer` (waiting), or a decision is being made on a worker (`run`), or `_over` is set.

    __slots__ = (
        "_failures",
        "_first",
        "_handler",
        "_lock",
        "_opened_at",
        "_opening",
        "_over",
        "_plan",
        "_policy",
        "_stopping",
        "_timer",
        "_ws",
        "error",
    )

    def __init__(self, plan: Plan, handler: Handler, policy: Reconnect) -> None:
        self._plan = plan
        self._handler = handler
        self._policy = policy
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._stopping = False
        self._failures = 0
        self._opened_at = 0
        self._opening: Opening | None = None
        self._ws: _ClientWebSocket | None = None
        self._timer: Timer | None = None
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
            if not self._stopping:
                self._opening = Opening(self._plan, self._handler, self._failed, make=self.make)
                self._opening.start()

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
        loop = self._plan.context.loop
        with self._lock:
            if self._stopping:
                self._over.set()
                return
            self.error = error
            if again:
                delay = self._policy.delay(self._failures, error)
                try:
                    self._timer = loop.call_later(delay, self._attempt)
                except LoopClosedError:
                    self._over.set()
                    return
                logger.info("%s; connecting again in %.1f s", error, delay)
            else:
                logger.warning("%s; not connecting again", error)
                self._stopping = True
                if opening is None:
                    self._over.set()
                else:  # a connection that ends before it opened: `make`, `on_close`, `ended`
                    loop.call_soon(opening.report, error)

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
            if timer is not None:
                timer.cancel()
                self._over.set()
            elif self._opening is not None:
                self._opening.cancel()
            return self._ws


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
