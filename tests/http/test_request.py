from __future__ import annotations

from typing import Any

import pytest

from gows.errors import HttpError
from gows.http.forms import UploadedFile
from gows.http.request import Request
from gows.http1.head import RequestParser
from tests.support.http_site import get


def request(wire: bytes) -> Request:
    parser = RequestParser()
    parser.feed(wire)
    assert parser.head is not None
    return Request(parser.head, parser.body)


def form(body: str, target: str = "/", content_type: str = "application/x-www-form-urlencoded") -> Request:
    return request(get(target, f"Content-Type: {content_type}", method="POST", body=body.encode("latin-1")))


def test_what_the_request_line_says() -> None:
    it = request(get("/caf%C3%A9/%2F?a=b%20c", method="PUT"))
    assert it.method == "PUT"
    assert it.path == "/café//"
    assert it.raw_path == "/caf%C3%A9/%2F"
    assert it.query_string == "a=b%20c"
    assert it.query["a"] == "b c"
    assert it.query is it.query
    assert it.path_params == {}
    assert it.headers["HOST"] == it.host == "example.com"
    assert repr(it) == "<Request PUT /caf%C3%A9/%2F>"


def test_a_path_is_decoded_once() -> None:
    assert request(get("/%2525")).path == "/%25"
    assert request(get("/%ff%zz")).path == "/\ufffd%zz"


def test_a_request_from_outside_a_server() -> None:
    it = request(b"GET / HTTP/1.0\r\n\r\n")
    assert (it.connection, it.remote_addr, it.scheme, it.host) == (None, None, "http", "")


def test_form_values_come_from_the_body_first() -> None:
    it = form("user=body&only=b", "/?user=query&q=1")
    assert it.form_value("user") == "body"
    assert it.form_value("only") == "b"
    assert it.form_value("q") == "1"
    assert it.form_value("none") == ""
    assert it.form_value("none", "x") == "x"
    assert it.form.get_all("user") == ["body"]
    assert it.query.get_all("user") == ["query"]
    assert len(it.files) == 0


def test_an_empty_value_in_the_body_still_comes_first() -> None:
    assert form("user=", "/?user=query").form_value("user", "x") == ""


def test_a_form_with_parameters_in_its_type() -> None:
    assert form("a=%E2%9C%93", content_type="Application/X-WWW-Form-urlencoded; charset=utf-8").form["a"] == "✓"


def test_a_form_with_files() -> None:
    body = "--x\r\nContent-Disposition: form-data; name=f; filename=a.txt\r\n\r\nhello\r\n--x--"
    it = form(body, content_type="multipart/form-data; boundary=x")
    assert it.files["f"] == UploadedFile("a.txt", "text/plain", b"hello")
    assert it.form is it.form
    assert len(it.form) == 0


def test_other_bodies_are_no_forms() -> None:
    it = form("a=b", content_type="text/plain")
    assert it.form_value("a") == ""
    assert request(get()).form_value("a") == ""


def test_a_malformed_form_is_400_when_it_is_looked_at() -> None:
    it = form("nonsense", content_type="multipart/form-data; boundary=x")
    with pytest.raises(HttpError, match="400"):
        it.form_value("a")


@pytest.mark.parametrize(("body", "value"), [(b'{"a": [1, "\xc3\xa4"]}', {"a": [1, "ä"]}), (b"null", None)])
def test_json(body: bytes, value: Any) -> None:
    assert request(get(method="POST", body=body)).json() == value


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_400(body: bytes) -> None:
    with pytest.raises(HttpError, match="400 the body is not JSON"):
        request(get(method="POST", body=body)).json()


def test_cookies() -> None:
    assert request(get("/", "Cookie: a=1; b=2", "Cookie: c=3")).cookies == {"a": "1", "b": "2", "c": "3"}
    assert request(get()).cookies == {}


def test_a_cookie_of_another_application_does_not_break_ours() -> None:
    it = request(get("/", "Cookie: theirs=Zo\xc3\xab; odd=\xa0\x85; ours=1"))
    assert it.cookies == {"theirs": "Zo\xc3\xab", "odd": "\xa0\x85", "ours": "1"}
