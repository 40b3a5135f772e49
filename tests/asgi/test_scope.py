"""What an application learns of a request."""

from __future__ import annotations

from typing import Any

import pytest

from gows.asgi import scope
from gows.asgi.scope import http_scope
from gows.http.request import Request
from gows.http1.head import RequestParser


def scope_of(wire: bytes, root_path: str = "", state: dict[str, Any] | None = None) -> dict[str, Any]:
    parser = RequestParser()
    parser.feed(wire)
    assert parser.head is not None
    return http_scope(Request(parser.head), root_path, {} if state is None else state)


def test_the_whole_of_it() -> None:
    scope = scope_of(b"GET /a%20b/%C3%A4%2F?x=%20&y HTTP/1.1\r\nHost: example.com\r\nX-Two: 1\r\nx-two: \xe4 \r\n\r\n")
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/a b/ä/",
        "raw_path": b"/a%20b/%C3%A4%2F",
        "query_string": b"x=%20&y",
        "root_path": "",
        "headers": [(b"host", b"example.com"), (b"x-two", b"1"), (b"x-two", b"\xe4")],
        "client": None,
        "server": None,
        "state": {},
        "extensions": {"http.response.early_hint": {}, "http.response.pathsend": {}},
    }


def test_http_1_0_has_no_extensions() -> None:
    scope = scope_of(b"GET / HTTP/1.0\r\n\r\n")
    assert (scope["http_version"], scope["extensions"]) == ("1.0", {})


@pytest.mark.parametrize("te", ["trailers", "gzip, Trailers"])
def test_trailers_for_those_who_ask(te: str) -> None:
    assert (
        "http.response.trailers" in scope_of(b"GET / HTTP/1.1\r\nHost: a\r\nTE: %b\r\n\r\n" % te.encode())["extensions"]
    )


def test_the_root_path_stands_before_the_path() -> None:
    scope = scope_of(b"GET /a%20b HTTP/1.1\r\nHost: a\r\n\r\n", "/api")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/api", "/api/a b", b"/api/a%20b")


def test_each_has_a_copy_of_the_state() -> None:
    state = {"db": object()}
    scope = scope_of(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", state=state)
    assert scope["state"] == state
    assert scope["state"] is not state


def test_an_absolute_target() -> None:
    scope = scope_of(b"GET http://b/c?d HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (scope["path"], scope["query_string"], scope["headers"]) == ("/c", b"d", [(b"host", b"b")])


def test_fields_that_many_send_are_kept_once_and_secrets_never(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\nuser-agent: b\r\nCookie: c\r\nAuthorization: d\r\n\r\n"
    first, second = scope_of(wire)["headers"], scope_of(wire)["headers"]
    assert first == second == [*first]
    assert [a is b for a, b in zip(first, second, strict=True)] == [True, True, True, False, False]
    assert first[1] == first[2] == (b"user-agent", b"b")


def test_what_is_remembered_of_fields_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "MAX_FIELDS", 8)
    monkeypatch.setattr(scope, "_fields", {})
    for n in range(100):
        scope_of(b"GET / HTTP/1.1\r\nHost: a\r\nOrigin: %d\r\nUser-Agent: %b\r\n\r\n" % (n, b"x" * 300))
        assert len(scope._fields) <= 8
