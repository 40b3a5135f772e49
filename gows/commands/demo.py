"""`gows demo`: a chat with rooms on one port, for everybody who opens the address.

`/` asks for a name and a room, `/index?user=NAME&room=ROOM` is the page, `/conn?user=NAME&room=ROOM` the WebSocket. It
speaks gows.v1 (docs/reference/topics.md), with the script at `/gows.js`: a room is a topic, its latest messages are
kept, and who is in it is its presence. A client publishes {"text": ...}; the server says by what name, and when. So
there is no state here: with --processes it runs on several CPUs, and with --broker on several machines.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import secrets
import sys
import time
import unicodedata
from functools import partial
from importlib.resources import files
from string import Template
from typing import Any
from urllib.parse import urlencode

from gows import (
    AcceptOptions,
    Keep,
    NotAllowedError,
    Request,
    Response,
    Server,
    TopicHandler,
    WebSocket,
    serve_topics,
)
from gows.brokers.redis.broker import RedisBroker
from gows.commands.echo import add_processes
from gows.commands.screen import say
from gows.errors import HttpError, UsageError
from gows.processes import run as run_processes
from gows.processes.interpreter import dedicate
from gows.topics.presence import Member

NAME_LIMIT = 40
"""Longest name, in characters, of somebody and of a room; longer ones are cut."""

MESSAGE_LIMIT = 4096
"""Longest message, in bytes of UTF-8; longer ones are refused."""

TOKEN_LIMIT = 32
"""Longest secret of a page, and token by which it knows a message of its own again."""

ROOM = "lobby"
"""Where you are if you do not say where."""

KEEP = Keep(50, 3600.0)
"""What of a room is kept for those who come later: the latest 50 messages, of an hour."""

OPTIONS = AcceptOptions(
    compression=True,
    min_compress_size=512,
    max_message_size=16 * MESSAGE_LIMIT,
    overflow="close",  # who does not read comes back for what was missed, instead of not knowing of it
    close_timeout=1.0,  # Ctrl-C waits for every client to answer, but not longer than this
)

PAGE_HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
)

ASSETS = {
    "/chat.css": "text/css; charset=utf-8",
    "/chat.js": "text/javascript; charset=utf-8",
    "/chat.svg": "image/svg+xml",
}


def clean_name(wanted: str) -> str:
    """Return the name that a guest gets, or a room has, for the name `wanted` that was asked for: one line of printable
    characters; empty if nothing is left.

    Invisible characters go, and the two ways to write an accent become one: names that look the same are the same.
    """
    line = " ".join(unicodedata.normalize("NFC", wanted).split())
    return "".join(character for character in line if character.isprintable())[:NAME_LIMIT].strip()


def topic_of(room: str) -> str:
    """Return the topic of a room, whatever characters its name has: 40 of them make 219 at most, and a topic may have
    255."""
    return "room." + base64.urlsafe_b64encode(room.encode()).rstrip(b"=").decode()


def person_of(secret: str) -> str:
    """Return what everybody is told of a page's secret, by which the page knows itself again: whoever has this cannot
    come as that page. Empty if there is none."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()[:TOKEN_LIMIT] if secret else ""


class Guest(TopicHandler):
    """One open page. `secret`: the page's, which it tells nobody but us."""

    __slots__ = ("name", "person", "topic", "wanted")

    def __init__(self, wanted: str, topic: str, secret: str) -> None:
        self.wanted = wanted
        self.topic = topic
        self.person = person_of(secret)
        self.name: str | None = None
        """What it is called; None: it has not come to its room yet."""

    def on_open(self, ws: WebSocket) -> None:
        ws.data = self
        super().on_open(ws)

    def on_publish(self, ws: WebSocket, topic: str, data: Any) -> dict[str, Any]:
        """Return a message with its author and its time."""
        if self.name is None:
            raise NotAllowedError("Nobody is heard who is not in the room: subscribe first.")
        text = data.get("text") if isinstance(data, dict) else None
        if not isinstance(text, str):
            raise ValueError('A message is {"text": "..."}.')
        size = len(text.encode())
        if size > MESSAGE_LIMIT:
            raise ValueError(f"This message is too long: {size:,} of {MESSAGE_LIMIT:,} bytes.")
        if not text.strip():
            raise ValueError("There is nothing in this message.")
        said = {"name": self.name, "text": text, "time": round(time.time(), 3)}
        token = data.get("token")
        if isinstance(token, str):  # a page that comes back gets its own messages, too, and has them already
            said["token"] = token[:TOKEN_LIMIT]
            said["by"] = self.person  # for others see the token, and may send it as well
        return said

    def come(self, members: list[Member]) -> dict[str, str]:
        """Bring the guest into its room, and return what the `members` there are told of it. Its name gets a number if
        a member has the same name; two guests who come at the same moment may have the same."""
        if self.name is None:
            taken = {member.info["name"] for member in members}
            name, number = self.wanted, 1
            while name in taken:
                number += 1
                name = f"{self.wanted} ({number})"
            self.name = name
        return {"name": self.name, "person": self.person}


def make_broker(url: str) -> RedisBroker:
    """Make the broker that `--broker` names. Raises ValueError for a URL that cannot be, ImportError without
    redis-py."""
    try:
        return RedisBroker(url, prefix="gows-demo")
    except ValueError as error:  # which does not say what it is about
        raise ValueError(f"--broker: {error}") from None


def make_server(workers: int, broker: str | None = None) -> Server:
    """Return the demo's server, not yet listening. Raises as `make_broker`."""

    def is_own_room(ws: WebSocket, topic: str) -> bool:
        guest: Guest = ws.data
        return topic == guest.topic

    def describe(ws: WebSocket, topic: str) -> dict[str, str]:
        guest: Guest = ws.data
        return guest.come(server.members(topic))

    server = Server(
        workers=workers,
        may_subscribe=is_own_room,
        may_publish=is_own_room,
        keep=lambda topic: KEEP,
        presence=describe,
        broker=None if broker is None else make_broker(broker),
    )
    pages = files("gows") / "pages"
    front_page = Template((pages / "join.html").read_text(encoding="utf-8"))
    chat_page = Template((pages / "chat.html").read_text(encoding="utf-8"))

    @server.route("/")
    def front(request: Request) -> Response:
        return Response.html(front_page.substitute(room=html.escape(room_of(request))), headers=PAGE_HEADERS)

    @server.route("/index")
    def index(request: Request) -> Response:
        name, room = clean_name(request.form_value("user")), room_of(request)
        if not name:
            return Response.redirect("./?" + urlencode({"room": room}))
        secret = secrets.token_hex(TOKEN_LIMIT // 2)
        shown = {"user": html.escape(name), "room": html.escape(room), "topic": topic_of(room), "limit": MESSAGE_LIMIT}
        shown |= {"secret": secret, "person": person_of(secret)}
        return Response.html(chat_page.substitute(shown), headers=PAGE_HEADERS)

    def make_guest(request: Request) -> Guest:
        name = clean_name(request.form_value("user"))
        if not name:
            raise HttpError(400, "Nobody comes in without a name: /conn?user=NAME&room=ROOM")
        return Guest(name, topic_of(room_of(request)), request.form_value("secret")[:TOKEN_LIMIT])

    serve_topics(server, "/conn", options=OPTIONS, make_handler=make_guest)
    for path, content_type in ASSETS.items():
        body = (pages / path[1:]).read_bytes()
        server.route(path)(partial(asset, body, content_type))
    return server


def room_of(request: Request) -> str:
    """Return the room that is asked for."""
    return clean_name(request.form_value("room")) or ROOM


def asset(body: bytes, content_type: str, request: Request) -> Response:
    """Answer with one of the page's files."""
    return Response(body, content_type=content_type, headers=PAGE_HEADERS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gows demo`."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on, 0.0.0.0 for all (default: %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=8080, help="port to listen on, 0 for a free one (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=4, help="threads that handle messages (default: %(default)s)")
    add_processes(parser)
    parser.add_argument(
        "--broker",
        metavar="URL",
        help="a Redis, redis://HOST:PORT/DB: all demos that use it have the same rooms (needs gows[redis])",
    )


def run(args: argparse.Namespace) -> int:
    """Serve the chat until Ctrl-C; 1 when the address cannot be listened on, or there cannot be such a broker."""
    address = (args.host, args.port)

    def listening(addresses: list[Any]) -> None:
        host, port = addresses[0][:2]
        say(f"Open {url(host, port)} in two browser tabs and chat. Ctrl-C ends it.")

    try:
        if args.processes is not None:
            if args.broker is not None:
                make_broker(args.broker)  # a fault of it is said here, once
            run_processes(
                partial(make_server, args.workers, args.broker), address, processes=args.processes, ready=listening
            )
        else:
            server = make_server(args.workers, args.broker)
            server.listen(address)
            dedicate()
            server.listen_and_serve(ready=lambda: listening(server.addresses))
    except (ImportError, OSError, UsageError, ValueError) as error:
        print(f"gows demo: {error.strerror if isinstance(error, OSError) else error}", file=sys.stderr)
        return 1
    say("bye")
    return 0


def url(host: str, port: int) -> str:
    """Return the address to open for a server that listens on `host`; for one that listens on every address, the local
    one."""
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
