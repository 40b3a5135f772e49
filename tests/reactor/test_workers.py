"""The worker pool: batches, one wake-up each, blocked tasks, the end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from gows.reactor import InlinePool, Loop, WorkerPool
from gows.reactor.workers import LOOK_INTERVAL
from tests.support.fakes import World
from tests.support.waiting import wait_until


class Job:
    """A task that does as it is told."""

    def __init__(self, action: Callable[[], object] | None = None) -> None:
        self._action = action
        self.runs = 0
        self.stalls = 0
        self.thread = ""
        self.stalled_event = threading.Event()

    def has_run(self) -> bool:
        return self.runs > 0

    def run(self) -> None:
        self.runs += 1
        self.thread = threading.current_thread().name
        if self._action is not None:
            self._action()

    def stalled(self) -> None:
        self.stalls += 1
        self.stalled_event.set()


class Pooled:
    """A pool whose loop is the test: it kicks when it likes."""

    def __init__(self, workers: int) -> None:
        self.wakes = 0
        self.pool = WorkerPool(self._wake, workers)

    def _wake(self) -> None:
        self.wakes += 1

    def until(self, condition: Callable[[], object]) -> None:
        """Turn as a loop would."""

        def turn() -> object:
            self.pool.kick()
            return condition()

        wait_until(turn)

    def threads(self) -> int:
        return sum(thread.name.startswith("gows-worker") for thread in threading.enumerate())


@pytest.fixture
def four() -> Iterator[Pooled]:
    pooled = Pooled(4)
    yield pooled
    assert pooled.pool.stop(5)


def test_no_thread_before_there_is_work(four: Pooled) -> None:
    four.pool.kick()
    assert four.threads() == 0
    assert four.pool.max_sleep() is None


def test_no_thread_to_be_had(four: Pooled, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The loop lives, says so once, and tries again."""

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    job = Job()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        four.pool.submit(job)
        four.pool.kick()
        four.pool.kick()
        four.pool._look()
        assert four.pool.max_sleep() == LOOK_INTERVAL
    assert caplog.text.count("can't start new thread") == 1
    four.until(lambda: job.runs)


def test_a_batch_is_run_by_one_worker_in_order(four: Pooled) -> None:
    order: list[int] = []
    jobs = [Job(partial(order.append, number)) for number in range(100)]
    for job in jobs:
        four.pool.submit(job)
    assert four.wakes == 100, "the wake-up itself is the loop's to coalesce"
    four.pool.kick()
    wait_until(lambda: len(order) == 100)
    assert order == list(range(100))
    assert {job.thread for job in jobs} == {"gows-worker-0"}
    assert four.threads() == 1


def test_batch_after_batch_needs_no_second_worker(four: Pooled) -> None:
    for _ in range(50):
        job = Job()
        four.pool.submit(job)
        four.pool.kick()
        wait_until(job.has_run)
    assert four.threads() <= 2, "a second one only if the first was slow to fall asleep"


def test_a_blocked_task_does_not_hold_up_the_others(four: Pooled) -> None:
    go_on = threading.Event()
    blocked = [Job(lambda: go_on.wait(10)) for _ in range(3)]
    try:
        for job in blocked:
            four.pool.submit(job)
        quick = [Job() for _ in range(20)]
        for job in quick:
            four.pool.submit(job)
        four.until(lambda: all(job.runs for job in quick))
        assert four.threads() == 4
        late = Job()
        four.pool.submit(late)
        four.until(lambda: late.runs)
    finally:
        go_on.set()
    four.until(lambda: all(job.stalls == 1 for job in blocked))


def test_all_workers_blocked_is_waited_out_without_looking(four: Pooled) -> None:
    go_on = threading.Event()
    blocked = [Job(lambda: go_on.wait(10)) for _ in range(4)]
    waiting = Job()
    try:
        for job in [*blocked, waiting]:
            four.pool.submit(job)
        four.until(lambda: all(job.stalls for job in blocked))
        four.until(lambda: four.pool.max_sleep() is None)
        assert waiting.runs == 0
        assert four.threads() == 4
    finally:
        go_on.set()
    wait_until(lambda: waiting.runs)


def test_work_that_comes_while_others_block_starts_at_once(four: Pooled) -> None:
    """The loop had stopped looking, for everybody who runs was told."""
    go_on = threading.Event()
    blocked = Job(lambda: go_on.wait(10))
    try:
        four.pool.submit(blocked)
        four.until(lambda: blocked.stalls and four.pool.max_sleep() is None)
        job = Job()
        four.pool.submit(job)
        four.pool.kick()
        wait_until(lambda: job.runs)
    finally:
        go_on.set()


def test_the_first_look_helps_and_the_second_tells(four: Pooled) -> None:
    """A task that was just begun is not taken for one that stalls; who waits behind it gets a worker of his own."""
    go_on = threading.Event()
    blocked, waiting = Job(lambda: go_on.wait(10)), Job()
    four.pool.submit(blocked)
    four.pool.submit(waiting)
    four.pool.kick()
    wait_until(lambda: blocked.runs)
    four.pool._look()
    assert blocked.stalls == 0
    wait_until(lambda: waiting.runs)
    four.pool._look()
    assert blocked.stalls == 1
    go_on.set()


def test_a_task_is_told_once_that_it_stalls(four: Pooled) -> None:
    go_on = threading.Event()
    job = Job(lambda: go_on.wait(10))
    four.pool.submit(job)
    four.until(lambda: job.stalls)
    for _ in range(5):
        four.pool.kick()
    go_on.set()
    four.until(lambda: four.pool.max_sleep() is None)
    assert job.stalls == 1


def test_the_loop_looks_while_somebody_works_and_then_no_more(four: Pooled) -> None:
    go_on = threading.Event()
    four.pool.submit(Job(lambda: go_on.wait(10)))
    four.pool.kick()
    assert four.pool.max_sleep() == LOOK_INTERVAL
    go_on.set()
    four.until(lambda: four.pool.max_sleep() is None)


def test_a_stalled_that_raises_is_logged(four: Pooled, caplog: pytest.LogCaptureFixture) -> None:
    go_on = threading.Event()

    class Bad(Job):
        def stalled(self) -> None:
            super().stalled()
            raise ZeroDivisionError

    job = Bad(lambda: go_on.wait(10))
    four.pool.submit(job)
    four.until(lambda: job.stalls)
    go_on.set()
    assert "ZeroDivisionError" in caplog.text


def test_a_task_that_raises_ends_nothing(four: Pooled, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Job(lambda: 1 / 0), Job()
    four.pool.submit(bad)
    four.pool.submit(good)
    four.until(lambda: good.runs)
    assert "ZeroDivisionError" in caplog.text
    assert good.thread == bad.thread


def leave() -> None:
    raise SystemExit


def test_a_task_that_wants_to_leave_takes_no_worker_with_it(four: Pooled, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Job(leave), Job()
    four.pool.submit(bad)
    four.pool.submit(good)
    four.until(lambda: good.runs)
    assert "SystemExit" in caplog.text
    assert good.thread == bad.thread


@pytest.mark.parametrize("make", [InlinePool, lambda wake: WorkerPool(wake, 1)])
def test_a_task_that_has_not_begun_can_be_withdrawn(
    make: Callable[[Callable[[], None]], InlinePool | WorkerPool],
) -> None:
    pool = make(lambda: None)
    first, second, third = jobs = [Job(), Job(), Job()]
    for job in jobs:
        pool.submit(job)
    assert pool.withdraw(second)
    assert not pool.withdraw(second)
    pool.kick()
    wait_until(third.has_run)
    assert not pool.withdraw(first)
    assert [job.runs for job in jobs] == [1, 0, 1]
    assert pool.stop(5)


def test_ctrl_c_in_an_inline_task_is_for_the_program() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    pool = InlinePool(lambda: None)
    pool.submit(Job(interrupt))
    with pytest.raises(KeyboardInterrupt):
        pool.kick()


def test_whether_the_caller_is_a_worker(four: Pooled) -> None:
    told: list[bool] = []
    job = Job(lambda: told.append(four.pool.in_worker()))
    four.pool.submit(job)
    four.until(lambda: job.runs)
    other = Pooled(1)
    stranger = Job(lambda: told.append(four.pool.in_worker()))
    other.pool.submit(stranger)
    other.until(lambda: stranger.runs)
    assert other.pool.stop(5)
    assert told == [True, False]
    assert not four.pool.in_worker()
    assert not InlinePool(lambda: None).in_worker()


def test_a_task_may_submit_itself_again(four: Pooled) -> None:
    class Again(Job):
        def run(self) -> None:
            super().run()
            if self.runs < 50:
                four.pool.submit(self)

    job = Again()
    four.pool.submit(job)
    four.until(lambda: job.runs == 50)


def test_no_task_is_lost_between_working_and_idle(four: Pooled) -> None:
    """The race of a worker that falls asleep while a batch comes in, many times over."""
    done = threading.Semaphore(0)
    for _ in range(500):
        four.pool.submit(Job(done.release))
        four.pool.kick()
        assert done.acquire(timeout=5)


class Doorway(deque[Any]):
    """The pool's idle workers; does something in the very moment in which one falls asleep."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__()
        self._actions = [action]

    def append(self, worker: Any) -> None:
        super().append(worker)
        if self._actions:
            self._actions.pop()()


def test_a_task_that_comes_as_the_worker_falls_asleep(four: Pooled) -> None:
    """The loop may have seen it awake, and then wakes nobody."""
    late = Job()
    four.pool.idle = Doorway(lambda: four.pool.tasks.append(late))
    four.pool.submit(Job())
    four.pool.kick()
    wait_until(lambda: late.runs)


def test_a_task_that_comes_as_the_worker_falls_asleep_and_is_woken(four: Pooled) -> None:
    late = Job()

    def submit_and_kick() -> None:
        four.pool.submit(late)
        four.pool.kick()

    four.pool.idle = Doorway(submit_and_kick)
    four.pool.submit(Job())
    four.pool.kick()
    wait_until(lambda: late.runs)


def test_a_pool_that_stops_as_the_worker_falls_asleep() -> None:
    pooled = Pooled(1)
    pooled.pool.idle = Doorway(lambda: setattr(pooled.pool, "stopping", True))
    pooled.pool.submit(Job())
    pooled.pool.kick()
    wait_until(lambda: not pooled.threads())


def test_tasks_of_many_threads(poller_name: str) -> None:
    with Loop(poller=poller_name, workers=3) as loop:
        loop.start()
        done = threading.Semaphore(0)

        def feed() -> None:
            for _ in range(200):
                loop.pool.submit(Job(done.release))

        threads = [threading.Thread(target=feed) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for _ in range(1000):
            assert done.acquire(timeout=5)


def test_a_task_blocks_for_long_and_the_loop_and_the_others_go_on() -> None:
    go_on = threading.Event()
    with Loop(workers=2) as loop:
        loop.start()
        blocked = Job(lambda: go_on.wait(30))
        loop.pool.submit(blocked)
        assert blocked.stalled_event.wait(5)
        for _ in range(100):
            done = threading.Event()
            loop.pool.submit(Job(done.set))
            assert done.wait(5)
        go_on.set()


def test_stop_runs_what_is_queued() -> None:
    pooled = Pooled(2)
    jobs = [Job() for _ in range(10)]
    for job in jobs:
        pooled.pool.submit(job)
    assert pooled.pool.stop(5)
    assert all(job.runs == 1 for job in jobs)
    assert pooled.threads() == 0


def test_stop_of_idle_and_busy_workers() -> None:
    pooled = Pooled(2)
    go_on = threading.Event()
    blocked, quick, late = Job(lambda: go_on.wait(10)), Job(), Job()
    pooled.pool.submit(blocked)
    pooled.until(lambda: blocked.stalls)
    pooled.pool.submit(quick)
    pooled.until(lambda: quick.runs)
    pooled.pool.submit(late)
    assert pooled.pool.stop(0.01) is False, "one still runs"
    wait_until(lambda: late.runs)
    go_on.set()
    assert pooled.pool.stop(5)


def test_stop_with_nothing_ever_done() -> None:
    assert Pooled(2).pool.stop(0)


# ---------------------------------------------------------------------- workers=0


def test_inline_runs_in_the_turn(world: World) -> None:
    loop = world.loop()
    assert loop.pool.inline
    job = Job()
    loop.call_soon(loop.pool.submit, job)
    loop.run_once(0)
    assert job.runs == 1
    assert job.thread == threading.current_thread().name
    job.stalled()


def test_inline_a_task_that_submits_itself_waits_for_the_next_turn(world: World) -> None:
    loop = world.loop()

    class Again(Job):
        def run(self) -> None:
            super().run()
            loop.pool.submit(self)

    job = Again()
    loop.pool.submit(job)
    for turns in range(1, 4):
        loop.run_once(None)
        assert job.runs == turns
    loop.pool.kick()


def test_inline_from_another_thread(loop: Loop) -> None:
    loop.start()
    done = threading.Event()
    job = Job(done.set)
    loop.pool.submit(job)
    assert done.wait(5)
    assert job.thread == "gows-loop"


def test_inline_stop_runs_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    pool = InlinePool(lambda: None)
    good = Job()
    pool.submit(Job(lambda: 1 / 0))
    pool.submit(good)
    assert pool.stop(0)
    assert good.runs == 1
    assert "ZeroDivisionError" in caplog.text
