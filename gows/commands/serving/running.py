"""Running: a server in this process, or in several."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Sequence
from functools import partial

from gows.commands.serving.application import look_for
from gows.commands.serving.building import make_server, tls
from gows.commands.serving.options import OptionError, ServeOptions
from gows.processes import run as run_processes
from gows.processes.interpreter import dedicate
from gows.processes.listening import Place
from gows.reactor.address import Address, SocketAddress

logger = logging.getLogger("gows")


def places(options: ServeOptions) -> list[Place]:
    """Return where to listen. Raises OptionError for a descriptor that is no socket."""
    if options.unix is not None:
        return [Address("", 0, os.path.abspath(options.unix))]
    if options.fd:
        return [inherited(number, options.backlog) for number in options.fd]
    return [Address(options.host, options.port)]


def inherited(number: int, backlog: int) -> socket.socket:
    """Return a socket that this process was started with, listening. Raises OptionError."""
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            raise OptionError(f"--fd: descriptor {number} is no socket")
        sock = socket.socket(fileno=number)
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.listen(backlog)
    except OSError as error:
        raise OptionError(f"--fd: descriptor {number} cannot be used: {error.strerror}") from None
    return sock


def announce(addresses: Sequence[SocketAddress], *, secure: bool) -> None:
    """Say where the server listens."""
    scheme = "https" if secure else "http"
    for address in addresses:
        if isinstance(address, tuple):
            host, port = address
            logger.info("serving at %s://%s:%d; Ctrl-C ends it", scheme, f"[{host}]" if ":" in host else host, port)
        else:
            logger.info("serving at unix:%s; Ctrl-C ends it", address)


def serve(options: ServeOptions) -> None:
    """Serve in this process, until a signal comes. Raises LoadError, OptionError, OSError."""
    server = make_server(options)
    for place in places(options):
        server.listen(place, backlog=options.backlog, mode=options.unix_mode)
    dedicate()
    server.listen_and_serve(
        ready=lambda: announce(server.addresses, secure=server.ssl_context is not None),
        timeout=options.timeout,
        drain=options.drain,
        not_ready=options.not_ready,
    )


def serve_in_processes(options: ServeOptions) -> None:
    """Serve in several processes, until a signal comes. Each imports the application. Raises LoadError, OptionError,
    OSError; SystemExit if no process could begin to serve, which was logged."""
    assert options.processes is not None
    look_for(options)  # what is wrong with it is said here, once
    tls(options)
    run_processes(
        partial(make_server, options),
        places(options),
        processes=options.processes,
        timeout=options.timeout,
        drain=options.drain,
        not_ready=options.not_ready,
        ready=partial(announce, secure=options.certificate is not None),
        backlog=options.backlog,
        mode=options.unix_mode,
    )
