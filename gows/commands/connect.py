"""Talk to a WebSocket server. Each line typed is sent as a text message; what comes is printed behind "<".

  /ping             ask for a sign of life, and say how long it took
  /binary 00ff41    send bytes, written in hexadecimal
  /close 4000 bye   close with this code and reason (default: 1000)
  /quit             close and leave; so do Ctrl-D and Ctrl-C
  //text            send a text that begins with a slash

With a pipe for input every line is sent, replies are printed until none came for --wait seconds, then it closes.
URLs: ws://, wss://, ws+unix:///path/of/socket:/target. The environment variable SSL_CERT_FILE may name a file with
other authorities; HTTPS_PROXY, ALL_PROXY, NO_PROXY and the like name a proxy. Exit status: 0 after a normal close, 1
when there was no connection or it ended in another way.
"""

from __future__ import annotations

import argparse
import io
import os
import select
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gows.bytebuffer import ByteBuffer
from gows.client import connect
from gows.codes import CloseCode, Opcode
from gows.commands.screen import Screen, end_output
from gows.errors import ConnectError, GowsError, HandshakeError, ProxyError, QueueFullError
from gows.options import AcceptOptions
from gows.printable import printable
from gows.reactor.transports import Loop
from gows.session.handler import Handler
from gows.session.websocket import WebSocket

MAX_MESSAGE_SIZE = 16 << 20
CLOSE_TIMEOUT = 5.0
"""Seconds that the server has to answer our close."""
PREVIEW_BYTES = 32
"""Bytes of a binary message that are printed."""
PREVIEW_CHARACTERS = 4096
"""Characters of a text message that are printed in a terminal; into a pipe goes all of it."""

_INPUT, _OUTPUT = 0, 1  # descriptors; sys.stdin would read ahead, behind the back of select()
_FINE = frozenset({CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_CLOSE_RCVD})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gows connect`."""
    parser.add_argument("url", metavar="URL")
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="send this header too; may be repeated"
    )
    parser.add_argument(
        "--subprotocol", action="append", default=[], metavar="NAME", help="offer this subprotocol; may be repeated"
    )
    parser.add_argument("--origin", metavar="ORIGIN", help="send this Origin")
    parser.add_argument("--insecure", action="store_true", help="wss: do not verify the server's certificate")
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--proxy",
        metavar="URL",
        help="connect through this proxy: http, https, socks5 or socks5h; default: the one that the environment names",
    )
    way.add_argument("--no-proxy", action="store_true", help="connect directly, whatever the environment says")
    parser.add_argument(
        "--redirects", type=int, default=0, metavar="N", help="follow so many redirects at most (default: 0)"
    )
    parser.add_argument(
        "--compression", action=argparse.BooleanOptionalAction, default=True, help="offer permessage-deflate (default)"
    )
    parser.add_argument(
        "--ping-interval",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="ping a server that was silent for so long; 0: never (default: 30)",
    )
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="SECONDS", help="time to connect in (default: 10)"
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="with a pipe for input: how long to wait for another reply before closing (default: 1)",
    )


def run(args: argparse.Namespace) -> int:
    """Connect, and talk until either side closes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what this terminal cannot show
    screen = Screen(os.isatty(_INPUT) and os.isatty(_OUTPUT) and os.environ.get("TERM") != "dumb")
    talk = Talk(screen)
    try:
        with talk.hearing_signals(), Loop(workers=1) as loop:
            loop.start()
            return _talk_to(args, talk, screen, loop)
    except (GowsError, ValueError) as error:
        screen.note(f"gows connect: {_explain(error)}")
        return 1
    finally:
        talk.release()


def _talk_to(args: argparse.Namespace, talk: Talk, screen: Screen, loop: Loop) -> int:
    ws = connect(
        args.url,
        talk,
        options=_options(args),
        subprotocols=args.subprotocol,
        headers=[_header(text) for text in args.header],
        origin=args.origin,
        ssl_context=_insecure_context(screen) if args.insecure else None,
        timeout=args.timeout,
        proxy=None if args.no_proxy else args.proxy or True,
        redirects=args.redirects,
        loop=loop,
    )
    screen.note(printable(f"connected to {args.url}" + (f", subprotocol {ws.subprotocol}" if ws.subprotocol else "")))
    try:
        Prompt(ws, talk, screen).run(args.wait)
    except KeyboardInterrupt:
        talk.leave(ws)
    screen.end_prompt()
    left = ws.stream.untaken()
    while not (ended := talk.wait_closed(CLOSE_TIMEOUT + 1.0)):
        before, left = left, ws.stream.untaken()
        if left >= before:  # else the server is still taking what was sent before the close
            break
    patience = time.monotonic() + 1.0
    while loop.live_streams and time.monotonic() < patience:  # the server ends TCP; to close the loop would reset it
        time.sleep(0.01)
    return talk.verdict() if ended else 1


def _options(args: argparse.Namespace) -> AcceptOptions:
    return AcceptOptions(
        compression=args.compression,
        ping_interval=args.ping_interval or None,
        max_message_size=MAX_MESSAGE_SIZE,
        close_timeout=CLOSE_TIMEOUT,
    )


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise ValueError(f"--header takes 'NAME: VALUE', not {text!r}")
    return name.strip(), value.strip()


def _insecure_context(screen: Screen) -> ssl.SSLContext:
    screen.note("warning: --insecure: anybody on the way can read and change what is sent")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _explain(error: Exception) -> str:
    """Print one line, in which nothing that the server said can play with the terminal."""
    text = str(error)
    if isinstance(error, HandshakeError) and error.body:
        text += f": {error.body.decode('utf-8', 'replace').strip()}"
    unverified = isinstance(error, ConnectError) and isinstance(error.__cause__, ssl.SSLCertVerificationError)
    if unverified and not isinstance(error, ProxyError):
        text += " (--insecure connects all the same)"
    return printable(text)


class Talk(Handler):
    """Prints what comes."""

    def __init__(self, screen: Screen) -> None:
        self.closed = threading.Event()
        self.room = threading.Event()
        self.leaving = False
        self.last = time.monotonic()
        """When something last came."""
        self.news, self._bell = socket.socketpair()
        """`news` becomes readable when the connection has ended, or a signal came."""
        self._bell.setblocking(False)
        self._screen = screen
        self._ws: WebSocket | None = None
        self._broken = False

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        """Show it; on one line, whatever it is."""
        try:
            if opcode == Opcode.TEXT:
                self._screen.show(f"< {self._text_line(buff.get_string())}")
            else:
                self._screen.show(f"< {self._binary_line(buff.get_bytes())}")
        except BrokenPipeError:
            self._broken = True
            ws.close()
        self.last = time.monotonic()

    def _text_line(self, text: str) -> str:
        if self._screen.interactive and len(text) > PREVIEW_CHARACTERS:
            return f"{printable(text[:PREVIEW_CHARACTERS])}… ({len(text)} characters)"
        return printable(text)

    def _binary_line(self, data: memoryview) -> str:
        more = " …" if len(data) > PREVIEW_BYTES else ""
        return f"binary, {len(data)} bytes: {data[:PREVIEW_BYTES].hex(' ')}{more}"

    def on_pong(self, ws: WebSocket, data: bytes) -> None:
        """Say how long it took, when it is the answer to our /ping."""
        self.last = time.monotonic()
        try:
            sent = float(data)
        except ValueError:  # the engine's own pings are empty
            return
        self._screen.note(f"pong after {(time.monotonic() - sent) * 1000:.1f} ms")

    def on_drain(self, ws: WebSocket) -> None:
        """Let the input go on: there is room for more again."""
        self.room.set()

    def leave(self, ws: WebSocket, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Begin to close, unless the server has."""
        begun = ws.closed
        ws.close_handshake(code, reason)
        self.leaving = self.leaving or not begun

    def on_close(self, ws: WebSocket) -> None:
        """Wake whoever waits."""
        self._ws = ws
        self.room.set()
        self.closed.set()
        self._bell.send(b"\0")

    @contextmanager
    def hearing_signals(self) -> Iterator[None]:
        """Have signals ring too. The kernel may give a signal to any thread, and Python's handlers run in the main
        one: that would learn of it only when it wakes for something else."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)

    def wait_closed(self, seconds: float) -> bool:
        """Wait until the connection has ended; whether it has."""
        end = time.monotonic() + seconds
        while not self.closed.is_set():
            left = end - time.monotonic()
            if left <= 0:
                return False
            if select.select([self.news], [], [], left)[0]:
                self.news.recv(64)
        return True

    def release(self) -> None:
        """Close what was opened."""
        self.news.close()
        self._bell.close()

    def verdict(self) -> int:
        """Say how it ended; the exit status."""
        if self._broken:  # nor may what is left in its buffer be printed at exit
            end_output()
            return 1
        ws = self._ws
        assert ws is not None
        code = ws.close_code
        assert code is not None
        name = f" {CloseCode(code).name.lower().replace('_', ' ')}" if code in CloseCode.__members__.values() else ""
        reason = f": {printable(ws.close_reason)}" if ws.close_reason else ""
        fine = code in _FINE or (self.leaving and code != CloseCode.ABNORMAL_CLOSURE)
        self._screen.note(f"{'' if fine else 'gows connect: '}closed with {code}{name}{reason}")
        return 0 if fine else 1


class Prompt:
    """Reads what is typed, or piped, and does it. One thread."""

    def __init__(self, ws: WebSocket, talk: Talk, screen: Screen) -> None:
        self._ws = ws
        self._talk = talk
        self._screen = screen

    def run(self, wait: float) -> None:
        """Go on until the input or the connection has ended; begins the close when it was the input."""
        self._screen.prompt()
        pending = b""
        while self._wait_for_input():
            data = os.read(_INPUT, 65536)
            if not data:
                if pending:
                    self._do(pending)
                break
            *lines, pending = (pending + data).split(b"\n")
            self._screen.entered()
            for line in lines:
                self._do(line)
            if not self._talk.leaving:
                self._screen.prompt()
        if not self._screen.interactive:
            self._wait_for_silence(wait)
        self._talk.leave(self._ws)

    def _wait_for_input(self) -> bool:
        """Wait until there is something to read (True), or the connection has ended or was closed by us (False)."""
        talk = self._talk
        while not talk.leaving and not talk.closed.is_set():
            if talk.news.fileno() not in select.select([_INPUT, talk.news.fileno()], [], [])[0]:
                return True
            talk.news.recv(64)
        return False

    def _wait_for_silence(self, wait: float) -> None:
        """Wait until no reply came for `wait` seconds, or the connection has ended."""
        self._talk.last = max(self._talk.last, time.monotonic())
        while not self._talk.leaving:
            left = self._talk.last + wait - time.monotonic()
            if left <= 0 or self._talk.wait_closed(left):
                return

    def _do(self, raw: bytes) -> None:
        """Do what one line of input says."""
        try:
            line = raw.decode().removesuffix("\r")
            if line.startswith("/") and not line.startswith("//"):
                self._command(*line[1:].split(" ", 1))
            else:
                self._send(Opcode.TEXT, line.removeprefix("/").encode() if line.startswith("//") else line.encode())
        except UnicodeDecodeError:
            self._screen.note("that line is not UTF-8; send it with /binary")
        except (ValueError, GowsError) as error:
            self._screen.note(f"not sent: {printable(str(error))}")

    def _command(self, name: str, rest: str = "") -> None:
        if name == "ping":
            self._ws.write_ping(repr(time.monotonic()).encode())
        elif name == "binary":
            self._send(Opcode.BINARY, bytes.fromhex(rest))
        elif name == "close":
            code, _, reason = (rest.strip() or str(int(CloseCode.NORMAL_CLOSURE))).partition(" ")
            if not code.isdecimal():
                raise ValueError(f"{code!r} is no close code")
            self._talk.leave(self._ws, int(code), reason)
        elif name == "quit":
            self._talk.leave(self._ws)
        else:
            self._screen.note(
                f"there is no /{printable(name)}; /ping, /binary, /close, /quit; //… sends what begins with /"
            )

    def _send(self, opcode: Opcode, data: bytes) -> None:
        """Send a message, and wait while the server takes no more."""
        while not self._talk.closed.is_set():
            self._talk.room.clear()
            try:
                self._ws.write_message(opcode, data)
                return
            except QueueFullError:
                self._talk.room.wait(0.1)  # for `on_drain`, which may have come between the two
