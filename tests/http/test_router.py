from __future__ import annotations

from typing import Any

import pytest

from gows.errors import HttpError
from gows.http.response import Response
from gows.http.router import Router


def view_named(name: str) -> Any:
    def view(request: object, **params: str) -> str:
        return name

    return view


def router(*patterns: str) -> Router:
    """A router whose views return their pattern."""
    it = Router()
    for pattern in patterns:
        it.add(pattern, view_named(pattern))
    return it


TABLE = router(
    "/",
    "/index",
    "/index/",
    "/room/{name}",
    "/room/new",
    "/room/{name}/log",
    "/files/{rest:path}",
    "/files/special",
    "/{any}/end",
    "/deep/{a}/{b}",
)


@pytest.mark.parametrize(
    ("path", "pattern", "params"),
    [
        ("/", "/", {}),
        ("/index", "/index", {}),
        ("/index/", "/index/", {}),
        ("/room/blue", "/room/{name}", {"name": "blue"}),
        ("/room/a b/", None, {}),
        ("/room/new", "/room/new", {}),
        ("/room/new/log", "/room/{name}/log", {"name": "new"}),
        ("/room/", None, {}),
        ("/room", None, {}),
        ("/room/end", "/room/{name}", {"name": "end"}),
        ("/files/", "/files/{rest:path}", {"rest": ""}),
        ("/files/a/b/", "/files/{rest:path}", {"rest": "a/b/"}),
        ("/files", None, {}),
        ("/files/special", "/files/special", {}),
        ("/files/special/x", "/files/{rest:path}", {"rest": "special/x"}),
        ("/x/end", "/{any}/end", {"any": "x"}),
        ("/files/end", "/files/{rest:path}", {"rest": "end"}),
        ("/deep/1/2", "/deep/{a}/{b}", {"a": "1", "b": "2"}),
        ("/deep/1", None, {}),
        ("/nothing", None, {}),
        ("", None, {}),
        ("*", None, {}),
        ("/" * 10_000, None, {}),
    ],
)
def test_match(path: str, pattern: str | None, params: dict[str, str]) -> None:
    if pattern is None:
        with pytest.raises(HttpError):
            TABLE.match("GET", path)
        return
    view, found = TABLE.match("GET", path)
    assert (view(None), found) == (pattern, params)


def test_nothing_registered_is_404() -> None:
    for method in ("GET", "OPTIONS"):
        with pytest.raises(HttpError, match="404"):
            Router().match(method, "/")


def methods_table() -> Router:
    it = Router()
    it.add("/a", view_named("get a"))
    it.add("/a", view_named("post a"), ["post", "PUT"])
    it.add("/b", view_named("only post"), ["POST"])
    it.add("/{x}", view_named("any delete"), ["DELETE"])
    it.add("/h", view_named("own head"), ["HEAD"])
    it.add("/h", view_named("get h"))
    it.add("/o", view_named("own options"), ["OPTIONS"])
    return it


@pytest.mark.parametrize(
    ("method", "path", "result"),
    [
        ("GET", "/a", "get a"),
        ("HEAD", "/a", "get a"),
        ("POST", "/a", "post a"),
        ("PUT", "/a", "post a"),
        ("DELETE", "/a", "any delete"),
        ("HEAD", "/h", "own head"),
        ("OPTIONS", "/o", "own options"),
    ],
)
def test_methods(method: str, path: str, result: str) -> None:
    view, _ = methods_table().match(method, path)
    assert view(None) == result


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PATCH", "/a", "DELETE, GET, HEAD, OPTIONS, POST, PUT"),
        ("GET", "/b", "DELETE, OPTIONS, POST"),
        ("HEAD", "/b", "DELETE, OPTIONS, POST"),
        ("GET", "/x", "DELETE, OPTIONS"),
    ],
)
def test_another_method_is_405_and_names_those_there_are(method: str, path: str, allow: str) -> None:
    with pytest.raises(HttpError) as caught:
        methods_table().match(method, path)
    assert caught.value.status == 405
    assert caught.value.headers == (("Allow", allow),)


@pytest.mark.parametrize(
    ("path", "allow"),
    [("/b", "DELETE, OPTIONS, POST"), ("/a", "DELETE, GET, HEAD, OPTIONS, POST, PUT")],
)
def test_options_is_answered(path: str, allow: str) -> None:
    view, _ = methods_table().match("OPTIONS", path)
    response = view(None)
    assert isinstance(response, Response)
    assert (response.status, response.headers) == (204, (("Allow", allow),))


def test_options_of_the_whole_server() -> None:
    view, _ = methods_table().match("OPTIONS", "*")
    assert dict(view(None).headers)["Allow"] == "DELETE, GET, HEAD, OPTIONS, POST, PUT"
    view, _ = Router().match("OPTIONS", "*")
    assert dict(view(None).headers)["Allow"] == "OPTIONS"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/a", "/a"),
        ("/room/{a}", "/room/{a}"),
        ("/room/{a}", "/room/{b}"),
        ("/f/{a:path}", "/f/{b:path}"),
        ("/f/{a}/x", "/f/{b}/x"),
    ],
)
def test_two_views_for_the_same_are_refused(first: str, second: str) -> None:
    it = router(first)
    with pytest.raises(ValueError, match="already"):
        it.add(second, view_named("second"))


def test_one_pattern_has_one_set_of_names() -> None:
    it = router("/room/{a}")
    it.add("/room/{a}", view_named("post"), ["POST"])
    with pytest.raises(ValueError, match="names its parameters differently"):
        it.add("/room/{b}", view_named("put"), ["PUT"])


@pytest.mark.parametrize(
    "pattern",
    ["", "a", "{a}", "/a{b}", "/{a}b", "/{}", "/{1}", "/{a:int}", "/{a:path}/b", "/{a}/{a}", "/{a", "/a}", "/{a b}"],
)
def test_malformed_patterns(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"pattern|parameter|stands|end"):
        Router().add(pattern, view_named("x"))


@pytest.mark.parametrize("methods", ["GET", [], ["G T"], [""]])
def test_malformed_methods(methods: Any) -> None:
    with pytest.raises(ValueError, match="methods"):
        Router().add("/", view_named("x"), methods)
