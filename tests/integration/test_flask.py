"""A Flask application served by gows.Server, beside routes of the server's own."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest

import gows
from tests.support.addresses import tcp
from tests.support.needs import need_module
from tests.support.servers import running_server, serving
from tests.support.waiting import wait_until

need_module("flask")

from websockets.exceptions import ConnectionClosedOK, InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402
from websockets.typing import Origin, Subprotocol  # noqa: E402

from tests.support.flask_site import app  # noqa: E402
from tests.support.warming import start_all_workers  # noqa: E402

MEGABYTE = 1 << 20
LARGE = 12 * MEGABYTE


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that the application serves files from."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "small.txt").write_text("small")
    (folder / "large.bin").write_bytes(bytes(range(256)) * (4 * MEGABYTE // 256))
    patch = pytest.MonkeyPatch()
    patch.setenv("GOWS_TEST_FILES", str(folder))
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def server(files: Path) -> Iterator[gows.Server]:
    own = {"/own": lambda request: "the server's own page", "/own/ws": serving(OwnEcho)}
    with running_server(own, wsgi=app, workers=3, max_body_size=LARGE) as server:
        start_all_workers(server.loop, 3)
        yield server


class OwnEcho(gows.Handler):
    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        ws.write_message(opcode, buff)


@pytest.fixture
def port(server: gows.Server) -> Iterator[int]:
    yield tcp(server.addresses[0])[1]
    wait_until(lambda: not server.connections)


@pytest.fixture
def browser(port: int) -> Iterator[http.client.HTTPConnection]:
    """One connection, kept alive from request to request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    yield connection
    connection.close()


def fetch(browser: http.client.HTTPConnection, method: str, target: str, **request: Any) -> tuple[Any, bytes]:
    browser.request(method, target, **request)
    answer = browser.getresponse()
    return answer, answer.read()


# ---------------------------------------------------------------------- pages


def test_pages_of_both_on_one_kept_connection(browser: http.client.HTTPConnection) -> None:
    browser.connect()
    local = browser.sock.getsockname()
    for _ in range(3):
        answer, body = fetch(browser, "GET", "/")
        assert (answer.status, body.decode()) == (200, "<h1>Hallo, Wörld</h1>")
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["Content-Length"] == str(len(body))
        answer, body = fetch(browser, "GET", "/own")
        assert (answer.status, body) == (200, b"the server's own page")
    assert browser.sock.getsockname() == local


def test_head_has_the_length_and_no_body(browser: http.client.HTTPConnection) -> None:
    _, page = fetch(browser, "GET", "/")
    for _ in range(2):  # a body that was sent after all would be taken for the next answer
        answer, body = fetch(browser, "HEAD", "/")
        assert (answer.status, body, answer.headers["Content-Length"]) == (200, b"", str(len(page)))


def test_a_large_upload(browser: http.client.HTTPConnection) -> None:
    body = bytes(range(256)) * (LARGE // 256)
    answer, told = fetch(browser, "POST", "/digest", body=body, headers={"Content-Type": "image/raw"})
    assert answer.status == 200
    assert json.loads(told) == {"size": LARGE, "sha256": hashlib.sha256(body).hexdigest(), "type": "image/raw"}


def test_an_upload_in_chunks(browser: http.client.HTTPConnection) -> None:
    pieces = [b"a" * 70000, b"b", b"c" * 200000]
    answer, told = fetch(browser, "POST", "/digest", body=iter(pieces), encode_chunked=True, headers=CHUNKED)
    assert answer.status == 200
    assert json.loads(told)["sha256"] == hashlib.sha256(b"".join(pieces)).hexdigest()


CHUNKED = {"Transfer-Encoding": "chunked"}


def test_a_body_over_the_limit_is_refused(browser: http.client.HTTPConnection) -> None:
    browser.putrequest("POST", "/digest")
    browser.putheader("Content-Length", str(LARGE + 1))
    browser.endheaders()
    assert browser.getresponse().status == 413


def test_a_form_with_a_file(browser: http.client.HTTPConnection) -> None:
    content = bytes(range(256)) * 2000
    body = (
        b'--b0\r\nContent-Disposition: form-data; name="note"\r\n\r\nf\xc3\xbcr dich\r\n'
        b'--b0\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n--b0--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b0"}
    answer, told = fetch(browser, "POST", "/upload", body=body, headers=headers)
    assert answer.status == 200
    assert json.loads(told) == {"name": "a.bin", "sha256": hashlib.sha256(content).hexdigest(), "note": "für dich"}


@pytest.mark.slow
@pytest.mark.parametrize("query", ["", "?length=1"], ids=["unknown length", "known length"])
def test_a_large_stream(browser: http.client.HTTPConnection, query: str) -> None:
    answer, body = fetch(browser, "GET", f"/stream/{LARGE}{query}")
    assert answer.status == 200
    assert answer.headers["Content-Length"] == (str(LARGE) if query else None)
    assert answer.headers["Transfer-Encoding"] == (None if query else "chunked")
    assert (len(body), body.strip(b"\0")) == (LARGE, b"")
    assert fetch(browser, "GET", "/own")[0].status == 200  # the connection goes on


def test_streams_to_slow_readers_hold_no_worker(server: gows.Server, port: int) -> None:
    """More of them than workers, none of which reads: a page is answered nevertheless."""
    slow = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(8)]
    try:
        for sock in slow:
            sock.sendall(b"GET /stream/50000000 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 200"
        page = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        assert fetch(page, "GET", "/")[0].status == 200
        page.close()
    finally:
        for sock in slow:
            sock.close()
    wait_until(lambda: server.loop.live_streams == 0)


@pytest.mark.parametrize("query", ["?break=1", "?break=1&length=1"], ids=["unknown length", "known length"])
def test_a_stream_that_breaks_is_not_taken_for_whole(
    browser: http.client.HTTPConnection, query: str, caplog: pytest.LogCaptureFixture
) -> None:
    browser.request("GET", f"/stream/{MEGABYTE}{query}")
    answer = browser.getresponse()
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        answer.read()
    wait_until(lambda: "the body failed" in caplog.text)


def test_files(browser: http.client.HTTPConnection, files: Path) -> None:
    answer, body = fetch(browser, "GET", "/file/small.txt")
    assert (answer.status, body, answer.headers["Content-Type"]) == (200, b"small", "text/plain; charset=utf-8")
    answer, body = fetch(browser, "GET", "/file/large.bin")
    assert body == (files / "large.bin").read_bytes()
    etag = answer.headers["ETag"]
    answer, body = fetch(browser, "GET", "/file/large.bin", headers={"If-None-Match": etag})
    assert (answer.status, body) == (304, b"")
    answer, body = fetch(browser, "GET", "/file/large.bin", headers={"Range": "bytes=1000-1003"})
    assert (answer.status, body) == (206, bytes([232, 233, 234, 235]))
    assert fetch(browser, "GET", "/file/none")[0].status == 404
    assert fetch(browser, "GET", "/file/..%2f..%2fetc%2fpasswd")[0].status == 404


def test_session_cookies_and_redirects(browser: http.client.HTTPConnection) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer, _ = fetch(browser, "POST", "/login", body="user=ann", headers=form)
    assert (answer.status, answer.headers["Location"]) == (302, "/me")
    cookies = answer.headers.get_all("Set-Cookie")
    assert len(cookies) == 2
    jar = "; ".join(cookie.partition(";")[0] for cookie in cookies)
    answer, body = fetch(browser, "GET", "/me", headers={"Cookie": jar})
    assert json.loads(body) == {"user": "ann", "theme": "dark"}
    assert json.loads(fetch(browser, "GET", "/me")[1]) == {"user": None, "theme": None}


def test_an_answer_without_a_body(browser: http.client.HTTPConnection) -> None:
    answer, body = fetch(browser, "GET", "/gone")
    assert (answer.status, body) == (204, b"")
    assert "Content-Length" not in answer.headers  # RFC 9110 §8.6: MUST NOT
    assert "Transfer-Encoding" not in answer.headers
    assert fetch(browser, "GET", "/own")[0].status == 200


def test_error_pages(browser: http.client.HTTPConnection, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger=app.name)
    answer, body = fetch(browser, "GET", "/nowhere")
    assert (answer.status, b"was not found on the server" in body) == (404, True)
    assert fetch(browser, "POST", "/me")[0].status == 405
    answer, body = fetch(browser, "GET", "/broken")
    assert (answer.status, b"a bug" in body) == (500, False)
    assert fetch(browser, "POST", "/own")[0].status == 405  # a path of the server's own is not the application's
    answer, _ = fetch(browser, "OPTIONS", "/me")
    assert sorted(answer.headers["Allow"].split(", ")) == ["GET", "HEAD", "OPTIONS"]


def test_the_environ(browser: http.client.HTTPConnection, port: int) -> None:
    target = "/environ?a=1&b=%20x%2F"
    _, body = fetch(browser, "GET", target, headers={"X-Test": "one", "X_Test": "forged", "Host": f"site.test:{port}"})
    assert json.loads(body) == {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/environ",
        "QUERY_STRING": "a=1&b=%20x%2F",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(port),
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_X_TEST": "one",
        "base_url": f"http://site.test:{port}/environ",
    }


# ---------------------------------------------------------------------- WebSockets


def test_a_view_upgrades(server: gows.Server, port: int) -> None:
    with connect(f"ws://127.0.0.1:{port}/ws/ann") as ws:
        assert ws.recv(10) == "welcome ann to /ws/ann"
        ws.send("grüß dich")
        assert ws.recv(10) == "ann: grüß dich"
        ws.send(bytes(300_000))
        assert ws.recv(10) == bytes(300_000)
        assert len(server.connections) == 1
        ws.close(4000, "enough")
    assert (ws.close_code, ws.close_reason) == (4000, "enough")


def test_views_and_routes_of_the_server_side_by_side(port: int) -> None:
    with connect(f"ws://127.0.0.1:{port}/ws/ann") as ann, connect(f"ws://127.0.0.1:{port}/own/ws") as own:
        assert ann.recv(10) == "welcome ann to /ws/ann"
        own.send("hello")
        assert own.recv(10) == "hello"


@pytest.mark.slow
def test_more_websockets_than_workers(port: int) -> None:
    """A WebSocket takes no worker while it is silent."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(connect(f"ws://127.0.0.1:{port}/ws/{number}")) for number in range(20)]
        for number, ws in enumerate(sockets):
            assert ws.recv(10) == f"welcome {number} to /ws/{number}"
            ws.send("x")
        for number, ws in enumerate(sockets):
            assert ws.recv(10) == f"{number}: x"


def test_session_subprotocol_compression_and_headers(browser: http.client.HTTPConnection, port: int) -> None:
    answer, _ = fetch(browser, "GET", "/login?user=ben")
    jar = "; ".join(cookie.partition(";")[0] for cookie in answer.headers.get_all("Set-Cookie"))
    url = f"ws://127.0.0.1:{port}/chat"
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
    assert refusal.value.response.status_code == 401  # what the view itself decided


def test_a_foreign_origin_is_refused(port: int) -> None:
    with (
        pytest.raises(InvalidStatus) as refusal,
        connect(f"ws://127.0.0.1:{port}/ws/ann", origin=Origin("http://evil.test")),
    ):
        pass
    assert refusal.value.response.status_code == 403


def test_a_refused_upgrade_is_answered_as_the_view_likes(browser: http.client.HTTPConnection) -> None:
    answer, body = fetch(browser, "GET", "/ws/ann", headers=HANDSHAKE | {"Sec-WebSocket-Version": "8"})
    assert (answer.status, answer.headers["Sec-WebSocket-Version"]) == (426, "13")
    assert body == b"WebSocket version 13 is spoken here"
    answer, _ = fetch(browser, "GET", "/ws/ann", headers=HANDSHAKE | {"Sec-WebSocket-Key": "short"})
    assert answer.status == 400
    assert fetch(browser, "GET", "/own")[0].status == 200  # the connection goes on


HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def test_stop_says_going_away(files: Path) -> None:
    server = gows.Server(wsgi=app)
    server.start("127.0.0.1:0")
    with connect(f"ws://127.0.0.1:{server.addresses[0][1]}/ws/ann") as ws:
        assert ws.recv(10) == "welcome ann to /ws/ann"
        server.stop()
        with pytest.raises(ConnectionClosedOK):
            ws.recv(10)
        assert ws.close_code == gows.CloseCode.GOING_AWAY


@pytest.mark.parametrize("workers", [0, 2])
def test_the_validator_finds_no_fault(files: Path, workers: int, caplog: pytest.LogCaptureFixture) -> None:
    """wsgiref's, between the server and the application: it watches both keep to PEP 3333."""
    server = gows.Server(wsgi=validator(app.wsgi_app), workers=workers)
    server.start("127.0.0.1:0")
    try:
        port = tcp(server.addresses[0])[1]
        browser = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for method, target, status in (
            ("GET", "/", 200),
            ("HEAD", "/", 200),
            ("GET", "/stream/200000", 200),
            ("HEAD", "/stream/200000?length=1", 200),
            ("GET", "/file/small.txt", 200),
            ("GET", "/caf%C3%A9?x=%20", 404),
            ("GET", "/login?user=x", 302),
            ("DELETE", "/me", 405),
        ):
            assert fetch(browser, method, target)[0].status == status, target
        browser.close()
        with connect(f"ws://127.0.0.1:{port}/ws/ann") as ws:
            assert ws.recv(10) == "welcome ann to /ws/ann"
        wait_until(lambda: server.loop.live_streams == 0)
    finally:
        server.stop()
    assert not caplog.records


def test_in_the_loop_thread(files: Path) -> None:
    """workers=0: views and callbacks run in the loop's own thread."""
    server = gows.Server(wsgi=app, workers=0)
    server.start("127.0.0.1:0")
    try:
        port = tcp(server.addresses[0])[1]
        with connect(f"ws://127.0.0.1:{port}/ws/ann") as ws:
            assert ws.recv(10) == "welcome ann to /ws/ann"
            ws.send("x")
            assert ws.recv(10) == "ann: x"
        browser = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        assert len(fetch(browser, "GET", f"/stream/{4 * MEGABYTE}")[1]) == 4 * MEGABYTE
        browser.close()
    finally:
        server.stop()
