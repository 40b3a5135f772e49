"""asyncio: gows inside an asyncio loop, and `async def` callbacks in every server.

inside  a gows loop that an asyncio loop turns, in its thread, and the coroutines of its callbacks
"""

from __future__ import annotations

from typing import Any

from gows.reactor.hosting import ASYNCIO_LOOP, Coroutines


def coroutines(loop: Any) -> Coroutines:
    """Return what runs the coroutines of a gows loop. Imports asyncio, which programs without coroutines need not."""
    from gows.aio.inside import Inside, new_loop_of

    return Inside(loop, new_loop_of(loop.shared.get(ASYNCIO_LOOP, "asyncio")))
