"""The proxy that the environment names for a URL, and NO_PROXY.

| for | the first that is set, of |
|---|---|
| wss | WSS_PROXY, SOCKS_PROXY, HTTPS_PROXY, ALL_PROXY |
| ws | WS_PROXY, SOCKS_PROXY, HTTPS_PROXY, HTTP_PROXY, ALL_PROXY |

A variable in small letters comes before the same one in capitals, and switches it off when it is empty (as in
`urllib.request`). SOCKS comes before HTTPS, and that before HTTP, since RFC 6455 §4.1 (the note in step 3) asks for it;
ALL_PROXY is for what has none of its own (as in curl). HTTP_PROXY in capitals is not read where REQUEST_METHOD is set:
in a CGI program it is a header of the request.

NO_PROXY is a list, with commas or spaces between its entries: a host name stands for itself and all names below it (a
dot or `*.` before it changes nothing), an IP address for itself, `10.0.0.0/8` for a network, `*` for everything; each
may have a port behind it, and is for that port only. Names are not looked up. The machine itself (localhost, loopback
addresses) is never reached through a proxy that only the environment names.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from gows.client.proxy import Proxy, ProxyRule
from gows.client.url import WebSocketUrl
from gows.reactor.address import Address, ascii_host

VARIABLES = {
    True: ("WSS_PROXY", "SOCKS_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
    False: ("WS_PROXY", "SOCKS_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"),
}
"""By whether the URL is wss."""


def choose_proxy(rule: ProxyRule, url: WebSocketUrl) -> Proxy | None:
    """Return the proxy that leads to `url` by the argument `proxy` of `connect`; None: connect directly, as always to a
    Unix-domain socket. Raises ValueError and TypeError for one that cannot be."""
    if isinstance(rule, str):
        rule = Proxy(rule)
    if rule is None or isinstance(rule, Proxy):
        proxy = rule
    elif rule is True:
        proxy = None if url.address.path is not None else environment_proxy(url.address, url.secure, os.environ)
    else:
        raise TypeError(
            f"proxy must be a URL, a gows.Proxy, None (no proxy), or True (the environment's), not {rule!r}"
        )
    return None if url.address.path is not None else proxy


def environment_proxy(address: Address, secure: bool, environ: Mapping[str, str]) -> Proxy | None:
    """Return the proxy that `environ` names for a server; None: connect directly. Raises ValueError for one that cannot
    be: to go without it may be what nobody wants."""
    if is_here(address.host) or is_excluded(address, _value(environ, "NO_PROXY") or ""):
        return None
    for name in VARIABLES[secure]:
        url = _value(environ, name)
        if url:
            try:
                return Proxy(url)
            except ValueError as error:
                raise ValueError(f"{name} in the environment: {error}") from None
    return None


def _value(environ: Mapping[str, str], name: str) -> str | None:
    value = environ.get(name.lower())
    if value is None and not (name == "HTTP_PROXY" and "REQUEST_METHOD" in environ):
        value = environ.get(name)
    return None if value is None else value.strip()


def is_here(host: str) -> bool:
    """Return whether a host is this machine by its name (RFC 6761 §6.3) or a loopback address."""
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    number = _ip(name)
    return number is not None and (number.is_loopback or number.is_unspecified)


def is_excluded(address: Address, no_proxy: str) -> bool:
    """Return whether `no_proxy`, the value of NO_PROXY, names the server."""
    host = address.host.lower().removesuffix(".")
    number = _ip(host)
    return any(_matches(entry, host, number, address.port) for entry in no_proxy.replace(",", " ").split())


def _matches(entry: str, host: str, number: IPv4Address | IPv6Address | None, port: int) -> bool:
    if entry == "*":
        return True
    name, wanted = _split_port(entry)
    if wanted is not None and wanted != port:
        return False
    if number is not None:
        try:
            network = ip_network(name, strict=False)
        except ValueError:
            return False
        return number in network
    try:
        name = ascii_host(name.removeprefix("*").lstrip(".")).lower().removesuffix(".")
    except UnicodeError:
        return False
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split_port(entry: str) -> tuple[str, int | None]:
    """Return the name, address or network of an entry, and the port behind it; None for all ports."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        port = rest.removeprefix(":")
    elif entry.count(":") == 1:
        name, _, port = entry.partition(":")
    else:
        return entry, None
    if not port:
        return name, None
    return name, int(port) if port.isascii() and port.isdecimal() else -1  # -1: for a port that is none


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a host is, in any of the spellings that the system takes for one (127.1, 0x7f000001);
    None for a name."""
    try:
        number = ip_address(host.partition("%")[0])
    except ValueError:
        try:
            return IPv4Address(socket.inet_aton(host)) if host.isascii() else None
        except (OSError, ValueError):
            return None
    return number.ipv4_mapped or number if isinstance(number, IPv6Address) else number
