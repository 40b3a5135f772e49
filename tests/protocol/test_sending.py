"""Connection's encode_*: what goes out, in both roles, and that a refused call changes nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from gows.bytebuffer import ByteBuffer
from gows.codes import CloseCode, Opcode
from gows.errors import ConnectionClosedError, InvalidCloseCodeError, WriterBusyError
from gows.protocol import connection as module
from gows.protocol.connection import BINARY, CLOSE, PING, PONG, TEXT, Connection
from gows.protocol.deflate import DeflateParams
from tests.support.feeding import KEY, client, feed, frame, server

Encoder = Callable[[], bytes]

NO_TAKEOVER = DeflateParams(True, True)
TAKEOVER = DeflateParams()


@pytest.fixture
def fixed_key(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked: list[int] = []

    def urandom(size: int) -> bytes:
        asked.append(size)
        return KEY

    monkeypatch.setattr(module, "urandom", urandom)
    return asked


@pytest.mark.parametrize("size", [0, 1, 32, 125, 126, 127, 65535, 65536])
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY, 1, 2])
def test_one_message_is_one_frame(size: int, opcode: int, fixed_key: list[int]) -> None:
    """The seed cut messages into frames of at most 4,082 bytes."""
    payload = b"x" * size
    assert server().encode_message(opcode, payload) == frame(opcode, payload, key=None)
    assert not fixed_key
    assert client().encode_message(opcode, payload) == frame(opcode, payload, key=KEY)
    assert fixed_key == [4]


@pytest.mark.parametrize("text", ["", "plain", "κόσμε €😀", "x" * 126, "€" * 30_000])
def test_a_str_goes_out_as_utf8(text: str, fixed_key: list[int]) -> None:
    assert server().encode_text(text) == frame(1, text.encode(), key=None)
    assert client().encode_text(text) == frame(1, text.encode())


def test_every_kind_of_bytes_is_taken() -> None:
    data = b"\x00\xffdata"
    for each in (data, bytearray(data), memoryview(data), memoryview(b"-" + data)[1:], ByteBuffer.of(bytearray(data))):
        assert server().encode_message(BINARY, each) == frame(2, data, key=None)
        assert server().encode_ping(each) == frame(9, data, key=None)
        assert server().encode_fragment(BINARY, each, True, True) == frame(2, data, key=None)
    assert server().encode_message(BINARY, memoryview(b"a-b-c-")[::2]) == frame(2, b"abc", key=None)


def test_a_str_is_not_bytes() -> None:
    text: Any = "text"
    with pytest.raises(TypeError, match="encode the str"):
        server().encode_message(TEXT, text)


@pytest.mark.parametrize("number", [5, 10**9])
def test_a_number_is_no_message(number: Any) -> None:
    """bytes(number) would be that many zeros."""
    with pytest.raises(TypeError):
        server().encode_message(BINARY, number)


@pytest.mark.parametrize("opcode", [0, 3, 8, 9, 10, 15, -1, 256])
def test_only_text_and_binary_are_messages(opcode: int) -> None:
    encoders: list[Encoder] = [
        lambda: server().encode_message(opcode, b""),
        lambda: server().encode_fragment(opcode, b"", True, True),
    ]
    for encode in encoders:
        with pytest.raises(ValueError, match="TEXT or BINARY"):
            encode()


@pytest.mark.parametrize("bad", [b"\xff", b"abc\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"])
def test_text_that_is_not_utf8_is_refused(bad: bytes) -> None:
    connection = server()
    with pytest.raises(ValueError, match="utf-8"):
        connection.encode_message(TEXT, bad)
    with pytest.raises(ValueError, match="UTF-8"):
        connection.encode_fragment(TEXT, bad, True, True)
    assert connection.encode_message(BINARY, bad) == frame(2, bad, key=None)  # nothing had begun


def test_a_lone_surrogate_is_refused() -> None:
    connection = server()
    with pytest.raises(UnicodeEncodeError):
        connection.encode_text("\ud800")
    assert connection.encode_text("x")


def test_masks_are_strong_and_new_for_every_frame() -> None:
    """GO-2026-6278: the key comes from the operating system, 4 bytes for each frame."""
    connection = client()
    wires = [connection.encode_message(BINARY, b"\x00" * 8) for _ in range(200)]
    wires += [connection.encode_ping(b"\x00" * 8) for _ in range(50)]
    wires += [connection.encode_fragment(BINARY, b"\x00" * 8, i == 0, i == 49) for i in range(50)]
    wires.append(connection.encode_message(BINARY, b"\x00" * 300))
    keys = [wire[2:6] for wire in wires[:-1]] + [wires[-1][4:8]]
    assert len(set(keys)) == len(keys)
    for wire in wires[:-1]:
        assert wire[1] & 0x80
        assert wire[6:] == wire[2:6] * 2
    connection.encode_close(1000, "")


# fragments


def test_fragments(fixed_key: list[int]) -> None:
    for make, key in ((server, None), (client, KEY)):
        connection = make()
        assert connection.encode_fragment(TEXT, b"Hel", True, False) == frame(1, b"Hel", fin=False, key=key)
        assert connection.encode_ping(b"") == frame(9, key=key)
        assert connection.encode_pong(b"p") == frame(10, b"p", key=key)
        assert connection.encode_fragment(TEXT, b"", False, False) == frame(0, b"", fin=False, key=key)
        assert connection.encode_fragment(TEXT, b"lo", False, True) == frame(0, b"lo", key=key)
        assert connection.encode_fragment(BINARY, b"one", True, True) == frame(2, b"one", key=key)
        assert connection.encode_message(TEXT, b"next") == frame(1, b"next", key=key)


def test_a_message_in_progress_keeps_others_out() -> None:
    connection = server()
    connection.encode_fragment(TEXT, b"a", True, False)
    encoders: list[Encoder] = [
        lambda: connection.encode_message(TEXT, b"b"),
        lambda: connection.encode_text("b"),
        lambda: connection.encode_fragment(BINARY, b"b", True, True),
    ]
    for encode in encoders:
        with pytest.raises(WriterBusyError):
            encode()
    assert connection.encode_fragment(TEXT, b"c", False, True) == frame(0, b"c", key=None)


def test_the_fragments_of_a_text_may_split_a_code_point() -> None:
    connection = server()
    assert connection.encode_fragment(TEXT, b"\xe2", True, False)
    with pytest.raises(ValueError, match="UTF-8"):
        connection.encode_fragment(TEXT, b"(", False, False)
    with pytest.raises(ValueError, match="UTF-8"):
        connection.encode_fragment(TEXT, b"\x82", False, True)  # ends amid one
    assert connection.encode_fragment(TEXT, b"\x82\xac", False, True) == frame(0, b"\x82\xac", key=None)
    assert connection._sent_text is None


def test_the_fragments_of_a_binary_are_any_bytes() -> None:
    connection = server()
    connection.encode_fragment(BINARY, b"\xff", True, False)
    assert connection.encode_fragment(TEXT, b"\xff", False, True) == frame(0, b"\xff", key=None)


def test_a_close_frame_may_cut_a_message_short() -> None:
    connection = server()
    connection.encode_fragment(TEXT, b"a", True, False)
    assert connection.encode_close(1011, "") == b"\x88\x02\x03\xf3"
    with pytest.raises(ConnectionClosedError):
        connection.encode_fragment(TEXT, b"b", False, True)
    assert connection._sent_text is None


# control frames


@pytest.mark.parametrize("name", ["ping", "pong"])
def test_a_control_frame_has_at_most_125_bytes(name: str) -> None:
    connection = server()
    encode = getattr(connection, "encode_" + name)
    opcode = PING if name == "ping" else PONG
    assert encode() == frame(opcode, key=None)
    assert encode(b"x" * 125) == frame(opcode, b"x" * 125, key=None)
    with pytest.raises(ValueError, match="125 bytes, not 126"):
        encode(b"x" * 126)


def test_close_frames(fixed_key: list[int]) -> None:
    assert server().encode_close() == b"\x88\x02\x03\xe8"
    assert server().encode_close(CloseCode.GOING_AWAY, "bye") == frame(8, b"\x03\xe9bye", key=None)
    assert server().encode_close(1005) == b"\x88\x00"
    assert client().encode_close(4999, "ü") == frame(8, b"\x13\x87\xc3\xbc")


def test_a_refused_close_leaves_the_connection_open() -> None:
    connection = server()
    for code, reason in ((1006, ""), (1005, "x"), (1000, "x" * 124)):
        with pytest.raises(InvalidCloseCodeError):
            connection.encode_close(code, reason)
    assert connection.encode_message(TEXT, b"x")
    assert connection.encode_close(1000, "x" * 123)


# compression


def sent(connection: Connection, wire: bytes) -> list[Any]:
    """What the other side makes of it."""
    masked = wire[1] & 0x80
    params = NO_TAKEOVER if connection.deflate else None
    return feed((server if masked else client)(params), wire)


@pytest.mark.parametrize("make", [server, client])
def test_only_messages_of_some_size_are_compressed(make: Any) -> None:
    connection = make(NO_TAKEOVER, min_compress_size=100)
    for size, packed in ((0, False), (99, False), (100, True), (5000, True)):
        for wire in (
            connection.encode_message(BINARY, b"x" * size),
            connection.encode_text("x" * size),
            connection.encode_fragment(TEXT, b"x" * size, True, True),
        ):
            assert bool(wire[0] & 0x40) is packed
            assert sent(connection, wire) == [(wire[0] & 15, b"x" * size)]
    assert len(connection.encode_text("x" * 5000)) < 100


def test_a_message_may_go_out_uncompressed() -> None:
    connection = server(NO_TAKEOVER, min_compress_size=0)
    text = "x" * 5000
    assert connection.encode_message(BINARY, b"y" * 5000, compress=False) == frame(2, b"y" * 5000, key=None)
    assert connection.encode_text(text, compress=False) == frame(1, text.encode(), key=None)
    assert connection.encode_fragment(BINARY, b"y", True, False, compress=False) == frame(2, b"y", fin=False, key=None)
    assert connection.encode_fragment(BINARY, b"y", False, True) == frame(0, b"y", key=None)
    assert connection.encode_text("")[0] == 0xC1


def test_a_plain_connection_never_sends_rsv1() -> None:
    """The seed's pooled writers carried compression from one peer to another."""
    packed, plain_one = server(NO_TAKEOVER), server()
    for _ in range(3):
        assert packed.encode_text("x" * 5000)[0] == 0xC1
        assert plain_one.encode_text("x" * 5000)[0] == 0x81
        assert packed.encode_fragment(TEXT, b"x" * 5000, True, False)[0] == 0x41
        assert plain_one.encode_fragment(TEXT, b"x" * 5000, True, False)[0] == 0x01
        assert packed.encode_fragment(TEXT, b"", False, True)[0] == 0x80
        assert plain_one.encode_fragment(TEXT, b"", False, True)[0] == 0x80


@pytest.mark.parametrize("params", [NO_TAKEOVER, TAKEOVER])
@pytest.mark.parametrize(("ours", "theirs"), [(server, client), (client, server)])
def test_compressed_fragments_arrive(params: DeflateParams, ours: Any, theirs: Any) -> None:
    sender, receiver = ours(params), theirs(params)
    rng = random.Random(3)
    for parts in ([b"a", b"b"], [b"", b""], [b"x" * 3000, b"", b"y" * 70_000, b""], [rng.randbytes(500)] * 3):
        wires = [sender.encode_fragment(BINARY, part, i == 0, i == len(parts) - 1) for i, part in enumerate(parts)]
        assert [wire[0] & 0x70 for wire in wires] == [0x40] + [0] * (len(parts) - 1)
        wires.insert(1, sender.encode_ping(b"between"))
        assert feed(receiver, *wires) == [(PING, b"between"), (BINARY, b"".join(parts))]
        assert feed(receiver, sender.encode_message(TEXT, b"whole" * 500)) == [(TEXT, b"whole" * 500)]


def test_control_frames_are_never_compressed() -> None:
    connection = server(NO_TAKEOVER, min_compress_size=0)
    assert connection.encode_ping(b"x" * 125)[0] == 0x89
    assert connection.encode_pong(b"x" * 125)[0] == 0x8A
    assert connection.encode_close(1000, "x" * 123)[0] == 0x88


def test_nothing_follows_the_close_frame() -> None:
    """In the seed data could follow a Close that was sent."""
    for make in (server, client):
        connection = make()
        connection.encode_close(1000, "")
        encoders: list[Encoder] = [
            partial(connection.encode_message, TEXT, b""),
            partial(connection.encode_text, ""),
            partial(connection.encode_fragment, TEXT, b"", True, True),
            partial(connection.encode_fragment, TEXT, b"", False, True),
            partial(connection.encode_ping, b""),
            partial(connection.encode_pong, b""),
            partial(connection.encode_close, 1000, ""),
        ]
        for encode in encoders:
            with pytest.raises(ConnectionClosedError, match="close frame"):
                encode()


@pytest.mark.parametrize(("ours", "theirs"), [(server, client), (client, server)])
def test_what_one_role_sends_the_other_reads(ours: Any, theirs: Any) -> None:
    sender, receiver = ours(), theirs()
    wire = b"".join(
        [
            sender.encode_text("κόσμε"),
            sender.encode_message(BINARY, b"\x00" * 70_000),
            sender.encode_ping(b"p"),
            sender.encode_pong(b"q"),
            sender.encode_close(3000, "bye"),
        ]
    )
    expected = [
        (TEXT, "κόσμε".encode()),
        (BINARY, b"\x00" * 70_000),
        (PING, b"p"),
        (PONG, b"q"),
        (CLOSE, (3000, "bye")),
    ]
    assert feed(receiver, wire) == expected
