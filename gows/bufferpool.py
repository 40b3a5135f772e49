"""BufferPool: where the storage of assembled messages lives between them."""

from __future__ import annotations


class BufferPool:
    """Growing buffers for messages that arrive in pieces. `take` and `give` may be called from any thread.

    At most `keep` buffers of at most `max_size` bytes of capacity are kept for reuse; the others go back to the
    allocator.
    """

    __slots__ = ("_free", "keep", "lent", "max_size")

    def __init__(self, keep: int = 64, max_size: int = 1 << 18) -> None:
        self.keep = keep
        self.max_size = max_size
        self.lent = 0
        self._free: list[bytearray] = []

    def take(self) -> bytearray:
        """Return an empty bytearray; give it back once with `give`."""
        self.lent += 1
        try:
            return self._free.pop()
        except IndexError:
            return bytearray()

    def give(self, storage: bytearray) -> None:
        """Take storage back."""
        self.lent -= 1
        if len(self._free) < self.keep and len(storage) <= self.max_size:
            try:
                storage.append(0)  # for an empty one lets itself be cleared although it is exported
                storage.clear()
            except BufferError:  # somebody still holds a view: it keeps these bytes, we drop them
                return
            self._free.append(storage)
