from __future__ import annotations

import ctypes
import sys
import threading
from types import ModuleType

import pytest

from gows.bufferpool import BufferPool
from gows.errors import BufferReleasedError
from tests.support.twins import is_compiled, twins

KINDS = [bytes, bytearray]


@pytest.fixture(params=twins("gows.bytebuffer"), ids=lambda module: "compiled" if is_compiled(module) else "plain")
def bytebuffer(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_reading(bytebuffer: ModuleType, kind: type[bytes] | type[bytearray]) -> None:
    buffer = bytebuffer.ByteBuffer.of(kind("κόσμε".encode()))
    assert buffer.size() == len(buffer) == 10
    assert buffer.get_string() == "κόσμε"
    assert buffer.clone_bytes() == bytes(buffer) == "κόσμε".encode()
    assert type(buffer.clone_bytes()) is bytes
    assert bytes(buffer.get_bytes()) == "κόσμε".encode()
    assert repr(buffer) == "<ByteBuffer 10 bytes>"
    assert buffer


def test_an_empty_message_is_still_something(bytebuffer: ModuleType) -> None:
    buffer = bytebuffer.ByteBuffer.of(b"")
    assert len(buffer) == 0
    assert buffer
    assert buffer.get_string() == ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_cannot_change_the_message(bytebuffer: ModuleType, kind: type[bytes] | type[bytearray]) -> None:
    view = bytebuffer.ByteBuffer.of(kind(b"abc")).get_bytes()
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 0


def test_the_buffer_protocol(bytebuffer: ModuleType) -> None:
    if sys.version_info < (3, 12) and not is_compiled(bytebuffer):
        pytest.skip("PEP 688")
    buffer = bytebuffer.ByteBuffer.of(bytearray(b"abc"))
    assert memoryview(buffer).tobytes() == b"abc"
    assert b"-".join([buffer, buffer]) == b"abc-abc"
    with pytest.raises((BufferError, TypeError)):
        (ctypes.c_char * 3).from_buffer(buffer)


def test_a_view_by_the_buffer_protocol_keeps_the_bytes_past_the_release(bytebuffer: ModuleType) -> None:
    if sys.version_info < (3, 12) and not is_compiled(bytebuffer):
        pytest.skip("PEP 688")
    pool = BufferPool()
    storage = pool.take()
    storage += b"abc"
    buffer = bytebuffer.ByteBuffer.of(storage, pool)
    view = memoryview(buffer)
    assert view.readonly
    buffer.release()
    with pytest.raises(BufferReleasedError):
        memoryview(buffer)
    assert pool.take() is not storage
    assert view.tobytes() == b"abc"


def test_the_buffer_protocols_method(bytebuffer: ModuleType) -> None:
    assert bytebuffer.ByteBuffer.of(bytearray(b"abc")).__buffer__(0) == b"abc"


def test_bytes_that_are_not_utf8_have_no_string(bytebuffer: ModuleType) -> None:
    with pytest.raises(UnicodeDecodeError):
        bytebuffer.ByteBuffer.of(b"\xff").get_string()


def test_use_after_release_raises(bytebuffer: ModuleType) -> None:
    for pool in (None, BufferPool()):
        buffer = bytebuffer.ByteBuffer.of(bytearray(b"abc") if pool is None else pool.take(), pool)
        buffer.release()
        for use in (
            buffer.get_bytes,
            buffer.clone_bytes,
            buffer.get_string,
            buffer.size,
            buffer.__len__,
            buffer.__bytes__,
            lambda: buffer.__buffer__(0),  # noqa: B023
        ):
            with pytest.raises(BufferReleasedError, match="clone_bytes"):
                use()
        assert repr(buffer) == "<ByteBuffer released>"
        assert buffer


def test_a_second_release_gives_nothing_back_twice(bytebuffer: ModuleType) -> None:
    """In the seed a double Close put one buffer into the pool twice, and so into two messages."""
    pool = BufferPool()
    buffer = bytebuffer.ByteBuffer.of(pool.take(), pool)
    for _ in range(3):
        buffer.release()
    assert pool.lent == 0
    assert pool.take() is not pool.take()


def test_a_released_wrapper_never_shows_what_the_pool_lent_next(bytebuffer: ModuleType) -> None:
    pool = BufferPool()
    first = pool.take()
    first += b"secret of one"
    buffer = bytebuffer.ByteBuffer.of(first, pool)
    buffer.release()
    second = pool.take()
    assert second is first
    second += b"secret of another"
    with pytest.raises(BufferReleasedError):
        buffer.get_bytes()


@pytest.mark.parametrize("data", [b"kept", b""])
def test_storage_that_is_still_viewed_is_not_used_again(bytebuffer: ModuleType, data: bytes) -> None:
    pool = BufferPool()
    storage = pool.take()
    storage += data
    buffer = bytebuffer.ByteBuffer.of(storage, pool)
    view = buffer.get_bytes()
    buffer.release()
    assert pool.lent == 0
    again = pool.take()
    assert again is not storage
    again += b"next message"
    assert view == data


def test_an_immutable_message_is_not_the_pools(bytebuffer: ModuleType) -> None:
    pool = BufferPool()
    buffer = bytebuffer.ByteBuffer.of(b"", pool)
    buffer.release()
    assert pool.lent == 0


def test_what_was_taken_is_empty_and_used_again() -> None:
    pool = BufferPool()
    storage = pool.take()
    assert storage == b""
    assert pool.lent == 1
    storage += b"x" * 1000
    pool.give(storage)
    assert pool.lent == 0
    assert pool.take() is storage
    assert storage == b""


def test_a_pool_keeps_neither_many_nor_large_buffers() -> None:
    pool = BufferPool(keep=2, max_size=100)
    storages = [pool.take() for _ in range(4)]
    storages[0] += b"x" * 101
    for storage in storages:
        pool.give(storage)
    again = [pool.take() for _ in range(3)]
    assert again[0] is storages[2]
    assert again[1] is storages[1]
    assert all(again[2] is not storage for storage in storages)
    assert pool.lent == 3


def test_take_and_give_from_many_threads() -> None:
    pool = BufferPool(keep=3)
    failed: list[str] = []

    def work(mark: bytes) -> None:
        for _ in range(500):
            storage = pool.take()
            if storage:
                failed.append("not empty")
            storage += mark * 20
            if storage != mark * 20:
                failed.append("shared")
            pool.give(storage)

    threads = [threading.Thread(target=work, args=(bytes([n]),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not failed
