"""What is there before serving is set aside, what is made later is collected as ever; threads take turns more often."""

from __future__ import annotations

import subprocess
import sys

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
