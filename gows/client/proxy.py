"""Proxy: the URL of a proxy, read; and what is asked of it for one connection."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote_to_bytes, urlsplit

from gows.client.url import host_of
from gows.printable import show_address
from gows.reactor.address import Address

DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
SCHEMES = {**{scheme: scheme for scheme in DEFAULT_PORTS}, "socks": "socks5h"}
"""What may stand before "://", and what it means: desktops write socks:// and leave the name to the proxy."""
LONGEST_CREDENTIAL = 255
"""Bytes of a user name, and of a password, for SOCKS5 (RFC 1929 §2)."""

_has_gap = re.compile(r"[\x00-\x20\x7f]").search
_has_control = re.compile(rb"[\x00-\x1f\x7f]").search


@dataclass(frozen=True, repr=False)
class Proxy:
    """A proxy that leads to the server. Raises ValueError for a URL that cannot be, TypeError for what is no str.

    `http://user:password@host:port` is asked with CONNECT (RFC 9110 §9.3.6), `https://…` the same under TLS,
    `socks5://…` by RFC 1928 and 1929 with an address that is looked up here, `socks5h://…` with the name. Without a
    scheme it is http. Without a port: 80, 443, 1080.
    """

    url: str
    ssl_context: ssl.SSLContext | None = None
    """How the certificate of an https proxy is verified; None: against the system's authorities. The server's own has
    the `ssl_context` of `connect`."""
    scheme: str = field(init=False, compare=False)
    """http, https, socks5 or socks5h."""
    address: Address = field(init=False, compare=False)
    """Where it is."""
    hostname: str = field(init=False, compare=False)
    """The name that the certificate of an https proxy must carry."""
    credentials: tuple[bytes, bytes] | None = field(init=False, compare=False)
    """User name and password."""

    def __post_init__(self) -> None:
        if not isinstance(self.url, str):
            raise TypeError(f"the URL of a proxy must be a str, not {type(self.url).__name__}")
        text = self.url if "://" in self.url else f"http://{self.url}"
        shown = _shown(text)
        if _has_gap(text):
            raise ValueError(f"the proxy {shown!r} holds white space or a control character; percent-encode it")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:  # its text may hold what stands before the @
            raise ValueError(f"the proxy {shown!r} is no URL") from None
        scheme = SCHEMES.get(parts.scheme)
        if scheme is None:
            raise ValueError(f"the proxy {shown!r} must begin with http://, https://, socks5:// or socks5h://")
        if parts.path not in ("", "/") or "?" in text or "#" in text:
            raise ValueError(f"the proxy {shown!r} must have no path, query or fragment")
        if not host or port == 0:
            raise ValueError(f"the proxy {shown!r} names no {'host' if not host else 'port that can be'}")
        name, _ = host_of(f"the proxy {shown!r}", host)
        if self.ssl_context is not None:
            if not isinstance(self.ssl_context, ssl.SSLContext):
                raise TypeError(f"ssl_context must be an ssl.SSLContext, not {type(self.ssl_context).__name__}")
            if scheme != "https":
                raise ValueError(f"ssl_context is given, but the proxy {shown!r} is not encrypted; write https://")
        set_field = object.__setattr__  # the dataclass is frozen
        set_field(self, "scheme", scheme)
        set_field(self, "address", Address(name, port or DEFAULT_PORTS[scheme]))
        set_field(self, "hostname", name.partition("%")[0])
        set_field(self, "credentials", _credentials(shown, parts.netloc, scheme))

    def __str__(self) -> str:
        """Return scheme, host and port, as they may stand in a log; no credentials."""
        return f"{self.scheme}://{show_address((self.address.host, self.address.port))}"

    def __repr__(self) -> str:
        return f"<Proxy {self}>"


ProxyRule = Proxy | str | Literal[True] | None
"""The argument `proxy` of `connect`. True: the one that the environment names."""


def _shown(text: str) -> str:
    """Return the URL without what stands before its last @: a password may hold what ends a host elsewhere."""
    userinfo, at, host = text.rpartition("@")
    scheme, mark, _ = userinfo.partition("://")
    if not at:
        return text
    return f"{scheme}{mark}***@{host}" if scheme.lower() in SCHEMES else f"***@{host}"


def _credentials(shown: str, netloc: str, scheme: str) -> tuple[bytes, bytes] | None:
    userinfo, at, _ = netloc.rpartition("@")
    if not at:
        return None
    user, password = map(unquote_to_bytes, (userinfo.partition(":")[::2]))
    if scheme.startswith("socks"):
        if not user or max(len(user), len(password)) > LONGEST_CREDENTIAL:
            raise ValueError(
                f"the proxy {shown!r} has a user name or a password that SOCKS5 cannot carry: 1 to {LONGEST_CREDENTIAL}"
                " bytes"
            )
    elif b":" in user or _has_control(user) or _has_control(password):
        raise ValueError(
            f"the proxy {shown!r} has a user name or a password that cannot be sent (RFC 7617): no control character,"
            " and no colon in the name"
        )
    return user, password
