"""HTTP connections with a worker pool, on real sockets: what virtual time cannot show."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from gows.errors import ConnectionClosedError
from gows.http import connection as module
from gows.http.connection import HttpConnection
from gows.http.request import Request
from gows.http.response import Response
from gows.http.wsgi import WsgiApp
from gows.reactor import Loop, Stream
from tests.http.test_connection import Pieces, Upgraded
from tests.support.addresses import tcp
from tests.support.http_site import App, get
from tests.support.waiting import wait_until

MakeServer = Callable[..., "LiveServer"]


class LiveServer:
    """An application on a running loop with workers."""

    def __init__(self, view: Callable[[Request], Any], workers: int = 2) -> None:
        self.app = App(view)
        self.loop = Loop(workers=workers)
        self.app.join(self.loop)
        self.streams: list[Stream] = []
        self.listener = self.loop.listen("127.0.0.1:0", self._accept)
        self.loop.start()

    def _accept(self, stream: Stream) -> None:
        stream.observer = HttpConnection(stream, self.app)
        self.streams.append(stream)

    def connect(self) -> socket.socket:
        return socket.create_connection(tcp(self.listener.address), timeout=5)


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(65536)
        assert piece, f"the connection ended after {data[-200:]!r}"
        data += piece
    return data


def body_of(sock: socket.socket) -> bytes:
    """The body of one answer with a length; reads nothing behind it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = bytearray()
    while len(body) < size:
        body += sock.recv(size - len(body))
    return bytes(body)


@pytest.fixture
def make_server() -> Iterator[MakeServer]:
    servers: list[LiveServer] = []

    def make(*args: Any, **settings: Any) -> LiveServer:
        servers.append(LiveServer(*args, **settings))
        return servers[-1]

    yield make
    for server in servers:
        server.loop.close()


def test_a_view_that_blocks_holds_up_nobody(make_server: MakeServer) -> None:
    release = threading.Event()

    def view(request: Request) -> str:
        if request.path == "/slow":
            assert release.wait(5)
        return f"{request.path} on {threading.current_thread().name}"

    server = make_server(view)
    with server.connect() as slow, server.connect() as fast:
        slow.sendall(get("/slow"))
        wait_until(lambda: server.app.requests)
        for _ in range(20):
            fast.sendall(get("/fast"))
            assert body_of(fast).startswith(b"/fast on gows-worker")
        release.set()
        assert body_of(slow).startswith(b"/slow on gows-worker")


def test_a_request_that_waits_for_a_worker_goes_with_its_client(make_server: MakeServer) -> None:
    """Else clients that leave at once could have any number of bodies held, without a connection for each."""
    release = threading.Event()

    def view(request: Request) -> str:
        assert release.wait(5)
        return "done"

    server = make_server(view, workers=1)
    pool = server.loop.pool
    with server.connect() as busy:
        busy.sendall(get("/busy"))
        wait_until(lambda: server.app.requests)
        for number in range(3):
            leaver = server.connect()
            leaver.sendall(get(f"/{number}", method="POST", body=b"body") + get("/pipelined"))
            wait_until(lambda: pool.tasks)
            leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends RST
            leaver.close()
            wait_until(lambda: not pool.tasks)
        with server.connect() as patient:
            patient.sendall(get("/patient"))
            patient.shutdown(socket.SHUT_WR)  # it has sent all, and still reads
            wait_until(lambda: pool.tasks)
            release.set()
            assert body_of(patient) == body_of(busy) == b"done"
    assert [request.path for request in server.app.requests] == ["/busy", "/patient"]


@pytest.mark.slow
def test_what_comes_while_a_request_is_answered_is_bounded(make_server: MakeServer) -> None:
    """The client may send on and on: we stop to read, and answer all in order afterwards."""
    release = threading.Event()

    def view(request: Request) -> str:
        assert release.wait(5)
        return request.path

    server = make_server(view)
    server.loop.scratch = bytearray(16384)
    with server.connect() as sock:
        sock.sendall(get("/first"))
        wait_until(lambda: server.app.requests)
        connection = server.streams[0].observer
        assert isinstance(connection, HttpConnection)
        sock.setblocking(False)
        sent = 0
        wire = b"".join(get(f"/{number}", "X: " + "x" * 8000) for number in range(1000))
        while len(connection._stash) < module.MAX_STASH or sent < 2 * module.MAX_STASH:
            try:
                sent += sock.send(wire[sent : sent + 65536])
            except BlockingIOError:
                pass
        stashed = len(connection._stash)
        assert module.MAX_STASH <= stashed <= module.MAX_STASH + 16384
        sock.settimeout(5)
        release.set()
        sender = threading.Thread(target=sock.sendall, args=(wire[sent:],))
        sender.start()
        assert body_of(sock) == b"/first"
        received = bytearray()
        while not received.endswith(b"/999"):
            received += sock.recv(65536)
        sender.join(5)
        assert received.count(b"HTTP/1.1 200 OK") == 1000


def test_a_slow_client_holds_no_worker(make_server: MakeServer) -> None:
    """One worker, one client that does not read its endless body: another client is served."""
    body = Pieces(bytes(65536) for _ in range(10_000))

    def view(request: Request) -> Any:
        return Response(body) if request.path == "/endless" else "hello"

    server = make_server(view, workers=1)
    with server.connect() as slow, server.connect() as fast:
        slow.sendall(get("/endless"))
        wait_until(lambda: any(stream.queued > module.HIGH_WATER for stream in server.streams))
        fast.sendall(get())
        assert body_of(fast) == b"hello"
        assert body.taken < 1000
        before = body.taken
        receive(slow, 4 << 20)
        wait_until(lambda: body.taken > before)
        slow.close()
        wait_until(lambda: body.closed)


class Stream4K:
    """A WSGI application whose body notes the threads that ask for it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.threads: set[str] = set()
        self.closed = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] != "/big":
            start_response("200 OK", [])
            return [b"hello"]
        start_response("200 OK", [("Content-Length", str(self.size))])
        self.threads.add(threading.current_thread().name)
        return self

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self.size // 4096):
            self.threads.add(threading.current_thread().name)
            yield bytes(4096)

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed += 1


def test_a_wsgi_body_stays_with_its_thread_and_another_takes_its_place(make_server: MakeServer) -> None:
    app = Stream4K(8 << 20)
    server = make_server(WsgiApp(app), workers=1)
    with server.connect() as slow, server.connect() as fast:
        slow.sendall(get("/big"))
        wait_until(lambda: any(stream.queued > module.HIGH_WATER for stream in server.streams))
        fast.sendall(get())
        assert body_of(fast) == b"hello"
        assert len(body_of(slow)) == 8 << 20
        wait_until(lambda: app.closed)
        fast.sendall(get())
        assert body_of(fast) == b"hello"
    assert len(app.threads) == 1
    assert app.closed == 1


def test_a_wsgi_body_is_closed_when_its_slow_client_leaves(make_server: MakeServer) -> None:
    app = Stream4K(1 << 30)
    server = make_server(WsgiApp(app), workers=1)
    with server.connect() as slow:
        slow.sendall(get("/big"))
        wait_until(lambda: server.streams and server.streams[0].queued > module.HIGH_WATER)
    wait_until(lambda: app.closed)
    assert len(app.threads) == 1


def test_when_too_many_threads_wait_for_something_else_a_slow_client_is_cut_off(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = Stream4K(1 << 30)
    server = make_server(WsgiApp(app), workers=1)
    monkeypatch.setattr(server.loop.pool, "step_aside", lambda *, beyond=False: False)
    with server.connect() as slow:
        slow.sendall(get("/big"))
        wait_until(lambda: app.closed)
        with pytest.raises(ConnectionResetError):
            receive(slow, 1 << 30)
    assert "too many threads wait, and this peer reads slowly" in caplog.text


def test_what_a_slow_view_has_sent_goes_out_before_its_end(make_server: MakeServer) -> None:
    """A piece is on the wire before the next is asked for."""
    release = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"first"
        assert release.wait(5)
        yield b"second"

    server = make_server(lambda request: Response(pieces()))
    with server.connect() as sock:
        sock.sendall(get("/", version="HTTP/1.0"))
        data = receive(sock, 1)
        while not data.endswith(b"first"):
            data += receive(sock, 1)
        release.set()
        assert receive(sock, 6) == b"second"
        assert sock.recv(1) == b""


def test_the_101_goes_out_before_the_view_has_returned(make_server: MakeServer) -> None:
    release = threading.Event()
    observer = Upgraded()

    def view(request: Request) -> None:
        assert request.connection is not None
        request.connection.upgrade(b"HTTP/1.1 101 S\r\n\r\n", observer)
        assert release.wait(5)

    server = make_server(view)
    with server.connect() as sock:
        sock.sendall(get())
        assert receive(sock, 18) == b"HTTP/1.1 101 S\r\n\r\n"
        sock.sendall(b"frames")
        wait_until(lambda: observer.data == b"frames")
        release.set()
    wait_until(lambda: "eof_received" in observer.calls)


def test_another_thread_may_upgrade_but_not_after_the_answer(make_server: MakeServer) -> None:
    """Either the 101 or the answer goes out, never both."""
    outcomes: list[str] = []

    def view(request: Request) -> str:
        def upgrade() -> None:
            assert request.connection is not None
            started.set()
            try:
                request.connection.upgrade(b"HTTP/1.1 101 S\r\n\r\n", Upgraded())
                outcomes.append("101")
            except ConnectionClosedError:
                outcomes.append("200")

        started = threading.Event()
        threading.Thread(target=upgrade).start()
        assert started.wait(5)
        return "hello"

    def answered(number: int) -> bool:
        return len(outcomes) == number

    server = make_server(view)
    for number in range(1, 51):
        with server.connect() as sock:
            sock.sendall(get("/", "Connection: close"))
            data = receive(sock, 12)
            wait_until(partial(answered, number))
            assert data[9:12].decode() == outcomes[-1]


def test_a_loop_that_is_closed_while_a_request_is_answered(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()

    def view(request: Request) -> str:
        assert release.wait(5)
        return "too late"

    server = make_server(view)
    with server.connect() as sock:
        sock.sendall(get())
        wait_until(lambda: server.app.requests)
        threading.Timer(0.05, release.set).start()
        server.loop.close()
    assert not caplog.records


def test_what_is_answered_at_once_needs_no_worker_however_many_ask(make_server: MakeServer) -> None:
    threads: set[int | None] = set()

    def view(request: Request) -> str:
        threads.add(threading.get_ident())
        return "now"

    server = make_server(view)
    with server.connect() as sock:
        sock.sendall(get("/at-once") * 500)
        answers = receive(sock, 1)
        while answers.count(b"\r\n\r\nnow") < 500:
            answers += receive(sock, 1)
    assert threads == {server.loop._thread_id}
