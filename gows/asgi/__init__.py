"""ASGI 3 applications on a server.

scope        what an application learns of a request
http         a request and its answer
websocket    an upgrade, and the WebSocket that comes of it
lifespan     the beginning and the end of an application
application  AsgiApp: what a request is for
"""

from __future__ import annotations

from gows.server.gateway import AsgiCallable, Gateway, Owner


def gateway(app: AsgiCallable, owner: Owner) -> Gateway:
    """Return what serves an ASGI application of a server. Imports asyncio, which programs without need not."""
    from gows.asgi.application import AsgiApp

    return AsgiApp(app, owner)
