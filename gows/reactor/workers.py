"""WorkerPool: runs tasks on threads; InlinePool: runs them in the loop's turn.

Why not one wake-up a task: with one interpreter lock, every thread that is runnable at once with the loop makes both
slower, and each hand-over of the lock is a trip through the kernel. So tasks wait in one queue, a turn's batch is
handed over with one wake-up, and one worker is enough as long as it gets on. Another is woken only when tasks wait
and nobody finished one between two looks, 2 ms apart: then a task blocks, and must not hold up the rest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

logger = logging.getLogger("gows")

LOOK_INTERVAL = 0.002
"""Seconds between two looks at busy workers."""


class Task(Protocol):
    """What a pool runs. A task is not run by two at once if its owner submits it only when it is not submitted
    already."""

    def run(self) -> None:
        """The work. What it raises is logged."""

    def stalled(self) -> None:
        """Loop thread, once a run at most: `run` has been going for two looks. It may end at the same moment."""


class InlinePool:
    """`workers=0`: tasks run in the loop's thread, in the turn in which they were submitted. They must not block."""

    inline = True

    def __init__(self, wake: Callable[[], None]) -> None:
        self._tasks: deque[Task] = deque()
        self._wake = wake

    def submit(self, task: Task) -> None:
        """Have `task.run()` called. Any thread."""
        self._tasks.append(task)
        self._wake()

    def kick(self) -> None:
        """The loop, once a turn: run what was submitted until now. What those submit waits for the next turn."""
        tasks = self._tasks
        for _ in range(len(tasks)):
            run_task(tasks.popleft())

    def patience(self) -> float | None:
        """How long the loop may sleep, in seconds."""
        return 0.0 if self._tasks else None

    def stop(self, timeout: float) -> bool:
        """Run what is left. True: nothing is running any more."""
        self.kick()
        return True


class WorkerPool:
    """`workers` daemon threads, started when first needed."""

    inline = False

    def __init__(self, wake: Callable[[], None], workers: int) -> None:
        self.tasks: deque[Task] = deque()
        self.idle: deque[_Worker] = deque()
        self.stopping = False
        self._wake = wake
        self._size = workers
        self._workers: list[_Worker] = []
        self._next_look = 0.0
        self._finished_before = 0  # runs that had ended at the last look
        self._watching = False

    def submit(self, task: Task) -> None:
        """Have `task.run()` called on a worker. Any thread; begins at the end of the loop's turn at the latest."""
        self.tasks.append(task)
        self._wake()

    def kick(self) -> None:
        """The loop, once a turn: hand over the turn's batch with one wake-up, and look after the busy ones from time
        to time."""
        if self.tasks and not any(worker.getting_on() for worker in self._workers):
            self._rouse()
        if self._watching:
            if time.monotonic() >= self._next_look:
                self._look()
        elif self.tasks:
            self._watching = True
            self._next_look = time.monotonic() + LOOK_INTERVAL

    def patience(self) -> float | None:
        """How long the loop may sleep, in seconds: until the next look, or for ever (None) when no worker needs
        one."""
        return LOOK_INTERVAL if self._watching else None

    def stop(self, timeout: float) -> bool:
        """Let the workers finish what is queued and end. False: after `timeout` seconds some task was still running;
        its thread is left behind, and does not keep the process alive."""
        self.stopping = True
        if self.tasks and not self._workers:
            self._rouse()
        for worker in self._workers:
            worker.gate.put(None)
        end = time.monotonic() + timeout
        for worker in self._workers:
            worker.thread.join(max(0.0, end - time.monotonic()))
        return not any(worker.thread.is_alive() for worker in self._workers)

    # ------------------------------------------------------------------ loop thread

    def _rouse(self) -> None:
        """One more worker, if there is one. The last that went idle: its stack may still be in the cache."""
        try:
            worker = self.idle.pop()
        except IndexError:
            if len(self._workers) < self._size:
                self._workers.append(_Worker(self, len(self._workers)))
            return
        worker.awake = True
        worker.gate.put(None)

    def _look(self) -> None:
        """Two milliseconds have gone by: do the workers get on?"""
        self._next_look = time.monotonic() + LOOK_INTERVAL
        finished = sum(worker.finished for worker in self._workers)
        if self.tasks and finished == self._finished_before:
            self._rouse()
        self._finished_before = finished
        unheard = [worker for worker in self._workers if worker.look()]
        spare = len(self.idle) > 0 or len(self._workers) < self._size
        self._watching = len(unheard) > 0 or (len(self.tasks) > 0 and spare)


class _Worker:
    """One thread. The loop reads its counters, it alone writes them (but `awake`, which is the loop's while it is
    idle)."""

    __slots__ = ("_pool", "awake", "finished", "gate", "seen", "started", "task", "thread", "told")

    def __init__(self, pool: WorkerPool, number: int) -> None:
        self._pool = pool
        self.gate: SimpleQueue[None] = SimpleQueue()  # a semaphore in C
        self.awake = True
        self.started = 0
        self.finished = 0
        self.seen = -1  # the run that was going on at the last look
        self.told = -1  # the run that was told that it stalls
        self.task: Task | None = None
        self.thread = threading.Thread(target=self._work, name=f"gows-worker-{number}", daemon=True)
        self.thread.start()

    def getting_on(self) -> bool:
        """Whether it will take the next task soon, as far as one can tell."""
        return self.awake and (self.finished == self.started or self.told != self.started)

    def look(self) -> bool:
        """Tell a run that is still going on at its second look. Whether another look is due."""
        task, run = self.task, self.started
        if task is None or run == self.told:
            return self.awake and task is None
        if run != self.seen:
            self.seen = run
            return True
        self.told = run
        try:
            task.stalled()
        except Exception:
            logger.exception("stalled() of %r raised", task)
        return False

    def _work(self) -> None:
        pool, tasks, idle = self._pool, self._pool.tasks, self._pool.idle
        while True:
            try:
                task = tasks.popleft()
            except IndexError:
                if pool.stopping:
                    return
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


def run_task(task: Task) -> None:
    """Run a task; what it raises is logged and ends nothing else."""
    try:
        task.run()
    except Exception:
        logger.exception("%r raised", task)
