from __future__ import annotations

import pytest

from gows.errors import HandshakeError
from gows.protocol.extensions import ExtensionOffer, format_extension, parse_extensions


@pytest.mark.parametrize(
    ("header", "offers"),
    [
        ("foo", [("foo", [])]),
        ("  foo\t", [("foo", [])]),
        ("foo,bar", [("foo", []), ("bar", [])]),
        ("foo ; a ; b=1 , bar;c=x", [("foo", [("a", None), ("b", "1")]), ("bar", [("c", "x")])]),
        ('foo;a="b"', [("foo", [("a", "b")])]),
        ('foo;a="b\\c\\1" ;d', [("foo", [("a", "bc1"), ("d", None)])]),
        ("foo; a = b", [("foo", [("a", "b")])]),
        ("foo;a=1;a=2", [("foo", [("a", "1"), ("a", "2")])]),
        (", ,foo,, bar ,", [("foo", []), ("bar", [])]),
        ("", []),
        (" , ", []),
        ("x-webkit-deflate-frame", [("x-webkit-deflate-frame", [])]),
        ("!#$%&'*+-.^_`|~09AZaz", [("!#$%&'*+-.^_`|~09AZaz", [])]),
    ],
)
def test_reads(header: str, offers: list[tuple[str, list[tuple[str, str | None]]]]) -> None:
    assert parse_extensions(header) == offers


@pytest.mark.parametrize(
    "header",
    [
        "foo bar",
        "foo;",
        "foo; ;a",
        ";a",
        "foo;a=",
        "foo;a=,bar",
        "foo;=b",
        "foo=b",
        'foo;a="',
        'foo;a=""',
        'foo;a="b',
        'foo;a="b c"',
        'foo;a="b,c"',
        'foo;a="b"c',
        'foo;a="b\\"',
        'foo;a="é"',
        'foo"',
        '"foo"',
        "foo;a=b=c",
        "foo/bar",
        "föö",
        "foo\x00",
        "foo\r\nbar",
        "foo\x0b",
        "foo;\x85a",
    ],
)
def test_refuses_garbage(header: str) -> None:
    with pytest.raises(HandshakeError, match="malformed Sec-WebSocket-Extensions") as caught:
        parse_extensions(header)
    assert caught.value.status == 400
    assert caught.value.reason.isascii()


@pytest.mark.parametrize(
    "header",
    [
        "a" * 16384 + '"',
        'a;b="' + "\\a" * 8000,
        'a;b="' + "c" * 16000,
        "a" + ";b" * 8000 + "?",
        " \t" * 8000 + "?",
        "," * 16000 + "?",
        "a" + " " * 16000 + "b",
        ('a;b="c",' * 2000) + '"',
    ],
)
def test_a_long_header_costs_its_length(header: str) -> None:
    """CVE-2021-32640, CVE-2023-43669: one that goes back would not end within the test's time limit."""
    with pytest.raises(HandshakeError):
        parse_extensions(header)


def test_offers_share_nothing() -> None:
    first, second = parse_extensions("foo;a, foo;a")
    first.params.append(("b", None))
    assert second.params == [("a", None)]


def test_format_is_read_back() -> None:
    params = [("a", None), ("b", 12), ("c", "x")]
    assert format_extension("foo", params) == "foo; a; b=12; c=x"
    assert parse_extensions(format_extension("foo", params)) == [
        ExtensionOffer("foo", [("a", None), ("b", "12"), ("c", "x")])
    ]
