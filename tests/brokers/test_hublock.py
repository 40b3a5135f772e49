"""HubLock: who comes amid something waits for its turn, and nothing of the user's runs with the lock held."""

from __future__ import annotations

import threading

import pytest

from gows.brokers.hublock import HubLock


def test_who_comes_amid_something_waits_until_it_is_complete() -> None:
    lock = HubLock()
    steps: list[str] = []
    assert not lock.held()
    with lock:
        assert lock.held()
        lock.in_turn(lambda: steps.append(f"in turn, held: {lock.held()}"))
        with lock:
            steps.append("amid")
        steps.append("complete")
        lock.afterwards(lambda: steps.append(f"afterwards, held: {lock.held()}"))
    assert steps == ["amid", "complete", "in turn, held: True", "afterwards, held: False"]


def test_what_is_left_may_leave_more() -> None:
    lock = HubLock()
    steps: list[int] = []
    with lock:
        lock.in_turn(lambda: (steps.append(1), lock.in_turn(steps.append, 2), lock.afterwards(steps.append, 3)))
    assert steps == [1, 2, 3]


def test_what_fails_is_logged_and_the_rest_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    lock = HubLock()
    steps: list[str] = []

    def work() -> None:
        with lock:
            lock.in_turn(lambda: {}["in turn"])
            lock.in_turn(steps.append, "in turn")
            lock.afterwards(lambda: {}["afterwards"])
            lock.afterwards(steps.append, "afterwards")
            raise KeyError("the caller's")

    with pytest.raises(KeyError, match="the caller's"):
        work()
    assert steps == ["in turn", "afterwards"]
    assert [record.message for record in caplog.records] == [
        "something that was left for later failed",
        "something that waited for its turn failed",
    ]
    assert not lock.held()


def test_others_wait() -> None:
    lock = HubLock()
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
