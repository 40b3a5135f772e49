"""Addresses: how a place to listen at or to connect to is written."""

from __future__ import annotations

import os
from typing import NamedTuple, Union

AddressLike = Union[str, tuple[str, int], "Address"]
SocketAddress = tuple[str, int] | str
"""Where a socket is: (host, port), or the path of a Unix-domain socket ("" if it has none)."""


class Address(NamedTuple):
    """A TCP address (`host`, `port`; an empty host means every interface) or, when `path` is set, a Unix-domain
    socket's."""

    host: str
    port: int
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def ascii_host(host: str) -> str:
    """Return a host name as it stands in DNS: by IDNA 2008, mapped as browsers do (UTS 46); by IDNA 2003 where
    2008 does not allow a character, such as an emoji. Raises UnicodeError for what cannot be."""
    if host.isascii():
        return host
    import idna  # some milliseconds and 300 kB, for few

    labels = idna.uts46_remap(host, std3_rules=False, transitional=False).split(".")
    return ".".join(map(_ascii_label, labels))


def _ascii_label(label: str) -> str:
    import idna

    if label.isascii():
        return label
    try:
        return idna.alabel(label).decode()
    except idna.IDNAError:
        return label.encode("idna").decode()


def parse_address(address: AddressLike) -> Address:
    """Read ":8080", "host:port", "[::1]:80", "unix:/path" or a pair (host, port). Raises ValueError that says what is
    wrong."""
    if isinstance(address, Address):
        return address
    if isinstance(address, tuple):
        host, port = address[:2]
        return Address(host, _port(port, address))
    if not isinstance(address, str):
        raise TypeError(f"an address is a string or a pair (host, port), not {type(address).__name__}")
    if address.startswith("unix:"):
        path = address[len("unix:") :]
        if not path:
            raise ValueError("a unix address needs a path: unix:/run/app.sock")
        return Address("", 0, os.path.abspath(path))
    host, colon, text = address.rpartition(":")
    if not colon:
        meant = f":{address}" if address.isdigit() else f"{address}:8080"
        raise ValueError(f"an address needs a port: {address!r} has none (write {meant!r})")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"write an IPv6 address in brackets: '[{host}]:{text}'")
    return Address(host, _port(text, address))


def _port(text: str | int, address: object) -> int:
    try:
        port = int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a port number, in {address!r}") from None
    if not 0 <= port <= 65535:
        raise ValueError(f"a port is between 0 and 65535, not {port}, in {address!r}")
    return port


def socket_address(name: object) -> SocketAddress | None:
    """Return what getsockname(2) or getpeername(2) told in one shape: (host, port), or a Unix-domain path ("" when it
    has none).

    The IPv4 peer of a dual-stack socket, ::ffff:192.0.2.1, is written as 192.0.2.1.
    """
    if isinstance(name, tuple):
        host, port = name[:2]
        return host.removeprefix("::ffff:") if "." in host else host, port
    if isinstance(name, bytes):
        return os.fsdecode(name)  # an abstract Linux name
    return name if isinstance(name, str) else None
