"""Redirects of the upgrade (RFC 9110 §15.4): where a server sends us on, and what goes along.

To another origin (scheme, host and port) go no headers of the user's, no cookies and no credentials: any of them may be
a secret of the first server's. What makes the handshake goes along: subprotocols, extensions, Origin. Encryption is
never given up. The proxy is chosen anew.
"""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import quote, urldefrag, urljoin, urlsplit

from gows.client.environment import choose_proxy
from gows.client.request import ClientRequest, checked_context, default_ssl_context
from gows.client.url import WebSocketUrl, parse_url

FOLLOWED = frozenset({301, 302, 303, 307, 308})
"""An upgrade is a GET request, so that all of them mean the same."""

_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_has_gap = re.compile(r"[\x00-\x20\x7f]").search


def redirected(request: ClientRequest, location: str) -> ClientRequest:
    """Return the request that `location`, the field of the answer to `request`, asks for. Raises ValueError that says
    why it is not followed, as the end of a sentence about the server."""
    url = _locate(request.url, location)
    if request.url.secure and not url.secure:
        raise ValueError("which is not encrypted")
    same_origin = (url.secure, url.address) == (request.url.secure, request.url.address)
    ssl_context = request.ssl_context
    if url.secure and not (same_origin and ssl_context):
        ssl_context = checked_context(ssl_context or default_ssl_context(), url.server_hostname)
    return replace(
        request,
        url=url,
        headers=request.headers if same_origin else (),
        ssl_context=ssl_context,
        proxy=choose_proxy(request.proxy_rule, url),
        redirects=request.redirects - 1,
    )


def _locate(base: WebSocketUrl, location: str) -> WebSocketUrl:
    """Read Location (RFC 9110 §10.2.2), which may be relative, and have a fragment."""
    if _has_gap(location):
        raise ValueError("which holds white space or a control character")
    location = quote(location.encode("latin-1"), safe=_PRINTABLE)  # as it came: bytes of UTF-8, mostly
    try:
        found, _ = urldefrag(urljoin(f"{'https' if base.secure else 'http'}://{base.host}{base.target}", location))
        scheme, netloc = urlsplit(found)[:2]
    except ValueError:
        raise ValueError("which is no URL") from None
    if scheme not in _SCHEMES:
        raise ValueError("which is no place for a WebSocket")
    if "@" in netloc:
        raise ValueError("which names a user")
    try:
        url = parse_url(_SCHEMES[scheme] + found[len(scheme) :])
    except ValueError as error:
        raise ValueError(f"which cannot be: {error}") from None
    if base.address.path is not None and (url.secure, url.host) == (base.secure, base.host):
        return replace(url, address=base.address, server_hostname=base.server_hostname)
    return url
