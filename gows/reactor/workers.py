"""WorkerPool: runs tasks on threads; InlinePool: runs them in the loop's turn.

Why not one wake-up a task: with one interpreter lock, every thread that is runnable at once with the loop makes both
slower, and each hand-over of the lock is a trip through the kernel. So tasks wait in one queue, a turn's batch is
handed over with one wake-up, and one worker is enough as long as it gets on. Another is woken only when tasks wait
and nobody finished one between two looks, 2 ms apart: then a task blocks, and must not hold up the rest.

A task that has to wait for somebody outside, such as a peer that reads slowly, says so with `step_aside`: as long as it
waits, its thread does not count, and another may be started in its place.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from queue import SimpleQueue
from typing import Protocol

from gows.debug import DEBUG, check_unlocked
from gows.reactor.waits import inner_lock

logger = logging.getLogger("gows")

LOOK_INTERVAL = 0.002
"""Seconds between two looks at busy workers."""
MAX_ASIDE = 128
"""Threads that may wait for somebody outside at once."""


_here = threading.local()  # .worker, where this thread is one; it begins before its pool knows it


class Task(Protocol):
    """What a pool runs. A task is not run by two at once if its owner submits it only when it is not submitted
    already."""

    def run(self) -> None:
        """Do the work. What it raises is logged."""

    def stalled(self) -> None:
        """Take note that `run` has been going on for two looks. Loop thread, once a run at most; `run` may end at the
        same moment."""


def current_task() -> Task | None:
    """Return the task that the calling thread runs; None when it is no worker of a pool."""
    worker: _Worker | None = getattr(_here, "worker", None)
    return None if worker is None else worker.task


@contextmanager
def stepping_aside() -> Iterator[None]:
    """Let another thread take this one's place in its pool, if it is a worker's, while the block waits for somebody.
    When MAX_ASIDE wait already it keeps its place."""
    if DEBUG:
        check_unlocked("wait for somebody outside")
    worker: _Worker | None = getattr(_here, "worker", None)
    pool = None if worker is None or not worker.pool.step_aside() else worker.pool
    try:
        yield
    finally:
        if pool is not None:
            pool.step_back()


def call(fn: Callable[..., object], *args: object) -> None:
    """Call `fn(*args)`."""
    fn(*args)


class InlinePool:
    """Runs tasks in the loop's thread (`workers=0`), in the turn in which they were submitted. They must not block."""

    inline = True

    def __init__(self, wake: Callable[[], None], isolated: Callable[..., object] = call) -> None:
        """`isolated(fn, *args)` calls a function with context variables of its own."""
        self.tasks: deque[Task] = deque()
        self._wake = wake
        self._isolated = isolated

    def submit(self, task: Task) -> None:
        """Have `task.run()` called. Any thread."""
        self.tasks.append(task)
        self._wake()

    def withdraw(self, task: Task) -> bool:
        """Remove a task that has not begun. Returns whether it was there: it is not run then. Any thread."""
        return _withdraw(self.tasks, task)

    def kick(self) -> None:
        """Run what was submitted until now, once a turn. What is submitted meanwhile waits for the next turn. Loop
        thread."""
        tasks = self.tasks
        for _ in range(len(tasks)):
            self._isolated(run_task, tasks.popleft())

    def max_sleep(self) -> float | None:
        """Return how many seconds the loop may sleep; None: for ever."""
        return 0.0 if self.tasks else None

    @property
    def busy(self) -> bool:
        """Whether a task waits. Loop thread."""
        return len(self.tasks) > 0

    def in_worker(self) -> bool:
        """Return False: there are no workers."""
        return False

    def step_aside(self, *, beyond: bool = False) -> bool:
        """Return False: nobody may wait in the loop's thread."""
        return False

    def step_back(self) -> None:
        """Do nothing; never called, for no task has stepped aside."""

    def stop(self, timeout: float) -> bool:
        """Run what is left. Returns True: nothing is running any more."""
        self.kick()
        return True


class WorkerPool:
    """Runs tasks on `workers` daemon threads, started when first needed; those that wait for somebody outside do not
    count."""

    inline = False

    def __init__(self, wake: Callable[[], None], workers: int) -> None:
        self.tasks: deque[Task] = deque()
        self.idle: deque[_Worker] = deque()
        self.stopping = False
        self._wake = wake
        self._lock = inner_lock("workers")  # of the two below; a finaliser may come amid it, and write
        self.size = workers  # how many there may be: one more for each that has stepped aside
        self.workers: list[_Worker] = []  # replaced, not changed: the loop goes through it without the lock
        self._limit = workers + MAX_ASIDE
        self._number = 0
        self._next_look = 0.0
        self._finished_before = 0  # runs that had ended at the last look
        self._short = False  # of threads
        self._watching = False

    def submit(self, task: Task) -> None:
        """Have `task.run()` called on a worker. Any thread; begins at the end of the loop's turn at the latest."""
        self.tasks.append(task)
        self._wake()

    def withdraw(self, task: Task) -> bool:
        """Remove a task that has not begun. Returns whether it was there: it is not run then. Any thread."""
        return _withdraw(self.tasks, task)

    def kick(self) -> None:
        """Hand over the turn's batch with one wake-up, and look after the busy workers from time to time. Loop thread,
        once a turn."""
        if self.tasks and not any(worker.makes_progress() for worker in self.workers) and self._rouse():
            if not self._watching:
                self._watch()
        elif self._watching:
            if time.monotonic() >= self._next_look:
                self._look()
        elif self.tasks and self._spare():  # one that had been given up as slow has taken another task
            self._watch()

    @property
    def busy(self) -> bool:
        """Whether a task waits, or runs. Any thread."""
        return len(self.tasks) > 0 or any(worker.awake for worker in self.workers)

    def in_worker(self) -> bool:
        """Return whether the caller is one of the workers. Any thread."""
        worker = getattr(_here, "worker", None)
        return worker is not None and worker.pool is self

    def max_sleep(self) -> float | None:
        """Return how many seconds the loop may sleep: until the next look, or for ever (None) when no worker needs one.
        0.0 if a task came since `kick`, from a thread that found the loop awake."""
        if self._watching:
            return LOOK_INTERVAL
        return 0.0 if self.tasks and self._spare() else None

    def stop(self, timeout: float) -> bool:
        """Let the workers finish what is queued and end. Returns False if some task is still running after `timeout`
        seconds; its thread is left behind, and does not keep the process alive."""
        if DEBUG:
            check_unlocked("wait for the workers")
        self.stopping = True
        if self.tasks and not self.workers:
            self._rouse()
        workers = self.workers
        for worker in workers:
            worker.gate.put(None)
        end = time.monotonic() + timeout
        for worker in workers:
            worker.thread.join(max(0.0, end - time.monotonic()))
        return not any(worker.thread.is_alive() for worker in workers)

    # ------------------------------------------------------------------ a worker, in a task

    def step_aside(self, *, beyond: bool = False) -> bool:
        """Let another thread take the place of the caller's, whose task is going to wait for somebody outside;
        `step_back` must follow.

        Returns False if too many wait already: then this one must not. `beyond`: it may, for another one was woken and
        steps back as soon as it runs.
        """
        with self._lock:
            if self.size >= self._limit and not beyond:
                return False
            self.size += 1
        self._note(aside=True)
        self._wake()
        return True

    def step_back(self) -> None:
        """Take the place again: the task goes on. A thread that is one too many now ends as soon as it has nothing to
        do."""
        self._note(aside=False)
        with self._lock:
            self.size -= 1
        if len(self.workers) > self.size:
            self._wake_idle()

    def _note(self, *, aside: bool) -> None:
        """Note whether the caller's worker has stepped aside. Another is then woken at once, and not at its second
        look."""
        worker: _Worker | None = getattr(_here, "worker", None)
        if worker is not None:
            worker.aside = aside

    def surplus(self, worker: _Worker) -> bool:
        """Forget `worker`, which is idle, if it is one too many. Returns whether it is, and must end."""
        with self._lock:
            if len(self.workers) <= self.size:
                return False
            self.workers = [other for other in self.workers if other is not worker]
            return True

    # ------------------------------------------------------------------ loop thread

    def _rouse(self) -> bool:
        """Wake one more worker, or start one. Returns False if all that may run do. The last that went idle comes
        first: its stack may still be in the cache."""
        if self._wake_idle():
            return True
        with self._lock:
            if len(self.workers) >= self.size:
                return False
            short, self._short = self._short, False
            try:
                self.workers = [*self.workers, _Worker(self, self._number)]
            except RuntimeError as error:  # no thread to be had: tried again at the next look, and the loop goes on
                fault = error
            else:
                self._number += 1
                return True
        self._short = True
        if not short:
            logger.error("%s; tasks wait for the %d workers there are", fault, len(self.workers))
        return True

    def _wake_idle(self) -> bool:
        """Wake the worker that went idle last. Returns False if none is idle. Any thread."""
        try:
            worker = self.idle.pop()
        except IndexError:
            return False
        worker.awake = True
        worker.gate.put(None)
        return True

    def _watch(self) -> None:
        self._watching = True
        self._next_look = time.monotonic() + LOOK_INTERVAL

    def _look(self) -> None:
        """Find out whether the workers make progress; rouse another if none does. Every two milliseconds."""
        self._next_look = time.monotonic() + LOOK_INTERVAL
        finished = sum(worker.finished for worker in self.workers)
        if self.tasks and finished == self._finished_before:
            self._rouse()
        self._finished_before = finished
        unreported = [worker for worker in self.workers if worker.look()]
        self._watching = len(unreported) > 0 or (len(self.tasks) > 0 and self._spare())

    def _spare(self) -> bool:
        """Return whether there is, or could be, a worker more."""
        return len(self.idle) > 0 or len(self.workers) < self.size


class _Worker:
    """Runs tasks in one thread. The loop reads its counters; the worker alone writes them (but `awake`, which is the
    loop's while the worker is idle)."""

    __slots__ = ("aside", "awake", "finished", "gate", "pool", "reported", "seen", "started", "task", "thread")

    def __init__(self, pool: WorkerPool, number: int) -> None:
        self.pool = pool
        self.gate: SimpleQueue[None] = SimpleQueue()  # a semaphore in C
        self.awake = True
        self.aside = False  # its task waits for somebody outside
        self.started = 0
        self.finished = 0
        self.seen = -1  # the run that was going on at the last look
        self.reported = -1  # the run whose task was told (`stalled`) that it takes long
        self.task: Task | None = None
        self.thread = threading.Thread(target=self._work, name=f"gows-worker-{number}", daemon=True)
        self.thread.start()

    def makes_progress(self) -> bool:
        """Return whether it will take the next task soon, as far as one can tell."""
        return self.awake and not self.aside and (self.finished == self.started or self.reported != self.started)

    def look(self) -> bool:
        """Tell a run that is still going on at its second look. Returns whether another look is due."""
        task, run = self.task, self.started
        if task is None or run == self.reported:
            return self.awake and task is None
        if run != self.seen:
            self.seen = run
            return True
        self.reported = run
        try:
            task.stalled()
        except Exception:
            logger.exception("stalled() of %r raised", task)
        return False

    def _work(self) -> None:
        _here.worker = self
        while True:
            context = Context()
            if context.run(self._run_tasks, context):
                return

    def _run_tasks(self, context: Context) -> bool:
        """Run tasks in `context`, which is empty, until the thread is to end (True), or one has set a context variable:
        the next must not see it, and to look costs less than a context for each."""
        pool, tasks, idle = self.pool, self.pool.tasks, self.pool.idle
        task: Task | None
        while True:
            try:
                task = tasks.popleft()
            except IndexError:
                task = None
                if pool.stopping or (len(pool.workers) > pool.size and pool.surplus(self)):
                    return True
                self.awake = False
                idle.append(self)
                if not tasks and not pool.stopping:
                    self.gate.get()
                    continue
                try:  # something came in between: nobody may have noticed that we became idle
                    idle.remove(self)
                except ValueError:
                    self.gate.get()  # the loop did
                else:
                    self.awake = True
                continue
            self.started += 1
            self.task = task
            run_task(task)
            self.task = None
            self.finished += 1
            if context:
                return False


def _withdraw(tasks: deque[Task], task: Task) -> bool:
    try:
        tasks.remove(task)  # in one step: tasks are compared by identity, which runs no Python
    except ValueError:
        return False
    return True


def run_task(task: Task) -> None:
    """Run a task; what it raises is logged and ends nothing else."""
    if DEBUG:
        check_unlocked("run a task")
    try:
        task.run()
    except KeyboardInterrupt:  # Ctrl-C in a main thread that runs the loop
        raise
    except BaseException:  # SystemExit too: it would end a worker, or the loop
        logger.exception("%r raised", task)
