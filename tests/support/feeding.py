"""Wire bytes made by hand, and ways to feed them: what a Connection says must not depend on how its input was cut.

The frames here are put together bit by bit from RFC 6455 §5.2, by other code than the one under test.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from gows.errors import ProtocolError
from gows.protocol.connection import CHUNK, FAIL, TEXT, Connection, ConnectionConfig, Role
from gows.protocol.deflate import DeflateOptions, DeflateParams, DeflatePool

KEY = b"\x11\x22\x33\x44"
Segments = list[bytes]


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = KEY,
    length: int | None = None,
    form: int | None = None,
) -> bytes:
    """A frame; `length` lies about the payload's, `form` (7, 16 or 64 bits) says how it is written."""
    size = len(payload) if length is None else length
    form = form or (7 if size < 126 else 16 if size < 65536 else 64)
    second = {7: size, 16: 126, 64: 127}[form]
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode, (0x80 if key is not None else 0) | second])
    if form > 7:
        head += size.to_bytes(form // 8, "big")
    if key is None:
        return head + payload
    return head + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def server(params: DeflateParams | None = None, **config: Any) -> Connection:
    """A connection in the server role."""
    codec = None if params is None else DeflatePool().codec(params, DeflateOptions(), server=True)
    return Connection(ConnectionConfig(Role.SERVER, **config), codec)


def client(params: DeflateParams | None = None, **config: Any) -> Connection:
    """A connection in the client role."""
    codec = None if params is None else DeflatePool().codec(params, DeflateOptions(), server=False)
    return Connection(ConnectionConfig(Role.CLIENT, **config), codec)


def plain(events: list[Any]) -> list[Any]:
    """Events as values that can be compared, their buffers given back as the engine does."""
    return [(kind, _plain_value(kind, value)) for kind, value in events]


def _plain_value(kind: int, value: Any) -> Any:
    if kind == FAIL:
        assert isinstance(value, ProtocolError)
        assert len(value.reason.encode()) <= 123  # it goes out in our close frame
        return value.close_code
    if kind == CHUNK:
        return (*value[:2], take(value[2]))
    return take(value) if TEXT <= kind <= 2 else value


def take(buffer: Any) -> bytes:
    data: bytes = buffer.clone_bytes()
    buffer.release()
    return data


def feed(connection: Connection, *segments: bytes) -> list[Any]:
    """All events of these reads, each through a scratch buffer with other bytes behind it, overwritten afterwards."""
    events: list[Any] = []
    for segment in segments:
        scratch = bytearray(segment) + bytearray(b"\xee" * 300)
        connection.receive(scratch, len(segment), events)
        scratch[:] = b"\x5a" * len(scratch)
        while connection.pending:
            connection.receive(b"", 0, events)
    return plain(events)


def cuts(wire: bytes) -> Iterator[Segments]:
    """Whole, byte by byte, at each single place near the ends, and at random."""
    yield [wire]
    yield [wire[i : i + 1] for i in range(len(wire))]
    for at in {*range(1, min(len(wire), 20)), *range(max(1, len(wire) - 5), len(wire))}:
        yield [wire[:at], wire[at:]]
    for seed in range(4):
        yield at_random(wire, random.Random(seed))


def at_random(wire: bytes, rng: random.Random) -> Segments:
    segments, pos = [], 0
    while pos < len(wire):
        size = rng.choice((0, 1, 2, 3, 7, 50, 1000, 70000))
        segments.append(wire[pos : pos + size])
        pos += size
    return segments


def check(make: Callable[[], Connection], wire: bytes, expected: list[Any]) -> None:
    """`wire` gives `expected` however it is cut; what follows is parsed after it, but not after a close or a fault."""
    for segments in cuts(wire):
        connection = make()
        assert feed(connection, *segments) == expected, segments
        assert not connection.pending
        connection.receive_eof()
        assert connection.config.pool.lent == 0
    for trailing in (b"\x89", b"\x89\x00", b"\x81\x85abcd", frame(9, b"next"), frame(9, b"next", key=None)):
        connection = make()
        probe = make()
        feed(probe, wire)
        after = feed(probe, trailing)
        assert feed(connection, wire + trailing) == expected + after, trailing
        if expected and expected[-1][0] in (8, 11):
            assert after == []
        for each in (connection, probe):
            each.receive_eof()
            assert each.config.pool.lent == 0
