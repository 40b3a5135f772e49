"""No process outlives the program that started it."""

from __future__ import annotations

import sys

import pytest

from tests.support.processes import Children

FOREVER = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.mark.slow
def test_children_end_with_the_run() -> None:
    with Children() as children:
        running = children.start(FOREVER)
        ended = children.start([sys.executable, "-c", ""])
        children.end(ended)
        assert ended.returncode is not None
        assert running.poll() is None
    assert running.returncode is not None


def test_nothing_starts_once_the_run_is_ending() -> None:
    children = Children()
    children.end_all()
    with pytest.raises(SystemExit):
        children.start(FOREVER)
