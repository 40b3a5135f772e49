"""Servers of this process on real sockets: one way to make, start and stop them, for every test that needs one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from gows import AcceptOptions, Handler, Request, Server, accept

LOCAL = "127.0.0.1:0"
"""A free port of this machine."""

View = Callable[..., Any]


def serving(make_handler: Callable[[], Handler], options: AcceptOptions | None = None) -> View:
    """Return a view that upgrades each request, and serves it with a handler of its own."""

    def view(request: Request) -> None:
        accept(request, options).serve(make_handler())

    return view


@contextmanager
def running_server(
    routes: Mapping[str, View] | None = None, *, start: bool = True, **settings: Any
) -> Iterator[Server]:
    """A `gows.Server(**settings)` with these routes. It serves on a free port, unless the test starts it, and is
    stopped in the end."""
    server = Server(**settings)
    try:
        for pattern, view in (routes or {}).items():
            server.add_route(pattern, view)
        if start:
            server.start(LOCAL)
        yield server
    finally:
        server.stop()


class MakeServer(Protocol):
    """What the fixture `make_server` is: `running_server`, until the end of the test."""

    def __call__(self, routes: Mapping[str, View] | None = None, *, start: bool = True, **settings: Any) -> Server:
        """Make one."""
