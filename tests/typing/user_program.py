"""A program as a user writes it, which touches every public name. It is type-checked, never run."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import timedelta
from http.server import BaseHTTPRequestHandler

import gows
from gows.brokers.redis import RedisBroker
from gows.reactor import Loop, Stream

Address = tuple[str, int] | str


class Chat(gows.Handler):
    inline = True

    def __init__(self, request: gows.Request) -> None:
        self.name: str = request.query.get("name", "nobody")

    def on_open(self, ws: gows.WebSocket) -> None:
        request: gows.Request | None = ws.request
        if request is not None:
            cookie: str | None = request.cookies.get("session")
            ws.write_string(cookie or request.path)
        here: Address | None = ws.local_addr
        there: Address | None = ws.remote_addr
        ws.write_string(f"{here} {there} {ws.subprotocol} {ws.group} {ws.closed}")
        ws.subscribe("room.*")

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        text: str = buff.get_string()
        data: bytes = buff.clone_bytes()
        view: memoryview = buff.get_bytes()
        try:
            ws.write_message(opcode, buff)
            ws.write_text(data, compress=False)
            ws.write_binary(view, key="latest")
            ws.write_json({"text": text, "size": len(buff)})
            ws.write_ping(b"now")
            ws.write_pong(b"")
            with ws.next_writer(gows.Opcode.TEXT) as writer:
                add(writer, text)
        except (gows.QueueFullError, gows.WriterBusyError) as error:
            ws.close_handshake(gows.CloseCode.TRY_AGAIN_LATER, str(error))
        try:
            ws.publish("room.a", text, key=1, ttl=5.0, history=gows.Keep(10))
        except gows.NotAllowedError:
            ws.unsubscribe("room.*")
        ws.set_read_timeout(10.0)
        ws.set_write_timeout(None)

    def on_close(self, ws: gows.WebSocket) -> None:
        code: int | None = ws.close_code
        reason: str = ws.close_reason
        cause: gows.CloseCause | None = ws.close_cause
        print(code, reason, cause, ws.topics)

    def on_ping(self, ws: gows.WebSocket, data: bytes) -> None: ...
    def on_pong(self, ws: gows.WebSocket, data: bytes) -> None: ...
    def on_drain(self, ws: gows.WebSocket) -> None: ...


def add(writer: gows.MessageWriter, text: str) -> None:
    writer.write(b"")
    writer.write_string(text)
    writer.close()


def may_subscribe(ws: gows.WebSocket, topic: str) -> bool:
    return ws.group == "chat" and topic.startswith("room.")


def presence(ws: gows.WebSocket, topic: str) -> str | None:
    return topic


def check_origin(request: gows.Request) -> bool:
    return request.headers.get("origin") is None


def keep(topic: str) -> gows.Keep | int | timedelta | None:
    return timedelta(hours=1)


gows.use_flate(1)
gows.set_min_compress_size(100)
gows.set_origin_check_func(check_origin)
gows.set_frame_read_buffer_size(65536)
gows.set_message_buffer_size(4096)
defaults: gows.AcceptOptions = gows.default_options()
version: str = gows.__version__
options = gows.AcceptOptions(subprotocols=["chat"], compression=True, check_origin=check_origin, overflow="latest")
admission = gows.Admission(per_ip=10, trusted_proxies=["10.0.0.0/8", "unix"])
server = gows.Server(
    workers=2,
    options=options,
    admission=admission,
    keep=keep,
    may_subscribe=may_subscribe,
    may_publish=may_subscribe,
    presence=presence,
    broker=RedisBroker("redis://localhost/0"),
    ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
)
other = gows.Server(options=gows.ServerOptions(workers=0, loop=Loop(workers=0)))
gows.serve_topics(server, "/live", options=options, script="/gows.js")


@server.route("/chat/{room}", methods=["GET"])
def chat(request: gows.Request, room: str) -> None:
    ws: gows.WebSocket = gows.accept(request, options, {"X-Room": room})
    ws.serve(Chat(request))


@server.route("/", methods=["GET", "POST"])
def page(request: gows.Request) -> gows.Response:
    client: Address | None = request.remote_addr
    field: str = request.form_value("field") + request.method + request.host + request.scheme + request.raw_path
    for name in request.files:
        upload = request.files[name]
        field += upload.filename
        content: bytes = upload.content
        field += str(len(content))
    if request.headers.get("accept") is None or request.body == b"" or request.query_string == "":
        raise gows.HttpError(400, f"{client}: {field}")
    response = gows.Response("hello", 200, {"X-Field": field}, "text/plain")
    response.add_header("X-Names", ",".join(request.path_params))
    redirect: gows.Response = gows.Response.redirect("/elsewhere")
    return response if redirect.status == 200 else gows.Response.json({"a": 1})


class Old(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        gows.accept(self).serve(gows.Handler())


def adopt(sock: socket.socket, head: bytes, loop: Loop) -> gows.WebSocket:
    gows.accept(sock, loop=loop)
    return gows.accept((sock, head))


def use_server() -> None:
    bound: Address = server.listen(":8080", proxy_protocol="v2", mode=0o660)
    server.start("unix:/run/app.sock")
    addresses: list[Address] = server.addresses
    for connection in server.connections:
        connection.write_string(f"{bound} {addresses}")
        if isinstance(connection, gows.RemoteConnection):
            use_remote(connection)
    server.broadcast("hello", group="chat", exclude=None, key="k")
    server.publish("room.a", b"hello", history=5, ttl=1.0, done=published)
    count: int = server.connection_count() + server.subscriber_count("room.a") + server.recheck()
    topics: dict[str, int] = server.topics()
    for member in server.members("room.a"):  # type: ignore[misc]  # its info is what came as JSON: Any
        id_: str = member.id  # type: ignore[misc]
        print(id_, count, topics)
    server.static("/files", "folder")
    server.add_route("/page", page)
    server.stop(1.0, drain=5.0, not_ready=2.0)
    settings: gows.ServerOptions = server.settings
    print(settings.max_body_size, server.draining)


async def asgi_app(
    scope: MutableMapping[str, object],
    receive: Callable[[], Awaitable[MutableMapping[str, object]]],
    send: Callable[[MutableMapping[str, object]], Awaitable[None]],
) -> None:
    try:
        await send({"type": "http.response.start", "status": 200})
    except gows.DisconnectedError as gone:
        print(gone.errno, scope, receive)


def serve_asgi() -> gows.Server:
    server = gows.Server(asgi=asgi_app, root_path="/api", lifespan="on")
    try:
        server.start(":8080")
    except gows.StartupError as error:
        print(error)
    return server


def published(error: Exception | None) -> None:
    print(error)


def use_remote(remote: gows.RemoteConnection) -> None:
    address: Address | None = remote.remote_addr
    remote.write_json({"address": str(address)})
    remote.write_message(gows.Opcode.BINARY, b"")
    remote.close_handshake(gows.CloseCode.NORMAL_CLOSURE, "bye")
    print(remote.process, remote.number, remote.subprotocol, remote.group, remote.closed)


def use_clients() -> None:
    try:
        with gows.connect("ws://localhost:8080/chat/a", subprotocols=["chat"], timeout=5.0) as ws:
            blocking: gows.BlockingWebSocket = ws
            message: str | bytes = blocking.recv(timeout=1.0)
            for message in blocking:
                print(message)
    except gows.HandshakeError as error:
        status: int = error.status
        print(status, error.reason, error.headers, error.body)
    except gows.ProxyError as refused:
        answered: int | None = refused.status
        print(answered, refused.temporary)
    except (gows.ConnectTimeoutError, gows.ConnectError, gows.ReceiveTimeoutError) as failure:
        print(str(failure))
    except gows.ConnectionClosedError as closed:
        print(closed.code, closed.reason)
    other_ws: gows.WebSocket = gows.connect("ws://localhost/", gows.Handler())
    gows.connect("ws://localhost/", gows.Handler(), wait=False)
    proxy = gows.Proxy("https://proxy.example.com", ssl_context=ssl.create_default_context())
    gows.connect("ws://localhost/", gows.Handler(), proxy=proxy, redirects=5, cookies={"session": "x"})
    gows.connect(lambda: "ws://localhost/", proxy=None, cookies=lambda: {"session": "x"}).close()
    gows.connect("ws://localhost/", proxy="socks5h://localhost").close()
    policy = gows.Reconnect(initial=1.0, attempts=3)
    client: gows.ReconnectingClient = gows.connect("ws://localhost/", gows.Handler(), reconnect=policy)
    client.ws.write_string(str(other_ws.closed))
    client.stop()
    ended: bool = client.wait(1.0)
    print(ended, client.connected, client.stopped, client.error)
    with gows.TopicClient("ws://localhost/live", reconnect=policy, timeout=3.0) as topics:
        subscription: gows.TopicSubscription = topics.subscribe("room.a", heard, lost=lost, history=10)
        subscription.ready.result(1.0)
        topics.publish("room.a", {"text": "hello"}, key="k", ttl=1.0).result()
        subscription.end()


def heard(data: object, topic: str) -> None:
    print(data, topic)


def lost(topic: str) -> None:
    print(topic)


class News(gows.TopicHandler):
    def on_publish(self, ws: gows.WebSocket, topic: str, data: object) -> object:
        return {"from": ws.group, "data": data}


def make_server() -> gows.Server:
    return server


def ready(addresses: list[Address]) -> None:
    print(addresses)


def errors() -> tuple[type[gows.GowsError], ...]:
    return (
        gows.BrokerError,
        gows.BufferReleasedError,
        gows.InvalidCloseCodeError,
        gows.InvalidHeaderError,
        gows.LoopClosedError,
        gows.PeerError,
        gows.ProtocolError,
        gows.TopicError,
        gows.UsageError,
    )


def on_accept(stream: Stream) -> None:
    peer: Address | None = stream.peer_address
    print(peer)


if __name__ == "__main__":
    gows.run(make_server, ":8080", processes=2, ready=ready)
