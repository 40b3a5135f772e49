"""The Cookie field."""

from __future__ import annotations

from typing import Any

import pytest

from gows.client.cookies import cookie_field
from gows.errors import InvalidHeaderError


def test_cookies_stand_in_one_field() -> None:
    assert cookie_field({}) == ""
    assert cookie_field({"a": "1"}) == "a=1"
    assert cookie_field({"session": "x+/=", "b": '"quoted"', "empty": ""}) == 'session=x+/=; b="quoted"; empty='


@pytest.mark.parametrize("value", ["a;b", "a b", "a,b", 'a"b', '"a', "a\\b", "a\r\nX: y", "ä", "\x7f", None, 5])
def test_a_value_that_may_not_be_sent(value: Any) -> None:
    with pytest.raises(InvalidHeaderError, match="the value of the cookie secret has a character"):
        cookie_field({"secret": value})


@pytest.mark.parametrize("name", ["", "a=b", "a b", "a;b", "a\r\n", None])
def test_a_name_that_may_not_be_sent(name: Any) -> None:
    with pytest.raises(InvalidHeaderError, match="is no name of a cookie"):
        cookie_field({name: "1"})


def test_what_is_no_mapping() -> None:
    cookies: Any = "a=1"
    with pytest.raises(TypeError, match="cookies must be a mapping, not str"):
        cookie_field(cookies)
