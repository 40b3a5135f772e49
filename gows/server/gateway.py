"""Gateway: what serves an ASGI application, for the server, which knows nothing of ASGI but how to refuse what is none.

`gows.asgi`, which the package registers, makes it. So only servers with such an application import asyncio.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from gows.errors import UsageError
from gows.http.exchange import Exchange
from gows.http.request import Request
from gows.options import AcceptOptions, check_function
from gows.reactor import Loop
from gows.session.traffic import Traffic

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiCallable = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI 3 application: `await app(scope, receive, send)`."""


class Owner(Protocol):
    """The server of an application, as far as that is served by somebody else."""

    loop: Loop
    root_path: str
    lifespan: str
    """"auto", "on" or "off"."""
    traffic: Traffic

    @property
    def options(self) -> AcceptOptions:
        """Return what WebSockets are accepted with."""


class Gateway(Protocol):
    """Serves an ASGI application."""

    def start_up(self, given_up: Callable[[], bool]) -> None:
        """Start the application, and wait until it has; `given_up()`: whether to wait no longer. Raises StartupError,
        LoopClosedError when that was so, UsageError in the loop's thread and for a loop that does not run."""

    def shut_down(self, seconds: float) -> None:
        """End the application, and wait for that, so long at most. Any thread but the loop's."""

    def exchange(self, request: Request) -> Exchange:
        """Return what answers a request of which the head is complete. Loop thread."""


Provider = Callable[[AsgiCallable, Owner], Gateway]

_provider: Provider | None = None


def register(provider: Provider) -> None:
    """Have `provider(app, server)` make what serves the ASGI application of a server. Any thread."""
    global _provider
    _provider = provider


def gateway_of(app: AsgiCallable, owner: Owner) -> Gateway:
    """Return what serves an ASGI application of a server. Any thread. Raises UsageError if nothing can."""
    if _provider is None:
        raise UsageError("asgi needs gows.asgi: import gows")
    return _provider(app, owner)


def check_asgi(app: object) -> None:
    """Raise TypeError for what cannot be an ASGI 3 application, a WSGI application or one of ASGI 2 above all."""
    called = "an application is awaited with (scope, receive, send)"
    try:
        check_function("asgi", app)
    except TypeError as error:
        raise TypeError(f"{error}: {called}") from None
    try:
        signature = inspect.signature(app)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # written in C
        return
    if _takes(signature, 3):
        return
    if _takes(signature, 2):
        hint = "a WSGI application is given as wsgi="
    elif _takes(signature, 1):
        hint = "one of ASGI 2 needs asgiref.compatibility.guarantee_single_callable"
    elif _takes(signature, 0):
        hint = "if it makes the application, give what it returns"
    else:
        hint = "give such a one"
    raise TypeError(f"asgi takes {signature}, but {called}: {hint}")


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
