"""Machine: simulated threads, one step at a time, in virtual time and in an order that a seed decides.

Each simulated thread is a greenlet. It runs until it waits, for a lock, an event, a queue or its poller, or until the
machine takes the processor away from it: in the middle of any line of gows, as an operating system does. Which of those
that could go on does so next, a random number decides. Time goes by only when nobody can go on.

`installed` puts the stand-ins of this module (`threading`, `time`, `SimpleQueue`, random numbers) into the modules of
gows for as long as a run takes.
"""

from __future__ import annotations

import math
import queue
import random
import secrets
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from types import CodeType, FrameType
from typing import Any

import greenlet

from tests.support.fakes import VirtualClock

INTERRUPTED = 0.3
"""The part of the calls that are interrupted, of functions that may be."""
CHOSEN = 4
"""One in so many functions may be interrupted, in one run: those often, so that an unlucky line of theirs is met."""
LONGEST_PAUSE = 2.0
"""Seconds for which a thread that is interrupted does not go on, at most."""

STEP = 1e-5
"""Seconds that a step takes: so nobody can go round and round while time stands still."""


class Host:
    """What lives and dies together: a process. Its threads go on unless it is frozen or dead."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.name = name
        self.frozen = False
        self.dead = False
        machine.hosts.append(self)

    def thread(self, name: str, target: Callable[[], object]) -> Thread:
        """Start a thread of this process."""
        thread = Thread(self.machine, self, f"{self.name}:{name}", target)
        self.machine.threads.append(thread)
        return thread


class Thread:
    """A simulated thread."""

    __slots__ = ("deadline", "greenlet", "held_until", "host", "machine", "name", "number", "ready", "values")

    def __init__(self, machine: Machine, host: Host, name: str, target: Callable[[], object]) -> None:
        self.machine = machine
        self.host = host
        self.name = name
        self.number = machine.next_number()
        self.ready = True
        self.deadline = math.inf  # it goes on then, ready or not
        self.held_until = 0.0  # it does not go on before
        self.values: dict[int, dict[str, Any]] = {}  # of its `Local`s
        self.greenlet = greenlet.greenlet(lambda: self._run(target))

    def _run(self, target: Callable[[], object]) -> None:
        try:
            self.machine.arm()
            target()
        except greenlet.GreenletExit:
            pass
        except BaseException as error:
            self.machine.thread_failed(self, error)
        finally:
            self.machine.disarm()

    def wake(self) -> None:
        """It may go on."""
        self.ready = True


class Machine:
    """Runs the threads of all hosts."""

    def __init__(self, rng: random.Random, *, preemption: float = 0.0, files: str = "/gows/") -> None:
        """`preemption`: the part of the steps that are interrupted at some line, if they come to one of a file with
        `files` in its path."""
        self.rng = rng
        self.clock = VirtualClock()
        self.hosts: list[Host] = []
        self.threads: list[Thread] = []
        self.current: Thread | None = None
        self.steps = 0
        self.preemption = preemption
        self.files = files
        self.function: str | None = None  # only those of this name are interrupted; None: some that chance chose
        self.on_step: Callable[[Thread], object] = lambda thread: None
        self.after_step: Callable[[Thread], object] = lambda thread: None
        self.on_preempted: Callable[[Thread, FrameType], object] = lambda thread, frame: None
        self.on_failure: Callable[[Thread, BaseException], object] = lambda thread, error: None
        self.ended = False
        self._hub = greenlet.getcurrent()
        self._numbers = 0
        self._preempted: Thread | None = None
        self._interruptible = False  # the thread that goes on
        self._chosen: dict[CodeType, bool] = {}
        self._salt = rng.random()
        self._tracing = False
        self._before: Any = None  # the trace function of others, such as coverage's
        self._graves: list[Thread] = []

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def thread_failed(self, thread: Thread, error: BaseException) -> None:
        """A thread ended by an exception."""
        if not self.ended and not thread.host.dead:
            self.on_failure(thread, error)

    # ------------------------------------------------------------------ in a thread

    def wait(self, seconds: float | None = None) -> bool:
        """Let others go on until somebody calls `wake` of this thread, or the time is over; False: the time was."""
        thread = self.current
        assert thread is not None, "only a simulated thread can wait"
        thread.deadline = math.inf if seconds is None else self.clock() + seconds
        thread.ready = False
        self._switch()
        thread.deadline = math.inf
        woken, thread.ready = thread.ready, True
        return woken

    def pause(self) -> None:
        """Let others go on, perhaps."""
        self._switch()

    def _switch(self) -> None:
        if self.ended:
            raise greenlet.GreenletExit
        self.disarm()
        self._hub.switch()
        self.arm()

    # ------------------------------------------------------------------ in the hub

    def runnable(self) -> list[Thread]:
        """Those that can go on now."""
        now = self.clock()
        return [
            thread
            for thread in self.threads
            if (thread.ready or thread.deadline <= now) and not thread.host.frozen and thread.held_until <= now
        ]

    def step(self) -> bool:
        """Have one thread go on. False: none can."""
        ready = self.runnable()
        if not ready:
            return False
        rng = self.rng
        thread = ready[int(rng.random() * len(ready))] if len(ready) > 1 else ready[0]
        self.resume(thread, preempt=self.preemption > 0 and rng.random() < self.preemption)
        return True

    def resume(self, thread: Thread, *, preempt: bool = False) -> None:
        """Have this one go on."""
        self.steps += 1
        self.clock.advance(STEP)
        self.on_step(thread)
        self.current = thread
        if self._preempted is thread:
            self._preempted = None
        else:
            self._interruptible = preempt and self._preempted is None
        thread.greenlet.switch()
        self._interruptible = False
        self.current = None
        if thread.greenlet.dead:
            self.threads.remove(thread)
        self.after_step(thread)

    def next_deadline(self) -> float:
        """When some thread goes on by itself."""
        return min(
            (
                max(thread.held_until, 0.0 if thread.ready else thread.deadline)
                for thread in self.threads
                if not thread.host.frozen
            ),
            default=math.inf,
        )

    def bury(self, host: Host) -> None:
        """The process is no more; its threads do not go on, and release nothing."""
        host.dead = True
        self._graves += [thread for thread in self.threads if thread.host is host]
        self.threads = [thread for thread in self.threads if thread.host is not host]
        if self._preempted is not None and self._preempted.host is host:
            self._preempted = None

    def end(self) -> None:
        """End all threads."""
        self.ended = True
        for thread in [*self.threads, *self._graves]:
            self.current = thread
            if thread.greenlet:  # it has begun, and is not over
                thread.greenlet.throw(greenlet.GreenletExit)
            self.current = None
        self.threads.clear()
        self._graves.clear()

    # ------------------------------------------------------------------ preemption

    # The trace function is set in the thread that it is for, and unset before it waits: greenlets have one each, and
    # those of a thread that was interrupted rest meanwhile.

    def arm(self) -> None:
        """The current thread goes on: it is interrupted somewhere, perhaps, if that was decided."""
        if self._interruptible:
            self._before = sys.gettrace()
            self._tracing = True
            sys.settrace(self._on_call)

    def disarm(self) -> None:
        """It does not go on, or is over."""
        if self._tracing:
            self._tracing = False
            sys.settrace(self._before)

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        """A function is called: choose the line at which it is interrupted, if it is."""
        code = frame.f_code
        chosen = self._chosen.get(code)
        if chosen is None:
            chosen = self._chosen[code] = self._may_interrupt(code)
        if not chosen or event != "call" or self.rng.random() >= INTERRUPTED:
            return None
        left = int(self.rng.random() * _count_lines(code))

        def on_line(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal left
            if event == "line":
                left -= 1
                if left < 0 and self._tracing:
                    self.disarm()
                    self._interrupt(frame)
                    return None
            return on_line

        return on_line

    def _may_interrupt(self, code: CodeType) -> bool:
        """Whether this function is one of those that may be interrupted, in this run."""
        if self.files not in code.co_filename or code.co_name in _UNINTERRUPTED:
            return False
        if self.function is not None:
            return code.co_name == self.function
        place = f"{self._salt} {code.co_filename.rpartition('/gows/')[2]} {code.co_name}"
        return zlib.crc32(place.encode()) % CHOSEN == 0

    def _interrupt(self, frame: FrameType) -> None:
        """Take the processor away from a thread, for a while."""
        thread = self.current
        assert thread is not None
        self._preempted = thread
        self.on_preempted(thread, frame)
        thread.ready = False
        thread.deadline = self.clock() + self.rng.random() ** 4 * LONGEST_PAUSE
        self._hub.switch()
        thread.deadline = math.inf
        thread.ready = True
        if self.ended:
            raise greenlet.GreenletExit


@cache
def _count_lines(code: CodeType) -> int:
    return len({line for _, _, line in code.co_lines() if line is not None})


_UNINTERRUPTED = frozenset({"high_water", "low_water"})
"""Called with the lock of a stream held, which is a real one in the compiled variant."""

_machine: Machine | None = None


def machine() -> Machine:
    """The one whose run goes on."""
    assert _machine is not None
    return _machine


# ---------------------------------------------------------------------- stand-ins for threading


class Lock:
    """threading.Lock, or RLock with `reentrant`."""

    reentrant = False
    __slots__ = ("_depth", "_owner", "_waiting")

    def __init__(self) -> None:
        self._owner: Thread | None = None
        self._depth = 0
        self._waiting: list[Thread] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        here = machine()
        if here.ended:
            return True
        thread = here.current
        while self._depth:
            if self.reentrant and self._owner is thread:
                break
            if not blocking:
                return False
            if thread is None:  # the checks: let the owner come to an end with it
                assert self._owner is not None
                assert not self._owner.host.dead
                here.resume(self._owner)
                continue
            assert self._owner is not thread, f"{thread.name} waits for a lock that it has"
            self._waiting.append(thread)
            woken = here.wait(None if timeout < 0 else timeout)
            if thread in self._waiting:
                self._waiting.remove(thread)
            if not woken:
                return False
        self._owner = thread
        self._depth += 1
        return True

    def release(self) -> None:
        if machine().ended:
            return
        assert self._depth
        self._depth -= 1
        if not self._depth:
            self._owner = None
            for thread in self._waiting:
                thread.wake()

    def locked(self) -> bool:
        return self._depth > 0

    def _is_owned(self) -> bool:
        return self._depth > 0 and self._owner is machine().current

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


class RLock(Lock):
    """threading.RLock."""

    reentrant = True
    __slots__ = ("__weakref__",)


class Event:
    """threading.Event."""

    __slots__ = ("_set", "_waiting")

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[Thread] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for thread in self._waiting:
            thread.wake()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        here = machine()
        thread = here.current
        end = math.inf if timeout is None else here.clock() + timeout
        while not self._set and here.clock() < end:
            assert thread is not None
            self._waiting.append(thread)
            here.wait(None if end == math.inf else end - here.clock())
            self._waiting.remove(thread)
        return self._set


class SimpleQueue:
    """queue.SimpleQueue."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._waiting: list[Thread] = []

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self._items.append(item)
        for thread in self._waiting:
            thread.wake()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        here = machine()
        thread = here.current
        end = math.inf if timeout is None else here.clock() + timeout
        while not self._items:
            if not block or here.clock() >= end:
                raise queue.Empty
            assert thread is not None
            self._waiting.append(thread)
            here.wait(None if end == math.inf else end - here.clock())
            self._waiting.remove(thread)
        return self._items.popleft()

    def get_nowait(self) -> Any:
        return self.get(block=False)

    def empty(self) -> bool:
        return not self._items

    def qsize(self) -> int:
        return len(self._items)


class Local:
    """threading.local."""

    def _values(self) -> dict[str, Any]:
        thread = machine().current
        return {} if thread is None else thread.values.setdefault(id(self), {})

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values()[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._values()[name] = value


class _StartedThread:
    """threading.Thread: of the process of the thread that starts it."""

    def __init__(
        self,
        target: Callable[..., object],
        name: str = "thread",
        args: tuple[Any, ...] = (),
        daemon: bool | None = None,
    ) -> None:
        self.name = name
        self.daemon = daemon
        self._target = target
        self._args = args
        self._over = Event()
        self._thread: Thread | None = None

    def start(self) -> None:
        here = machine()
        assert here.current is not None
        self._thread = here.current.host.thread(self.name.removeprefix("gows-"), self._run)

    def _run(self) -> None:
        try:
            self._target(*self._args)
        finally:
            self._over.set()

    def is_alive(self) -> bool:
        return self._thread is not None and not self._over.is_set()

    def join(self, timeout: float | None = None) -> None:
        self._over.wait(timeout)


class _Threading:
    """The module threading."""

    Lock = Lock
    RLock = RLock
    Event = Event
    Thread = _StartedThread
    local = Local

    @staticmethod
    def get_ident() -> int:
        thread = machine().current
        return 0 if thread is None else thread.number

    @staticmethod
    def current_thread() -> object:
        return machine().current

    @staticmethod
    def main_thread() -> object:
        return machine  # nobody: signals come to none of these

    def __getattr__(self, name: str) -> Any:
        if name == "Condition":
            raise AttributeError("the simulation has no threading.Condition yet")
        return getattr(threading, name)


class _Time:
    """The module time."""

    @staticmethod
    def monotonic() -> float:
        return machine().clock()

    perf_counter = time_ = monotonic

    @staticmethod
    def monotonic_ns() -> int:
        return int(machine().clock() * 1e9)

    @staticmethod
    def sleep(seconds: float) -> None:
        machine().wait(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class _Secrets:
    """The module secrets."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def token_hex(self, size: int) -> str:
        return f"{self._rng.getrandbits(8 * size):0{2 * size}x}"

    def token_bytes(self, size: int) -> bytes:
        return self._rng.randbytes(size)


REAL: tuple[object, ...] = (
    threading,
    time,
    random,
    random.random,
    queue.SimpleQueue,
    secrets,
    threading.RLock,  # which is `gows.reactor.lock.Lock` in plain Python
    threading.local,
)
"""What `installed` has a stand-in for."""


LOCKS = {type(threading.Lock()): Lock, type(threading.RLock()): RLock}


@lru_cache(maxsize=1)
def _places(modules: int) -> list[tuple[Any, str, object]]:
    """Where the modules of gows have these, or locks of their own; looked for again when there are more modules."""
    known = set(map(id, REAL))
    return [
        (module, attribute, value)
        for name, module in sorted(sys.modules.items())
        if name.startswith("gows.") and not name.startswith(("gows.commands", "gows.processes", "gows.brokers.redis"))
        for attribute, value in vars(module).items()
        if id(value) in known or type(value) in LOCKS
    ]


@contextmanager
def installed(new: Machine) -> Iterator[None]:
    """Have gows run on this machine: all that it makes and calls from now on."""
    global _machine
    assert _machine is None, "one simulation at a time"
    numbers = random.Random(new.rng.getrandbits(64))
    stand_ins = (_Threading(), _Time(), numbers, numbers.random, SimpleQueue, _Secrets(numbers), RLock, Local)
    changed: list[tuple[Any, str, object]] = []
    replaced = dict(zip(map(id, REAL), stand_ins, strict=True))
    for module, attribute, real in _places(len(sys.modules)):
        if vars(module).get(attribute) is real:
            changed.append((module, attribute, real))
            stand_in = replaced.get(id(real))
            setattr(module, attribute, LOCKS[type(real)]() if stand_in is None else stand_in)
    for name, attribute, stand_in in (
        ("gows.session.heartbeat", "random", numbers.random),  # the tests' fixture may have another in its place
        ("gows.reactor.workers", "_here", Local()),
        ("gows.reactor.waits", "_here", Local()),
        ("gows.debug", "_here", Local()),
        ("gows.reactor.waits", "_inner", []),  # not those of other runs
        ("gows.reactor.listener", "_listening", set()),  # a process that is killed closes nothing
    ):
        module = sys.modules[name]
        if (module, attribute) not in [(changed_module, changed_name) for changed_module, changed_name, _ in changed]:
            changed.append((module, attribute, getattr(module, attribute)))
        setattr(module, attribute, stand_in)
    _machine = new
    try:
        yield
    finally:
        new.end()
        _machine = None
        for module, attribute, value in reversed(changed):
            setattr(module, attribute, value)
