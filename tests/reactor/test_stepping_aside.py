"""Workers whose task waits for somebody outside: others take their place, and go when it is over."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from gows.reactor import Loop, workers
from gows.reactor.workers import WorkerPool
from tests.support.waiting import wait_until


class Waiter:
    """A task that steps aside until it may go on."""

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        self.waiting = threading.Event()
        self.go_on = threading.Event()
        self.allowed: bool | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        self.allowed = self.pool.step_aside()
        self.waiting.set()
        self.go_on.wait(10)
        if self.allowed:
            self.pool.step_back()
        self.ended.set()

    def stalled(self) -> None:
        pass


class Quick:
    def __init__(self) -> None:
        self.ended = threading.Event()

    def run(self) -> None:
        self.ended.set()

    def stalled(self) -> None:
        pass


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop(workers=2) as loop:
        loop.start()
        yield loop


def threads() -> int:
    return sum(thread.name.startswith("gows-worker") for thread in threading.enumerate())


class Slow(Quick):
    """A task that takes long, and waits for nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def run(self) -> None:
        self.go_on.wait(10)
        super().run()


def test_who_waits_after_a_task_that_took_long_holds_up_nobody() -> None:
    """Its worker had been given up by then, as slow, and none to spare, so nobody looked after it any more."""
    with Loop(workers=1) as loop:
        loop.start()
        pool = loop.pool
        assert isinstance(pool, WorkerPool)
        slow, waiter, quick = Slow(), Waiter(pool), Quick()
        pool.submit(slow)
        wait_until(lambda: pool.workers and pool.workers[0].reported == 1 and not pool._watching)
        pool.submit(waiter)
        pool.submit(quick)
        slow.go_on.set()
        assert waiter.waiting.wait(5)
        assert quick.ended.wait(5)
        waiter.go_on.set()
        assert waiter.ended.wait(5)


def test_who_waits_outside_holds_up_nobody(loop: Loop) -> None:
    pool = loop.pool
    assert isinstance(pool, WorkerPool)
    waiters = [Waiter(pool) for _ in range(5)]
    for waiter in waiters:
        pool.submit(waiter)
        assert waiter.waiting.wait(5)
    quick = Quick()
    pool.submit(quick)
    assert quick.ended.wait(5)
    assert threads() >= 6
    for waiter in waiters:
        waiter.go_on.set()
        assert waiter.ended.wait(5)
    wait_until(lambda: threads() <= 2, what=lambda: f"{threads()} threads, for 2 workers")
    quick = Quick()
    pool.submit(quick)
    assert quick.ended.wait(5)


def test_a_task_that_waits_in_the_queue_is_taken_up_when_somebody_steps_aside(loop: Loop) -> None:
    """Both workers are busy, and the loop has stopped looking after them: it has to be told."""
    pool = loop.pool
    assert isinstance(pool, WorkerPool)
    busy = [Busy(), Busy()]
    for task in busy:
        pool.submit(task)
    quick = Quick()
    pool.submit(quick)
    for task in busy:
        assert task.told.wait(5)
    wait_until(lambda: pool.max_sleep() is None)
    busy[0].pool = pool
    busy[0].go_on.set()
    assert quick.ended.wait(5)
    for task in busy:
        task.go_on.set()
        task.end.set()


class Busy:
    """A task that computes until it may go on, and then, if it has a pool, waits aside for its end."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self.go_on = threading.Event()
        self.end = threading.Event()
        self.pool: WorkerPool | None = None

    def run(self) -> None:
        self.go_on.wait(10)
        if self.pool is not None:
            assert self.pool.step_aside()
            self.end.wait(10)
            self.pool.step_back()

    def stalled(self) -> None:
        self.told.set()


def test_the_number_of_threads_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MAX_ASIDE", 1)
    with Loop(workers=2) as loop:
        loop.start()
        pool = loop.pool
        assert isinstance(pool, WorkerPool)
        first, second = Waiter(pool), Waiter(pool)
        for waiter in (first, second):
            pool.submit(waiter)
            assert waiter.waiting.wait(5)
        assert (first.allowed, second.allowed) == (True, False)
        first.go_on.set()
        second.go_on.set()
        assert first.ended.wait(5)
        third = Waiter(pool)
        third.go_on.set()
        pool.submit(third)
        assert third.ended.wait(5)
        assert third.allowed
