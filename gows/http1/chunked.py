"""The chunked transfer coding (RFC 9112 §7.1), received, over httptools.

httptools reads on behind the end of a message and does not say where that was. A chunked body always ends with an empty
line, so httptools is fed no further than the next CR LF CR LF at a time: when it then says that the message is
complete, it ended there.
Extensions and trailer fields are read and dropped, for nothing here uses them.
"""

from __future__ import annotations

import sys

import httptools

from gows.errors import HttpError

_HEAD = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_END = b"\r\n\r\n"


class ChunkedDecoder:
    """Takes chunks off the front of a buffer. Raises HttpError: 400 malformed, 413 too large.

    A chunk of one byte takes six bytes on the wire; a body that takes more than eight times `max_body` (and 16 KiB for
    the trailer) is made of framing, and refused like one that is too large. Where the body has no limit (None), it is
    one that takes more than eight times what there is of it.
    """

    # no `on_header`: httptools would gather a trailer field of any size, copying it for every piece
    __slots__ = ("_complete", "_max_body", "_parser", "_taken", "_wire_left", "body", "more", "started")

    def __init__(self, max_body: int | None) -> None:
        self.body = bytearray()
        """What was read of it, and not taken."""
        self.started = False
        self.more = False
        """Whether `decode` left off though there may be more in the buffer."""
        self._complete = False
        self._max_body = max_body
        self._taken = 0
        self._wire_left = 8 * (max_body or 0) + 16384
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_HEAD)

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body. httptools calls it."""
        self.body += data
        if self._max_body is None:
            self._wire_left += 8 * len(data)

    def on_message_complete(self) -> None:
        """Note that the body is complete. httptools calls it."""
        self._complete = True

    def take(self) -> bytes:
        """Return what was read of the body since the last call."""
        piece = bytes(self.body)
        self._taken += len(piece)
        self.body.clear()
        return piece

    def decode(self, buffer: bytearray, most: int = sys.maxsize) -> bool:
        """Remove from `buffer` what belongs to the body; True once the last chunk and the trailer are read.

        Empty lines within the body make it slow, so it leaves off after `most` of them, and `more` says so.
        """
        at = 0
        self.more = False
        while not self._complete:
            if most <= 0:
                self.more = True
                break
            most -= 1
            found = buffer.find(_END, at)
            stop = len(buffer) - _open_end(buffer, at) if found < 0 else found + 4
            if self._max_body is not None:
                stop = min(stop, at + self._wire_left)
            if stop == at:
                break
            self._feed(bytes(buffer[at:stop]))
            at = stop
        del buffer[:at]
        return self._complete

    def _feed(self, data: bytes) -> None:
        self.started = True
        malformed = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            malformed = True
        self._wire_left -= len(data)
        if (
            self._max_body is not None and self._taken + len(self.body) > self._max_body
        ):  # what is malformed came behind that
            raise HttpError(413, f"the body is larger than {self._max_body} bytes")
        if malformed:
            raise HttpError(400, "malformed chunk")
        if self._wire_left <= 0 and not self._complete:
            raise HttpError(413, "the body is made of framing")


def _open_end(buffer: bytearray, at: int) -> int:
    """Return how many of the last bytes, behind `at`, may be the start of CR LF CR LF; they wait for the rest."""
    for size in (3, 2, 1):
        if buffer.endswith(_END[:size], at):
            return size
    return 0
