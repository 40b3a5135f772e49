"""Workers are started when they are needed; a server that several tests share has them all before the first of these,
since each test counts the threads it leaves behind."""

from __future__ import annotations

import threading

from gows.reactor import Loop


class _Meeting:
    """A task that ends when all workers run one."""

    def __init__(self, barrier: threading.Barrier) -> None:
        self._barrier = barrier

    def run(self) -> None:
        self._barrier.wait(10)

    def stalled(self) -> None:
        """Nothing waits for it."""


def start_all_workers(loop: Loop, count: int) -> None:
    """Have `count` workers started, all there are."""
    barrier = threading.Barrier(count + 1)
    for _ in range(count):
        loop.pool.submit(_Meeting(barrier))
    barrier.wait(10)
