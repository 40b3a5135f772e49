"""Which kind an application is of."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from gows.commands.serving.application import LoadError, kind_of
from gows.commands.serving.options import ServeOptions


def wsgi(environ: Any, start_response: Any) -> Any: ...


def wsgi_with_more(environ: Any, start_response: Any, more: Any = None) -> Any: ...


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


def wrapped_asgi(scope: Any, receive: Any, send: Any) -> Any: ...


async def starred_asgi(*arguments: Any) -> None: ...


def starred(*arguments: Any, **more: Any) -> Any: ...


def asgi2(scope: Any) -> Any: ...


class Asgi2:
    def __init__(self, scope: Any) -> None: ...


class Wsgi:
    def __call__(self, environ: Any, start_response: Any) -> Any: ...


class Asgi:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    async def method(self, scope: Any, receive: Any, send: Any) -> None: ...


def make() -> Any: ...


def kind(app: Any, **options: Any) -> str:
    return kind_of(app, ServeOptions(app="main:app", **options))


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        (wsgi, "wsgi"),
        (Wsgi(), "wsgi"),
        (functools.partial(wsgi), "wsgi"),
        (asgi, "asgi"),
        (wrapped_asgi, "asgi"),
        (starred_asgi, "asgi"),
        (Asgi(), "asgi"),
        (Asgi().method, "asgi"),
        (functools.partial(asgi), "asgi"),
    ],
)
def test_the_kind_is_seen(app: Any, expected: str) -> None:
    assert kind(app) == expected
    assert kind(app, factory=True) == expected
    assert kind(app, interface="wsgi") == "wsgi", "what is said counts"


@pytest.mark.parametrize(
    ("app", "words"),
    [
        (make, "main:app takes no arguments: if it is a function that makes the application, say --factory"),
        (asgi2, "main:app is neither WSGI, which is called with 2 arguments, nor ASGI 3, with 3; an ASGI 2"),
        (Asgi2, "main:app is neither WSGI, "),
        (starred, "main:app may be WSGI or ASGI by its arguments: say which with --interface"),
        (wsgi_with_more, "main:app may be WSGI or ASGI by its arguments: say which with --interface"),
        ("main", "main:app is no application: it is an object of type str, not a gows.Server, nor can it be called"),
        (functools, "main:app is no application: it is a module, functools, "),
    ],
)
def test_what_cannot_be_told_is_said(app: Any, words: str) -> None:
    with pytest.raises(LoadError) as raised:
        kind(app)
    assert str(raised.value).startswith(words)


def test_what_is_said_must_be_possible() -> None:
    with pytest.raises(LoadError, match=r"main:app is an object of type function, and --interface says gows"):
        kind(wsgi, interface="gows")
    with pytest.raises(LoadError, match=r"main:app cannot be called: it is an object of type str"):
        kind("main", interface="wsgi")


@pytest.mark.parametrize("module", ["flask", "django.core.handlers.wsgi", "django.core.handlers.asgi"])
def test_applications_of_frameworks(module: str) -> None:
    found = pytest.importorskip(module)
    name, expected = {"flask": ("Flask", "wsgi")}.get(module, (f"{module[-4:].upper()}Handler", module[-4:]))
    assert kind(object.__new__(getattr(found, name))) == expected
