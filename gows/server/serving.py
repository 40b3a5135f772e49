"""Serving: a server inside a running asyncio loop, as long as an `async with` block lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from gows.errors import UsageError
from gows.reactor import Loop
from gows.reactor.hosting import coroutines_of


class Startable(Protocol):
    """A server, as `Serving` sees it."""

    loop: Loop

    def start(self) -> None:
        """Begin to serve. Raises LoopClosedError."""

    def stop(self, timeout: float = 5.0, *, drain: float | None = None, not_ready: float | None = None) -> None:
        """End everything. Not in the loop's thread."""


S = TypeVar("S", bound=Startable)


class Serving(Generic[S]):
    """Serves while an `async with` block lasts; made by `Server.serve`. Once."""

    def __init__(
        self, server: S, listen: Callable[[], object], start: Callable[[], object], stop: Callable[[], object]
    ) -> None:
        """`listen()` binds the port, if one is to be bound before `start()`; that and `stop()` are the server's, with
        their arguments."""
        self._server = server
        self._listen = listen
        self._start = start
        self._stop = stop

    async def __aenter__(self) -> S:
        server = self._server
        coroutines = coroutines_of(server.loop)
        if server.loop.running:  # before the port is bound: it would be served all the same
            raise UsageError("the server's loop is running already")
        self._listen()
        coroutines.enter()
        try:
            await self._in_thread(self._start)  # a bus, a broker or an application may take a while
        except BaseException:
            await self._end(partial(server.stop, 0.0))
            raise
        return server

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end(self._stop)

    def _in_thread(self, fn: Callable[[], object]) -> asyncio.Future[object]:
        """Call a function in a thread of its own: those of the program may all be taken."""
        executor = ThreadPoolExecutor(1, "gows-serving")
        called = asyncio.get_running_loop().run_in_executor(executor, fn)
        executor.shutdown(wait=False)
        return called

    async def _end(self, stop: Callable[[], object]) -> None:
        """Stop the server in a thread, for that waits for the loop; to its end, also when cancelled meanwhile: this
        asyncio loop turns the server's, and must not end before."""
        ending = self._in_thread(stop)
        cancelled: asyncio.CancelledError | None = None
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError as error:
                cancelled = error
        loop = self._server.loop
        loop.stop()  # one that was given to the server goes on otherwise
        while loop.running:
            await asyncio.sleep(0)
        ending.result()
        if cancelled is not None:
            raise cancelled
