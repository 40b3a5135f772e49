"""Awaiting: a coroutine that waits for a peer, in the asyncio loop in which it runs, be that the one of its connection
or another."""

from __future__ import annotations

import asyncio

from gows.errors import ConnectionClosedError
from gows.session.overflow import Overflow, Sender

PAUSE = 0.05
"""Seconds until a coroutine tries again for which there was no room."""


class Notice:
    """What is set when there is room for a connection, or it has ended: a `threading.Event` for a coroutine."""

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    def set(self) -> None:
        """Let the coroutine go on. Any thread."""
        try:
            self._loop.call_soon_threadsafe(self._set)
        except RuntimeError:  # that loop was closed, and nobody waits any more
            pass

    def _set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        """Wait until it is set."""
        await self._future


async def until_room(sender: Sender, overflow: Overflow, limit: int) -> None:
    """Wait until no more than `limit` bytes of a connection are queued. Raises ConnectionClosedError when it ends."""
    stream = sender.stream
    while stream.queued > limit and not stream.closed:
        with stream.lock:
            notice = Notice()
            overflow.enlist_locked(sender, notice)
            if stream.queued > limit:
                stream.owe_drained_locked()
            elif not stream.closed:  # since we looked
                notice.set()
        try:
            if not stream.closed:
                await notice.wait()
        finally:
            with stream.lock:
                overflow.delist_locked(sender, notice)
    if stream.closed:
        raise ConnectionClosedError("the connection is closed")


async def until_lost(sender: Sender, overflow: Overflow) -> None:
    """Wait until a connection has ended."""
    stream = sender.stream
    while not stream.lost:
        with stream.lock:
            notice = Notice()
            overflow.enlist_locked(sender, notice)
        try:
            if not stream.lost:
                await notice.wait()
        finally:
            with stream.lock:
                overflow.delist_locked(sender, notice)


async def pause() -> None:
    """Wait a moment, since nothing tells when there is room."""
    await asyncio.sleep(PAUSE)
