"""An echo server with tornado, on uvloop."""

import asyncio
from typing import Any

import tornado.web
import tornado.websocket
import uvloop
from _settings import DEFLATE, PORT, ssl_context

everybody: set["Broadcast"] = set()


class Echo(tornado.websocket.WebSocketHandler):
    def get_compression_options(self) -> dict[str, Any] | None:
        return {} if DEFLATE else None

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message, binary=isinstance(message, bytes))


class Broadcast(Echo):
    def open(self) -> None:
        everybody.add(self)

    def on_close(self) -> None:
        everybody.discard(self)

    def on_message(self, message: str | bytes) -> None:
        for other in everybody:
            other.write_message(message, binary=isinstance(message, bytes))


async def main() -> None:
    app = tornado.web.Application([("/", Echo), ("/broadcast", Broadcast)])
    app.listen(PORT, "127.0.0.1", backlog=4096, ssl_options=ssl_context())
    await asyncio.Event().wait()


uvloop.run(main())
