"""Router: which view answers a method and a path.

Patterns: "/index", "/room/{name}" (one non-empty segment), "/files/{rest:path}" (all that follows, slashes included, or
nothing). A literal segment wins over a parameter, and that over a path. "/a" and "/a/" are two different paths: nothing
is redirected. HEAD is answered by the view of GET, OPTIONS by the router, unless a view is registered for them.

Register before serving; matching may then go on in any thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from gows.errors import HttpError
from gows.http.response import Response
from gows.http1.headers import is_token
from gows.options import check_function, is_coroutine_function

View = Callable[..., Any]

_parameter = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}").fullmatch


class Resource:
    """The views of one pattern by method, and the names of its parameters."""

    __slots__ = ("names", "pattern", "views")

    def __init__(self, pattern: str, names: list[str]) -> None:
        self.pattern = pattern
        self.names = names
        self.views: dict[str, View] = {}

    def view(self, method: str) -> View | None:
        """Return the view for `method`; for HEAD that of GET, unless it has one of its own."""
        found = self.views.get(method)
        return self.views.get("GET") if found is None and method == "HEAD" else found


class _Node:
    """One segment of the tree of patterns."""

    __slots__ = ("any_path", "any_segment", "literals", "resource")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.any_segment: _Node | None = None
        self.any_path: Resource | None = None
        self.resource: Resource | None = None


class Router:
    """A table of patterns, methods and views."""

    __slots__ = ("_coroutines", "_root", "_static", "empty")

    def __init__(self) -> None:
        self._root = _Node()
        self._static: dict[str, Resource] = {}
        self._coroutines: set[int] = set()  # the ids of views that are an `async def`
        self.empty = True
        """Whether there is no route at all."""

    def add(self, pattern: str, view: View, methods: Iterable[str] = ("GET",)) -> None:
        """Register `view`. Raises ValueError for a malformed pattern or method, or one that has a view already, and
        TypeError for a view that cannot be called, or of which a call runs nothing.

        Two patterns that differ only in the names of their parameters are the same.
        """
        if isinstance(methods, str):
            raise ValueError("methods is a sequence of names, not one string")
        wanted = [method.upper() for method in methods]
        if not wanted or not all(map(is_token, wanted)):
            raise ValueError(f"methods must be HTTP methods, not {methods!r}")
        check_function(f"the view of {pattern}", view)
        segments, names = _parse_pattern(pattern)
        resource = self._resource(pattern, segments, names)
        for method in wanted:
            if method in resource.views:
                raise ValueError(f"{pattern} has a view for {method} already (as {resource.pattern})")
        if resource.names != names:
            raise ValueError(f"{pattern} names its parameters differently from {resource.pattern}")
        for method in wanted:
            resource.views[method] = view
        self.empty = False
        if is_coroutine_function(view):
            self._coroutines.add(id(view))

    def knows(self, method: str, path: str) -> bool:
        """Return whether the path has a route, be it for other methods."""
        try:
            self.match(method, path)
        except HttpError as error:
            return error.status != 404
        return True

    def is_coroutine(self, method: str, path: str) -> bool:
        """Return whether an `async def` answers a method and a decoded path."""
        if not self._coroutines:
            return False
        try:
            return id(self.match(method, path)[0]) in self._coroutines
        except HttpError:
            return False

    def match(self, method: str, path: str) -> tuple[View, dict[str, str]]:
        """Return the view for a decoded path, and its parameters; HttpError: 404, or 405 with the methods there are."""
        resource = self._static.get(path)
        if resource is not None:
            view = resource.view(method)
            if view is not None:
                return view, {}
        return self._search(method, path)

    def _search(self, method: str, path: str) -> tuple[View, dict[str, str]]:
        allowed: set[str] = set()
        if path == "*":  # OPTIONS *: what the server can do at all
            allowed.update(*(resource.views for resource in _resources(self._root)))
        for resource, values in _walk(self._root, path.split("/")[1:], 0, []):
            view = resource.view(method)
            if view is not None:
                return view, dict(zip(resource.names, values, strict=True))
            allowed.update(resource.views)
        if "GET" in allowed:
            allowed.add("HEAD")
        methods = ", ".join(sorted({*allowed, "OPTIONS"}))
        if method == "OPTIONS" and (allowed or path == "*"):
            return _Options(methods), {}
        if allowed:
            raise HttpError(405, f"{method} is not allowed here", (("Allow", methods),))
        raise HttpError(404, "not found")

    def _resource(self, pattern: str, segments: list[str | None], names: list[str]) -> Resource:
        node = self._root
        for segment in segments[:-1] if pattern.endswith(":path}") else segments:
            if segment is not None:
                node = node.literals.setdefault(segment, _Node())
            else:
                if node.any_segment is None:
                    node.any_segment = _Node()
                node = node.any_segment
        if pattern.endswith(":path}"):
            if node.any_path is None:
                node.any_path = Resource(pattern, names)
            return node.any_path
        if node.resource is None:
            node.resource = Resource(pattern, names)
        if not names:
            self._static[pattern] = node.resource
        return node.resource


class _Options:
    """The answer to OPTIONS where no view gives one."""

    __slots__ = ("_methods",)

    def __init__(self, methods: str) -> None:
        self._methods = methods

    def __call__(self, request: object) -> Response:
        return Response(status=204, headers=(("Allow", self._methods),))


def _parse_pattern(pattern: str) -> tuple[list[str | None], list[str]]:
    """Return the segments (None for a parameter) and the names of the parameters."""
    if not pattern.startswith("/"):
        raise ValueError(f"a pattern begins with a slash, not {pattern!r}")
    segments: list[str | None] = []
    names: list[str] = []
    for index, text in enumerate(parts := pattern.split("/")[1:]):
        found = _parameter(text)
        if found is None:
            if "{" in text or "}" in text:
                raise ValueError(
                    f"{text!r} in {pattern!r} is no parameter: write a whole segment as {{name}} or {{name:path}}"
                )
            segments.append(text)
            continue
        if found[1] in names:
            raise ValueError(f"{found[1]} stands twice in {pattern!r}")
        if found[2] and index != len(parts) - 1:
            raise ValueError(f"{text} must be the end of {pattern!r}")
        segments.append(None)
        names.append(found[1])
    return segments, names


def _walk(node: _Node, segments: list[str], at: int, values: list[str]) -> Iterable[tuple[Resource, list[str]]]:
    """Yield all patterns that match, best first. Each node is reached at most once, so the work is bounded by the
    table."""
    if at == len(segments):
        if node.resource is not None:
            yield node.resource, values
        return
    segment = segments[at]
    literal = node.literals.get(segment)
    if literal is not None:
        yield from _walk(literal, segments, at + 1, values)
    if node.any_segment is not None and segment:
        yield from _walk(node.any_segment, segments, at + 1, [*values, segment])
    if node.any_path is not None:
        yield node.any_path, [*values, "/".join(segments[at:])]


def _resources(node: _Node) -> Iterable[Resource]:
    for resource in (node.resource, node.any_path):
        if resource is not None:
            yield resource
    for child in (*node.literals.values(), node.any_segment):
        if child is not None:
            yield from _resources(child)
