"""asyncio: gows inside an asyncio loop, `async def` callbacks in every server, and clients.

inside     a gows loop that an asyncio loop turns, in its thread, and the coroutines of its callbacks
shared     the one gows loop of an asyncio loop, for all clients in it
websocket  AsyncWebSocket: a client's connection that is read with `await ws.recv()`
client     `connect`: a connection, or one after the other
mailbox    what has come for a subscription, and waits
topics     TopicClient
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gows.reactor.hosting import ASYNCIO_LOOP, Coroutines

if TYPE_CHECKING:
    from gows.aio.client import connect as connect
    from gows.aio.mailbox import TopicMessage as TopicMessage
    from gows.aio.topics import AsyncSubscription as AsyncSubscription
    from gows.aio.topics import TopicClient as TopicClient
    from gows.aio.websocket import AsyncWebSocket as AsyncWebSocket

_HOME = {
    "AsyncSubscription": "gows.aio.topics",
    "AsyncWebSocket": "gows.aio.websocket",
    "TopicClient": "gows.aio.topics",
    "TopicMessage": "gows.aio.mailbox",
    "connect": "gows.aio.client",
}
"""Where the public names are. They are imported when they are used, for that imports asyncio."""

__all__ = ["AsyncSubscription", "AsyncWebSocket", "TopicClient", "TopicMessage", "connect"]


def __getattr__(name: str) -> Any:
    """Return a public name."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(home), name)
    return found


def coroutines(loop: Any) -> Coroutines:
    """Return what runs the coroutines of a gows loop. Imports asyncio, which programs without coroutines need not."""
    from gows.aio.inside import Inside, new_loop_of

    return Inside(loop, new_loop_of(loop.shared.get(ASYNCIO_LOOP, "asyncio")))
