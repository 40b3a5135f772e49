"""Lifespan: the beginning and the end of an ASGI application (ASGI, Lifespan Protocol 2.0).

One coroutine of the application lasts as long as the server: it is told when that starts, before anything is accepted,
and when it stops, after the last connection has ended. Whether an application knows of this at all shows when it is
called; one that raises at once does not, and is served without ("auto").
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from gows.asgi.http import type_of
from gows.asgi.scope import ASGI_VERSION, Message, Scope
from gows.errors import LoopClosedError, StartupError, UsageError
from gows.reactor import Loop
from gows.reactor.hosting import coroutines_of

logger = logging.getLogger("gows")

MODES = ("auto", "on", "off")
SPEC_VERSION = "2.0"
"""Of the lifespan protocol."""

Run = Callable[["Lifespan", Scope], None]

LOOK_INTERVAL = 0.05
"""Seconds between two looks at whether the server was stopped while the application starts."""

_IDLE, _STARTING, _RUNNING, _STOPPING, _ENDED = range(5)
_ANSWERS = {
    "lifespan.startup.complete": _STARTING,
    "lifespan.startup.failed": _STARTING,
    "lifespan.shutdown.complete": _STOPPING,
    "lifespan.shutdown.failed": _STOPPING,
}
"""The phase in which each message may be sent."""


class Lifespan:
    """Starts an application and ends it. `start_up` and `shut_down` are for the thread that starts and stops the
    server; the rest is of the loop's thread."""

    def __init__(self, run: Run, loop: Loop, mode: str = "auto") -> None:
        """`run(lifespan, scope)` calls the application. `mode`: "auto" (an application that raises at once has no
        lifespan), "on" (that is a failure) or "off" (the application is not asked)."""
        self._run = run
        self._loop = loop
        self._mode = mode
        self._phase = _IDLE
        self._received = False  # the application has asked for its first message
        self._failure: str | None = None
        self._cause: BaseException | None = None
        self._answered = threading.Event()  # to the message of the phase
        self._stop: asyncio.Future[None] | None = None
        self.state: dict[str, Any] = {}
        """What the application has left for its requests, each of which gets a shallow copy."""

    # ------------------------------------------------------------------ the thread that starts or stops the server

    def start_up(self, given_up: Callable[[], bool]) -> None:
        """Start the application, and wait until it has. `given_up()`: whether to wait no longer.

        Raises StartupError when it fails, with its message; LoopClosedError when the wait was given up; UsageError in
        the loop's thread, or if nothing turns the loop."""
        if self._mode == "off":
            return
        if self._loop.in_loop() or not self._loop.running:
            raise UsageError("an ASGI application starts in a loop that runs, and in another thread than this one")
        coroutines_of(self._loop)
        self._phase = _STARTING
        self._loop.call_soon(self._begin)
        while not self._answered.wait(LOOK_INTERVAL):
            if given_up() or not self._loop.running:
                raise LoopClosedError("this server was stopped while its application was starting")
        if self._failure is not None:
            raise StartupError(self._failure) from self._cause

    def shut_down(self, seconds: float) -> None:
        """Let the application end, and wait for that, at most so many seconds, in which its requests may end first.
        What goes wrong is logged. Any thread but the loop's."""
        if self._phase != _RUNNING or not self._loop.running:
            return
        deadline = time.monotonic() + seconds
        coroutines = coroutines_of(self._loop)
        while coroutines.waiting() > 1 and time.monotonic() < deadline:  # one is the lifespan's own
            time.sleep(LOOK_INTERVAL / 5)
        self._answered.clear()
        self._loop.call_soon(self._begin_end)
        if not self._answered.wait(max(1.0, deadline - time.monotonic())):
            logger.error("the application did not answer lifespan.shutdown within %g s", seconds)
        elif self._failure is not None:
            logger.error("the application failed to shut down: %s", self._failure, exc_info=self._cause)

    # ------------------------------------------------------------------ the application (loop thread)

    def _begin(self) -> None:
        versions = {"version": ASGI_VERSION, "spec_version": SPEC_VERSION}
        self._run(self, {"type": "lifespan", "asgi": versions, "state": self.state})

    def _begin_end(self) -> None:
        if self._phase != _RUNNING:
            self._answered.set()
            return
        self._phase = _STOPPING
        if self._stop is not None and not self._stop.done():
            self._stop.set_result(None)

    async def receive(self) -> Message:
        """Return `lifespan.startup`, and then, when the server stops, `lifespan.shutdown`. Raises RuntimeError for a
        third message."""
        if not self._received:
            self._received = True
            return {"type": "lifespan.startup"}
        if self._stop is not None:
            raise RuntimeError("lifespan.shutdown was the last message, or another task is waiting for it")
        self._stop = asyncio.get_running_loop().create_future()
        if self._phase != _STOPPING:
            try:
                await self._stop
            except asyncio.CancelledError:  # a wait with a timeout, perhaps: the next call waits again
                self._stop = None
                raise
        return {"type": "lifespan.shutdown"}

    async def send(self, message: Message) -> None:
        """Take the application's answer. Raises ValueError for what is no message, RuntimeError at the wrong time."""
        kind = type_of(message)
        phase = _ANSWERS.get(kind)
        if phase is None:
            raise ValueError(f"{kind!r} is no message of a lifespan: those are {', '.join(_ANSWERS)}")
        if self._phase != phase:
            raise RuntimeError(f"{kind} answers nothing that the application was asked")
        self._phase = _RUNNING if kind == "lifespan.startup.complete" else _ENDED
        if kind.endswith(".failed"):
            self._failure = message.get("message") or f"the application sent {kind} without a message"
        self._answered.set()

    def ended(self, error: BaseException | None) -> None:
        """Go on after the application has returned, or has raised `error`."""
        phase, self._phase = self._phase, _ENDED
        if phase == _STARTING:
            self._ended_early(error)
        elif error is not None and not (phase == _ENDED and self._failure is not None):
            logger.error("the application raised in its lifespan", exc_info=error)
        self._answered.set()

    def _ended_early(self, error: BaseException | None) -> None:
        """Decide about an application that has not answered lifespan.startup."""
        if self._mode == "on":
            self._cause = error
            how = "returned before it" if error is None else f"raised {error!r} before it"
            self._failure = f"the application {how} answered lifespan.startup"
        elif error is None or not self._received:
            logger.debug("the application has no lifespan", exc_info=error)
        else:
            logger.warning(
                'the application raised as it was to start up; with lifespan="auto" it is served all the same',
                exc_info=error,
            )
