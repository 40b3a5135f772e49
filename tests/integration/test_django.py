"""A Django application served by gows.Server, and its WebSockets under gunicorn."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
from collections.abc import Iterator

import pytest

import gows
from tests.support.addresses import tcp
from tests.support.needs import need_module
from tests.support.servers import running_server
from tests.support.waiting import wait_until

need_module("django")

from websockets.exceptions import InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402
from websockets.typing import Subprotocol  # noqa: E402

from tests.integration.test_flask import HANDSHAKE, fetch  # noqa: E402
from tests.integration.test_wsgi_servers import gunicorn  # noqa: E402
from tests.support.django_site import app  # noqa: E402
from tests.support.warming import start_all_workers  # noqa: E402

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[gows.Server]:
    with running_server(wsgi=app, workers=3, max_body_size=20 * MEGABYTE) as server:
        start_all_workers(server.loop, 3)
        yield server


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


def test_pages_on_one_kept_connection(browser: http.client.HTTPConnection) -> None:
    browser.connect()
    local = browser.sock.getsockname()
    for _ in range(3):
        answer, body = fetch(browser, "GET", "/")
        assert (answer.status, body.decode()) == (200, "<h1>Hallo, Wörld</h1>")
        assert answer.headers["Content-Length"] == str(len(body))
        answer, body = fetch(browser, "HEAD", "/")
        assert (answer.status, body, answer.headers["Content-Length"]) == (200, b"", "22")
    assert browser.sock.getsockname() == local


def test_uploads(browser: http.client.HTTPConnection) -> None:
    content = bytes(range(256)) * (4 * MEGABYTE // 256)
    answer, told = fetch(browser, "POST", "/digest", body=content)
    assert json.loads(told) == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
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
def test_rows_of_a_cursor_while_others_are_served(browser: http.client.HTTPConnection, port: int) -> None:
    """Larger than what the kernel holds, so the answer waits for us in the middle; it goes on in the same thread."""
    browser.request("GET", "/rows/15000")
    answer = browser.getresponse()
    other = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for _ in range(20):
        assert fetch(other, "GET", "/")[0].status == 200
    other.close()
    assert answer.headers["Transfer-Encoding"] == "chunked"
    lines = answer.read().splitlines()
    assert [int(line[:7]) for line in lines] == list(range(1, 15001))


def test_a_file(browser: http.client.HTTPConnection) -> None:
    answer, body = fetch(browser, "GET", f"/file/{3 * MEGABYTE}")
    assert (answer.status, len(body)) == (200, 3 * MEGABYTE)
    assert answer.headers["Content-Length"] == str(3 * MEGABYTE)
    assert answer.headers["Content-Disposition"] == "attachment; filename*=utf-8''gr%C3%B6%C3%9Fe.bin"


def test_session_redirect_and_csrf(browser: http.client.HTTPConnection) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer, _ = fetch(browser, "POST", "/login", body="user=ann", headers=form)
    assert (answer.status, answer.headers["Location"]) == (302, "/me")
    jar = answer.headers["Set-Cookie"].partition(";")[0]
    assert json.loads(fetch(browser, "GET", "/me", headers={"Cookie": jar})[1]) == {"user": "ann"}
    assert fetch(browser, "POST", "/me", body="x=1", headers=form)[0].status == 403


def test_an_answer_without_a_body(browser: http.client.HTTPConnection) -> None:
    answer, body = fetch(browser, "GET", "/gone")
    assert (answer.status, body) == (204, b"")
    assert "Content-Length" not in answer.headers  # RFC 9110 §8.6: MUST NOT
    assert fetch(browser, "GET", "/")[0].status == 200


def test_a_header_in_latin_1(browser: http.client.HTTPConnection) -> None:
    """PEP 3333 lets headers be Latin-1."""
    answer, _ = fetch(browser, "GET", "/latin")
    assert (answer.status, answer.headers["X-City"]) == (200, "Köln")


def test_error_pages(browser: http.client.HTTPConnection, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="django.request")
    assert fetch(browser, "GET", "/nowhere")[0].status == 404
    answer, body = fetch(browser, "GET", "/broken")
    assert (answer.status, b"a bug" in body) == (500, False)


# ---------------------------------------------------------------------- WebSockets


def test_a_view_upgrades(port: int) -> None:
    with connect(f"ws://127.0.0.1:{port}/ws/ann") as ws:
        assert ws.recv(10) == "welcome ann to /ws/ann"
        ws.send("grüß dich")
        assert ws.recv(10) == "ann: grüß dich"
        ws.send(bytes(300_000))
        assert ws.recv(10) == bytes(300_000)


def session_of(port: int) -> dict[str, str]:
    browser = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer, _ = fetch(browser, "POST", "/login", body="user=ben", headers=form)
    browser.close()
    return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}


def test_session_and_subprotocol(port: int) -> None:
    url = f"ws://127.0.0.1:{port}/chat"
    with connect(url, additional_headers=session_of(port), subprotocols=[Subprotocol("chat.v1")]) as ws:
        assert ws.response is not None
        assert (ws.subprotocol, ws.response.headers["X-User"]) == ("chat.v1", "ben")
        assert ws.recv(10) == "welcome ben to /chat"
    with pytest.raises(InvalidStatus) as refusal, connect(url):
        pass
    assert refusal.value.response.status_code == 401


def test_a_refused_upgrade_is_answered_as_the_middleware_likes(browser: http.client.HTTPConnection) -> None:
    answer, body = fetch(browser, "GET", "/ws/ann")
    assert (answer.status, body) == (426, b"this address speaks WebSocket; send an upgrade")
    answer, _ = fetch(browser, "GET", "/ws/ann", headers=HANDSHAKE | {"Sec-WebSocket-Version": "8"})
    assert (answer.status, answer.headers["Sec-WebSocket-Version"]) == (426, "13")
    answer, _ = fetch(browser, "GET", "/ws/ann", headers=HANDSHAKE | {"Origin": "http://evil.test"})
    assert answer.status == 403
    assert fetch(browser, "GET", "/")[0].status == 200  # the connection goes on


@pytest.mark.slow
def test_under_gunicorn() -> None:
    with gunicorn("--threads", "2", target="tests.support.django_site:app") as port:
        url = f"ws://127.0.0.1:{port}"
        with connect(f"{url}/ws/ann") as ann, connect(f"{url}/chat", additional_headers=session_of(port)) as ben:
            assert ann.recv(10) == "welcome ann to /ws/ann"
            assert ben.recv(10) == "welcome ben to /chat"
            for number in range(20):
                ann.send(str(number))
                assert ann.recv(10) == f"ann: {number}"


def test_in_the_loop_thread() -> None:
    server = gows.Server(wsgi=app, workers=0)
    server.start("127.0.0.1:0")
    try:
        test_a_view_upgrades(tcp(server.addresses[0])[1])
    finally:
        server.stop()
