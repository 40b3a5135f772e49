"""What one message to very many connections costs: `server.broadcast` beside a loop of `ws.write_string`.

    python -m bench.fanout [--connections 1000 10000] [--messages 20] [--size 32]

Prints the server's CPU time per delivery (its sends included), how long one message takes to all, and the longest time
that another connection waited for its echo meanwhile. The clients are a process of their own that reads and throws
away. It needs two descriptors a connection over both processes (ulimit -n).
"""

from __future__ import annotations

import argparse
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import gows

REQUEST = (
    b"GET /%s HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n"
)
FLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
PING = b"\x81\x84\0\0\0\0echo"


class Echo(gows.Handler):
    """For the one connection that measures how long others wait."""

    __slots__ = ()

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        ws.write_message(opcode, buff)


class Idle(gows.Handler):
    """For all others."""

    __slots__ = ()


def hold(port: int, count: int, flate: bool) -> None:
    """The clients' process: connect, read and throw away; one connection echoes all the time, and each line on standard
    input is answered with its longest round trip since the last one."""
    selector = selectors.DefaultSelector()
    for _ in range(count):
        sock = upgraded(port, b"idle", FLATE if flate else b"")
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
    print("ready", flush=True)
    longest = [0.0]
    threading.Thread(target=echo, args=(port, longest), daemon=True).start()
    threading.Thread(target=report, args=(longest,), daemon=True).start()
    scratch = bytearray(1 << 18)
    while True:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            if not key.fileobj.recv_into(scratch):
                os._exit(0)


def upgraded(port: int, path: bytes, fields: bytes) -> socket.socket:
    """A WebSocket."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(REQUEST % (path, fields))
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += sock.recv(4096)
    assert b" 101 " in data, data
    return sock


def echo(port: int, longest: list[float]) -> None:
    sock = upgraded(port, b"echo", b"")
    while True:
        began = time.perf_counter()
        sock.sendall(PING)
        if not sock.recv(100):
            return
        longest[0] = max(longest[0], time.perf_counter() - began)
        time.sleep(0.001)


def report(longest: list[float]) -> None:
    for _ in sys.stdin:
        print(longest[0], flush=True)
        longest[0] = 0.0
    os._exit(0)


def measure(connections: int, messages: int, size: int, flate: bool) -> None:
    """One line for each way."""
    options = gows.AcceptOptions(compression=flate, min_compress_size=0, high_water=1 << 24)
    server = gows.Server(options=options, max_connections=1 << 20)
    server.add_route("/idle", lambda request: gows.accept(request).serve(Idle()))
    server.add_route("/echo", lambda request: gows.accept(request, gows.AcceptOptions(group="echo")).serve(Echo()))
    server.start("127.0.0.1:0")
    command = [sys.executable, "-m", "bench.fanout", "--hold", str(server.addresses[0][1]), "--flate"][
        : 6 if flate else 5
    ]
    child = subprocess.Popen(
        [*command, "--connections", str(connections)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    text = "x" * size

    def loop() -> None:
        for ws in server.connections:
            if ws.group != "echo":
                ws.write_string(text)

    def in_loop() -> None:
        server.loop.call_soon(loop)

    def finish() -> None:
        """Return when all is with the kernel: a turn later than the last of it was queued."""
        while server.fanout.waiting:
            time.sleep(0.001)
        for _ in range(2):
            turned = threading.Event()
            server.loop.call_soon(turned.set)
            turned.wait()

    ways: list[tuple[str, Callable[[], None]]] = [
        ("broadcast", lambda: server.broadcast(text, group="")),
        ("a loop in a thread", loop),
        ("a loop in the loop", in_loop),
    ]
    for name, send in ways:
        best = cpu_best = float("inf")
        worst = 0.0
        for _ in range(3):
            time.sleep(0.3)
            ask(child)
            cpu, began = time.process_time(), time.perf_counter()
            for _ in range(messages):
                send()
                finish()
            spent = time.process_time() - cpu
            best = min(best, time.perf_counter() - began)
            cpu_best = min(cpu_best, spent)
            worst = max(worst, ask(child))
        kind = "deflate" if flate else "plain"
        print(
            f"{connections:6} {kind:8} {name:20} {cpu_best / messages / connections * 1e6:6.2f} us CPU per delivery"
            f" {best / messages * 1e3:7.1f} ms to all {worst * 1e3:7.1f} ms longest echo",
            flush=True,
        )
    burst(server, connections, messages, text, finish)
    child.stdin.close()
    child.wait(30)
    child.stdout.close()
    server.stop()


def burst(server: gows.Server, connections: int, messages: int, text: str, finish: Callable[[], None]) -> None:
    """Messages that come faster than they go out."""
    cpu, began = time.process_time(), time.perf_counter()
    for _ in range(messages):
        server.broadcast(text, group="")
    finish()
    spent, took = time.process_time() - cpu, time.perf_counter() - began
    print(
        f"{connections:6} {'':8} {f'{messages} broadcasts at once':20} {spent / messages / connections * 1e6:6.2f} us"
        f" CPU per delivery {took / messages * 1e3:7.1f} ms to all",
        flush=True,
    )


def ask(child: subprocess.Popen[str]) -> float:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("?\n")
    child.stdin.flush()
    return float(child.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, nargs="+", default=[1000, 10000], help="how many; several in a row")
    parser.add_argument("--messages", type=int, default=20, help="messages to all in a round; the best of three counts")
    parser.add_argument("--size", type=int, default=32, help="bytes of a message")
    parser.add_argument("--hold", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--flate", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hold:
        hold(arguments.hold, arguments.connections[0], arguments.flate)
    for connections in arguments.connections:
        for flate in (False, True):
            measure(connections, arguments.messages, arguments.size, flate)


if __name__ == "__main__":
    main()
