"""An echo server with tornado, on uvloop."""

import asyncio
import sys

import tornado.web
import tornado.websocket
import uvloop


class Echo(tornado.websocket.WebSocketHandler):
    def on_message(self, message):
        self.write_message(message, binary=isinstance(message, bytes))


async def main():
    tornado.web.Application([("/", Echo)]).listen(int(sys.argv[1]), "127.0.0.1", backlog=4096)
    await asyncio.Event().wait()


uvloop.run(main())
