"""One WebSocket connection after the handshake, without I/O: bytes in, events out; calls in, bytes out.

The states and the steps between them stand in `states.py`; nothing here decides on one by itself. `receive` and
`receive_eof` are for the thread that reads. The `encode_*` methods are for any thread, one at a time: the caller's
lock covers the call and the queueing of its bytes, for frames must go out in the order in which they were encoded.

Events are tuples (kind, value):

    TEXT, BINARY    ByteBuffer                  one whole message
    CHUNK           (opcode, fin, ByteBuffer)   chunked mode: the next piece of one
    PING, PONG      bytes
    CLOSE           (code, reason)              the peer's close frame; nothing is parsed after it
    FAIL            ProtocolError               the peer's fault; nothing is parsed after it

The file is longer than others: receiving and sending share the states, and a call into another compiled module costs
more than one within this.
"""

from __future__ import annotations

from os import urandom
from typing import Any

from gows.bytebuffer import ByteBuffer
from gows.codes import CloseCode
from gows.errors import ProtocolError
from gows.protocol.assembly import Assembly, not_utf8
from gows.protocol.config import ConnectionConfig
from gows.protocol.deflate import PerMessageDeflate
from gows.protocol.fastpath import data_frame, text_frame
from gows.protocol.frames import (
    FIN,
    MAX_CONTROL,
    RSV1,
    encode_close_body,
    encode_frame,
    parse_close_body,
    parse_header,
)
from gows.protocol.masking import mask_range, rotate
from gows.protocol.states import (
    BINARY,
    CHUNK,
    CLOSE,
    DEFLATED,
    ENDED,
    FAIL,
    FAULT,
    GOT_CLOSE,
    MESSAGE,
    PING,
    PONG,
    READING,
    READY,
    SEND_CONTROL,
    SEND_MESSAGE,
    SEND_NEXT,
    SENT_CLOSE,
    STATES,
    TEXT,
    ConnectionState,
    Refusal,
    Role,
)
from gows.protocol.utf8 import Utf8Validator, is_utf8

__all__ = [
    "BINARY",
    "CHUNK",
    "CLOSE",
    "FAIL",
    "PING",
    "PONG",
    "TEXT",
    "Connection",
    "ConnectionConfig",
    "ConnectionState",
    "Role",
]

ASSEMBLY_SIZE = 512
"""Bytes that an Assembly takes, about."""
INFLATER_SIZE = 45056
"""Bytes that zlib takes to inflate one message, its window among them."""

INFLATE_COST = 4
"""Frames that one counts for where it may have to be inflated: zlib takes so much longer for a small one."""

_NO_CLOSE: int = CloseCode.ABNORMAL_CLOSURE.value

Event = tuple[int, Any]
Data = bytes | bytearray | memoryview | ByteBuffer


class Connection:
    """The protocol of one connection; idle, it holds no buffer and no collection."""

    __slots__ = ("_assembly", "_in", "_out", "_sent_text", "close_code", "close_reason", "config", "deflate")

    def __init__(self, config: ConnectionConfig, deflate: PerMessageDeflate | None = None) -> None:
        self.config = config
        self.deflate = deflate
        self._in = READING
        self._out = READY
        self._assembly: Assembly | None = None
        self._sent_text: Utf8Validator | None = None
        self.close_code: int = _NO_CLOSE
        """The code of the peer's close frame, 1005 when it had none; 1006 as long as none came (RFC 6455 §7.1.5)."""
        self.close_reason = ""

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands; any thread."""
        return STATES[self._in | self._out]

    @property
    def pending(self) -> bool:
        """`receive` stopped early: call it again, with nothing, before reading more. Reading thread."""
        return self._assembly is not None and self._assembly.pending

    # receiving

    def receive_one(self, buf: bytes | bytearray, pos: int, n: int) -> ByteBuffer | None:
        """Return the small, whole, uncompressed message with which buf[pos:n] begins: a server's usual case.

        Its opcode stands in buf[pos], as 0x81 or 0x82, and it has 6 bytes more than its payload. None: what comes
        first is something else, give the rest to `receive`. A third of the steps of `receive`, which makes events.
        """
        if self._assembly is not None or self._in != READING or self._out == SENT_CLOSE:
            return None
        return self.config.fastpath.one(buf, pos, n)

    def receive(self, buf: bytes | bytearray, n: int, events: list[Event], pos: int = 0) -> None:
        """Parse buf[pos:n] and append to `events`. Keeps nothing of `buf`; never raises for what the peer sent.
        `pos` is where `receive_one` stopped.

        It stops early, with `pending` True, after `config.portion` frames, for a read may hold very many, and with
        compression once `config.budget` bytes were decoded, for a few may hold very many bytes. Call again with
        (b"", 0, events), in a later turn.
        """
        assembly = self._assembly
        if assembly is not None and assembly.raw:
            if n:
                buf = assembly.raw[assembly.start :] + buf[:n]
            else:
                pos = assembly.start
                buf = assembly.raw
            n = len(buf)
            assembly.raw = b""
            assembly.start = 0
            assembly.pending = False
            if not assembly.opcode and not assembly.left:
                self._assembly = None
        config = self.config
        fastpath = config.fastpath
        left = config.portion
        budget = 0 if self.deflate is None else config.budget
        try:
            while pos < n and self._in == READING:
                if left <= 0:
                    self._put_aside(buf, pos, n)
                    return
                if self._assembly is None and self._out != SENT_CLOSE:
                    known = len(events)
                    pos = fastpath.take(buf, pos, n, events, left)
                    if pos == n:
                        return
                    left -= len(events) - known
                    if left <= 0:
                        continue
                if not budget:
                    pos = self._advance(buf, pos, n, events)
                    if pos == n:
                        return
                    left -= 1
                    continue
                left -= INFLATE_COST
                known = len(events)
                pos = self._advance(buf, pos, n, events)
                if len(events) != known:
                    budget = max(budget - _decoded_size(events[-1]), 0)
                    if not budget:
                        left = 0
        except ProtocolError as error:
            self.fail(error.with_traceback(None), events)  # it holds this frame, which holds `events`

    def _put_aside(self, buf: bytes | bytearray, pos: int, n: int) -> None:
        """Keep the rest for the next `receive`; what was put aside before is not copied again."""
        assembly = self._kept()
        if type(buf) is bytes and n == len(buf):
            assembly.raw = buf
            assembly.start = pos
        else:
            assembly.raw = bytes(buf[pos:n])
        assembly.pending = True

    def put_aside(self, buf: bytes | bytearray, pos: int, n: int) -> None:
        """Keep buf[pos:n] for the next `receive`, unparsed. Reading thread."""
        assembly = self._kept()
        assembly.raw = assembly.raw[assembly.start :] + bytes(buf[pos:n])
        assembly.start = 0
        assembly.pending = True

    def held(self) -> int:
        """Return how many bytes are kept of what came and is not handed over, by a rough count. Reading thread."""
        assembly = self._assembly
        if assembly is None:
            return 0
        size = ASSEMBLY_SIZE + len(assembly.raw) + (0 if assembly.storage is None else len(assembly.storage))
        return size if assembly.inflater is None else size + INFLATER_SIZE

    def fail(self, error: ProtocolError, events: list[Event]) -> None:
        """Stop parsing, for the peer is at fault. Reading thread."""
        self._stop(FAULT)
        events.append((FAIL, error))

    def receive_eof(self) -> None:
        """Give back what is unfinished: the stream is gone, and nothing can be sent. Reading thread; idempotent."""
        self._stop(ENDED)

    def end(self) -> None:
        """Give the connection up: nothing more is received or sent. Any thread; `receive_eof` must follow."""
        self._in = ENDED  # one store: the reading thread may be in `receive`, and the unfinished message is its own

    def _stop(self, receiving: int) -> None:
        """Leave READING: nothing more is parsed, and nothing unfinished is kept."""
        self._in = receiving
        assembly, self._assembly = self._assembly, None
        if assembly is not None:
            assembly.drop(self.config.pool)

    def _advance(self, buf: bytes | bytearray, pos: int, n: int, events: list[Event]) -> int:
        """Parse one frame of any kind, or as much of one as there is. Returns where it ends; appends one event at
        most."""
        assembly = self._assembly
        if assembly is None or not assembly.left:
            header = parse_header(buf, pos, n, self.config.masked)
            if header is None:
                assembly = self._kept()
                assembly.raw = bytes(buf[pos:n])
                return n
            first, length, key, pos = header
            opcode = first & 0x0F
            end = pos + length
            if opcode >= CLOSE:
                if end <= n:
                    self._control(opcode, _payload(buf, pos, end, key), events)
                    return end
                assembly = self._kept()
                assembly.control = opcode
            else:
                self._check_data(first, length)
                if end <= n and assembly is None and first & (FIN | RSV1) == FIN and self._out != SENT_CLOSE:
                    self._whole(opcode, _payload(buf, pos, end, key), events)
                    return end
                assembly = self._begin_data(first, length)
            assembly.left = length
            assembly.key = key
        end = min(pos + assembly.left, n)
        assembly.left -= end - pos
        if self._out == SENT_CLOSE and not assembly.control:
            self._skip_piece(assembly)
            return end
        piece = _payload(buf, pos, end, assembly.key)
        if assembly.key is not None:
            assembly.key = rotate(assembly.key, end - pos)
        if assembly.control:
            self._control_piece(assembly, piece, events)
        else:
            self._data_piece(assembly, piece, events)
        return end

    def _kept(self) -> Assembly:
        """Return the assembly there is, or a new one."""
        if self._assembly is None:
            self._assembly = Assembly()
        return self._assembly

    def _check_data(self, first: int, length: int) -> None:
        """Check whether a data frame may come now, and so large (RFC 6455 §5.4, RFC 7692 §6). Raises ProtocolError."""
        config = self.config
        assembly = self._assembly
        begun = assembly is not None and assembly.opcode != 0
        if begun is (first & 0x0F != 0):
            fault = "new message inside another" if begun else "continuation of no message"
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, fault)
        compressed = first & RSV1 != 0
        if compressed and self.deflate is None:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "reserved bit set: compression was not negotiated")
        if self._out == SENT_CLOSE:
            return  # nothing of it is kept
        total = length
        empty = int(not length and not first & FIN)
        if assembly is not None:
            if assembly.fragments >= config.max_fragments:
                raise ProtocolError(CloseCode.POLICY_VIOLATION, "too many fragments in a message")
            empty += assembly.empty_fragments
            compressed = compressed or assembly.inflater is not None
            total += assembly.size
        if empty > config.max_empty_fragments:
            raise ProtocolError(CloseCode.POLICY_VIOLATION, "too many empty fragments in a message")
        if total > (config.max_compressed_size if compressed else config.max_message_size):
            raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, f"message over {config.max_message_size} bytes")

    def _begin_data(self, first: int, length: int) -> Assembly:
        """Begin a data frame that goes through the assembly: the one there is, or a new one."""
        assembly = self._kept()
        if not assembly.opcode:
            assembly.opcode = first & 0x0F
            assembly.size = assembly.fragments = assembly.empty_fragments = 0
            if self._out != SENT_CLOSE:
                if first & RSV1 and self.deflate is not None:
                    assembly.inflater = self.deflate.inflater(self.config.max_message_size)
                if assembly.opcode == TEXT:
                    assembly.text = Utf8Validator()
        assembly.fin = first & FIN != 0
        assembly.size += length
        assembly.fragments += 1
        if not length and not assembly.fin:
            assembly.empty_fragments += 1
        return assembly

    def _data_piece(self, assembly: Assembly, piece: bytes, events: list[Event]) -> None:
        config = self.config
        ended = not assembly.left
        assembly.add(piece, config.pool)
        if ended and assembly.fin:
            assembly.finish()
            buffer = ByteBuffer.of(assembly.take(), config.pool)
            events.append((CHUNK, (assembly.opcode, True, buffer)) if config.chunked else (assembly.opcode, buffer))
            self._assembly = None
        elif config.chunked and assembly.storage and (ended or len(assembly.storage) >= config.message_buffer_size):
            events.append((CHUNK, (assembly.opcode, False, ByteBuffer.of(assembly.take(), config.pool))))

    def _skip_piece(self, assembly: Assembly) -> None:
        """Skip data that came after our close frame: nothing of it is unmasked, checked or kept."""
        assembly.drop(self.config.pool)
        if not assembly.left and assembly.fin:
            self._assembly = None

    def _whole(self, opcode: int, payload: bytes, events: list[Event]) -> None:
        """Append an uncompressed message that came in one frame and one read: it never goes through a buffer."""
        if opcode == TEXT and not payload.isascii() and not is_utf8(payload):
            raise not_utf8()
        buffer = ByteBuffer.of(payload)
        events.append((CHUNK, (opcode, True, buffer)) if self.config.chunked else (opcode, buffer))

    def _control_piece(self, assembly: Assembly, piece: bytes, events: list[Event]) -> None:
        assembly.body += piece  # at most 125 bytes
        if assembly.left:
            return
        opcode, body = assembly.control, assembly.body
        assembly.control = 0
        assembly.body = b""
        if not assembly.opcode:
            self._assembly = None
        self._control(opcode, body, events)

    def _control(self, opcode: int, body: bytes, events: list[Event]) -> None:
        if opcode == CLOSE:
            self.close_code, self.close_reason = info = parse_close_body(body)
            self._stop(GOT_CLOSE)
            events.append((CLOSE, info))
        elif self._out != SENT_CLOSE:
            events.append((opcode, body))

    # sending

    def encode_message(self, opcode: int, data: Data, compress: bool = True) -> bytes:
        """Return a whole TEXT or BINARY message as one frame; `compress=False` sends it as it is whatever was
        negotiated.

        Raises ConnectionClosedError after our close frame, WriterBusyError while a fragmented message is
        unfinished, ValueError for a TEXT that is not UTF-8 or another opcode.
        """
        refusal = SEND_MESSAGE[self._in | self._out]
        if refusal is not None:
            _refuse(refusal)
        if type(data) is not bytes:
            data = to_bytes(data)
        if opcode == TEXT:
            if not data.isascii():
                data.decode()
            return self._message(TEXT, data, compress)
        if opcode != BINARY:
            raise ValueError(f"a message is TEXT or BINARY, not {opcode!r}")
        return self._message(BINARY, data, compress)

    def encode_text(self, text: str, compress: bool = True) -> bytes:
        """`encode_message` of a str, without a second look at its bytes. A lone surrogate raises UnicodeEncodeError."""
        refusal = SEND_MESSAGE[self._in | self._out]
        if refusal is not None:
            _refuse(refusal)
        if self.deflate is None and self.config.masked:
            return text_frame(text)  # most messages of most servers
        return self._message(TEXT, text.encode(), compress)

    def _message(self, opcode: int, data: bytes, compress: bool) -> bytes:
        config = self.config
        if compress and self.deflate is not None and len(data) >= config.min_compress_size:
            data = self.deflate.compress(data)
            return encode_frame(opcode, data, rsv1=True, key=None if config.masked else urandom(4))
        if not config.masked:
            return encode_frame(opcode, data, key=urandom(4))
        return data_frame(opcode, data)

    def encode_fragment(self, opcode: int, data: Data, first: bool, fin: bool, compress: bool = True) -> bytes:
        """Return one fragment of a message: `first` begins it, `fin` ends it, control frames may come between (§5.4).

        `opcode` and `compress` count with the first fragment only. The pieces of a TEXT may split a code point; a
        ValueError says that they are not UTF-8, or that the message ends amid one, and leaves it as it was.
        Raises ConnectionClosedError, WriterBusyError, and UsageError for a fragment that continues nothing.
        """
        refusal = (SEND_MESSAGE if first else SEND_NEXT)[self._in | self._out]
        if refusal is not None:
            _refuse(refusal)
        if first and opcode not in (TEXT, BINARY):
            raise ValueError(f"a message is TEXT or BINARY, not {opcode!r}")
        if type(data) is not bytes:
            data = to_bytes(data)
        text = self._sent_text
        deflate = self.deflate if self._out == DEFLATED else None
        if first:
            text = Utf8Validator() if opcode == TEXT else None
            if compress and (not fin or len(data) >= self.config.min_compress_size):
                deflate = self.deflate
        if text is not None and not text.feed(data, fin):
            raise ValueError("a TEXT message must be UTF-8")
        self._sent_text = None if fin else text
        deflated = deflate is not None
        if deflate is not None:
            data = deflate.compress(data, fin)
        self._out = READY if fin else DEFLATED if deflated else MESSAGE
        key = None if self.config.masked else urandom(4)
        return encode_frame(opcode if first else 0, data, fin=fin, rsv1=first and deflated, key=key)

    def encode_ping(self, data: Data = b"") -> bytes:
        """Return a ping of at most 125 bytes. Raises ConnectionClosedError, ValueError."""
        return self._encode_control(PING, data)

    def encode_pong(self, data: Data = b"") -> bytes:
        """Return a pong of at most 125 bytes: a ping's bytes answer it. Raises ConnectionClosedError, ValueError."""
        return self._encode_control(PONG, data)

    def _encode_control(self, opcode: int, data: Data) -> bytes:
        refusal = SEND_CONTROL[self._in | self._out]
        if refusal is not None:
            _refuse(refusal)
        if type(data) is not bytes:
            data = to_bytes(data)
        if len(data) > MAX_CONTROL:
            raise ValueError(f"a control frame has at most {MAX_CONTROL} bytes, not {len(data)}")
        return encode_frame(opcode, data, key=None if self.config.masked else urandom(4))

    def encode_close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> bytes:
        """Return our close frame, the last one; code 1005 sends it without a code. It may cut a fragmented message
        short.

        Raises ConnectionClosedError when it was sent already or the connection has ended, InvalidCloseCodeError for
        a code or reason that may not travel.
        """
        refusal = SEND_CONTROL[self._in | self._out]
        if refusal is not None:
            _refuse(refusal)
        body = encode_close_body(code, reason)
        self._out = SENT_CLOSE
        self._sent_text = None
        return encode_frame(CLOSE, body, key=None if self.config.masked else urandom(4))


def _payload(buf: bytes | bytearray, pos: int, end: int, key: bytes | None) -> bytes:
    return bytes(buf[pos:end]) if key is None else mask_range(buf, pos, end, key)


def _decoded_size(event: Event) -> int:
    kind, value = event
    if kind == CHUNK:
        return len(value[2])
    return len(value) if kind <= BINARY else 0


def to_bytes(data: Data) -> bytes:
    """Return what a user gave as a message, as bytes that nobody else can change. Raises TypeError for what is none."""
    if isinstance(data, ByteBuffer):
        return data.clone_bytes()
    if isinstance(data, str):
        raise TypeError("a message is bytes here: encode the str, or use write_string")
    return bytes(memoryview(data))  # by way of a view, for bytes(5) would be five zeros


def _refuse(refusal: Refusal) -> None:
    kind, text = refusal
    raise kind(text)
