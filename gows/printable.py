"""What others said, as it may stand in a log or on a terminal: on one line, and nothing in it that acts."""

from __future__ import annotations

import re
import unicodedata

_userinfo = re.compile(r"//[^/]*@").sub
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    """Return `text` on one line. What is not to be seen is written out: control characters, which may move the cursor
    or begin a line of their own, those that turn the direction of the text around, and halves of surrogate pairs."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":  # a space of some width
        return character
    code = ord(character)
    width = 2 if code < 0x100 else 4 if code < 0x10000 else 8
    return _SHORT.get(character) or f"\\{'x' if width == 2 else 'u' if width == 4 else 'U'}{code:0{width}x}"


def show_address(address: object) -> str:
    """Return a peer's address as people write it: `host:port`, `[::1]:port`, `unix:/path`; `-` if there is none."""
    if isinstance(address, tuple):
        host, port = address[:2]
        name = f"[{host}]" if ":" in str(host) else str(host)
        return printable(f"{name}:{port}" if port else name)  # a proxy may not tell the port
    if address is None:
        return "-"
    return f"unix:{_unquoted(str(address))}" if address else "unix"


def show_path(path: str) -> str:
    """Return the path of a request, without the query, in which secrets travel; quotes are written out."""
    return _unquoted(path.partition("?")[0])


def show_url(url: str) -> str:
    """Return a URL without what may be a secret in it: the password, and the values of the query."""
    start, mark, query = url.partition("?")
    start = _userinfo("//***@", start, 1)
    return f"{start}?{'&'.join(map(_masked, query.split('&')))}" if mark else start


def _masked(field: str) -> str:
    name, equals, _ = field.partition("=")
    return f"{name}=***" if equals else "***"


def _unquoted(text: str) -> str:
    return printable(text).replace('"', "\\x22")
