"""WebSocket bytes as a peer makes and reads them: an implementation of its own, so that the engine's codec does not
test itself. Nothing here refuses anything: tests send what they like."""

from __future__ import annotations

import struct
from typing import NamedTuple

CONTINUE, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # what answers KEY, by the example of RFC 6455 §1.3
MASK = b"\x37\xfa\x21\x3d"

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"
DEFLATE_TAIL = b"\x00\x00\xff\xff"


class Frame(NamedTuple):
    """A frame as it came."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0
    """The three reserved bits: 4 is RSV1."""

    @property
    def close_code(self) -> int:
        """The code of a close frame, 1005 when it has none."""
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2], "big") if self.payload else 1005

    @property
    def reason(self) -> str:
        """The reason of a close frame."""
        return self.payload[2:].decode()


def masked(payload: bytes, key: bytes) -> bytes:
    """`payload` under `key`."""
    if not any(key):
        return payload
    whole = key * (len(payload) // 4 + 1)
    number = int.from_bytes(payload, "little") ^ int.from_bytes(whole[: len(payload)], "little")
    return number.to_bytes(len(payload), "little")


def frame(
    opcode: int,
    payload: bytes | str = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = MASK,
    length: int | None = None,
    form: int | None = None,
) -> bytes:
    """A frame of a client. `length` is what it declares, `form` the bits that say so (7, 16, 64); no key: unmasked."""
    if isinstance(payload, str):
        payload = payload.encode()
    if length is None:
        length = len(payload)
    if form is None:
        form = 7 if length < 126 else 16 if length < 65536 else 64
    mask_bit = 0 if key is None else 0x80
    head = bytes([fin << 7 | rsv << 4 | opcode])
    if form == 7:
        head += bytes([mask_bit | length])
    elif form == 16:
        head += struct.pack("!BH", mask_bit | 126, length)
    else:
        head += struct.pack("!BQ", mask_bit | 127, length)
    return head + payload if key is None else head + key + masked(payload, key)


def close(code: int | None = None, reason: bytes | str = b"") -> bytes:
    """A close frame of a client."""
    if isinstance(reason, str):
        reason = reason.encode()
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def request(
    path: str = "/ws",
    *headers: str,
    method: str = "GET",
    version: str = "HTTP/1.1",
    without: tuple[str, ...] = (),
) -> bytes:
    """An upgrade request. A header given here stands in the place of the usual one of its name; those `without` do not
    stand at all."""
    usual = [
        "Host: gows.test",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
    ]
    given = {line.split(":")[0].lower() for line in headers} | {name.lower() for name in without}
    lines = [f"{method} {path} {version}"]
    lines += [line for line in usual if line.split(":")[0].lower() not in given]
    return "\r\n".join([*lines, *headers, "\r\n"]).encode("latin-1")


class Answer(NamedTuple):
    """The head of an HTTP answer."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    text: str

    @classmethod
    def parse(cls, head: bytes) -> Answer:
        text = head.decode("ascii")
        first, *lines = text.split("\r\n")
        fields = [line.partition(": ") for line in lines if line]
        return cls(int(first.split(" ")[1]), {name.lower(): value for name, _, value in fields}, text)


class FrameReader:
    """Frames of a server, from bytes as they come."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are whole now."""
        self._buffer += data
        frames = []
        while (found := self._next()) is not None:
            frames.append(found)
        return frames

    @property
    def unfinished(self) -> int:
        """Bytes of a frame that is not whole."""
        return len(self._buffer)

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        assert not buffer[1] & 0x80, "a server does not mask"
        length, start = buffer[1], 2
        if length >= 126:
            size = 2 if length == 126 else 8
            start += size
            if len(buffer) < start:
                return None
            length = int.from_bytes(buffer[2:start], "big")
            assert length > (125 if size == 2 else 65535), "not the shortest form of a length"
        if len(buffer) < start + length:
            return None
        first = buffer[0]
        found = Frame(first & 15, bytes(buffer[start : start + length]), first >> 7 == 1, first >> 4 & 7)
        del buffer[: start + length]
        return found
