"""permessage-deflate (RFC 7692): agreeing on it, in both roles, and doing it.

Without context takeover (the default) nothing of zlib belongs to a connection: messages of all connections go through
the compressors of one DeflatePool, each reset after every message, and an inflater lives as long as the one message
it reads.

zlib-ng does the same work, in the same words, for less; where it is installed (`gows[zlib-ng]`) it is what we use.

The file is longer than others: what is agreed on decides which compressor or inflater is made, so both stand together.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from gows.codes import CloseCode
from gows.errors import HandshakeError, ProtocolError
from gows.protocol.extensions import ExtensionOffer, format_extension

LIBRARY: ModuleType
"""What deflates and inflates."""
try:
    from zlib_ng import zlib_ng as LIBRARY
except ImportError:
    LIBRARY = zlib

if TYPE_CHECKING:
    _Compressor = zlib._Compress
    _Decompressor = zlib._Decompress

EXTENSION_NAME = "permessage-deflate"

_SERVER_NO_TAKEOVER = "server_no_context_takeover"
_CLIENT_NO_TAKEOVER = "client_no_context_takeover"
_SERVER_BITS = "server_max_window_bits"
_CLIENT_BITS = "client_max_window_bits"

_TAIL = b"\x00\x00\xff\xff"  # §7.2.1: not sent, and put back by the receiver
_FINAL_EMPTY_BLOCK = b"\x03\x00"
_CHUNK = 1 << 16
_KEEP_COMPRESSORS = 4
_MAX_FINAL_BLOCKS = 128  # zlib copies the rest of its input at each, so many in one message would cost its square

_WINDOW_BITS = {str(bits): bits for bits in range(8, 16)}  # §7.1.2: decimal, no leading zeros


@dataclass(frozen=True)
class DeflateOptions:
    """What one side is willing to do; of the four parameters (RFC 7692 §7.1) either role asks what is set here."""

    level: int = 1
    """zlib level of our compressor, 1 (fast) to 9 (small)."""
    mem_level: int = 8
    """zlib memory level of our compressor, 1 to 9."""
    server_no_context_takeover: bool = True
    """The server's compressor forgets its window after each message."""
    client_no_context_takeover: bool = True
    """The client's compressor forgets its window after each message."""
    server_max_window_bits: int = 15
    """Largest LZ77 window of the server's compressor, as a power of two, 8 to 15."""
    client_max_window_bits: int = 15
    """Largest LZ77 window of the client's compressor, 8 to 15."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("level", 1, 9),
            ("mem_level", 1, 9),
            (_SERVER_BITS, 8, 15),
            (_CLIENT_BITS, 8, 15),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, not {getattr(self, name)}")


@dataclass(frozen=True)
class DeflateParams:
    """What both sides agreed on (RFC 7692 §7.1)."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = 15
    client_max_window_bits: int = 15


class _BadParams(Exception):
    """Parameters that RFC 7692 §7.1 does not allow; says why."""


@dataclass
class _Asked:
    """The parameters of one offer or answer, checked one by one. `client_bits` 0: named without a value."""

    server_no_takeover: bool = False
    client_no_takeover: bool = False
    server_bits: int | None = None
    client_bits: int | None = None


def _read_params(params: Sequence[tuple[str, str | None]]) -> _Asked:
    asked = _Asked()
    seen: set[str] = set()
    for name, value in params:
        if name in seen:
            raise _BadParams(f"{name} given twice")
        seen.add(name)
        if name in (_SERVER_NO_TAKEOVER, _CLIENT_NO_TAKEOVER):
            if value is not None:
                raise _BadParams(f"{name} takes no value")
            if name == _SERVER_NO_TAKEOVER:
                asked.server_no_takeover = True
            else:
                asked.client_no_takeover = True
        elif name == _SERVER_BITS:
            asked.server_bits = _read_bits(name, value)
        elif name == _CLIENT_BITS:
            asked.client_bits = 0 if value is None else _read_bits(name, value)
        else:
            raise _BadParams(f"unknown parameter {name}")
    return asked


def _read_bits(name: str, value: str | None) -> int:
    bits = _WINDOW_BITS.get(value or "")
    if bits is None:
        raise _BadParams(f"{name} must be from 8 to 15")
    return bits


def negotiate(offers: Sequence[ExtensionOffer], options: DeflateOptions) -> tuple[str, DeflateParams] | None:
    """Return the server's choice (RFC 7692 §5.1): the first offer that can be met, as (header value to answer with,
    outcome).

    None when there is none (§7: an offer that breaks the rules is declined); the connection then goes on uncompressed.
    """
    for offer in offers:
        if offer.name == EXTENSION_NAME:
            try:
                asked = _read_params(offer.params)
            except _BadParams:
                continue  # a fallback may follow
            return _answer(asked, options)
    return None


def _answer(asked: _Asked, options: DeflateOptions) -> tuple[str, DeflateParams]:
    """Answer an offer. Each one with valid parameters can be met; the answer has what was asked, and what we want
    (§7.1)."""
    server_bits = min(asked.server_bits or 15, options.server_max_window_bits)
    client_bits = 15  # §7.1.2.2: without the parameter in the offer the client may not be limited
    if asked.client_bits is not None:
        client_bits = min(asked.client_bits or 15, options.client_max_window_bits)
    outcome = DeflateParams(
        server_no_context_takeover=asked.server_no_takeover or options.server_no_context_takeover,
        client_no_context_takeover=asked.client_no_takeover or options.client_no_context_takeover,
        server_max_window_bits=server_bits,
        client_max_window_bits=client_bits,
    )
    params: list[tuple[str, int | None]] = []
    if outcome.server_no_context_takeover:
        params.append((_SERVER_NO_TAKEOVER, None))
    if outcome.client_no_context_takeover:
        params.append((_CLIENT_NO_TAKEOVER, None))
    if asked.server_bits is not None or server_bits < 15:
        params.append((_SERVER_BITS, server_bits))
    if client_bits < 15:
        params.append((_CLIENT_BITS, client_bits))
    return format_extension(EXTENSION_NAME, params), outcome


def make_offer(options: DeflateOptions) -> str:
    """Return the client's Sec-WebSocket-Extensions value.

    A limit on the server's window is asked first, and then dropped, for servers that cannot limit theirs (§7.1.2.1).
    """
    params: list[tuple[str, int | None]] = []
    if options.server_no_context_takeover:
        params.append((_SERVER_NO_TAKEOVER, None))
    if options.client_no_context_takeover:
        params.append((_CLIENT_NO_TAKEOVER, None))
    # always named, so that the server may limit our window
    params.append((_CLIENT_BITS, options.client_max_window_bits if options.client_max_window_bits < 15 else None))
    offer = format_extension(EXTENSION_NAME, params)
    if options.server_max_window_bits < 15:
        limited = format_extension(EXTENSION_NAME, [*params, (_SERVER_BITS, options.server_max_window_bits)])
        return f"{limited}, {offer}"
    return offer


def accept_answer(extensions: Sequence[ExtensionOffer], options: DeflateOptions | None) -> DeflateParams | None:
    """Check the server's Sec-WebSocket-Extensions, in a client; `options` is what was offered, None for nothing.

    A server that was asked to forget its window and does not say that it will (Tornado, Mojolicious) keeps it, so we
    do: an inflater of some 40 KiB lasts as long as the connection.

    None: no compression. Raises HandshakeError for an extension or a parameter that was not offered, or one that
    breaks the rules (RFC 6455 §4.1 point 5, RFC 7692 §7.1): the connection must then be failed.
    """
    if not extensions:
        return None
    name = extensions[0].name
    if options is None or name != EXTENSION_NAME:
        raise HandshakeError(101, f"the server chose an extension that was not offered: {name}")
    if len(extensions) > 1:
        raise HandshakeError(101, f"the server chose more than one extension: {name}, {extensions[1].name}")
    try:
        answer = _read_params(extensions[0].params)
        if answer.client_bits == 0:
            raise _BadParams(f"{_CLIENT_BITS} needs a value in an answer")  # §7.1.2.2
        if answer.client_bits is not None and answer.client_bits > options.client_max_window_bits:
            raise _BadParams(f"{_CLIENT_BITS} is larger than offered")
    except _BadParams as error:
        raise HandshakeError(101, f"the server's {EXTENSION_NAME} answer is wrong: {error}") from None
    return DeflateParams(
        server_no_context_takeover=answer.server_no_takeover,
        client_no_context_takeover=answer.client_no_takeover or options.client_no_context_takeover,
        server_max_window_bits=answer.server_bits or 15,
        client_max_window_bits=answer.client_bits or options.client_max_window_bits,
    )


class DeflatePool:
    """The compressors that connections without context takeover share; any thread. One for each loop is enough.

    A compressor is out of the pool while it works, and back, emptied by Z_FULL_FLUSH, before the call returns: so there
    are as many as threads compress at once, and nobody waits for another's lock. Inflaters are not shared: a peer's
    data may point back into the window, and a shared one would show it what another connection received.
    """

    __slots__ = ("_codecs", "_free", "library")

    def __init__(self, library: ModuleType = LIBRARY) -> None:
        """`library`: zlib, or what has its names and meanings."""
        self.library = library
        self._free: dict[tuple[int, int, int], list[_Compressor]] = {}
        self._codecs: dict[tuple[DeflateParams, int, int, bool], PerMessageDeflate] = {}

    def codec(self, params: DeflateParams, options: DeflateOptions, *, server: bool) -> PerMessageDeflate:
        """Return what a Connection needs to compress as agreed. Without takeover in both directions all share one
        object."""
        if not (params.server_no_context_takeover and params.client_no_context_takeover):
            return PerMessageDeflate(self, params, options, server=server)
        key = (params, options.level, options.mem_level, server)
        codec = self._codecs.get(key)
        if codec is None:
            codec = self._codecs.setdefault(key, PerMessageDeflate(self, params, options, server=server))
        return codec

    def take(self, settings: tuple[int, int, int]) -> _Compressor:
        """Return a compressor that remembers nothing, for (level, window bits, memory level). Give it back, or drop
        it."""
        free = self._free.get(settings)
        try:
            return free.pop() if free is not None else self._new_compressor(settings)
        except IndexError:
            return self._new_compressor(settings)

    def give(self, settings: tuple[int, int, int], compressor: _Compressor) -> None:
        """Take back a compressor that was flushed with Z_FULL_FLUSH; a few are kept (up to 256 KiB each)."""
        free = self._free.setdefault(settings, [])
        if len(free) < _KEEP_COMPRESSORS:
            free.append(compressor)

    def _new_compressor(self, settings: tuple[int, int, int]) -> _Compressor:
        library = self.library
        level, bits, mem_level = settings
        if bits == 8:
            # There is no 256-byte window: raw deflate with 8 is refused, or, before zlib 1.2.9, silently done with 9.
            # Run-length matches reach back one byte only, so they fit any window.
            compressor: _Compressor = library.compressobj(level, zlib.DEFLATED, -9, mem_level, zlib.Z_RLE)
        else:
            compressor = library.compressobj(level, zlib.DEFLATED, -bits, mem_level)
        return compressor


class PerMessageDeflate:
    """Compression as agreed for one connection, or for all with the same outcome when there is no context takeover.

    `compress` may be called from any thread, one at a time for one connection; `inflater` from the reading thread.
    """

    __slots__ = (
        "_compressor",
        "_inflate_bits",
        "_keep_inflater",
        "_keep_window",
        "_library",
        "_pool",
        "_settings",
        "_stream",
    )

    def __init__(self, pool: DeflatePool, params: DeflateParams, options: DeflateOptions, *, server: bool) -> None:
        ours = (params.server_max_window_bits, not params.server_no_context_takeover)
        theirs = (params.client_max_window_bits, not params.client_no_context_takeover)
        if not server:
            ours, theirs = theirs, ours
        self._pool = pool
        self._library = pool.library
        self._settings = (options.level, ours[0], options.mem_level)
        self._keep_window = ours[1]
        self._compressor: _Compressor | None = None
        # a peer whose old zlib took 8 for 9 is understood, too: a larger window reads what a smaller one wrote
        self._inflate_bits = -max(theirs[0], 9)
        self._keep_inflater = theirs[1]
        self._stream: _Decompressor | None = None

    @property
    def shared(self) -> bool:
        """Whether what it compresses depends on the message alone, and so fits every connection that has it."""
        return not self._keep_window

    def compress(self, data: bytes, final: bool = True) -> bytes:
        """Return the payload of a compressed message's frame (RFC 7692 §7.2.1); `final` says that the message ends with
        it."""
        compressor = self._compressor or self._pool.take(self._settings)
        self._compressor = None  # a compressor that failed midway is not used again
        out = compressor.compress(data)
        if self._keep_window:
            out += compressor.flush(zlib.Z_SYNC_FLUSH)
            self._compressor = compressor
        else:
            out += compressor.flush(zlib.Z_FULL_FLUSH)
            self._pool.give(self._settings, compressor)
        # there is a block to cut the tail from even when the message is empty, for zlib writes one at any flush that
        # follows a compress()
        return out[:-4] if final else out

    def inflater(self, limit: int) -> Inflater:
        """Return an inflater for the one message that begins now, of at most `limit` bytes once inflated."""
        return Inflater(self, self._stream or self.new_stream(), limit)

    def new_stream(self) -> _Decompressor:
        """Return an inflater with an empty window."""
        stream: _Decompressor = self._library.decompressobj(self._inflate_bits)
        return stream

    @property
    def error(self) -> type[Exception]:
        """What the library raises for data that it cannot make sense of."""
        kind: type[Exception] = self._library.error
        return kind

    def finish(self, stream: _Decompressor) -> bool:
        """Return whether the message that `stream` read is whole; keeps the window if that was agreed.

        It is when the tail completes an empty block, so that nothing comes out, and a block could begin after it.
        zlib does not tell where it stands, but a final empty block ends its data only there. That uses the stream up.
        """
        try:
            if stream.decompress(_TAIL, 16):
                return False
            if self._keep_inflater:
                self._stream = stream
                stream = stream.copy()
            return not stream.decompress(_FINAL_EMPTY_BLOCK, 1) and stream.eof
        except self.error:
            return False


class Inflater:
    """Inflates one message as it arrives (RFC 7692 §7.2.2), never more than `limit` bytes and a chunk."""

    __slots__ = ("_codec", "_ends", "_room", "_stream")

    def __init__(self, codec: PerMessageDeflate, stream: _Decompressor, limit: int) -> None:
        self._codec = codec
        self._stream = stream
        self._room = limit
        self._ends = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Return the inflated bytes, in bounded chunks. Raises ProtocolError: 1007 corrupt, 1009 over the limit."""
        stream = self._stream
        while True:
            # in proportion to the input, for zlib copies what it did not consume after each chunk
            most = min(max(_CHUNK, 4 * len(data)), self._room + 1)
            try:
                out = stream.decompress(data, most)
            except self._codec.error as error:
                raise ProtocolError(CloseCode.INVALID_PAYLOAD, "corrupt compressed data") from error
            size = len(out)
            if size > self._room:
                raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, "message too big once inflated")
            if size:
                self._room -= size
                yield out
            if stream.eof:  # a block with BFINAL set is not the end of the message (§7.2.3.4)
                data = stream.unused_data
                stream = self._restart()
                if not data:
                    return
            elif size < most:
                return
            else:
                data = stream.unconsumed_tail

    def finish(self) -> None:
        """Check the end of the message. Raises ProtocolError (1007) for one that is cut short."""
        if not self._codec.finish(self._stream):
            raise ProtocolError(CloseCode.INVALID_PAYLOAD, "truncated compressed data")

    def _restart(self) -> _Decompressor:
        self._ends += 1
        if self._ends > _MAX_FINAL_BLOCKS:
            raise ProtocolError(CloseCode.POLICY_VIOLATION, "too many final blocks in a compressed message")
        self._stream = self._codec.new_stream()
        return self._stream
