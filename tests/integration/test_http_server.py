"""gows.accept in the do_GET of a http.server, which the standard library calls for tests and small tools."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

import gows
from gows.reactor import Loop
from tests.support import wire
from tests.support.raw import RawPeer
from tests.support.waiting import wait_until
from tests.support.warming import start_all_workers


class Echo(gows.Handler):
    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        ws.write_message(opcode, buff)


class Site(ThreadingHTTPServer):
    """A page, and at /ws an echo on the loop that it is given."""

    daemon_threads = True

    def __init__(self, loop: Loop) -> None:
        super().__init__(("127.0.0.1", 0), SiteHandler)
        self.loop = loop
        self.failures: list[BaseException | None] = []

    def handle_error(self, request: object, client_address: object) -> None:
        self.failures.append(None)


class SiteHandler(BaseHTTPRequestHandler):
    server: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/ws":
            try:
                gows.accept(self, loop=self.server.loop).serve(Echo())
            except gows.HandshakeError as refusal:
                self._answer(refusal.status, refusal.reason, refusal.headers)
        else:
            self._answer(200, "a page")

    do_POST = do_GET

    def _answer(self, status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Not into the test's output."""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Loop(workers=2) as loop:
        loop.start()
        start_all_workers(loop, 2)
        site = Site(loop)
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        site.shutdown()
        thread.join()
        site.server_close()


@pytest.fixture
def port(site: Site) -> Iterator[int]:
    yield site.server_port
    wait_until(lambda: site.loop.live_streams == 0)
    assert not site.failures


def test_messages(port: int) -> None:
    with connect(f"ws://127.0.0.1:{port}/ws", max_size=None) as ws:
        for message in ("", "grüß dich", b"\0" * 100_000, "x" * 1_000_000):
            ws.send(message)
            assert ws.recv(10) == message
        ws.close(4001)
    assert ws.close_code == 4001


def test_a_websocket_on_a_kept_connection_after_pages(port: int) -> None:
    with RawPeer(("127.0.0.1", port)) as peer:
        for _ in range(2):
            peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer, body = peer.read_answer()
            assert (answer.status, body) == (200, b"a page")
        peer.upgrade("/ws")
        peer.send(wire.frame(wire.TEXT, "hello"))
        assert peer.read_text() == "hello"
        peer.send(wire.close(1000))
        peer.expect_close(1000)


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 426),
        ("POST", {"Upgrade": "websocket", "Connection": "Upgrade"}, 405),
        ("GET", {"Upgrade": "websocket", "Connection": "Upgrade"}, 426),
        ("GET", {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}, 400),
        ("GET", {"Upgrade": "websocket", "Connection": "Upgrade", "Content-Length": "5"}, 400),
        ("GET", {"X-Note": "gr\xfc\xdfe"}, 426),  # which is opaque
    ],
)
def test_refusals(port: int, method: str, headers: dict[str, str], status: int) -> None:
    browser = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    browser.request(method, "/ws", headers=headers)
    answer = browser.getresponse()
    assert (answer.status, len(answer.read()) > 10) == (status, True)
    browser.close()


def test_a_foreign_origin(port: int) -> None:
    with (
        pytest.raises(InvalidStatus) as refusal,
        connect(f"ws://127.0.0.1:{port}/ws", origin=Origin("http://evil.test")),
    ):
        pass
    assert refusal.value.response.status_code == 403


def test_frames_before_the_101_are_refused(port: int) -> None:
    """They lie in the server's buffer, and would be lost there."""
    with RawPeer(("127.0.0.1", port)) as peer:
        peer.send(wire.request("/ws"), wire.frame(wire.TEXT, "too soon"))
        assert peer.read_answer()[0].status == 400


def test_the_server_lets_go_of_the_socket(port: int) -> None:
    """What the server does with its own end, closing it above all, does not reach the connection."""
    with connect(f"ws://127.0.0.1:{port}/ws") as ws:
        wait_until(lambda: not any("process_request" in thread.name for thread in threading.enumerate()))
        ws.send("still there?")
        assert ws.recv(10) == "still there?"


def test_a_peer_that_resets(site: Site, port: int) -> None:
    with RawPeer(("127.0.0.1", port)) as peer:
        peer.upgrade("/ws")
        assert site.loop.live_streams == 1
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: site.loop.live_streams == 0)
