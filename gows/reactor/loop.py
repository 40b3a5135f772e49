"""BaseLoop: one thread that moves the bytes of all its connections, in turns that are bounded.

A turn, in this order:

1. sleep until something is ready, due, or handed in by another thread;
2. at most `max_events` events: one read, one send, or one batch of accepts each;
3. at most `ENTRIES_PER_TURN` deadlines and timers;
4. the jobs (`call_soon`) that were there when the turn began; those they add wait for the next turn;
5. with `workers=0`, the tasks that were there;
6. one send for each stream that was written to;
7. streams that are to be closed: `connection_lost`, then the descriptor. Only here, so that a number does not come
   back within a batch;
8. the turn's tasks are handed to the workers, with one wake-up.

No step runs code of the user's when there is a worker pool, so nothing in a turn blocks.

The file is long since running, the turn and what endpoints ask for share the queues of one class.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from types import TracebackType
from typing import Any, TypeVar

from gows.bufferpool import BufferPool
from gows.debug import DEBUG, check_unlocked, checked_lock
from gows.errors import LoopClosedError, UsageError
from gows.reactor import turn
from gows.reactor.interfaces import Accepting, Attempt, Endpoint, Transport
from gows.reactor.lock import Lock
from gows.reactor.poller import READ, Poller, make_poller
from gows.reactor.progress import Progress
from gows.reactor.sockets import SocketLayer
from gows.reactor.timers import NEVER, TICKS_PER_SECOND, Timer, TimingWheel
from gows.reactor.waits import never_wait, thread_may_wait
from gows.reactor.workers import InlinePool, WorkerPool

logger = logging.getLogger("gows")

ENTRIES_PER_TURN = 512
"""Deadlines and timers that fire in one turn at most."""
SIGNAL_INTERVAL = 0.5
"""Seconds after which what waits in the main thread sees a signal that another thread was given (signal(7))."""
HOST_TIME = 2.0
"""Seconds more that a host has to end, for it cancels coroutines when their time is over."""
LOCKS = 64
"""Striped locks of a loop: enough that two threads rarely want the same, and nothing per connection."""

_Self = TypeVar("_Self", bound="BaseLoop")
_live: weakref.WeakSet[BaseLoop] = weakref.WeakSet()


def _disown_all() -> None:
    """Disown the loops that run, in a forked process (fork(2)): the parent's threads do not go on there."""
    for loop in live_loops():
        if loop.running:
            loop.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)


def live_loops() -> list[BaseLoop]:
    """Return the loops of this process that were made and not closed, for tests and for finding leaks. Any thread."""
    return list(_live)


class BaseLoop:
    """An event loop that knows endpoints, and not where they come from; `transports.Loop` listens, connects and adopts.
    `run()` it here or `start()` it in a thread of its own.

    - `poller`: a Poller, or a name for `make_poller`; `clock`: seconds, never going back; `sockets`: a SocketLayer.
    - `workers`: threads for tasks; 0 runs them in the loop's thread.
    - `read_buffer_size`: bytes read from one connection in one turn at most.

    Every method may be called from any thread unless it says otherwise. Call `close()` in the end, or use it as a
    context manager.
    """

    __slots__ = (
        "__weakref__",
        "_attempts",
        "_base",
        "_clean",
        "_clock",
        "_closed",
        "_context",
        "_finished",
        "_guards",
        "_host",
        "_jobs",
        "_listeners",
        "_lock_number",
        "_locks",
        "_pid",
        "_refusing",
        "_settling",
        "_stopping",
        "_thread",
        "_thread_id",
        "buffers",
        "closing",
        "dirty",
        "live_streams",
        "on_close",
        "on_end",
        "on_turn",
        "peer_names",
        "poller",
        "pool",
        "progress",
        "scratch",
        "shared",
        "sockets",
        "streams",
        "ticks",
        "wakeup",
        "wheel",
    )

    def __init__(
        self,
        *,
        poller: Poller | str | None = None,
        clock: Callable[[], float] = time.monotonic,
        sockets: SocketLayer | None = None,
        workers: int = 4,
        read_buffer_size: int = 262144,
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers must be 0 or more, not {workers}")
        if read_buffer_size < 1:
            raise ValueError(f"read_buffer_size must be 1 or more, not {read_buffer_size}")
        self.poller = poller if isinstance(poller, Poller) else make_poller(poller)
        self.sockets = sockets or SocketLayer()
        self.scratch = bytearray(read_buffer_size)
        self.buffers = BufferPool()
        self.shared: dict[Any, Any] = {}  # what upper layers keep once a loop
        self.streams: list[Endpoint | None] = []  # by descriptor
        self.live_streams = 0
        self.on_end: list[Callable[[Any], object]] = []  # told of each stream that ends, its descriptor still open
        self.on_close: list[Callable[[], object]] = []  # called when `close` begins
        self.on_turn: Callable[[float], object] | None = (
            None  # told of each turn's seconds, the wait for events not counted
        )
        self.peer_names: dict[Transport, tuple[str, int] | str] = {}  # where `Stream.name_peer` knew better
        self.progress = Progress(self.sockets, self.now)
        self.wheel = TimingWheel()
        self._clock = clock
        self._thread_id: int | None = None
        self._base = clock() - 1.0 / TICKS_PER_SECOND  # so that tick 0 is never now, and may mean "none"
        self.ticks = self.now()
        self._jobs: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.dirty: deque[Transport] = deque()
        self._settling: dict[Transport, Exception | None] = {}
        self._listeners: list[Accepting] = []
        self._attempts: dict[Transport, Attempt] = {}
        self._locks: list[Lock] = [  # re-entrant: a finaliser may write within a write
            checked_lock(Lock, "stream") for _ in range(LOCKS)
        ]
        self._lock_number = 0
        self._guards: list[Callable[[], bool]] = [
            lock._is_owned  # type: ignore[attr-defined]  # what `threading.Condition` calls
            for lock in self._locks
        ]
        self.wakeup = self.sockets.make_wakeup()
        self.place(self.wakeup.fd, self.wakeup)
        self.poller.register(self.wakeup.fd, READ)
        wake = self.wakeup.wake
        self.pool: WorkerPool | InlinePool = WorkerPool(wake, workers) if workers else InlinePool(wake, self._isolated)
        self._pid = os.getpid()  # of the process that it is for: where it was made, or begun to run
        self._clean: Context | None = None  # the context variables that each step of a turn begins with
        self._context: Context | None = None  # those of this turn: others once a callback has set one
        self._thread: threading.Thread | None = None
        self._finished = threading.Event()  # run() is over
        self._finished.set()
        self._host: Callable[[], object] | None = None  # what turns the loop, in its thread
        self._stopping = False
        self.closing: float | None = None
        """The seconds that `close` was given; None as long as it was not called."""
        self._refusing = False  # close() has begun
        self._closed = False
        _live.add(self)

    # ------------------------------------------------------------------ running

    def run(self) -> None:
        """Turn until `stop()` is called. Raises UsageError when it is running already, LoopClosedError after
        `close()`."""
        self._begin()
        self._run()

    def start(self, name: str = "gows-loop") -> None:
        """Call `run` in a daemon thread of that name; returns at once. Raises as `run` does."""
        self._begin()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no thread to be had
            self._finished.set()
            raise

    def stop(self, timeout: float | None = 5.0) -> bool:
        """End `run()` after the present turn, and wait for that, up to `timeout` seconds; True when it is over.

        Called in the loop's thread (or in a signal handler there), it does not wait. Connections stay as they are;
        the loop may run again.
        """
        self._stopping = True
        self.wakeup.wake()
        if self.in_loop():
            return False
        if DEBUG:
            check_unlocked("wait for the end of the loop's turn")
        return self._finished.wait(timeout)

    def run_once(self, timeout: float | None = None) -> int:
        """Take one turn, which sleeps `timeout` seconds at most (None: until something happens). Returns the number of
        events.

        For tests and for embedding: always the same thread, which then counts as the loop's.
        """
        if self._closed:
            raise LoopClosedError("the loop was closed")
        self._thread_id = threading.get_ident()
        return self._turn(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Stop, abort every stream (each observer gets its `connection_lost`), let the workers finish, release
        everything.

        Waits `timeout` seconds at most for the loop, and for the workers. Not from the loop's own thread while it runs,
        nor from one of its workers, in a callback for instance (UsageError). Idempotent. In a forked child, where it is
        the parent's, only the child's copies of descriptors are closed.
        """
        if self._closed:
            return
        if self._pid != os.getpid():
            self.disown()
            return
        if self.pool.in_worker():
            raise UsageError("close() would wait for the callback it is called in; call it in another thread")
        if not self._finished.is_set():
            if self.in_loop():
                raise UsageError("close() would wait for the thread it is called in; call stop() there")
            self.closing = timeout
            hosted = self.wakeup.here is not None
            if not self.stop(timeout + HOST_TIME if hosted else timeout):
                self.closing = None
                raise TimeoutError(f"the loop did not end its turn within {timeout:g} s")
        self.take_thread()
        self.closing = timeout
        self._refusing = True
        for fn in self.on_close:
            self._call(fn, ())
        self.take_thread()
        self.abort_streams()
        self.pool.stop(timeout)
        self._closed = True
        self._jobs.clear()
        self.dirty.clear()
        self.wheel = TimingWheel()
        self.wakeup.close()
        self.poller.close()
        self._thread_id = self._clean = self._context = None
        _live.discard(self)

    def __del__(self) -> None:
        """Release a loop that was made, does not run and was never closed, such as that of a server that was not
        started. No observer is told."""
        if getattr(self, "_closed", True) or self.running or sys.is_finalizing():
            return
        if self._pid == os.getpid():
            for listener in self._listeners:
                listener.remove_file()
        self.disown()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Return whether `run()` is going on, here or in a thread."""
        return not self._finished.is_set()

    def in_loop(self) -> bool:
        """Return whether the caller is in the loop's thread."""
        return threading.get_ident() == self._thread_id

    def check_thread(self) -> None:
        """Raise AssertionError unless the caller is in the loop's thread, or no thread turns the loop."""
        if self._thread_id is not None and not self.in_loop():
            raise AssertionError(f"{threading.current_thread().name} is not the thread of the loop")

    def guard(self, held: Callable[[], bool]) -> None:
        """Have `may_wait` answer False also in a thread in which `held()` is true: it has a lock that others need."""
        self._guards.append(held)

    def holds_lock(self) -> bool:
        """Return whether the caller's thread has a lock of one of this loop's streams, as a finaliser may that runs
        within a write."""
        return any(lock._is_owned() for lock in self._locks)  # type: ignore[attr-defined]

    def may_wait(self) -> bool:
        """Return whether the caller's thread may wait for a peer. It may not if it runs a loop, if it said so
        (`never_wait`), or if it has a lock that others need, as in a finaliser that runs within a write."""
        if self.in_loop() or not thread_may_wait():
            return False
        return not any(held() for loop in live_loops() for held in loop._guards)

    def _begin(self) -> None:
        if self._refusing:
            raise LoopClosedError("the loop was closed")
        if not self._finished.is_set():
            raise UsageError("the loop is running already")
        self._stopping = False
        self._pid = os.getpid()
        self._finished.clear()

    def _run(self) -> None:
        self._thread_id = threading.get_ident()
        # The kernel may give a signal to any thread, and that does not end this one's sleep; its handler runs here.
        longest = SIGNAL_INTERVAL if threading.current_thread() is threading.main_thread() else None
        try:
            with never_wait():
                self._clean = copy_context()
                while not self._stopping:
                    if self._host is not None:
                        self._host()
                        continue
                    self._context = self._clean.copy()
                    self._context.run(self._turns, longest)
        finally:
            self._clean = self._context = None
            self._thread_id = None
            self._finished.set()

    def _turns(self, longest: float | None) -> None:
        """Turn until the loop is stopped, or a callback has set a context variable, which is its own."""
        while not self._stopping and self._context == self._clean and self._host is None:
            self._turn(longest)

    # ------------------------------------------------------------------ being turned from outside

    def hand_over(self, host: Callable[[], object]) -> None:
        """Have `host()` turn the loop instead of `run`, in the thread of that: from the next turn on if it runs, else
        when it does. `host` calls `turn` again and again, and returns when the loop is `stopping`. Any thread; at most
        one host."""
        self._host = host
        self.wakeup.wake()

    def enter(self) -> None:
        """Make the calling thread the loop's, instead of `run`: it is going to call `turn` whenever the poller's
        descriptor is ready, and when a turn said so. Raises UsageError when the loop is running already,
        LoopClosedError after `close`."""
        self._begin()
        self.take_thread()

    def turn(self) -> float | None:
        """Take one turn without sleep. Returns how many seconds may go by until the next one, if the poller has nothing
        to report; None: any number. Only after `enter`, or in a host."""
        if self._context is None or self._context != self._clean:
            assert self._clean is not None
            self._context = self._clean.copy()
        self._context.run(self._turn, 0.0)
        self.wakeup.arm()  # and then look at the queues, as before a sleep
        return self._max_sleep(None)

    def leave(self) -> None:
        """End what `enter` began. Same thread."""
        self._clean = self._context = None
        self._thread_id = None
        self._finished.set()

    @property
    def stopping(self) -> bool:
        """Return whether `stop` was called since the loop began to run."""
        return self._stopping

    def _isolated(self, fn: Callable[..., object], *args: Any) -> None:
        """Call `fn` so that it does not see the context variables that another callback has set in this turn."""
        if self._clean is None or self._context == self._clean:
            fn(*args)
        else:
            self._clean.copy().run(fn, *args)

    def take_thread(self) -> None:
        """Make the calling thread the loop's, which does not run in another."""
        self._thread_id = threading.get_ident()
        self._clean = copy_context()

    def abort_streams(self) -> None:
        """Accept no more, end every stream, and do the jobs that their observers ask for meanwhile. Loop thread."""
        for listener in list(self._listeners):
            listener.close()
        self._run_jobs()  # an adopted socket may still wait to be taken in
        while self.live_streams or self._attempts or self._settling:
            for endpoint in self.streams:
                if isinstance(endpoint, Transport):
                    endpoint.abort()
            for stream in list(self._attempts):
                stream.abort()
            self._settle()
            self._run_jobs()

    # ------------------------------------------------------------------ a turn

    def disown(self) -> None:
        """Release everything in a forked child, in which this loop does not turn: close its copies of the descriptors,
        or connections that the parent ends would live on."""
        self._closed = self._refusing = self._stopping = True
        self._finished = threading.Event()
        self._finished.set()
        self._thread_id = None
        for endpoint in self.streams:
            if endpoint is not None:
                endpoint.disown()
        for listener in self._listeners:
            listener.disown()
        self.streams, self.live_streams = [], 0
        self.poller.close()
        _live.discard(self)

    def _turn(self, timeout: float | None) -> int:
        if DEBUG:
            check_unlocked("wait for events")
        wakeup, pool = self.wakeup, self.pool
        wakeup.arm()  # whoever fills a queue from now on wakes us, so look at the queues after this
        events = self.poller.poll(self._max_sleep(timeout))
        wakeup.disarm()
        on_turn = self.on_turn
        began = 0.0 if on_turn is None else self._clock()
        self.ticks = ticks = self.now()
        failed = self._endpoint_failed
        turn.deliver(events, self.streams, self.scratch, ticks, failed, self._context, self._clean)
        if self.wheel.next_due <= ticks:
            self._fire(ticks)
        if self._jobs:
            self._run_jobs()
        if pool.inline:
            pool.kick()
        turn.flush(self.dirty, failed)
        if self._settling:
            self._settle()
        if not pool.inline:
            pool.kick()
        if on_turn is not None:
            on_turn(self._clock() - began)
        return len(events)

    def _max_sleep(self, timeout: float | None) -> float | None:
        """Return how many seconds the poller may sleep; None: until something happens."""
        if self._jobs or self.dirty or self._settling or self._stopping:
            return 0.0
        max_sleep = self.pool.max_sleep()
        if max_sleep is not None and (timeout is None or max_sleep < timeout):
            timeout = max_sleep
        if self.wheel.next_due != NEVER:
            due = max(0.0, self._base + self.wheel.next_due / TICKS_PER_SECOND - self._clock())
            if timeout is None or due < timeout:
                timeout = due
        return timeout

    def _endpoint_failed(self, endpoint: Endpoint, error: Exception) -> None:
        logger.error("%r failed; aborting the connection", endpoint, exc_info=error)
        endpoint.fail(error)

    def _fire(self, ticks: int) -> None:
        descriptors, timers = self.wheel.take(ticks, ENTRIES_PER_TURN)
        for fd in descriptors:
            stream = self.streams[fd]
            if not isinstance(stream, Transport) or not stream.deadline:
                continue
            if stream.deadline > ticks:  # it was moved to a later time since
                self.wheel.add_descriptor(fd, stream.deadline)
                continue
            stream.deadline = 0
            try:
                self._isolated(stream.on_deadline)
            except Exception as error:
                self._endpoint_failed(stream, error)
        for timer in timers:
            fn, args = timer.take()
            if fn is not None:
                self._call(fn, args)

    def _run_jobs(self) -> None:
        jobs = self._jobs
        for _ in range(len(jobs)):
            fn, args = jobs.popleft()
            self._call(fn, args)

    def _call(self, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        if DEBUG:
            check_unlocked("call a job")
        try:
            if self._context == self._clean:  # as in _isolated, without the call
                fn(*args)
            else:
                self._isolated(fn, *args)
        except Exception as error:
            owner = getattr(fn, "__self__", None)
            if isinstance(owner, Endpoint):
                self._endpoint_failed(owner, error)
            else:
                logger.exception("%r raised", fn)

    def _settle(self) -> None:
        settling = self._settling
        for stream in list(settling):
            reason = settling.pop(stream)
            try:
                if self._context == self._clean:
                    stream.settle(reason)
                else:
                    self._isolated(stream.settle, reason)
            except Exception as error:
                self._endpoint_failed(stream, error)
            except BaseException:  # Ctrl-C, amid the end of a stream: close() has to take the steps that are left
                settling[stream] = reason
                raise

    # ------------------------------------------------------------------ work for the loop's thread

    def call_soon(self, fn: Callable[..., object], *args: Any) -> None:
        """Call `fn(*args)` in the loop's thread, in its next turn at the latest. Order is kept. Raises
        LoopClosedError."""
        if self._closed:
            raise LoopClosedError("the loop was closed")
        self._jobs.append((fn, args))
        self.wakeup.wake()

    def run_soon(self, fn: Callable[..., object], *args: Any) -> None:
        """Call `fn(*args)` now when in the loop's thread, else soon; not at all once the loop is closed."""
        if self.in_loop():
            fn(*args)
        elif not self._closed:
            self.call_soon(fn, *args)

    def call_later(self, seconds: float, fn: Callable[..., object], *args: Any) -> Timer:
        """Call `fn(*args)` in the loop's thread once `seconds` have gone by, up to 0.2 s late. Raises
        LoopClosedError, also while it is being closed: it would never be called."""
        self.check_open()
        timer = Timer(self.due(seconds), fn, args)
        if self.in_loop():
            self.wheel.add_timer(timer)
        else:
            self.call_soon(self.wheel.add_timer, timer)
        return timer

    def time(self) -> float:
        """Return the seconds of the loop's clock. Any thread."""
        return self._clock()

    def now(self) -> int:
        """Return the present tick, exactly; `ticks` is the one at which the turn began."""
        # a hair more, so that a clock that stands exactly at a deadline has reached it in floating point too
        return int((self._clock() - self._base) * TICKS_PER_SECOND + 1e-6)

    def due(self, seconds: float) -> int:
        """Return the first tick at which `seconds` have gone by: a future one, so that what sets itself again cannot
        spin."""
        return int((self._clock() - self._base + seconds) * TICKS_PER_SECOND + 1e-6) + 1

    @property
    def active_timers(self) -> int:
        """Return how many timers are still to fire. Loop thread, or when it does not run."""
        return self.wheel.active_timers

    def check_open(self) -> None:
        """Raise LoopClosedError once `close` has begun."""
        if self._refusing:
            raise LoopClosedError("the loop was closed")

    # ------------------------------------------------------------------ for endpoints

    def next_lock(self) -> Lock:
        """Return the lock for a new stream."""
        self._lock_number = number = (self._lock_number + 1) % LOCKS
        return self._locks[number]

    def schedule(self, stream: Transport, error: Exception | None) -> None:
        """Settle `stream` at the end of the turn. Any thread."""
        if error is not None or stream not in self._settling:
            self._settling[stream] = error
        self.wakeup.wake()

    def place(self, fd: int, endpoint: Endpoint) -> None:
        """Give events of `fd` to `endpoint`. Loop thread."""
        if DEBUG:
            self.check_thread()
        streams = self.streams
        if fd >= len(streams):
            streams.extend([None] * (fd + 64 - len(streams)))
        streams[fd] = endpoint

    def displace(self, fd: int) -> None:
        """Give events of `fd` to nobody. Loop thread."""
        if DEBUG:
            self.check_thread()
        self.streams[fd] = None

    def take_in(self, stream: Transport) -> None:
        """Watch a stream that has got its descriptor. Loop thread."""
        if DEBUG:
            self.check_thread()
        assert stream.sock is not None
        self.place(stream.sock.fileno(), stream)
        self.live_streams += 1
        try:
            stream.attach()
        except OSError as error:
            stream.abort(error)

    def connection_made(self, stream: Transport) -> bool:
        """End the attempt that made a stream's connection. Returns whether there was one: it is an outgoing stream.
        Loop thread."""
        if DEBUG:
            self.check_thread()
        attempt = self._attempts.pop(stream, None)
        if attempt is None:
            return False
        attempt.finish(None)
        return True

    def connection_over(self, stream: Transport, error: Exception | None) -> Exception | None:
        """Forget a stream that is being closed. Returns the error to tell its observer. Loop thread."""
        if DEBUG:
            self.check_thread()
        attempt = self._attempts.pop(stream, None)
        if attempt is not None:
            error = attempt.finish(error)
        if stream.sock is not None:
            fd = stream.sock.fileno()
            if self.streams[fd] is stream:
                self.streams[fd] = None
                self.live_streams -= 1
                for fn in self.on_end:
                    fn(stream)
        if self.peer_names:
            self.peer_names.pop(stream, None)
        self.progress.forget(stream)
        return error

    def listener_closed(self, listener: Accepting) -> None:
        """Forget a listener. Loop thread."""
        if DEBUG:
            self.check_thread()
        self._listeners.remove(listener)
