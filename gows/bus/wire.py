"""Frames: how a message between two processes travels on a connection of the bus.

A frame on the wire: length of what follows (4 bytes), version (1), type (1), number (8: of the question; in a greeting
the time), length of the kind (1), kind, data; numbers are unsigned and big-endian. Nothing is unpickled.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAX_FRAME = 16 << 20
"""Bytes of one frame at most."""

HELLO, SEND, ASK, ANSWER, NO_ANSWER = range(5)
"""The types of frames. HELLO is the first on a connection, and its data is the sender's name."""
_VERSION = 2
_HEAD = struct.Struct("!IBBQB")
_FIXED = _HEAD.size - 4


class Frame(NamedTuple):
    """The fields of one frame."""

    type: int
    number: int
    kind: str
    data: bytes


def encode(type_: int, number: int, kind: str, data: bytes) -> bytes:
    """Return a frame as bytes. Raises ValueError if it has more than MAX_FRAME bytes, or a kind of more than 255."""
    name = kind.encode()
    size = _FIXED + len(name) + len(data)
    if size > MAX_FRAME or len(name) > 255:
        raise ValueError(f"a message between processes has at most {MAX_FRAME} bytes, not {size}")
    return b"".join((_HEAD.pack(size, _VERSION, type_, number, len(name)), name, data))


class FrameReader:
    """Cuts a stream of bytes into frames."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Take bytes, and return the frames that they complete. Raises ValueError for bytes that are no frame."""
        rest = self._rest
        rest += data
        frames: list[Frame] = []
        pos = 0
        while len(rest) - pos >= _HEAD.size:
            size, version, type_, number, kind_size = _HEAD.unpack_from(rest, pos)
            if version != _VERSION or size > MAX_FRAME or size < _FIXED + kind_size or type_ > NO_ANSWER:
                raise ValueError("this is no frame of the bus, or one of another version")
            end = pos + 4 + size
            if end > len(rest):
                break
            body = pos + _HEAD.size
            kind = rest[body : body + kind_size].decode()
            frames.append(Frame(type_, number, kind, bytes(rest[body + kind_size : end])))
            pos = end
        del rest[:pos]
        return frames
