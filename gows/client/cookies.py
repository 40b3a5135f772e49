"""The Cookie field of a request (RFC 6265 §4.2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from gows.errors import InvalidHeaderError
from gows.http1.headers import is_token

Cookies = Mapping[str, str] | Callable[[], Mapping[str, str]]

_OCTETS = r"[!#-+\--:<-\[\]-~]*"
_is_value = re.compile(rf'{_OCTETS}|"{_OCTETS}"').fullmatch


def cookie_field(cookies: Mapping[str, str]) -> str:
    """Return the field's value. Raises InvalidHeaderError for a name that is no token, and a value with white space, a
    quote within, a comma, a semicolon or a backslash: encode it. Raises TypeError for what is no mapping."""
    if not isinstance(cookies, Mapping):
        raise TypeError(f"cookies must be a mapping, not {type(cookies).__name__}")
    for name, value in cookies.items():
        if not isinstance(name, str) or not is_token(name):
            raise InvalidHeaderError(f"{name!r} is no name of a cookie (RFC 6265 §4.1.1)")
        if not isinstance(value, str) or _is_value(value) is None:
            raise InvalidHeaderError(f"the value of the cookie {name} has a character that may not be sent; encode it")
    return "; ".join(f"{name}={value}" for name, value in cookies.items())
