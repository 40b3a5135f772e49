"""Reads what comes from Redis, and checks it: others may write to the same Redis.

Every function raises ValueError for what no gows has written, and nothing else: what is foreign is skipped and counted,
and the next message is read.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from gows.brokers.base import Envelope
from gows.codes import Opcode
from gows.options import Keep
from gows.printable import printable
from gows.topics.names import check_topic
from gows.topics.publication import Position, Publication

VERSION = b"\1"
"""The first byte of everything on a channel."""
MOST_DIGITS = 15
"""Digits of an offset: as many as a double, Lua's only number, holds without loss."""
LONGEST_WORD = 255
"""Characters of an epoch, and of the name of a process."""
COMPLAINT_INTERVAL = 60.0
"""Seconds between two lines of the log about foreign data of one kind."""

Heading = tuple[str, Position | None]
"""A topic, and where a message stands in it, if it is kept."""


class Greeting(NamedTuple):
    """The first line of a message from one process to others."""

    kind: str
    name: str
    to: str


def read_frame(data: object) -> tuple[str, bytes]:
    """Return the first line and the rest of what came on a channel."""
    if not isinstance(data, bytes) or data[:1] != VERSION:
        raise ValueError("of another version")
    head, line_feed, body = data[1:].partition(b"\n")
    if not line_feed:
        raise ValueError("no line feed")
    return head.decode(), body


def read_heading(head: str) -> Heading:
    """Return the topic and the position in the first line of a message."""
    topic, *where = head.split(" ")
    check_topic(topic, max(1, len(topic)))  # how long it may be is for who publishes
    if not where:
        return topic, None
    if len(where) != 2:
        raise ValueError("neither a topic nor a topic with a position")
    return topic, Position(_word(where[0]), read_offset(where[1], least=1))


def read_offset(text: object, least: int = 0) -> int:
    """Return an offset, from decimal digits."""
    if isinstance(text, bytes):
        text = text.decode()
    if isinstance(text, str) and len(text) <= MOST_DIGITS and text.isascii() and text.isdigit():
        offset = int(text)
        if offset >= least:
            return offset
    raise ValueError(f"an offset has 1 to {MOST_DIGITS} digits")


def read_epoch(text: object) -> str:
    """Return an epoch, from the bytes that Redis gives."""
    if not isinstance(text, bytes):
        raise ValueError("no epoch")
    return _word(text.decode())


def read_greeting(head: str) -> Greeting:
    """Return what the first line of a message between processes says."""
    kind, name, to = (*head.split(" "), "", "")[:3]
    if head.count(" ") != 2 or kind not in ("hello", "alive", "tell", "bye"):
        raise ValueError("no greeting")
    return Greeting(kind, _word(name), to and _word(to))


def _word(text: str) -> str:
    if not text or len(text) > LONGEST_WORD or " " in text or not text.isprintable():
        raise ValueError(f"a name has 1 to {LONGEST_WORD} characters, without spaces and control characters")
    return text


def read_envelope(topic: str, packet: object, now: float, age: float = 0.0) -> Envelope:
    """Return an Envelope for this topic, from what `Envelope.pack` wrote. `now`, `age`: as for `Envelope.unpack`."""
    if not isinstance(packet, bytes):
        raise ValueError("no message")
    first, _, data = packet.partition(b"\n")
    header = _read_json(first)
    if not isinstance(header, dict):
        raise ValueError("a header is an object")
    opcode, key = header.get("opcode"), header.get("key")
    if header.get("topic") != topic:
        raise ValueError("a message of another topic")
    if not _is_int(opcode) or opcode not in (Opcode.TEXT, Opcode.BINARY):
        raise ValueError("neither text nor binary")
    if not isinstance(header.get("compress"), bool) or not isinstance(header.get("json"), bool):
        raise ValueError("no flags")
    if not (key is None or isinstance(key, str) or _is_int(key)):
        raise ValueError("a key is a string or an integer")
    if isinstance(key, str):
        key.encode()  # no half of a surrogate pair
    if header["json"]:
        if opcode != Opcode.TEXT:
            raise ValueError("JSON is text")
        _check_json(data)
    ttl = None if header.get("ttl") is None else _seconds(header["ttl"])
    publication = Publication(
        topic,
        data,
        opcode,
        compress=header["compress"],
        key=key,
        expires=math.inf if ttl is None else now + ttl - age,
        is_json=header["json"],
    )
    return Envelope(publication, _read_keep(header.get("keep")), ttl, _read_exclude(header.get("left_out")))


def _read_keep(value: Any) -> Keep | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not _is_int(value[0]) or value[0] < 1:
        raise ValueError("what is kept is a number of messages, and a time or null")
    return Keep(value[0], None if value[1] is None else _seconds(value[1]))


def _read_exclude(value: Any) -> tuple[str, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str) or not _is_int(value[1]):
        raise ValueError("an excluded connection is a process and a number")
    return value[0], value[1]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _seconds(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
        raise ValueError("a time is a number of seconds, more than 0")
    return float(value)


def _read_json(data: bytes) -> Any:
    try:
        return _decode_header(data.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _check_json(data: bytes) -> None:
    """Raise ValueError for what is no JSON. Numbers are not converted, which would cost time."""
    try:
        _decode_data(data.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


# made once: json.loads makes one at each call that asks for more than the usual
_decode_header = json.JSONDecoder(parse_constant=_refuse).decode
_decode_data = json.JSONDecoder(parse_constant=_refuse, parse_int=len, parse_float=len).decode


class Entry(NamedTuple):
    """An entry of a topic's log."""

    offset: int
    written: int
    """When it was written, by the clock of Redis, in milliseconds."""
    body: bytes


def read_entry(raw: object) -> Entry:
    """Return an entry of a topic's log, from what Redis gives."""
    if not isinstance(raw, list) or len(raw) != 2:
        raise ValueError("no entry of a stream")
    id_, fields = raw
    if (
        not isinstance(id_, bytes)
        or not isinstance(fields, list)
        or fields[::2] != [b"ms", b"body"]
        or len(fields) != 4
    ):
        raise ValueError("no entry of ours")
    offset, _, rest = id_.partition(b"-")
    if rest != b"1":
        raise ValueError("an entry's id is its offset and 1")
    return Entry(read_offset(offset, least=1), read_offset(fields[1]), fields[3])


class Complaints:
    """Counts what is foreign, and says so in the log: each kind at once, then once a minute. One thread."""

    def __init__(
        self,
        log: Callable[..., object],
        clock: Callable[[], float] = time.monotonic,
        on_foreign: Callable[[], object] = lambda: None,
    ) -> None:
        self._log = log
        self._on_foreign = on_foreign
        self._clock = clock
        self._silent: Counter[str] = Counter()  # by kind: those that are not in the log
        self._said: dict[str, float] = {}

    def add_foreign(self, kind: str, where: str, error: Exception) -> None:
        """Call `on_foreign`, and add one of a kind that came from Redis and is not ours."""
        self._on_foreign()
        self.add(kind, where, error)

    def add(self, kind: str, where: str, error: Exception) -> None:
        """Count something of a kind, of which there are few. What came from outside is in `where` and in `error`."""
        now = self._clock()
        if now - self._said.get(kind, -math.inf) < COMPLAINT_INTERVAL:
            self._silent[kind] += 1
            return
        self._said[kind] = now
        more = f", and {self._silent.pop(kind)} more since the last line" if kind in self._silent else ""
        fault = None if isinstance(error, ValueError) else error  # which may be ours
        self._log(
            "%s was not understood, and is skipped: %.100r: %.200s%s",
            kind,
            where,
            printable(str(error)),
            more,
            exc_info=fault,
        )
