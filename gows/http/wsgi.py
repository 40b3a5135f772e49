"""WsgiApp: a WSGI application (PEP 3333) as what answers requests.

The environ carries the Request as `gows.request`, so that `gows.accept(environ)` in a view upgrades the connection;
what the view returns is then ignored. What the application yields is sent piece by piece, as fast as the peer takes it.
What it gives to `write()` is sent with the next piece, or at the end.

One thread calls the application, asks for the pieces and closes them, as applications expect: a cursor of a database
may be bound to it. While that thread waits for a slow peer, another takes its place in the pool. Each call has a
context of its own (contextvars), for with `workers=0` the pieces of several answers take turns in the loop's thread.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from io import BytesIO
from types import TracebackType
from typing import Any
from urllib.parse import unquote_to_bytes

from gows.http.request import Request
from gows.http.response import Response
from gows.options import check_plain_function

Environ = dict[str, Any]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
WsgiCallable = Callable[[Environ, Callable[..., Callable[[bytes], None]]], Iterable[bytes]]

# Hop-by-hop fields are not the application's (PEP 3333, "Other HTTP Features"); Date is ours and says the same.
_OURS = frozenset({"connection", "date", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
_split_host = re.compile(r"(\[.*\]|[^:]*)(?::([0-9]*))?").fullmatch


class WsgiApp:
    """Calls the application, once for each request."""

    __slots__ = ("_app",)

    def __init__(self, app: WsgiCallable) -> None:
        """Wrap an application. Raises TypeError for what cannot be one, an ASGI application above all."""
        check_wsgi(app)
        self._app = app

    def __call__(self, request: Request) -> Response | None:
        """Return the application's answer; None when it upgraded the connection. Raises what the application raises."""
        call = _Call(request)
        call.result = call.run(self._app, make_environ(request), call.start_response)
        try:
            if call.begin():
                return call.response()
        except BaseException:
            call.close()
            raise
        call.close()
        return None


def check_wsgi(app: object) -> None:
    """Raise TypeError for what cannot be a WSGI application."""
    asgi = "an ASGI application needs an ASGI server, or an adapter such as a2wsgi"
    try:
        check_plain_function("wsgi", app, generator=True)
    except TypeError as error:
        raise TypeError(f"{error}: an application is called with (environ, start_response); {asgi}") from None
    try:
        signature = inspect.signature(app)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # written in C
        return
    try:
        signature.bind(None, None)
    except TypeError:
        raise TypeError(f"wsgi is called with (environ, start_response), and this takes {signature}; {asgi}") from None


class _Call:
    """One call of the application, and the body it made."""

    __slots__ = ("_headers", "_pieces", "_request", "_sent", "_status", "_written", "result", "run")

    def __init__(self, request: Request) -> None:
        self._request = request
        self.run = copy_context().run
        self._status: str | None = None
        self._headers: list[tuple[str, str]] = []
        self._written: list[bytes] = []
        self._sent = False
        self.result: Iterable[bytes] = ()
        self._pieces: Iterator[bytes] = iter(())

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """Begin an answer, as PEP 3333 says."""
        if exc_info is not None:
            if self._sent or self._written:  # what was written has the first head in front of it
                raise exc_info[1].with_traceback(exc_info[2])
        elif self._status is not None:
            raise AssertionError("start_response was called twice without exc_info")
        self._status = status
        self._headers = list(headers)
        return self._written.append

    def begin(self) -> bool:
        """Run until there is something to send, for the application may call start_response as late as then.

        False: it upgraded the connection instead.
        """
        connection = self._request.connection
        self._pieces = iter(self.result)
        while (piece := self._next()) is not None:
            if piece:
                self._written.append(piece)
                break
        return connection is None or not connection.upgraded

    def response(self) -> Response:
        """Return what was started, as a Response."""
        self._sent = True
        if self._status is None:
            raise AssertionError("the application did not call start_response")
        length: int | None = None
        headers: list[tuple[str, str]] = []
        for name, value in self._headers:
            lower = name.lower()
            if lower == "content-length":
                length = int(value)
            elif lower not in _OURS:
                headers.append((name, value))
        status = int(self._status.split(" ", 1)[0])
        if length is None and isinstance(self.result, (list, tuple)):
            response = Response(b"".join(self), status)
        else:
            response = Response(self, status, length=length)
            response.one_thread = True
        response.take_headers(headers)
        return response

    def __iter__(self) -> Iterator[bytes]:
        """Yield what was written and what was returned, in the order in which the application came to it."""
        written = self._written
        while True:
            if written:
                data = b"".join(written)
                written.clear()
                yield data
            piece = self._next()
            if piece is None:
                break
            written.append(piece)
        if written:
            yield b"".join(written)

    def _next(self) -> bytes | None:
        return self.run(next, self._pieces, None)

    def close(self) -> None:
        """Close the application's answer. Called once by whoever is done with the body, as PEP 3333 asks."""
        close = getattr(self.result, "close", None)
        if close is not None:
            self.run(close)


def make_environ(request: Request) -> Environ:
    """Return the environ of a request. Its text is bytes decoded as Latin-1, as PEP 3333 has it."""
    head = request.head
    environ: Environ = {
        "REQUEST_METHOD": head.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(head.path).decode("latin-1"),
        "QUERY_STRING": head.query,
        "RAW_URI": head.target,
        "REQUEST_URI": head.target,
        "CONTENT_TYPE": head.headers.get("content-type") or "",
        "CONTENT_LENGTH": str(len(request.body)),
        "SERVER_PROTOCOL": head.version,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scheme,
        "wsgi.input": BytesIO(request.body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": request.connection is not None and not request.connection.stream.loop.pool.inline,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "gows.request": request,
    }
    environ["SERVER_NAME"], environ["SERVER_PORT"] = _server_address(request)
    remote = request.remote_addr
    if isinstance(remote, tuple):
        environ["REMOTE_ADDR"] = remote[0]
        if remote[1]:  # a proxy may not tell it
            environ["REMOTE_PORT"] = str(remote[1])
    else:
        environ["REMOTE_ADDR"] = ""  # a Unix-domain socket
    for name in head.headers:
        # "X_Forwarded_For" would become what "X-Forwarded-For" becomes, past a proxy that only knows the latter;
        # HTTP_PROXY is what programs take for their outgoing proxy (CVE-2016-5385)
        if "_" not in name and name not in ("content-type", "content-length", "proxy"):
            values = head.headers.get_all(name)
            environ["HTTP_" + name.upper().replace("-", "_")] = ("; " if name == "cookie" else ",").join(values)
    if request.host:
        environ["HTTP_HOST"] = request.host
    return environ


def _server_address(request: Request) -> tuple[str, str]:
    """Return where we listen; the Host of the request when that has no name (a Unix-domain socket)."""
    local = None if request.connection is None else request.connection.stream.local_address
    if isinstance(local, tuple):
        return local[0], str(local[1])
    host = _split_host(request.host)
    assert host is not None  # the parser let no other through
    name, port = host.groups("")
    return name or "localhost", port or ("443" if request.scheme == "https" else "80")
