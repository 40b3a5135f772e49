"""BlockingWebSocket: a connection that is read with `recv()` instead of a handler."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Hashable
from types import TracebackType
from typing import Any

from gows.client.opening import IN_ORDER, closed_error, refuse_in_loop
from gows.codes import CloseCode
from gows.debug import DEBUG, check_owned
from gows.errors import ConnectionClosedError, ReceiveTimeoutError
from gows.options import check_seconds
from gows.protocol.connection import Connection
from gows.protocol.states import BINARY, TEXT
from gows.reactor.stream import Stream
from gows.reactor.workers import stepping_aside
from gows.session.context import SessionContext
from gows.session.policy import may_wait_locked
from gows.session.states import INBOX_FULL, Event
from gows.session.websocket import WebSocket

_GRACE = 1.0
"""Seconds beyond the close timeout, after which the loop has given up by itself if it is running."""


class BlockingWebSocket(WebSocket):
    """What `gows.connect(url)` returns: a WebSocket whose messages are fetched with `recv()`, or by iterating.

        with gows.connect("ws://localhost:8080/ws") as ws:
            ws.write_string("hello")
            print(ws.recv(timeout=5))

    Every method may be called from every thread, but `recv` and leaving the `with` block wait, so they must not be
    called in a loop's own thread. Messages that nobody fetches are kept up to `AcceptOptions.inbox_messages` or
    `max_message_size` bytes (and what one read brought beyond); then the socket is not read any more until they are.
    The peer's close takes its turn behind them. Writing waits while the outgoing queue is over the high-water mark,
    for as long as the write timeout lets it.

    No worker of the pool takes part, so that workers may use it, all of them at once; while one waits, another thread
    takes its place.
    """

    # What comes in: the loop puts events in the session's inbox. `_advance` is this session's task. It takes them from
    # there to `_events`, deals with all that comes before the next message, and then leaves the inbox taken: for the
    # session a task that is still running, so that a full inbox stops the reading. `recv` takes the message; the next
    # `recv` goes on with `_advance`: until then the message may be answered, even if the peer's close frame came right
    # behind it. Order of locks: `_turn`, then `stream.lock`.

    __slots__ = ("_dropping", "_events", "_gone", "_handed", "_turn")

    def __init__(
        self,
        stream: Stream,
        connection: Connection,
        context: SessionContext,
        subprotocol: str | None = None,
        request: object = None,
    ) -> None:
        # else the session would hand messages to the handler itself
        if not isinstance(context, SessionContext):
            raise TypeError("a BlockingWebSocket is made by gows.connect")
        super().__init__(stream, connection, context.in_workers(), subprotocol, request)
        self._events: deque[Event] = deque()
        self._turn = threading.Condition()
        self._handed = False  # the last message was taken, and `_advance` has not gone on since
        self._dropping = False  # messages are thrown away: the user has left the with block
        self._gone = False  # the last event was dealt with

    # ------------------------------------------------------------------ receiving

    def recv(self, timeout: float | None = None) -> str | bytes:
        """Return the next message: a str for TEXT, bytes for BINARY. Waits up to `timeout` seconds (None: as long as it
        takes).

        Raises ReceiveTimeoutError when none came in time, ConnectionClosedError (with `code` and `reason`) when there
        will be none.
        """
        if timeout is not None and timeout != 0:
            check_seconds("timeout", timeout)
        refuse_in_loop(self.context.loop, "recv()")
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._turn:
            while True:
                if self._handed:
                    self._advance()
                if self._events:
                    break
                if self._gone:
                    raise closed_error(self)
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise ReceiveTimeoutError(f"no message came within {timeout:g} s")
                with stepping_aside():
                    self._turn.wait(remaining)
            kind, buff = self._events.popleft()
            self._handed = True
            self._turn.notify()  # another receiver goes on
        message: str | bytes = buff.get_string() if kind == TEXT else buff.clone_bytes()
        buff.release()
        return message

    def __iter__(self) -> BlockingWebSocket:
        return self

    def __next__(self) -> str | bytes:
        """Return the next message; end after a close with 1000, 1001 or without a code, raises ConnectionClosedError
        after any other end."""
        try:
            return self.recv()
        except ConnectionClosedError as error:
            if error.code in IN_ORDER:
                raise StopIteration from None
            raise

    # ------------------------------------------------------------------ the task

    def _submit(self) -> None:
        """Deal with the events that wait, as far as no message is among them. Loop thread."""
        with self._turn:
            self._advance()

    def _advance(self) -> None:
        """Deal with all that comes before the next message. With `_turn` held."""
        events, lock = self._events, self.stream.lock
        self._handed = False
        while True:
            while events:
                kind, value = events[0]
                if kind != TEXT and kind != BINARY:
                    events.popleft()
                    self._deliver_other(kind, value)
                elif self._dropping:
                    events.popleft()
                    value.release()
                else:
                    self._turn.notify()
                    return
            with lock:
                full = self._flags & INBOX_FULL
                taken = self.take_events_locked()
            if not taken:
                break
            events.extend(taken)
        if full:
            self.context.loop.call_soon(self._resume_reading)

    def _finish(self) -> None:
        """Note that the connection has ended, and that all that came is dealt with. With `_turn` held."""
        super()._finish()
        self._gone = True
        self._turn.notify_all()

    # ------------------------------------------------------------------ writing

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
        """Wait until there is room for a message in a queue that is over the high-water mark, instead of applying a
        policy. Nothing says when the message ends that `deferred` ones wait for, so for those the policy is applied."""
        if DEBUG:
            check_owned(self.stream.lock)
        stream = self.stream
        stream.flush_locked()
        if deferred or not wait or not may_wait_locked(stream):
            return super().make_room_locked(opcode, data, compress, key, deferred, expires, wait=False)
        while stream.queued > self.context.high_water and not stream.closed:
            # all may go out in the next send, and then `drained` is called only if it is owed
            stream.owe_drained_locked()
            stream.lock.release()
            try:
                with self._turn, stepping_aside():
                    self._turn.wait_for(self._has_room)
            finally:
                stream.lock.acquire()
        return True

    def _has_room(self) -> bool:
        return self.stream.queued <= self.low_water or self.stream.closed

    def drained(self) -> None:
        """Wake the threads that wait for room: the outgoing queue fell to the low-water mark."""
        super().drained()
        with self._turn:
            self._turn.notify_all()

    def connection_lost(self, error: Exception | None) -> None:
        """Wake the threads that wait: the stream is gone."""
        super().connection_lost(error)
        with self._turn:
            self._turn.notify_all()

    # ------------------------------------------------------------------ the end

    def drop_messages(self) -> None:
        """Throw away what came and what comes, so that the peer's close has its turn. Any thread."""
        with self._turn:
            self._dropping = True
            if self._events or self._handed:
                self._advance()

    def __enter__(self) -> BlockingWebSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close with 1000, or with 1011 when the block raised; wait for the peer's answer, at most the close timeout
        after the peer took the last of what was written."""
        self.begin_close(CloseCode.NORMAL_CLOSURE if kind is None else CloseCode.INTERNAL_ERROR, "")
        refuse_in_loop(self.context.loop, "leaving the with block")
        self.drop_messages()
        left = self.stream.untaken()
        with self._turn, stepping_aside():
            while not self._turn.wait_for(lambda: self._gone, self.context.options.close_timeout + _GRACE):
                before, left = left, self.stream.untaken()
                if left >= before:  # the loop was stopped before its own deadline came
                    self.close()
                    break
