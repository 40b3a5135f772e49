"""The scope of a connection: what an ASGI application learns of a request before it answers (ASGI, HTTP & WebSocket).

Names and values are bytes, names in lower case. What a trusted proxy says of the client counts, as everywhere.
"""

from __future__ import annotations

from typing import Any

from gows.http.request import Request

Scope = dict[str, Any]
Message = dict[str, Any]

ASGI_VERSION = "3.0"
SPEC_VERSION = "2.5"
"""Of the HTTP & WebSocket message format."""

TRAILERS = "http.response.trailers"
"""What an answer may use if the client asks for it with `TE: trailers`."""


MAX_NAMES = 1024
"""Names of fields of which the bytes are remembered: clients send the same few."""
MAX_FIELDS = 1024
"""Whole fields that are remembered, of those whose values many clients share."""
LONGEST_FIELD = 256
"""Characters of the value of such a field."""
SHARED = frozenset(
    b"accept accept-encoding accept-language cache-control connection host origin pragma sec-websocket-extensions "
    b"sec-websocket-version upgrade user-agent".split()
)
"""Their names: no value of these is a secret. The scope of an idle WebSocket lives as long as that, and is most of what
it costs; with the fields of others it shares them."""

_names: dict[str, bytes] = {}
_fields: dict[tuple[str, str], tuple[bytes, bytes]] = {}


def base_scope(kind: str, request: Request, root_path: str, state: dict[str, Any]) -> Scope:
    """Return what "http" and "websocket" have in common. `state`: what the lifespan has left, a shallow copy of which
    each connection gets. Raises HttpError (400) when a trusted proxy passed on what cannot be read. Loop thread."""
    head, connection = request.head, request.connection
    path, raw_path = request.path, head.path.encode("latin-1")
    if root_path:
        path, raw_path = root_path + path, root_path.encode() + raw_path
    headers = [_fields.get(field) or _encode(field) for field in head.headers.items()]
    remote, local = (None, None) if connection is None else connection.ends
    scheme = "https" if connection is not None and connection.secure else "http"
    if connection is not None and connection.proxies is not None:  # which may know better
        remote, scheme, host = request.remote_addr, request.scheme, request.host
        if host != head.headers.get("host", ""):
            headers = [(b"host", host.encode("latin-1")), *(field for field in headers if field[0] != b"host")]
    return {
        "type": kind,
        "asgi": {"version": ASGI_VERSION, "spec_version": SPEC_VERSION},
        "http_version": head.version[5:],
        "scheme": scheme,
        "path": path,
        "raw_path": raw_path,
        "query_string": head.query.encode("latin-1"),
        "root_path": root_path,
        "headers": headers,
        "client": remote if isinstance(remote, tuple) else None,
        "server": local if isinstance(local, tuple) else (local, None) if local else None,
        "state": state.copy(),
    }


def http_scope(request: Request, root_path: str, state: dict[str, Any]) -> Scope:
    """Return the scope of an HTTP request. Raises as `base_scope`."""
    scope = base_scope("http", request, root_path, state)
    scope["method"] = request.method
    extensions: dict[str, dict[str, Any]] = {}
    if request.head.version == "HTTP/1.1":
        extensions = {"http.response.early_hint": {}, "http.response.pathsend": {}}
        headers = request.head.headers
        if "te" in headers.first and headers.has_token("te", "trailers"):
            extensions[TRAILERS] = {}
    scope["extensions"] = extensions
    return scope


def _encode(field: tuple[str, str]) -> tuple[bytes, bytes]:
    """Return a field as the scope has it."""
    name, value = field
    encoded = (_names.get(name) or _lower(name), value.encode("latin-1"))
    if encoded[0] in SHARED and len(value) <= LONGEST_FIELD:
        if len(_fields) >= MAX_FIELDS:  # others may have come into use
            _fields.clear()
        _fields[field] = encoded
    return encoded


def _lower(name: str) -> bytes:
    """Return the name of a field as the scope has it."""
    lower = name.lower().encode("latin-1")
    if len(_names) < MAX_NAMES:
        _names[name] = lower
    return lower
