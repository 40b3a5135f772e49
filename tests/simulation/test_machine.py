"""Machine: simulated threads, and what they wait for."""

from __future__ import annotations

import queue
import random
from collections.abc import Callable, Iterator

import pytest

from tests.simulation import machine as machines
from tests.simulation.machine import Event, Host, Local, Lock, Machine, RLock, SimpleQueue, installed


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine(random.Random(1))
    with installed(made):
        yield made


@pytest.fixture
def host(machine: Machine) -> Host:
    return Host(machine, "host")


def run(machine: Machine) -> None:
    """Until nobody can go on any more."""
    while True:
        if not machine.step():
            until = machine.next_deadline()
            if until == float("inf"):
                return
            machine.clock.advance_to(until)


def test_who_waits_for_a_lock_gets_it_when_it_is_released(machine: Machine, host: Host) -> None:
    lock, calls = Lock(), []

    def hold() -> None:
        with lock:
            calls.append("held")
            machine.wait(1.0)
            calls.append("released")

    def want() -> None:
        machine.wait(0.5)
        assert not lock.acquire(blocking=False)
        assert not lock.acquire(timeout=0.2)
        with lock:
            calls.append("mine")

    host.thread("one", hold)
    host.thread("other", want)
    run(machine)
    assert calls == ["held", "released", "mine"]
    assert not lock.locked()


def test_a_reentrant_lock_is_its_owners(machine: Machine, host: Host) -> None:
    lock = RLock()
    found: list[bool] = []

    def twice() -> None:
        with lock, lock:
            found.append(lock._is_owned())
            machine.wait(1.0)
        found.append(lock.locked())

    def other() -> None:
        machine.wait(0.1)
        found.append(lock._is_owned())
        found.append(lock.acquire(blocking=False))

    host.thread("one", twice)
    host.thread("other", other)
    run(machine)
    assert found == [True, False, False, False]


def test_a_thread_that_waits_for_its_own_lock_is_found(machine: Machine, host: Host) -> None:
    lock = Lock()
    failed: list[BaseException] = []
    machine.on_failure = lambda thread, error: failed.append(error)

    def twice() -> None:
        with lock, lock:
            pass

    host.thread("one", twice)
    run(machine)
    assert "waits for a lock that it has" in str(failed[0])


def test_events_and_queues(machine: Machine, host: Host) -> None:
    event, items = Event(), SimpleQueue()
    found: list[object] = []

    def wait() -> None:
        found.append(event.wait(0.5))
        found.append(event.wait())
        try:
            items.get(timeout=0.5)
        except queue.Empty:
            found.append("empty")
        found.append(items.get())
        found.append(round(machine.clock() - 1000.0, 2))

    def fill() -> None:
        machine.wait(1.0)
        event.set()
        machine.wait(1.0)
        items.put("item")

    host.thread("wait", wait)
    host.thread("fill", fill)
    run(machine)
    assert found == [False, True, "empty", "item", 2.0]
    assert items.empty()


def test_each_thread_has_its_own_values(machine: Machine, host: Host) -> None:
    local, found = Local(), []

    def use(value: int) -> Callable[[], None]:
        def thread() -> None:
            found.append(getattr(local, "value", None))
            local.value = value
            machine.pause()
            found.append(local.value)

        return thread

    host.thread("one", use(1))
    host.thread("two", use(2))
    run(machine)
    assert sorted(map(str, found)) == ["1", "2", "None", "None"]


def test_nobody_goes_on_that_is_frozen_or_dead(machine: Machine) -> None:
    calls: list[str] = []

    def work(name: str) -> Callable[[], None]:
        def thread() -> None:
            while len(calls) < 20:
                calls.append(name)
                machine.wait(1.0)

        return thread

    frozen, dead, alive = (Host(machine, name) for name in ("frozen", "dead", "alive"))
    for host in (frozen, dead, alive):
        host.thread("main", work(host.name))
    while len(calls) < 3:
        machine.step()
    frozen.frozen = True
    machine.bury(dead)
    run(machine)
    assert set(calls[3:]) == {"alive"}


def test_a_thread_is_interrupted_between_any_two_lines(machine: Machine, host: Host) -> None:
    machine.files = "/simulation/test_machine.py"
    machine.preemption = 1.0
    places: set[int] = set()
    machine.on_preempted = lambda thread, frame: places.add(frame.f_lineno - frame.f_code.co_firstlineno)
    machines_chosen, machines.CHOSEN = machines.CHOSEN, 1
    shared = [0]

    def increase() -> None:
        before = shared[0]
        after = before + 1
        shared[0] = after

    def work() -> None:
        for _ in range(50):
            increase()
            machine.wait(0.1)

    try:
        host.thread("one", work)
        host.thread("two", work)
        run(machine)
    finally:
        machines.CHOSEN = machines_chosen
    assert {1, 2, 3} <= places
    assert shared[0] < 100  # some were lost


def test_the_modules_of_gows_are_as_before() -> None:
    import gows.bus.bus
    import gows.reactor.waits
    import gows.reactor.workers

    bus, waits, workers = vars(gows.bus.bus), vars(gows.reactor.waits), vars(gows.reactor.workers)

    def standing() -> list[object]:
        return [
            *(waits["threading"], bus["threading"]),
            *(workers["_here"], workers["SimpleQueue"], waits["_here"], waits["_inner"]),
        ]

    before = standing()
    with installed(Machine(random.Random(1))):
        assert not any(one is other for one, other in zip(standing(), before, strict=True))
        assert workers["SimpleQueue"] is SimpleQueue
        lock = gows.reactor.waits.inner_lock("lost")
        with lock:
            assert gows.reactor.waits.holds_inner_lock()
        assert not gows.reactor.waits.holds_inner_lock()
    assert all(one is other for one, other in zip(standing(), before, strict=True))
