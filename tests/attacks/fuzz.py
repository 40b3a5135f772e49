"""Mutated requests and frames, cut anywhere and closed in any way, against servers with handlers of many kinds.

    python -m tests.attacks.fuzz [--seconds S] [--seed N]

Three servers in this process: over TCP with workers, over TLS, and without workers. Exit status 1 when one of them logs
an error, its loop ends, or something is left when all clients have gone: a stream, a lent buffer, a subscriber, a
member, a descriptor. A seed gives the same bytes; threads and the network give another run each time.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import re
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import trustme

import gows
from tests.support import wire
from tests.support.addresses import tcp

CLIENTS = 8
PATHS = ("echo", "inline", "chunk", "slow", "writer", "closer", "rate", "live", "live")
POLICIES = ("block", "drop", "drop_oldest", "latest", "close")
FIRST_BYTES = (0x81, 0x82, 0x01, 0x00, 0x80, 0x88, 0x89, 0x8A, 0xC1, 0xC2, 0x42, 0x81, 0x82, 0x81)
PAYLOADS = (
    b"",
    b"hello",
    "ä€".encode() * 9,
    b'{"type":"subscribe","topic":"a","id":1,"history":5}',
    b'{"type":"subscribe","topic":"a.*","id":2,"epoch":"x","offset":3}',
    b'{"type":"publish","topic":"a","data":{"x":1},"id":"q","key":"k"}',
    b'{"type":"unsubscribe","topic":"a"}',
    b'{"type":"presence","topic":"a","id":2}',
)
MULTIPART = (
    b'--b\r\nContent-Disposition: form-data; name="a"; filename="f"\r\n'
    b"Content-Type: text/plain\r\n\r\nfile\r\n--b--\r\n"
)
REQUESTS = (
    b"GET /s/large HTTP/1.1\r\nHost: a\r\nRange: bytes=5-\r\n\r\n",
    b"GET /s/large HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /form HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\na=b&c\r\n0\r\n\r\n",
    b"GET /form?a=b HTTP/1.1\r\nHost: a\r\nCookie: a=b; c=\xff\r\n\r\n",
    b"POST /form HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b"POST /form HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n"
    % len(MULTIPART)
    + MULTIPART,
    b"GET /-/live HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /form HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
)


class Echo(gows.Handler):
    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        with contextlib.suppress(gows.QueueFullError, gows.ConnectionClosedError):
            ws.write_message(opcode, buff)


class Inline(Echo):
    inline = True


class Chunks(gows.Handler):
    def on_chunk(self, ws: gows.WebSocket, opcode: gows.Opcode, fin: bool, buff: gows.ByteBuffer) -> None:
        len(buff)


class Slow(Echo):
    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        time.sleep(0.002)
        super().on_message(ws, opcode, buff)

    def on_ping(self, ws: gows.WebSocket, data: bytes) -> None:
        pass

    def on_drain(self, ws: gows.WebSocket) -> None:
        pass


class Writer(gows.Handler):
    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        with contextlib.suppress(gows.GowsError), ws.next_writer(gows.Opcode.BINARY) as writer:
            for _ in range(3):
                writer.write(b"z" * 20_000)


class Closer(gows.Handler):
    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        (ws.close if len(buff) % 2 else ws.close_handshake)()


def make_server(folder: str, context: ssl.SSLContext | None, workers: int) -> gows.Server:
    """A server with a route for each kind of handler and of overflow policy; started."""
    server = gows.Server(
        ssl_context=context,
        workers=workers,
        head_timeout=2.0,
        body_timeout=2.0,
        keep_alive_timeout=3.0,
        health=True,
        may_subscribe=lambda ws, topic: True,
        may_publish=lambda ws, topic: True,
        keep=lambda topic: 20,
        presence=lambda ws, topic: {"a": 1},
        options=gows.AcceptOptions(
            compression=True,
            max_message_size=5000,
            client_context_takeover=True,
            server_context_takeover=True,
            ping_interval=1.0,
            ping_timeout=1.0,
            close_timeout=1.0,
            write_timeout=2.0,
        ),
        admission=gows.Admission(per_ip=5000),
    )
    kinds: dict[str, type[gows.Handler]] = {
        "echo": Echo,
        "inline": Inline,
        "chunk": Chunks,
        "slow": Slow,
        "writer": Writer,
        "closer": Closer,
    }
    for name, kind in kinds.items():
        server.add_route(f"/{name}", serving(kind))
    for policy in POLICIES:
        options = gows.AcceptOptions(
            overflow=policy, high_water=5000, low_water=1000, write_timeout=1.0, compression=True
        )
        server.add_route(f"/{policy}", serving(Echo, options))
    rates = gows.AcceptOptions(max_message_rate=50, max_byte_rate=5000, compression=True)
    server.add_route("/rate", serving(Echo, rates))
    server.add_route(
        "/form",
        lambda request: repr((request.form, request.files, request.query, request.cookies)),
        methods=["GET", "POST"],
    )
    server.static("/s", folder)
    gows.serve_topics(server, "/live")
    server.start("127.0.0.1:0")
    return server


def serving(kind: type[gows.Handler], options: gows.AcceptOptions | None = None) -> Callable[[gows.Request], None]:
    """A view that accepts every upgrade."""
    return lambda request: gows.accept(request, options).serve(kind())


class Client:
    """One stranger: connections of all kinds, one after the other."""

    def __init__(self, dice: random.Random, servers: list[gows.Server], context: ssl.SSLContext) -> None:
        self._dice = dice
        self._servers = servers
        self._context = context
        self.connections = 0

    def run(self, until: float) -> None:
        """Until that time."""
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                self._connection()

    def _connection(self) -> None:
        dice = self._dice
        server = dice.choice(self._servers)
        sock = socket.create_connection(tcp(server.addresses[0]))
        try:
            sock.settimeout(dice.choice((0.02, 0.2)))
            if server is self._servers[1] and dice.random() < 0.9:
                sock = self._context.wrap_socket(sock, do_handshake_on_connect=dice.random() < 0.95)
            if dice.randrange(10) < 7:
                self._websocket(sock)
            else:
                self._http(sock)
            self.connections += 1
            how = dice.randrange(5)
            if how == 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif how == 1:
                sock.shutdown(socket.SHUT_WR)
            elif how == 2:
                time.sleep(dice.random() * 0.05)
        finally:
            sock.close()

    def _websocket(self, sock: socket.socket) -> None:
        dice = self._dice
        more = dice.choice(("", "; client_no_context_takeover", "; server_max_window_bits=9; client_max_window_bits"))
        path = dice.choice((*PATHS, *POLICIES))
        request = wire.request(f"/{path}", wire.DEFLATE + more, "Sec-WebSocket-Protocol: gows.v1")
        sock.sendall(self._mutated(request) if dice.random() < 0.05 else request)
        if dice.random() < 0.9:
            sock.recv(1000)
        for _ in range(dice.choice((1, 3, 10, 60))):
            frame = self._frame()
            sock.sendall(self._mutated(frame) if dice.random() < 0.3 else frame)
            if dice.random() < 0.3:
                with contextlib.suppress(TimeoutError):
                    sock.recv(dice.choice((1, 65536)))

    def _http(self, sock: socket.socket) -> None:
        dice = self._dice
        request = dice.choice(REQUESTS)
        sock.sendall(b"".join(self._mutated(request) for _ in range(dice.choice((1, 1, 3, 30)))))
        with contextlib.suppress(TimeoutError):
            sock.recv(dice.choice((1, 100, 65536)))

    def _frame(self) -> bytes:
        dice = self._dice
        first = dice.choice((*FIRST_BYTES, dice.randrange(256)))
        payload = dice.choice((*PAYLOADS, bytes(dice.randrange(3000))))
        if first & 0x40:
            deflater = zlib.compressobj(dice.choice((1, 9)), zlib.DEFLATED, -dice.choice((9, 15)))
            payload = (deflater.compress(payload) + deflater.flush(dice.choice((2, 3, 4))))[:-4]
        return wire.frame(first & 15, payload, fin=first >> 7 == 1, rsv=first >> 4 & 7, key=dice.randbytes(4))

    def _mutated(self, data: bytes) -> bytes:
        """With a byte or two changed, or as it is."""
        dice = self._dice
        changed = bytearray(data)
        for _ in range(dice.choice((0, 0, 0, 0, 1, 2))):
            if changed:
                changed[dice.randrange(len(changed))] = dice.randrange(256)
        return bytes(changed)


class Log(logging.Handler):
    """Counts what is logged as a warning or worse; the numbers in it are taken out."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: Counter[tuple[str, str]] = Counter()
        self.traces: dict[tuple[str, str], str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        key = record.levelname, re.sub(r"0x[0-9a-f]+|\d+", "N", record.getMessage())[:150]
        self.lines[key] += 1
        if record.exc_info and key not in self.traces:
            self.traces[key] = logging.Formatter().formatException(record.exc_info)


def left(server: gows.Server) -> dict[str, int]:
    """What a server still has of connections; all of it 0 when none is left."""
    return {
        "streams": server.loop.live_streams,
        "buffers": server.loop.buffers.lent,
        "subscribers": len(server.subscriptions._of),
        "topics": len(server.subscriptions._members),
        "members": len(server.publishing.presence._ids),
        "backlogs": len(server.overflow.backlogs),
        "clients": server.admission.clients,
        "names": len(server.loop.peer_names),
        "waiting": server.fanout.waiting + server.news.waiting,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.fuzz", description="Mutated bytes over sockets.")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    log = Log()
    logging.getLogger().addHandler(log)
    authority = trustme.CA()
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(own)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    theirs.check_hostname = False
    theirs.verify_mode = ssl.CERT_NONE
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "large").write_bytes(bytes(3_000_000))
        servers = [make_server(folder, None, 3), make_server(folder, own, 2), make_server(folder, None, 0)]
        descriptors = len(os.listdir("/proc/self/fd"))
        clients = [Client(random.Random(arguments.seed * 100 + n), servers, theirs) for n in range(CLIENTS)]
        threads = [
            threading.Thread(target=client.run, args=(time.monotonic() + arguments.seconds,)) for client in clients
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        end = time.monotonic() + 15
        while time.monotonic() < end and any(any(left(server).values()) for server in servers):
            time.sleep(0.1)
        faults = [f"{name}: {number} left" for server in servers for name, number in left(server).items() if number]
        faults += ["a loop has ended" for server in servers if not server.loop.running]
        more = len(os.listdir("/proc/self/fd")) - descriptors
        if more > 0:
            faults.append(f"{more} descriptors more than before")
        for server in servers:
            server.stop()
    for (level, text), count in log.lines.items():
        if level != "WARNING":
            faults.append(f"{count} times in the log: {level}: {text}")
    print(f"seed {arguments.seed}: {sum(client.connections for client in clients)} connections")
    for key, count in log.lines.most_common(10):
        print(f"{count} {key[0]} {key[1]}\n{log.traces.get(key, '')}".rstrip())
    for fault in faults:
        print("fault:", fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
