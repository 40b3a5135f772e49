"""Stream: one connection's bytes, in both directions.

Who may touch what:

- Reading, the deadline and the end belong to the loop's thread.
- Writing belongs to everybody: the queue and the state change under `lock`, one of the loop's striped locks. Nothing
  of an observer is ever called with the lock held, since the lock of another connection may be the same one.

Life of a stream, as bits of `_state` (see `states`):

    CONNECTING -> (attached) -> CLOSING -> ABORTED? -> LOST_REPORTED

A `close` or `abort` from any thread only marks the stream and hands it to the loop, which settles it at the end of a
turn, after the batch of events: so a descriptor's number cannot come back within a batch that still holds an event of
its former owner.

An orderly close sends what is queued, sends FIN, and then reads and throws away what the peer still sends until the
peer's FIN. Each of the two has its timeout, which begins again as long as the peer goes on taking what was sent, be it
from the queue or from the kernel's buffer (`Progress`). To close while bytes wait unread, or to receive some after
close, makes the kernel answer with RST, and RST destroys what the peer has not read yet, our last message among it
(RFC 1122 §4.2.2.13, RFC 9112 §9.6).

The file is long since the class is one: its states are one table, and methods of a compiled class call each other in C.
"""

from __future__ import annotations

import logging
import socket
import struct

from gows.debug import DEBUG, check_owned, check_unlocked
from gows.reactor.address import socket_address
from gows.reactor.interfaces import Observer, Sock, Transport
from gows.reactor.loop import BaseLoop
from gows.reactor.poller import ERROR, READ, WRITE
from gows.reactor.states import (
    ABORTED,
    BLOCKED,
    CLOSE_TIMER_SET,
    CLOSING,
    CONNECTING,
    CORKED,
    DIRTY,
    DRAIN_OWED,
    EOF_RECEIVED,
    FIN_QUEUED,
    FIN_SENT,
    LINGERING,
    LOST_REPORTED,
    NO_DATA,
    NO_LINGER,
    NO_SEND,
    NO_WRITE,
    PAUSED,
    RESET,
    SEND_FAILED,
    WATCHED,
    WILL_BE_SENT,
)
from gows.reactor.timers import TICKS_PER_SECOND

logger = logging.getLogger("gows")

CLOSE_TIMEOUT = 5.0
"""Seconds of an orderly close in which the peer must take a part of what is queued, or all (`MIN_RATE`)."""
LINGER_TIMEOUT = 2.0
"""Seconds to wait for the peer's FIN after ours; again while the peer takes what the kernel still holds."""
LINGER_BYTES = 1 << 20
"""Bytes thrown away in one such time; a peer that sends more is cut off."""

SEND_AT_ONCE = 512
"""Bytes queued while an observer was told of data, from which on they are sent right after it, not at the end of the
turn: they are still in the processor's cache, and their memory serves the next connection. Measured, compiled: 10 us
instead of 19 for an echo of 16 KiB, 9.0 instead of 10.3 for 1 KiB. Less can wait for what others may add."""
JOIN_SIZE = 65536
"""Small pieces are joined to about this size: one copy is cheaper than an iovec of many entries."""
SMALL_PIECE = 32768
"""A first piece of this size is sent without joining more to it: so each byte is copied at most twice, however slowly
it goes."""
MAX_PIECES = 64
"""Pieces handed to one sendmsg; below IOV_MAX everywhere."""

_RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with a time of 0: close(2) sends RST (socket(7))


class _NoObserver(Observer):
    """Takes the observer's place when all is over, so that stream and owner do not keep each other alive."""

    __slots__ = ()

    def data_received(self, buf: bytearray, n: int, /) -> None:
        """Do nothing: no stream of this observer reads."""


NO_OBSERVER = _NoObserver()


class Stream(Transport):
    """A connection of a loop. Made by listeners, `Loop.connect` and `Loop.adopt`, not by hand.

    Public attributes: `loop`; `observer`, the owner; `lock`, to be held around methods whose name ends in `_locked`;
    `queued`, the bytes that wait to be sent; `seen`, the loop's tick of the last byte that came in.
    """

    __slots__ = ("_out", "_progress", "_state", "lock", "loop", "queued", "seen")

    def __init__(self, loop: BaseLoop, sock: Sock | None, observer: Observer = NO_OBSERVER) -> None:
        self.loop = loop
        self.sock = sock
        self.observer = observer
        self.lock = loop.next_lock()
        self.seen = loop.ticks
        self.deadline = 0  # the tick at which it is due, 0 for none; the loop compares it with the wheel's entry
        self.queued = 0
        self._out: list[bytes | memoryview] | None = None
        self._progress = 0  # while BLOCKED: the tick at which the kernel last took something
        self._state = CONNECTING if sock is None else 0

    # ------------------------------------------------------------------ state, for everybody

    @property
    def closed(self) -> bool:
        """Return whether `close` or `abort` was called or the connection was lost. Any thread."""
        return self._state & (CLOSING | ABORTED | LOST_REPORTED) != 0

    @property
    def lost(self) -> bool:
        """Return whether it is over: its observer was told so, or is about to be. Any thread."""
        return self._state & LOST_REPORTED != 0

    @property
    def peer_address(self) -> tuple[str, int] | str | None:
        """Return (host, port), or the path of a Unix-domain socket; None once the socket is gone. It is looked up at
        each call, unless `name_peer` told it. Any thread."""
        if self.loop.peer_names:
            name = self.loop.peer_names.get(self)
            if name is not None:
                return name
        try:
            return None if self.sock is None else socket_address(self.sock.getpeername())
        except OSError:
            return None

    def name_peer(self, address: tuple[str, int] | str) -> None:
        """Set what `peer_address` returns from now on: the peer of the socket is a proxy. Any thread."""
        with self.lock:
            if not self._state & LOST_REPORTED:  # else nobody would forget it
                self.loop.peer_names[self] = address

    @property
    def local_address(self) -> tuple[str, int] | str | None:
        """Return our end, in the shape of `peer_address`."""
        try:
            return None if self.sock is None else socket_address(self.sock.getsockname())
        except OSError:
            return None

    def silent_for(self) -> float:
        """Return the seconds since a byte last came in, to a tenth; 0.0 for a connection that was just made. Loop
        thread."""
        if DEBUG:
            self.loop.check_thread()
        return (self.loop.ticks - self.seen) / TICKS_PER_SECOND

    def stalled_for(self) -> float:
        """Return the seconds for which the kernel has taken nothing of a waiting queue, nor the peer anything of what
        the kernel holds, as far as `Loop.progress` has looked; 0.0 when nothing waits. Any thread."""
        last = self.loop.progress.last(self)
        if self._state & BLOCKED:
            last = max(last or 0, self._progress)
        return 0.0 if last is None else max(0, self.loop.now() - last) / TICKS_PER_SECOND

    def untaken(self) -> int:
        """Return how many bytes the peer's host has not taken: what is queued, and what the kernel holds. Any
        thread."""
        sock = self.sock
        return self.queued if sock is None else self.queued + self.loop.sockets.held(sock)

    # ------------------------------------------------------------------ writing, any thread

    @property
    def blocked(self) -> bool:
        """Return whether the kernel takes no more for now. Any thread."""
        return self._state & BLOCKED != 0

    def owe_drained_locked(self) -> None:
        """Have `drained` called when the queue has fallen to the low-water mark, however little is queued now.
        Something must be queued."""
        if DEBUG:
            check_owned(self.lock)
        self._state |= DRAIN_OWED

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue `data`; never blocks. What is not `bytes`, and might change, is copied. What is written after `close`,
        `abort` or the loss of the connection is dropped. Raises TypeError for what is no bytes. Any thread."""
        if type(data) is not bytes:
            data = bytes(memoryview(data))
        if data:
            with self.lock:
                self.write_locked(data)

    def write_locked(self, data: bytes) -> None:
        """Queue `data`, as `write` does. At least one byte."""
        if DEBUG:
            check_owned(self.lock)
        state = self._state
        if state & NO_WRITE:
            return
        if self._out is None:
            self._out = [data]
        else:
            self._out.append(data)
        size = len(data)  # no call within an increment: a signal handler may write amid it
        self.queued += size
        if not state & WILL_BE_SENT:  # _mark_dirty_locked(), without the call
            self._state = state | DIRTY
            loop = self.loop
            loop.dirty.append(self)
            if loop.wakeup.armed:
                loop.wakeup.wake()

    def cork_locked(self) -> None:
        """Queue only, from now on, what is written."""
        if DEBUG:
            check_owned(self.lock)
        self._state |= CORKED

    def uncork_locked(self) -> None:
        """Send what was queued since the cork, in one go. Idempotent."""
        if DEBUG:
            check_owned(self.lock)
        self._state &= ~CORKED
        if self._out is not None:
            self.flush_locked()

    def uncork_later_locked(self) -> None:
        """Have the loop send at the end of its turn what was queued since the cork.

        A send lets the interpreter lock go, and the loop takes it: a worker that has more to do would then wait for it
        after each send. Measured with 1,000 echoing connections: 38 us instead of 59 a message.
        """
        if DEBUG:
            check_owned(self.lock)
        state = self._state = self._state & ~CORKED
        if self._out is not None and not state & WILL_BE_SENT:
            self._mark_dirty_locked(state)

    def _mark_dirty_locked(self, state: int) -> None:
        """Have the loop send at the end of its turn."""
        if DEBUG:
            check_owned(self.lock)
        self._state = state | DIRTY
        loop = self.loop
        loop.dirty.append(self)
        if loop.wakeup.armed:
            loop.wakeup.wake()

    def cork(self) -> None:
        """Queue only, from now on, what is written. Any thread."""
        with self.lock:
            self.cork_locked()

    def uncork(self) -> None:
        """Send what was queued since the cork, in one go. Any thread; idempotent."""
        with self.lock:
            self.uncork_locked()

    def flush(self) -> None:
        """Send now what is queued, in one go, even when corked. Any thread."""
        lock = self.lock
        lock.acquire()
        try:
            self.flush_locked()
        finally:
            lock.release()

    def flush_locked(self) -> None:
        """Send now what is queued, in one go, even when corked. Observers are not called in here, but later by the
        loop."""
        if DEBUG:
            check_owned(self.lock)
        out = self._out
        if out is None or self._state & NO_SEND:
            return
        try:
            sent = self.sock.send(out[0]) if len(out) == 1 else self._send_pieces_locked(out)  # type: ignore[union-attr]
        except (BlockingIOError, InterruptedError):
            self._block_locked(0)
        except OSError as error:
            self._send_failed_locked(error)
        else:
            if sent != self.queued:
                self._sent_some_locked(out, sent)
                return
            self._out = None
            self.queued = 0
            if self._state & (DRAIN_OWED | FIN_QUEUED):
                self._queue_sent_locked()

    def flush_dirty(self) -> None:
        """Send what was queued in this turn, unless corked. Loop thread."""
        if DEBUG:
            self.loop.check_thread()
        lock = self.lock
        lock.acquire()
        try:
            self._state &= ~DIRTY
            if not self._state & CORKED:
                self.flush_locked()
        finally:
            lock.release()

    def shutdown_write(self) -> None:
        """Half-close: send FIN behind what is queued, and drop later writes. Any thread; idempotent."""
        with self.lock:
            if self._state & NO_WRITE:
                return
            self._state |= FIN_QUEUED
            if self._out is None:
                self._queue_sent_locked()
            else:
                self.flush_locked()

    # ------------------------------------------------------------------ sending; lock held

    def _send_pieces_locked(self, out: list[bytes | memoryview]) -> int:
        """Send as much of the queue as is reasonable for one call. Raises OSError."""
        if DEBUG:
            check_owned(self.lock)
        assert self.sock is not None
        if len(out[0]) < SMALL_PIECE:
            join_small(out)
        return self.sock.send(out[0]) if len(out) == 1 else self.sock.sendmsg(out[:MAX_PIECES])

    def _sent_some_locked(self, out: list[bytes | memoryview], sent: int) -> None:
        """Remove from the queue the part that the kernel took, and wait with the rest."""
        if DEBUG:
            check_owned(self.lock)
        if self.queued >= self.observer.high_water:
            self._state |= DRAIN_OWED
        self.queued -= sent
        drop_sent(out, sent)
        if self._state & DRAIN_OWED and self.queued <= self.observer.low_water:
            self._schedule_drained_locked()
        self._block_locked(sent)

    def _block_locked(self, sent: int) -> None:
        """Wait with the rest of the queue until the kernel takes more."""
        if DEBUG:
            check_owned(self.lock)
        state = self._state
        if sent or not state & WRITE:  # else this is another try for a queue that was blocked already
            self._progress = self.loop.now()
        self._state = state | BLOCKED
        if not state & WRITE:
            self.loop.call_soon(self._await_write)

    def _queue_sent_locked(self) -> None:
        """Take the steps that waited for an empty queue: `drained`, FIN."""
        if DEBUG:
            check_owned(self.lock)
        if self._state & DRAIN_OWED:
            self._schedule_drained_locked()
        if self._state & FIN_QUEUED and not self._state & (FIN_SENT | CONNECTING):
            self._send_fin_locked()

    def _schedule_drained_locked(self) -> None:
        """Have the loop call the observer's `drained`."""
        if DEBUG:
            check_owned(self.lock)
        self._state &= ~DRAIN_OWED
        self.loop.call_soon(self._report_drained)

    def _send_fin_locked(self) -> None:
        """Send our FIN, behind everything."""
        if DEBUG:
            check_owned(self.lock)
        assert self.sock is not None
        state = self._state = self._state | FIN_SENT
        if state & CLOSING and state & (EOF_RECEIVED | NO_LINGER):
            pass  # close(2) comes next, and sends it: no other process has a copy (`Loop.disown`)
        else:
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:  # ENOTCONN: the peer has reset the connection, so nothing comes from it either
                self._state |= EOF_RECEIVED
        if state & CLOSE_TIMER_SET:
            self.loop.schedule(self, None)

    def _clear_queue_locked(self) -> None:
        """Drop what is queued."""
        if DEBUG:
            check_owned(self.lock)
        self._out = None
        self.queued = 0

    def _send_failed_locked(self, error: OSError) -> None:
        """Act on a failed send.

        The peer is gone, but what it sent before may still be unread, its reason for instance. While the observer
        reads, the end of that is the end of the stream; the queue is lost in any case.
        """
        if DEBUG:
            check_owned(self.lock)
        if self._state & (PAUSED | EOF_RECEIVED | CLOSING) or not isinstance(
            error, (BrokenPipeError, ConnectionResetError)
        ):
            self._abort_locked(error, 0)
        else:
            self._state |= SEND_FAILED | FIN_QUEUED | FIN_SENT
            self._clear_queue_locked()
            if self._state & DRAIN_OWED:  # who waits for room need not any more, and what waits may be what is read
                self._schedule_drained_locked()

    def _abort_locked(self, error: Exception | None, flags: int) -> None:
        """End the stream because of `error`; `flags` are added to its state."""
        if DEBUG:
            check_owned(self.lock)
        if self._state & (ABORTED | LOST_REPORTED):
            return
        self._state |= ABORTED | flags
        self._clear_queue_locked()
        self.loop.schedule(self, error)

    # ------------------------------------------------------------------ sending; loop thread

    def _await_write(self) -> None:
        """Watch for the moment at which a queue that was blocked, on whatever thread, can go on."""
        if DEBUG:
            self.loop.check_thread()
        with self.lock:
            if not self._state & BLOCKED or self._state & (ABORTED | LOST_REPORTED):
                return
            self._watch_locked(self._state & WATCHED | WRITE)
            closing = self._state & CLOSING
        if not closing:
            self.observer.blocked()

    def _report_drained(self) -> None:
        if not self.closed:
            self.observer.drained()

    def _on_writable(self) -> None:
        """Send on: the kernel takes more."""
        if DEBUG:
            self.loop.check_thread()
        with self.lock:
            self._state &= ~BLOCKED
            if self.queued >= self.observer.high_water:  # it grew while it was blocked, and may go out at once
                self._state |= DRAIN_OWED
            self.flush_locked()
            if not self._state & (BLOCKED | ABORTED | LOST_REPORTED):
                self._watch_locked(self._state & READ)

    # ------------------------------------------------------------------ reading; loop thread

    def on_readable(self, scratch: bytearray, ticks: int) -> None:
        """Read once what has come, and hand it to the observer. The poller is level-triggered, so one read bounds a
        turn. The hot path."""
        if DEBUG:
            self.loop.check_thread()
        if self._state & NO_DATA:
            self._on_unwanted(scratch)
            return
        try:
            n = self.sock.recv_into(scratch)  # type: ignore[union-attr]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.abort(error)
            return
        if n:
            self.seen = ticks
            self.observer.data_received(scratch, n)
            if self.queued >= SEND_AT_ONCE and not self._state & CORKED:
                self.flush()
        else:
            self._on_eof()

    def on_event(self, mask: int, scratch: bytearray, ticks: int) -> None:
        """Act on WRITE, or on an error: the next call on the socket finds it again, and reports it."""
        if DEBUG:
            self.loop.check_thread()
        if self._state & BLOCKED:
            self._on_writable()
        if mask & (READ | ERROR) and self._state & READ:
            self.on_readable(scratch, ticks)

    def pause_reading(self) -> None:
        """Call `data_received` no more for now. Any thread; idempotent. Costs nothing unless something comes in."""
        with self.lock:
            self._state |= PAUSED

    def resume_reading(self) -> None:
        """Call `data_received` again. Any thread; idempotent."""
        with self.lock:
            state = self._state
            self._state = state & ~PAUSED
            if state & PAUSED and not state & (READ | ABORTED | LOST_REPORTED):
                self.loop.call_soon(self._watch_read)

    def _watch_read(self) -> None:
        if DEBUG:
            self.loop.check_thread()
        with self.lock:
            if not self._state & NO_DATA:
                self._watch_locked(self._state & WATCHED | READ)

    def _on_unwanted(self, scratch: bytearray) -> None:
        """Stop watching for data that the observer does not take now; read and discard what comes after `close`."""
        if self._state & (ABORTED | LOST_REPORTED):
            return
        if self._state & CLOSING:
            self._discard(scratch)
        else:
            with self.lock:
                if self._state & NO_DATA:  # still: another thread may have resumed
                    self._watch_locked(self._state & WRITE)

    def _discard(self, scratch: bytearray) -> None:
        """Read until the peer's FIN, though we are closing, so that the kernel does not answer with RST."""
        assert self.sock is not None
        try:
            n = self.sock.recv_into(scratch)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.abort(error if self.queued else None)  # after our last byte it is nobody's loss
            return
        if n == 0:
            self._on_eof()
        elif self._state & LINGERING:
            self._progress += n
            if self._progress > LINGER_BYTES:
                self.abort()

    def _on_eof(self) -> None:
        """Act on the peer's FIN."""
        if DEBUG:
            self.loop.check_thread()
        with self.lock:
            if self._state & (EOF_RECEIVED | ABORTED | LOST_REPORTED):
                return
            self._state |= EOF_RECEIVED
            self._watch_locked(self._state & WRITE)
            if self._state & SEND_FAILED:
                self._abort_locked(ConnectionResetError("the peer closed while data was sent to it"), 0)
                return
            if self._state & CLOSING:
                self.loop.schedule(self, None)
                return
        self.observer.eof_received()

    def _watch_locked(self, mask: int) -> None:
        """Tell the poller what to watch for, if it does not know yet. Loop thread."""
        if DEBUG:
            check_owned(self.lock)
            self.loop.check_thread()
        watched = self._state & WATCHED
        if mask == watched:
            return
        assert self.sock is not None
        fd, poller = self.sock.fileno(), self.loop.poller
        if not watched:
            poller.register(fd, mask)
        elif mask:
            poller.modify(fd, mask)
        else:  # nothing is wanted: epoll would still report errors, over and over, to nobody
            self._state &= ~WATCHED  # first: where a signal handler raises in between, it would be done twice
            poller.unregister(fd)
        self._state = self._state & ~WATCHED | mask

    # ------------------------------------------------------------------ deadline; loop thread

    def set_deadline(self, seconds: float | None) -> None:
        """Have the observer's `deadline_reached` called in `seconds`, rounded up to a tenth; None: not at all.
        Replaces the deadline set before; to move it later costs nothing. Loop thread."""
        if DEBUG:
            self.loop.check_thread()
        if self._state & (CLOSING | ABORTED | LOST_REPORTED):  # the deadline is ours now
            return
        self._set_deadline(seconds)

    def _set_deadline(self, seconds: float | None) -> None:
        if seconds is None:
            self.deadline = 0
            return
        self.deadline = self.loop.due(seconds)
        if self.sock is not None:
            self.loop.wheel.add_descriptor(self.sock.fileno(), self.deadline)

    def on_deadline(self) -> None:
        """Act on the deadline: the observer's, or that of `close`."""
        if DEBUG:
            self.loop.check_thread()
        state = self._state
        if not state & (CLOSING | ABORTED | LOST_REPORTED):
            self.observer.deadline_reached()
        elif state & LINGERING:
            if not self._extend_timeout(LINGER_TIMEOUT):
                with self.lock:
                    self._abort_locked(None, 0)
        elif state & CLOSE_TIMER_SET and not self._extend_timeout(CLOSE_TIMEOUT):
            # without CLOSE_TIMER_SET it is the observer's, from before a close() that was not settled yet
            self.abort(TimeoutError("the peer did not take what was queued before the close"))

    def _extend_timeout(self, seconds: float) -> bool:
        """Give the peer `seconds` more if it has taken enough since the last call. Returns whether it has."""
        if self._state & (ABORTED | LOST_REPORTED) or not self.loop.progress.is_fast_enough(self, seconds):
            return False
        if self._state & LINGERING:
            self._progress = 0
        self._set_deadline(seconds)
        return True

    # ------------------------------------------------------------------ the beginning and the end

    def attach(self) -> None:
        """Begin to watch the descriptor, which is ours and has its place in the loop. Loop thread."""
        if DEBUG:
            self.loop.check_thread()
        assert self.sock is not None
        if self.deadline:
            self.loop.wheel.add_descriptor(self.sock.fileno(), self.deadline)
        with self.lock:
            if not self._state & (PAUSED | EOF_RECEIVED | ABORTED | LOST_REPORTED):
                self._watch_locked(self._state & WATCHED | READ)

    def establish(self, sock: Sock) -> None:
        """Take `sock`, which the connection attempt has connected. Loop thread."""
        if DEBUG:
            self.loop.check_thread()
        with self.lock:
            self.sock = sock
            self._state &= ~CONNECTING
        self.loop.take_in(self)
        if not self.closed:
            self.established()

    def established(self) -> None:
        """Tell the observer of an outgoing stream that it may talk, and send what was written before. Loop thread."""
        if DEBUG:
            self.loop.check_thread()
        if self.loop.connection_made(self):
            self.observer.connected(self)
        with self.lock:
            if self._out is None:
                self._queue_sent_locked()
            else:
                self.flush_locked()

    def hand_over(self) -> Sock:
        """Return the socket, for whoever goes on with the connection: this stream is over, and its observer is told
        nothing. Raises ConnectionError when something is still queued: then the peer answered before it was asked. Loop
        thread."""
        if DEBUG:
            self.loop.check_thread()
        with self.lock:
            self.flush_locked()
            if self.queued or self.sock is None or self._state & (CLOSING | ABORTED | LOST_REPORTED):
                raise ConnectionError("the peer answered before it took what was sent")
            self._watch_locked(0)
            self._state |= LOST_REPORTED
            self.deadline = 0
        self.loop.connection_over(self, None)
        self.observer = NO_OBSERVER
        sock, self.sock = self.sock, None
        return sock

    def close(self, *, linger: bool = True) -> None:
        """Send what is queued, then close. Any thread; idempotent; scheduled.

        A peer that takes less than 2 kB a second of it, on the average of 5 s, is reset. With `linger`, the peer has
        2 s after it took the last of it to close its side too, so that nothing of what we sent is destroyed by a reset.
        A connection that is still being made is given up.
        """
        bits = CLOSING | FIN_QUEUED | (0 if linger else NO_LINGER)
        with self.lock:
            if self._state & (CLOSING | ABORTED | LOST_REPORTED):
                return
            self._state |= bits
            self.loop.schedule(self, None)

    def abort(self, error: Exception | None = None) -> None:
        """Drop what is queued and close with RST. Any thread; idempotent; scheduled. The observer's `connection_lost`
        gets `error`."""
        with self.lock:
            self._abort_locked(error, RESET)

    def fail(self, error: Exception) -> None:
        """Abort, since the observer raised `error`."""
        self.abort(error)

    def disown(self) -> None:
        """Release the descriptor in a forked child. What is written there from now on is dropped."""
        self._state |= LOST_REPORTED
        if self.sock is not None:
            self.sock.close()

    def settle(self, error: Exception | None) -> None:
        """Take the next step towards the end, at the end of a turn. Loop thread."""
        if DEBUG:
            self.loop.check_thread()
        state = self._state
        if state & LOST_REPORTED:
            if self.sock is not None and self.sock.fileno() >= 0:  # what a signal handler raised came amid the end
                self._tell_lost(error)
            return
        if not state & (ABORTED | CONNECTING | FIN_SENT):
            with self.lock:
                if self._out is None:
                    self._queue_sent_locked()
                else:
                    self.flush_locked()
                state = self._state
            if state & ABORTED:  # the send failed, and says why in the next settle
                return
        if state & (ABORTED | CONNECTING):
            self._end(error)
        elif not state & FIN_SENT:
            if not state & CLOSE_TIMER_SET:
                self._begin_timeout(CLOSE_TIMEOUT, CLOSE_TIMER_SET)
        elif state & (EOF_RECEIVED | NO_LINGER):
            self._end(None)
        elif not state & LINGERING:
            self._begin_timeout(LINGER_TIMEOUT, CLOSE_TIMER_SET | LINGERING)

    def _begin_timeout(self, seconds: float, flags: int) -> None:
        """Begin the `seconds` within which the next step has to come, and set `flags`. Until then read on, for the peer
        may be unable to read before it has written, and FIN is not to be missed."""
        self._set_deadline(seconds)
        if (
            not flags & LINGERING
        ):  # then nearly all have nothing left to take: whether that is so is seen at the deadline
            self.loop.progress.begin_close(self)
        with self.lock:
            self._state |= flags
            if flags & LINGERING:
                self._progress = 0
            if not self._state & EOF_RECEIVED:
                self._watch_locked(self._state & WATCHED | READ)

    def _end(self, error: Exception | None) -> None:
        """End the stream: tell the observer, then close the descriptor."""
        fault: Exception | None = None
        with self.lock:
            try:
                if self.sock is not None:
                    self._watch_locked(0)
            except (OSError, KeyError) as exc:  # somebody closed the descriptor behind our back; it has to end, too
                fault = exc
            self._state |= LOST_REPORTED
            self._clear_queue_locked()
            self.deadline = 0
        if fault is not None:
            logger.error("cannot stop watching a descriptor of %r", self.observer, exc_info=fault)
        self._tell_lost(error)

    def _tell_lost(self, error: Exception | None) -> None:
        """Call `connection_lost` and close the descriptor. Each step is done once, also when this is called again
        because a signal handler raised amid them."""
        if DEBUG:
            check_unlocked("call connection_lost")
        error = self.loop.connection_over(self, error)
        observer, self.observer = self.observer, NO_OBSERVER
        try:
            observer.connection_lost(error)
        except Exception:
            logger.exception("connection_lost of %r raised", observer)
        if self.sock is not None:
            try:
                if self._state & RESET:
                    self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            except OSError:  # the peer's RST came first
                pass
            finally:
                self.sock.close()


def join_small(out: list[bytes | memoryview]) -> None:
    """Join the small pieces at the head of a queue, in place, to about JOIN_SIZE."""
    size = count = 0
    small, most = SMALL_PIECE, JOIN_SIZE  # typed where this is compiled
    for piece in out:
        length = len(piece)
        if length >= small or size >= most:
            break
        size += length
        count += 1
    if count > 1:
        out[:count] = [b"".join(out[:count])]


def drop_sent(out: list[bytes | memoryview], sent: int) -> None:
    """Remove the first `sent` bytes of a queue."""
    count = 0
    for piece in out:
        if len(piece) > sent:
            break
        sent -= len(piece)
        count += 1
    del out[:count]
    if sent:
        out[0] = memoryview(out[0])[sent:]
