"""The soak, for seconds: what it takes, and that it sees what is wrong."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.load.soak import faults
from tests.support.needs import need_module

FIRST = {"rss_kb": 40_000, "descriptors": 7}
LEFT = {"rss_kb": 42_000, "descriptors": 7, "streams": 0, "lent": 0, "waiting": 0, "held": 0, "tasks": 0}
SEEN = [{"rss_kb": 42_000}] * 8


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_few_seconds_leave_nothing(loop: str) -> None:
    need_module(loop)
    command = [sys.executable, "-m", "tests.load.soak", "--minutes", "0.05", "--clients", "20", "--seed", "1"]
    done = subprocess.run([*command, "--loop", loop], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all well" in done.stdout


def test_it_is_well_when_nothing_is_left() -> None:
    assert faults(SEEN, LEFT, FIRST, "RuntimeError: of the soak\n  File x\n") == []


@pytest.mark.parametrize("what", ["streams", "lent", "waiting", "held", "tasks", "descriptors"])
def test_what_is_left_is_a_fault(what: str) -> None:
    (fault,) = faults(SEEN, {**LEFT, what: 9}, FIRST, "")
    assert f"9 {what} are left" in fault


def test_memory_that_grows_is_a_fault() -> None:
    grown: list[dict[str, Any]] = [{"rss_kb": 40_000 + 3_000 * number} for number in range(8)]
    (fault,) = faults(grown, LEFT, FIRST, "")
    assert "grew by" in fault


@pytest.mark.parametrize(
    "line",
    [
        "/x/y.py:3: ResourceWarning: unclosed <socket>",
        "RuntimeWarning: coroutine 'f' was never awaited",
        "Task was destroyed but it is pending!",
        "Task exception was never retrieved",
        "AttributeError: no attribute",
        "asyncio.exceptions.InvalidStateError: invalid state",
    ],
)
def test_what_python_complains_of_is_a_fault(line: str) -> None:
    assert faults(SEEN, LEFT, FIRST, f"INFO\n{line}\n") == [line]
