from __future__ import annotations

import pytest

from gows.protocol.utf8 import Utf8Validator

GOOD = [
    b"",
    b"plain",
    "\x7f\x80߿ࠀ퟿￿\U00010000\U0010ffff".encode(),
    "κόσμε".encode(),
    b"\xef\xbf\xbe",  # U+FFFE is no character, but it is a code point
    b"\x00",
]

# the text, and how many of its bytes it takes to see that it is bad (None: only its end shows it)
BAD: list[tuple[bytes, int | None]] = [
    (b"\x80", 1),  # continuation without a start
    (b"ok\xff", 3),
    (b"\xc0\xaf", 1),  # overlong
    (b"\xc1\xbf", 1),
    (b"\xe0\x9f\xbf", 2),
    (b"\xf0\x8f\xbf\xbf", 2),
    (b"\xed\xa0\x80", 2),  # surrogate
    (b"\xf4\x90\x80\x80", 2),  # above U+10FFFF
    (b"\xf5\x80\x80\x80", 1),
    (b"\xc3(", 2),
    (b"\xe2\x82(", 3),
    (b"\xf0\x9f\x98(", 4),
    (b"\xe2\x82", None),
    (b"\xf0\x9f\x98", None),
    (b"abc\xc3", None),
]


def first_bad(pieces: list[bytes]) -> int | None:
    """After how many pieces the validator refuses; None: it takes all."""
    validator = Utf8Validator()
    for number, piece in enumerate(pieces, 1):
        if not validator.feed(piece, number == len(pieces)):
            return number
    return None


@pytest.mark.parametrize("text", GOOD)
def test_good_text_is_good_however_it_is_cut(text: bytes) -> None:
    assert first_bad([text]) is None
    assert first_bad([text[i : i + 1] for i in range(len(text))] or [b""]) is None
    for at in range(len(text)):
        assert first_bad([text[:at], b"", text[at:], b""]) is None


@pytest.mark.parametrize(("text", "needed"), BAD)
def test_bad_text_is_refused_at_the_first_byte_that_shows_it(text: bytes, needed: int | None) -> None:
    assert first_bad([text]) == 1
    pieces = [text[i : i + 1] for i in range(len(text))]
    assert first_bad(pieces) == (needed or len(pieces))
    assert first_bad([*pieces, b""]) == (needed or len(pieces) + 1)  # before the end is known
    for at in range(1, len(text)):
        assert first_bad([text[:at], text[at:]]) is not None


def test_a_refused_piece_moves_nothing() -> None:
    validator = Utf8Validator()
    assert validator.feed(b"\xe2\x82")
    assert not validator.feed(b"(")
    assert not validator.feed(b"", True)
    assert validator.feed(b"\xac", True)


def test_keeps_at_most_three_bytes() -> None:
    validator = Utf8Validator()
    for text in ("€" * 1000, "x" * 1000, "😀" * 1000):
        data = text.encode()
        for start in range(0, len(data), 7):
            assert validator.feed(data[start : start + 7])
            assert len(validator._rest) <= 3
