"""The timing wheel by itself; in a loop, see test_loop.py."""

from __future__ import annotations

import random

import pytest

from gows.reactor import Timer, TimingWheel
from gows.reactor.timers import NEVER


def timer(due: int, log: list[object] | None = None, name: object = None) -> Timer:
    return Timer(due, (log if log is not None else []).append, (name,))


def test_empty() -> None:
    wheel = TimingWheel()
    assert wheel.next_due == NEVER
    assert wheel.take(10**9, 100) == ([], [])


def test_nothing_comes_before_its_tick() -> None:
    wheel = TimingWheel()
    wheel.add_descriptor(7, 50)
    one = timer(60)
    wheel.add_timer(one)
    assert wheel.next_due == 50
    assert wheel.take(49, 100) == ([], [])
    assert wheel.take(50, 100) == ([7], [])
    assert wheel.next_due == 60
    assert wheel.take(1000, 100) == ([], [one])
    assert wheel.next_due == NEVER


def test_a_later_deadline_adds_no_entry() -> None:
    """A heartbeat moves its deadline for ever."""
    wheel = TimingWheel()
    for tick in range(100, 10000):
        wheel.add_descriptor(3, tick)
    assert wheel.take(100, 10) == ([3], [])
    assert wheel.next_due == NEVER


def test_an_earlier_deadline_replaces_the_entry() -> None:
    wheel = TimingWheel()
    wheel.add_descriptor(3, 100)
    wheel.add_descriptor(3, 50)
    assert wheel.take(60, 10) == ([3], [])
    assert wheel.take(200, 10) == ([], []), "the old entry is stale"


def test_the_budget_is_kept_and_nothing_is_lost() -> None:
    wheel = TimingWheel()
    for fd in range(10):
        wheel.add_descriptor(fd, 5)
    timers = [timer(5) for _ in range(5)]
    for each in timers:
        wheel.add_timer(each)
    descriptors: list[int] = []
    fired: list[Timer] = []
    for _ in range(5):
        assert wheel.next_due == 5
        some, others = wheel.take(5, 3)
        assert len(some) + len(others) == 3
        descriptors += some
        fired += others
    assert (sorted(descriptors), fired) == (list(range(10)), timers)
    assert wheel.take(5, 3) == ([], [])


def test_timers_of_one_tick_keep_their_order() -> None:
    wheel = TimingWheel()
    timers = [timer(5) for _ in range(20)]
    for each in timers:
        wheel.add_timer(each)
    assert wheel.take(5, 100) == ([], timers)


def test_cancel_lets_go_of_the_function() -> None:
    log: list[object] = []
    wheel = TimingWheel()
    one, other = timer(5, log, "one"), timer(5, log, "other")
    wheel.add_timer(one)
    wheel.add_timer(other)
    assert wheel.active_timers == 2
    one.cancel()
    one.cancel()
    assert (one.active, other.active, wheel.active_timers) == (False, True, 1)
    assert wheel.take(5, 10) == ([], [one, other])
    assert one.take() == (None, ())
    assert other.take() == (log.append, ("other",))
    assert other.take() == (None, ()), "once is enough"


@pytest.mark.parametrize("seed", range(5))
def test_against_a_model(seed: int) -> None:
    """Random deadlines, moves, closes and jumps in time: each descriptor is reported at its deadline's tick, not
    before, not twice."""
    chance = random.Random(seed)
    wheel = TimingWheel()
    deadlines: dict[int, int] = {}
    now = 1
    for _ in range(2000):
        fd = chance.randrange(20)
        action = chance.random()
        if action < 0.6:
            deadlines[fd] = now + chance.randrange(1, 400)
            wheel.add_descriptor(fd, deadlines[fd])
        elif action < 0.7:
            deadlines.pop(fd, None)  # closed; its entry stays
        else:
            now += chance.choice([1, 1, 3, 50])
            due = []
            while wheel.next_due <= now:
                for ready in wheel.take(now, chance.randrange(1, 5))[0]:
                    if deadlines.get(ready, 0) > now:
                        wheel.add_descriptor(ready, deadlines[ready])
                    elif ready in deadlines:
                        due.append(ready)
                        del deadlines[ready]
            assert len(due) == len(set(due))
            assert all(deadline > now for deadline in deadlines.values()), "somebody was forgotten"
