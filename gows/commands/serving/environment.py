"""Environment: the file of --env-file."""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping

_line = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*=\s*(.*)").fullmatch
_quoted = re.compile(r"""(?:"((?:[^"\\]|\\.)*)"|'([^']*)')\s*(?:#.*)?""").fullmatch
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def parse(text: str) -> Iterator[tuple[str, str]]:
    """Yield the variables of a file: lines `NAME=value`, `NAME="a value"`, `NAME='as it stands'`, with `export` before
    them or not; empty lines, and comments behind "#". Nothing is replaced in a value. Raises ValueError that names the
    line."""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _line(stripped)
        if match is None:
            raise ValueError(f"line {number} is not NAME=value")
        name, value = match.groups()
        if value[:1] in ("'", '"'):
            quoted = _quoted(value)
            if quoted is None:
                raise ValueError(f"line {number} has a quotation mark without its end")
            double, single = quoted.groups()
            value = single if double is None else re.sub(r"\\(.)", lambda each: _ESCAPES.get(each[1], each[1]), double)
        else:
            value = re.sub(r"\s+#.*", "", value)
        yield name, value


def load(path: str, environ: MutableMapping[str, str]) -> None:
    """Set the variables of a file that are not set. Raises OSError, ValueError."""
    with open(path, encoding="utf-8") as file:
        for name, value in parse(file.read()):
            environ.setdefault(name, value)
