"""Answers that one thread makes, for peers that take them more slowly."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gows.http import outlet as module
from gows.http.connection import HIGH_WATER
from gows.http.outlet import BATCH, BUDGET, FILES, MAX_SPOOL, Budget, Spool
from gows.http.wsgi import WsgiApp
from tests.http.test_connection_threads import LiveServer, body_of, make_server, receive  # noqa: F401
from tests.support.addresses import tcp
from tests.support.http_site import get
from tests.support.waiting import wait_until

MakeServer = Callable[..., LiveServer]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Whatever happened, no file of an answer is open in the end."""
    assert BUDGET.taken == FILES.taken == 0
    yield
    wait_until(lambda: BUDGET.taken == FILES.taken == 0)


# ---------------------------------------------------------------------- the spool


@given(st.lists(st.one_of(st.none(), st.integers(1, 3 * BATCH)), max_size=60), st.integers(0, 8))
@settings(max_examples=20)
def test_a_spool_gives_what_it_got_in_order(steps: list[int | None], drain: int) -> None:
    spool, put, taken = Spool(), b"", b""
    source = bytes(range(256)) * (3 * BATCH // 256 + 1)
    for number, step in enumerate(steps):
        if step is None:
            for _ in range(drain):
                taken += spool.take()
        else:
            data = source[number : number + step]
            put += data
            spool.put(data)
        assert spool.size == len(put) - len(taken)
        assert BUDGET.taken <= MAX_SPOOL
    while data := spool.take():
        taken += data
    assert taken == put
    assert BUDGET.taken == spool.size == 0
    spool.close()


def test_a_spool_is_full_until_it_is_empty() -> None:
    spool = Spool()
    pieces = 0
    while spool.put(bytes(65536)):
        pieces += 1
    assert MAX_SPOOL <= pieces * 65536 < MAX_SPOOL + 2 * BATCH
    assert len(spool._latest) * 65536 <= 2 * BATCH
    while spool.size > 65536:
        spool.take()
    assert not spool.put(b"x")
    while spool.take():
        pass
    assert spool.put(bytes(2 * BATCH))
    spool.close()
    spool.close()


def test_all_spools_share_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BUDGET, "most", 3 * BATCH)
    spools = [Spool() for _ in range(4)]
    assert [spool.put(bytes(BATCH)) for spool in spools] == [True, True, True, False]
    spools[0].close()
    assert spools[1].put(bytes(BATCH))
    for spool in spools:
        spool.close()


def test_there_are_not_too_many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FILES, "most", 1)
    spools = [Spool(), Spool()]
    assert [spool.put(bytes(BATCH)) for spool in spools] == [True, False]
    assert BUDGET.taken == BATCH
    for spool in spools:
        spool.close()
    assert spools[1].put(bytes(BATCH))
    spools[1].close()


def test_a_budget() -> None:
    budget = Budget(10)
    assert budget.take(7)
    assert not budget.take(4)
    budget.give_back(7)
    assert budget.take(10)


def no_file(*args: object, **more: object) -> None:
    raise OSError(errno.EMFILE, "too many open files")


def test_a_spool_without_a_file_is_full_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TemporaryFile", no_file)
    spool = Spool()
    assert spool.put(b"a" * (BATCH - 1))
    assert not spool.put(b"b")
    assert spool.take() + spool.take() == b"a" * (BATCH - 1) + b"b"
    assert spool.take() == b""


def test_a_disk_that_is_full_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool()
    assert spool.put(b"a" * BATCH)
    pwrite = os.pwrite

    def half(fd: int, data: memoryview, at: int) -> int:
        if len(data) < BATCH:
            raise OSError(errno.ENOSPC, "no space")
        return pwrite(fd, data[: BATCH // 2], at)

    monkeypatch.setattr(os, "pwrite", half)
    assert not spool.put(b"b" * BATCH)
    data = b""
    while piece := spool.take():
        data += piece
    assert data == b"a" * BATCH + b"b" * BATCH
    spool.close()


def test_a_file_that_was_cut_short_is_an_error() -> None:
    spool = Spool()
    spool.put(bytes(BATCH))
    assert spool._file is not None
    spool._file.truncate(0)
    with pytest.raises(OSError, match="cut short"):
        spool.take()
    spool.close()


# ---------------------------------------------------------------------- answers


class Download:
    """A WSGI application whose answers note the threads that make and close them."""

    def __init__(self, size: int, *, known: bool = True) -> None:
        self.size = size
        self.known = known
        self.closed: list[bool] = []
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        if environ["PATH_INFO"] != "/big":
            start("200 OK", [])
            return [b"hello"]
        start("200 OK", [("Content-Length", str(self.size))] if self.known else [])
        return Pieces(self)


class Pieces:
    def __init__(self, app: Download) -> None:
        self.app = app
        self.threads = {threading.get_ident()}

    def __iter__(self) -> Iterator[bytes]:
        for number in range(self.app.size // 65536):
            self.threads.add(threading.get_ident())
            yield bytes([number % 256]) * 65536

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        with self.app._lock:
            self.app.closed.append(len(self.threads) == 1)


def slow(server: LiveServer, wire: bytes = get("/big")) -> socket.socket:
    """A client that has asked, and does not read; its kernel takes little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.settimeout(5)
    sock.connect(tcp(server.listener.address))
    sock.sendall(wire)
    return sock


def threads() -> int:
    return sum(thread.name.startswith("gows-worker") for thread in threading.enumerate())


def whole(size: int) -> bytes:
    return b"".join(bytes([number % 256]) * 65536 for number in range(size // 65536))


@pytest.mark.slow
def test_slow_readers_hold_no_thread_once_their_answers_are_made(make_server: MakeServer) -> None:  # noqa: F811
    """However many: what they do not read is on disk. And each gets all of it."""
    size = 6 << 20
    app = Download(size)
    server = make_server(WsgiApp(app), workers=2)
    before = threads()
    readers = [slow(server) for _ in range(10)]
    wait_until(lambda: len(app.closed) == 10)
    assert all(app.closed)
    assert threads() - before <= 2
    assert any(stream.queued > HIGH_WATER for stream in server.streams)
    with server.connect() as other:
        other.sendall(get("/big"))
        assert len(body_of(other)) == size
    for reader in readers[::3]:
        assert body_of(reader) == whole(size)
        reader.sendall(get("/other"))
        assert body_of(reader) == b"hello"
    for reader in readers:
        reader.close()


def test_a_chunked_answer_is_whole_and_the_connection_stays(make_server: MakeServer) -> None:  # noqa: F811
    app = Download(5 << 20, known=False)
    server = make_server(WsgiApp(app), workers=1)
    with slow(server, get("/big") + get("/other")) as sock:
        wait_until(lambda: app.closed)
        data = receive(sock, 1)
        while not data.endswith(b"\r\n\r\nhello"):
            data += receive(sock, 1)
    head, _, rest = data.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    body = b""
    while True:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line, 16)
        body += rest[:size]
        rest = rest[size + 2 :]
        if not size:
            break
    assert body == whole(5 << 20)
    assert rest.startswith(b"HTTP/1.1 200 OK")


def test_a_client_that_leaves_has_its_spool_closed(make_server: MakeServer) -> None:  # noqa: F811
    app = Download(6 << 20)
    server = make_server(WsgiApp(app), workers=1)
    with slow(server):
        wait_until(lambda: app.closed)
        assert BUDGET.taken > 0
    wait_until(lambda: BUDGET.taken == 0)
    with server.connect() as sock:
        sock.sendall(get("/other"))
        assert body_of(sock) == b"hello"


def test_a_server_that_closes_has_its_spools_closed(make_server: MakeServer) -> None:  # noqa: F811
    app = Download(6 << 20)
    server = make_server(WsgiApp(app), workers=1)
    with slow(server):
        wait_until(lambda: app.closed)
        assert BUDGET.taken > 0
        server.loop.close()
        assert BUDGET.taken == 0


def test_a_body_that_fails_while_much_is_spooled_is_cut_off(
    make_server: MakeServer,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    def app(environ: dict[str, Any], start: Any) -> Iterator[bytes]:
        start("200 OK", [])

        def body() -> Iterator[bytes]:
            for _ in range(80):
                yield bytes(65536)
            raise RuntimeError("broken")

        return body()

    server = make_server(WsgiApp(app), workers=1)
    with slow(server) as sock:
        wait_until(lambda: server.streams and server.streams[0].closed)
        with pytest.raises(ConnectionResetError):
            receive(sock, 10 << 20)
    assert "the body failed" in caplog.text


def test_over_its_spool_a_reader_holds_a_thread_and_gets_all(
    make_server: MakeServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TemporaryFile", no_file)
    size = 8 << 20
    app = Download(size)
    server = make_server(WsgiApp(app), workers=1)
    with slow(server) as reader, server.connect() as other:
        waiting = server.loop.shared
        wait_until(lambda: "outlets that wait" in waiting and waiting["outlets that wait"]._outlets)
        other.sendall(get("/other"))
        assert body_of(other) == b"hello"
        assert body_of(reader) == whole(size)
    wait_until(lambda: app.closed == [True])


@pytest.mark.slow
def test_when_too_many_threads_wait_the_one_that_stalls_longest_is_cut_off(
    make_server: MakeServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that read are served, however many do not."""
    monkeypatch.setattr(module, "MAX_SPOOL", 0)
    size = 8 << 20
    app = Download(size)
    server = make_server(WsgiApp(app), workers=2)
    monkeypatch.setattr(server.loop.pool, "_limit", 5)
    before = threads()
    readers = [slow(server) for _ in range(8)]
    wait_until(lambda: len(app.closed) >= 5)
    assert threads() - before <= 6
    for _ in range(3):
        with server.connect() as sock:
            sock.sendall(get("/big"))
            assert body_of(sock) == whole(size)
    for reader in readers:
        reader.close()
    wait_until(lambda: len(app.closed) == 11)
    assert all(app.closed)
