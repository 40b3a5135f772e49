"""Forwarded header fields: RFC 7239, and the older X-Forwarded-For, -Proto and -Host. What they say, not whether it is
true: that depends on who sent them (`gows/http/proxies.py`).

Each proxy adds an element at the right, so elements are given from the right to the left: the first was written by the
proxy that talks to us, the last may be anything that a client made up. What cannot be read raises HttpError (400), and
not sooner than it is looked at: the left end of X-Forwarded-For may hold any nonsense, as long as nobody needs it.
A Forwarded field is read as a whole, for a quote that a client left open would swallow what our proxy wrote behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from gows.errors import HttpError
from gows.http1.headers import TOKEN, Headers

Address = tuple[str, int] | str
"""(host, port), the port 0 where it was not told; or the path of a Unix-domain socket, mostly unnamed: ""."""

_PAIR = rf"(?P<name>{TOKEN})=(?:(?P<token>{TOKEN})|\"(?P<quoted>(?:[^\"\\]|\\.)*)\")"
_pair = re.compile(rf"[ \t]*(?:{_PAIR}[ \t]*)?(?P<end>[;,]|\Z)").match  # unambiguous, so linear
_unescape = re.compile(r"\\(.)").sub
_node = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+))(?::(?P<port>[0-9]{1,5}|_[\w.\-]+))?", re.ASCII
).fullmatch
_is_hidden = re.compile(r"(?:unknown|_[\w.\-]+)(?::(?:[0-9]{1,5}|_[\w.\-]+))?", re.IGNORECASE | re.ASCII).fullmatch
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class Hop:
    """One element: what a proxy says of who talked to it. `address` is None where it does not tell."""

    __slots__ = ("_node", "host", "scheme")

    def __init__(self, node: str, scheme: str | None = None, host: str | None = None) -> None:
        self._node = node
        self.scheme = scheme
        self.host = host

    @property
    def address(self) -> Address | None:
        """None for "unknown", an obfuscated identifier (RFC 7239 §6.3), or no word at all."""
        return parse_node(self._node)


def canonical(ip: IPv4Address | IPv6Address) -> str:
    """Return an IP address as `Stream.peer_address` writes it: ::ffff:192.0.2.1 is 192.0.2.1."""
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return str(mapped or ip)


def parse_node(text: str) -> Address | None:
    """Parse an address, with or without a port, IPv6 in brackets or (in X-Forwarded-For) without; None: it is
    hidden."""
    if not text or _is_hidden(text):
        return None
    if text == "unix:":  # as nginx writes it
        return ""
    found = _node(text)
    host, port = (text, None) if found is None else (found["v6"] or found["v4"], found["port"])
    number = int(port) if port is not None and port.isdigit() else 0
    try:
        if "%" in host:  # a zone is of no use to anybody but its host (RFC 4007 §6)
            raise ValueError
        ip = ip_address(host)
    except ValueError:
        raise HttpError(400, "a forwarded address cannot be read") from None
    if number > 65535 or (found is not None and (found["v6"] is None) != (ip.version == 4)):
        raise HttpError(400, "a forwarded address cannot be read")
    return canonical(ip), number


def x_forwarded_for(headers: Headers) -> Iterator[Hop]:
    """Return the elements of X-Forwarded-For, from the right."""
    value = headers.joined("x-forwarded-for")
    if value is not None:
        for element in reversed(value.split(",")):
            node = element.strip(" \t")
            if node:  # an empty element is none (RFC 9110 §5.6.1.2)
                yield Hop(node)


def x_forwarded_proto(headers: Headers) -> str | None:
    """Return the scheme that the proxy next to us put into X-Forwarded-Proto: "http" or "https"; None: it did not."""
    return parse_scheme(_last(headers, "x-forwarded-proto"))


def x_forwarded_host(headers: Headers) -> str | None:
    """Return what the proxy next to us put into X-Forwarded-Host; not checked."""
    return _last(headers, "x-forwarded-host")


def forwarded(headers: Headers) -> list[Hop]:
    """Return the elements of Forwarded, from the right."""
    value = headers.joined("forwarded")
    if value is None:
        return []
    hops: list[Hop] = []
    pairs: dict[str, str] = {}
    position, more = 0, True
    while more:
        found = _pair(value, position)
        if found is None:
            raise HttpError(400, "malformed Forwarded (RFC 7239 §4)")
        position = found.end()
        if found["name"] is not None:
            name = found["name"].lower()
            if name in pairs:
                raise HttpError(400, f"malformed Forwarded: {name} twice in an element (RFC 7239 §4)")
            pairs[name] = found["token"] or _unescape(r"\1", found["quoted"] or "")
        more = found["end"] != ""
        if found["end"] != ";" and pairs:  # an empty element is none (RFC 9110 §5.6.1.2)
            hops.append(Hop(pairs.get("for", ""), parse_scheme(pairs.get("proto")), pairs.get("host")))
            pairs = {}
    hops.reverse()
    return hops


def parse_scheme(text: str | None) -> str | None:
    """ "http" or "https"; None for None."""
    if text is None:
        return None
    scheme = _SCHEMES.get(text.lower())
    if scheme is None:
        raise HttpError(400, "a forwarded scheme is http or https")
    return scheme


def _last(headers: Headers, name: str) -> str | None:
    value = headers.joined(name)
    return None if value is None else value.rpartition(",")[2].strip(" \t") or None
