"""Sending: the half of a session that writes. Any thread.

Whatever sends encodes and queues in one step under `stream.lock`, so frames of several threads never interleave.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

from gows.codes import CloseCause
from gows.debug import DEBUG, check_owned
from gows.errors import ConnectionClosedError, QueueFullError
from gows.protocol.connection import Connection, ConnectionState
from gows.protocol.prepared import PreparedMessage, PreparedSeries
from gows.protocol.states import TEXT
from gows.reactor.stream import Stream
from gows.session.context import SessionContext
from gows.session.writer import MessageWriter


class Sending:
    """Queues what is written: the stream of a session, its protocol machine, and what overflow policies need."""

    __slots__ = ("_cause", "_writer", "connection", "context", "stream")

    def _init_sending(self, stream: Stream, connection: Connection, context: SessionContext) -> None:
        """Set the fields of this class: a plain call, where `super().__init__` would take a thousand instructions."""
        self.stream = stream
        self.connection = connection
        self.context = context
        self._cause: CloseCause | None = None  # the first that made it end
        self._writer: MessageWriter | None = None  # of the message that is being written in pieces

    def arm(self) -> None:
        """Set the stream's deadline to the next moment at which there is something to look at. Loop thread."""
        raise NotImplementedError

    def send_prepared(self, message: PreparedMessage) -> bool:
        """Queue a message that is made for many. Return whether that was done. The overflow policy decides as for any
        other, but nothing is raised and no thread waits: a connection that is closed, or too slow, does not get it.
        Any thread."""
        stream, context = self.stream, self.context
        lock = stream.lock
        lock.acquire()
        try:
            if stream.queued > context.mark and not self.make_room_locked(
                message.opcode, message.data, message.compress, message.key, expires=message.expires, wait=False
            ):
                return self in context.overflow.backlogs
            if self._writer is None:
                frame = message.encode(self.connection)
                stream.write_locked(frame)
                self.count_sent(frame)
            else:
                return self._writer.defer_locked(message.opcode, message.data, message.compress)
        except (ConnectionClosedError, QueueFullError):
            return False
        finally:
            lock.release()
        return True

    def send_series(self, series: PreparedSeries) -> bool:
        """Queue messages that are made for many, in one piece. False: nothing was queued, and each is to be sent by
        itself, since the overflow policy may decide about it, or it is compressed for this connection alone. Any
        thread."""
        stream = self.stream
        with stream.lock:
            if self._writer is not None:
                return False
            try:
                frames = series.encode(self.connection)
            except ConnectionClosedError:
                return False
            if frames is None or not self.context.policy.has_room_locked(self, len(frames)):
                return False
            stream.write_locked(frames)
        size, count = len(frames), len(series.messages)  # no call within an increment, as in `count_sent`
        traffic = self.context.traffic
        traffic.sent += count
        traffic.sent_bytes += size
        return True

    def send_text(self, text: str) -> bool:
        """Queue a text message of the engine's own. Raises as `WebSocket.write_string`, but never waits: the policy
        "block" refuses, with QueueFullError. False: the policy dropped it. Any thread, whatever locks it has."""
        stream, data = self.stream, text.encode()
        with stream.lock:
            if stream.queued > self.context.mark and not self.make_room_locked(TEXT, data, wait=False):
                return self in self.context.overflow.backlogs
            return self.queue_locked(TEXT, data, True)

    def queue_locked(self, opcode: int, data: bytes, compress: bool) -> bool:
        """Queue a message, or have it wait for the end of one that is being written in pieces. False: the overflow
        policy dropped it there."""
        if DEBUG:
            check_owned(self.stream.lock)
        if self._writer is not None:
            return self._writer.defer_locked(opcode, data, compress)
        frame = self.connection.encode_message(opcode, data, compress)
        self.stream.write_locked(frame)
        self.count_sent(frame)
        return True

    def count_sent(self, frame: bytes) -> None:
        """Count a message whose last part is in `frame`."""
        size = len(frame)  # no call within an increment: other threads may have their turn after it
        traffic = self.context.traffic
        traffic.sent += 1
        traffic.sent_bytes += size

    def make_room_locked(
        self,
        opcode: int = 0,
        data: Any = b"",
        compress: bool = True,
        key: Hashable = None,
        deferred: int = 0,
        expires: float = math.inf,
        wait: bool = True,
    ) -> bool:
        """Find out whether there is room for a message in a queue that is over `context.mark`, and else apply the
        overflow policy (see `Policy.make_room_locked`)."""
        if DEBUG:
            check_owned(self.stream.lock)
        return self.context.policy.make_room_locked(self, opcode, data, compress, key, deferred, expires, wait)

    def release_backlog_locked(self) -> None:
        """Queue what was kept back, for something follows it that must not overtake it."""
        if DEBUG:
            check_owned(self.stream.lock)
        overflow = self.context.overflow
        if self in overflow.backlogs:
            overflow.release_locked(self)

    def end_writer_locked(self) -> None:
        """Forget the writer of a message in pieces, for it has ended."""
        if DEBUG:
            check_owned(self.stream.lock)
        self._writer = None

    # ------------------------------------------------------------------ closing

    def begin_close(self, code: int, reason: str, cause: CloseCause = CloseCause.LOCAL) -> None:
        """Send our close frame, if none was sent yet, and wait for the peer's, bounded by the close timeout. Any
        thread."""
        with self.stream.lock:
            if self.connection.state is not ConnectionState.OPEN:
                return
            self.release_backlog_locked()
            self.send_close_locked(code, reason, cause)
        self.context.overflow.wake(self)
        self.context.loop.call_soon(self.arm)

    def send_close_locked(self, code: int, reason: str, cause: CloseCause) -> None:
        """Queue our close frame. Raises what the encoder raises."""
        if DEBUG:
            check_owned(self.stream.lock)
        self.stream.write_locked(self.connection.encode_close(code, reason))
        self._blame(cause)

    def _blame(self, cause: CloseCause) -> None:
        """Note what made the connection end; only the first call counts."""
        if self._cause is None:
            self._cause = cause
