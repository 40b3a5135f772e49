"""Session: the one meeting place of Stream, Connection and Handler.

Who touches what:

- The loop thread calls the observer methods (`data_received` …) and is the only one that parses.
- The inbox is None when nothing waits and no task runs. Otherwise it is the list of events that wait, and exactly
  one task
  is submitted, running, or held back by a full outgoing queue. It changes under `stream.lock` only.
- Everything that sends encodes and queues in one step under `stream.lock`, so frames of several threads never
  interleave.

What arrived before a fault or a close is handled and answered first, because close, fault and loss travel through the
inbox like messages. Only pings are answered ahead, by the loop: a busy handler must not look like a dead peer.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, cast

from gows.codes import CloseCause, CloseCode, Opcode
from gows.debug import DEBUG, check_owned, check_unlocked
from gows.errors import ConnectionClosedError, ProtocolError, QueueFullError, UsageError
from gows.protocol.connection import Connection, ConnectionState, Role
from gows.protocol.prepared import PreparedMessage
from gows.protocol.states import BINARY, CHUNK, CLOSE, FAIL, PING, PONG, TEXT
from gows.reactor.sockets import FRESH
from gows.session.context import SessionContext
from gows.session.handler import Handler, check_handler
from gows.session.heartbeat import DEAD, MAX_QUEUED_PONGS, SEND_PING, SILENT, STALLED
from gows.session.receiving import EVENT_SIZE, SMALL, ReceiveError
from gows.session.states import (
    COUNTED,
    DISMISS,
    DISMISSED,
    DRAINED,
    FINISHED,
    HALF_CLOSED,
    HELD,
    INBOX_FULL,
    LEAVING,
    LOST,
    LOST_EARLY,
    MUTED,
    OPENED,
    PONG_UNIT,
    SPECIAL,
    UNSERVED,
    Event,
)
from gows.session.writer import MessageWriter

if TYPE_CHECKING:
    from gows.reactor.stream import Stream

logger = logging.getLogger("gows")

_OPCODES = (Opcode.CONTINUE, Opcode.TEXT, Opcode.BINARY)

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
LARGE = 16384
"""Bytes of a read from which on it is worth counting what it leaves waiting."""


def _event_size(event: Event) -> int:
    """Return the bytes that an event takes, about."""
    kind, value = event
    if kind == TEXT or kind == BINARY:
        return len(value) + EVENT_SIZE
    return len(value[2]) + EVENT_SIZE if kind == CHUNK else EVENT_SIZE


def _raise(error: BaseException) -> None:
    raise error


class Session:
    """The engine's side of one connection, an Observer of its stream; `WebSocket` adds the user's side. Nothing here is
    called by users."""

    __slots__ = (
        "_cause",
        "_flags",
        "_inbox",
        "_ping_tick",
        "_request",
        "_subprotocol",
        "_writer",
        "connection",
        "context",
        "handler",
        "stream",
    )

    def __init__(
        self,
        stream: Stream,
        connection: Connection,
        context: SessionContext,
        subprotocol: str | None = None,
        request: object = None,
    ) -> None:
        self.stream = stream
        self.connection = connection
        self.context = context
        self.handler: Handler | None = None
        self._subprotocol = subprotocol
        self._request = request
        self._inbox: list[Event] | None = None
        self._flags = UNSERVED
        self._cause: CloseCause | None = None  # the first that made it end
        self._ping_tick = 0  # the tick of a heartbeat ping that may still be unanswered; 0 for none
        self._writer: MessageWriter | None = None
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
        """An outgoing connection is made; by the time that there is a session it has been so for long."""

    def data_received(self, buf: bytearray, n: int) -> None:
        """`buf[:n]` came in; it is the loop's scratch buffer and valid until this returns."""
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
                opcode = _OPCODES[buf[pos] & 0x0F]
                pos += SMALL_HEAD + len(buffer._data)  # type: ignore[arg-type]
                try:
                    on_message(self, opcode, buffer)  # type: ignore[arg-type]
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
        events: list[Event] = []
        unfinished = connection._assembly is not None
        connection.receive(buf, n, events, pos)
        pending = False
        if unfinished or connection._assembly is not None:
            pending = connection.pending
            if pending:
                self._pause_reading()
            self._count_held(n, events)
        elif n >= LARGE or (connection.deflate is not None and not context.inline):
            self._count_held(n, events)
        if not events:
            if pending:
                context.loop.call_soon(self._resume_reading)
            return
        traffic.received += len(events)
        if not context.inline:
            for event in events:
                if event[0] >= CLOSE:
                    self._end_began(events)
                    events = self._answer_pings(events)
                    break
        elif self._inbox is None:  # no lock: only this thread touches the inbox
            self._inbox = _RUNNING
            rest = self._deliver(events)
            if rest:
                self._end_began(rest)
            if rest or self._flags & INBOX_FULL:
                self._go_on(rest)
            else:
                self._inbox = None
            return
        else:
            self._end_began(events)
        if events:
            self._enqueue(events)
        elif pending:
            context.loop.call_soon(self._resume_reading)

    def _go_on(self, rest: list[Event]) -> None:
        """Inline: the outgoing queue is too full for some events, or reading has to be resumed."""
        self._inbox = []
        if rest:
            self._count_held(0, rest, waiting=True)
        if not rest or not self._hold(rest):
            self.run()

    def _end_began(self, events: list[Event]) -> None:
        """The peer's close frame or fault is not handled at once: the time that a close may take begins, instead of
        whatever deadline was set before."""
        if events[-1][0] == CLOSE or events[-1][0] == FAIL:
            self.arm()

    def eof_received(self) -> None:
        """The peer half-closed: it sends nothing more."""
        if DEBUG:
            self.context.loop.check_thread()
        if self.handler is None:
            self.stream.close()
        else:
            self._enqueue([(HALF_CLOSED, None)])

    def drained(self) -> None:
        """The outgoing queue fell to the low-water mark."""
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
        """The stream is gone, for whatever reason. Last call."""
        if DEBUG:
            self.context.loop.check_thread()
        if self.connection.pending and self.handler is not None:
            self._take_rest()
        self.connection.receive_eof()
        self.context.receiving.forget(self)
        overflow = self.context.overflow
        overflow.wake(self)
        with self.stream.lock:
            overflow.backlogs.pop(self, None)
            held = self._flags & HELD
            self._flags &= ~HELD
            if self.handler is None:
                self._flags |= LOST_EARLY
                return
        self._enqueue([(LOST, error)])
        if held:
            self._submit()

    def _take_rest(self) -> None:
        """Parse what was put aside, as far as it may wait for a handler: a peer that has gone sent it before."""
        events: list[Event] = []
        size, most = 0, self.context.options.max_message_size
        while self.connection.pending and len(events) < MAX_REST and size <= most:
            known = len(events)
            self.connection.receive(bytearray(), 0, events)
            size += sum(map(_event_size, events[known:]))
        self.context.traffic.received += len(events)
        if events:
            self._enqueue(events)

    def blocked(self) -> None:
        """The kernel took only a part of the queue: the write timeout runs."""
        self.arm()

    def deadline_reached(self) -> None:
        """The stream's one deadline: close handshake, heartbeat, read or write timeout (see heartbeat.py)."""
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
        """The peer is beyond a close handshake."""
        self._blame(cause)
        self.connection.receive_eof()
        self.connection.close_reason = reason
        self.stream.abort()

    # ------------------------------------------------------------------ beginning and reading

    def begin(self, handler: Handler) -> None:
        """Attach the handler and begin delivery. Any thread; once."""
        check_handler(handler)
        with self.stream.lock:
            if self.handler is not None:
                raise UsageError("this connection is served already")
            early, self._inbox = self._inbox, [(OPENED, None)]
            if self._flags & LOST_EARLY or self.stream.closed:
                self.connection.end()
                self._inbox.append((LOST, None))
            if hasattr(handler, "on_chunk"):
                self.connection.config = self.context.chunked
            if handler.inline:
                self.context = self.context.inlined()
            self.handler = handler
            self._flags &= ~UNSERVED
            size, fresh = self.context.options.send_buffer, self.context.mark < 0
            if (fresh or size is not None) and self.stream.sock is not None:
                self.context.loop.sockets.limit_sending(self.stream.sock, size, fresh=fresh)
        self._submit()
        self.context.loop.call_soon(self._begun, early)

    def _begun(self, early: list[Event] | None) -> None:
        """Loop thread: the heartbeat starts, and bytes that came before the handler are parsed."""
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
        """Bytes before `serve`: keep one read of them, and read no more until there is a handler."""
        with self.stream.lock:
            if self.handler is not None:
                return False
            self._inbox = [*(self._inbox or ()), (CHUNK, bytes(memoryview(buf)[:n]))]
        self.stream.pause_reading()
        return True

    def _pause_reading(self) -> None:
        with self.stream.lock:
            self._flags |= INBOX_FULL
        self.stream.pause_reading()

    def _resume_reading(self) -> None:
        """Loop thread: the inbox is empty again; parse what was kept aside, then read on."""
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

    def _count_held(self, n: int, events: list[Event], waiting: bool = False) -> None:
        """After `n` bytes came: count what is unfinished, and the events that wait for the handler, unless it is
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
        size = sum(map(_event_size, events)) if waiting or not context.inline else 0
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
        """Whether it is we who do not read."""
        return self._flags & INBOX_FULL != 0 or self.context.receiving.holds_off(self)

    def held(self) -> int:
        """Return the bytes that are held of what is unfinished."""
        return self.connection.held()

    def hold_off(self) -> None:
        """Read no more until `read_on`: too much is held."""
        self._pause_reading()

    def read_on(self) -> None:
        """Read on, for there is room."""
        self._resume_reading()

    def give_way(self, error: ReceiveError) -> None:
        """Throw away what is unfinished, and end as for a fault of the peer's."""
        if DEBUG:
            self.context.loop.check_thread()
        events: list[Event] = []
        self.connection.fail(error, events)
        self.context.receiving.note(self, 0, 0)
        self._end_began(events)
        self._enqueue(events)

    # ------------------------------------------------------------------ inbox

    def _answer_pings(self, events: list[Event]) -> list[Event]:
        """Loop thread: pongs go out ahead of what the handler still has to do; returns what the handler is to hear."""
        return [event for event in events if event[0] != PING or self._pinged(event[1])]

    def _pinged(self, data: bytes) -> bool:
        """Answer a ping at once; whether the handler wants to hear of it."""
        stream = self.stream
        with stream.lock:
            if not stream.queued:
                self._flags &= PONG_UNIT - 1
            if self._flags < MAX_QUEUED_PONGS * PONG_UNIT and self.connection.state is ConnectionState.OPEN:
                self._flags += PONG_UNIT
                stream.write_locked(self.connection.encode_pong(data))
        return self._overrides("on_ping")

    def _overrides(self, name: str) -> bool:
        """Whether the handler wants to hear of something."""
        handler = self.handler
        return getattr(type(handler), name) is not getattr(Handler, name) or name in getattr(handler, "__dict__", ())

    def _enqueue(self, events: list[Event]) -> None:
        """Loop thread: put events in the inbox, and see to it that a task runs."""
        lock = self.stream.lock
        lock.acquire()
        inbox = self._inbox
        if inbox is None:
            self._inbox = events
            lock.release()
            self._submit()
            return
        inbox.extend(events)
        full = not self._flags & INBOX_FULL and self._overfull_locked(
            inbox
        )  # the lock keeps the task from giving buffers back
        if full:
            self._flags |= INBOX_FULL
        lock.release()
        if full:
            self.stream.pause_reading()

    def _overfull_locked(self, inbox: list[Event]) -> bool:
        """Return whether so much waits that reading has to pause."""
        if DEBUG:
            check_owned(self.stream.lock)
        options = self.context.options
        if len(inbox) >= options.inbox_messages:
            return True
        waiting = 0
        for kind, value in inbox:
            if kind == TEXT or kind == BINARY:
                waiting += len(value)
            elif kind == CHUNK:
                waiting += len(value[2])
        return waiting > options.max_message_size

    def _submit(self) -> None:
        loop = self.context.loop
        if not self.context.inline:
            loop.pool.submit(self)
        elif loop.in_loop():
            self.run()
        else:
            loop.call_soon(self.run)

    def run(self) -> None:
        """The task: deliver what the inbox holds. On a worker, or in the loop for `workers=0`; never two at once."""
        stream = self.stream
        lock = stream.lock
        corked = not self.context.inline
        lock.acquire()
        if corked:
            stream.cork_locked()
        while True:
            full = self._flags & INBOX_FULL
            events = self.take_events_locked()
            if not events:
                break
            lock.release()
            rest = self._deliver(events)
            held = bool(rest) and self._hold(rest)
            lock.acquire()
            if held:  # `drained` submits the task again, and may have done so by now: the inbox is not ours any more
                full = 0
                break
        if corked:
            if self.context.loop.pool.tasks:  # there is more to do than to send
                stream.uncork_later_locked()
            else:
                stream.uncork_locked()
        lock.release()
        if full and not stream.closed:  # else the loop may be gone as well
            self.context.loop.call_soon(self._resume_reading)

    def take_events_locked(self) -> list[Event]:
        """Take all that waits for the task; if there is nothing, the task is over, and so is INBOX_FULL: reading has
        to be resumed if it was set."""
        if DEBUG:
            check_owned(self.stream.lock)
        events = self._inbox
        if events:
            if self._flags & COUNTED:
                self.context.receiving.took_locked(self)
            self._inbox = []
            return events
        self._inbox = None
        self._flags &= ~INBOX_FULL
        if self._flags & COUNTED and not self.context.receiving.emptied_locked(self):
            self._flags &= ~COUNTED
        return []

    def stalled(self) -> None:
        """The pool found this task still running at its second look: what it wrote must not wait for its end."""
        self.stream.uncork()

    def _hold(self, rest: list[Event]) -> bool:
        """Put events back; True when they have to wait until the outgoing queue has drained."""
        stream = self.stream
        with stream.lock:
            stream.flush_locked()
            self._inbox = rest + (self._inbox or [])
            if stream.queued <= self.context.high_water or stream.closed:
                return False
            self._flags |= HELD
            if self._flags & COUNTED:
                self.context.receiving.put_back_locked(self)
            stream.owe_drained_locked()  # all may go out in the next send, which by itself tells nobody
            return True

    # ------------------------------------------------------------------ callbacks (worker, or the loop when inline)

    def _deliver(self, events: list[Event]) -> list[Event]:
        """Run the callbacks of `events` in order; returns those for which the outgoing queue is too full."""
        if self._flags & (MUTED | FINISHED):
            return self._deliver_muted(events)
        stream, high_water = self.stream, self.context.high_water
        if stream.queued > high_water and not stream.closed:
            return events
        if DEBUG:
            check_unlocked("call on_message")
        on_message = self.handler.on_message  # type: ignore[union-attr]
        waiting = iter(events)
        for kind, value in waiting:
            if kind == TEXT or kind == BINARY:
                try:
                    on_message(self, _OPCODES[kind], value)  # type: ignore[arg-type]
                except BaseException as error:
                    self._callback_failed("on_message", error)
                    value.release()
                    return self._deliver_muted(list(waiting))
                buffer = value
                if buffer._pool is None:
                    buffer._data = None  # what release() would do, without the call
                else:
                    buffer.release()
            else:
                self._deliver_other(kind, value)
                if self._flags & MUTED:
                    return self._deliver_muted(list(waiting))
            if stream.queued > high_water:
                return list(waiting)
        return []

    def _deliver_muted(self, events: list[Event]) -> list[Event]:
        """After a callback raised: messages are dropped, but how the connection ends is still to be found out."""
        for kind, value in events:
            if kind == TEXT or kind == BINARY:
                value.release()
            else:
                self._deliver_other(kind, value)
        return []

    def _deliver_other(self, kind: int, value: Any) -> None:
        if kind == CLOSE:
            self._peer_closed(*value)
        elif kind == FAIL:
            self._peer_failed(value)
        elif kind == HALF_CLOSED:
            self.connection.end()
            self.stream.close()
            self._finish()
        elif kind == LOST:
            self._finish()
        elif kind == OPENED:
            self._call("on_open")
            if not self.context.options.keep_request:
                self._request = None
        elif kind == CHUNK:
            opcode, fin, buff = value
            self._call("on_chunk", _OPCODES[opcode], fin, buff)
            buff.release()
        elif kind == DRAINED:
            self._call("on_drain")
        elif kind == DISMISS:
            self.begin_close(*value)
        elif kind == PONG:
            self._call("on_pong", value)
        elif not self.context.inline or self._pinged(value):
            self._call("on_ping", value)

    def _call(self, name: str, *args: Any) -> None:
        if self._flags & (MUTED | FINISHED):
            return
        if DEBUG:
            check_unlocked(f"call {name}")
        callback: Callable[..., None] = getattr(self.handler, name)
        try:
            callback(self, *args)
        except BaseException as error:
            self._callback_failed(name, error)

    def _callback_failed(self, name: str, error: BaseException) -> None:
        """The user's fault: say so, deliver no more, and tell the peer no details (RFC 6455 §7.4.1: 1011). Whatever it
        is: SystemExit would end a worker, or the loop, and say nothing."""
        if isinstance(error, ConnectionClosedError) and self.connection.state is not ConnectionState.OPEN:
            logger.debug("%s of %r wrote after the connection had closed", name, self)  # nobody's fault: a race
        else:
            logger.error("%s of %r raised; closing the connection with 1011", name, self, exc_info=error)
        with self.stream.lock:
            self._flags |= MUTED
        self.begin_close(CloseCode.INTERNAL_ERROR, "", CloseCause.HANDLER_ERROR)
        self._pass_on(error)

    def _pass_on(self, error: BaseException) -> None:
        """Ctrl-C in a main thread that runs the loop is meant for the program: it ends the loop's run, soon."""
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            self.context.loop.call_soon(_raise, error)

    # ------------------------------------------------------------------ closing

    def _blame(self, cause: CloseCause) -> None:
        """What made the connection end: the first to say so is right."""
        if self._cause is None:
            self._cause = cause

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

    def dismiss(self, code: int, reason: str, cause: CloseCause) -> None:
        """`begin_close`, but what the peer has sent before is handled and answered first. Loop thread; once."""
        if DEBUG:
            self.context.loop.check_thread()
        with self.stream.lock:
            self._flags |= DISMISSED
            unserved = self.handler is None
            waits = self._inbox is not None and not unserved
            if waits:
                self._inbox.append((DISMISS, (code, reason, cause)))  # type: ignore[union-attr]
        if not waits:  # and nothing comes in between: that is the loop's doing, too
            self.begin_close(code, reason, cause)
        if unserved:  # nobody would read the answer
            self.stream.close()

    @property
    def dismissed(self) -> bool:
        """Whether `dismiss` was called."""
        return self._flags & DISMISSED != 0

    def _peer_closed(self, code: int, reason: str) -> None:
        """The peer's close frame, in its turn: answer it with its code and reason, unless it is itself the answer
        (RFC 6455 §5.5.1)."""
        self._blame(CloseCause.PEER)
        with self.stream.lock:
            if self.connection.state is ConnectionState.CLOSE_RECEIVED:
                self.stream.write_locked(self.connection.encode_close(code, reason))
                self.stream.flush_locked()  # at once: on_close may be the sign for the process to end
        if self.context.role is Role.SERVER:
            self.stream.close()
        else:  # the server closes the TCP connection first, so that TIME_WAIT is its (§7.1.1)
            self.context.loop.call_soon(self.arm)
        self._finish()

    def _peer_failed(self, error: ProtocolError) -> None:
        """The peer broke the protocol: tell it, and read no more (RFC 6455 §7.1.7)."""
        self._blame(error.cause)
        with self.stream.lock:
            if self.connection.state is ConnectionState.FAILED:
                self.stream.write_locked(self.connection.encode_close(error.close_code, error.reason))
                self.stream.flush_locked()
        self.connection.close_code, self.connection.close_reason = error.close_code, error.reason
        self.stream.close()
        self._finish()

    def _finish(self) -> None:
        """on_close: exactly once, after everything else."""
        with self.stream.lock:
            if self._flags & FINISHED:
                return
            self._flags |= FINISHED
        if DEBUG:
            check_unlocked("call on_close")
        self._blame(CloseCause.LOST)
        assert self._cause is not None
        self.context.traffic.ended(self.connection.close_code or CloseCode.ABNORMAL_CLOSURE, self._cause._name_.lower())
        try:
            self.handler.on_close(self)  # type: ignore[union-attr, arg-type]
        except BaseException as error:
            logger.exception("on_close of %r raised", self)
            self._pass_on(error)

    # ------------------------------------------------------------------ outgoing queue

    def send_prepared(self, message: PreparedMessage) -> bool:
        """Queue a message that is made for many; whether it was. The overflow policy decides as for any other, but
        nothing is raised, and nobody waits: who is closed, or too slow, does not get it. Any thread."""
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

    def send_text(self, text: str) -> bool:
        """Queue a text message of the engine's own. Raises as `WebSocket.write_string`, but never waits: the policy
        "block" refuses, with QueueFullError. False: the policy dropped it. Any thread, whatever locks it has."""
        stream, data = self.stream, text.encode()
        with stream.lock:
            if stream.queued > self.context.mark and not self.make_room_locked(TEXT, data, wait=False):
                return self in self.context.overflow.backlogs
            return self.queue_locked(TEXT, data, True)

    def end_writer_locked(self) -> None:
        """Forget the writer of a message in pieces, for it has ended."""
        if DEBUG:
            check_owned(self.stream.lock)
        self._writer = None

    def count_sent(self, frame: bytes) -> None:
        """A message goes out, the last part of it in `frame`."""
        size = len(frame)  # no call within an increment: other threads may have their turn after it
        traffic = self.context.traffic
        traffic.sent += 1
        traffic.sent_bytes += size

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
        """With the queue over `context.mark`: find out whether there is room for a message, and else apply the overflow
        policy (see `Policy.make_room_locked`)."""
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
