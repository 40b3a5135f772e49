"""An echo server with hypercorn, on uvloop and wsproto."""

import asyncio
from typing import Any

import uvloop
from _asgi import app
from _settings import CERTIFICATE, PORT
from hypercorn.asyncio import serve
from hypercorn.config import Config

config = Config()
config.bind = [f"127.0.0.1:{PORT}"]
config.backlog = 4096
config.loglevel = "ERROR"
config.websocket_ping_interval = None
config.certfile = config.keyfile = CERTIFICATE
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
application: Any = app  # whose messages it has types of its own for
asyncio.run(serve(application, config))
