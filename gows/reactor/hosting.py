"""Hosting: what runs coroutines in a loop's thread.

A reactor knows nothing of asyncio. Whoever does (`gows.aio`, which the package registers) is asked when a loop meets
its first coroutine; so only programs that have coroutines import asyncio, or pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from gows.errors import UsageError

ASYNCIO_LOOP = "asyncio_loop"
"""The key of `loop.shared` for whose asyncio loop a gows loop gets around it, "asyncio" (if it is missing) or "uvloop",
when it meets its first coroutine in a thread of its own."""


class Awaiting(Protocol):
    """Who waits for the end of coroutines."""

    def coroutine_ended(self, name: str, value: Any, error: BaseException | None) -> None:
        """Go on after the coroutine `name`, with the value that was given for it. `error`: what it raised, or None.
        Loop thread."""


class Coroutines(Protocol):
    """Runs coroutines in the thread of one loop. Loop thread, unless a method says otherwise."""

    def start(self, coro: Coroutine[Any, Any, Any], owner: Awaiting, name: str, value: Any) -> bool:
        """Run a coroutine until it has to wait for something. Return whether it has ended; raises what it raises then.
        Otherwise it goes on as a task, and `owner.coroutine_ended(name, value, error)` is called in a later turn."""

    def waiting(self) -> int:
        """Return how many coroutines have begun, or are to begin, and have not ended. Any thread."""

    def enter(self) -> None:
        """Have the running asyncio loop, which is the caller's, turn the gows loop until that is stopped. Raises
        UsageError when it runs already, LoopClosedError."""

    def host(self) -> None:
        """Turn the loop until it is stopped: see `BaseLoop.hand_over`."""

    def close(self) -> None:
        """End the coroutines and the connections of a loop that is being closed, and that nothing turns any more. In
        the thread that closes it."""

    def offload(self, fn: Callable[..., object], *args: object) -> Coroutine[Any, Any, object]:
        """Return a coroutine that calls `fn(*args)` in a worker of the loop, and returns what that returns. Any
        thread."""


class Hosted(Protocol):
    """A loop, which is of a file further up."""

    shared: dict[Any, Any]
    on_close: list[Callable[[], object]]

    def hand_over(self, host: Callable[[], object]) -> None:
        """Have `host()` turn it."""


Provider = Callable[[Any], Coroutines]

_provider: Provider | None = None


def register(provider: Provider) -> None:
    """Have `provider(loop)` make what runs the coroutines of a loop. It is called in any thread, more than once if two
    threads come at the same moment, and raises UsageError for a loop that can have none."""
    global _provider
    _provider = provider


def coroutines_of(loop: Hosted) -> Coroutines:
    """Return what runs the coroutines of a loop. Any thread. Raises UsageError if nothing can."""
    found: Coroutines | None = loop.shared.get(Coroutines)
    if found is not None:
        return found
    if _provider is None:
        raise UsageError("coroutines need gows.aio: import gows")
    made = _provider(loop)
    found = loop.shared.setdefault(Coroutines, made)
    if found is made:
        loop.on_close.append(found.close)
        loop.hand_over(found.host)
    return found
