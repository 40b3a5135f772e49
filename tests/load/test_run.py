"""What the load run counts as a failure."""

from __future__ import annotations

import pytest

from tests.load.run import faults

GOOD = {"opened": 10, "failed": 0, "closed": 0, "bad": 0, "msgs": 500}


def test_a_clean_run_has_no_fault() -> None:
    assert faults(GOOD, 10) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"failed": 2}, "2 connections failed"),
        ({"closed": 1}, "1 connections closed"),
        ({"opened": 9}, "9 of 10 connections opened"),
        ({"bad": 3}, "3 masked frames came from the server"),
        ({"msgs": 0}, "nothing was echoed"),
    ],
)
def test_every_fault_is_told(change: dict[str, int], fault: str) -> None:
    assert faults(GOOD | change, 10) == [fault]
