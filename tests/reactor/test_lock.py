"""The lock of streams, both variants."""

from __future__ import annotations

import threading
import time
from types import ModuleType

import pytest

from tests.support.twins import is_compiled, twins


@pytest.fixture(params=twins("gows.reactor.lock"), ids=lambda module: "compiled" if is_compiled(module) else "plain")
def module(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def test_its_owner_may_acquire_it_again(module: ModuleType) -> None:
    lock = module.Lock()
    assert lock.acquire()
    with lock:
        lock.acquire()
        lock.release()
    lock.release()
    with pytest.raises(RuntimeError):
        lock.release()


def test_it_knows_whose_it_is(module: ModuleType) -> None:
    lock = module.Lock()
    assert not lock._is_owned()
    with lock:
        assert lock._is_owned()
        found: list[bool] = []
        thread = threading.Thread(target=lambda: found.append(lock._is_owned()))
        thread.start()
        thread.join(10)
        assert found == [False]
        with lock:
            pass
        assert lock._is_owned()
    assert not lock._is_owned()


def test_it_keeps_another_thread_out_until_the_last_release(module: ModuleType) -> None:
    lock = module.Lock()
    done: list[str] = []

    def other() -> None:
        with lock:
            done.append("other")

    lock.acquire()
    lock.acquire()
    thread = threading.Thread(target=other)
    thread.start()
    thread.join(0.02)
    lock.release()
    thread.join(0.02)
    assert not done
    done.append("owner")
    lock.release()
    thread.join(10)
    assert done == ["owner", "other"]


def test_only_its_owner_releases_it(module: ModuleType) -> None:
    lock = module.Lock()
    refused: list[bool] = []

    def other() -> None:
        try:
            lock.release()
        except RuntimeError:
            refused.append(True)

    with lock:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(10)
    assert refused


@pytest.mark.slow
def test_many_threads_take_turns(module: ModuleType) -> None:
    lock = module.Lock()
    inside = 0
    count = 0
    wrong: list[int] = []

    def work(number: int) -> None:
        nonlocal inside, count
        for turn in range(200):
            with lock:
                inside += 1
                if turn % 20 == number:
                    time.sleep(0.0005)  # lets the others run into it
                with lock:
                    count += 1
                if inside != 1:
                    wrong.append(number)
                inside -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert (count, wrong) == (1600, [])
