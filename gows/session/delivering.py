"""Delivering: the half of a session that calls the handler.

The inbox is None when nothing waits and no task runs. Otherwise it is the list of events that wait, and exactly one
task is submitted, running, or held back by a full outgoing queue (table: states.py). It changes under `stream.lock`.

A callback that is a coroutine runs in the loop's thread. While it waits for something (AWAITING) nothing is delivered:
the inbox is a list, and no task is submitted. Its end submits one.

What arrived before a fault or a close is handled and answered first, because close, fault and loss travel through the
inbox like messages. Only pings are answered ahead, by the loop: a busy handler must not look like a dead peer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any

from gows.codes import CloseCause, CloseCode
from gows.debug import DEBUG, check_owned, check_unlocked
from gows.errors import ConnectionClosedError, ProtocolError
from gows.protocol.connection import ConnectionState, Role
from gows.protocol.states import BINARY, CHUNK, CLOSE, FAIL, PING, PONG, TEXT
from gows.reactor.hosting import Coroutines, coroutines_of
from gows.session.handler import Handler, callbacks_of
from gows.session.heartbeat import MAX_QUEUED_PONGS
from gows.session.receiving import EVENT_SIZE, LARGE, SMALL, ReceiveError
from gows.session.sending import Sending
from gows.session.states import (
    AWAITING,
    COROUTINE,
    COUNTED,
    DISMISS,
    DISMISSED,
    DRAINED,
    FINISHED,
    HALF_CLOSED,
    HELD,
    INBOX_FULL,
    MUTED,
    OPCODES,
    OPENED,
    PINGED,
    PONG_UNIT,
    STREAM_LOST,
    UNSERVED,
    Event,
)

logger = logging.getLogger("gows")


def _raise(error: BaseException) -> None:
    raise error


class Delivering(Sending):
    """Calls the handler: the inbox of a session, and the task that empties it. `Session` fills the inbox."""

    __slots__ = ("_flags", "_inbox", "_request", "handler")

    def _init_delivering(self, request: object) -> None:
        """Set the fields of this class, likewise."""
        self.handler: Handler | None = None
        self._request = request
        self._inbox: list[Event] | None = None
        self._flags = UNSERVED

    # ------------------------------------------------------------------ inbox

    def _enqueue(self, events: list[Event]) -> None:
        """Put events in the inbox, and submit a task if there is none. Loop thread."""
        lock = self.stream.lock
        lock.acquire()
        inbox = self._inbox
        if inbox is None:
            self._inbox = events
            lock.release()
            self._submit()
            return
        inbox.extend(events)
        receiving = self.context.receiving
        size = self._size_of(inbox)
        over = full = False
        if size >= LARGE or self._flags & COUNTED:
            self._flags |= COUNTED
            over = receiving.waits_locked(self, size)
        if not self._flags & INBOX_FULL:
            options = self.context.options
            full = len(inbox) >= options.inbox_messages or size - EVENT_SIZE * len(inbox) > options.max_message_size
            if full:
                self._flags |= INBOX_FULL
        lock.release()
        if full:
            self.stream.pause_reading()
        if over and not self.stream.closed:
            receiving.pause(self)

    def _size_of(self, events: list[Event]) -> int:
        """Return the bytes that events take, about. Under `stream.lock` if they are in the inbox, which keeps the task
        from giving their buffers back."""
        size = EVENT_SIZE * len(events)
        for kind, value in events:
            if kind == TEXT or kind == BINARY:
                size += len(value)
            elif kind == CHUNK:
                size += len(value[2])
        return size

    def _submit(self) -> None:
        loop = self.context.loop
        if not self.context.inline:
            loop.pool.submit(self)
        elif loop.in_loop():
            self.run()
        else:
            loop.call_soon(self.run)

    def run(self) -> None:
        """Deliver what the inbox holds: this is the task. On a worker, or in the loop for `workers=0`; never two at
        once."""
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
            if self._flags & AWAITING:
                self._wait_for_coroutine(rest)
                lock.acquire()
                full = 0
                break
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

    def _wait_for_coroutine(self, rest: list[Event]) -> None:
        """Put events back that a coroutine has to end before. If it was not started yet, have the loop start it: from
        then on the inbox is its."""
        with self.stream.lock:
            inbox = self._inbox or []
            unstarted = len(inbox) > 0 and inbox[0][0] == COROUTINE
            self._inbox = inbox[:1] + rest + inbox[1:] if unstarted else rest + inbox
            size = self._size_of(self._inbox)
            if size >= LARGE or self._flags & COUNTED:
                self._flags |= COUNTED
                self.context.receiving.waits_locked(self, size)
        if unstarted:
            self.context.loop.call_soon(self._start_coroutine)

    def stalled(self) -> None:
        """Send what the task has written so far: the pool found it still running at its second look. Loop thread."""
        self.stream.uncork()

    def _hold(self, rest: list[Event]) -> bool:
        """Put events back. Return whether they have to wait until the outgoing queue has drained."""
        stream = self.stream
        with stream.lock:
            stream.flush_locked()
            self._inbox = rest + (self._inbox or [])
            if stream.queued <= self.context.high_water or stream.closed:
                return False
            self._flags |= HELD
            size = self._size_of(self._inbox)
            if size >= LARGE or self._flags & COUNTED:
                self._flags |= COUNTED
                self.context.receiving.put_back_locked(self, size)
            # all may go out in the next send, and then `drained` is called only if it is owed
            stream.owe_drained_locked()
            return True

    def _answer_pings(self, events: list[Event]) -> list[Event]:
        """Answer pings ahead of what the handler still has to do. Return the events for the handler. Loop thread."""
        left: list[Event] = []
        for event in events:
            if event[0] != PING:
                left.append(event)
            elif self._pinged(event[1]):
                left.append((PINGED, event[1]))
        return left

    def _pinged(self, data: bytes) -> bool:
        """Answer a ping at once. Return whether the handler has an `on_ping`."""
        stream = self.stream
        with stream.lock:
            if not stream.queued:
                self._flags &= PONG_UNIT - 1
            if self._flags < MAX_QUEUED_PONGS * PONG_UNIT and self.connection.state is ConnectionState.OPEN:
                self._flags += PONG_UNIT
                stream.write_locked(self.connection.encode_pong(data))
        return self._overrides("on_ping")

    def _overrides(self, name: str) -> bool:
        """Return whether the handler has a callback of its own, of this name."""
        handler = self.handler
        return getattr(type(handler), name) is not getattr(Handler, name) or name in getattr(handler, "__dict__", ())

    # ------------------------------------------------------------------ whether the peer is read from (loop thread)

    def _resume_reading(self) -> None:
        """Parse what was kept aside, then read on. Loop thread; the inbox is empty again."""
        raise NotImplementedError

    def _pause_reading(self) -> None:
        with self.stream.lock:
            self._flags |= INBOX_FULL
        self.stream.pause_reading()

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

    def _end_began(self, events: list[Event]) -> None:
        """Start the close timeout if the peer's close frame or fault is among `events`, which are not handled at
        once."""
        if events[-1][0] == CLOSE or events[-1][0] == FAIL:
            self.arm()

    # ------------------------------------------------------------------ callbacks (worker, or the loop when inline)

    def _deliver(self, events: list[Event]) -> list[Event]:
        """Run the callbacks of `events` in order. Return those for which the outgoing queue is too full."""
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
                    result = on_message(self, OPCODES[kind], value)  # type: ignore[arg-type]
                    if result is not None and self._awaits("on_message", result, value):
                        return list(waiting)
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
                if self._flags & AWAITING:
                    return list(waiting)
                if self._flags & MUTED:
                    return self._deliver_muted(list(waiting))
            if stream.queued > high_water:
                return list(waiting)
        return []

    def _deliver_muted(self, events: list[Event]) -> list[Event]:
        """Drop the messages of `events`, for a callback raised; deal with the others, which say how the connection
        ends."""
        waiting = iter(events)
        for kind, value in waiting:
            if kind == TEXT or kind == BINARY:
                value.release()
            else:
                self._deliver_other(kind, value)
                if self._flags & AWAITING:
                    return list(waiting)
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
        elif kind == STREAM_LOST:
            self._finish()
        elif kind == OPENED:
            if not self._call("on_open"):
                self._forget_request()
        elif kind == CHUNK:
            opcode, fin, buff = value
            if not self._call("on_chunk", OPCODES[opcode], fin, buff, lent=buff):
                buff.release()
        elif kind == DRAINED:
            self._call("on_drain")
        elif kind == DISMISS:
            self.begin_close(*value)
        elif kind == PONG:
            self._call("on_pong", value)
        elif kind == PINGED or self._pinged(value):
            self._call("on_ping", value)

    def _forget_request(self) -> None:
        """Let the request go, for on_open has ended."""
        if not self.context.options.keep_request:
            self._request = None

    def _call(self, name: str, *args: Any, lent: Any = None) -> bool:
        """Call a callback. Return whether it is a coroutine that has not ended; `lent` is released when it has."""
        if self._flags & (MUTED | FINISHED):
            return False
        if DEBUG:
            check_unlocked(f"call {name}")
        try:
            result = self._result_of(name, *args)
            return result is not None and self._awaits(name, result, lent)
        except BaseException as error:
            self._callback_failed(name, error)
        return False

    # ------------------------------------------------------------------ coroutines

    def _result_of(self, name: str, *args: Any) -> Any:
        """Call a callback; if it is a plain one that may block, and this is the loop's thread, return a coroutine that
        has a worker call it."""
        callback: Callable[..., Any] = getattr(self.handler, name)
        loop = self.context.loop
        inline = self.handler.inline  # type: ignore[union-attr]
        if self.context.inline and not (inline or loop.pool.inline) and name in callbacks_of(self.handler).offloaded:
            return coroutines_of(loop).offload(callback, self, *args)
        return callback(self, *args)

    def _awaits(self, name: str, result: Any, lent: Any) -> bool:
        """See to what a callback has returned, if it is a coroutine. Return whether it has not ended: then no other
        callback is called before it has. Raises what it raises."""
        if not isinstance(result, (CoroutineType, Coroutine)):
            return False  # what a plain function returns is nobody's concern
        loop = self.context.loop
        try:
            coroutines: Coroutines = coroutines_of(loop)
        except BaseException:
            result.close()
            raise
        size = 0 if lent is None or lent._data is None else len(lent)  # it may have been released
        if loop.in_loop():
            if coroutines.start(result, self, name, lent):
                return False
            with self.stream.lock:
                self._flags |= AWAITING
                if self._inbox is None:
                    self._inbox = []
                self._lend_locked(size)
        else:
            with self.stream.lock:
                self._flags |= AWAITING
                self._inbox = [(COROUTINE, (name, result, lent)), *(self._inbox or ())]
                self._lend_locked(size)
        return True

    def _lend_locked(self, size: int) -> None:
        """Have the message counted that a coroutine has, unless it is small: any number of them may wait."""
        if DEBUG:
            check_owned(self.stream.lock)
        if size >= SMALL or self._flags & COUNTED:
            self._flags |= COUNTED
            self.context.receiving.lent_locked(self, size)

    def _start_coroutine(self) -> None:
        """Start the coroutine that a callback has returned in a worker. Loop thread."""
        with self.stream.lock:
            (_, (name, coro, lent)), *self._inbox = self._inbox  # type: ignore[misc]
        try:
            ended = coroutines_of(self.context.loop).start(coro, self, name, lent)
        except BaseException as error:
            self.coroutine_ended(name, lent, error)
        else:
            if ended:
                self.coroutine_ended(name, lent, None)

    def coroutine_ended(self, name: str, lent: Any, error: BaseException | None) -> None:
        """Go on after a callback that was a coroutine. Loop thread."""
        if lent is not None:
            lent.release()
        if error is not None:
            if name == "on_close":
                self._log_on_close(error)
            else:
                self._callback_failed(name, error)
        if name == "on_open":
            self._forget_request()
        with self.stream.lock:
            self._flags &= ~AWAITING
        self._submit()

    def _callback_failed(self, name: str, error: BaseException) -> None:
        """Log what a callback raised, deliver no more messages, and close with 1011, without details (RFC 6455 §7.4.1).
        This is for every exception: SystemExit would end a worker, or the loop, without a word."""
        if isinstance(error, ConnectionClosedError) and self.connection.state is not ConnectionState.OPEN:
            logger.debug("%s of %r wrote after the connection had closed", name, self)  # a race, and no fault
        else:
            logger.error("%s of %r raised; closing the connection with 1011", name, self, exc_info=error)
        with self.stream.lock:
            self._flags |= MUTED
        self.begin_close(CloseCode.INTERNAL_ERROR, "", CloseCause.HANDLER_ERROR)
        self._pass_on(error)

    def _pass_on(self, error: BaseException) -> None:
        """Raise a KeyboardInterrupt out of the loop's run, if that is in the main thread: Ctrl-C is meant for the
        program."""
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            self.context.loop.call_soon(_raise, error)

    # ------------------------------------------------------------------ the end

    def dismiss(self, code: int, reason: str, cause: CloseCause) -> None:
        """Close as `begin_close` does, after what the peer has sent before is handled and answered. Loop thread;
        once."""
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
        if unserved:  # there is no handler that the answer could be for
            self.stream.close()

    @property
    def dismissed(self) -> bool:
        """Return whether `dismiss` was called."""
        return self._flags & DISMISSED != 0

    def _peer_closed(self, code: int, reason: str) -> None:
        """Answer the peer's close frame with its code and reason, unless it is itself the answer (RFC 6455 §5.5.1), and
        end."""
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
        """Send a close frame to a peer that broke the protocol, and read no more (RFC 6455 §7.1.7)."""
        self._blame(error.cause)
        with self.stream.lock:
            if self.connection.state is ConnectionState.FAILED:
                self.stream.write_locked(self.connection.encode_close(error.close_code, error.reason))
                self.stream.flush_locked()
        self.connection.close_code, self.connection.close_reason = error.close_code, error.reason
        self.stream.close()
        self._finish()

    def _finish(self) -> None:
        """Call on_close: exactly once, after everything else."""
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
            result = self._result_of("on_close")
            if result is not None:
                self._awaits("on_close", result, None)
        except BaseException as error:
            self._log_on_close(error)

    def _log_on_close(self, error: BaseException) -> None:
        """Log what on_close raised."""
        logger.error("on_close of %r raised", self, exc_info=error)
        self._pass_on(error)
