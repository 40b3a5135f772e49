"""The fields of an answer that somebody gives as bytes, as ASGI does: checked, and without those that are ours."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gows.errors import InvalidHeaderError
from gows.http1.headers import TOKEN

_is_token = re.compile(TOKEN.encode()).fullmatch
_is_block = re.compile(rb"(?:[\t -~\x80-\xff]*\r\n)*").fullmatch  # unambiguous, so linear
_is_value = re.compile(rb"[\t -~\x80-\xff]*").fullmatch
_is_number = re.compile(rb"[0-9]{1,18}").fullmatch

# The framing and the life of the connection are the server's (RFC 9112 §6, §9; RFC 9110 §7.8).
_OURS = frozenset({b"connection", b"content-length", b"keep-alive", b"transfer-encoding", b"upgrade"})

_names: dict[bytes, bytes] = {}  # that were found to be tokens, to their lower case
MAX_NAMES = 1024
"""So many names are remembered: programs use the same few."""

Fields = Iterable[tuple[bytes, bytes]]


class AnswerFields:
    """What `headers` say. `block`: the lines to send. `length`: their Content-Length, or None. `close`: whether they
    say `Connection: close`. `date`: whether they have a Date of their own."""

    __slots__ = ("block", "close", "date", "length")

    def __init__(self, headers: Fields) -> None:
        """Read and check the pairs. Raises InvalidHeaderError for what may not be sent."""
        self.length: int | None = None
        self.close = False
        self.date = False
        parts: list[bytes] = []
        try:
            for name, value in headers:
                lower = _names.get(name) or _check_name(name)
                if lower in _OURS:
                    self._note(lower, value)
                else:
                    if lower == b"date":
                        self.date = True
                    parts += name, b": ", value, b"\r\n"
            self.block = _join(parts)
        except (TypeError, ValueError) as error:
            if isinstance(error, InvalidHeaderError):
                raise
            raise InvalidHeaderError(f"headers must be (name, value) pairs of bytes: {error}") from None

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            if _is_number(value) is None or self.length is not None:
                raise InvalidHeaderError(f"Content-Length must be given once, and be a number of bytes, not {value!r}")
            self.length = int(value)
        elif name == b"connection" and b"close" in [token.strip() for token in value.lower().split(b",")]:
            self.close = True


def field_block(headers: Fields) -> bytes:
    """Return the lines of fields that come before or behind an answer. Raises InvalidHeaderError for those that may not
    be sent, or are the server's."""
    fields = AnswerFields(headers)
    if fields.length is not None:
        raise InvalidHeaderError("Content-Length belongs into the head of the answer")
    return fields.block


def _join(parts: list[bytes]) -> bytes:
    block = b"".join(parts)
    if _is_block(block) is None or block.count(b"\n") != len(parts) // 4:
        for name, value in zip(parts[::4], parts[2::4], strict=True):
            if _is_value(value) is None:
                raise InvalidHeaderError(f"the value of {name!r} has a control byte in it: {value!r}")
    return block


def _check_name(name: bytes) -> bytes:
    """Return a name in lower case. Raises InvalidHeaderError for what is none."""
    if not isinstance(name, bytes) or _is_token(name) is None:
        raise InvalidHeaderError(f"{name!r} is no header name: it must be bytes, a token (RFC 9110 §5.1)")
    lower = name.lower()
    if len(_names) < MAX_NAMES:
        _names[name] = lower
    return lower
