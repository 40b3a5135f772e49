"""A server whose topics clients use, for the tests of both clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gows import Server, WebSocket, serve_topics
from tests.support.servers import LOCAL, running_server


def may(ws: WebSocket, topic: str) -> bool:
    """Everything but secrets."""
    return not topic.startswith("secret")


@contextmanager
def topic_server() -> Iterator[Server]:
    """Serves gows.v1 at /live on a port of its own, and keeps 20 messages of the topic "kept"."""
    with running_server(
        start=False,
        workers=2,
        may_subscribe=may,
        may_publish=may,
        keep=lambda topic: 20 if topic == "kept" else 0,
        presence=lambda ws, topic: {"topic": topic} if topic == "room" else None,
    ) as server:
        serve_topics(server, "/live")
        server.start(LOCAL)
        yield server
