"""The routes by which clients use a server's topics: a WebSocket that speaks gows.v1, and the script that speaks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files

from gows.codes import TOPIC_SUBPROTOCOL
from gows.http.request import Request
from gows.http.response import Response
from gows.options import AcceptOptions, check_plain_function
from gows.server.accept import accept
from gows.server.server import Server
from gows.session.handler import Handler, callbacks_of
from gows.topics.subprotocol import TopicHandler

MESSAGE_RATE = 100.0
"""Messages a second that a client may send on the long run, where no options say otherwise."""
MESSAGE_BURST = 1000
"""… and at once: enough to come back with all its subscriptions, or to publish in a loop."""

SEND_BUFFER = 131072
"""Bytes that the kernel is asked to hold for a client, where no options say otherwise. By its own choice it takes
megabytes of histories for each client that asks and does not read."""


def serve_topics(
    server: Server,
    path: str,
    *,
    script: str | None = "/gows.js",
    options: AcceptOptions | None = None,
    make_handler: Callable[[Request], Handler] = lambda request: TopicHandler(),
) -> None:
    """Let clients use topics by the subprotocol gows.v1: a WebSocket at `path`, and the JavaScript client for it at
    `script` (None: nowhere). docs/reference/topics.md has the subprotocol.

    What they may is what the server's `may_subscribe` and `may_publish` allow; without those, nothing. `options`: as
    for `accept`; None: the server's, and where those have no `max_message_rate`, 100 messages a second and 1,000 at
    once (more end the connection with 1008); where they have no `send_buffer`, 128 KiB. `make_handler`: makes the
    handler of each, a TopicHandler or a class of your own; an HttpError that it raises refuses the client. Raises
    ValueError when a path is taken.
    """
    if not isinstance(server, Server):
        raise TypeError(f"serve_topics() takes a gows.Server, not {type(server).__name__}")
    check_plain_function("make_handler", make_handler)

    def upgrade(request: Request) -> None:
        handler = make_handler(request)
        callbacks_of(handler)  # while a refusal can still be answered
        accept(request, _with_limits(server.options) if options is None else _spoken(options)).serve(handler)

    server.add_route(path, upgrade)
    if script is not None:
        body = (files("gows") / "pages" / "gows.js").read_bytes()
        server.add_route(script, lambda request: Response(body, content_type="text/javascript; charset=utf-8"))


def _spoken(options: AcceptOptions) -> AcceptOptions:
    return replace(options, subprotocols=(TOPIC_SUBPROTOCOL,))


def _with_limits(options: AcceptOptions) -> AcceptOptions:
    """Return the options of a server, with a rate and a send buffer where they have none."""
    if options.max_message_rate is None:
        options = replace(options, max_message_rate=MESSAGE_RATE, message_burst=MESSAGE_BURST)
    if options.send_buffer is None:
        options = replace(options, send_buffer=SEND_BUFFER)
    return _spoken(options)
