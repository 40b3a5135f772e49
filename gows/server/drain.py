"""Drain: how a server ends its connections, at once or spread over a time."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Sequence

from gows.codes import CloseCause, CloseCode
from gows.http.connection import HttpConnection
from gows.http.preface import ProxyPreface
from gows.reactor import Listener, Loop, Stream
from gows.reactor.timers import TICKS_PER_SECOND
from gows.session.websocket import WebSocket

logger = logging.getLogger("gows")

LOOK_INTERVAL = 0.1
"""Seconds between two looks at what is still open."""
KEPT_TIME = 5.0
"""Seconds of a drain in which idle HTTP connections are left, even if they are all that is left: a proxy may be sending
on one just now. Those that are used hear `Connection: close` meanwhile."""


class Drain:
    """Closes what belongs to one server.

    With `seconds`, WebSockets are closed with 1012 over that time: at an even pace, with some jitter, in random order.
    So clients do not come back all in the same moment. What they had sent is handled and answered before the close goes
    out; a callback that has not come to that when half of `timeout` is gone does not delay it any longer. HTTP requests
    are still taken and answered, with `Connection: close` (`Application.draining`); connections that stay idle are
    closed last. Nothing new is accepted, but what waited in the kernel's queue is.

    Without (None), every WebSocket is closed at once with 1001, and HTTP connections end once they have answered.

    `finished` is set when nothing is left, or at the deadline. Times are the loop's, to a tenth of a second or two.
    """

    def __init__(
        self, loop: Loop, owner: object, listeners: Sequence[Listener], seconds: float | None, timeout: float
    ) -> None:
        """`timeout`: seconds after the last close until what is left is given up."""
        self.finished = threading.Event()
        self._loop = loop
        self._owner = owner
        self._listeners = listeners
        self._spread = seconds is not None
        self._code = CloseCode.SERVICE_RESTART if self._spread else CloseCode.GOING_AWAY
        self._last_look = loop.now()
        self._kept_until = min(loop.due(seconds or 0.0), loop.due(KEPT_TIME))
        self._spread_until = loop.due(seconds or 0.0)
        self._patient_until = self._spread_until + timeout / 2 * TICKS_PER_SECOND
        self._deadline = self._spread_until + timeout * TICKS_PER_SECOND

    def begin(self) -> None:
        """Begin to drain. Loop thread."""
        for listener in self._listeners:
            listener.take_queued()
            listener.close()
        if self._spread:  # requests of those who were just accepted are still to be read
            self._loop.call_later(LOOK_INTERVAL, self._look)
        else:
            self._look()

    def _look(self) -> None:
        now = self._loop.now()
        open_, idle, left = self._survey(now)
        if idle and (now >= self._spread_until or (now >= self._kept_until and len(idle) == left)):
            for http in idle:
                http.end_when_idle(patient=True)
        if not self._spread or now >= self._patient_until:
            for ws in open_:
                ws.begin_close(self._code, "", CloseCause.SHUTDOWN)
        else:
            waiting = [ws for ws in open_ if not ws.dismissed]
            for ws in random.sample(waiting, self._share(len(waiting), now)):
                ws.dismiss(self._code, "", CloseCause.SHUTDOWN)
        self._last_look = now
        if left and now < self._deadline:
            self._loop.call_later(LOOK_INTERVAL, self._look)
            return
        if left:
            logger.warning("%d connections did not close in time; they are reset", left)
        self.finished.set()

    def _share(self, count: int, now: int) -> int:
        """Return how many of `count` to close now: what falls to the time since the last look, give or take a half; a
        fraction is left to chance."""
        passed, remaining = now - self._last_look, self._spread_until - now
        if remaining <= 0:
            return count
        exact = count * passed / (passed + remaining) * random.uniform(0.5, 1.5)
        return min(count, int(exact) + (random.random() < exact % 1))

    def _survey(self, now: int) -> tuple[list[WebSocket], list[HttpConnection], int]:
        """Return the open WebSockets, the HTTP connections that are left although they are idle, and how many
        connections there are in all. When it is time, HTTP connections are told to end."""
        open_: list[WebSocket] = []
        idle: list[HttpConnection] = []
        # requests of those who were just accepted are still to be read, without a drain too
        patient = now < (self._patient_until if self._spread else self._spread_until)
        left = 0
        for stream in self._loop.streams:
            observer = stream.observer if isinstance(stream, Stream) else None
            if isinstance(observer, WebSocket) and observer.context.owner is self._owner:
                left += 1
                if not observer.closed:
                    open_.append(observer)
            elif isinstance(observer, HttpConnection) and observer.app is self._owner:
                left += 1
                if not patient:
                    observer.end_when_idle()
                elif self._spread and observer.idle and not observer.stream.closed:
                    idle.append(observer)
            elif isinstance(observer, ProxyPreface) and observer.http.app is self._owner:
                if now >= self._spread_until:  # nobody's, until the proxy has said whose it is
                    observer.stream.close()
                left += 1
        return open_, idle, left
