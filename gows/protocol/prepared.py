"""PreparedMessage: one message for many connections, encoded and compressed once for each variant; PreparedSeries: some
that go together."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from gows.errors import ConnectionClosedError, UsageError
from gows.protocol.config import ConnectionConfig
from gows.protocol.connection import Connection
from gows.protocol.deflate import PerMessageDeflate
from gows.protocol.frames import encode_frame
from gows.protocol.states import BINARY, SEND_MESSAGE, TEXT, Refusal

_PEER_CLOSES: Refusal = (ConnectionClosedError, "the peer has closed")


class PreparedMessage:
    """A TEXT or BINARY message whose frames are made when first needed, and then shared.

    Connections that negotiated nothing, or compression without context takeover, get the same bytes; those that keep a
    window between messages are compressed for one by one (RFC 7692 §7.2.1). For servers: what a client sends is masked
    with a key of its own (RFC 6455 §5.3).
    """

    __slots__ = ("_config", "_deflate", "_frame", "_frames", "compress", "data", "expires", "key", "opcode")

    def __init__(
        self, opcode: int, data: bytes, compress: bool = True, key: Hashable = None, expires: float = math.inf
    ) -> None:
        """`key`: what a later message takes its place by, where the overflow policy is "latest". `expires`: the time,
        by the loop's clock, after which it is put on no queue any more. Raises ValueError for another opcode, or a TEXT
        that is not UTF-8."""
        if opcode != TEXT and opcode != BINARY:
            raise ValueError(f"a message is TEXT or BINARY, not {opcode!r}")
        if opcode == TEXT and not data.isascii():
            data.decode()
        self.opcode = int(opcode)
        self.data = data
        self.compress = compress
        self.key = key
        self.expires = expires
        self._frames: dict[PerMessageDeflate | None, bytes] = {}
        self._deflate: PerMessageDeflate | None = None
        self._config: ConnectionConfig | None = None  # of the last connection: most are like the one before
        self._frame = b""

    def encode(self, connection: Connection) -> bytes:
        """Return the frame for one connection, under the lock that guards its sending. Raises ConnectionClosedError
        unless it is open, WriterBusyError while a fragmented message is unfinished, UsageError for a client's
        connection."""
        state = connection._in | connection._out
        if state:
            kind, text = SEND_MESSAGE[state] or _PEER_CLOSES
            raise kind(text)
        if connection.config is self._config and connection.deflate is self._deflate:
            return self._frame
        return self._encode_variant(connection)

    def _encode_variant(self, connection: Connection) -> bytes:
        config, deflate = connection.config, connection.deflate
        if not config.masked:
            raise UsageError("a prepared message is sent by a server")
        if not self.compress or len(self.data) < config.min_compress_size:
            deflate = None
        elif deflate is not None and not deflate.shared:
            return encode_frame(self.opcode, deflate.compress(self.data), rsv1=True)
        frame = self._frames.get(deflate)
        if frame is None:
            if deflate is None:
                frame = encode_frame(self.opcode, self.data)
            else:
                frame = encode_frame(self.opcode, deflate.compress(self.data), rsv1=True)
            self._frames[deflate] = frame
        self._config, self._deflate, self._frame = config, connection.deflate, frame
        return frame


class PreparedSeries:
    """Messages that go to many connections one behind the other, their frames joined once for each variant."""

    __slots__ = ("_config", "_deflate", "_frames", "_joined", "messages")

    def __init__(self, messages: Sequence[PreparedMessage]) -> None:
        self.messages = messages
        self._joined: dict[tuple[ConnectionConfig, PerMessageDeflate | None], bytes] = {}
        self._deflate: PerMessageDeflate | None = None
        self._config: ConnectionConfig | None = None  # of the last connection, as in PreparedMessage
        self._frames = b""

    def encode(self, connection: Connection) -> bytes | None:
        """Return the frames for one connection; its sending is locked by the caller. None: it keeps a window between
        messages, so each has to be compressed for it. Raises what `PreparedMessage.encode` does."""
        state = connection._in | connection._out
        if state:
            kind, text = SEND_MESSAGE[state] or _PEER_CLOSES
            raise kind(text)
        config, deflate = connection.config, connection.deflate
        if config is self._config and deflate is self._deflate:
            return self._frames
        if deflate is not None and not deflate.shared:
            return None
        frames = self._joined.get((config, deflate))
        if frames is None:
            frames = self._joined[config, deflate] = b"".join([each.encode(connection) for each in self.messages])
        self._config, self._deflate, self._frames = config, deflate, frames
        return frames
