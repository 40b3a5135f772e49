"""What is counted is compared with what is stored; the counting itself is a gate of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench import micro
from tests.support.processes import ROOT


@pytest.mark.parametrize(
    ("now", "worse"),
    [(1050, []), (1051, ["send"]), (1000, []), (900, [])],
    ids=["within the tolerance", "over it", "the same", "better"],
)
def test_what_takes_more_than_the_tolerance_is_worse(
    now: int, worse: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert micro.compare({"send": now}, {"send": 1000, "gone": 5}, 0.05) == worse
    assert ("WORSE" in capsys.readouterr().out) is bool(worse)


def test_what_is_not_stored_is_said() -> None:
    assert micro.compare({"send": 1000, "new": 10}, {"send": 1000}, 0.05) == ["new"]


def test_figures_are_stored_for_what_the_operations_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.codec"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    names = {line.split("\t")[1] for line in done.stdout.splitlines()}
    assert len(names) > 10
    for key, counts in micro.stored().items():
        assert counts.keys() == names, key


HOLES = """
from bench.codec import fill_holes

blocks = [bytes(4000) for _ in range(40)]
holes = {id(block) for block in blocks[::2]}
del blocks[::2]
held = fill_holes()
new = [bytes(4000) for _ in range(20)]
assert held
assert not holes & {id(block) for block in new}
"""


def test_a_new_block_does_not_lie_in_a_hole_of_the_heap() -> None:
    """In a process of its own, as where instructions are counted: this one has more holes than are filled."""
    subprocess.run([sys.executable, "-c", HOLES], cwd=ROOT, check=True, timeout=30)
