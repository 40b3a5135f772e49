"""What a peer may not do, each with its exact close code, in every cut, and with nothing left behind.

Many of these are faults that servers and clients were published for; the numbers say which.
"""

from __future__ import annotations

import random
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from gows.protocol.connection import BINARY, CLOSE, FAIL, PING, TEXT, Connection, ConnectionConfig, Role
from gows.protocol.deflate import DeflateParams
from tests.support.feeding import check, client, feed, frame, plain, server

NO_TAKEOVER = DeflateParams(True, True)
TAKEOVER = DeflateParams()


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(1, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4] or b"\x00"


BAD_FRAMES: dict[str, tuple[bytes, int]] = {
    **{f"reserved opcode {opcode}": (frame(opcode), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    **{f"reserved bits {rsv:03b}": (frame(1, b"x", rsv=rsv), 1002) for rsv in range(1, 8)},
    **{f"reserved bits {rsv:03b} on a ping": (frame(9, b"x", rsv=rsv), 1002) for rsv in range(1, 8)},
    "reserved bit on a continuation": (frame(1, b"x", fin=False) + frame(0, b"x", rsv=4), 1002),
    "length 125 in 16 bits": (frame(2, b"x" * 125, form=16), 1002),
    "length 0 in 16 bits": (frame(2, b"", form=16), 1002),
    "length 65535 in 64 bits": (frame(2, length=65535, form=64), 1002),
    "length 1 in 64 bits": (frame(2, b"x", form=64), 1002),
    "length with its top bit set": (frame(2, length=1 << 63), 1002),
    "length all ones": (frame(2, length=(1 << 64) - 1), 1002),
    "ping of 126 bytes": (frame(9, b"x" * 126), 1002),
    "ping of 65536 bytes": (frame(9, length=65536), 1002),
    "close of 126 bytes": (frame(8, b"\x03\xe8" + b"x" * 124), 1002),
    "fragmented ping": (frame(9, b"x", fin=False), 1002),
    "fragmented pong": (frame(10, b"x", fin=False), 1002),
    "fragmented close": (frame(8, b"\x03\xe8", fin=False), 1002),
    "continuation of nothing": (frame(0, b"x"), 1002),
    "unfinished continuation of nothing": (frame(0, b"x", fin=False), 1002),
    "continuation of a finished message": (frame(1, b"x", fin=False) + frame(0, b"y") + frame(0, b"z"), 1002),
    "new message inside another": (frame(1, b"x", fin=False) + frame(1, b"y"), 1002),
    "new big message inside another": (frame(2, b"x", fin=False) + frame(2, b"y" * 200), 1002),
    "new fragmented message inside another": (frame(1, b"x", fin=False) + frame(2, b"y", fin=False), 1002),
    "new message inside another, after a ping": (frame(1, b"", fin=False) + frame(9, b"") + frame(2, b""), 1002),
    "close body of one byte": (frame(8, b"\x03"), 1002),
    "close reason that is not UTF-8": (frame(8, b"\x03\xe8\xff"), 1007),
    "close reason cut amid a code point": (frame(8, b"\x03\xe8\xe2\x82"), 1007),
    **{
        f"close code {code}": (frame(8, code.to_bytes(2, "big")), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_bad_frames(name: str) -> None:
    wire, code = BAD_FRAMES[name]
    before = []
    probe = wire
    if name.startswith(("reserved bit on", "continuation of a", "new")):
        events = feed(server(), wire)
        before = [event for event in events if event[0] != FAIL]
    check(server, probe, [*before, (FAIL, code)])
    # it is the same after good messages, which are not lost
    check(server, frame(1, b"good") + frame(9, b"p") + wire, [(TEXT, b"good"), (PING, b"p"), *before, (FAIL, code)])


def test_a_client_must_mask() -> None:
    for payload in (b"", b"Hello", b"x" * 300, b"x" * 70_000):
        for opcode in (1, 2, 9):
            if opcode == 9 and len(payload) > 125:
                continue
            wire = frame(opcode, payload, key=None)
            assert feed(server(), wire) == [(FAIL, 1002)]
            assert feed(server(), wire[:2]) == [(FAIL, 1002)]
    check(server, frame(1, b"x") + frame(8, b"\x03\xe8", key=None), [(TEXT, b"x"), (FAIL, 1002)])


def test_a_server_must_not_mask() -> None:
    for payload in (b"", b"Hello", b"x" * 300):
        assert feed(client(), frame(1, payload, key=b"\x00\x00\x00\x00")) == [(FAIL, 1002)]
    check(client, frame(1, b"x", key=None) + frame(9, b""), [(TEXT, b"x"), (FAIL, 1002)])


# compression


@pytest.mark.parametrize("make", [server, client])
def test_rsv1_without_negotiation(make: Callable[..., Connection]) -> None:
    """The seed inflated for peers that had never asked for it."""
    key = None if make is client else b"abcd"
    for fin in (True, False):
        check(make, frame(1, deflated(b"x"), rsv=4, fin=fin, key=key), [(FAIL, 1002)])


@pytest.mark.parametrize(
    "wire",
    [
        frame(1, b"a", fin=False, rsv=4) + frame(0, b"b", rsv=4),
        frame(1, b"a", fin=False) + frame(0, b"b", rsv=4),
        frame(0, b"b", rsv=4),
        frame(9, b"", rsv=4),
        frame(10, b"", rsv=4),
        frame(8, b"", rsv=4),
        frame(1, b"", rsv=6),
        frame(1, b"", rsv=5),
        frame(1, b"", rsv=2),
        frame(1, b"", rsv=1),
    ],
)
def test_rsv_bits_where_compression_does_not_allow_them(wire: bytes) -> None:
    check(lambda: server(NO_TAKEOVER), wire, [(FAIL, 1002)])


@pytest.mark.parametrize("params", [NO_TAKEOVER, TAKEOVER])
@pytest.mark.parametrize(
    "body",
    [
        b"\xff" * 20,
        b"\x06\x00",
        deflated(b"Hello" * 50)[:-1],
        deflated(b"Hello" * 50)[:4],
        b"",
        bytes.fromhex("000500faff48656c6c6f"),
        bytes.fromhex("000900f6ff48656c6c6f"),
        b"\x03\x00",
    ],
)
def test_corrupt_or_truncated_deflate_data(body: bytes, params: DeflateParams) -> None:
    check(lambda: server(params), frame(2, body, rsv=4), [(FAIL, 1007)])
    check(lambda: server(params), frame(2, body[:1], rsv=4, fin=False) + frame(0, body[1:]), [(FAIL, 1007)])


def test_data_behind_the_end_of_a_compressed_message_is_no_message() -> None:
    """CVE-2026-87022: what follows a final block belongs to this message, or is refused."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    final = compressor.compress(b"first") + compressor.flush()
    check(lambda: server(NO_TAKEOVER), frame(1, final + frame(1, b"evil"), rsv=4), [(FAIL, 1007)])
    check(lambda: server(NO_TAKEOVER), frame(1, final + deflated(b"+rest"), rsv=4), [(TEXT, b"first+rest")])


# UTF-8


BAD_TEXT = [
    b"\xff",
    b"\x80",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
    b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80ed",
]


@pytest.mark.parametrize("bad", BAD_TEXT)
@pytest.mark.parametrize("before", [b"", b"x" * 40, "€".encode() * 50, b"x" * 3000])
def test_text_that_is_not_utf8(bad: bytes, before: bytes) -> None:
    text = before + bad
    segments_of: list[Callable[[bytes], list[bytes]]] = [
        lambda w: [w],
        lambda w: [w[i : i + 50] for i in range(0, len(w), 50)],
    ]
    for cut in segments_of:
        assert feed(server(), *cut(frame(1, text))) == [(FAIL, 1007)]
        assert feed(server(), *cut(frame(1, before, fin=False) + frame(0, bad))) == [(FAIL, 1007)]
        assert feed(server(NO_TAKEOVER), *cut(frame(1, deflated(text), rsv=4))) == [(FAIL, 1007)]
        assert feed(server(), *cut(frame(2, text))) == [(BINARY, text)]
    assert feed(client(), frame(1, text, key=None)) == [(FAIL, 1007)]


@pytest.mark.parametrize("split", range(1, 5))
def test_bad_utf8_split_anywhere(split: int) -> None:
    text = b"\xce\xba\xf4\x90\x80\x80"
    wire = frame(1, text[:split], fin=False) + frame(9, b"p") + frame(0, text[split:])
    early = split >= 4  # the fourth byte shows it
    check(server, wire, [(FAIL, 1007)] if early else [(PING, b"p"), (FAIL, 1007)])


def test_bad_text_is_refused_before_its_frame_or_message_has_ended() -> None:
    """RFC 6455 §8.1: fail fast, also inside an unfinished frame, and after inflating."""
    wire = frame(1, b"good \xff" + b"x" * 90)
    assert feed(server(), wire[: 6 + 5]) == []
    assert feed(server(), wire[: 6 + 6]) == [(FAIL, 1007)]
    assert feed(server(), frame(1, b"\xff", length=100_000)) == [(FAIL, 1007)]
    assert feed(server(), frame(1, b"\xff", fin=False)) == [(FAIL, 1007)]
    assert feed(server(NO_TAKEOVER), frame(1, deflated(b"a" * 500 + b"\xff" + b"a" * 500), rsv=4, fin=False)) == [
        (FAIL, 1007)
    ]


# limits


def test_a_message_over_the_limit_is_refused_from_its_header() -> None:
    """CVE-2016-10542, CVE-2026-44545: before a byte of it is kept."""
    for size in (1001, 65535, 65536, 1 << 40, (1 << 63) - 1):
        for opcode in (1, 2):
            connection = server(max_message_size=1000)
            head = frame(opcode, length=size)
            assert feed(connection, head) == [(FAIL, 1009)]
            check(lambda: server(max_message_size=1000), head + b"payload", [(FAIL, 1009)])
    check(lambda: server(max_message_size=1000), frame(2, b"x" * 1000), [(BINARY, b"x" * 1000)])
    check(lambda: server(max_message_size=1000), frame(2, b"x" * 1001), [(FAIL, 1009)])


def test_the_limit_is_on_the_sum_of_the_fragments() -> None:
    connection = server(max_message_size=1000)
    assert feed(connection, frame(2, b"x" * 600, fin=False)) == []
    assert feed(connection, frame(0, length=401)) == [(FAIL, 1009)]
    assert connection.config.pool.lent == 0
    exact = frame(2, b"x" * 600, fin=False) + frame(9, b"p") + frame(0, b"y" * 400)
    assert feed(server(max_message_size=1000), exact) == [(PING, b"p"), (BINARY, b"x" * 600 + b"y" * 400)]
    # and begins anew with each message
    assert feed(server(max_message_size=1000), exact * 3)[1::2] == [(BINARY, b"x" * 600 + b"y" * 400)] * 3


def test_a_message_over_the_limit_only_after_inflating() -> None:
    bomb = deflated(b"\x00" * 10_000_000)
    for wire in (
        frame(2, bomb, rsv=4),
        frame(2, bomb[:100], rsv=4, fin=False) + frame(0, bomb[100:]),
        frame(1, bomb, rsv=4),
    ):
        for make, key_wire in ((server, wire),):
            for size in (len(wire), 97):
                connection = make(NO_TAKEOVER)
                tracemalloc.start()
                try:
                    events = feed(connection, *(key_wire[i : i + size] for i in range(0, len(key_wire), size)))
                    peak = tracemalloc.get_traced_memory()[1]
                finally:
                    tracemalloc.stop()
                assert events == [(FAIL, 1009)]
                assert peak < 3 << 20
                assert connection.config.pool.lent == 0


def test_a_client_is_as_careful_with_bombs() -> None:
    """CVE-2026-1526: the server may be the attacker."""
    for params in (NO_TAKEOVER, TAKEOVER):
        assert feed(client(params), frame(2, deflated(b"\x00" * 5_000_000), rsv=4, key=None)) == [(FAIL, 1009)]


def test_a_compressed_message_of_exactly_the_limit() -> None:
    for size in (100, 2000):
        data = random.Random(size).randbytes(size)
        check(lambda: server(NO_TAKEOVER, max_message_size=size), frame(2, deflated(data), rsv=4), [(BINARY, data)])  # noqa: B023
        assert feed(server(NO_TAKEOVER, max_message_size=size - 1), frame(2, deflated(data), rsv=4)) == [(FAIL, 1009)]
        body = deflated(data)
        assert len(body) > size  # more came in than may come out
        parts = frame(2, body[:50], rsv=4, fin=False) + frame(0, body[50:])
        assert feed(server(NO_TAKEOVER, max_message_size=size), parts) == [(BINARY, data)]


def test_compressed_data_that_inflates_to_nothing_has_an_end_too() -> None:
    blocks = b"\x00\x00\x00\xff\xff" * 1000  # empty stored blocks
    connection = server(NO_TAKEOVER, max_message_size=1000)
    events = feed(connection, frame(2, blocks, fin=False, rsv=4), *[frame(0, blocks, fin=False)] * 20)
    assert events == [(FAIL, 1009)]
    assert feed(server(NO_TAKEOVER), frame(2, length=(1 << 63) - 1, rsv=4)) == [(FAIL, 1009)]


def test_endless_fragments() -> None:
    """CVE-2026-42786, CVE-2026-62389."""
    for most in (1, 2, 50):
        good = frame(2, b"x", fin=most == 1) + frame(0, b"x", fin=False) * (most - 2) + frame(0, b"x") * (most > 1)
        assert feed(server(max_fragments=most), good * 2) == [(BINARY, b"x" * most)] * 2
        connection = server(max_fragments=most)
        assert feed(connection, frame(2, b"x", fin=False) + frame(0, b"x", fin=False) * most) == [(FAIL, 1008)]
        assert connection.config.pool.lent == 0


def test_endless_empty_fragments() -> None:
    """Empty continuations count, too (ws pull request 2329)."""
    for most in (0, 1, 128):
        begun = frame(2, b"x", fin=False) + frame(0, b"", fin=False) * most
        assert feed(server(max_empty_fragments=most), (begun + frame(0, b"")) * 2) == [(BINARY, b"x")] * 2
        assert feed(server(max_empty_fragments=most), begun + frame(0, b"", fin=False)) == [(FAIL, 1008)]
    assert feed(server(max_empty_fragments=0), frame(1, b"", fin=False)) == [(FAIL, 1008)]
    assert feed(server(max_empty_fragments=0), frame(1, b"")) == [(TEXT, b"")]
    assert feed(server(max_empty_fragments=1), frame(1, b"", fin=False) * 1 + frame(0, b"", fin=False)) == [
        (FAIL, 1008)
    ]


def test_tiny_fragments_cost_no_object_each() -> None:
    connection = server()
    pieces = frame(2, b"x", fin=False) + frame(0, b"y", fin=False) * 2_999
    tracemalloc.start()
    try:
        assert feed(connection, *(pieces[i : i + 700] for i in range(0, len(pieces), 700))) == []
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 3_000 * 3
    assert feed(connection, frame(0, b"z")) == [(BINARY, b"x" + b"y" * 2_999 + b"z")]


@pytest.mark.slow
@pytest.mark.timeout(300)  # under coverage
def test_one_byte_per_segment_for_a_megabyte() -> None:
    """CVE-2026-54274, CVE-2026-123817: nothing is kept per read, and nothing is copied again."""
    for opcode, rsv in ((1, 0), (2, 4)):
        payload = b"x" * (1 << 20) if opcode == 1 else random.Random(1).randbytes(20_000)
        wire = frame(opcode, deflated(payload) if rsv else payload, rsv=rsv)
        connection = server(NO_TAKEOVER)
        events: list[Any] = []
        scratch = bytearray(16)
        for byte in wire[:-1]:
            scratch[0] = byte
            connection.receive(scratch, 1, events)
        assembly = connection._assembly
        assert not events
        assert assembly is not None
        assert assembly.storage is not None
        assert sys.getsizeof(assembly.storage) < 1.2 * len(payload)
        assert sum(sys.getsizeof(getattr(assembly, name)) for name in assembly.__slots__) < 1.2 * len(payload) + 1000
        scratch[0] = wire[-1]
        connection.receive(scratch, 1, events)
        assert plain(events) == [(opcode, payload)]


@pytest.mark.parametrize("text", [True, False])
def test_one_byte_per_segment_holds_no_object_per_read(text: bool) -> None:
    payload = ("€" * 1500).encode() if text else b"\xff" * 4500
    wire = frame(1 if text else 2, payload)
    connection = server()
    events: list[Any] = []
    scratch = bytearray(16)
    tracemalloc.start()
    try:
        for byte in wire[:-1]:
            scratch[0] = byte
            connection.receive(scratch, 1, events)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 2 * len(payload) + 2000
    scratch[0] = wire[-1]
    connection.receive(scratch, 1, events)
    assert plain(events) == [(1 if text else 2, payload)]


def test_a_declared_length_reserves_nothing() -> None:
    """A header that promises much, from many connections, must not cost what it promises."""
    tracemalloc.start()
    try:
        config = ConnectionConfig(Role.SERVER)
        connections = [Connection(config) for _ in range(100)]
        for connection in connections:
            connection.receive(frame(2, b"x", length=1 << 20), 15, [])
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 100 * 2000


def test_nothing_beyond_the_read_is_looked_at() -> None:
    """CVE-2026-49854 was a read past a short buffer: here old bytes lie behind the new ones."""
    old = frame(1, b"the message of another connection")
    for count in range(len(old)):
        scratch = bytearray(old)
        events: list[Any] = []
        connection = server()
        connection.receive(scratch, count, events)
        assert events == []
        assert connection._assembly is None or b"another connection"[-5:] not in (connection._assembly.storage or b"")


def test_after_a_fault_nothing_is_parsed_and_nothing_is_held() -> None:
    for wire, code in BAD_FRAMES.values():
        connection = server()
        assert feed(connection, wire)[-1] == (FAIL, code)
        assert feed(connection, frame(1, b"x") * 100, b"\xff" * 100, frame(8, b"")) == []
        assert connection._assembly is None
        assert connection.config.pool.lent == 0
        assert connection.close_code == 1006


def test_noise_never_raises() -> None:
    rng = random.Random(99)
    for _ in range(1500):
        params = rng.choice((None, NO_TAKEOVER, TAKEOVER))
        make = rng.choice((server, client))
        connection = make(params, chunked=rng.random() < 0.3, max_message_size=rng.choice((10, 1000, 1 << 20)))
        if rng.random() < 0.2:
            connection.encode_close(1000, "")
        for _ in range(rng.randrange(1, 6)):
            head = bytes([rng.choice((0x81, 0x82, 0x01, 0x80, 0xC1, 0x89, rng.randrange(256))), rng.randrange(256)])
            feed(connection, head + rng.randbytes(rng.randrange(200)))
        connection.receive_eof()
        assert connection.config.pool.lent == 0


def test_a_close_frame_ends_the_reading_whatever_follows() -> None:
    check(server, frame(8, b"\x03\xe8") + b"\xff" * 50, [(CLOSE, (1000, ""))])
