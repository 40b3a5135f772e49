"""AsgiApp: an ASGI application as what answers the requests of a server.

It is called in the loop's thread, around which an asyncio loop runs. Each request is one coroutine; only if that has to
wait does it become a task (`gows.aio.inside`), so an application that answers at once costs no task.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from types import CoroutineType
from typing import Any, Protocol

from gows.asgi.http import HttpExchange
from gows.asgi.lifespan import Lifespan
from gows.asgi.scope import Message, Scope
from gows.asgi.websocket import Upgrade, is_upgrade
from gows.http.connection import HttpConnection
from gows.http.exchange import Exchange
from gows.http.request import Request
from gows.reactor.hosting import coroutines_of
from gows.server.gateway import AsgiCallable, Owner


class Call(Protocol):
    """What an application is called for."""

    async def receive(self) -> Message:
        """Return the next message for the application."""

    async def send(self, message: Message) -> None:
        """Take a message of the application's."""

    def ended(self, error: BaseException | None) -> None:
        """Go on after the application has returned, or has raised `error`."""


class AsgiApp:
    """Calls the application, once for each request, and once for its lifespan. Loop thread, unless a method says
    otherwise."""

    def __init__(self, app: AsgiCallable, owner: Owner) -> None:
        """`owner`: the server. Raises UsageError if its loop can run no coroutines."""
        self._app = app
        self._owner = owner
        self._coroutines = coroutines_of(owner.loop)
        self._lifespan = Lifespan(self._run, owner.loop, owner.lifespan)

    def start_up(self, given_up: Callable[[], bool]) -> None:
        """See `Gateway.start_up`."""
        self._lifespan.start_up(given_up)

    def shut_down(self, seconds: float) -> None:
        """See `Gateway.shut_down`."""
        self._lifespan.shut_down(seconds)

    def exchange(self, request: Request) -> Exchange:
        """See `Gateway.exchange`."""
        carrier = request.connection
        assert isinstance(carrier, HttpConnection)
        if is_upgrade(request):
            return Upgrade(request, carrier, self._run, self._owner, self._lifespan.state)
        return HttpExchange(request, carrier, self._run, self._owner.root_path, self._lifespan.state)

    def _run(self, call: Call, scope: Scope) -> None:
        """Call the application, as far as it goes without waiting."""
        try:
            coro = as_coroutine(self._app(scope, call.receive, call.send))
            if self._coroutines.start(coro, self, "asgi", call):
                call.ended(None)
        except BaseException as error:
            call.ended(error)
            if isinstance(error, KeyboardInterrupt):
                raise

    def coroutine_ended(self, name: str, value: Call, error: BaseException | None) -> None:
        """Go on after the application has ended that had to wait. `value`: what it was called for."""
        value.ended(error)


def as_coroutine(result: Awaitable[None]) -> Coroutine[Any, Any, None]:
    """Return what an application returned, as a coroutine. Raises TypeError for what cannot be awaited."""
    if isinstance(result, (CoroutineType, Coroutine)):
        return result
    if not hasattr(type(result), "__await__"):
        raise TypeError(
            f"the ASGI application returned {type(result).__name__}, which cannot be awaited: "
            "it must be an `async def` that takes (scope, receive, send)"
        )

    async def wait() -> None:
        await result

    return wait()
