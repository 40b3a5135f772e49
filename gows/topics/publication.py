"""Publication: one message to a topic, its position in that, and the events that stand beside it.

A connection that agreed on the subprotocol gows.v1 gets a publication as a message of that, which names the topic; any
other gets the bare data.
"""

from __future__ import annotations

import base64
import copy
import math
from typing import Any, NamedTuple

from gows.bytebuffer import ByteBuffer
from gows.codes import Opcode
from gows.jsontext import to_json_text
from gows.protocol.connection import to_bytes
from gows.protocol.prepared import PreparedMessage
from gows.topics.names import is_text

MAX_KEY = 255
"""Characters of a message's key."""


class Position(NamedTuple):
    """Where a publication stands in its topic."""

    epoch: str
    offset: int


Since = Position | int | None
"""What a subscriber wants of the past of a topic: all after a position, a number of the latest, or nothing."""


class Publication:
    """One message to a topic, in the two forms in which it is sent: `bare`, the data alone, and `enclosed`.

    `data`: a str is text, bytes-like is binary (text when `opcode` says so); anything else must be what JSON can write.
    Raises ValueError and TypeError for what cannot be sent.
    """

    __slots__ = ("_enclosed", "bare", "is_json", "key", "position", "topic")

    def __init__(
        self,
        topic: str,
        data: Any,
        opcode: Opcode | int | None = None,
        *,
        compress: bool = True,
        key: str | int | None = None,
        expires: float = math.inf,
        is_json: bool = False,
        position: Position | None = None,
    ) -> None:
        """`is_json`: the text in `data` is JSON already. `expires`: by the loop's clock. `position`: epoch and offset,
        where a history of the topic is kept."""
        if key is not None and (isinstance(key, bool) or not isinstance(key, str | int)):
            raise TypeError(f"the key of a message to a topic is a str or an int, not {type(key).__name__}")
        if isinstance(key, str) and not (len(key) <= MAX_KEY and is_text(key)):
            raise ValueError(f"a key has at most {MAX_KEY} characters of Unicode, not {len(key)}: {key[:20]!r}…")
        if isinstance(data, str):
            data, opcode = data.encode(), opcode or Opcode.TEXT
        elif isinstance(data, bytes | bytearray | memoryview | ByteBuffer):
            data, opcode = to_bytes(data), opcode or Opcode.BINARY
        else:
            data, opcode, is_json = to_json(data), Opcode.TEXT, True
        self.topic = topic
        self.is_json = is_json
        self.position = position
        self.key = key
        # where a later message takes the place of one with the same key, that is one of the same topic
        self.bare = PreparedMessage(opcode, data, compress, None if key is None else (topic, key), expires)
        self._enclosed: PreparedMessage | None = None

    @property
    def enclosed(self) -> PreparedMessage:
        """Return it as a message of gows.v1, made when first needed: its position must be there by then."""
        if self._enclosed is None:
            bare = self.bare
            if bare.opcode == Opcode.BINARY:
                name, value = b"base64", b'"' + base64.b64encode(bare.data) + b'"'
            else:
                name, value = b"data", bare.data if self.is_json else to_json(bare.data.decode())
            where = b""
            if self.position is not None:
                where = b',"epoch":%b,"offset":%d' % (to_json(self.position.epoch), self.position.offset)
            text = b'{"type":"message","topic":%b%b,"%b":%b}' % (to_json(self.topic), where, name, value)
            # of a topic that is kept each message comes, in order: none may take the place of an older one
            key = bare.key if self.position is None else None
            self._enclosed = PreparedMessage(Opcode.TEXT, text, bare.compress, key, bare.expires)
        return self._enclosed

    def at(self, position: Position) -> Publication:
        """Return the same publication with another position."""
        other = copy.copy(self)
        other.position = position
        other._enclosed = None
        return other


def to_json(value: Any) -> bytes:
    """Return a value as JSON, in UTF-8. Raises TypeError or ValueError for what JSON cannot write."""
    return to_json_text(value, allow_nan=False).encode()


class About(NamedTuple):
    """What a message that is no publication is about: what a connection misses that does not get it."""

    topic: str
    position: Position | None = None


ANSWER = About("")
"""What an answer is about: a connection that has no room for it is closed."""


def position_event(topic: str, position: Position, after: int) -> bytes:
    """Return the message that says that nothing is missed of a topic from the offset `after` up to `position`."""
    event = {"type": "position", "topic": topic, "epoch": position.epoch, "offset": position.offset, "after": after}
    return to_json(event)
