"""Server: pages and WebSockets on one port, in a process of its own or inside one that exists already."""

from __future__ import annotations

import logging
import resource
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from gows.codes import CloseCode
from gows.errors import HttpError, UsageError
from gows.http.connection import HttpConnection
from gows.http.request import Request
from gows.http.response import Response
from gows.http.router import Router
from gows.http.static import StaticFolder
from gows.http.wsgi import WsgiApp
from gows.options import AcceptOptions, check_seconds, default_options
from gows.reactor import Listener, Loop, Stream
from gows.websocket import WebSocket

logger = logging.getLogger("gows")

View = Callable[..., Any]
V = TypeVar("V", bound=View)

DESCRIPTOR_RESERVE = 64
"""Descriptors kept free for files, pipes and databases of the user's own: the server stops accepting before they are needed."""


class Server:
    """An HTTP and WebSocket server on one loop.

    `listen_and_serve(address)` runs it in the calling thread; `start(address)` in a thread of its own, until `stop()`.
    Addresses: ":8080", "127.0.0.1:8080", "[::1]:8080", "unix:/path/to/socket"; port 0 takes a free one, see `addresses`.

    - `workers`: threads that run routes and callbacks; 0 runs them in the loop's thread, where they must not block.
    - `options`: defaults for the WebSockets accepted here; see AcceptOptions.
    - `wsgi`: a WSGI application that answers what no route does.
    - `ssl_context`: a server-side SSLContext: everything is served over TLS.
    - `max_body_size`: bytes of a request body; larger ones get 413.
    - `head_timeout`, `body_timeout`, `keep_alive_timeout`: seconds for a request head to be complete (408 after), for its body, and
      for the next request to begin on a kept connection.
    - `max_connections`: None: the descriptor limit of the process less a reserve of 64.
    - `loop`: a loop made by the caller, with a selector, clock or sockets of its own; the server does not close it.
    """

    def __init__(
        self,
        *,
        workers: int = 4,
        options: AcceptOptions | None = None,
        wsgi: Callable[..., Iterable[bytes]] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        max_body_size: int = 1 << 20,
        max_head_size: int = 16384,
        max_headers: int = 100,
        head_timeout: float = 10.0,
        body_timeout: float = 60.0,
        keep_alive_timeout: float = 75.0,
        max_connections: int | None = None,
        loop: Loop | None = None,
    ) -> None:
        for name, value in (
            ("head_timeout", head_timeout),
            ("body_timeout", body_timeout),
            ("keep_alive_timeout", keep_alive_timeout),
        ):
            check_seconds(name, value, optional=False)
        self.options = options or default_options()
        self.ssl_context = ssl_context
        self.max_body_size = max_body_size
        self.max_head_size = max_head_size
        self.max_headers = max_headers
        self.head_timeout = head_timeout
        self.body_timeout = body_timeout
        self.keep_alive_timeout = keep_alive_timeout
        self.max_connections = _connection_limit() if max_connections is None else max_connections
        self.router = Router()
        self._wsgi = None if wsgi is None else WsgiApp(wsgi)
        self._own_loop = loop is None
        self.loop = loop or Loop(workers=workers, read_buffer_size=self.options.frame_read_buffer_size)
        self._listeners: list[Listener] = []
        self._stopped = threading.Event()
        self._stopping = False

    # ------------------------------------------------------------------ what is served

    def route(self, pattern: str, methods: Iterable[str] = ("GET",)) -> Callable[[V], V]:
        """Decorator: the view answers requests for `pattern` ("/", "/room/{name}", "/files/{rest:path}").

        A view takes the Request and, by name, the pattern's parameters. It returns a Response, or a str (HTML), bytes, dict or list (JSON);
        or it upgrades the connection with `gows.accept(request)` and returns nothing. Views run on the worker pool.
        """

        def register(view: V) -> V:
            self.add_route(pattern, view, methods)
            return view

        return register

    def add_route(self, pattern: str, view: View, methods: Iterable[str] = ("GET",)) -> None:
        """`route` without the decorator. Raises ValueError when the pattern is malformed or taken."""
        self.router.add(pattern, view, methods)

    def static(self, prefix: str, folder: str) -> None:
        """Serve the files below `folder` under the path `prefix`. Raises ValueError when it is no folder."""
        StaticFolder(prefix, folder).register(self.router)

    def handle(self, request: Request) -> Response | None:
        """Answer one request: its route, else the WSGI application, else 404 or 405. None: it became a WebSocket. Worker thread."""
        raise NotImplementedError

    # ------------------------------------------------------------------ running

    def listen(self, address: Any, **settings: Any) -> Any:
        """Bind and listen; accepting begins when the server runs. Returns the bound address. Raises OSError, saying which address."""
        listener = self.loop.listen(address, self._accepted, ssl_context=self.ssl_context, **settings)
        self._listeners.append(listener)
        return listener.address

    def start(self, address: Any = None) -> None:
        """Serve in a thread of its own; returns when the port is open. Any thread."""
        if address is not None:
            self.listen(address)
        self.loop.start()

    def listen_and_serve(self, address: Any = None) -> None:
        """Serve in this thread until `stop()` is called, or, in the main thread, SIGINT or SIGTERM comes."""
        if address is not None:
            self.listen(address)
        raise NotImplementedError

    def stop(self, timeout: float = 5.0) -> None:
        """Stop listening, close every WebSocket with 1001, wait up to `timeout` seconds for them, then end the loop. Any thread; idempotent."""
        raise NotImplementedError


def _connection_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, soft - DESCRIPTOR_RESERVE)
