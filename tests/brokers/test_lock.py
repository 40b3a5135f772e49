"""PublishLock: who comes amid something waits for its turn, and nothing of the user's runs with the lock held."""

from __future__ import annotations

import threading

import pytest

from gows.brokers.lock import PublishLock
from gows.debug import checked_lock
from gows.reactor import waits
from gows.reactor.waits import inner_lock


def test_who_comes_amid_something_waits_until_it_is_complete() -> None:
    lock = PublishLock()
    steps: list[str] = []
    assert not lock.held()
    with lock:
        assert lock.held()
        lock.before_release(lambda: steps.append(f"in turn, held: {lock.held()}"))
        with lock:
            steps.append("amid")
        steps.append("complete")
        lock.after_release(lambda: steps.append(f"afterwards, held: {lock.held()}"))
    assert steps == ["amid", "complete", "in turn, held: True", "afterwards, held: False"]


def test_what_is_left_may_leave_more() -> None:
    lock = PublishLock()
    steps: list[int] = []

    def leave_more() -> None:
        steps.append(1)
        lock.before_release(steps.append, 2)
        lock.after_release(steps.append, 3)

    with lock:
        lock.before_release(leave_more)
    assert steps == [1, 2, 3]


def test_what_fails_is_logged_and_the_rest_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    lock = PublishLock()
    steps: list[str] = []

    def fail(name: str) -> None:
        raise KeyError(name)

    def work() -> None:
        with lock:
            lock.before_release(fail, "in turn")
            lock.before_release(steps.append, "in turn")
            lock.after_release(fail, "afterwards")
            lock.after_release(steps.append, "afterwards")
            raise KeyError("the caller's")

    with pytest.raises(KeyError, match="the caller's"):
        work()
    assert steps == ["in turn", "afterwards"]
    assert [record.message for record in caplog.records] == [
        "a call that was left until the publish lock was free failed",
        "a call that waited for its turn under the publish lock failed",
    ]
    assert not lock.held()


def test_others_wait() -> None:
    lock = PublishLock()
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(200):
            with lock:
                inside.append(1)
                most.append(len(inside))
                with lock:
                    assert lock.held()
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert set(most) == {1}
    assert len(most) == 800


@pytest.mark.parametrize("way", ["inner lock", "guard"])
def test_who_may_not_wait_leaves_its_call_to_the_holder(way: str) -> None:
    """A finaliser that came amid something, whose lock the holder of the publish lock may be waiting for."""
    lock = PublishLock()
    inner = inner_lock("fanout")
    guarded = threading.Lock()
    lock.guards.append(guarded.locked)
    taken, done = threading.Event(), threading.Event()
    steps: list[str] = []

    def holder() -> None:
        with lock:
            taken.set()
            assert done.wait(10)
            steps.append("complete")

    thread = threading.Thread(target=holder)
    thread.start()
    assert taken.wait(10)
    with inner if way == "inner lock" else guarded:
        assert not lock.enter(steps.append, "left")
    assert steps == []
    done.set()
    thread.join(10)
    assert steps == ["complete", "left"]


def test_who_may_wait_waits() -> None:
    lock = PublishLock()
    taken, done = threading.Event(), threading.Event()
    steps: list[str] = []

    def holder() -> None:
        with lock:
            taken.set()
            assert done.wait(10)
            steps.append("complete")

    threads = [threading.Thread(target=holder)]
    threads[0].start()
    assert taken.wait(10)

    def waiting() -> None:
        assert lock.enter(steps.append, "never")
        steps.append("entered")
        lock.__exit__()

    threads.append(threading.Thread(target=waiting))
    threads[1].start()
    done.set()
    for thread in threads:
        thread.join(10)
    assert steps == ["complete", "entered"]


def test_a_lock_that_is_free_is_taken_whatever_else_is_held() -> None:
    lock = PublishLock()
    with inner_lock("fanout"):
        assert lock.enter(print)
        assert lock.held()
        lock.__exit__()
    assert not lock.held()


def test_locks_that_are_gone_are_forgotten() -> None:
    before = len(waits._inner)
    for _ in range(100):
        inner_lock("fanout")
    assert len(waits._inner) <= before + 1
    assert not waits.holds_inner_lock()


def test_who_enters_observes_the_order_of_locks_though_it_is_free() -> None:
    lock, inner = PublishLock(), checked_lock(threading.RLock, "stream")
    with lock, inner, lock:  # again
        pass
    with inner, pytest.raises(AssertionError, match="holds stream and is about to take publish"):
        lock.__enter__()
