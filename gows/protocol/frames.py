"""Frames as they stand on the wire (RFC 6455 §5.2) and the body of a close frame (§5.5.1).

 0               1               2               3
 0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7
+-+-+-+-+-------+-+-------------+-------------------------------+
|F|R|R|R| opcode|M| length (7)  |  length (16, if 126)          |
|I|S|S|S|  (4)  |A|             |         (64, if 127)          |
|N|V|V|V|       |S|             |  then the key (32, if MASK)   |
| |1|2|3|       |K|             |  then the payload             |
+-+-+-+-+-------+-+-------------+-------------------------------+
"""

from __future__ import annotations

import struct

from gows.codes import CloseCode, Opcode, may_travel
from gows.errors import InvalidCloseCodeError, ProtocolError
from gows.protocol.masking import mask_range

FIN = 0x80
RSV1 = 0x40
_MASKED = 0x80
MAX_CONTROL = 125
MAX_HEADER = 14  # with a 64-bit length and a masking key
MAX_REASON = MAX_CONTROL - 2

_PACK_16 = struct.Struct("!BBH").pack
_PACK_64 = struct.Struct("!BBQ").pack
_UNPACK_KEY = struct.Struct("4s").unpack_from  # a third of the cost of bytes(buf[pos : pos + 4])
_UNPACK_64 = struct.Struct("!Q").unpack_from

_OPCODES = frozenset(Opcode)


def frame_header(opcode: int, length: int, *, fin: bool = True, rsv1: bool = False, key: bytes | None = None) -> bytes:
    """Return the 2 to 14 bytes before a payload of `length` bytes; `key` (4 bytes) makes it a masked frame."""
    first = opcode | (FIN if fin else 0) | (RSV1 if rsv1 else 0)
    masked = 0 if key is None else _MASKED
    if length < 126:
        head = bytes((first, masked | length))
    elif length < 65536:
        head = _PACK_16(first, masked | 126, length)
    else:
        head = _PACK_64(first, masked | 127, length)
    return head if key is None else head + key


def encode_frame(
    opcode: int, payload: bytes, *, fin: bool = True, rsv1: bool = False, key: bytes | None = None
) -> bytes:
    """Return a whole frame; with `key` the payload is masked."""
    head = frame_header(opcode, len(payload), fin=fin, rsv1=rsv1, key=key)
    return head + (payload if key is None else mask_range(payload, 0, len(payload), key))


def _first_byte_fault(first: int) -> str | None:
    """Return what is wrong with a frame that begins so, whatever was negotiated (§5.2, §5.5; RFC 7692 §6.1)."""
    opcode = first & 0x0F
    if first & 0x30:
        return "reserved bit set"
    if opcode not in _OPCODES:
        return f"reserved opcode {opcode}"
    if first & RSV1 and opcode not in (Opcode.TEXT, Opcode.BINARY):
        return "reserved bit set on a control frame" if opcode else "reserved bit set on a continuation"
    if opcode >= Opcode.CLOSE and not first & FIN:
        return "fragmented control frame"
    return None


_FIRST_BYTE_FAULTS = tuple(_first_byte_fault(first) for first in range(256))


def parse_header(buf: bytes | bytearray, pos: int, end: int, masked: bool) -> tuple[int, int, bytes | None, int] | None:
    """Return the header at buf[pos:end]: (first byte, payload length, key, where the payload begins); None: not whole
    yet.

    Checks what a header shows by itself, as soon as its bytes are there; raises ProtocolError (1002). `masked` says
    which kind of frames the peer must send (§5.1).
    """
    if end - pos < 2:
        return None
    first = buf[pos]
    fault = _FIRST_BYTE_FAULTS[first]
    if fault is not None:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, fault)
    length = buf[pos + 1]
    pos += 2
    if masked:
        if not length & _MASKED:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "client frame without a mask")
        length ^= _MASKED
    elif length & _MASKED:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "server frame with a mask")
    if length > MAX_CONTROL:
        if first & 0x08:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "control frame over 125 bytes")
        if length == 126:
            if end - pos < 2:
                return None
            length = buf[pos] << 8 | buf[pos + 1]
            pos += 2
            if length < 126:
                raise ProtocolError(CloseCode.PROTOCOL_ERROR, "length not in its shortest form")
        else:
            if end - pos < 8:
                return None
            length = _UNPACK_64(buf, pos)[0]
            pos += 8
            if length < 65536:
                raise ProtocolError(CloseCode.PROTOCOL_ERROR, "length not in its shortest form")
            if length >> 63:
                raise ProtocolError(CloseCode.PROTOCOL_ERROR, "length with its top bit set")
    if not masked:
        return first, length, None, pos
    if end - pos < 4:
        return None
    return first, length, _UNPACK_KEY(buf, pos)[0], pos + 4


def encode_close_body(code: int, reason: str = "") -> bytes:
    """Return the payload of a close frame; 1005 (no code) gives an empty one.

    Raises InvalidCloseCodeError when the code may not travel (§7.4), or the reason is over 123 bytes or not Unicode.
    """
    try:
        text = reason.encode()
    except UnicodeEncodeError as error:
        raise InvalidCloseCodeError(f"a close reason must be valid Unicode: {error}") from None
    if code == CloseCode.NO_CLOSE_RCVD:
        if text:
            raise InvalidCloseCodeError("a close reason needs a close code")
        return b""
    if not may_travel(code):
        raise InvalidCloseCodeError(f"close code {int(code)} may not travel")
    if len(text) > MAX_REASON:
        raise InvalidCloseCodeError(f"a close reason has at most {MAX_REASON} bytes, not {len(text)}")
    return code.to_bytes(2, "big") + text


def parse_close_body(body: bytes) -> tuple[int, str]:
    """Return code and reason of a received close frame; (1005, "") for an empty one (§7.1.5).

    Raises ProtocolError: 1002 for one byte or a code that may not travel, 1007 for a reason that is not UTF-8.
    """
    if not body:
        return CloseCode.NO_CLOSE_RCVD.value, ""
    if len(body) == 1:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "close body of one byte")
    code = int.from_bytes(body[:2], "big")
    if not may_travel(code):
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"close code {code} may not travel")
    try:
        return code, body[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolError(CloseCode.INVALID_PAYLOAD, "close reason is not UTF-8") from None
