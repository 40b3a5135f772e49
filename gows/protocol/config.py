"""What many connections have in common: role, limits, and the table of frames that are taken apart in one go."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gows.bytebuffer import BufferPool
from gows.protocol.frames import MAX_CONTROL
from gows.protocol.masking import REPEATS
from gows.protocol.states import Role

if TYPE_CHECKING:
    from gows.protocol.rates import Rates

_MIN_BUDGET = 1 << 18

SmallForm = tuple[Callable[[bytes | bytearray, int], tuple[int, int, bytes]], int, int, int]


def _small_forms() -> list[SmallForm | None]:
    """By the second byte of a small masked frame: (unpack, payload size, key repetition, payload bits)."""
    forms: list[SmallForm | None] = [None] * 256
    for size in range(MAX_CONTROL + 1):
        unpack: Any = struct.Struct(f"<BxI{size}s").unpack_from
        forms[0x80 | size] = (unpack, size, REPEATS[(size + 3) >> 2], (1 << 8 * size) - 1)
    return forms


_SMALL_FORMS = _small_forms()


def _forms_up_to(limit: int) -> list[SmallForm | None]:
    if limit >= MAX_CONTROL:
        return _SMALL_FORMS
    return [form if form is not None and form[1] <= limit else None for form in _SMALL_FORMS]


class ConnectionConfig:
    """What many connections share. Sizes are bytes; do not change it once a connection was made with it."""

    __slots__ = (
        "budget",
        "chunked",
        "forms",
        "masked",
        "max_compressed_size",
        "max_empty_fragments",
        "max_fragments",
        "max_message_size",
        "medium",
        "message_buffer_size",
        "min_compress_size",
        "pool",
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
        self.forms = _forms_up_to(max_message_size if self.masked and not chunked else -1)
        """The small frames that `receive` takes in its fast way."""
        self.medium = 0xFE if self.masked and not chunked else -1
        """The second byte of the larger frames that it takes in a fast way."""
