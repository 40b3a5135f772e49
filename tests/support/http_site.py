"""Site: an application on a loop in virtual time; Browser: a client of it that sees every byte."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gows.http.connection import HttpConnection
from gows.http.exchange import Exchange
from gows.http.proxies import Proxies
from gows.http.request import Request
from gows.reactor import Loop, Stream, Target
from gows.session.overflow import Overflow
from gows.session.receiving import Receiving
from gows.session.traffic import Traffic
from tests.support.fakes import MemorySocket, World

ADDRESS = ("10.0.0.9", 80)


@dataclass
class App:
    """What a Server is to its connections."""

    view: Callable[[Request], Any]
    max_head_size: int = 16384
    max_headers: int = 100
    max_body_size: int = 1000
    max_streamed_size: int | None = None
    streams: bool = False
    head_timeout: float = 10.0
    body_timeout: float = 20.0
    keep_alive_timeout: float = 75.0
    proxies: Proxies | None = None
    draining: bool = False
    requests: list[Request] = field(default_factory=list)
    receiving: Receiving = field(init=False)
    overflow: Overflow = field(init=False)
    traffic: Traffic = field(default_factory=Traffic)
    publishing: Any = None

    def join(self, loop: Loop) -> None:
        """Have its connections served by `loop`."""
        self.receiving = Receiving.of(loop)
        self.overflow = Overflow(loop)

    def publish(self, *arguments: Any, **options: Any) -> None:
        raise NotImplementedError

    def exchange(self, request: Request) -> Exchange | None:
        return None

    def answers_at_once(self, request: Request) -> bool:
        return request.path == "/at-once"

    def handle(self, request: Request) -> Any:
        self.requests.append(request)
        return self.view(request)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Site:
    """The application, listening at ADDRESS."""

    def __init__(self, view: Callable[[Request], Any] = lambda request: "hello", **settings: Any) -> None:
        self.app = App(view, **settings)
        self.world = World()
        self.loop = self.world.loop()
        self.app.join(self.loop)
        self.streams: list[Stream] = []
        self.connections: list[HttpConnection] = []
        self.browsers: list[Browser] = []
        self.loop.listen(ADDRESS, self._accept)

    def _accept(self, stream: Stream) -> None:
        stream.observer = connection = HttpConnection(stream, self.app)
        self.streams.append(stream)
        self.connections.append(connection)

    def browser(self) -> Browser:
        """One more connection."""
        before = len(self.connections)
        sock, _ = self.world.network.dial(Target(socket.AF_INET, ADDRESS))
        self.world.run_until(lambda: len(self.connections) > before)
        self.browsers.append(Browser(self, sock))
        return self.browsers[-1]

    def close(self) -> None:
        """The end of all connections."""
        for browser in self.browsers:
            browser.sock.close()
        self.world.close()

    def fetch(self, wire: bytes) -> Answer:
        """The answer to one request on a connection of its own."""
        browser = self.browser()
        browser.send(wire)
        answer = browser.answer(head=wire.startswith(b"HEAD"))
        browser.sock.close()
        self.world.run_for(0)
        return answer

    def still_serves(self) -> bool:
        """Whether a newcomer gets an answer."""
        view, self.app.view = self.app.view, lambda request: "still here"
        try:
            return self.fetch(get("/")).body == b"still here"
        finally:
            self.app.view = view


class Browser:
    """A client's end of a connection."""

    def __init__(self, site: Site, sock: MemorySocket) -> None:
        self.site = site
        self.sock = sock
        self.received = bytearray()
        self.ended = False  # the server's FIN has come
        self.reset = False  # RST has come

    @property
    def over(self) -> bool:
        return self.ended or self.reset

    def send(self, wire: bytes) -> None:
        """Send all of it, as the server takes it."""
        left = memoryview(wire)
        while left:
            try:
                left = left[self.sock.send(left) :]
            except BlockingIOError:
                self.site.world.turn()

    def pump(self, most: int = 1 << 30) -> Browser:
        """Read what is there, `most` bytes at most."""
        end = len(self.received) + most
        while not self.over and len(self.received) < end:
            try:
                data = self.sock.recv(min(65536, end - len(self.received)))
            except BlockingIOError:
                break
            except OSError:
                self.reset = True
                break
            self.received += data
            self.ended = not data
        return self

    def until(self, condition: Callable[[], object], limit: float = 60.0) -> None:
        """Read and let the server work until `condition` holds."""
        self.site.world.run_until(lambda: (self.pump(), condition())[1], limit)

    def until_over(self, limit: float = 60.0) -> bytes:
        """Everything up to the end of the connection."""
        self.until(lambda: self.over, limit)
        return bytes(self.received)

    def answer(self, head: bool = False) -> Answer:
        """The next answer."""
        self.until(lambda: b"\r\n\r\n" in self.received)
        start, _, _ = bytes(self.received).partition(b"\r\n\r\n")
        del self.received[: len(start) + 4]
        line, *fields = start.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (text.partition(": ") for text in fields)}
        status = int(line.split(" ")[1])
        if head or status in (101, 204, 304):
            return Answer(status, headers, b"")
        if "content-length" in headers:
            size = int(headers["content-length"])
            self._until_received(size)
            return Answer(status, headers, self._take(size))
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, self._chunks())
        self.until(lambda: self.over)
        return Answer(status, headers, self._take(len(self.received)))

    def _chunks(self) -> bytes:
        body = b""
        while True:
            self.until(lambda: b"\r\n" in self.received or self.over)
            line, _, _ = bytes(self.received).partition(b"\r\n")
            whole = len(line) + int(line, 16) + 4
            self._until_received(whole)
            body += self._take(whole)[len(line) + 2 : -2]
            if whole == len(line) + 4:
                return body

    def _until_received(self, size: int) -> None:
        self.until(lambda: len(self.received) >= size or self.over)

    def _take(self, size: int) -> bytes:
        data = bytes(self.received[:size])
        del self.received[:size]
        return data


def get(target: str = "/", *fields: str, method: str = "GET", version: str = "HTTP/1.1", body: bytes = b"") -> bytes:
    """A request."""
    lines = [f"{method} {target} {version}", "Host: example.com", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
