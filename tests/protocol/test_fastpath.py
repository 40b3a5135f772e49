"""Whole messages: what is taken, and that compiled and plain variant take the same and read nothing beyond it."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gows.errors import ProtocolError
from tests.support.twins import is_compiled, twins
from tests.support.wire import frame

TWINS = twins("gows.protocol.fastpath")
LIMIT = 1 << 20


@pytest.fixture(params=TWINS, ids=lambda module: "compiled" if is_compiled(module) else "plain")
def module(request: pytest.FixtureRequest) -> ModuleType:
    found: ModuleType = request.param
    return found


def taken(module: ModuleType, limit: int, buf: bytes | bytearray, pos: int, n: int) -> tuple[Any, ...]:
    """What `take` did, in a form that can be compared."""
    events: list[Any] = []
    end: Any
    try:
        end = module.FastPath(limit).take(buf, pos, n, events)
    except ProtocolError as error:
        end = error.close_code, error.reason
    return end, [(kind, buffer.clone_bytes()) for kind, buffer in events]


def one(module: ModuleType, limit: int, buf: bytes | bytearray, pos: int, n: int) -> bytes | None:
    buffer = module.FastPath(limit).one(buf, pos, n)
    return None if buffer is None else bytes(buffer.clone_bytes())


TAKEN = [b"", b"x", b"Hello", "κόσμε".encode(), b"y" * 125, b"z" * 126, b"\0" * 4096, b"\x7f" * 65535]


@pytest.mark.parametrize("payload", TAKEN, ids=len)
def test_messages_that_are_taken(module: ModuleType, payload: bytes) -> None:
    wire = (frame(1, payload) + frame(2, payload)) * 2
    for buf in (wire, bytearray(wire + b"\x81\x80")):
        assert taken(module, LIMIT, buf, 0, len(wire)) == (len(wire), [(1, payload), (2, payload)] * 2)


def test_what_is_no_text_may_be_binary(module: ModuleType) -> None:
    for payload in (b"\xff", b"\xe2\x82", b"a" * 200 + b"\x80"):
        wire = frame(1, b"good") + frame(1, payload)
        assert taken(module, LIMIT, wire, 0, len(wire)) == ((1007, "text is not UTF-8"), [(1, b"good")])
        wire = frame(2, payload)
        assert taken(module, LIMIT, wire, 0, len(wire)) == (len(wire), [(2, payload)])
        assert one(module, LIMIT, frame(1, payload), 0, len(frame(1, payload))) is None


LEFT = {
    "an unfinished one": frame(1, b"Hello")[:-1],
    "an unfinished head": frame(1, b"x" * 200)[:7],
    "a fragment": frame(1, b"x", fin=False),
    "a continuation": frame(0, b"x"),
    "a ping": frame(9, b"x"),
    "a close frame": frame(8, b"\x03\xe8"),
    "a compressed one": frame(1, b"x", rsv=4),
    "a reserved bit": frame(1, b"x", rsv=1),
    "one without a mask": frame(1, b"Hello there", key=None),
    "a 64-bit length": frame(2, b"x" * 65536),
    "a length that is not in its shortest form": b"\x81\xfe\x00\x05" + b"k" * 4 + b"x" * 5,
    "a length that is not in its shortest form, in 64 bits": b"\x82\xff" + b"\0" * 7 + b"\x05" + b"k" * 4 + b"x" * 5,
    "a length with its top bit set": b"\x82\xff" + b"\xff" * 8 + b"k" * 4 + b"x" * 50,
}


@pytest.mark.parametrize("wire", LEFT.values(), ids=LEFT.keys())
def test_what_is_left_to_others(module: ModuleType, wire: bytes) -> None:
    """Old bytes lie behind the new ones: they count for nothing."""
    ahead = frame(2, b"ahead")
    for behind in (b"", b"\xee" * 20, frame(1, b"old") * 3):
        buf = ahead + wire + behind
        assert taken(module, LIMIT, buf, 0, len(ahead + wire)) == (len(ahead), [(2, b"ahead")])
        assert one(module, LIMIT, wire + behind, 0, len(wire)) is None


@pytest.mark.parametrize("limit", [-1, 0, 1, 124, 125, 126, 1000, 65535, 1 << 70])
def test_nothing_over_the_limit(module: ModuleType, limit: int) -> None:
    for size in (0, 1, 2, 124, 125, 126, 127, 999, 1000, 1001, 65535):
        wire = frame(2, b"x" * size)
        expected = (len(wire), [(2, b"x" * size)]) if size <= limit else (0, [])
        assert taken(module, limit, wire, 0, len(wire)) == expected
        assert one(module, limit, wire, 0, len(wire)) == (b"x" * size if size <= min(limit, 125) else None)


def test_every_byte_that_may_come_first_and_second() -> None:
    """The two variants agree over all of them, whatever follows."""
    chance = random.Random(1)
    for first in range(256):
        for second in range(256):
            buf = bytes((first, second)) + chance.randbytes(chance.choice([0, 3, 4, 5, 20, 131, 140]))
            results = [(taken(module, 100, buf, 0, len(buf)), one(module, 100, buf, 0, len(buf))) for module in TWINS]
            assert results.count(results[0]) == len(results)


pieces = st.one_of(
    st.binary(max_size=20),
    st.builds(
        frame,
        st.sampled_from([0, 1, 1, 1, 2, 2, 2, 3, 8, 9]),
        st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)),
        fin=st.sampled_from([True, True, True, False]),
        key=st.binary(min_size=4, max_size=4),
    ),
)


@given(st.lists(pieces, max_size=6).map(b"".join), st.integers(0, 40), st.integers(0, 40), st.integers(-1, 400))
def test_the_variants_agree(wire: bytes, start: int, cut: int, limit: int) -> None:
    n = max(0, len(wire) - cut)
    start = min(start, n)
    results = [taken(module, limit, kind(wire), start, n) for module in TWINS for kind in (bytes, bytearray)]
    assert results.count(results[0]) == len(results)
    found = [one(module, limit, kind(wire), start, n) for module in TWINS for kind in (bytes, bytearray)]
    assert found.count(found[0]) == len(found)


@pytest.mark.skipif(not is_compiled(TWINS[0]), reason="plain Python checks its bounds by itself")
def test_c_reads_nothing_beyond_the_buffer() -> None:
    fastpath = TWINS[0].FastPath(LIMIT)
    wire = frame(2, b"x" * 50)
    calls: list[Callable[[], object]] = [
        lambda: fastpath.one(wire, 0, len(wire) + 1),
        lambda: fastpath.one(wire, -1, len(wire)),
        lambda: fastpath.take(wire, 0, len(wire) + 1, []),
        lambda: fastpath.take(wire, -1, len(wire), []),
        lambda: fastpath.take(b"", 0, 100, []),
    ]
    for call in calls:
        with pytest.raises(IndexError):
            call()
    for no_bytes in ("text" * 20, None, [1] * 60, memoryview(wire)):
        with pytest.raises(TypeError):
            fastpath.take(no_bytes, 0, len(wire), [])


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 127, 128, 65535, 65536, 70000])
def test_text_as_a_frame(module: ModuleType, size: int) -> None:
    for text in ("x" * size, "é" * (size // 2) + "x" * (size % 2)):
        assert module.text_frame(text) == frame(1, text, key=None)
        for opcode in (1, 2):
            assert module.data_frame(opcode, text.encode()) == frame(opcode, text, key=None)


class Name(str):
    """A str of a kind of its own."""


def test_what_is_text_and_what_is_not(module: ModuleType) -> None:
    for text in ("κόσμε", "\U0001f600", "\xff", "\0", Name("name"), Name("né")):
        assert module.text_frame(text) == frame(1, str(text), key=None)
    with pytest.raises(UnicodeEncodeError):
        module.text_frame("\ud800")
    for other in (b"bytes", None, 1):
        with pytest.raises(AttributeError):
            module.text_frame(other)
