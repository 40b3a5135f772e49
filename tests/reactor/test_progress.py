"""Progress: whether the peer of a connection that ends goes on taking what was sent."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gows.reactor.progress import CREDIT_SECONDS, LARGE_BACKLOG, MIN_RATE, Progress

SECONDS = 5.0
LEAST = int(MIN_RATE * SECONDS)


class Left:
    """A stream of which the peer has still to take so many bytes."""

    def __init__(self, left: int) -> None:
        self.left = left

    def untaken(self) -> int:
        return self.left


def course(*taken: int, begun: bool = True, left: int = 10_000_000) -> list[bool]:
    """What is said after each time of five seconds, in which the peer took so much."""
    progress = Progress(cast(Any, None), cast(Any, None))
    stream: Any = Left(left)
    if begun:
        progress.begin_close(stream)
    said = []
    for size in taken:
        stream.left -= size
        said.append(progress.is_fast_enough(stream, SECONDS))
    progress.forget(stream)
    assert not progress._closing
    return said


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        ((0,), [False]),
        ((LEAST - 1,), [False]),
        ((LEAST, LEAST, 0), [True, True, False]),
        ((65_536, 0, 0, 65_536, 0), [True] * 5),  # 20 kB a second of a window that opens in lumps
        ((2 * LEAST, 0, 0), [True, True, False]),
        ((5_000_000, *[0] * 6, 0), [True] * 7 + [False]),  # what it took long ago does not count for ever
    ],
)
def test_the_least_rate_is_an_average(taken: tuple[int, ...], said: list[bool]) -> None:
    assert course(*taken) == said
    assert CREDIT_SECONDS == 6 * SECONDS


def test_where_nothing_was_looked_at_much_has_so_long_again() -> None:
    assert course(0, 0, begun=False) == [True, False]
    assert course(0, begun=False, left=LARGE_BACKLOG - 1) == [False]
