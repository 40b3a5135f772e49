"""The process-wide loop."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from gows.reactor import Loop, shared_loop
from tests.support.processes import ROOT


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


FORKED = """
import os, threading
from gows.reactor import shared_loop

first = shared_loop()
child = os.fork()
if child == 0:
    second = shared_loop()
    done = threading.Event()
    second.call_soon(done.set)
    os._exit(0 if second is not first and done.wait(5) else 1)
_, status = os.waitpid(child, 0)
assert shared_loop() is first
first.close()
raise SystemExit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_its_own() -> None:
    """As under a pre-forking server whose master has loaded an application that connects when it is imported."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    subprocess.run(command, cwd=ROOT, timeout=30, check=True)
