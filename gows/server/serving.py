"""Serving: a server inside a running asyncio loop, as long as an `async with` block lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Generic, Protocol, TypeVar

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

    def __init__(self, server: S, listen: Callable[[], object], stop: Callable[[], object]) -> None:
        """`listen()` binds the port, if one is to be bound; `stop()` is `Server.stop` with its arguments."""
        self._server = server
        self._listen = listen
        self._stop = stop

    async def __aenter__(self) -> S:
        server = self._server
        self._listen()
        coroutines_of(server.loop).enter()
        try:
            await asyncio.to_thread(server.start)  # a bus or a broker may take a while
        except BaseException:
            await self._end(partial(server.stop, 0.0))
            raise
        return server

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end(self._stop)

    async def _end(self, stop: Callable[[], object]) -> None:
        """Stop the server in a thread, for that waits for the loop; to its end, also when cancelled meanwhile: this
        asyncio loop turns the server's, and must not end before."""
        ending = asyncio.ensure_future(asyncio.to_thread(stop))
        cancelled: asyncio.CancelledError | None = None
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError as error:
                cancelled = error
        ending.result()
        if cancelled is not None:
            raise cancelled
