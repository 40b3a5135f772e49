"""gows.accept in a Flask view under other WSGI servers, which hand out the socket in the environ."""

from __future__ import annotations

import http.client
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler
from wsgiref.simple_server import make_server as make_wsgiref_server

import pytest

import gows
from gows.reactor import shared_loop
from tests.support.needs import need_module
from tests.support.processes import START_SECONDS, Children

need_module("flask")
need_module("gunicorn")

from websockets.exceptions import ConnectionClosedError, InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402
from websockets.typing import Origin, Subprotocol  # noqa: E402
from werkzeug.serving import WSGIRequestHandler as WerkzeugHandler  # noqa: E402
from werkzeug.serving import make_server  # noqa: E402

from tests.support import wire  # noqa: E402
from tests.support.flask_site import app  # noqa: E402
from tests.support.raw import RawPeer  # noqa: E402
from tests.support.warming import start_all_workers  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


class QuietHandler(WerkzeugHandler):
    def log(self, type: str, message: str, *args: object) -> None:
        """Not into the test's output."""


@contextmanager
def werkzeug(ssl_context: ssl.SSLContext | None = None) -> Iterator[int]:
    """The site under Werkzeug's development server, in this process; the port."""
    loop = shared_loop()
    start_all_workers(loop, 4)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=QuietHandler, ssl_context=ssl_context)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
        loop.close()


@contextmanager
def gunicorn(*flags: str, target: str = "tests.support.flask_site:app") -> Iterator[int]:
    """The site under gunicorn; the port."""
    command = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--graceful-timeout", "1", *flags, target]
    with Children() as children:
        server = children.start(command, stderr=subprocess.PIPE, text=True)
        assert server.stderr is not None
        overdue = threading.Timer(START_SECONDS, server.kill)
        overdue.start()
        log = []
        for line in server.stderr:
            log.append(line)
            address = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", line)
            if address:
                break
        else:
            pytest.fail(f"gunicorn did not start: {log}")
        overdue.cancel()
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(server.stderr or ()))
        reader.start()
        yield int(address[1])
        children.end(server)
        reader.join(10)
        server.stderr.close()
        assert "Traceback" not in "".join(said), said


SERVERS: dict[str, Callable[[], AbstractContextManager[int]]] = {
    "werkzeug": werkzeug,
    "gunicorn gthread": lambda: gunicorn("--worker-class", "gthread", "--threads", "3"),
    "gunicorn sync": lambda: gunicorn("--worker-class", "sync"),
    "gunicorn, two processes, preloaded": lambda: gunicorn("--workers", "2", "--threads", "2", "--preload"),
}


@pytest.fixture(scope="module", params=SERVERS)
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    with SERVERS[request.param]() as port:
        yield port


def test_messages_of_all_sizes(port: int) -> None:
    with connect(f"ws://127.0.0.1:{port}/ws/ann", max_size=None) as ws:
        assert ws.recv(10) == "welcome ann to /ws/ann"
        for size in (0, 1, 125, 126, 65535, 65536, 1 << 20):
            message = b"\0\xff" * (size // 2) + b"\0" * (size % 2)
            ws.send(message)
            assert ws.recv(10) == message
        ws.send("grüß dich")
        assert ws.recv(10) == "ann: grüß dich"
        ws.close(4000, "enough")
    assert ws.close_code == 4000


def test_many_at_once_beside_pages(port: int) -> None:
    """More than the server has threads: none is held. Nothing of what the server does afterwards reaches them."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(connect(f"ws://127.0.0.1:{port}/ws/{number}")) for number in range(12)]
        browser = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for _ in range(3):
            browser.request("GET", "/me")
            assert b"user" in browser.getresponse().read()
        browser.close()
        for number, ws in enumerate(sockets):
            assert ws.recv(10) == f"welcome {number} to /ws/{number}"
            ws.send("x")
        for number, ws in enumerate(sockets):
            assert ws.recv(10) == f"{number}: x"


def test_session_subprotocol_compression_and_headers(port: int) -> None:
    browser = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    browser.request("GET", "/login?user=ben")
    answer = browser.getresponse()
    answer.read()
    browser.close()
    jar = "; ".join(cookie.partition(";")[0] for cookie in answer.headers.get_all("Set-Cookie", []))
    url = f"ws://127.0.0.1:{port}/chat?room=a%20b"
    with connect(
        url, additional_headers={"Cookie": jar}, subprotocols=[Subprotocol("chat.v2"), Subprotocol("chat.v1")]
    ) as ws:
        assert ws.subprotocol == "chat.v1"
        assert ws.response is not None
        assert ws.response.headers["X-User"] == "ben"
        assert "permessage-deflate" in ws.response.headers["Sec-WebSocket-Extensions"]
        assert ws.recv(10) == "welcome ben to /chat"
    with pytest.raises(InvalidStatus) as refusal, connect(url):
        pass
    assert refusal.value.response.status_code == 401


def test_refusals_are_answered_by_the_server(port: int) -> None:
    with (
        pytest.raises(InvalidStatus) as refusal,
        connect(f"ws://127.0.0.1:{port}/ws/ann", origin=Origin("http://evil.test")),
    ):
        pass
    assert refusal.value.response.status_code == 403
    browser = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    for headers, status in (
        ({"Sec-WebSocket-Version": "12"}, 426),
        ({"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Version": "12", "X-Note": "gr\xfc\xdfe"}, 426),  # which is opaque
    ):
        browser.request("GET", "/ws/ann", headers=upgrade | headers)
        answer = browser.getresponse()
        answer.read()
        assert answer.status == status
    browser.close()


def test_an_abrupt_end_is_heard(port: int) -> None:
    """The other half of `Nothing of what the server does reaches them`: what the peer does reaches us."""
    with connect(f"ws://127.0.0.1:{port}/ws/ann") as ws:
        assert ws.recv(10) == "welcome ann to /ws/ann"
        ws.send("close")
        with pytest.raises(ConnectionClosedError):
            ws.recv(10)
        assert ws.close_code == gows.CloseCode.ABNORMAL_CLOSURE


def test_frames_before_the_101_are_refused() -> None:
    """They lie in the server's buffer, and would be lost there."""
    with werkzeug() as port, RawPeer(("127.0.0.1", port)) as peer:
        peer.send(wire.request("/ws/ann"), wire.frame(wire.TEXT, "too soon"))
        assert peer.read_answer()[0].status == 400


# ---------------------------------------------------------------------- where it cannot be done


class QuietWsgiref(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Not into the test's output."""


def test_a_server_that_hides_its_socket_is_named() -> None:
    errors: list[gows.UsageError] = []

    def application(environ, start_response):  # type: ignore[no-untyped-def]
        try:
            gows.accept(environ)
        except gows.UsageError as error:
            errors.append(error)
        start_response("501 Not Implemented", [("Content-Length", "0")])
        return []

    server = make_wsgiref_server("127.0.0.1", 0, application, handler_class=QuietWsgiref)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    browser = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    browser.request("GET", "/", headers={"Upgrade": "websocket", "Connection": "Upgrade"})
    assert browser.getresponse().status == 501
    browser.close()
    thread.join(10)
    server.server_close()
    assert "does not hand out its socket; serve the application with gows.Server(wsgi=app)" in str(errors[0])


def test_a_tls_socket_cannot_be_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trustme = need_module("trustme")
    websocket = need_module("websocket")
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    with werkzeug(server_side) as port:
        with pytest.raises(websocket.WebSocketBadStatusException) as refusal:
            websocket.create_connection(f"wss://127.0.0.1:{port}/ws/ann", timeout=10, sslopt={"context": client_side})
        assert refusal.value.status_code == 500
    assert "the TLS state of an SSLSocket cannot be taken over" in caplog.text
