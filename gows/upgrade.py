"""accept(): an HTTP request becomes a WebSocket, wherever the request came from."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any

from gows.errors import HandshakeError, HttpError, UsageError
from gows.http.request import Request
from gows.options import AcceptOptions, default_options
from gows.protocol.connection import Role
from gows.protocol.deflate import DeflateOptions, DeflateParams, negotiate
from gows.protocol.extensions import parse_extensions
from gows.protocol.handshake import (
    check_headers,
    check_request,
    choose_subprotocol,
    response_101,
    response_error,
    same_origin,
)
from gows.protocol.http import RequestHead, RequestParser
from gows.protocol.headers import Headers
from gows.reactor import Loop, shared_loop
from gows.session import context_for
from gows.websocket import WebSocket

HeaderItems = Iterable[tuple[str, str]] | Mapping[str, str]

HEAD_TIMEOUT = 10.0
"""Seconds in which a raw socket has to deliver the request head."""


def accept(
    source: Any, options: AcceptOptions | None = None, headers: HeaderItems | None = None, *, loop: Loop | None = None
) -> WebSocket:
    """Answer an upgrade request with 101 and return the WebSocket (RFC 6455 §4.2). Any thread; then call `ws.serve(handler)`.

    `source` is one of

    - a `gows.Request` in a route of a `gows.Server`;
    - a WSGI `environ`, under `gows.Server(wsgi=app)` or a WSGI server that hands out its socket (Werkzeug, gunicorn);
    - a `http.server.BaseHTTPRequestHandler` in its `do_GET`;
    - a connected `socket.socket`: the head is read from it (blocking, at most 10 s), and a refusal is answered on it;
    - a pair (socket, head) with the whole request head as bytes, read already.

    `headers` are extra headers of the 101. Connections from outside a `gows.Server` live on `loop`, or on the
    process-wide loop, which starts at first use.

    Raises HandshakeError with the HTTP status of the refusal (405, 426, 400, 403), InvalidHeaderError for a header that may not
    be sent, ConnectionClosedError when the peer has gone. Uncaught in a route, a HandshakeError becomes the HTTP answer.
    """
    options = options or default_options()
    extra = _header_items(headers)
    check_headers(extra)
    if isinstance(source, dict):
        source = source.get("gows.request") or source
    if isinstance(source, Request):
        return _accept_request(source, options, extra)
    if isinstance(source, dict):
        return _accept_foreign(_wsgi_socket(source), _wsgi_head(source), options, extra, loop, source)
    if isinstance(source, BaseHTTPRequestHandler):
        return _accept_foreign(source.connection, _handler_head(source), options, extra, loop, source)
    if isinstance(source, socket.socket):
        return _accept_socket(source, b"", options, extra, loop)
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], socket.socket):
        return _accept_socket(source[0], source[1], options, extra, loop)
    raise TypeError(
        "accept() takes a gows.Request, a WSGI environ, a BaseHTTPRequestHandler, a connected socket, "
        f"or (socket, head bytes), not {type(source).__name__}"
    )
