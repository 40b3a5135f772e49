"""ClientRequest: the arguments of `connect`, checked, as every attempt of one client uses them."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from gows.client.cookies import Cookies, cookie_field
from gows.client.environment import choose_proxy
from gows.client.proxy import Proxy, ProxyRule
from gows.client.url import WebSocketUrl, parse_url
from gows.http1.headers import HeaderSource
from gows.options import AcceptOptions, check_plain_function, check_seconds, default_options
from gows.printable import show_url
from gows.protocol.connection import Role
from gows.protocol.deflate import DeflateOptions, make_offer
from gows.protocol.handshake import check_headers, new_key, request_bytes
from gows.reactor.transports import Loop
from gows.session.context import SessionContext, context_for

MAX_REDIRECTS = 20
"""As many as browsers follow (Fetch, HTTP-redirect fetch)."""


@dataclass(frozen=True)
class ClientRequest:
    """Where and how to connect; checked. Made by `make_request`."""

    url: WebSocketUrl
    context: SessionContext
    subprotocols: tuple[str, ...]
    deflate: DeflateOptions | None
    extensions: str | None
    """The offer that says `deflate`."""
    origin: str | None
    headers: tuple[tuple[str, str], ...]
    """Those of the user, with Authorization and Cookie."""
    ssl_context: ssl.SSLContext | None
    timeout: float
    proxy: Proxy | None
    """What leads to the server."""
    proxy_rule: ProxyRule
    """What was asked for, for the next server that a redirect leads to."""
    redirects: int
    """How many may still be followed."""

    def encode(self, key: str) -> bytes:
        """Return the bytes of the request for one attempt. Raises InvalidHeaderError for what may not be sent."""
        return request_bytes(
            self.url.host,
            self.url.target,
            key,
            subprotocols=self.subprotocols,
            extensions=self.extensions,
            origin=self.origin,
            headers=self.headers,
        )


Url = str | Callable[[], str]
HeaderRule = HeaderSource | Callable[[], HeaderSource]


def changes(url: Url, headers: HeaderRule | None, cookies: Cookies | None) -> bool:
    """Return whether the next attempt may have another URL, other headers or cookies."""
    return callable(url) or callable(headers) or isinstance(headers, Mapping) or cookies is not None


def check_functions(**arguments: object) -> None:
    """Raise TypeError for an `async def` among the arguments that may be functions: nobody would await it."""
    for name, argument in arguments.items():
        if callable(argument):
            check_plain_function(name, argument)


def make_request(
    url: Url,
    loop: Loop,
    *,
    options: AcceptOptions | None,
    subprotocols: Sequence[str],
    headers: HeaderRule | None,
    cookies: Cookies | None,
    origin: str | None,
    compression: bool | None,
    ssl_context: ssl.SSLContext | None,
    timeout: float,
    proxy: ProxyRule,
    redirects: int,
) -> ClientRequest:
    """Check the arguments of `connect` (see there), functions among them called. Raises ValueError, TypeError,
    InvalidHeaderError."""
    if callable(url):
        url = url()
    if callable(headers):
        headers = headers()
    if callable(cookies):
        cookies = cookies()
    where = parse_url(url)
    options = options or default_options()
    if isinstance(subprotocols, str):
        raise TypeError("subprotocols must be a sequence of strings, not one string")
    if ssl_context is not None and not where.secure:
        raise ValueError(f"ssl_context is given, but {show_url(url)!r} is not encrypted; write wss://")
    check_seconds("timeout", timeout, optional=False)
    if not isinstance(redirects, int) or isinstance(redirects, bool):
        raise TypeError(f"redirects must be an int, not {type(redirects).__name__}")
    if not 0 <= redirects <= MAX_REDIRECTS:
        raise ValueError(f"redirects must be from 0 to {MAX_REDIRECTS}, not {redirects}")
    if isinstance(proxy, str):
        proxy = Proxy(proxy)
    chosen = choose_proxy(proxy, where)
    if where.secure:
        ssl_context = checked_context(ssl_context or default_ssl_context(), where.server_hostname)
    if redirects or (chosen is not None and chosen.scheme == "https"):
        default_ssl_context()  # made here: in the loop's thread it would hold up others
    context = context_for(loop, options, Role.CLIENT)
    deflate = context.deflate_options if (options.compression if compression is None else compression) else None
    request = ClientRequest(
        url=where,
        context=context,
        subprotocols=tuple(subprotocols) or tuple(options.subprotocols),
        deflate=deflate,
        extensions=None if deflate is None else make_offer(deflate),
        origin=origin,
        headers=_headers(where, headers, cookies, origin),
        ssl_context=ssl_context,
        timeout=timeout,
        proxy=chosen,
        proxy_rule=proxy,
        redirects=redirects,
    )
    request.encode(new_key())  # raises now what could not be sent later
    return request


def _headers(
    url: WebSocketUrl, headers: HeaderSource | None, cookies: Mapping[str, str] | None, origin: str | None
) -> tuple[tuple[str, str], ...]:
    pairs = check_headers(headers or ())
    names = {name.lower() for name, _ in pairs}
    if origin is not None and "origin" in names:
        raise ValueError("Origin is given twice: in headers and as origin")
    if url.authorization is not None:
        if "authorization" in names:
            raise ValueError("Authorization is given twice: in headers and in the URL")
        pairs.append(("Authorization", url.authorization))
    if cookies is not None:
        field = cookie_field(cookies)
        if "cookie" in names:
            raise ValueError("Cookie is given twice: in headers and as cookies")
        if field:
            pairs.append(("Cookie", field))
    return tuple(pairs)


def checked_context(ssl_context: ssl.SSLContext, server_hostname: str) -> ssl.SSLContext:
    """Return a context with which a client can begin. Raises TypeError and ValueError for any other."""
    if not isinstance(ssl_context, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext, not {type(ssl_context).__name__}")
    try:
        ssl_context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=server_hostname)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"ssl_context cannot be used to connect to {server_hostname!r}: {error}") from None
    return ssl_context


@lru_cache(maxsize=1)
def default_ssl_context() -> ssl.SSLContext:
    """Return the TLS settings of clients that bring none. They are made once: reading the system's authorities takes
    tens of milliseconds and megabytes."""
    return ssl.create_default_context()
