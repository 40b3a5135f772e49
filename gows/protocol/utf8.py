"""UTF-8 checked while it arrives (RFC 6455 §8.1): the first byte that cannot be right is enough."""

from __future__ import annotations

from codecs import utf_8_decode


class Utf8Validator:
    """Checks one text that comes in pieces. Keeps at most the 3 bytes of a code point that is not whole yet.

    CPython's decoder does the work: it refuses overlong forms and what is above U+10FFFF at the first byte that shows
    them, also when the code point is still unfinished.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes, final: bool = False) -> bool:
        """Check the next piece; `final` says that the text ends with it. Linear in `data`.

        False at the first bad byte; the validator then stands where it stood before this piece.
        """
        rest = self._rest
        if rest:
            data = rest + data
        elif data.isascii():  # a tenth of the cost of decoding
            return True
        try:
            used = utf_8_decode(data, "strict", final)[1]
        except UnicodeDecodeError:
            return False
        rest = data[used:]
        if rest[:1] == b"\xed" and rest[1:] >= b"\xa0":
            return False  # a surrogate, which the decoder leaves for its third byte to tell
        self._rest = rest
        return True


def is_utf8(payload: bytes) -> bool:
    """Return whether all of `payload` is UTF-8 (RFC 3629)."""
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
