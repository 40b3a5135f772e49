"""`gows demo`: a chat room on one port, for everybody who opens the address.

`/` asks for a name, `/index?user=NAME` is the page, `/conn?user=NAME` the WebSocket. A client sends the plain text of a
message; what it receives is JSON: `welcome` (its name, who is here, the size limit), `join`, `leave`, `message`, and
`error` (about its own last message, which nobody else got). Every text it sends is answered by exactly one `message`
or `error`. It runs in one process: the room is in its memory.
"""

from __future__ import annotations

import argparse
import html
import json
import sys
import threading
import time
import unicodedata
from functools import partial
from importlib.resources import files
from string import Template

from gows import (
    AcceptOptions,
    ByteBuffer,
    CloseCode,
    Handler,
    Opcode,
    Request,
    Response,
    Server,
    WebSocket,
    accept,
)
from gows.errors import ConnectionClosedError, HttpError, QueueFullError
from gows.processes.interpreter import dedicate

NAME_LIMIT = 40
"""Longest name, in characters; longer ones are cut."""

MESSAGE_LIMIT = 4096
"""Longest message, in bytes of UTF-8; longer ones are answered with an error."""

OPTIONS = AcceptOptions(
    compression=True,
    min_compress_size=512,
    max_message_size=16 * MESSAGE_LIMIT,
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
    """The name somebody gets who asks for `wanted`: one line of printable characters; empty if nothing is left.

    Invisible characters go, and the two ways to write an accent become one: names that look the same are the same.
    """
    line = " ".join(unicodedata.normalize("NFC", wanted).split())
    return "".join(character for character in line if character.isprintable())[:NAME_LIMIT].strip()


class Room:
    """Who is here. Every method may be called from any thread.

    All is said under one lock, so that everybody sees the same order of messages, joins and leaves. It is held only
    shortly, because a write only queues: a client that does not read is let go when its queue is full.
    """

    __slots__ = ("_lock", "members")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.members: dict[str, WebSocket] = {}

    def join(self, ws: WebSocket, wanted: str) -> str:
        """Let `ws` in; returns the name it got: `wanted`, with a number behind it if somebody else is called so."""
        with self._lock:
            name, number = wanted, 1
            while name in self.members:
                number += 1
                name = f"{wanted} ({number})"
            self._tell_all(type="join", name=name, time=now())
            self.members[name] = ws
            tell(ws, encode(type="welcome", name=name, people=list(self.members), limit=MESSAGE_LIMIT))
        return name

    def leave(self, ws: WebSocket, name: str) -> None:
        """Forget `ws`, if it is in the room under this name."""
        with self._lock:
            if self.members.get(name) is ws:
                del self.members[name]
                self._tell_all(type="leave", name=name, time=now())

    def say(self, name: str, text: str) -> None:
        """Tell everybody what `name` said."""
        with self._lock:
            self._tell_all(type="message", name=name, text=text, time=now())

    def _tell_all(self, **event: object) -> None:
        line = encode(**event)
        for ws in self.members.values():
            tell(ws, line)


def now() -> float:
    """Seconds since 1970, to the millisecond, as the page takes them."""
    return round(time.time(), 3)


def encode(**event: object) -> str:
    """What travels to the page."""
    return json.dumps(event, ensure_ascii=False)


def tell(ws: WebSocket, line: str) -> None:
    """Queue `line` for one client; one that is too slow is let go (1013), one that is gone hears nothing."""
    try:
        ws.write_string(line)
    except QueueFullError:
        ws.close_handshake(CloseCode.TRY_AGAIN_LATER, "too slow")
    except ConnectionClosedError:
        pass  # its on_close comes, and takes it out of the room


class Member(Handler):
    """One open page."""

    __slots__ = ("_name", "_room")

    def __init__(self, room: Room, wanted: str) -> None:
        self._room = room
        self._name = wanted

    def on_open(self, ws: WebSocket) -> None:
        self._name = self._room.join(ws, self._name)

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        if opcode is not Opcode.TEXT:
            problem = "Only text can be said here."
        elif len(buff) > MESSAGE_LIMIT:
            problem = f"This message is too long: {len(buff):,} of {MESSAGE_LIMIT:,} bytes."
        else:
            text = buff.get_string()
            if text.strip():
                self._room.say(self._name, text)
                return
            problem = "There is nothing in this message."
        tell(ws, encode(type="error", text=problem))

    def on_close(self, ws: WebSocket) -> None:
        self._room.leave(ws, self._name)


def make_server(room: Room, workers: int) -> Server:
    """The demo's server, not yet listening."""
    server = Server(workers=workers)
    pages = files("gows") / "pages"
    front_page = (pages / "join.html").read_text(encoding="utf-8")
    chat_page = Template((pages / "chat.html").read_text(encoding="utf-8"))

    @server.route("/")
    def front(request: Request) -> Response:
        return Response.html(front_page, headers=PAGE_HEADERS)

    @server.route("/index")
    def index(request: Request) -> Response:
        name = clean_name(request.form_value("user"))
        if not name:
            return Response.redirect("./")
        return Response.html(chat_page.substitute(user=html.escape(name)), headers=PAGE_HEADERS)

    @server.route("/conn")
    def connect(request: Request) -> None:
        name = clean_name(request.form_value("user"))
        if not name:
            raise HttpError(400, "Nobody comes in without a name: /conn?user=NAME")
        accept(request, OPTIONS).serve(Member(room, name))

    for path, content_type in ASSETS.items():
        body = (pages / path[1:]).read_bytes()
        server.route(path)(partial(asset, body, content_type))
    return server


def asset(body: bytes, content_type: str, request: Request) -> Response:
    """Answer with one of the page's files."""
    return Response(body, content_type=content_type, headers=PAGE_HEADERS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `gows demo` takes."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on, 0.0.0.0 for all (default: %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=8080, help="port to listen on, 0 for a free one (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=4, help="threads that handle messages (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Serve the chat until Ctrl-C; 1 when the address cannot be listened on."""
    try:
        server = make_server(Room(), args.workers)
        bound = server.listen((args.host, args.port))
    except (OSError, ValueError) as error:
        print(f"gows demo: {error.strerror if isinstance(error, OSError) else error}", file=sys.stderr)
        return 1
    invitation = f"Open {url(bound[0], bound[1])} in two browser tabs and chat. Ctrl-C ends it."
    dedicate()
    server.listen_and_serve(ready=lambda: print(invitation, flush=True))
    print("bye")
    return 0


def url(host: str, port: int) -> str:
    """The address to open for a server that listens on `host`; for one that listens on every address, the local one."""
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
