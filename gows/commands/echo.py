"""Echo server: answers on every path, and sends every data message back with its type.

The standard target of conformance suites and load generators: messages up to 16 MiB, one handler object
per connection, nothing printed per message. What comes on `--broadcast-path` goes to everybody there instead, in all
processes.
"""

from __future__ import annotations

import argparse
import ssl
import sys
from dataclasses import replace
from functools import partial
from typing import Any

from gows.bytebuffer import ByteBuffer
from gows.codes import Opcode
from gows.commands.screen import say
from gows.errors import UsageError
from gows.http.request import Request
from gows.options import AcceptOptions
from gows.processes import run as run_processes
from gows.processes.interpreter import dedicate
from gows.server.accept import accept
from gows.server.server import Server
from gows.session.handler import Handler
from gows.session.websocket import WebSocket

MAX_MESSAGE_SIZE = 16 << 20

_TEXT = Opcode.TEXT  # to look a member of an enum up takes a tenth of a microsecond


class Echo(Handler):
    """One per connection, as a user's handler would be."""

    def __init__(self) -> None:
        self.received = 0

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self.received += 1
        if opcode is _TEXT:
            ws.write_string(buff.get_string())
        else:
            ws.write_message(opcode, buff)


class Broadcast(Handler):
    """Sends what comes to everybody of its group, its sender included."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        data = buff.get_string() if opcode is _TEXT else buff.get_bytes().tobytes()
        self._server.broadcast(data, group=ws.group)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gows echo`."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=9001, help="port, 0 for a free one (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=4, metavar="N", help="worker threads; 0: callbacks run in the loop (default: 4)"
    )
    add_processes(parser)
    parser.add_argument(
        "--drain",
        type=float,
        metavar="SECONDS",
        help="at the end, close connections over so many seconds instead of all at once",
    )
    parser.add_argument(
        "--not-ready",
        type=float,
        metavar="SECONDS",
        help="at the end, say so at /-/ready for so many seconds before anything is closed",
    )
    parser.add_argument(
        "--broadcast-path", metavar="PATH", help="what comes on this path goes to everybody there (e.g. /broadcast)"
    )
    parser.add_argument("--metrics", action="store_true", help="serve /-/metrics for Prometheus (gows[metrics])")
    parser.add_argument("--certificate", metavar="FILE", help="serve over TLS: the certificate and its chain, PEM")
    parser.add_argument("--key", metavar="FILE", help="its private key, PEM (default: in the same file)")
    parser.add_argument("--compression", action="store_true", help="negotiate permessage-deflate")
    parser.add_argument(
        "--context-takeover", action="store_true", help="with --compression: keep windows between messages"
    )
    parser.add_argument(
        "--min-compress-size",
        type=int,
        default=0,
        metavar="BYTES",
        help="compress messages from this size (default: 0)",
    )
    parser.add_argument(
        "--max-message-size", type=int, default=MAX_MESSAGE_SIZE, metavar="BYTES", help="default: 16 MiB"
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add the option `--processes`."""
    parser.add_argument(
        "--processes",
        type=processes,
        metavar="N",
        help="worker processes on the port, 'auto': one a CPU (default: no others, the command itself serves)",
    )


def processes(text: str) -> int | str:
    """Return a number of processes, or "auto"."""
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number from 1, or 'auto', not {text!r}")
    return int(text)


def ssl_context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    """Return the TLS settings, if --certificate asks for TLS. Raises ValueError for files that hold no certificate and
    key."""
    if certificate is None:
        if key is not None:
            raise ValueError("--key needs --certificate")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # which names no file
        files = certificate if key is None else f"{certificate}, {key}"
        raise ValueError(f"cannot use the certificate and key in {files}: {error.strerror or error}") from None
    return context


def server(arguments: argparse.Namespace) -> Server:
    """Return the echo server as the command line asks for it."""
    options = AcceptOptions(
        check_origin=lambda request: True,
        compression=arguments.compression,
        server_context_takeover=arguments.context_takeover,
        client_context_takeover=arguments.context_takeover,
        min_compress_size=arguments.min_compress_size,
        max_message_size=arguments.max_message_size,
        max_fragments=1 << 20,  # conformance suites send 65,536 fragments in a message
    )
    echo = Server(
        workers=arguments.workers,
        options=options,
        metrics=arguments.metrics,
        health=arguments.not_ready is not None,
        ssl_context=ssl_context(arguments.certificate, arguments.key),
    )
    if arguments.broadcast_path is not None:
        everybody = replace(options, group=arguments.broadcast_path)

        @echo.route(arguments.broadcast_path)
        def gather(request: Request) -> None:
            accept(request, everybody).serve(Broadcast(echo))

    @echo.route("/{path:path}")
    def upgrade(request: Request, path: str) -> None:
        accept(request, options).serve(Echo())

    return echo


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    address = (arguments.host, arguments.port)

    def listening(addresses: list[Any]) -> None:
        say(f"listening on {addresses[0][0]}:{addresses[0][1]}")

    try:
        if arguments.processes is not None:
            # a fault of it is said here, once; each worker loads what is there when it starts
            ssl_context(arguments.certificate, arguments.key)
            run_processes(
                partial(server, arguments),
                address,
                processes=arguments.processes,
                drain=arguments.drain,
                not_ready=arguments.not_ready,
                ready=listening,
            )
            return 0
        echo = server(arguments)
        echo.listen(address)
        dedicate()
        echo.listen_and_serve(
            ready=lambda: listening(echo.addresses), drain=arguments.drain, not_ready=arguments.not_ready
        )
    except (OSError, ValueError, UsageError) as error:
        print(f"gows echo: {error}", file=sys.stderr)
        return 1
    return 0
