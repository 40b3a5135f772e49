"""What may be an ASGI application, and where it stands in a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest

from gows import Server, ServerOptions
from gows.server.gateway import check_asgi


async def app(scope: Any, receive: Any, send: Any) -> None:
    pass


class Callable3:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        pass


class Plain3:
    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        return app(scope, receive, send)


class Endpoint:
    """Awaited itself, as Starlette's endpoints are."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        pass

    def __await__(self) -> Iterator[None]:
        yield


async def with_prefix(prefix: str, scope: Any, receive: Any, send: Any) -> None:
    pass


def of_any_arguments(*args: Any) -> Any:
    return app(*args)


@pytest.mark.parametrize(
    "application",
    [app, Callable3(), Plain3(), Callable3().__call__, Endpoint, partial(with_prefix, "/x"), of_any_arguments],
)
def test_applications(application: Any) -> None:
    check_asgi(application)


class Asgi2:
    def __init__(self, scope: Any) -> None:
        pass

    async def __call__(self, receive: Any, send: Any) -> None:
        pass


def asgi2(scope: Any) -> Any:
    return app


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return []


def factory() -> Any:
    return app


def generator(scope: Any, receive: Any, send: Any) -> Iterator[None]:
    yield


async def async_generator(scope: Any, receive: Any, send: Any) -> AsyncIterator[None]:
    yield


def too_many(scope: Any, receive: Any, send: Any, more: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("application", "hint"),
    [
        ("module:app", "must be a function, not str"),
        (Asgi2, "ASGI 2"),
        (asgi2, "guarantee_single_callable"),
        (wsgi, "a WSGI application is given as wsgi="),
        (Asgi2({}), "wsgi="),  # two arguments, whatever they are
        (factory, "give what it returns"),
        (generator, "generator"),
        (async_generator, "async generator"),
        (too_many, "scope, receive, send"),
    ],
)
def test_what_is_none_is_refused_with_a_hint(application: Any, hint: str) -> None:
    with pytest.raises(TypeError, match=hint):
        Server(asgi=application)


def test_it_goes_with_no_wsgi_application() -> None:
    with pytest.raises(ValueError, match="give one of them"):
        ServerOptions(asgi=app, wsgi=wsgi)


@pytest.mark.parametrize("root_path", ["api", "/", "/api/", "/ä", "/a\n"])
def test_a_root_path_begins_with_a_slash(root_path: str) -> None:
    with pytest.raises(ValueError, match="root_path"):
        ServerOptions(asgi=app, root_path=root_path)
    with pytest.raises(TypeError, match="root_path must be a str"):
        ServerOptions(asgi=app, root_path=b"/api")  # type: ignore[arg-type]


def test_the_size_of_bodies() -> None:
    for server, whole, streamed in (
        (Server(asgi=app), 1 << 20, None),
        (Server(asgi=app, max_body_size=5), 5, 5),
        (Server(), 1 << 20, None),
    ):
        assert (server.max_body_size, server.max_streamed_size) == (whole, streamed)
        server.stop()
