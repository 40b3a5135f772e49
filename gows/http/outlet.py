"""Outlet: an answer that one thread makes, on its way to a peer that may take it more slowly.

What the peer does not take yet is put into a spool, a little memory and then a temporary file, so the thread goes on
and ends with the answer, however slow the peer. When the spool is full the thread waits for it to become empty, and
another takes its place; so many may wait, and no more. Then the one whose peer has taken nothing for the longest time
is cut off, never the one that comes.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from tempfile import TemporaryFile
from typing import IO

from gows.debug import DEBUG, check_owned, checked_lock
from gows.reactor.stream import Stream
from gows.reactor.workers import WorkerPool

PIECE = 65536
"""Bytes taken from a spool's file at a time."""
BATCH = 262144
"""Bytes that wait in memory, beside what is queued for the connection, until they are written to the file: each call
lets the interpreter lock go, and waits for it."""
MAX_SPOOL = 4 << 20
"""Bytes of one answer in its temporary file."""
MAX_SPOOLED = 256 << 20
"""Bytes in the temporary files of all answers of the process."""
MAX_FILES = 128
"""So many files, for each takes a descriptor."""


class Budget:
    """How many bytes may be in files, or how many files there may be. Any thread."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self._lock = checked_lock(threading.RLock, "budget of files")

    def take(self, size: int) -> bool:
        """Count so many more, if they may be."""
        with self._lock:
            if self.taken + size > self.most:
                return False
            self.taken += size
            return True

    def give_back(self, size: int) -> None:
        """Count so many less."""
        with self._lock:
            self.taken -= size


BUDGET = Budget(MAX_SPOOLED)
FILES = Budget(MAX_FILES)


class Spool:
    """Bytes, first in, first out: in a file that has no name, the latest in memory. One thread at a time."""

    __slots__ = ("_end", "_file", "_full", "_latest", "_latest_size", "_start", "size")

    def __init__(self) -> None:
        self.size = 0
        """Bytes in it."""
        self._file: IO[bytes] | None = None
        self._start = self._end = 0  # of what is in the file, and was not taken yet
        self._latest: deque[bytes] = deque()
        self._latest_size = 0
        self._full = False  # the file takes no more, until the spool is empty

    def put(self, data: bytes) -> bool:
        """Append `data`, which is taken in any case. False: no more, please, until it is empty."""
        self._latest.append(data)
        self._latest_size += len(data)
        self.size += len(data)
        if self._latest_size >= BATCH and not self._full:
            self._full = not self._write()
        return not self._full

    def take(self) -> bytes:
        """Remove a piece, and return it; empty when there is nothing. Raises OSError when the file cannot be read."""
        if self._start < self._end:
            assert self._file is not None
            data = os.pread(self._file.fileno(), min(PIECE, self._end - self._start), self._start)
            if not data:
                raise OSError("a temporary file was cut short")
            self._start += len(data)
            if self._start == self._end:
                self._file.truncate(0)
                BUDGET.give_back(self._end)
                self._start = self._end = 0
        elif self._latest:
            data = self._latest.popleft()
            self._latest_size -= len(data)
        else:
            return b""
        self.size -= len(data)
        if not self.size:
            self._full = False
        return data

    def close(self) -> None:
        """Forget everything. Idempotent."""
        self._latest.clear()
        self._latest_size = self.size = 0
        self._full = False
        if self._file is not None:
            BUDGET.give_back(self._end)
            self._start = self._end = 0
            self._file.close()
            self._file = None
            FILES.give_back(1)

    def _write(self) -> bool:
        """Put what is in memory behind the rest into the file. False: it takes no more, and it stays in memory."""
        size = self._latest_size
        if self._end + size > MAX_SPOOL or not BUDGET.take(size):
            return False
        if not self._open():
            BUDGET.give_back(size)
            return False
        assert self._file is not None
        data = memoryview(b"".join(self._latest))
        written = 0
        try:
            while written < size:
                written += os.pwrite(self._file.fileno(), data[written:], self._end + written)
        except OSError:  # no room on the disk: as if it were full
            BUDGET.give_back(size)
            return False
        self._end += size
        self._latest.clear()
        self._latest_size = 0
        return True

    def _open(self) -> bool:
        """Have a file. False: there are too many."""
        if self._file is not None:
            return True
        if not FILES.take(1):
            return False
        try:
            self._file = TemporaryFile(buffering=0)  # noqa: SIM115 - until `close`
        except OSError:  # no descriptor
            FILES.give_back(1)
            return False
        return True


class Waiting:
    """The outlets of a loop whose threads wait for their peers. Any thread."""

    def __init__(self) -> None:
        self._outlets: set[Outlet] = set()
        self._lock = checked_lock(threading.RLock, "waiting outlets")

    def add(self, outlet: Outlet) -> None:
        """Note that the outlet's thread begins to wait."""
        with self._lock:
            self._outlets.add(outlet)

    def remove(self, outlet: Outlet) -> None:
        """Note that the outlet's thread goes on."""
        with self._lock:
            self._outlets.discard(outlet)

    def cut_off(self) -> bool:
        """Abort the one whose peer has taken nothing for the longest time; it counts no more. False: none waits."""
        with self._lock:
            if not self._outlets:
                return False
            slowest = max(self._outlets, key=lambda outlet: outlet.stream.stalled_for())
            self._outlets.discard(slowest)
        slowest.stream.abort(TimeoutError("the peer took the answer too slowly, and too many do"))
        return True


class Outlet:
    """One answer. `put`, `wait` and `finish` are for the thread that makes it; `run` is a task of the pool."""

    __slots__ = ("_high_water", "_lock", "_owed", "_pool", "_room", "_spool", "_then", "_waiting", "stream")

    def __init__(self, stream: Stream, pool: WorkerPool, high_water: int) -> None:
        """Make the outlet of an answer; the stream's observer passes on `drained` and `connection_lost`."""
        self.stream = stream
        self._pool = pool
        self._high_water = high_water
        self._lock = checked_lock(threading.RLock, "outlet")  # of the three below
        self._spool = Spool()
        self._owed = False  # `drained` will be called; else the spool is empty
        self._then: Callable[[], object] | None = None
        self._room = threading.Event()
        self._waiting: Waiting = stream.loop.shared.setdefault("outlets that wait", Waiting())

    def put(self, data: bytes) -> bool:
        """Send `data`, or keep it for later. False: `wait` before the next."""
        with self._lock:
            if self._owed:
                room = self._spool.put(data)
                if not room:
                    self._room.clear()
                return room
            self.stream.write(data)
            self.stream.flush()
            self._is_full_locked()
            return True

    def wait(self) -> bool:
        """Wait until the spool is empty, or the peer gone, while another thread takes this one's place. False: too many
        threads wait for something else."""
        if not self._pool.step_aside():
            if not self._waiting.cut_off():
                return False
            self._pool.step_aside(beyond=True)  # for its thread is about to step back
        self._waiting.add(self)
        self._room.wait()
        self._waiting.remove(self)
        self._pool.step_back()
        return True

    def finish(self, then: Callable[[], object]) -> None:
        """Have `then` called once all is queued for the peer, or the peer is gone: now, or by a worker."""
        with self._lock:
            if self._spool.size and not self.stream.closed:
                self._then = then
                return
        then()

    def drained(self) -> None:
        """Have a worker go on: there is room for more, or the connection is lost. Loop thread."""
        if self.stream.closed:
            self._room.set()
        self._pool.submit(self)

    def run(self) -> None:
        """Queue what was kept, as far as there is room."""
        with self._lock:
            self._owed = False
            try:
                while self._spool.size and not self.stream.closed and not self._is_full_locked():
                    self.stream.write(self._spool.take())
                    self.stream.flush()
            except OSError as error:
                self.stream.abort(error)
            if self.stream.closed:
                self._spool.close()
            if self._spool.size:
                return
            self._room.set()
            then, self._then = self._then, None
        if then is not None:
            then()

    def stalled(self) -> None:
        """Do nothing: nothing waits for the end of this task."""

    def close(self) -> None:
        """Forget what was kept."""
        with self._lock:
            self._spool.close()

    def _is_full_locked(self) -> bool:
        """Return whether the queue is over the mark; `drained` will follow then."""
        if DEBUG:
            check_owned(self._lock)
        stream = self.stream
        with stream.lock:
            self._owed = stream.queued > self._high_water and not stream.closed
            if self._owed:
                stream.owe_drained_locked()
            return self._owed
