"""TimingWheel: every deadline of a loop, at a resolution of a tenth of a second.

Time is counted in ticks. A tick that something is due at has a bucket, made at need and found by hashing, so that
adding is O(1) and there is no horizon beyond which entries would have to be carried round. (A heap orders the *ticks*
in use, some hundreds, not the entries.)

Two kinds of entries:

- A `Timer` is an object with a function to call: for the few.
- A *descriptor deadline* is a number in an array: for the many. It costs a connection 4 bytes here and 4 in the
  bucket, and no object. An entry is never taken out; `_entries[fd]` says which one counts, and the others are skipped
  when their tick comes. So a deadline that moves to a later time, which is what deadlines do all day, is not touched
  at all: when the entry fires, the stream's own `deadline` tells that it is not due yet, and it is entered again.
  Only an earlier deadline adds an entry.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable
from typing import Any

TICKS_PER_SECOND = 10
NEVER = 1 << 60
"""A tick that does not come."""


class Timer:
    """A function that is to be called once, at a tick. Made by `Loop.call_later`."""

    __slots__ = ("_args", "_fn", "due")

    def __init__(self, due: int, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.due = due
        self._fn: Callable[..., object] | None = fn
        self._args = args

    def cancel(self) -> None:
        """Prevent the call, and let go of the function. Any thread; idempotent; harmless afterwards."""
        self._fn = None
        self._args = ()

    @property
    def active(self) -> bool:
        """Return whether the function is still to be called."""
        return self._fn is not None

    def take(self) -> tuple[Callable[..., object] | None, tuple[Any, ...]]:
        """Return the function, to be called now, and its arguments; None for the function when it was cancelled or
        taken before."""
        fn, args = self._fn, self._args
        self.cancel()
        return fn, args


class TimingWheel:
    """Buckets of due things by tick. Only the loop's thread calls it."""

    __slots__ = ("_descriptors", "_entries", "_heap", "_timers", "next_due")

    def __init__(self) -> None:
        self.next_due = NEVER  # the earliest tick with a bucket
        self._heap: list[int] = []  # the ticks that have a bucket, each once
        self._descriptors: dict[int, array[int]] = {}
        self._timers: dict[int, list[Timer]] = {}
        self._entries = array("i")  # by descriptor: the tick of its valid entry, 0 for none

    def add_timer(self, timer: Timer) -> None:
        """Enter a timer at its due tick."""
        bucket = self._timers.get(timer.due)
        if bucket is None:
            self._open(timer.due)
            self._timers[timer.due] = [timer]
        else:
            bucket.append(timer)

    def add_descriptor(self, fd: int, due: int) -> None:
        """Have `fd` reported at the tick `due`, or before: an earlier entry that it has stays the valid one."""
        entries = self._entries
        if fd >= len(entries):
            entries.extend([0] * (fd + 64 - len(entries)))
        if 0 < entries[fd] <= due:
            return
        entries[fd] = due
        bucket = self._descriptors.get(due)
        if bucket is None:
            self._open(due)
            bucket = self._descriptors[due] = array("i")
        bucket.append(fd)

    def take(self, now: int, budget: int) -> tuple[list[int], list[Timer]]:
        """Remove and return what is due at tick `now`: descriptors and timers, together at most `budget` entries,
        oldest first."""
        descriptors: list[int] = []
        timers: list[Timer] = []
        entries, heap = self._entries, self._heap
        while budget > 0 and heap and heap[0] <= now:
            tick = heap[0]
            bucket = self._descriptors.get(tick)
            if bucket:
                chunk = bucket[:budget]
                del bucket[:budget]
                budget -= len(chunk)
                for fd in chunk:
                    if entries[fd] == tick:
                        entries[fd] = 0
                        descriptors.append(fd)
            waiting = self._timers.get(tick)
            if waiting and budget > 0:
                due = waiting[:budget]
                del waiting[:budget]
                budget -= len(due)
                timers += due
            if not bucket and not waiting:
                heapq.heappop(heap)
                self._descriptors.pop(tick, None)
                self._timers.pop(tick, None)
        self.next_due = heap[0] if heap else NEVER
        return descriptors, timers

    @property
    def active_timers(self) -> int:
        """Return how many timers are still to be called."""
        return sum(timer.active for bucket in self._timers.values() for timer in bucket)

    def _open(self, tick: int) -> None:
        """Note that there will be a bucket for `tick`."""
        if tick not in self._descriptors and tick not in self._timers:
            heapq.heappush(self._heap, tick)
            if tick < self.next_due:
                self.next_due = tick
