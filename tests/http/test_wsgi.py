"""WSGI applications, watched by wsgiref's validator."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

import pytest

from gows.http.wsgi import WsgiApp, make_environ
from gows.reactor import Observer
from tests.http.test_connection import Upgraded
from tests.http.test_request import request
from tests.support.http_site import Site, get

MakeSite = Callable[..., Site]
Environ = dict[str, Any]


def app_of(status: str, headers: list[tuple[str, str]], body: Iterable[bytes]) -> Any:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response(status, headers)
        return body

    return app


PLAIN = [("Content-Type", "text/plain")]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("target", ["/", "/path%20x?query=1", "/%ff"])
def test_a_valid_application_in_a_valid_environ(make_site: MakeSite, method: str, target: str) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        start_response("201 Created", [*PLAIN, ("Set-Cookie", "a=b"), ("Set-Cookie", "c=d")])
        return [] if method == "HEAD" else [b"got ", body]

    site = make_site(WsgiApp(validator(app)))
    answer = site.fetch(get(target, "Cookie: a=b", method=method, body=b"a form" if method == "POST" else b""))
    assert answer.status == 201
    assert answer.headers["content-type"] == "text/plain"
    assert answer.body == {"GET": b"got ", "HEAD": b"", "POST": b"got a form"}[method]


def test_the_environ() -> None:
    environ = make_environ(
        request(
            get(
                "/caf%C3%A9/x?a=b%20c",
                "Content-Type: text/x",
                "X-One: 1",
                "x-one: 2",
                "Cookie: a=b",
                "Cookie: c=d",
                method="PUT",
                body=b"body",
            )
        )
    )
    assert environ.pop("wsgi.input").read() == b"body"
    assert environ.pop("gows.request").path == "/café/x"
    assert environ == {
        "REQUEST_METHOD": "PUT",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/caf\xc3\xa9/x",
        "QUERY_STRING": "a=b%20c",
        "RAW_URI": "/caf%C3%A9/x?a=b%20c",
        "REQUEST_URI": "/caf%C3%A9/x?a=b%20c",
        "CONTENT_TYPE": "text/x",
        "CONTENT_LENGTH": "4",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "example.com",
        "SERVER_PORT": "80",
        "REMOTE_ADDR": "",
        "HTTP_HOST": "example.com",
        "HTTP_X_ONE": "1,2",
        "HTTP_COOKIE": "a=b; c=d",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


def test_the_environ_names_both_ends(make_site: MakeSite) -> None:
    seen: Environ = {}

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        seen.update(environ)
        start_response("200 OK", PLAIN)
        return []

    make_site(WsgiApp(app)).fetch(get())
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("10.0.0.9", "80")
    assert seen["REMOTE_ADDR"].startswith("10.0.0.")
    assert seen["REMOTE_PORT"].isdigit()


@pytest.mark.parametrize(
    ("host", "name", "port"),
    [
        ("a:81", "a", "81"),
        ("a", "a", "80"),
        ("[::1]:81", "[::1]", "81"),
        ("[::1]", "[::1]", "80"),
        ("10.0.0.1", "10.0.0.1", "80"),
    ],
)
def test_without_an_address_of_ours_the_host_names_the_server(host: str, name: str, port: str) -> None:
    environ = make_environ(request(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()))
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == (name, port)


def test_a_request_without_a_host_still_has_a_server_name() -> None:
    assert make_environ(request(b"GET / HTTP/1.0\r\n\r\n"))["SERVER_NAME"] == "localhost"


def test_names_that_could_be_taken_for_others_are_not_passed_on() -> None:
    """X_Forwarded_For would become HTTP_X_FORWARDED_FOR; Proxy would become HTTP_PROXY (CVE-2016-5385)."""
    wire = get("/", "X_Forwarded_For: 1.2.3.4", "X-Real-IP: 5.6.7.8", "Proxy: http://evil")
    names = {name for name in make_environ(request(wire)) if name.startswith("HTTP_")}
    assert names == {"HTTP_HOST", "HTTP_X_REAL_IP"}


# ---------------------------------------------------------------------- answers


def test_a_list_is_sent_with_its_length(make_site: MakeSite) -> None:
    answer = make_site(WsgiApp(app_of("200 OK", PLAIN, [b"one", b"", b"two"]))).fetch(get())
    assert (answer.body, answer.headers["content-length"]) == (b"onetwo", "6")


def test_a_length_of_the_applications_own(make_site: MakeSite) -> None:
    headers = [*PLAIN, ("Content-Length", "6")]
    site = make_site(WsgiApp(app_of("200 OK", headers, (piece for piece in (b"one", b"two")))))
    answer = site.fetch(get())
    assert (answer.body, answer.headers["content-length"]) == (b"onetwo", "6")
    assert "transfer-encoding" not in answer.headers


def test_head_keeps_the_length_of_the_application(make_site: MakeSite) -> None:
    site = make_site(WsgiApp(app_of("200 OK", [*PLAIN, ("Content-Length", "6")], iter([]))))
    assert site.fetch(get(method="HEAD")).headers["content-length"] == "6"


def test_headers_of_the_hop_are_ours(make_site: MakeSite) -> None:
    headers = [*PLAIN, ("Connection", "close"), ("Date", "never"), ("Transfer-Encoding", "x"), ("X", "y")]
    answer = make_site(WsgiApp(app_of("200 OK", headers, [b"x"]))).fetch(get())
    assert answer.headers["x"] == "y"
    assert answer.headers["date"] != "never"
    assert "connection" not in answer.headers
    assert "transfer-encoding" not in answer.headers


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("100 Continue", PLAIN),
        ("nonsense", PLAIN),
        ("200 OK", [("X", "a\r\nSet-Cookie: b")]),
        ("200 OK", [("X y", "a")]),
        ("200 OK", [("Content-Length", "many")]),
    ],
)
def test_what_may_not_be_sent_is_500(
    make_site: MakeSite, status: str, headers: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(WsgiApp(app_of(status, headers, [b"x"])))
    assert site.fetch(get()).status == 500
    assert "the view failed" in caplog.text


class Body:
    """An iterable that notes what happens to it, and to what it is part of."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = iter(pieces)
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self.pieces

    def close(self) -> None:
        self.closed += 1


def test_the_body_is_closed_once(make_site: MakeSite) -> None:
    body = Body([b"one"])
    assert make_site(WsgiApp(app_of("200 OK", PLAIN, body))).fetch(get()).body == b"one"
    assert body.closed == 1


def test_a_body_without_close(make_site: MakeSite) -> None:
    assert make_site(WsgiApp(app_of("200 OK", PLAIN, iter([b"one"])))).fetch(get()).body == b"one"


def test_start_response_may_come_as_late_as_the_first_piece(make_site: MakeSite) -> None:
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        yield b""
        start_response("202 Accepted", PLAIN)
        yield b""
        yield b"late"
        yield b"r"

    answer = make_site(WsgiApp(app)).fetch(get())
    assert (answer.status, answer.body) == (202, b"later")


@pytest.mark.parametrize("body", [[], [b"x"]])
def test_an_application_that_never_starts_is_500(
    make_site: MakeSite, body: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    watched = Body(body)
    site = make_site(WsgiApp(lambda environ, start_response: watched))
    assert site.fetch(get()).status == 500
    assert "did not call start_response" in caplog.text
    assert watched.closed == 1


def test_an_application_that_starts_twice_is_500(make_site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        start_response("200 OK", PLAIN)
        return [b"x"]

    assert make_site(WsgiApp(app)).fetch(get()).status == 500
    assert "twice" in caplog.text


def test_an_application_may_start_anew_for_its_error_page(make_site: MakeSite) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            start_response("503 Unavailable", [("X", "error")], sys.exc_info())
            return [b"error page"]

    answer = make_site(WsgiApp(app)).fetch(get())
    assert (answer.status, answer.headers["x"], answer.body) == (503, "error", b"error page")


def test_not_after_something_was_written(make_site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)(b"half a page")
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            start_response("503 Unavailable", PLAIN, sys.exc_info())
        return [b"error page"]

    assert make_site(WsgiApp(app)).fetch(get()).status == 500
    assert "RuntimeError: broken" in caplog.text


def test_bytes_above_ascii_come_as_latin_1(make_site: MakeSite) -> None:
    seen: list[dict[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", PLAIN)
        return []

    make_site(WsgiApp(app)).fetch(get("/", "Cookie: a=Zo\xc3\xab; b=1", "X: \x85"))
    assert seen[0]["HTTP_COOKIE"].encode("latin-1").decode() == "a=Zoë; b=1"
    assert seen[0]["HTTP_X"] == "\x85"


def test_values_may_be_latin_1(make_site: MakeSite) -> None:
    answer = make_site(WsgiApp(app_of("200 OK", [*PLAIN, ("X", "K\xf6ln")], [b"x"]))).fetch(get())
    assert answer.headers["x"] == "K\xf6ln"


@pytest.mark.parametrize("body", [[], iter(())])
def test_204_has_no_length(make_site: MakeSite, body: Iterable[bytes]) -> None:
    answer = make_site(WsgiApp(app_of("204 No Content", [("Content-Length", "0")], body))).fetch(get())
    assert answer.status == 204
    assert "content-length" not in answer.headers
    assert "content-type" not in answer.headers


def test_once_the_head_is_out_the_error_is_raised_again(make_site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        yield b"one"
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            start_response("503 Unavailable", PLAIN, sys.exc_info())
        yield b"never sent"

    site = make_site(WsgiApp(app))
    browser = site.browser()
    browser.send(get())
    browser.until(lambda: browser.reset)
    assert b"never sent" not in browser.received
    assert "RuntimeError: broken" in caplog.text


def test_what_is_written_goes_out_in_order(make_site: MakeSite) -> None:
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        write = start_response("200 OK", PLAIN)
        write(b"1")
        write(b"2")

        def rest() -> Iterator[bytes]:
            yield b"3"
            write(b"4")
            yield b"5"
            write(b"6")

        return rest()

    assert make_site(WsgiApp(app)).fetch(get()).body == b"123456"


def test_an_application_that_only_writes(make_site: MakeSite) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)(b"written")
        return []

    answer = make_site(WsgiApp(validator(app))).fetch(get())
    assert answer.body == b"written"


@pytest.mark.parametrize("late", [False, True])
def test_an_application_that_raises_is_500(make_site: MakeSite, late: bool, caplog: pytest.LogCaptureFixture) -> None:
    def pieces() -> Iterator[bytes]:
        raise RuntimeError("broken")
        yield b""

    body = Body(pieces())

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        if late:
            return body
        raise RuntimeError("broken")

    assert make_site(WsgiApp(app)).fetch(get()).status == 500
    assert "RuntimeError: broken" in caplog.text
    assert body.closed == late


# ---------------------------------------------------------------------- upgrades


def take_over(environ: Environ, observer: Observer) -> None:
    environ["gows.request"].connection.upgrade(b"HTTP/1.1 101 S\r\n\r\n", observer)


@pytest.mark.parametrize("late", [False, True])
def test_what_a_view_returns_after_an_upgrade_is_let_go(make_site: MakeSite, late: bool) -> None:
    observer = Upgraded()
    bodies: list[Body] = []

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        def pieces() -> Iterator[bytes]:
            if late:
                take_over(environ, observer)
            yield b"never sent"

        if not late:
            take_over(environ, observer)
        start_response("200 OK", PLAIN)
        bodies.append(Body(pieces()))
        return bodies[-1]

    site = make_site(WsgiApp(app))
    browser = site.browser()
    browser.send(get())
    assert browser.answer().status == 101
    browser.send(b"frames")
    site.world.run_until(lambda: observer.data == b"frames")
    assert browser.pump().received == b""
    assert bodies[0].closed == 1


def test_a_view_that_upgraded_need_not_start(make_site: MakeSite) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        take_over(environ, Upgraded())
        return []

    browser = make_site(WsgiApp(app)).browser()
    browser.send(get())
    assert browser.answer().status == 101
