"""Header fields (RFC 9110 §5): the ordered multi-map of what came in, and the check of what may go out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from gows.errors import InvalidHeaderError

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
"""RFC 9110 §5.6.2, as a regular expression."""

HeaderSource = Mapping[str, str] | Iterable[tuple[str, str]]
"""What users may give as headers: a mapping, or pairs when a name comes twice."""

_is_token = re.compile(TOKEN).fullmatch
_unescape = re.compile(r'\\(["\\])').sub
_is_value = re.compile(r"[\t -~]*").fullmatch
_is_latin_1_value = re.compile(r"[\t -~\x80-\xff]*").fullmatch  # obs-text of RFC 9110 §5.5


class Headers:
    """Received fields: ordered, case-insensitive, a name may repeat. Read-only; may be shared between threads."""

    __slots__ = ("_fields", "first", "repeated")

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        """`fields` as they stood on the wire; white space around a value is not part of it (RFC 9110 §5.5).

        `first` has the first value of each name, in lower case; `repeated` tells whether some name came twice.
        """
        self._fields = fields
        self.first = {name.lower(): value.strip(" \t") for name, value in fields}
        self.repeated = len(self.first) != len(fields)
        if self.repeated:
            self.first = {name.lower(): value.strip(" \t") for name, value in reversed(fields)}

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of `name`, or `default`."""
        return self.first.get(name.lower(), default)

    def get_all(self, name: str) -> list[str]:
        """Return all values of `name`, in the order they came."""
        wanted = name.lower()
        if not self.repeated:
            value = self.first.get(wanted)
            return [] if value is None else [value]
        return [value.strip(" \t") for key, value in self._fields if key.lower() == wanted]

    def joined(self, name: str) -> str | None:
        """Return all values of `name` as one comma-separated list (RFC 9110 §5.3), None when there is none."""
        if not self.repeated:
            return self.first.get(name.lower())
        values = self.get_all(name)
        return ", ".join(values) if values else None

    def has_token(self, name: str, token: str) -> bool:
        """Return whether the list `name` has the element `token` (lower case; compared without case)."""
        value = self.joined(name)
        if value is None:
            return False
        value = value.lower()
        if value == token or token not in value:
            return value == token
        return token in [element.strip(" \t") for element in value.split(",")]

    def items(self) -> list[tuple[str, str]]:
        """Return the (name, value) pairs in the order and case they came."""
        return [(name, value.strip(" \t")) for name, value in self._fields]

    def __getitem__(self, name: str) -> str:
        return self.first[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self.first

    def __iter__(self) -> Iterator[str]:
        """Return the names in lower case, each once."""
        return iter(dict.fromkeys(name.lower() for name, _ in self._fields))

    def __len__(self) -> int:
        """Return how many fields came; a repeated name counts each time."""
        return len(self._fields)

    def __repr__(self) -> str:
        return f"Headers({self.items()!r})"


_parameter = re.compile(
    rf"""
    [ \t]*(?:
        (?P<name>{TOKEN})[ \t]*=[ \t]*
        (?: "(?P<quoted>(?:[^"\\]|\\.)*)"[ \t]* | (?P<plain>[^";]*) )
    )?
    (?P<end>;|\Z)
    """,
    re.VERBOSE | re.DOTALL,
).match  # unambiguous, so linear


def parse_parameters(value: str) -> tuple[str, dict[str, str] | None]:
    """Return what a value says before its parameters, and those by their names in lower case: `text/plain; charset=x`
    (RFC 9110 §5.6.6).

    None instead of the parameters: they are malformed, or one comes twice. A value may be quoted, where only `\\"` and
    `\\\\` are escapes, for browsers send paths of Windows as they are; one that is not quoted may be anything.
    """
    main, semicolon, rest = value.partition(";")
    main = main.strip(" \t")
    parameters: dict[str, str] = {}
    at = 0
    while semicolon:
        found = _parameter(rest, at)
        if found is None:
            return main, None
        at, semicolon = found.end(), found["end"]
        if found["name"] is None:
            continue
        name = found["name"].lower()
        if name in parameters:
            return main, None
        quoted = found["quoted"]
        parameters[name] = found["plain"].strip(" \t") if quoted is None else _unescape(r"\1", quoted)
    return main, parameters


def is_token(text: str) -> bool:
    """Return whether `text` is a token (RFC 9110 §5.6.2)."""
    return _is_token(text) is not None


def check_field(name: str, value: str, *, latin_1: bool = False) -> None:
    """Raise InvalidHeaderError unless `name: value` may be sent: a token, and printable ASCII (or tabs; with `latin_1`
    the upper half of that set too)."""
    if not isinstance(name, str) or _is_token(name) is None:
        raise InvalidHeaderError(f"{name!r} is no header name (RFC 9110 §5.1)")
    if not isinstance(value, str) or (_is_latin_1_value if latin_1 else _is_value)(value) is None:
        raise InvalidHeaderError(f"the value of {name} must be a str of printable ASCII characters, not {value!r}")


def header_pairs(headers: HeaderSource, *, latin_1: bool = False) -> list[tuple[str, str]]:
    """Return `headers` as a list of pairs, each checked; raises InvalidHeaderError."""
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise InvalidHeaderError(f"headers must be (name, value) pairs, not {pair!r}")
        check_field(pair[0], pair[1], latin_1=latin_1)
    return pairs
