"""What a supervisor does that needs no process."""

from __future__ import annotations

from gows.processes.supervisor import back_off


def test_the_first_try_is_at_once_and_further_ones_ever_later() -> None:
    assert [back_off(failures) for failures in range(9)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert back_off(100_000) == 30
