"""Backlog: whole messages that are kept back for a peer that takes nothing at present."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

Message = tuple[int, bytes, bool, float]
"""Opcode, payload, whether it may be compressed, and the loop's time after which it is not sent any more."""


class Backlog:
    """Keeps whole messages of one connection whose peer takes nothing at present, for the policies "drop_oldest" and
    "latest".

    They are not encoded yet, and nothing of them was sent: so each may be dropped without harm to those that follow,
    also when compression keeps a window between messages (RFC 7692 §7.1.1).
    """

    __slots__ = ("_limit", "_messages", "_most", "_on_drop", "size")

    def __init__(self, limit: int, on_drop: Callable[[bytes], object] | None = None) -> None:
        """`limit`: bytes of payload above which the oldest are dropped; one message may always stay. Of very small
        messages so many are kept as the limit has times 16 bytes, for each takes some 300 here. `on_drop`: called with
        the payload of each that is dropped."""
        self._limit = limit
        self._most = max(limit // 16, 1024)
        self._on_drop = on_drop
        self._messages: OrderedDict[Hashable, Message] = OrderedDict()
        self.size = 0
        """Bytes of payload."""

    def put(self, key: Hashable, message: Message, *, grow: bool = True) -> tuple[int, int]:
        """Add a message; in the place of one with the same key, if there is one. A message without a key (None)
        replaces none. Without `grow`, older ones make room for all of it. Return how many were (replaced, dropped)."""
        messages = self._messages
        most = self._limit if grow else min(self._limit, self.size)
        size = len(message[1])  # no call within an increment: a signal handler may write amid it
        replaced = None if key is None else messages.get(key)
        if replaced is not None:
            size -= len(replaced[1])
        messages[object() if key is None else key] = message
        self.size += size
        dropped = 0
        while (self.size > most or len(messages) > self._most) and len(messages) > 1:
            _, (_, data, _, _) = messages.popitem(last=False)
            size = len(data)
            self.size -= size
            dropped += 1
            if self._on_drop is not None:
                self._on_drop(data)
        return int(replaced is not None), dropped

    def take(self) -> Message:
        """Remove the oldest message, and return it. Raises KeyError if there is none."""
        _, message = self._messages.popitem(last=False)
        size = len(message[1])
        self.size -= size
        return message

    def drop(self) -> None:
        """Drop all messages."""
        while self._messages:
            data = self.take()[1]
            if self._on_drop is not None:
                self._on_drop(data)

    def __len__(self) -> int:
        return len(self._messages)
