from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from gows.errors import HttpError, InvalidHeaderError
from gows.http import response as module
from gows.http.response import Response, as_response, error_response, http_date
from gows.http1 import dates


def wire(response: Response) -> list[str]:
    return response.head_bytes(keep_alive=True, chunked=False).decode().split("\r\n")


@pytest.mark.parametrize(
    ("response", "status", "content_type", "body"),
    [
        (Response.html("<p>é"), 200, "text/html; charset=utf-8", "<p>é".encode()),
        (Response.text("é", 404), 404, "text/plain; charset=utf-8", "é".encode()),
        (Response.json({"é": 1}, 201), 201, "application/json", '{"é":1}'.encode()),
        (Response("x"), 200, "text/html; charset=utf-8", b"x"),
        (Response(b"x"), 200, "application/octet-stream", b"x"),
        (Response(memoryview(b"x"), content_type="image/png"), 200, "image/png", b"x"),
        (Response("x", headers={"content-type": "text/x"}), 200, "text/x", b"x"),
    ],
)
def test_what_is_answered(response: Response, status: int, content_type: str, body: bytes) -> None:
    assert (response.status, response.body) == (status, body)
    assert [value for name, value in response.headers if name.lower() == "content-type"] == [content_type]


def test_an_empty_answer_has_no_type() -> None:
    assert Response().headers == ()
    assert Response(iter([]), 204).headers == ()


def test_the_head_on_the_wire() -> None:
    lines = wire(Response("hello", headers=[("Set-Cookie", "a=b"), ("Set-Cookie", "c=d")]))
    assert lines[0] == "HTTP/1.1 200 OK"
    assert lines[1].startswith("Date: ")
    assert lines[2:] == [
        "Set-Cookie: a=b",
        "Set-Cookie: c=d",
        "Content-Type: text/html; charset=utf-8",
        "Content-Length: 5",
        "",
        "",
    ]


def test_the_head_of_a_status_without_a_phrase() -> None:
    assert wire(Response(status=299))[0] == "HTTP/1.1 299 "


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body_have_no_length(status: int) -> None:
    assert not any(line.startswith("Content-Length") for line in wire(Response(status=status)))


def test_redirects() -> None:
    response = Response.redirect("/there", 308)
    assert response.status == 308
    assert response.headers == (("Location", "/there"),)
    assert Response.redirect("/there").status == 303
    for status in (200, 300, 304):
        with pytest.raises(ValueError, match="no redirect"):
            Response.redirect("/there", status)


@pytest.mark.parametrize(
    ("location", "sent"),
    [
        ("/café/", "/caf%C3%A9/"),
        ("/a b?c=d e&f=%20#g", "/a%20b?c=d%20e&f=%20#g"),
        ('/"<>\\^`{|}', "/%22%3C%3E%5C%5E%60%7B%7C%7D"),
        ("/a\r\nSet-Cookie: b=c", "/a%0D%0ASet-Cookie:%20b=c"),
        ("/\0\x7f\x85", "/%00%7F%C2%85"),
        ("/\ud800", "/%ED%A0%80"),
        ("http://[::1]:80/a;b=c,d?e=f+g&h=i/j~k", "http://[::1]:80/a;b=c,d?e=f+g&h=i/j~k"),
        ("https://bücher.example:8443/ü?ö", "https://xn--bcher-kva.example:8443/%C3%BC?%C3%B6"),
        ("//user@bücher.example", "//user@xn--bcher-kva.example"),
        ("http://" + "ü" * 200 + "/", "http://" + "%C3%BC" * 200 + "/"),
        ("http://" + "ü" * 300, "http://" + "%C3%BC" * 300),
        ("/http://ü/", "/http://%C3%BC/"),
        ("ü://ü", "%C3%BC://%C3%BC"),
        ("", ""),
    ],
)
def test_where_a_redirect_leads_is_a_uri(location: str, sent: str) -> None:
    assert dict(Response.redirect(location).headers)["Location"] == sent


def test_a_header_that_could_split_the_answer_is_not_made() -> None:
    for value in ("a\r\nb: c", "a\n", "a\0", "a\x7f", "ä"):
        with pytest.raises(InvalidHeaderError):
            Response(headers={"Location": value})


@pytest.mark.parametrize("status", [0, 99, 100, 101, 1000, -1])
def test_what_is_no_final_status_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match="no final HTTP status"):
        Response(status=status)


BAD_HEADERS: list[tuple[Any, Any]] = [
    ("X", "a\r\nb"),
    ("X", "ä"),
    ("X y", "a"),
    ("X", 1),
    ("Content-Length", "5"),
    ("content-length", "5"),
    ("Transfer-Encoding", "chunked"),
    ("Connection", "close"),
    ("Keep-Alive", "5"),
    ("Upgrade", "h2c"),
    ("Trailer", "X"),
    ("Date", "today"),
]


@pytest.mark.parametrize(("name", "value"), BAD_HEADERS)
@pytest.mark.parametrize(
    "give",
    [
        lambda name, value: Response("", headers={name: value}),
        lambda name, value: Response("", headers=[(name, value)]),
        lambda name, value: Response("").add_header(name, value),
    ],
)
def test_headers_that_may_not_be_given(give: Callable[[Any, Any], None], name: Any, value: Any) -> None:
    with pytest.raises(InvalidHeaderError):
        give(name, value)


def test_a_content_type_that_could_split_the_answer_is_refused() -> None:
    with pytest.raises(InvalidHeaderError):
        Response("", content_type="a\r\nb")


def test_as_response_takes_a_response_as_it_is() -> None:
    response = Response()
    assert as_response(response) is response
    assert as_response("x").body == as_response(b"x").body == b"x"
    for result in (None, 1, (b"x",), object()):
        with pytest.raises(TypeError):
            as_response(result)


def test_error_response() -> None:
    response = error_response(HttpError(405, "no", [("Allow", "GET")]))
    assert (response.status, response.body) == (405, b"no\n")
    assert response.headers == (("Allow", "GET"), ("Content-Type", "text/plain; charset=utf-8"))


def test_the_date_is_made_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 784111777.2
    made: list[int] = []

    def format_date(seconds: float) -> str:
        made.append(int(seconds))
        return original(seconds)

    original = dates.format_date
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(module, "format_date", format_date)
    monkeypatch.setattr(module, "_date", (0, ""))
    assert http_date() == http_date() == "Sun, 06 Nov 1994 08:49:37 GMT"  # RFC 9110 §5.6.7
    now += 1
    assert http_date() == "Sun, 06 Nov 1994 08:49:38 GMT"
    assert made == [784111777, 784111778]


def test_closing_twice_is_harmless() -> None:
    response = Response(iter([b"x"]))
    response.close()
    response.close()
