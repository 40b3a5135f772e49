"""Building: the server around an application, as the options ask for it."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from ssl import SSLContext
from typing import Any

from gows.commands.echo import ssl_context
from gows.commands.serving.application import KINDS, LoadError, load
from gows.commands.serving.options import OptionError, ServeOptions, flag
from gows.errors import UsageError
from gows.options import AcceptOptions
from gows.reactor.hosting import ASYNCIO_LOOP
from gows.server.admission import Admission
from gows.server.server import Server
from gows.server.settings import ServerOptions

logger = logging.getLogger("gows")

OF_A_SERVER = (
    "workers",
    "trusted_proxies",
    "max_body_size",
    "keep_alive",
    "max_message_size",
    "ping_interval",
    "ping_timeout",
    "compression",
)
"""Options that a gows.Server has as settings of its own."""

OF_ASGI = ("root_path", "lifespan")


def make_server(options: ServeOptions) -> Server:
    """Load the application, and return a server for it. Raises LoadError, OptionError."""
    context = tls(options)
    kind, app = load(options)
    for name in OF_ASGI:
        if kind != "asgi" and name in options.given:
            raise OptionError(f"{flag(name)} is for ASGI applications, and {options.app} is {KINDS[kind]}")
    try:
        server = _configured(app, options) if kind == "gows" else Server(options=_settings(kind, app, options))
    except (UsageError, TypeError, ValueError) as error:
        raise OptionError(str(error)) from None
    if context is not None:
        server.ssl_context = context
    if options.max_connections is not None:
        server.max_connections = options.max_connections
    server.health = True  # as with several processes
    logger.info("%s is %s", options.app, KINDS[kind])
    return server


def tls(options: ServeOptions) -> SSLContext | None:
    """Return the TLS settings, if --certificate asks for TLS. Raises OptionError for files that cannot be used."""
    try:
        return ssl_context(options.certificate, options.key)
    except ValueError as error:
        raise OptionError(str(error)) from None


def _configured(server: Server, options: ServeOptions) -> Server:
    """Return a Server that the program has made: what has to be said when it is made is the program's to say."""
    for name in OF_A_SERVER:
        if name in options.given:
            raise OptionError(f"{options.app} is a gows.Server, which has settings of its own: set {flag(name)} there")
    if server.draining:
        raise LoadError(f"{options.app} was stopped")
    if "loop" in options.given:
        server.loop.shared[ASYNCIO_LOOP] = asyncio_loop(options.loop)
    return server


def _settings(kind: str, app: Any, options: ServeOptions) -> ServerOptions:
    accept = AcceptOptions(
        max_message_size=options.max_message_size,
        ping_interval=options.ping_interval or None,
        ping_timeout=options.ping_timeout or None,
        compression=options.compression,
    )
    settings: dict[str, Any] = {
        kind: app,
        "options": accept,
        "workers": options.workers,
        "keep_alive_timeout": options.keep_alive,
        "admission": Admission(trusted_proxies=options.trusted_proxies),
        "asyncio_loop": asyncio_loop(options.loop),
    }
    if options.max_body_size is not None:
        settings["max_body_size"] = options.max_body_size
    settings |= {name: getattr(options, name) for name in OF_ASGI if name in options.given}
    return ServerOptions(**settings)


def asyncio_loop(choice: str) -> str:
    """Return whose asyncio loop is meant by --loop. Raises OptionError for uvloop that is not installed."""
    installed = find_spec("uvloop") is not None
    if choice == "uvloop" and not installed:
        raise OptionError('--loop uvloop needs uvloop: pip install "gows[uvloop]"')
    if choice == "auto":
        return "uvloop" if installed else "asyncio"
    return choice
