"""The chunked coding: every body whole, byte by byte, and with bytes behind it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gows.errors import HttpError
from gows.http1.chunked import ChunkedDecoder


def decode(wire: bytes, step: int, max_body: int = 100) -> tuple[bytes, bytes] | int | None:
    """(body, what was left), the status of the refusal, or None when more is wanted."""
    decoder, buffer = ChunkedDecoder(max_body), bytearray()
    try:
        for at in range(0, len(wire), step):
            buffer += wire[at : at + step]
            if decoder.decode(buffer):
                return bytes(decoder.body), bytes(buffer) + wire[at + step :]
    except HttpError as error:
        return error.status
    return None


GOOD = [
    (b"0\r\n\r\n", b""),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b"1\r\na\r\n0002\r\nbc\r\n0\r\n\r\n", b"abc"),
    (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    (b'3;name=value;q="x"\r\nabc\r\n0\r\n\r\n', b"abc"),
    (b"3\r\nabc\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n", b"abc"),
    # the end of the message is an empty line; these have one inside
    (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    (b"3\r\n\r\n\r\r\n0\r\n\r\n", b"\r\n\r"),
    (b"2\r\n\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n"),
]


@pytest.mark.parametrize(("wire", "body"), GOOD)
def test_a_body_ends_where_it_ends(wire: bytes, body: bytes) -> None:
    for behind in (b"", b"GET / HTTP/1.1\r\n", b"\r\n\r\n"):
        for step in (1, 2, 3, 1000):
            assert decode(wire + behind, step) == (body, behind), step


@pytest.mark.parametrize(
    "wire",
    [
        b"5\nhello\r\n",
        b"5\r\nhelloX",
        b"5\r\nhello\n0\r\n\r\n",
        b"-5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"\r\n5\r\nhello\r\n",
        b"g\r\n",
        b"5;\x01\r\nhello\r\n",
        b"5;a\nb\r\nhello\r\n",
        b"11111111111111111\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n folded: x\r\n\r\n",
        b"0\r\nX: \x01\r\n\r\n",
        b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\n\n",
    ],
)
def test_malformed_chunks_are_400(wire: bytes) -> None:
    for behind in (b"", b"0\r\n\r\n"):
        for step in (1, 1000):
            assert decode(wire + b"\r\n" + behind, step) == 400, (step, behind)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_body_over_the_limit_is_413_while_it_comes(step: int) -> None:
    assert decode(b"64\r\n" + bytes(100) + b"\r\n0\r\n\r\n", step) == (bytes(100), b"")
    assert decode(b"65\r\n" + bytes(101), step) == 413
    assert decode(b"32\r\n" + bytes(50) + b"\r\n33\r\n" + bytes(51) + b"\r\n", step) == 413


@pytest.mark.parametrize("step", [97, 100_000])
def test_a_body_made_of_framing_is_413(step: int) -> None:
    endless_extension = b"5;" + b"a" * 20000
    assert decode(endless_extension, step) == 413
    endless_trailer = b"0\r\n" + b"a: b\r\n" * 3000
    assert decode(endless_trailer, step) == 413


def test_one_byte_chunks_up_to_the_limit_are_taken() -> None:
    assert decode(b"1\r\na\r\n" * 100 + b"0\r\n\r\n", 50) == (b"a" * 100, b"")


def test_started_tells_whether_anything_came() -> None:
    decoder = ChunkedDecoder(10)
    assert not decoder.started
    decoder.decode(bytearray(b"5\r"))
    assert decoder.started


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=5), st.integers(1, 40), st.binary(max_size=20))
def test_any_chunks_come_out_as_they_went_in(chunks: list[bytes], step: int, behind: bytes) -> None:
    wire = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert decode(wire + behind, step, 10**6) == (b"".join(chunks), behind)


@pytest.mark.parametrize("most", [1, 2, 3, 1000])
@pytest.mark.parametrize(("wire", "body"), GOOD)
def test_a_body_in_portions(wire: bytes, body: bytes, most: int) -> None:
    """It may leave off after some empty lines, for others to have their turn."""
    decoder, buffer = ChunkedDecoder(100), bytearray(wire + b"next")
    portions = 1
    while not decoder.decode(buffer, most):
        assert decoder.more
        portions += 1
    assert not decoder.more
    assert (bytes(decoder.body), bytes(buffer)) == (body, b"next")
    assert portions <= wire.count(b"\r\n\r\n") // most + 1
