"""The sockets of connections, both variants: they behave as `socket.SocketType` does."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.support.twins import is_compiled, twins


@pytest.fixture(params=twins("gows.reactor.kernel"), ids=lambda module: "compiled" if is_compiled(module) else "plain")
def module(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@pytest.fixture
def pair(module: ModuleType) -> Iterator[tuple[Any, socket.socket]]:
    one, other = socket.socketpair()
    sock = module.Socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, one.detach())
    sock.setblocking(False)
    yield sock, other
    sock.close()
    other.close()


def test_reading(pair: tuple[Any, socket.socket]) -> None:
    sock, other = pair
    scratch = bytearray(8)
    with pytest.raises(BlockingIOError):
        sock.recv_into(scratch)
    other.send(b"Hello world")
    assert sock.recv_into(scratch) == 8
    assert sock.recv_into(memoryview(scratch)[4:]) == 3
    assert scratch == b"Hellrldo"
    other.close()
    assert sock.recv_into(scratch) == 0


def fill(sock: Any) -> None:
    while True:
        sock.send(b"x" * 65536)


def test_sending(pair: tuple[Any, socket.socket]) -> None:
    sock, other = pair
    assert sock.send(b"bytes ") == 6
    assert sock.send(memoryview(b"a view of what")[2:7]) == 5
    assert sock.sendmsg([b" and", memoryview(b" pieces")]) == 11
    assert other.recv(100) == b"bytes view  and pieces"
    with pytest.raises(BlockingIOError):
        fill(sock)
    other.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        sock.send(b"x")


def test_what_is_no_buffer(pair: tuple[Any, socket.socket]) -> None:
    sock, _ = pair
    for nothing in (None, "text", 5):
        with pytest.raises(TypeError):
            sock.send(nothing)
        with pytest.raises(TypeError):
            sock.recv_into(nothing)
    with pytest.raises((TypeError, BufferError)):
        sock.recv_into(b"read-only")


def test_it_never_waits_even_on_a_descriptor_that_would(module: ModuleType) -> None:
    if not is_compiled(module):
        pytest.skip("the standard library's type waits, as it was told to")
    one, other = socket.socketpair()
    sock = module.Socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, one.detach())
    with other:
        with pytest.raises(BlockingIOError):
            sock.recv_into(bytearray(1))
        sock.close()


def test_after_close_everything_says_so(pair: tuple[Any, socket.socket]) -> None:
    sock, _ = pair
    number = sock.fileno()
    sock.close()
    sock.close()
    assert sock.fileno() == -1
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(number)
    calls: list[Callable[[], object]] = [
        lambda: sock.recv_into(bytearray(1)),
        lambda: sock.send(b"x"),
        lambda: sock.sendmsg([b"x"]),
        lambda: sock.shutdown(socket.SHUT_WR),
        lambda: sock.getsockname(),
        lambda: sock.getpeername(),
        lambda: sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        lambda: sock.setblocking(False),
    ]
    for call in calls:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            call()
        assert caught.value.errno == errno.EBADF


def test_the_rest_of_a_connection(module: ModuleType) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = module.Socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        assert sock.connect_ex(server.getsockname()) in (0, errno.EINPROGRESS)
        accepted, address = server.accept()
        with accepted:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            assert (sock.getsockname(), sock.getpeername()) == (address, server.getsockname())
            assert (int(sock.family), int(sock.type), sock.proto) == (socket.AF_INET, socket.SOCK_STREAM, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.shutdown(socket.SHUT_WR)
            assert accepted.recv(1) == b""
            assert "fd=" in repr(sock)
        os.close(sock.detach())
        assert sock.fileno() == -1


def test_one_that_nobody_closed_is_closed_and_told_of(module: ModuleType) -> None:
    one, other = socket.socketpair()
    with other:
        left = [module.Socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, one.detach())]
        with pytest.warns(ResourceWarning, match="unclosed"):
            left.clear()
        assert other.recv(1) == b""
