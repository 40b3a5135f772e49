"""What many connections have in common: role, limits, and the fast path for whole messages."""

from __future__ import annotations

from gows.bufferpool import BufferPool
from gows.protocol.fastpath import FastPath
from gows.protocol.rates import Rates
from gows.protocol.states import Role

_MIN_BUDGET = 1 << 18


class ConnectionConfig:
    """What many connections share. Sizes are bytes; do not change it once a connection was made with it."""

    __slots__ = (
        "budget",
        "chunked",
        "fastpath",
        "masked",
        "max_compressed_size",
        "max_empty_fragments",
        "max_fragments",
        "max_message_size",
        "message_buffer_size",
        "min_compress_size",
        "pool",
        "portion",
        "rates",
        "role",
    )

    def __init__(
        self,
        role: Role,
        *,
        max_message_size: int = 1 << 20,
        max_fragments: int = 16384,
        max_empty_fragments: int = 128,
        chunked: bool = False,
        message_buffer_size: int = 4096,
        min_compress_size: int = 1024,
        pool: BufferPool | None = None,
        rates: Rates | None = None,
        portion: int = 1 << 30,
    ) -> None:
        self.role = role
        self.masked = role is Role.SERVER
        """What we receive must be masked, and what we send is not; the other way round in a client (RFC 6455 §5.1)."""
        self.max_message_size = max_message_size
        """Of a received message, inflated; in chunked mode of all its pieces together."""
        self.max_compressed_size = 2 * max_message_size + (1 << 16)
        """Of a received message before inflating: far beyond any compressor's, but empty blocks have an end."""
        self.max_fragments = max_fragments
        self.max_empty_fragments = max_empty_fragments
        self.chunked = chunked
        self.message_buffer_size = message_buffer_size
        """In chunked mode: pieces of an unfinished frame are gathered to this size before they are handed over."""
        self.min_compress_size = min_compress_size
        self.pool = BufferPool() if pool is None else pool
        self.rates = rates
        """What a MeteredConnection may receive in a second."""
        self.budget = max(max_message_size, _MIN_BUDGET)
        """`receive` stops after so many decoded bytes, for a few compressed ones may hold very many."""
        self.portion = portion
        """`receive` stops after so many frames: very small ones cost the most for each byte."""
        self.fastpath = FastPath(max_message_size if self.masked and not chunked else -1)
        """Takes the messages that need nothing else of a connection."""
