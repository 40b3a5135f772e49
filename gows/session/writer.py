# cython: embedsignature=False
# Its class is a Python class, whose methods have signatures of their own.
"""MessageWriter: one message that is written in pieces."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from gows.bytebuffer import ByteBuffer
from gows.codes import CloseCode, Opcode
from gows.debug import DEBUG, check_owned
from gows.errors import ConnectionClosedError, QueueFullError, WriterBusyError
from gows.protocol.connection import to_bytes
from gows.session.context import SessionContext
from gows.session.overflow import Sender
from gows.session.states import ENDING

Data = bytes | bytearray | memoryview | ByteBuffer
"""What may be written as bytes."""

STREAMED_FRAGMENT = 16384
"""Bytes that a MessageWriter gathers before it sends a fragment."""


class Streaming(Sender, Protocol):
    """A session, as its writer sees it."""

    context: SessionContext

    def make_room_locked(self, *, deferred: int = 0) -> bool:
        """Apply the overflow policy. Return whether there is room."""

    def release_backlog_locked(self) -> None:
        """Queue what was kept back."""

    def count_sent(self, frame: bytes) -> None:
        """Count a message whose last part is in `frame`."""

    def begin_close(self, code: int, reason: str) -> None:
        """Send our close frame."""

    def end_writer_locked(self) -> None:
        """Forget the writer: others may write."""

    async def drain(self) -> None:
        """Wait until there is room."""


class MessageWriter:
    """Writes one message in pieces; made by `WebSocket.next_writer`. For one thread at a time.

    Pieces are gathered to fragments of 16 KiB. Leaving the `with` block ends the message. When the block raises, a
    message of which nothing was sent is forgotten; one that was begun cannot be taken back, so the connection is closed
    with 1011.
    """

    __slots__ = (
        "_begun",
        "_compress",
        "_deferred",
        "_dropped",
        "_opcode",
        "_open",
        "_parts",
        "_size",
        "_ws",
        "waiting",
    )

    def __init__(self, ws: Streaming, opcode: Opcode, compress: bool) -> None:
        if not callable(getattr(ws, "make_room_locked", None)):
            raise TypeError("a MessageWriter is made by WebSocket.next_writer")
        self._ws = ws
        self._opcode = opcode
        self._compress = compress
        self._open = True
        self._begun = False  # a fragment was sent
        self._dropped = False  # the overflow policy dropped the message
        self._parts: list[bytes] = []
        self._size = 0
        self._deferred: list[tuple[int, bytes, bool]] = []
        self.waiting = 0
        """Bytes of whole messages that wait for the end of this one."""

    def write(self, data: Data) -> None:
        """Add bytes to the message. In a text message they must be UTF-8 as a whole; a character may be split
        between two calls.

        Over the high-water mark a message that was begun cannot be dropped any more: QueueFullError, also for the
        policy "drop". Of `data` nothing was taken when this raises, so it may be written again after `on_drain`.
        """
        if not self._open:
            raise WriterBusyError("this writer is closed")
        piece = to_bytes(data)
        self._parts.append(piece)
        self._size += len(piece)
        if self._size >= STREAMED_FRAGMENT:
            try:
                self._send(fin=False)
            except BaseException:
                self._parts.pop()
                self._size -= len(piece)
                raise

    def write_string(self, text: str) -> None:
        """Add text to the message."""
        self.write(text.encode())

    def close(self) -> None:
        """End the message and send what is left of it. Idempotent."""
        if self._open:
            self._open = False
            try:
                self._send(fin=True)
            except BaseException:
                self._give_up()
                raise
            self._release()

    def defer_locked(self, opcode: int, data: bytes, compress: bool) -> bool:
        """Queue a whole message of somebody else; if this one was begun, it waits for the end of it. False: the
        overflow policy dropped it. Raises what the encoder raises."""
        if DEBUG:
            check_owned(self._ws.stream.lock)
        ws = self._ws
        if not self._begun:
            frame = ws.connection.encode_message(opcode, data, compress)
            ws.stream.write_locked(frame)
            ws.count_sent(frame)
            return True
        if ws.connection.state in ENDING:
            raise ConnectionClosedError("the connection is closed")
        if opcode == Opcode.TEXT:
            data.decode()  # an error belongs to whoever wrote this message
        room = max(self.waiting, len(self._deferred) * 16)  # empty ones take room as well
        if room > ws.context.high_water and not ws.make_room_locked(deferred=room):
            return False
        self._deferred.append((opcode, data, compress))
        size = len(data)
        self.waiting += size
        return True

    def _send(self, fin: bool) -> None:
        ws = self._ws
        stream, connection = ws.stream, ws.connection
        with stream.lock:
            if not self._begun:
                ws.release_backlog_locked()
            # The end of a message that was begun is never refused: others wait for it.
            if stream.queued > ws.context.high_water and not (fin and self._begun) and not ws.make_room_locked():
                if self._begun and connection.state not in ENDING:
                    raise QueueFullError("a message that was begun cannot be dropped")
                self._dropped = not self._begun
            if not self._dropped:
                data = b"".join(self._parts)
                if fin and not self._begun:
                    frame = connection.encode_message(self._opcode, data, self._compress)
                else:
                    frame = connection.encode_fragment(self._opcode, data, not self._begun, fin, self._compress)
                    self._begun = True
                stream.write_locked(frame)
                if fin:
                    ws.count_sent(frame)
                else:
                    size = len(frame)
                    ws.context.traffic.sent_bytes += size
            self._parts.clear()
            self._size = 0

    def _give_up(self) -> None:
        """Give up the message: it will not be finished."""
        if self._begun:
            self._ws.begin_close(CloseCode.INTERNAL_ERROR, "")
        self._release()

    def _release(self) -> None:
        """Let others write again, after the messages that have waited."""
        ws = self._ws
        with ws.stream.lock:
            ws.end_writer_locked()
            try:
                for opcode, data, compress in self._deferred:
                    frame = ws.connection.encode_message(opcode, data, compress)
                    ws.stream.write_locked(frame)
                    ws.count_sent(frame)
            except (ConnectionClosedError, WriterBusyError):  # the connection ends, or this message never will
                pass
            self._deferred.clear()
            self.waiting = 0

    async def send(self, data: str | Data) -> None:
        """Add text or bytes to the message, and wait before that as long as more than the high-water mark is queued.
        For coroutines, in any asyncio loop. Raises ConnectionClosedError when the connection ends."""
        await self._ws.drain()
        self.write(data.encode() if isinstance(data, str) else data)

    async def __aenter__(self) -> MessageWriter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __enter__(self) -> MessageWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._open:
            self._open = False
            self._give_up()
