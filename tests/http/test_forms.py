from __future__ import annotations

import pytest

from gows.errors import HttpError
from gows.http.forms import MAX_FIELDS, UploadedFile, Values, parse_cookies, parse_multipart, parse_query


def test_values_keep_all_of_a_name_in_order() -> None:
    values = Values([("a", "1"), ("b", "2"), ("a", "3")])
    assert values["a"] == values.get("a") == "1"
    assert values.get_all("a") == ["1", "3"]
    assert values.get_all("c") == []
    assert values.get("c") is None
    assert values.get("c", "default") == "default"
    assert values.items() == [("a", "1"), ("a", "3"), ("b", "2")]
    assert list(values) == ["a", "b"]
    assert len(values) == 2
    assert "a" in values
    assert "c" not in values
    assert repr(values) == "Values([('a', '1'), ('a', '3'), ('b', '2')])"
    with pytest.raises(KeyError):
        values["c"]


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("", []),
        ("a=1&b=2", [("a", "1"), ("b", "2")]),
        ("a=1&a=2", [("a", "1"), ("a", "2")]),
        ("a", [("a", "")]),
        ("a=&=b", [("a", ""), ("", "b")]),
        ("a=x+y%20z%2B", [("a", "x y z+")]),
        ("na%C3%AFve=%E2%9C%93", [("naïve", "✓")]),
        ("a=%FF", [("a", "\ufffd")]),
        ("a=1;b=2", [("a", "1;b=2")]),
    ],
)
def test_parse_query(text: str, items: list[tuple[str, str]]) -> None:
    assert parse_query(text).items() == items


def test_too_many_fields_are_400() -> None:
    assert len(parse_query("&".join(f"a{n}" for n in range(MAX_FIELDS)))) == MAX_FIELDS
    with pytest.raises(HttpError, match="400"):
        parse_query("a&" * MAX_FIELDS + "a")


@pytest.mark.parametrize(
    ("text", "cookies"),
    [
        ("", {}),
        ("a=b", {"a": "b"}),
        ("a=b; c=d=e;f=", {"a": "b", "c": "d=e", "f": ""}),
        ('a="b c"; d="', {"a": "b c", "d": '"'}),
        ("a=1; a=2", {"a": "1"}),
        ("nonsense; a=b;;", {"a": "b"}),
    ],
)
def test_parse_cookies(text: str, cookies: dict[str, str]) -> None:
    assert parse_cookies(text) == cookies


TYPE = 'multipart/form-data; boundary="--x"'


def part(disposition: str, content: bytes, *more: str) -> bytes:
    head = "\r\n".join([f"Content-Disposition: {disposition}", *more])
    return b"----x\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n"


def test_a_multipart_form() -> None:
    content = bytes(range(256)) + b"\r\n--not the end\r\n\r\n"
    body = (
        b"preamble\r\n"
        + part('form-data; name="user"', "Zoë".encode())
        + part("form-data; name=empty", b"")
        + part('form-data; name="up"; filename="naïve.bin"', content, "Content-Type: image/png")
        + part('form-data; name="up"; filename=""', b"", "Content-Type: application/octet-stream")
        + b"----x--\r\nepilogue"
    )
    fields, files = parse_multipart(TYPE, body)
    assert fields.items() == [("user", "Zoë"), ("empty", "")]
    assert files.get_all("up") == [
        UploadedFile("naïve.bin", "image/png", content),
        UploadedFile("", "application/octet-stream", b""),
    ]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", part("form-data; name=a", b"b") + b"----x--"),
        ("multipart/form-data; boundary=", b"----"),
        ("multipart/form-data; boundary=" + "x" * 71, b""),
        (TYPE, b""),
        (TYPE, b"no boundary in it"),
        (TYPE, part("form-data; name=a", b"b")),
        (TYPE, part("form-data", b"b") + b"----x--"),
        (TYPE, b"----x\r\nContent-Disposition: form-data; name=a\r\n----x--"),
    ],
)
def test_a_malformed_multipart_form_is_400(content_type: str, body: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        parse_multipart(content_type, body)
    assert caught.value.status == 400


@pytest.mark.slow
def test_a_multipart_form_of_too_many_parts_is_400() -> None:
    one = part("form-data; name=a", b"")
    fields, _ = parse_multipart(TYPE, one * MAX_FIELDS + b"----x--")
    assert len(fields.get_all("a")) == MAX_FIELDS
    with pytest.raises(HttpError, match="400 more than 1000 fields"):
        parse_multipart(TYPE, one * (MAX_FIELDS + 1) + b"----x--")
