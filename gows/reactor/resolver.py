"""resolve: look up a name without keeping the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable

from gows.reactor.address import Address
from gows.reactor.loop import BaseLoop
from gows.reactor.sockets import Target

Resolved = Callable[[list[Target], Exception | None], object]


def resolve(loop: BaseLoop, address: Address, resolved: Resolved) -> None:
    """Have `resolved(targets, error)` called with the socket addresses of `address`, best first, or with none and why:
    now if no name server is needed, else a thread of its own asks, and the call comes in the loop's thread. It does not
    come once the loop is closed. Loop thread."""
    if loop.sockets.is_numeric(address):
        _look_up(loop, address, resolved)
        return
    try:
        threading.Thread(target=_look_up, args=(loop, address, resolved), name="gows-resolve", daemon=True).start()
    except RuntimeError as error:  # no thread to be had
        resolved([], error)


def _look_up(loop: BaseLoop, address: Address, resolved: Resolved) -> None:
    targets: list[Target] = []
    error: Exception | None = None
    try:
        targets = loop.sockets.resolve(address)
    except (OSError, ValueError) as failure:  # ValueError: a name that cannot be written in DNS, or holds a NUL
        error = failure
    loop.run_soon(resolved, targets, error)
