"""Reading Sec-WebSocket-Extensions (RFC 6455 §9.1), in requests and in answers.

    extension-list  = 1#extension
    extension       = token *( ";" param )
    param           = token [ "=" ( token | quoted-string ) ]

A quoted value must be a token once unquoted (§9.1). The scanner looks at each character once: it matches a token or a
separator at a position and moves on, so no header makes it go back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from gows.errors import HandshakeError

_TCHAR = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"  # RFC 9110 §5.6.2
_TOKEN = re.compile(_TCHAR + "+")
_QUOTED_TOKEN = re.compile(rf'"((?:\\?{_TCHAR})+)"')
_SPACE = re.compile(r"[ \t]*")


class ExtensionOffer(NamedTuple):
    """One extension of the header: its name and its parameters in order; a parameter without "=" has the value None."""

    name: str
    params: list[tuple[str, str | None]]


def parse_extensions(header_value: str) -> list[ExtensionOffer]:
    """Return the extensions of a Sec-WebSocket-Extensions value, in order; several header lines are joined with ", "
    before.

    Empty list elements are skipped (RFC 9110 §5.6.1.2). Raises HandshakeError (400) for what is not of the grammar.
    """
    offers: list[ExtensionOffer] = []
    end = len(header_value)
    pos = _skip_space(header_value, 0)
    while pos < end:
        if header_value[pos] == ",":
            pos = _skip_space(header_value, pos + 1)
            continue
        name, pos = _token(header_value, pos)
        params: list[tuple[str, str | None]] = []
        while pos < end and header_value[pos] == ";":
            param, pos = _param(header_value, _skip_space(header_value, pos + 1))
            params.append(param)
        if pos < end and header_value[pos] != ",":
            raise _malformed(header_value, pos)
        offers.append(ExtensionOffer(name, params))
    return offers


def format_extension(name: str, params: Iterable[tuple[str, str | int | None]]) -> str:
    """Return one extension as it stands in the header; every value must be a token."""
    return "; ".join([name, *(key if value is None else f"{key}={value}" for key, value in params)])


def _param(text: str, pos: int) -> tuple[tuple[str, str | None], int]:
    name, pos = _token(text, pos)
    if pos == len(text) or text[pos] != "=":
        return (name, None), pos
    pos = _skip_space(text, pos + 1)
    quoted = _QUOTED_TOKEN.match(text, pos)
    if quoted is not None:
        return (name, quoted[1].replace("\\", "")), _skip_space(text, quoted.end())
    value, pos = _token(text, pos)
    return (name, value), pos


def _token(text: str, pos: int) -> tuple[str, int]:
    found = _TOKEN.match(text, pos)
    if found is None:
        raise _malformed(text, pos)
    return found[0], _skip_space(text, found.end())


def _skip_space(text: str, pos: int) -> int:
    found = _SPACE.match(text, pos)
    assert found is not None  # it matches the empty string too
    return found.end()


def _malformed(text: str, pos: int) -> HandshakeError:
    what = f"{text[pos]!a} at {pos}" if pos < len(text) else "its end"
    return HandshakeError(400, f"malformed Sec-WebSocket-Extensions: unexpected {what}")
