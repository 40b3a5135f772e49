"""Bad input after the 101, frame by frame: each has its close code, what came before it is answered first, and the
server goes on serving others (the `server` fixture)."""

from __future__ import annotations

import zlib

import pytest

from tests.support import wire
from tests.support.raw import RawPeer
from tests.support.serving import Serving
from tests.support.wire import BINARY, CLOSE, CONTINUE, DEFLATE, PING, PONG, TEXT, frame

LIMIT = 1 << 20
GOOD = frame(TEXT, "before")


def deflated(data: bytes) -> bytes:
    """The payload of a compressed message."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def fails(server: Serving, code: int, *bad: bytes, extensions: tuple[str, ...] = ()) -> None:
    """A good message is answered, then `bad`, sent in the same segment, ends the connection with `code`."""
    with server.upgraded(*extensions) as peer:
        peer.send(GOOD, *bad)
        assert peer.read_text() == "before"
        peer.expect_close(code)
        handler = server.wait_closed()
    assert handler.messages == [b"before"]
    assert handler.close_code == code


def survives(peer: RawPeer) -> None:
    """The connection is as good as ever."""
    peer.send(GOOD)
    assert peer.read_text() == "before"


# ---------------------------------------------------------------------- headers: 1002


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE, CONTINUE])
def test_unmasked_client_frame(server: Serving, opcode: int) -> None:
    fails(server, 1002, frame(opcode, key=None))


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcode(server: Serving, opcode: int) -> None:
    fails(server, 1002, frame(opcode, b"x"))


@pytest.mark.parametrize("rsv", [1, 2, 3, 5, 6, 7])
@pytest.mark.parametrize("extensions", [(), (DEFLATE,)], ids=["plain", "deflate"])
def test_reserved_bits(server: Serving, extensions: tuple[str, ...], rsv: int) -> None:
    fails(server, 1002, frame(TEXT, "x", rsv=rsv), extensions=extensions)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_rsv1_without_negotiation(server: Serving, opcode: int) -> None:
    fails(server, 1002, frame(opcode, deflated(b"x"), rsv=4))


def test_rsv1_on_a_continuation(server: Serving) -> None:
    start = frame(TEXT, deflated(b"x")[:1], rsv=4, fin=False)
    fails(server, 1002, start, frame(CONTINUE, deflated(b"x")[1:], rsv=4), extensions=(DEFLATE,))


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_rsv1_on_a_control_frame(server: Serving, opcode: int) -> None:
    fails(server, 1002, frame(opcode, rsv=4), extensions=(DEFLATE,))


@pytest.mark.parametrize(
    ("size", "form"), [(0, 16), (125, 16), (0, 64), (125, 64), (126, 64), (65535, 64)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_length_that_is_not_minimal(server: Serving, opcode: int, size: int, form: int) -> None:
    fails(server, 1002, frame(opcode, b"x" * size, form=form))


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, (1 << 63) + 5])
def test_length_with_the_top_bit_set(server: Serving, length: int) -> None:
    fails(server, 1002, frame(BINARY, length=length, form=64))


@pytest.mark.parametrize("size", [126, 127, 65536])
@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_oversize_control_frame(server: Serving, opcode: int, size: int) -> None:
    fails(server, 1002, frame(opcode, b"\x03\xe8" + b"x" * (size - 2)))


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_fragmented_control_frame(server: Serving, opcode: int) -> None:
    fails(server, 1002, frame(opcode, fin=False))


@pytest.mark.parametrize("fin", [True, False])
def test_continuation_without_start(server: Serving, fin: bool) -> None:
    fails(server, 1002, frame(CONTINUE, b"x", fin=fin))


def test_continuation_after_the_end(server: Serving) -> None:
    with server.upgraded() as peer:
        peer.send(frame(TEXT, "a", fin=False), frame(CONTINUE, "b"), frame(CONTINUE, "c"))
        assert peer.read_text() == "ab"
        peer.expect_close(1002)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("fin", [True, False])
def test_new_data_frame_inside_a_message(server: Serving, opcode: int, fin: bool) -> None:
    fails(server, 1002, frame(TEXT, "a", fin=False), frame(opcode, b"b", fin=fin))


def test_control_frames_inside_a_message_are_fine(server: Serving) -> None:
    with server.upgraded() as peer:
        peer.send(frame(TEXT, "a", fin=False), frame(PING, "p"), frame(PONG, "q"), frame(CONTINUE, "b"))
        assert peer.read() == (PONG, b"p", True, 0)
        assert peer.read_text() == "ab"
        survives(peer)


# ---------------------------------------------------------------------- UTF-8: 1007

BAD_UTF8 = {
    "a lone continuation": b"ok \x80",
    "a start without continuation": "κόσμε ".encode() + b"\xc3(",
    "overlong": b"\xc0\xaf",
    "overlong of three": b"\xe0\x80\xaf",
    "a surrogate": b"\xed\xa0\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "a byte that never is": b"\xff",
    "cut at the end": "😀".encode()[:3],
}


@pytest.mark.parametrize("text", BAD_UTF8.values(), ids=BAD_UTF8)
def test_invalid_utf8(server: Serving, text: bytes) -> None:
    fails(server, 1007, frame(TEXT, text))


@pytest.mark.parametrize("text", BAD_UTF8.values(), ids=BAD_UTF8)
def test_invalid_utf8_split_anywhere_by_fragments(server: Serving, text: bytes) -> None:
    for at in range(len(text) + 1):
        fails(server, 1007, frame(TEXT, text[:at], fin=False), frame(CONTINUE, text[at:]))
        server.forget()


@pytest.mark.parametrize("text", BAD_UTF8.values(), ids=BAD_UTF8)
def test_invalid_utf8_split_anywhere_by_segments(server: Serving, text: bytes) -> None:
    whole = frame(TEXT, text)
    for at in range(1, len(whole)):
        with server.upgraded() as peer:
            peer.send(whole[:at])
            with server.connect() as other:
                other.upgrade("/echo")  # the loop has taken the first part
            peer.send(whole[at:])
            peer.expect_close(1007)


def test_invalid_utf8_is_refused_at_the_byte_that_cannot_be(server: Serving) -> None:
    with server.upgraded() as peer:
        peer.send(frame(TEXT, b"\xed\xa0", fin=False))  # the message is not over, the frame's end is not awaited
        peer.expect_close(1007)
    server.forget()
    with server.upgraded() as peer:
        peer.send(frame(TEXT, b"\xf5" + bytes(1000))[:10])
        peer.expect_close(1007)


def test_utf8_split_within_characters_is_fine(server: Serving) -> None:
    text = "κόσμε 😀"
    data = text.encode()
    pieces = [frame(CONTINUE if at else TEXT, data[at : at + 1], fin=False) for at in range(len(data))]
    with server.upgraded() as peer:
        peer.send(*pieces, frame(CONTINUE))
        assert peer.read_text() == text


def test_binary_is_not_text(server: Serving) -> None:
    with server.upgraded() as peer:
        peer.send(frame(BINARY, b"\xff\xfe"))
        assert peer.read() == (BINARY, b"\xff\xfe", True, 0)


def test_invalid_utf8_once_inflated(server: Serving) -> None:
    fails(server, 1007, frame(TEXT, deflated(b"ok \xed\xa0\x80"), rsv=4), extensions=(DEFLATE,))


# ---------------------------------------------------------------------- close frames


def test_close_body_of_one_byte(server: Serving) -> None:
    fails(server, 1002, frame(CLOSE, b"\x03"))


@pytest.mark.parametrize(
    "code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1099, 1100, 2000, 2999, 5000, 65535], ids=lambda code: str(code)
)
def test_invalid_close_code(server: Serving, code: int) -> None:
    fails(server, 1002, wire.close(code))


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
def test_valid_close_code_is_echoed(server: Serving, code: int) -> None:
    with server.upgraded() as peer:
        peer.send(GOOD, wire.close(code, "güle güle"))
        assert peer.read_text() == "before"
        assert peer.expect_close(code).reason == "güle güle"
    handler = server.wait_closed()
    assert (handler.close_code, handler.close_reason) == (code, "güle güle")


def test_close_without_a_code_is_answered_without_one(server: Serving) -> None:
    with server.upgraded() as peer:
        peer.send(wire.close())
        assert peer.expect_close(1005).payload == b""
    assert server.wait_closed().close_code == 1005


@pytest.mark.parametrize("reason", BAD_UTF8.values(), ids=BAD_UTF8)
def test_close_reason_that_is_not_utf8(server: Serving, reason: bytes) -> None:
    fails(server, 1007, wire.close(1000, reason))


def test_nothing_is_heard_after_a_close_frame(server: Serving) -> None:
    with server.upgraded() as peer:
        peer.send(GOOD, wire.close(1000), frame(TEXT, "after"), frame(15, key=None))
        assert peer.read_text() == "before"
        peer.expect_close(1000)
    assert server.wait_closed().messages == [b"before"]


# ---------------------------------------------------------------------- sizes: 1009


@pytest.mark.parametrize("length", [LIMIT + 1, 1 << 32, (1 << 63) - 1], ids=["limit + 1", "4 GiB", "2^63 - 1"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_message_over_the_limit_is_refused_by_its_header(server: Serving, opcode: int, length: int) -> None:
    fails(server, 1009, frame(opcode, length=length))  # no byte of the payload was ever sent


def test_message_over_the_limit_by_its_next_header(server: Serving) -> None:
    start = frame(BINARY, bytes(LIMIT), fin=False)
    fails(server, 1009, start, frame(CONTINUE, length=1))


@pytest.mark.slow
def test_message_at_the_limit_is_welcome(server: Serving) -> None:
    data = bytes(range(256)) * (LIMIT // 256)
    with server.upgraded() as peer:
        peer.send(frame(BINARY, data))
        assert peer.read() == (BINARY, data, True, 0)
        peer.send(frame(BINARY, data[:10], fin=False), frame(CONTINUE, data[10:]))
        assert peer.read() == (BINARY, data, True, 0)
        survives(peer)


def test_message_over_the_limit_only_once_inflated(server: Serving) -> None:
    data = deflated(bytes(LIMIT + 1))
    assert len(data) < 2000
    fails(server, 1009, frame(BINARY, data, rsv=4), extensions=(DEFLATE,))


def test_message_at_the_limit_once_inflated_is_welcome(server: Serving) -> None:
    with server.upgraded(DEFLATE) as peer:
        peer.send(frame(BINARY, deflated(bytes(LIMIT)), rsv=4))
        answer = peer.read()
        assert (answer.opcode, answer.rsv) == (BINARY, 4)
        assert zlib.decompressobj(-15).decompress(answer.payload + wire.DEFLATE_TAIL) == bytes(LIMIT)


# ---------------------------------------------------------------------- compression: 1007


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff" * 10, id="a block type that is not"),
        pytest.param(deflated(b"hello" * 100)[:-3], id="truncated"),
        pytest.param(b"\x00\x05\x00\x00\x00hello", id="a stored block whose lengths differ"),
        pytest.param(b"\x4b\x04\x92", id="a distance before the beginning"),
        pytest.param(b"", id="nothing at all"),
    ],
)
@pytest.mark.parametrize("fragmented", [False, True])
def test_truncated_or_corrupt_deflate_data(server: Serving, data: bytes, fragmented: bool) -> None:
    if fragmented:
        bad = frame(BINARY, data[:2], rsv=4, fin=False) + frame(CONTINUE, data[2:])
    else:
        bad = frame(BINARY, data, rsv=4)
    fails(server, 1007, bad, extensions=(DEFLATE,))


# ---------------------------------------------------------------------- fragments: 1008


@pytest.mark.slow
def test_too_many_fragments(server: Serving) -> None:
    pieces = frame(CONTINUE, b"x", fin=False, key=bytes(4)) * 16384
    fails(server, 1008, frame(TEXT, "x", fin=False), pieces)


def test_too_many_empty_fragments(server: Serving) -> None:
    pieces = frame(CONTINUE, fin=False) * 128
    fails(server, 1008, frame(TEXT, fin=False), pieces)


@pytest.mark.slow
def test_as_many_fragments_as_may_be(server: Serving) -> None:
    with server.upgraded() as peer:
        peer.send(frame(TEXT, "x", fin=False), frame(CONTINUE, "x", fin=False) * 16382, frame(CONTINUE, "x"))
        assert peer.read_text() == "x" * 16384
        peer.send(frame(TEXT, fin=False), frame(CONTINUE, fin=False) * 127, frame(CONTINUE, "end"))
        assert peer.read_text() == "end"
