"""What a connection keeps of a frame, header or message that is not whole yet; between messages there is none of it."""

from __future__ import annotations

from gows.bufferpool import BufferPool
from gows.codes import CloseCode
from gows.errors import ProtocolError
from gows.protocol.deflate import Inflater
from gows.protocol.utf8 import Utf8Validator


class Assembly:
    """The frame and the message in progress. Payload is checked as it arrives and lies in one growing buffer.

    A frame's declared length reserves nothing: the buffer grows with what arrived, so a byte costs a byte, however many
    segments it came in.
    """

    __slots__ = (
        "body",
        "control",
        "empty_fragments",
        "fin",
        "fragments",
        "inflater",
        "key",
        "left",
        "opcode",
        "pending",
        "raw",
        "size",
        "start",
        "storage",
        "text",
    )

    def __init__(self) -> None:
        self.raw = b""
        """Bytes not parsed yet: an unfinished header, or what `receive` left for its next call."""
        self.start = 0
        """Where in `raw` they begin."""
        self.pending = False
        """`receive` stopped early, so `raw` is more than an unfinished header."""
        # the frame in progress
        self.left = 0
        """Payload bytes of the frame that have not arrived; 0 between frames."""
        self.key: bytes | None = None
        """The masking key, turned so that it begins with the next byte's."""
        self.fin = False
        self.control = 0
        """Opcode of a control frame in progress; it may come amid a message."""
        self.body = b""
        """What arrived of that control frame."""
        # the message in progress
        self.opcode = 0
        """TEXT or BINARY; 0 when no message has begun."""
        self.size = 0
        """Sum of the lengths declared by the message's frames."""
        self.fragments = 0
        self.empty_fragments = 0
        self.inflater: Inflater | None = None
        self.text: Utf8Validator | None = None
        self.storage: bytearray | None = None

    def add(self, piece: bytes, pool: BufferPool) -> None:
        """Add payload of the message, unmasked, as it came. Raises ProtocolError (1007, 1008, 1009)."""
        if self.inflater is None:
            if piece:
                self._store(piece, pool)
            return
        for chunk in self.inflater.feed(piece):
            self._store(chunk, pool)

    def finish(self) -> None:
        """Check the end of the message: its last payload was added. Raises ProtocolError (1007) when something is cut
        short."""
        if self.inflater is not None:
            self.inflater.finish()
        if self.text is not None and not self.text.feed(b"", True):
            raise not_utf8()

    def _store(self, chunk: bytes, pool: BufferPool) -> None:
        if self.text is not None and not self.text.feed(chunk):
            raise not_utf8()
        if self.storage is None:
            self.storage = pool.take()
        self.storage += chunk

    def take(self) -> bytes | bytearray:
        """Return what was stored. It is the caller's now; the message goes on without it."""
        storage, self.storage = self.storage, None
        return b"" if storage is None else storage

    def drop(self, pool: BufferPool) -> None:
        """Give everything back; what follows of this message will not be looked at."""
        if self.storage is not None:
            pool.give(self.storage)
            self.storage = None
        self.inflater = None
        self.text = None


def not_utf8() -> ProtocolError:
    """Return the fault of a text message with bad bytes (RFC 6455 §8.1)."""
    return ProtocolError(CloseCode.INVALID_PAYLOAD, "text is not UTF-8")
