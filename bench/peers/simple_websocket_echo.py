"""An echo server with simple-websocket: a thread for each connection, on werkzeug's server."""

import socket
import sys

import simple_websocket
from _settings import DEFLATE, PORT, ssl_context
from werkzeug.serving import WSGIRequestHandler, make_server

if DEFLATE:
    sys.exit("simple-websocket has no compression")

everybody = set()


class Quiet(WSGIRequestHandler):
    def log(self, *_):
        pass


def app(environ, start_response):
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
