"""accept(): an HTTP request becomes a WebSocket, wherever the request came from (RFC 6455 §4.2)."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from io import BufferedReader
from typing import Any, cast
from urllib.parse import quote

from gows.errors import ConnectionClosedError, HandshakeError, HttpError, UsageError
from gows.http.connection import HttpConnection
from gows.http.request import Request
from gows.http1.head import RequestParser
from gows.http1.headers import HeaderSource
from gows.options import AcceptOptions, check_answer, default_options
from gows.protocol.connection import Role
from gows.protocol.deflate import DeflateParams, negotiate
from gows.protocol.extensions import parse_extensions
from gows.protocol.handshake import (
    check_headers,
    check_request,
    choose_subprotocol,
    response_101,
    response_error,
    same_origin,
)
from gows.reactor import Loop, Stream, shared_loop
from gows.reactor.address import SocketAddress
from gows.reactor.stream import NO_OBSERVER
from gows.server.server import Server
from gows.session.context import context_for
from gows.session.websocket import WebSocket

HEAD_TIMEOUT = 10.0
"""Seconds a raw socket has to deliver its request head."""

Source = Request | dict[str, Any] | BaseHTTPRequestHandler | socket.socket | tuple[socket.socket, bytes]
"""What an upgrade request comes from, see `accept`; a dict is a WSGI environ."""


def accept(
    source: Source,
    options: AcceptOptions | None = None,
    headers: HeaderSource | None = None,
    *,
    loop: Loop | None = None,
) -> WebSocket:
    """Answer an upgrade request with 101 and return the WebSocket (RFC 6455 §4.2). Any thread; then call
    `ws.serve(handler)`.

    `source` is one of

    - a `gows.Request` in a route of a `gows.Server`;
    - a WSGI `environ`, under `gows.Server(wsgi=app)` or a WSGI server that hands out its socket (Werkzeug, gunicorn);
    - a `http.server.BaseHTTPRequestHandler` in its `do_GET`;
    - a connected `socket.socket`: the head is read from it (blocking, at most 10 s), and a refusal is answered on it;
    - a pair (socket, head) with the whole request head as bytes, read already.

    `options`: by default those of the Server that the request came to, elsewhere `gows.default_options()`. `headers`:
    extra headers of the 101. Connections from outside a `gows.Server` live on `loop`, or on the process-wide loop,
    which starts at first use.

    Raises HandshakeError with the HTTP status of the refusal (405, 426, 400, 403; 503 when the server has come to its
    end meanwhile; behind a trusted proxy 429 and 503, by the server's Admission), InvalidHeaderError for a header that
    may not be sent, ConnectionClosedError when the peer has gone, UsageError for a socket that cannot be taken over.
    Uncaught in a route of a Server, a HandshakeError becomes the HTTP answer.
    """
    extra = check_headers(headers) if headers else []
    if isinstance(source, dict):
        source = source.get("gows.request") or source
    if isinstance(source, Request):
        return _accept_request(source, options, extra)
    options = options or default_options()
    if isinstance(source, dict):
        sock, reader = _wsgi_socket(source), source.get("wsgi.input")
        return _accept_borrowed(sock, reader, _wsgi_head(source), options, extra, loop)
    if isinstance(source, BaseHTTPRequestHandler):
        source.close_connection = True
        return _accept_borrowed(source.connection, source.rfile, _handler_head(source), options, extra, loop)
    if isinstance(source, socket.socket):
        return _accept_socket(source, b"", options, extra, loop)
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], socket.socket):
        return _accept_socket(source[0], source[1], options, extra, loop)
    raise TypeError(
        "accept() takes a gows.Request, a WSGI environ, a BaseHTTPRequestHandler, a connected socket, "
        f"or (socket, head bytes), not {type(source).__name__}"
    )


def accept_for_application(request: Request, subprotocol: str | None, headers: list[tuple[str, str]]) -> WebSocket:
    """Answer an upgrade request that an application has accepted, which chose the subprotocol, and whose concern the
    Origin is. With the options of the server. Raises as `accept`. Loop thread."""
    return _accept_request(request, None, check_headers(headers), lambda *_: subprotocol)


Choose = Callable[[Request, AcceptOptions], "str | None"]
"""Returns the subprotocol for a request, or raises HandshakeError."""


def _choose(request: Request, options: AcceptOptions) -> str | None:
    """Choose as the options say."""
    check_origin(request, options)
    return choose_subprotocol(request.head, options.subprotocols)


class Agreement:
    """What a handshake agreed on, and the bytes of the 101 that says so."""

    __slots__ = ("answer", "context", "params", "subprotocol")

    def __init__(
        self,
        request: Request,
        loop: Loop,
        options: AcceptOptions,
        headers: list[tuple[str, str]],
        owner: object = None,
        choose: Choose = _choose,
    ) -> None:
        """Agree on an upgrade. Raises HandshakeError when the upgrade is refused."""
        head = request.head
        self.context = context_for(loop, options, Role.SERVER, owner)
        key = check_request(head)
        self.subprotocol = choose(request, options)
        self.params: DeflateParams | None = None
        extensions: str | None = None
        offered = head.headers.joined("sec-websocket-extensions")
        offers = parse_extensions(offered) if offered else []
        if offers and options.compression:
            chosen = negotiate(offers, self.context.deflate_options)
            if chosen is not None:
                extensions, self.params = chosen
        self.answer = response_101(key, subprotocol=self.subprotocol, extensions=extensions, headers=headers)


def check_origin(request: Request, options: AcceptOptions) -> None:
    """Raise HandshakeError (403) for an Origin that is not welcome."""
    if options.check_origin is not None:
        passes = check_answer("check_origin", options.check_origin(request))
    else:
        passes = same_origin(request.head.headers.get("origin"), request.host, request.scheme == "https")
    if not passes:
        raise HandshakeError(403, "the Origin is not welcome here")


def _websocket(stream: Stream, agreement: Agreement, request: Request) -> WebSocket:
    context = agreement.context
    return WebSocket(stream, context.connection(agreement.params), context, agreement.subprotocol, request)


# ---------------------------------------------------------------------- from a route of our own server


def _accept_request(
    request: Request, options: AcceptOptions | None, headers: list[tuple[str, str]], choose: Choose = _choose
) -> WebSocket:
    carrier = request.connection
    if not isinstance(carrier, HttpConnection):
        raise UsageError("this request did not come by a connection that can be upgraded")
    app, stream = carrier.app, carrier.stream
    proxies = app.proxies
    if proxies is not None:
        try:
            _ = request.remote_addr
        except HttpError as error:
            raise HandshakeError(error.status, error.reason) from None
    if options is None:
        options = app.options if isinstance(app, Server) else default_options()
    agreement = Agreement(request, cast(Loop, stream.loop), options, headers, app, choose)
    ws = _websocket(stream, agreement, request)
    if proxies is None or not proxies.trusts(stream.peer_address):
        carrier.upgrade(agreement.answer, ws)
    else:
        _upgrade_for_proxy(carrier, agreement, ws, request.remote_addr)
    agreement.context.loop.call_soon(ws.arm)  # serve() must follow in time
    return ws


def _upgrade_for_proxy(
    carrier: HttpConnection, agreement: Agreement, ws: WebSocket, client: SocketAddress | None
) -> None:
    """Upgrade the connection of a trusted proxy. From here on it is that of one client, which is admitted now, and
    whose address is the peer's."""
    admission = carrier.app.admission if isinstance(carrier.app, Server) else None
    if admission is not None:
        refusal = admission.enter(carrier.stream, client)
        if refusal is not None:
            raise admission.error(refusal)
    try:
        carrier.upgrade(agreement.answer, ws)
    except BaseException:
        if admission is not None:
            admission.leave(carrier.stream)
        raise
    if client is not None:
        carrier.stream.name_peer(client)


# ---------------------------------------------------------------------- from sockets of somebody else


def _accept_borrowed(
    sock: socket.socket,
    reader: object,
    head: bytes,
    options: AcceptOptions,
    headers: list[tuple[str, str]],
    loop: Loop | None,
) -> WebSocket:
    """Take over a socket that a foreign server goes on holding, and leave a dead end in its place.

    Whatever that server writes or shuts down after its view returned must not reach our connection. So our side gets
    a duplicate of the descriptor, and the server's descriptor becomes one end of a socket pair whose other
    end is closed: a write there is a broken pipe, which servers take as a client that went away.
    """
    _refuse_tls(sock)
    request = _parse(head)
    _refuse_early(sock, reader)
    agreement = Agreement(request, loop or shared_loop(), options, headers)
    ours = socket.socket(fileno=os.dup(sock.fileno()))
    dead, other = socket.socketpair()
    other.close()
    os.dup2(dead.fileno(), sock.fileno())
    dead.close()
    return _adopt(ours, agreement, request)


def _accept_socket(
    sock: socket.socket, head: bytes, options: AcceptOptions, headers: list[tuple[str, str]], loop: Loop | None
) -> WebSocket:
    """Take over a socket of the caller; it is ours from here on, refused or not."""
    _refuse_tls(sock)
    try:
        request = _read_head(sock, head)
        agreement = Agreement(request, loop or shared_loop(), options, headers)
    except HandshakeError as error:
        stream = (loop or shared_loop()).adopt(sock, NO_OBSERVER)  # whose close lingers, so that the answer arrives
        stream.write(response_error(error))
        stream.close()
        raise
    except BaseException:
        sock.close()
        raise
    return _adopt(sock, agreement, request)


def _refuse_tls(sock: socket.socket) -> None:
    if isinstance(sock, ssl.SSLSocket):
        raise UsageError(
            "the TLS state of an SSLSocket cannot be taken over: "
            "end TLS in front of this server, or serve with gows.Server(ssl_context=…)"
        )


def _refuse_early(sock: socket.socket, reader: object) -> None:
    """Refuse a peer that sent something before the 101 (RFC 6455 §4.1); what lies in a server's buffer would be lost.
    gunicorn does not let us look there."""
    if isinstance(reader, BufferedReader):
        timeout = sock.gettimeout()
        sock.setblocking(False)
        try:
            early = reader.peek(1)
        finally:
            sock.settimeout(timeout)
        if early:
            raise HandshakeError(400, "data came before the handshake was answered")


def _adopt(sock: socket.socket, agreement: Agreement, request: Request) -> WebSocket:
    """Give a socket to the loop. Other than with `Loop.adopt`, the observer is there before the loop looks at it, and
    so misses nothing."""
    loop = agreement.context.loop
    stream = Stream(loop, loop.sockets.adopt(sock))
    ws = stream.observer = _websocket(stream, agreement, request)
    loop.call_soon(loop.take_in, stream)
    stream.write(agreement.answer)
    loop.call_soon(ws.arm)
    return ws


def _read_head(sock: socket.socket, head: bytes) -> Request:
    parser = RequestParser()
    deadline = time.monotonic() + HEAD_TIMEOUT
    _feed(parser, head)
    while not parser.complete:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise HandshakeError(408, "the request head did not come in time")
        sock.settimeout(remaining)
        try:
            data = sock.recv(16384)
        except TimeoutError:
            continue
        except OSError as error:
            raise ConnectionClosedError(f"the peer has gone: {error}") from None
        if not data:
            raise ConnectionClosedError("the peer has gone before its request was complete")
        _feed(parser, data)
    return _request(parser)


def _parse(head: bytes) -> Request:
    parser = RequestParser()
    _feed(parser, head)
    if not parser.complete:
        raise HandshakeError(400, "the request head is not complete")
    return _request(parser)


def _feed(parser: RequestParser, data: bytes) -> None:
    """Parse a head. Outside of a Server nobody else answers a malformed one, so it is a refused handshake like any
    other."""
    try:
        parser.feed(data)
    except HttpError as error:
        raise HandshakeError(error.status, error.reason, error.headers) from None


def _request(parser: RequestParser) -> Request:
    if parser.trailing:
        raise HandshakeError(400, "data came before the handshake was answered")
    assert parser.head is not None
    return Request(parser.head, parser.body)


def _wsgi_socket(environ: dict[str, Any]) -> socket.socket:
    for key in ("werkzeug.socket", "gunicorn.socket"):
        sock = environ.get(key)
        if isinstance(sock, socket.socket):
            return sock
    raise UsageError(
        "this WSGI server does not hand out its socket; serve the application with gows.Server(wsgi=app), "
        "Werkzeug's server, or gunicorn with sync or gthread workers"
    )


def _wsgi_head(environ: dict[str, Any]) -> bytes:
    """Return the request head that the environ was made from (PEP 3333), to be checked like any other."""
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if not target:
        target = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "/") or "/"
        target = quote(target, safe="/%:@!$&'()*+,;=~-._", encoding="latin-1")
        if environ.get("QUERY_STRING"):
            target += "?" + environ["QUERY_STRING"]
    lines = [f"{environ['REQUEST_METHOD']} {target} {environ['SERVER_PROTOCOL']}"]
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            lines.append(f"{name[5:].replace('_', '-').title()}: {value}")
    if environ.get("CONTENT_LENGTH"):
        lines.append(f"Content-Length: {environ['CONTENT_LENGTH']}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _handler_head(handler: BaseHTTPRequestHandler) -> bytes:
    """Return the request head that http.server has parsed, to be checked like any other."""
    lines = [handler.requestline, *(f"{name}: {value}" for name, value in handler.headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
