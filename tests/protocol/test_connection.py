"""Receiving: wire vectors in both roles, each whole, byte by byte, cut at random, and with bytes behind it."""

from __future__ import annotations

import random
import sys
import zlib
from typing import Any

import pytest

from gows.bufferpool import BufferPool
from gows.protocol import connection as module
from gows.protocol.connection import (
    BINARY,
    CHUNK,
    CLOSE,
    FAIL,
    PING,
    PONG,
    TEXT,
    Connection,
    ConnectionConfig,
    ConnectionState,
    Role,
)
from gows.protocol.deflate import DeflateOptions, DeflateParams, DeflatePool
from tests.support.feeding import at_random, check, client, feed, frame, plain, server, take

NO_TAKEOVER = DeflateParams(True, True)
TAKEOVER = DeflateParams()


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(1, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4] or b"\x00"


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


# good input. A vector is written once, with masked frames, and run in both roles.

GOOD: dict[str, tuple[list[tuple[Any, ...]], list[Any]]] = {
    "text": ([(1, b"Hello")], [(TEXT, b"Hello")]),
    "empty text": ([(1, b"")], [(TEXT, b"")]),
    "empty binary": ([(2, b"")], [(BINARY, b"")]),
    "binary is any bytes": ([(2, b"\xff\x00\x80")], [(BINARY, b"\xff\x00\x80")]),
    "not ASCII": ([(1, "κόσμε €😀".encode())], [(TEXT, "κόσμε €😀".encode())]),
    "125": ([(2, noise(125))], [(BINARY, noise(125))]),
    "126": ([(2, noise(126))], [(BINARY, noise(126))]),
    "long text": ([(1, b"x" * 700)], [(TEXT, b"x" * 700)]),
    "long text not ASCII": ([(1, "€".encode() * 300)], [(TEXT, "€".encode() * 300)]),
    "several": (
        [(1, b"a"), (2, b"b"), (1, b""), (1, b"c" * 200), (2, b"d")],
        [(TEXT, b"a"), (BINARY, b"b"), (TEXT, b""), (TEXT, b"c" * 200), (BINARY, b"d")],
    ),
    "ping": ([(9, b"p")], [(PING, b"p")]),
    "empty ping": ([(9, b"")], [(PING, b"")]),
    "pong": ([(10, noise(125))], [(PONG, noise(125))]),
    "close": ([(8, b"\x03\xe8bye")], [(CLOSE, (1000, "bye"))]),
    "close without code": ([(8, b"")], [(CLOSE, (1005, ""))]),
    "two fragments": ([(1, b"Hel", False), (0, b"lo")], [(TEXT, b"Hello")]),
    "fragments of one byte": ([(2, b"a", False), *[(0, b"b", False)] * 30, (0, b"c")], [(2, b"a" + b"b" * 30 + b"c")]),
    "empty fragments": ([(1, b"", False), (0, b"", False), (0, b"x", False), (0, b"")], [(TEXT, b"x")]),
    "all fragments empty": ([(1, b"", False), (0, b"")], [(TEXT, b"")]),
    "a code point across fragments": ([(1, b"\xe2", False), (0, b"\x82", False), (0, b"\xac")], [(TEXT, "€".encode())]),
    "control frames amid a message": (
        [(1, b"a", False), (9, b"1"), (0, b"b", False), (10, b""), (9, b""), (0, b"c"), (9, b"2")],
        [(PING, b"1"), (PONG, b""), (PING, b""), (TEXT, b"abc"), (PING, b"2")],
    ),
    "close amid a message": ([(1, b"a", False), (8, b"\x03\xe9")], [(CLOSE, (1001, ""))]),
    "nothing after close": ([(8, b"\x03\xe8"), (1, b"x"), (9, b"")], [(CLOSE, (1000, ""))]),
    "messages before close": ([(1, b"x"), (8, b"\x0f\xa0"), (1, b"y")], [(TEXT, b"x"), (CLOSE, (4000, ""))]),
}  # fmt: skip

BIG: dict[str, tuple[list[tuple[Any, ...]], list[Any]]] = {
    "65535": ([(2, noise(65535))], [(BINARY, noise(65535))]),
    "65536": ([(2, noise(65536))], [(BINARY, noise(65536))]),
    "fragments of all sizes": (
        [(2, noise(125), False), (0, noise(126), False), (0, noise(70_000), False), (0, noise(1))],
        [(BINARY, noise(125) + noise(126) + noise(70_000) + noise(1))],
    ),
}

ROLES = {"server": (server, b"\x11\x22\x33\x44"), "client": (client, None)}


def wire_of(frames: list[tuple[Any, ...]], key: bytes | None) -> bytes:
    return b"".join(
        frame(f[0], f[1], fin=f[2] if len(f) > 2 else True, rsv=f[3] if len(f) > 3 else 0, key=key) for f in frames
    )


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", GOOD)
def test_good_input(name: str, role: str) -> None:
    make, key = ROLES[role]
    frames, expected = GOOD[name]
    check(make, wire_of(frames, key), expected)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", BIG)
def test_big_input(name: str, role: str) -> None:
    make, key = ROLES[role]
    frames, expected = BIG[name]
    wire = wire_of(frames, key)
    for segments in ([wire], *(at_random(wire, random.Random(seed)) for seed in range(5))):
        connection = make()
        assert feed(connection, *segments) == expected
        assert connection.config.pool.lent == 0


@pytest.mark.parametrize("size", range(130))
def test_every_small_size_and_what_lies_behind_it(size: int) -> None:
    key = noise(4)
    for payload in (noise(size), b"\xff" * size, b"\x00" * size):
        wire = frame(2, payload, key=key) + frame(1, b"next", key=b"\xff\xff\xff\xff")
        assert feed(server(), wire) == [(BINARY, payload), (TEXT, b"next")]
    wire = frame(1, b"a" * size, key=key)
    assert feed(server(), wire * 3) == [(TEXT, b"a" * size)] * 3


def test_sixteen_small_frames_in_one_read() -> None:
    payloads = [noise(32).hex().encode()[:32] for _ in range(16)]
    assert feed(server(), b"".join(frame(1, p) for p in payloads)) == [(TEXT, p) for p in payloads]


def test_a_message_is_immutable_bytes_or_lent_storage() -> None:
    """A view a user keeps can never show later bytes."""
    connection = server()
    scratch = bytearray(frame(1, b"first") + frame(2, b"second") + frame(2, b"z" * 300))
    events: list[Any] = []
    connection.receive(scratch, len(scratch), events)
    views = [value.get_bytes() for _, value in events]
    scratch[:] = b"\x00" * len(scratch)
    for _, value in events:
        value.release()
    assert [bytes(view) for view in views] == [b"first", b"second", b"z" * 300]


# permessage-deflate

COMPRESSED: dict[str, tuple[list[tuple[Any, ...]], list[Any]]] = {
    "one": ([(1, deflated(b"Hello"), True, 4)], [(TEXT, b"Hello")]),
    "empty": ([(2, b"\x00", True, 4)], [(BINARY, b"")]),
    "fragments": (
        [(2, deflated(noise(99))[:5], False, 4), (0, deflated(noise(99))[5:9], False), (0, deflated(noise(99))[9:])],
        [(BINARY, noise(99))],
    ),
    "empty fragments": ([(1, b"", False, 4), (0, deflated(b"Hi"), False), (0, b"", False), (0, b"")], [(TEXT, b"Hi")]),
    "plain beside compressed": (
        [(1, b"plain"), (1, deflated(b"packed"), True, 4), (1, b"pl", False), (0, b"ain"), (2, b"\x00", True, 4)],
        [(TEXT, b"plain"), (TEXT, b"packed"), (TEXT, b"plain"), (BINARY, b"")],
    ),
    "control frames are never compressed": (
        [(1, deflated(b"Hello")[:3], False, 4), (9, b"p"), (0, deflated(b"Hello")[3:]), (10, b"q")],
        [(PING, b"p"), (TEXT, b"Hello"), (PONG, b"q")],
    ),
    "the same twice": ([(2, deflated(noise(99) * 9), True, 4)] * 2, [(BINARY, noise(99) * 9)] * 2),
    "not ASCII": ([(1, deflated("€".encode() * 500), True, 4)], [(TEXT, "€".encode() * 500)]),
    "two DEFLATE blocks": ([(1, bytes.fromhex("f248050000 00ffffcac9c90700"), True, 4)], [(TEXT, b"Hello")]),
    "a final block": ([(1, bytes.fromhex("f348cdc9c9070000"), True, 4), (1, b"x")], [(TEXT, b"Hello"), (TEXT, b"x")]),
    "a stored block": ([(1, bytes.fromhex("000500faff48656c6c6f00"), True, 4)], [(TEXT, b"Hello")]),
}  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("params", [NO_TAKEOVER, TAKEOVER])
@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_input(name: str, params: DeflateParams, role: str) -> None:
    make, key = ROLES[role]
    frames, expected = COMPRESSED[name]
    check(lambda: make(params), wire_of(frames, key), expected)


def test_takeover_reads_what_points_into_earlier_messages() -> None:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    wires = [(compressor.compress(b"Hello") + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4] for _ in range(3)]
    assert len(wires[1]) < len(wires[0])
    wire = b"".join(frame(1, each, rsv=4) for each in wires)
    check(lambda: server(TAKEOVER), wire, [(TEXT, b"Hello")] * 3)
    check(lambda: server(NO_TAKEOVER), wire, [(TEXT, b"Hello"), (FAIL, 1007)])


# chunked mode


def joined(events: list[Any]) -> list[Any]:
    """Chunks put together again to messages."""
    out: list[Any] = []
    data = b""
    for kind, value in events:
        if kind != CHUNK:
            out.append((kind, value))
            continue
        opcode, fin, piece = value
        data += piece
        if fin:
            out.append((opcode, data))
            data = b""
    assert not data or out[-1][0] in (CLOSE, FAIL)
    return out


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("params", [None, NO_TAKEOVER])
@pytest.mark.parametrize("name", [*GOOD, *BIG])
def test_chunks_join_to_the_message(name: str, params: DeflateParams | None, role: str) -> None:
    make, key = ROLES[role]
    frames, expected = (GOOD | BIG)[name]
    wire = wire_of(frames, key)
    for segments in ([wire], *(at_random(wire, random.Random(seed)) for seed in range(5))):
        connection = make(params, chunked=True, message_buffer_size=64)
        events = feed(connection, *segments)
        assert joined(events) == expected
        connection.receive_eof()
        assert connection.config.pool.lent == 0


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_chunks_join_to_the_message(name: str) -> None:
    frames, expected = COMPRESSED[name]
    wire = wire_of(frames, b"abcd")
    for size in (1, 7, len(wire)):
        connection = server(NO_TAKEOVER, chunked=True, message_buffer_size=64)
        assert joined(feed(connection, *(wire[i : i + size] for i in range(0, len(wire), size)))) == expected


def test_a_chunk_is_a_frame_or_what_fills_the_message_buffer() -> None:
    connection = server(chunked=True, message_buffer_size=4)
    wire = frame(1, b"abcdefghij", fin=False)
    assert feed(connection, wire[:9]) == []  # 3 bytes of payload
    assert feed(connection, wire[9:10]) == [(CHUNK, (TEXT, False, b"abcd"))]
    assert feed(connection, wire[10:]) == [(CHUNK, (TEXT, False, b"efghij"))]
    assert feed(connection, frame(0, b"", fin=False)) == []
    assert feed(connection, frame(0, b"k", fin=False)) == [(CHUNK, (TEXT, False, b"k"))]
    assert feed(connection, frame(0, b"")) == [(CHUNK, (TEXT, True, b""))]
    assert feed(connection, frame(2, b"whole")) == [(CHUNK, (BINARY, True, b"whole"))]


def test_a_chunk_may_end_amid_a_code_point_and_is_checked_all_the_same() -> None:
    connection = server(chunked=True)
    assert feed(connection, frame(1, b"\xe2\x82", fin=False)) == [(CHUNK, (TEXT, False, b"\xe2\x82"))]
    assert feed(connection, frame(0, b"(", fin=False)) == [(FAIL, 1007)]


def test_the_limit_counts_all_chunks_of_a_message() -> None:
    connection = server(chunked=True, max_message_size=10)
    events = feed(connection, frame(2, b"x" * 6, fin=False), frame(0, b"y" * 4, fin=False), frame(0, b"z"))
    assert events == [(CHUNK, (2, False, b"x" * 6)), (CHUNK, (2, False, b"y" * 4)), (FAIL, 1009)]


# what is kept


def test_an_idle_connection_keeps_nothing() -> None:
    """Every idle connection of the seed pinned a reader, and an inflater under compression."""
    for params in (None, NO_TAKEOVER):
        connection = server(params)
        wire = wire_of([(1, b"a"), (2, b"b" * 300), (1, b"c", False), (9, b""), (0, b"d")], b"abcd") + (
            frame(1, deflated(b"e"), rsv=4) if params else b""
        )
        feed(connection, *(wire[i : i + 1] for i in range(len(wire))))
        assert connection._assembly is None
        assert connection._sent_text is None
        assert connection.config.pool.lent == 0
    assert len(Connection.__slots__) <= 8
    assert not hasattr(connection, "__dict__")
    assert sys.getsizeof(connection) < 120


def test_an_unfinished_header_is_all_that_is_kept_before_a_payload() -> None:
    connection = server()
    wire = frame(2, b"x" * 70_000)
    for count in range(1, 14):
        feed(connection, wire[count - 1 : count])
        assert connection._assembly is not None
        assert connection._assembly.raw == wire[:count]
        assert connection._assembly.storage is None
    assert not connection.pending


def test_a_payload_in_progress_lies_in_one_pooled_buffer_of_its_size() -> None:
    pool = BufferPool()
    connection = server(pool=pool)
    wire = frame(2, b"x" * 60_000, length=1 << 20)  # most of it never comes
    feed(connection, *(wire[i : i + 1000] for i in range(0, len(wire), 1000)))
    assembly = connection._assembly
    assert assembly is not None
    assert assembly.storage is not None
    assert bytes(assembly.storage) == b"x" * 60_000
    assert sys.getsizeof(assembly.storage) < 70_000
    assert assembly.raw == assembly.body == b""
    assert pool.lent == 1
    connection.receive_eof()
    assert pool.lent == 0
    assert connection._assembly is None


def test_giving_up_from_another_thread_leaves_the_buffer_to_the_reading_thread() -> None:
    connection = server()
    feed(connection, frame(2, b"half", length=100))
    connection.end()
    assert connection.state is ConnectionState.CLOSED
    assert connection.config.pool.lent == 1
    assert feed(connection, b"more") == []
    connection.receive_eof()
    assert connection.config.pool.lent == 0


@pytest.mark.parametrize("last", [frame(8, b"\x03\xe8"), b"\x83\x80"])
def test_a_close_or_a_fault_gives_an_unfinished_message_back_at_once(last: bytes) -> None:
    connection = server()
    feed(connection, frame(2, b"begun", fin=False))
    assert connection.config.pool.lent == 1
    feed(connection, last)
    assert connection.config.pool.lent == 0
    assert connection._assembly is None


@pytest.mark.parametrize(
    "whole", [frame(9, b"ping"), frame(1, b"x"), frame(2, b"x" * 300), frame(1, b"", fin=False) + frame(0)]
)
def test_a_split_header_leaves_nothing_behind_once_its_frame_is_whole(whole: bytes) -> None:
    for at in range(1, len(whole)):
        connection = server()
        feed(connection, whole[:at], whole[at:])
        assert connection._assembly is None


# the shortest way


@pytest.mark.parametrize("before", [b"", b"\x00" * 7, frame(1, b"an earlier one")], ids=len)
@pytest.mark.parametrize("behind", [b"", b"\xee" * 9, frame(1, b"a later one"), b"\x81"], ids=len)
def test_small_messages_one_at_a_time(before: bytes, behind: bytes) -> None:
    for opcode in (TEXT, BINARY):
        for payload in (b"", b"x", b"Hello", "κόσμε".encode(), b"y" * 125):
            connection = server()
            wire = before + frame(opcode, payload)
            for n in (len(wire), len(wire + behind)):
                buffer = connection.receive_one(bytearray(wire + behind), len(before), n)
                assert buffer is not None
                assert take(buffer) == payload


def test_receive_goes_on_where_the_short_way_ends() -> None:
    connection, events = server(), []  # type: ignore[var-annotated]
    wire = bytearray(frame(1, b"Hello") + frame(9, b"ping") + frame(1, b"more"))
    assert connection.receive_one(wire, 0, len(wire)) is not None
    assert connection.receive_one(wire, 11, len(wire)) is None
    connection.receive(wire, len(wire), events, 11)
    assert [(kind, value if kind == PING else take(value)) for kind, value in events] == [
        (PING, b"ping"),
        (TEXT, b"more"),
    ]


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\x81",
        b"\x81\x80",
        frame(1, b"Hello")[:-1],
        frame(2, b"x" * 126),
        frame(1, b"x", fin=False),
        frame(0, b"x"),
        frame(9, b"x"),
        frame(8, b"\x03\xe8"),
        frame(1, b"\xff"),
        frame(1, b"\xe2\x82"),
        frame(1, deflated(b"x"), rsv=4),
        frame(3, b"x"),
        frame(1, b"x", rsv=1),
        frame(1, b"x", key=None),
    ],
)
def test_any_other_beginning_is_left_to_receive(wire: bytes) -> None:
    """Old bytes lie behind the new ones: they count for nothing."""
    for behind in (b"\xee" * 200, frame(1, b"old message") * 2, (frame(1, b"Hello") * 2)[len(wire) :] + b"\x00\x00"):
        connection = server(NO_TAKEOVER)
        assert connection.receive_one(bytearray(wire + behind), 0, len(wire)) is None
        assert feed(connection, wire) == feed(server(NO_TAKEOVER), wire)
        connection.receive_eof()


def test_the_shortest_way_is_open_only_between_messages() -> None:
    wire = bytearray(frame(1, b"Hello"))
    for prepare in (
        lambda c: feed(c, frame(1, b"begun", fin=False)),
        lambda c: feed(c, b"\x82"),
        lambda c: feed(c, frame(8, b"\x03\xe8")),
        lambda c: feed(c, b"\x83\x80"),
        lambda c: c.encode_close(1000, ""),
        lambda c: c.receive_eof(),
        lambda c: c.end(),
    ):
        connection = server()
        prepare(connection)
        assert connection.receive_one(wire, 0, len(wire)) is None
    for closed in (client(), server(chunked=True), server(max_message_size=4)):
        assert closed.receive_one(wire, 0, len(wire)) is None
    busy = server()
    busy.encode_fragment(2, b"we write", True, False)
    assert busy.receive_one(wire, 0, len(wire)) is not None


# bounded turns


def test_receive_stops_when_it_has_decoded_enough() -> None:
    packed = frame(2, deflated(b"\x00" * 300_000), rsv=4)
    wire = packed * 10 + frame(1, b"last") + packed[:20]
    connection = server(NO_TAKEOVER, max_message_size=400_000)
    events: list[Any] = []
    connection.receive(bytearray(wire), len(wire), events)
    assert connection.pending
    assert [len(value) for _, value in plain(events)] == [300_000] * 2
    turns = 1
    while connection.pending:
        events = []
        connection.receive(b"", 0, events)
        turns += 1
        assert 1 <= len(plain(events)) <= 2
    assert turns == 6
    assert feed(connection, packed[20:]) == [(BINARY, b"\x00" * 300_000)]


def test_new_bytes_may_come_while_some_are_pending() -> None:
    packed = frame(2, deflated(b"\x00" * 300_000), rsv=4)
    connection = server(NO_TAKEOVER, max_message_size=300_000)
    events: list[Any] = []
    connection.receive(packed * 2, 2 * len(packed), events)
    assert connection.pending
    assert [kind for kind, _ in plain(events)] == [BINARY]
    assert [kind for kind, _ in feed(connection, frame(1, b"after"))] == [BINARY, TEXT]
    assert not connection.pending


def test_chunks_are_counted_too_and_a_message_may_be_left_amid() -> None:
    body = deflated(noise(1 << 18) + b"\x00" * (1 << 18))
    wire = frame(2, body[: 1 << 18], fin=False, rsv=4) + frame(0, body[1 << 18 :]) + frame(1, b"next")
    connection = server(NO_TAKEOVER, chunked=True, max_message_size=1 << 19)
    connection.config.budget = 1 << 17
    events: list[Any] = []
    connection.receive(wire, len(wire), events)
    assert connection.pending
    first = plain(events)
    assert [value[:2] for _, value in first] == [(BINARY, False)]
    assert joined(first + feed(connection, b"")) == [(BINARY, noise(1 << 18) + b"\x00" * (1 << 18)), (TEXT, b"next")]


def test_a_message_that_was_left_amid_is_not_pending_when_its_bytes_are_used_up() -> None:
    body = deflated(noise(1000))
    connection = server(NO_TAKEOVER, chunked=True)
    connection.config.budget = 500
    wire = frame(2, body[:800], fin=False, rsv=4) + frame(0, body[800:])
    events: list[Any] = []
    connection.receive(wire, len(wire) - 50, events)
    assert connection.pending
    connection.receive(b"", 0, events)
    assert not connection.pending
    assert joined(plain(events) + feed(connection, wire[-50:])) == [(BINARY, noise(1000))]


def test_what_was_pending_may_end_amid_a_frame() -> None:
    packed = frame(2, deflated(b"\x00" * 300_000), rsv=4)
    wire = packed * 2 + frame(1, b"later" * 9)
    for kept in (1, 5, 20):
        connection = server(NO_TAKEOVER, max_message_size=300_000)
        events: list[Any] = []
        connection.receive(wire, len(packed) * 2 + kept, events)
        assert connection.pending
        connection.receive(b"", 0, events)
        assert connection.pending
        connection.receive(b"", 0, events)
        assert not connection.pending
        assert [kind for kind, _ in plain(events)] == [BINARY, BINARY]
        assert feed(connection, wire[len(packed) * 2 + kept :]) == [(TEXT, b"later" * 9)]


def test_nothing_stays_pending_after_the_end() -> None:
    packed = frame(2, deflated(b"\x00" * 300_000), rsv=4)
    for last in (frame(8, b"\x03\xe8"), b"\x83\x80", b""):
        connection = server(NO_TAKEOVER, max_message_size=300_000)
        events: list[Any] = []
        connection.receive(packed + last, len(packed + last), events)
        if last:
            assert connection.pending
            connection.receive(b"", 0, events)
        assert not connection.pending
        assert plain(events)[1:] == feed(server(), last)
    connection = server(NO_TAKEOVER, max_message_size=300_000)
    connection.receive(packed * 2, 2 * len(packed), events)
    connection.receive_eof()
    assert not connection.pending


def test_without_compression_nothing_is_left_pending() -> None:
    connection = server(max_message_size=1000)
    wire = frame(2, b"x" * 1000) * 300
    events: list[Any] = []
    connection.receive(wire, len(wire), events)
    assert not connection.pending
    assert len(plain(events)) == 300


# closing (RFC 6455 §7)


def state(connection: Connection) -> ConnectionState:
    """Return the state as it is now: a type checker believes that an attribute stays as it was compared."""
    return connection.state


def test_the_peer_begins_the_close() -> None:
    connection = server()
    assert state(connection) is ConnectionState.OPEN
    assert (connection.close_code, connection.close_reason) == (1006, "")
    assert feed(connection, frame(8, b"\x03\xe9going")) == [(CLOSE, (1001, "going"))]
    assert state(connection) is ConnectionState.CLOSE_RECEIVED
    assert connection.encode_message(1, b"still answered") == b"\x81\x0estill answered"
    assert connection.encode_close(1001, "") == b"\x88\x02\x03\xe9"
    assert state(connection) is ConnectionState.CLOSED
    assert (connection.close_code, connection.close_reason) == (1001, "going")


def test_we_begin_the_close() -> None:
    connection = server()
    connection.encode_close(1000, "")
    assert state(connection) is ConnectionState.CLOSING
    assert feed(connection, frame(8, b"")) == [(CLOSE, (1005, ""))]
    assert state(connection) is ConnectionState.CLOSED
    assert connection.close_code == 1005


def test_a_stream_that_ends_without_a_close_frame_is_1006() -> None:
    for begun in (b"", frame(1, b"x"), frame(1, b"x", fin=False), frame(2, b"x", length=9), b"\x81"):
        connection = server()
        feed(connection, begun)
        connection.receive_eof()
        assert connection.state is ConnectionState.CLOSED
        assert connection.close_code == 1006
        assert connection.config.pool.lent == 0


def test_a_fault_is_answered_after_what_came_before() -> None:
    connection = server()
    assert feed(connection, frame(1, b"x") + b"\x83\x80" + frame(1, b"y")) == [(TEXT, b"x"), (FAIL, 1002)]
    assert state(connection) is ConnectionState.FAILED
    assert connection.encode_message(1, b"answer")
    assert connection.encode_close(1002, "reserved opcode")
    assert state(connection) is ConnectionState.CLOSED
    assert connection.close_code == 1006


def test_data_after_our_close_frame_is_read_past_up_to_the_peers() -> None:
    frames = [
        (1, b"x"),
        (2, b"y" * 300),
        (1, b"\xff bad"),  # nobody will see it
        (1, b"part", False),
        (9, b"ping"),
        (0, b"part"),
        (2, b"z" * 70_000),
        (10, b""),
        (8, b"\x03\xe8end"),
    ]
    for make, key in ROLES.values():
        wire = wire_of(frames, key)
        for segments in ([wire], *(at_random(wire, random.Random(seed)) for seed in range(8))):
            connection = make()
            connection.encode_close(1000, "")
            assert feed(connection, *segments) == [(CLOSE, (1000, "end"))]
            assert connection.config.pool.lent == 0


def test_after_our_close_frame_the_rules_of_framing_still_hold() -> None:
    for bad in (b"\x81\x05", frame(0, b""), frame(1, b"", fin=False) + frame(1, b""), frame(3), frame(1, b"", rsv=4)):
        connection = server()
        connection.encode_close(1000, "")
        assert feed(connection, bad) == [(FAIL, 1002)]
        assert connection.state is ConnectionState.CLOSED
        assert connection.close_code == 1006


def test_after_our_close_frame_no_limit_is_left_to_break() -> None:
    connection = server(NO_TAKEOVER, max_message_size=10, max_fragments=2, max_empty_fragments=0)
    connection.encode_close(1000, "")
    wire = frame(2, b"x" * 50) + frame(2, b"\xff" * 30, rsv=4) + frame(2, b"", fin=False)
    wire += frame(0, b"", fin=False) * 9 + frame(0, b"y" * 50) + frame(8, b"")
    assert feed(connection, wire) == [(CLOSE, (1005, ""))]


@pytest.mark.parametrize("params", [None, NO_TAKEOVER])
def test_our_close_frame_amid_the_peers_message_gives_its_buffer_back(params: DeflateParams | None) -> None:
    connection = server(params)
    body = deflated(b"x" * 50 + noise(50))
    wire = frame(2, body[:20], fin=False, rsv=4 if params else 0) + frame(0, body[20:])
    feed(connection, wire[:40])
    assert connection.config.pool.lent == 1
    connection.encode_close(1000, "")
    assert feed(connection, wire[40:45]) == []
    assert connection.config.pool.lent == 0
    assert feed(connection, wire[45:] + frame(8, b"")) == [(CLOSE, (1005, ""))]
    assert connection._assembly is None


def test_many_connections_share_a_config() -> None:
    config = ConnectionConfig(Role.SERVER)
    pool = DeflatePool()
    codec = pool.codec(NO_TAKEOVER, DeflateOptions(), server=True)
    connections = [Connection(config, codec if i % 2 else None) for i in range(10)]
    for i, connection in enumerate(connections):
        feed(connection, frame(1, b"begin%d " % i, fin=False))
    for i, connection in enumerate(connections):
        assert feed(connection, frame(0, b"end%d" % i)) == [(TEXT, b"begin%d end%d" % (i, i))]


def test_a_limit_below_the_small_frames_holds_for_them() -> None:
    for limit in (1, 10, 124, 125):
        connection = server(max_message_size=limit)
        assert feed(connection, frame(2, b"x" * limit)) == [(BINARY, b"x" * limit)]
        assert feed(connection, frame(2, b"x" * (limit + 1))) == [(FAIL, 1009)]


def test_events_stand_for_the_kinds_of_the_design() -> None:
    assert [module.CHUNK, module.TEXT, module.BINARY, module.CLOSE, module.PING, module.PONG, module.FAIL] == [
        0,
        1,
        2,
        8,
        9,
        10,
        11,
    ]
