"""An echo server with picows, on uvloop. It has no compression."""

import sys

import uvloop
from _settings import DEFLATE, PORT, ssl_context
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

if DEFLATE:
    sys.exit("picows has no compression")

everybody: set[WSTransport] = set()


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        else:
            self.answer(transport, frame)

    def answer(self, transport: WSTransport, frame: WSFrame) -> None:
        transport.send(frame.msg_type, frame.get_payload_as_memoryview())


class Broadcast(Echo):
    def on_ws_connected(self, transport: WSTransport) -> None:
        everybody.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        everybody.discard(transport)

    def answer(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        for other in everybody:
            other.send(frame.msg_type, payload)


async def main() -> None:
    server = await ws_create_server(
        lambda request: Broadcast() if request.path == b"/broadcast" else Echo(),
        "127.0.0.1",
        PORT,
        backlog=4096,
        ssl=ssl_context(),
    )
    await server.serve_forever()


uvloop.run(main())
