"""An echo server with picows, on uvloop. It has no compression."""

import sys

import uvloop
from _settings import DEFLATE, PORT, ssl_context
from picows import WSListener, WSMsgType, ws_create_server

if DEFLATE:
    sys.exit("picows has no compression")

everybody = set()


class Echo(WSListener):
    def on_ws_frame(self, transport, frame):
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        else:
            self.answer(transport, frame)

    def answer(self, transport, frame):
        transport.send(frame.msg_type, frame.get_payload_as_memoryview())


class Broadcast(Echo):
    def on_ws_connected(self, transport):
        everybody.add(transport)

    def on_ws_disconnected(self, transport):
        everybody.discard(transport)

    def answer(self, transport, frame):
        payload = frame.get_payload_as_bytes()
        for other in everybody:
            other.send(frame.msg_type, payload)


async def main():
    server = await ws_create_server(
        lambda request: Broadcast() if request.path == b"/broadcast" else Echo(),
        "127.0.0.1",
        PORT,
        backlog=4096,
        ssl=ssl_context(),
    )
    await server.serve_forever()


uvloop.run(main())
