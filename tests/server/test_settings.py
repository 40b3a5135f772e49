"""ServerOptions: every wrong value is refused when it is set, and Server takes the same settings as keywords."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

import gows
from gows.reactor import Loop
from gows.server import settings
from gows.server.settings import ServerKeywords, ServerOptions

FIELDS = [field.name for field in fields(ServerOptions)]


def of_wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return []


async def of_asyncio(*arguments: Any) -> bool:
    return True


BAD: list[tuple[str, Any, type[Exception]]] = [
    ("workers", -1, ValueError),
    ("workers", "4", TypeError),
    ("workers", True, TypeError),
    ("options", {"compression": True}, TypeError),
    ("wsgi", "app:app", TypeError),
    ("wsgi", of_asyncio, TypeError),
    ("asgi", "app:app", TypeError),
    ("asgi", of_wsgi, TypeError),
    ("root_path", None, TypeError),
    ("root_path", "api", ValueError),
    ("ssl_context", "server.pem", TypeError),
    ("max_body_size", -1, ValueError),
    ("max_body_size", 1.5, TypeError),
    ("max_head_size", 0, ValueError),
    ("max_headers", -1, ValueError),
    ("head_timeout", 0, ValueError),
    ("head_timeout", None, TypeError),
    ("body_timeout", -1.0, ValueError),
    ("keep_alive_timeout", "75", TypeError),
    ("max_connections", -1, ValueError),
    ("max_connections", "many", TypeError),
    ("max_queued", 0, ValueError),
    ("max_queued", 1.5, TypeError),
    ("max_received", 0, ValueError),
    ("max_received", True, TypeError),
    ("admission", object(), TypeError),
    ("metrics_from", "127.0.0.1", TypeError),
    ("metrics_from", ["somewhere"], ValueError),
    ("max_topics", 0, ValueError),
    ("max_topics", "128", ValueError),
    ("max_topic_length", 0, ValueError),
    ("may_subscribe", True, TypeError),
    ("may_publish", "yes", TypeError),
    ("keep", 100, TypeError),
    ("keep", of_asyncio, TypeError),
    ("max_history", -1, ValueError),
    ("presence", {}, TypeError),
    ("asyncio_loop", "trio", ValueError),
    ("asyncio_loop", None, ValueError),
    ("broker", "redis://localhost", TypeError),
]


def spell(value: Any) -> str:
    """Name a value, without an address: the workers of pytest-xdist have to find the same names."""
    text = getattr(value, "__name__", str(value))
    return type(value).__name__ if " at 0x" in text else text[:30]


@pytest.mark.parametrize("make", [ServerOptions, gows.Server])
@pytest.mark.parametrize(("name", "value", "error"), BAD, ids=spell)
def test_a_wrong_value_is_refused_where_it_is_set(
    make: type[Any], name: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="network" if name == "metrics_from" else name):
        make(**{name: value})


GOOD: list[tuple[str, Any]] = [
    ("workers", 0),
    ("max_body_size", 0),
    ("max_connections", 0),
    ("max_received", None),
    ("max_history", 0),
    ("metrics_from", ()),
    ("may_subscribe", lambda ws, topic: True),
    ("asyncio_loop", "asyncio"),
]


@pytest.mark.parametrize(("name", "value"), GOOD, ids=lambda value: getattr(value, "__name__", str(value)))
def test_values_at_the_edge_are_taken(name: str, value: Any) -> None:
    assert getattr(ServerOptions(**{name: value}), name) == value


def test_options_are_not_changed_after_they_were_checked() -> None:
    with pytest.raises(FrozenInstanceError):
        ServerOptions().workers = -1  # type: ignore[misc]


def test_uvloop_that_is_missing_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(gows.UsageError, match='"uvloop" needs uvloop: pip install "gows\\[uvloop\\]"'):
        ServerOptions(asyncio_loop="uvloop")


def test_networks_that_can_be_read_once_are_kept() -> None:
    assert ServerOptions(metrics_from=iter(["10.0.0.0/8"])).metrics_from == ("10.0.0.0/8",)


def test_a_server_takes_the_options_as_one() -> None:
    accept = gows.AcceptOptions(group="chat")
    with Loop(workers=0) as loop:
        options = ServerOptions(loop=loop, options=accept, max_body_size=7, max_connections=3, health=True)
        server = gows.Server(options=options)
        assert server.settings is options
        assert server.options is accept
        assert (server.max_body_size, server.max_connections, server.health) == (7, 3, True)
        server.stop()


def test_options_as_one_stand_alone() -> None:
    with pytest.raises(TypeError, match="set workers, health in the options"):
        gows.Server(options=ServerOptions(), workers=2, health=True)


def test_a_setting_that_there_is_not() -> None:
    with pytest.raises(TypeError, match=r"Server\(\) got an unexpected keyword argument 'worker'"):
        gows.Server(worker=2)  # type: ignore[call-arg]


def test_the_keywords_of_a_server_are_the_options() -> None:
    keywords = ServerKeywords.__annotations__
    for name, value in ServerOptions.__annotations__.items():
        kind = keywords[name].__forward_arg__
        assert kind == (f"ServerOptions | {value}" if name == "options" else value)
    assert list(keywords) == FIELDS
    assert list(inspect.signature(gows.Server).parameters.values()) == list(
        inspect.signature(ServerOptions).parameters.values()
    )


def described() -> dict[str, str]:
    """The docstring below each field."""
    tree = ast.parse(Path(settings.__file__).read_text("utf-8"))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "ServerOptions").body
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found[ast.unparse(field.target)] = " ".join(ast.literal_eval(text.value).split())
    return found


def test_every_option_says_what_it_is_and_its_default() -> None:
    texts = described()
    assert list(texts) == FIELDS
    units = {"": 1, " KiB": 1 << 10, " MiB": 1 << 20}
    for field in fields(ServerOptions):
        stated = re.search(r"Default:? (.*?)(?=[:.;])", texts[field.name])
        assert stated is not None, field.name
        written = stated[1]
        if isinstance(field.default, (int, float)) and not isinstance(field.default, bool):
            number, unit = re.fullmatch(r"([\d.]+)( KiB| MiB)?", written).groups("")  # type: ignore[union-attr]
            assert float(number) * units[unit] == field.default, field.name
        elif field.name != "metrics_from":
            assert written.strip('"') == str(field.default), field.name
