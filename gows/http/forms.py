"""Query strings, form bodies and cookies, as the browser sends them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar
from urllib.parse import parse_qsl

from gows.errors import HttpError
from gows.http.files import out_of_descriptors, unavailable
from gows.http.multipart import UploadedFile, read_multipart

MAX_FIELDS = 1000
"""Fields in one query string or urlencoded form; more are answered with 400."""

V = TypeVar("V")
D = TypeVar("D")


class Values(Generic[V]):
    """Named values in the order they came; a name may repeat. Read-only."""

    __slots__ = ("_values",)

    def __init__(self, pairs: list[tuple[str, V]]) -> None:
        values: dict[str, list[V]] = {}
        for name, value in pairs:
            values.setdefault(name, []).append(value)
        self._values = values

    def get(self, name: str, default: D = None) -> V | D:  # type: ignore[assignment]
        """Return the first value of `name`, or `default`."""
        found = self._values.get(name)
        return default if found is None else found[0]

    def get_all(self, name: str) -> list[V]:
        """Return all values of `name`, in order."""
        return list(self._values.get(name, ()))

    def items(self) -> list[tuple[str, V]]:
        """Return all (name, value) pairs, those of one name together."""
        return [(name, value) for name, values in self._values.items() for value in values]

    def __getitem__(self, name: str) -> V:
        return self._values[name][0]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Values({self.items()!r})"


def parse_query(text: str) -> Values[str]:
    """Parse a query string or a urlencoded body; bytes that are not UTF-8 become U+FFFD. Raises HttpError (400)."""
    if not text:
        return Values([])
    try:
        return Values(parse_qsl(text, keep_blank_values=True, errors="replace", max_num_fields=MAX_FIELDS))
    except ValueError:
        raise HttpError(400, f"more than {MAX_FIELDS} fields") from None


def parse_cookies(text: str) -> dict[str, str]:
    """Parse a Cookie header (RFC 6265 §5.4). The first of a name counts: browsers send the more specific one first."""
    cookies: dict[str, str] = {}
    for pair in text.split(";"):
        name, equals, value = pair.partition("=")
        name = name.strip(" \t")
        if equals and name not in cookies:
            value = value.strip(" \t")
            if len(value) > 1 and value[0] == value[-1] == '"':
                value = value[1:-1]
            cookies[name] = value
    return cookies


def parse_multipart(content_type: str, body: bytes) -> tuple[Values[str], Values[UploadedFile]]:
    """Parse a multipart/form-data body (RFC 7578): its fields and its files, which the caller closes.

    Raises HttpError: 400, or 503 when descriptors are used up; OSError when a file cannot be put on disk for another
    reason."""
    try:
        fields, files = read_multipart(content_type, body)
    except OSError as error:
        if out_of_descriptors(error):
            raise unavailable() from None
        raise
    return Values(fields), Values(files)


__all__ = ["UploadedFile", "Values", "parse_cookies", "parse_multipart", "parse_query"]
