"""What is there before serving is set aside, what is made later is collected as ever; threads take turns more often."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import gc, sys, weakref
from gows.processes.interpreter import dedicate

class Node:
    pass

kept = [Node() for _ in range(1000)]
garbage = Node()
garbage.itself = garbage
before = weakref.ref(garbage)
del garbage
dedicate()
assert before() is None, "garbage was set aside, not collected"
assert not any(thing is kept for thing in gc.get_objects()), "a collection looks through what was there"
later = Node()
later.itself = later
after = weakref.ref(later)
del later
gc.collect()
assert after() is None, "later garbage is not collected"
assert sys.getswitchinterval() < 0.001
"""


def test_what_is_there_is_passed_over_and_what_comes_later_is_collected() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=30)


FAULTS = """
import resource, sys
from gows.processes.interpreter import dedicate

if sys.argv[1] == "dedicated":
    dedicate()
for _ in range(2):  # the first time, memory is taken in any case
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    message = b"x" * (3 << 20)
    del message
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other ways")
def test_memory_of_a_turns_messages_is_there_for_the_next() -> None:
    faults = {}
    for kind in ("dedicated", "as it is"):
        done = subprocess.run([sys.executable, "-c", FAULTS, kind], capture_output=True, check=True, timeout=30)
        faults[kind] = int(done.stdout)
    assert faults["as it is"] > 300  # pages of 4 KiB, or 8
    assert faults["dedicated"] < 10
