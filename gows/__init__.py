"""gows: a WebSocket engine for Python processes that hold very many connections.

An echo server:

    import gows

    class Echo(gows.Handler):
        def on_message(self, ws, opcode, buff):
            ws.write_message(opcode, buff)

    server = gows.Server()

    @server.route("/ws")
    def echo(request):
        gows.accept(request).serve(Echo())

    server.listen_and_serve(":8080")
"""

from gows import variant

variant.choose()  # before anything else is imported

from gows import aio, asgi
from gows.bytebuffer import ByteBuffer
from gows.client import BlockingWebSocket, Proxy, Reconnect, ReconnectingClient, connect
from gows.client.subscription import TopicSubscription
from gows.client.topics import TopicClient
from gows.codes import CloseCause, CloseCode, Opcode
from gows.errors import (
    BrokerError,
    BufferReleasedError,
    ConnectError,
    ConnectionClosedError,
    ConnectTimeoutError,
    DisconnectedError,
    GowsError,
    HandshakeError,
    HttpError,
    InvalidCloseCodeError,
    InvalidHeaderError,
    LoopClosedError,
    NotAllowedError,
    PeerError,
    ProtocolError,
    ProxyError,
    QueueFullError,
    ReceiveTimeoutError,
    StartupError,
    TopicError,
    UsageError,
    WriterBusyError,
)
from gows.http.request import Request
from gows.http.response import Response
from gows.options import (
    AcceptOptions,
    Keep,
    default_options,
    set_frame_read_buffer_size,
    set_message_buffer_size,
    set_min_compress_size,
    set_origin_check_func,
    use_flate,
)
from gows.processes import run
from gows.reactor.hosting import register
from gows.server import gateway
from gows.server.accept import accept
from gows.server.admission import Admission
from gows.server.remote import RemoteConnection
from gows.server.routes import serve_topics
from gows.server.server import Server
from gows.server.settings import ServerOptions
from gows.session.handler import Handler
from gows.session.websocket import MessageWriter, WebSocket
from gows.topics.subprotocol import TopicHandler

register(aio.coroutines)
gateway.register(asgi.gateway)

__version__ = "0.1.0"

__all__ = [
    "AcceptOptions",
    "Admission",
    "BlockingWebSocket",
    "BrokerError",
    "BufferReleasedError",
    "ByteBuffer",
    "CloseCause",
    "CloseCode",
    "ConnectError",
    "ConnectTimeoutError",
    "ConnectionClosedError",
    "DisconnectedError",
    "GowsError",
    "Handler",
    "HandshakeError",
    "HttpError",
    "InvalidCloseCodeError",
    "InvalidHeaderError",
    "Keep",
    "LoopClosedError",
    "MessageWriter",
    "NotAllowedError",
    "Opcode",
    "PeerError",
    "ProtocolError",
    "Proxy",
    "ProxyError",
    "QueueFullError",
    "ReceiveTimeoutError",
    "Reconnect",
    "ReconnectingClient",
    "RemoteConnection",
    "Request",
    "Response",
    "Server",
    "ServerOptions",
    "StartupError",
    "TopicClient",
    "TopicError",
    "TopicHandler",
    "TopicSubscription",
    "UsageError",
    "WebSocket",
    "WriterBusyError",
    "accept",
    "connect",
    "default_options",
    "run",
    "serve_topics",
    "set_frame_read_buffer_size",
    "set_message_buffer_size",
    "set_min_compress_size",
    "set_origin_check_func",
    "use_flate",
]
