"""SharedLoop: the one gows loop of an asyncio loop, for all clients in it.

It is made for the first of them, and closed when the last has gone. Who forgets to close a client is helped: when
asyncio ends a loop in order (`asyncio.run`), it closes the async generators of that loop first, after all tasks have
ended. One of them is ours, and with it the gows loop is closed. So a task that is cancelled at the end may still close
its connections in order, for which the gows loop has to turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from gows.aio.inside import Inside
from gows.reactor import Loop
from gows.reactor.hosting import Coroutines

_loops: dict[asyncio.AbstractEventLoop, SharedLoop] = {}


class SharedLoop:
    """A gows loop that an asyncio loop turns as long as somebody holds it. In the thread of the asyncio loop."""

    __slots__ = ("_aloop", "_ended", "_held", "_inside", "_life", "loop")

    def __init__(self) -> None:
        """Begin in the running asyncio loop, for `shared_loop`."""
        self._aloop = asyncio.get_running_loop()
        self.loop = Loop(workers=0)
        self._held = 0
        self._ended = False
        try:
            self._inside = Inside(self.loop)
            self._inside.join()
        except BaseException:
            self.loop.close()
            raise
        self.loop.shared[Coroutines] = self._inside
        self._life = self._live()
        try:  # as `await anext(self._life)` does: asyncio gets to know it
            self._life.asend(None).send(None)
        except StopIteration:
            pass

    async def _live(self) -> AsyncGenerator[None, None]:
        """Wait to be closed, with the asyncio loop or before it."""
        try:
            yield
        finally:
            self.end()

    def hold(self) -> None:
        """Keep it until `release`, once more."""
        self._held += 1

    def release(self) -> None:
        """Take back one `hold`. After the last the loop is closed soon, unless somebody holds it by then."""
        self._held -= 1
        if not self._held and not self._ended:
            self._aloop.call_soon(self._end_unless_held)

    def _end_unless_held(self) -> None:
        if self._held or self._ended:
            return
        self.end()
        try:
            self._life.aclose().send(None)
        except StopIteration:
            pass

    def end(self) -> None:
        """Close the loop, and drop the connections that are left. Idempotent."""
        if self._ended:
            return
        self._ended = True
        if _loops.get(self._aloop) is self:
            del _loops[self._aloop]
        self._inside.leave()
        self.loop.close()


def shared_loop() -> SharedLoop:
    """Return the gows loop of the running asyncio loop; made if there is none. To be held by the caller."""
    aloop = asyncio.get_running_loop()
    found = _loops.get(aloop)
    if found is None:
        for other, left in list(_loops.items()):
            if other.is_closed():  # without a word to its generators
                left.end()
        found = _loops[aloop] = SharedLoop()
    return found
