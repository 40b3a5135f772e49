from __future__ import annotations

import pytest

from gows.errors import InvalidHeaderError
from gows.http1.headers import Headers, check_field, header_pairs, is_token

ONCE = Headers([("Host", " a "), ("Connection", "keep-alive,\tUpgrade ")])
TWICE = Headers([("Accept", "a"), ("X", "1"), ("accept", " b")])


def test_get_takes_any_case_and_strips_the_white_space_around_a_value() -> None:
    assert ONCE.get("host") == ONCE.get("HOST") == ONCE["Host"] == "a"
    assert ONCE.get("none") is None
    assert ONCE.get("none", "x") == "x"
    assert "HOST" in ONCE
    assert "none" not in ONCE
    assert 1 not in ONCE
    with pytest.raises(KeyError):
        ONCE["none"]


def test_a_repeated_name_keeps_its_order() -> None:
    assert TWICE.repeated
    assert not ONCE.repeated
    assert TWICE.get("accept") == "a"
    assert TWICE.get_all("Accept") == ["a", "b"]
    assert TWICE.joined("accept") == "a, b"
    assert TWICE.joined("none") is None
    assert TWICE.items() == [("Accept", "a"), ("X", "1"), ("accept", "b")]
    assert list(TWICE) == ["accept", "x"]
    assert len(TWICE) == 3


def test_get_all_and_joined_of_single_names() -> None:
    assert ONCE.get_all("HOST") == ["a"]
    assert ONCE.get_all("none") == []
    assert ONCE.joined("Host") == "a"
    assert repr(ONCE) == "Headers([('Host', 'a'), ('Connection', 'keep-alive,\\tUpgrade')])"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("upgrade", True),
        ("Upgrade", True),
        ("keep-alive, Upgrade", True),
        ("a,\tupgrade\t,b", True),
        ("upgraded", False),
        ("not upgrade", False),
        ("", False),
    ],
)
def test_has_token_looks_at_whole_elements(value: str, found: bool) -> None:
    assert Headers([("Connection", value)]).has_token("connection", "upgrade") is found


def test_has_token_looks_at_all_fields_of_the_name() -> None:
    headers = Headers([("Connection", "a"), ("connection", "Upgrade")])
    assert headers.has_token("connection", "upgrade")
    assert not headers.has_token("none", "upgrade")


@pytest.mark.parametrize("name", ["", "a b", "a:", "ä", "a\r\n", "a\n", "(a)", 1, None])
def test_a_name_that_is_no_token_may_not_be_sent(name: str) -> None:
    with pytest.raises(InvalidHeaderError):
        check_field(name, "x")


@pytest.mark.parametrize(
    "value", ["a\r\nX: y", "a\r", "a\n", "a\0", "\x7f", "\x0b", "\x1c", "\x85", "ä", "\u2028", b"x", 1, None]
)
def test_a_value_that_is_not_printable_ascii_may_not_be_sent(value: str) -> None:
    with pytest.raises(InvalidHeaderError):
        check_field("X", value)


def test_header_pairs_takes_a_mapping_or_pairs() -> None:
    assert header_pairs({"A": "b"}) == [("A", "b")]
    assert header_pairs([("A", "b\tc"), ("A", "")]) == [("A", "b\tc"), ("A", "")]


@pytest.mark.parametrize("headers", ["ab", [("a",)], [["a", "b"]], [("a", "b", "c")], ["ab"]])
def test_header_pairs_refuses_what_are_no_pairs(headers: object) -> None:
    with pytest.raises(InvalidHeaderError):
        header_pairs(headers)  # type: ignore[arg-type]


def test_is_token() -> None:
    assert is_token("graphql-ws.v1+x!")
    assert not is_token("")
    assert not is_token("a,b")
    assert not is_token("a\n")
