"""Session: the one meeting place of Stream, Connection and Handler.

A session has three layers, each a class, by the threads in which they work: `Sending` writes, in any thread;
`Delivering` calls the handler, in a worker or in the loop; `Session` reads and keeps the deadlines, in the loop's
thread, which calls the observer methods (`data_received` …) and is the only one that parses. `WebSocket` adds what
users call.

The file is longer than others, for all methods of `Session` step through the same flags.
"""

from __future__ import annotations

import logging
from typing import cast

from gows.codes import CloseCause, CloseCode
from gows.debug import DEBUG, check_unlocked
from gows.errors import UsageError
from gows.protocol.connection import Connection, ConnectionState
from gows.protocol.states import CHUNK, CLOSE, PING, PONG
from gows.reactor.hosting import coroutines_of
from gows.reactor.sockets import FRESH
from gows.reactor.stream import Stream
from gows.session.context import SessionContext
from gows.session.delivering import Delivering
from gows.session.handler import Handler, callbacks_of
from gows.session.heartbeat import DEAD, SEND_PING, SILENT, STALLED
from gows.session.receiving import LARGE, SMALL
from gows.session.states import (
    AWAITING,
    COUNTED,
    DRAINED,
    HALF_CLOSED,
    HELD,
    INBOX_FULL,
    LEAVING,
    LOST_EARLY,
    OPCODES,
    OPENED,
    SPECIAL,
    STREAM_LOST,
    UNSERVED,
    Event,
)

logger = logging.getLogger("gows")

_RUNNING = cast("list[Event]", ())
"""The inbox while callbacks run in the loop: nothing can come in meanwhile, so it needs no list."""

SERVE_TIMEOUT = 10.0
"""Seconds between accept() and serve()."""
SMALL_HEAD = 6
"""Bytes of the header, the masking key included, of a message that `receive_one` takes (RFC 6455 §5.2)."""
MAY_INFLATE = 128
"""Bytes of a read from which on it is not inflated while too much is held: it may become a thousand times as much."""
MAX_REST = 1024
"""Messages that are taken of what was put aside when the connection is lost."""


class Session(Delivering):
    """The engine's side of one connection, an Observer of its stream; `WebSocket` adds the user's side. Nothing here is
    called by users."""

    __slots__ = ("_ping_tick", "_subprotocol")

    def __init__(
        self,
        stream: Stream,
        connection: Connection,
        context: SessionContext,
        subprotocol: str | None = None,
        request: object = None,
    ) -> None:
        self._init_sending(stream, connection, context)
        self._init_delivering(request)
        self._subprotocol = subprotocol
        self._ping_tick = 0  # the tick of a heartbeat ping that may still be unanswered; 0 for none
        context.traffic.accepted += 1

    # ------------------------------------------------------------------ observer of the stream (loop thread)

    @property
    def high_water(self) -> int:
        """Queued bytes above which the stream reports `drained` when they have gone out."""
        return self.context.high_water

    @property
    def low_water(self) -> int:
        """Queued bytes at which the stream reports `drained`."""
        return self.context.options.low_water

    def connected(self, stream: Stream) -> None:
        """Do nothing: an outgoing connection was made long before there is a session."""

    def data_received(self, buf: bytearray, n: int) -> None:
        """Deal with `buf[:n]`, which came in; it is the loop's scratch buffer and valid until this returns."""
        if DEBUG:
            self.context.loop.check_thread()
        connection = self.connection
        context = self.context
        traffic = context.traffic
        traffic.received_bytes += n
        pos = 0
        if self.handler is None:
            if self._stash(buf, n):
                return
        elif self._inbox is None and context.inline:
            if DEBUG:
                check_unlocked("call on_message")
            on_message = self.handler.on_message
            left = context.portion
            while left > 0 and not self._flags & SPECIAL and self.stream.queued <= context.high_water:
                buffer = connection.receive_one(buf, pos, n)
                if buffer is None:
                    break
                left -= 1
                traffic.received += 1
                opcode = OPCODES[buf[pos] & 0x0F]
                pos += SMALL_HEAD + len(buffer._data)  # type: ignore[arg-type]
                try:
                    result = on_message(self, opcode, buffer)  # type: ignore[arg-type]
                    if result is not None and self._awaits("on_message", result, buffer):
                        break
                except BaseException as error:
                    self._callback_failed("on_message", error)
                buffer._data = None
                if pos == n:
                    return
        if n > MAY_INFLATE and connection.deflate is not None and context.receiving.full:
            connection.put_aside(buf, pos, n)
            self._count_held(n, [])
            context.receiving.pause(self)
            return
        if pos == n > 0:  # the last message of the read is with a coroutine
            return
        events: list[Event] = []
        unfinished = connection._assembly is not None
        connection.receive(buf, n, events, pos)
        pending = False
        if unfinished or connection._assembly is not None:
            pending = connection.pending
            if pending:
                self._pause_reading()
            self._count_held(n, events)
        elif not context.inline and (
            connection.deflate is not None or (n >= LARGE and n >= context.receiving.worth_counting())
        ):
            self._count_held(n, events)
        if not events:
            if pending:
                context.loop.call_soon(self._resume_reading)
            return
        traffic.received += len(events)
        if context.inline and self._inbox is None:  # no lock: only this thread touches the inbox
            self._inbox = _RUNNING
            rest = self._deliver(events)
            if rest:
                self._end_began(rest)
                rest = self._answer_pings(rest)
            if self._flags & AWAITING:
                self._wait_for_coroutine(rest)
            elif rest or self._flags & INBOX_FULL:
                self._go_on(rest)
            else:
                self._inbox = None
            return
        for event in events:
            if event[0] >= CLOSE:
                self._end_began(events)
                events = self._answer_pings(events)
                break
        if events:
            self._enqueue(events)
        elif pending:
            context.loop.call_soon(self._resume_reading)

    def _go_on(self, rest: list[Event]) -> None:
        """Put back events for which the outgoing queue is too full, or resume reading. Only where callbacks run
        inline."""
        self._inbox = []
        if not rest or not self._hold(rest):
            self.run()

    def eof_received(self) -> None:
        """Note that the peer half-closed: it sends nothing more."""
        if DEBUG:
            self.context.loop.check_thread()
        if self.handler is None:
            self.stream.close()
        else:
            self._enqueue([(HALF_CLOSED, None)])

    def drained(self) -> None:
        """Go on, for the outgoing queue fell to the low-water mark."""
        if DEBUG:
            self.context.loop.check_thread()
        overflow = self.context.overflow
        with self.stream.lock:
            held = self._flags & HELD
            self._flags &= ~HELD
            if self in overflow.backlogs:
                overflow.release_locked(self, min(self.low_water, FRESH))
        overflow.wake(self)
        if self.handler is not None and self._overrides("on_drain"):
            self._enqueue([(DRAINED, None)])
        if held:
            self._submit()

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the stream is gone, for whatever reason. The last call of all."""
        if DEBUG:
            self.context.loop.check_thread()
        if self.connection.pending and self.handler is not None:
            self._take_rest()
        self.connection.receive_eof()
        self.context.receiving.lost(self)
        overflow = self.context.overflow
        overflow.wake(self)
        with self.stream.lock:
            overflow.backlogs.pop(self, None)
            held = self._flags & HELD
            self._flags &= ~HELD
            if self.handler is None:
                self._flags |= LOST_EARLY
                return
            if self._inbox:  # it is counted even if it is little: peers that come and go could leave any number behind
                self._flags |= COUNTED
        self._enqueue([(STREAM_LOST, error)])
        if held:
            self._submit()

    def _take_rest(self) -> None:
        """Parse what was put aside, as far as it may wait for a handler: a peer that has gone sent it before."""
        events: list[Event] = []
        size, most = 0, self.context.options.max_message_size
        while self.connection.pending and len(events) < MAX_REST and size <= most:
            known = len(events)
            self.connection.receive(bytearray(), 0, events)
            size += self._size_of(events[known:])
        self.context.traffic.received += len(events)
        if events:
            self._enqueue(events)

    def blocked(self) -> None:
        """Start the write timeout, for the kernel took only a part of the queue."""
        self.arm()

    def deadline_reached(self) -> None:
        """Look at a connection whose deadline has come: close, heartbeat, read or write timeout (see heartbeat.py)."""
        if DEBUG:
            self.context.loop.check_thread()
        stream, context = self.stream, self.context
        if self.connection.state is not ConnectionState.OPEN:
            if self._flags & LEAVING:
                close_timeout = context.options.close_timeout
                if stream.loop.progress.is_fast_enough(stream, close_timeout):
                    stream.set_deadline(close_timeout)
                else:
                    stream.abort()
            else:  # the close has just begun, on another thread, and this deadline was set before
                self.arm()
            return
        if self.handler is None:
            logger.warning("%r was accepted but not served within %g s; closing it", self, SERVE_TIMEOUT)
            self.begin_close(CloseCode.INTERNAL_ERROR, "not served", CloseCause.UNSERVED)
            stream.close()
            return
        if self._flags & INBOX_FULL:  # we do not read, so the silence is ours, and no proof that the peer is dead
            stream.seen = stream.loop.ticks
        verdict, self._ping_tick = context.heartbeat.look(stream, self._ping_tick)
        if verdict == STALLED:
            self._give_up("write timeout: the peer does not read", CloseCause.SLOW)
        elif verdict == SILENT:
            self.begin_close(CloseCode.GOING_AWAY, "read timeout", CloseCause.IDLE)
        elif verdict == DEAD:
            self._give_up("ping timeout: nothing came from the peer", CloseCause.IDLE)
        else:
            if verdict == SEND_PING:
                with stream.lock:
                    if self.connection.state is ConnectionState.OPEN:  # still
                        stream.write_locked(self.connection.encode_ping(b""))
            self.arm()

    # ------------------------------------------------------------------ deadlines (loop thread)

    def arm(self) -> None:
        """Set the stream's deadline to the next moment at which there is something to look at."""
        if DEBUG:
            self.context.loop.check_thread()
        stream, context = self.stream, self.context
        if self.connection.state is not ConnectionState.OPEN:
            if stream.closed:  # which bounds what is left to do by itself
                return
            with stream.lock:
                self._flags |= LEAVING
            stream.loop.progress.begin_close(stream)
            stream.set_deadline(context.options.close_timeout)
        elif self.handler is None:
            stream.set_deadline(SERVE_TIMEOUT)
        else:
            stream.set_deadline(context.heartbeat.next_look(stream, self._ping_tick))

    def _give_up(self, reason: str, cause: CloseCause) -> None:
        """Reset a connection whose peer would not answer a close frame."""
        self._blame(cause)
        self.connection.receive_eof()
        self.connection.close_reason = reason
        self.stream.abort()

    # ------------------------------------------------------------------ beginning and reading

    def begin(self, handler: Handler) -> None:
        """Attach the handler and begin delivery. Any thread; once."""
        callbacks = callbacks_of(handler)
        if callbacks.any_async:
            coroutines_of(self.context.loop)  # raises where there can be none
        with self.stream.lock:
            if self.handler is not None:
                raise UsageError("this connection is served already")
            early, self._inbox = self._inbox, [(OPENED, None)]
            if self._flags & LOST_EARLY or self.stream.closed:
                self.connection.end()
                self._inbox.append((STREAM_LOST, None))
            if hasattr(handler, "on_chunk"):
                self.connection.config = self.context.chunk_config
            if handler.inline or callbacks.in_loop:
                self.context = self.context.inlined()
            self.handler = handler
            self._flags &= ~UNSERVED
            size, fresh = self.context.options.send_buffer, self.context.mark < 0
            if (fresh or size is not None) and self.stream.sock is not None:
                self.context.loop.sockets.limit_sending(self.stream.sock, size, fresh=fresh)
        self._submit()
        self.context.loop.call_soon(self._begun, early)

    def _begun(self, early: list[Event] | None) -> None:
        """Start the heartbeat, and parse the bytes that came before the handler was attached. Loop thread."""
        if DEBUG:
            self.context.loop.check_thread()
        if self.stream.closed:
            return
        self.context.heartbeat.begin(self.stream)
        self.arm()
        if early:
            for _, data in early:
                self.data_received(bytearray(data), len(data))
            self._resume_reading()

    def _stash(self, buf: bytearray | bytes, n: int) -> bool:
        """Keep bytes that came before `serve`, and read no more until there is a handler. Return whether they were
        kept."""
        with self.stream.lock:
            if self.handler is not None:
                return False
            self._inbox = [*(self._inbox or ()), (CHUNK, bytes(memoryview(buf)[:n]))]
        self.stream.pause_reading()
        return True

    def _resume_reading(self) -> None:
        """Parse what was kept aside, then read on: the inbox is empty again. Loop thread."""
        if DEBUG:
            self.context.loop.check_thread()
        if self.stream.closed or self.context.receiving.holds_off(self):
            return
        with self.stream.lock:
            if self._inbox is not None:
                self._flags |= INBOX_FULL  # the task that runs comes here when it ends
                return
            self._flags &= ~INBOX_FULL
        if self.connection.pending:
            self.data_received(bytearray(), 0)
        # a task that ran in the loop may have ended, and taken the flag away, with more to parse: it comes here again
        if not self._flags & INBOX_FULL and not self.connection.pending:
            self.stream.resume_reading()

    # ------------------------------------------------------------------ what is held of what came (loop thread)

    def _count_held(self, n: int, events: list[Event]) -> None:
        """Count, after `n` bytes came, what is unfinished, and the events that wait for the handler, unless it is
        little."""
        context, connection = self.context, self.connection
        receiving = context.receiving
        if connection._assembly is None:
            receiving.ended(self)
        elif context.options.message_timeout is not None and not connection.config.chunked:
            head = SMALL_HEAD if connection.config.masked else 2
            for kind, value in events:
                if kind == PING or kind == PONG:  # they may come between fragments, and bring the message no further
                    n -= head + len(value)
            receiving.came(self, n)
        unfinished = connection.held()
        size = self._size_of(events) if not context.inline else 0
        if unfinished + size >= SMALL or self._flags & COUNTED:
            with self.stream.lock:
                self._flags |= COUNTED
            if not receiving.note(self, unfinished, size):
                with self.stream.lock:
                    self._flags &= ~COUNTED

    @property
    def message_timeout(self) -> float | None:
        """Seconds within which an unfinished message has to get on."""
        return self.context.options.message_timeout

    @property
    def unread(self) -> bool:
        """Return whether we do not read, so that the peer is not to blame."""
        return self._flags & INBOX_FULL != 0 or self.context.receiving.holds_off(self)

    def held(self) -> int:
        """Return the bytes that are held of what is unfinished."""
        return self.connection.held()
