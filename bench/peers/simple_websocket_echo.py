"""An echo server with simple-websocket: a thread for each connection, on werkzeug's server."""

import socket
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import simple_websocket
from _settings import DEFLATE, PORT, ssl_context
from werkzeug.serving import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

if DEFLATE:
    sys.exit("simple-websocket has no compression")

everybody: set[simple_websocket.Server] = set()


class Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        pass


def app(environ: "WSGIEnvironment", _start_response: "StartResponse") -> Iterable[bytes]:
    ws = simple_websocket.Server.accept(environ, max_message_size=16 << 20)
    to_all = environ["PATH_INFO"] == "/broadcast"
    if to_all:
        everybody.add(ws)
    try:
        while True:
            message = ws.receive()
            for each in list(everybody) if to_all else (ws,):
                each.send(message)
    except simple_websocket.ConnectionClosed:
        pass
    finally:
        everybody.discard(ws)
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionError  # werkzeug answers nothing then


server = make_server("127.0.0.1", PORT, app, threaded=True, request_handler=Quiet, ssl_context=ssl_context())
server.socket.listen(4096)
server.serve_forever()
