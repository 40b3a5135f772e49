"""A server whose topics clients use, for the tests of both clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gows import Server, WebSocket, serve_topics


def may(ws: WebSocket, topic: str) -> bool:
    """Everything but secrets."""
    return not topic.startswith("secret")


@contextmanager
def topic_server() -> Iterator[Server]:
    """Serves gows.v1 at /live on a port of its own, and keeps 20 messages of the topic "kept"."""
    server = Server(
        workers=2,
        may_subscribe=may,
        may_publish=may,
        keep=lambda topic: 20 if topic == "kept" else 0,
        presence=lambda ws, topic: {"topic": topic} if topic == "room" else None,
    )
    serve_topics(server, "/live")
    server.start("127.0.0.1:0")
    try:
        yield server
    finally:
        server.stop()
