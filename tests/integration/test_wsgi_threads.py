"""Which thread does what for a WSGI application under gows.Server."""

from __future__ import annotations

import contextvars
import http.client
import logging
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

import gows
from gows.reactor import workers as workers_module
from gows.reactor.workers import WorkerPool
from tests.support.addresses import tcp
from tests.support.servers import MakeServer
from tests.support.waiting import wait_until

Environ = dict[str, Any]

PIECE = bytes(65536)
PIECES = 200
"""More than the kernel's buffers of a loopback connection hold."""


class Streaming:
    """Answers every request with PIECES pieces, and writes down in which threads."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.closed = threading.Semaphore(0)

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        self.threads.append(threading.get_ident())
        return Body(self)


class Body:
    def __init__(self, app: Streaming) -> None:
        self.app = app
        self.left = PIECES

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.app.threads.append(threading.get_ident())
        self.left -= 1
        if self.left < 0:
            raise StopIteration
        return PIECE

    def close(self) -> None:
        self.app.threads.append(threading.get_ident())
        self.app.closed.release()


def slow_peer(server: gows.Server, target: str = "/") -> socket.socket:
    """One that has asked, and does not read."""
    sock = socket.create_connection(tcp(server.addresses[0]), timeout=10)
    sock.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target.encode())
    return sock


def workers_of(server: gows.Server) -> int:
    assert isinstance(server.loop.pool, WorkerPool)
    return server.loop.pool.size


def has_workers(server: gows.Server, count: int) -> bool:
    return workers_of(server) == count


def read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    while piece := sock.recv(1 << 20):
        data += piece
    return bytes(data)


def test_one_thread_calls_iterates_and_closes(make_server: MakeServer) -> None:
    """Others work meanwhile, and would take over between two pieces if they could."""
    app = Streaming()
    server = make_server(wsgi=app, workers=2)

    @server.route("/page")
    def page(request: gows.Request) -> str:
        return "page"

    with slow_peer(server) as peer:
        wait_until(lambda: len(app.threads) > 2 and workers_of(server) > 2)
        host, port = tcp(server.addresses[0])
        browser = http.client.HTTPConnection(host, port, timeout=10)
        for _ in range(10):
            browser.request("GET", "/page")
            assert browser.getresponse().read() == b"page"
        browser.close()
        assert len(read_all(peer)) > PIECES * len(PIECE)
    assert app.closed.acquire(timeout=5)
    assert len(app.threads) == PIECES + 3
    assert len(set(app.threads)) == 1


def test_a_slow_peer_that_leaves(make_server: MakeServer) -> None:
    app = Streaming()
    server = make_server(wsgi=app, workers=1)
    with slow_peer(server):
        wait_until(lambda: workers_of(server) > 1)
    assert app.closed.acquire(timeout=5)
    assert len(app.threads) < PIECES
    assert len(set(app.threads)) == 1


@pytest.mark.slow
def test_a_server_that_stops_waits_for_no_slow_peer(make_server: MakeServer) -> None:
    app = Streaming()
    server = make_server(wsgi=app, workers=1)
    with slow_peer(server):
        wait_until(lambda: workers_of(server) > 1)
        server.stop(timeout=0.2)
        assert app.closed.acquire(timeout=5)


def test_when_too_many_peers_are_slow_one_is_cut_off_and_those_that_read_are_served(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "MAX_ASIDE", 2)
    app = Streaming()
    server = make_server(wsgi=app, workers=1)
    with ExitStack() as stack:
        peers = []
        for count in (1, 2):
            peers.append(stack.enter_context(slow_peer(server)))
            wait_until(partial(has_workers, server, 1 + count))
        late = stack.enter_context(slow_peer(server))
        assert app.closed.acquire(timeout=10)
        assert len(read_all(late)) > PIECES * len(PIECE)
        outcomes: list[bool | None] = []
        for peer in peers:
            try:
                outcomes.append(len(read_all(peer)) > PIECES * len(PIECE))
            except ConnectionResetError:
                outcomes.append(None)
        assert sorted(outcomes, key=str) == [None, True]


request_number = contextvars.ContextVar[str]("request_number")


def numbered(environ: Environ, start_response: Any) -> Iterator[bytes]:
    """Each piece is the number of the request, as the context has it."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    request_number.set(environ["QUERY_STRING"])
    for _ in range(150):
        yield request_number.get().encode() * 65536


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_each_answer_has_its_context(make_server: MakeServer, workers: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    server = make_server(wsgi=numbered, workers=workers)
    with ExitStack() as stack:
        peers = [stack.enter_context(slow_peer(server, f"/?{number}")) for number in range(4)]
        wait_until(lambda: server.loop.live_streams == 4)
        for number, peer in enumerate(peers):
            body = read_all(peer).partition(b"\r\n\r\n")[2]
            counted = {digit: body.count(str(digit).encode() * 65536) for digit in range(4)}
            assert counted == {digit: 150 if digit == number else 0 for digit in range(4)}
    assert not caplog.records
    assert request_number.get(None) is None
