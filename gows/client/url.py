"""WebSocket URLs (RFC 6455 §3): where to connect, and what to ask for there.

Beside ws:// and wss:// there are ws+unix:// and wss+unix:// for Unix-domain sockets:
`ws+unix:///run/app.sock:/chat?room=1` is the path of the socket, a colon, and the target of the request. A colon in
the socket's own path is written %3A.
"""

from __future__ import annotations

import re
import sys
from base64 import b64encode
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import quote, unquote_to_bytes, urlsplit

from gows.printable import show_url
from gows.reactor.address import Address, ascii_host

DEFAULT_PORTS = {"ws": 80, "wss": 443}

LONGEST_LABEL = 63
LONGEST_NAME = 253
"""Characters of a host name, and between its dots (RFC 1035 §2.3.4, without the length bytes)."""
LONGEST_PATH = 107 if sys.platform == "linux" else 103
"""Bytes of the path of a Unix-domain socket (unix(7): sun_path, with a zero at its end)."""

_SCHEMES = ("ws", "wss", "ws+unix", "wss+unix")
_AS_IT_IS = "".join(map(chr, range(0x21, 0x7F)))  # non-ASCII alone is percent-encoded; what is encoded already stays so
_is_name = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_.])?").fullmatch
_has_gap = re.compile(r"[\x00-\x20\x7f]").search
_bad_escape = re.compile(r"%(?![0-9A-Fa-f]{2})").search


@dataclass(frozen=True)
class WebSocketUrl:
    """What a URL says."""

    secure: bool
    """TLS."""
    address: Address
    """Where to connect."""
    host: str
    """The Host field; the port is left out when it is the scheme's own (RFC 6455 §4.1)."""
    server_hostname: str
    """The name that the certificate must carry."""
    target: str
    """Path and query, percent-encoded."""
    authorization: str | None
    """The Authorization field (Basic, RFC 7617) that follows from `user:password@`."""


def parse_url(url: str) -> WebSocketUrl:
    """Read a WebSocket URL. Raises ValueError, saying what is wrong; TypeError when it is no str."""
    if not isinstance(url, str):
        raise TypeError(f"the URL must be a str, not {type(url).__name__}")
    shown = show_url(url)
    if _has_gap(url):  # urlsplit would silently drop some of these
        raise ValueError(f"{shown!r} holds white space or a control character; percent-encode it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        if "@" in url:  # a password with a slash ends the host for everybody else, and would stand here in part
            raise ValueError("the URL cannot be read; percent-encode the user name and the password in it") from None
        raise ValueError(f"{shown!r} is no URL: {error}") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"{shown!r} must begin with ws://, wss://, ws+unix:// or wss+unix://")
    if "#" in url:
        raise ValueError(f"{shown!r} has a fragment, which a WebSocket URL must not have (RFC 6455 §3)")
    if _bad_escape(url):
        raise ValueError(f"{shown!r} has a % that is not followed by two hexadecimal digits")
    secure = parts.scheme.startswith("wss")
    if parts.scheme.endswith("+unix"):
        if parts.netloc:
            raise ValueError(f"{shown!r} must have three slashes: {parts.scheme}:///path/to/socket:/target")
        path, _, target = parts.path.partition(":")
        if path in ("", "/"):
            raise ValueError(f"{shown!r} names no socket: {parts.scheme}:///path/to/socket:/target")
        file = unquote_to_bytes(path)
        if b"\0" in file or len(file) > LONGEST_PATH:
            raise ValueError(
                f"{shown!r} has a socket's path that cannot be: at most {LONGEST_PATH} bytes, none of them 0"
            )
        address = Address("", 0, file.decode("utf-8", "surrogateescape"))
        return WebSocketUrl(secure, address, "localhost", "localhost", _target(shown, target, parts.query), None)
    if not host:
        raise ValueError(f"{shown!r} names no host")
    if port == 0:
        raise ValueError(f"{shown!r} has port 0, to which nobody can connect")
    default = DEFAULT_PORTS[parts.scheme]
    name, field = host_of(repr(shown), host)
    certified = name.partition("%")[0]
    if port is not None and port != default:
        field += f":{port}"
    target = _target(shown, parts.path, parts.query)
    return WebSocketUrl(secure, Address(name, port or default), field, certified, target, _basic(parts.netloc))


def host_of(what: str, host: str) -> tuple[str, str]:
    """Return the name to look up, and what of it stands in the Host field: a zone means something on this machine only
    (RFC 6874 §4)."""
    if ":" in host:
        literal, _, zone = host.partition("%")
        try:
            literal = str(IPv6Address(literal))
        except ValueError as error:
            raise ValueError(f"{what} has an address that cannot be: {error}") from None
        zone = zone.removeprefix("25")
        return (f"{literal}%{zone}" if zone else literal), f"[{literal}]"
    try:
        name = ascii_host(host)
    except UnicodeError as error:
        raise ValueError(f"{what} has a host name that cannot be: {error}") from None
    if _is_name(name) is None:
        raise ValueError(f"{what} has a host name that cannot be: {host!r}")
    labels = name.removesuffix(".").split(".")
    if len(name.removesuffix(".")) > LONGEST_NAME or not all(0 < len(label) <= LONGEST_LABEL for label in labels):
        raise ValueError(
            f"{what} has a host name that cannot be: between the dots are 1 to {LONGEST_LABEL} characters, and"
            f" {LONGEST_NAME} in all at most"
        )
    return name, name


def _target(shown: str, path: str, query: str) -> str:
    if path and not path.startswith("/"):
        raise ValueError(f"{shown!r} has a request target that does not begin with a slash: {path!r}")
    return quote(f"{path or '/'}?{query}" if query else path or "/", safe=_AS_IT_IS)


def _basic(netloc: str) -> str | None:
    userinfo, at, _ = netloc.rpartition("@")
    if not at:
        return None
    user, _, password = userinfo.partition(":")
    credentials = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
    return "Basic " + b64encode(credentials).decode()
