"""The process-wide loop."""

from __future__ import annotations

import threading

from gows.reactor import Loop, shared_loop


def test_it_is_one_and_runs() -> None:
    loops: list[Loop] = []
    threads = [threading.Thread(target=lambda: loops.append(shared_loop())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loop = shared_loop()
    assert all(each is loop for each in loops)
    assert loop.running
    loop.close()


def test_after_it_was_closed_there_is_a_new_one() -> None:
    first = shared_loop()
    first.close()
    second = shared_loop()
    assert second is not first
    done = threading.Event()
    second.call_soon(done.set)
    assert done.wait(5)
    second.close()
