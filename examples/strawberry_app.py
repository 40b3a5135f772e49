"""GraphQL with Strawberry in Starlette: queries over HTTP, subscriptions over a WebSocket.

    python examples/strawberry_app.py [ADDRESS]        # "127.0.0.1:8080" unless given

It needs `pip install strawberry-graphql starlette`.

It knows nothing of gows, and any ASGI server serves it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import strawberry
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from strawberry.asgi import GraphQL

import gows


@strawberry.type
class Query:
    @strawberry.field
    async def hello(self, name: str = "you") -> str:
        return f"hello, {name}"


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, upto: int = 3) -> AsyncIterator[int]:
        for number in range(upto):
            yield number


graphql = GraphQL[None, None](strawberry.Schema(Query, subscription=Subscription))
app = Starlette(routes=[Route("/graphql", graphql), WebSocketRoute("/graphql", graphql)])


def main(address: str = "127.0.0.1:8080") -> None:
    """Serve until Ctrl-C."""
    server = gows.Server(asgi=app)
    server.listen_and_serve(address, ready=lambda: print(f"serving on {server.addresses[0]}", flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:2])
