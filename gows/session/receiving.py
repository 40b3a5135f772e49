"""Receiving: how much of what peers sent may be held in all, and which are not read from when it is too much.

What counts is what is left over when a read was dealt with: unfinished messages and requests, bytes that were not
parsed yet, messages that wait for a busy handler. A connection of which little is left over is not counted, so small
messages cost nothing here, and idle connections have no entry. What is not counted is bounded all the same: the more
connections there are, the less one read may bring each of them uncounted (`worth_counting`).

Over the budget, those that hold more than their share are not read from. Others go on, and these when there is room
again. If nothing becomes free, since all that is held is unfinished, the one that holds the most has to give way.
"""

from __future__ import annotations

from typing import Protocol

from gows.codes import CloseCause, CloseCode
from gows.debug import DEBUG, check_owned
from gows.errors import LoopClosedError, ProtocolError
from gows.reactor import Loop, Stream, Timer
from gows.reactor.timers import TICKS_PER_SECOND
from gows.reactor.waits import inner_lock

MAX_RECEIVED = 64 << 20
"""Bytes that may be held for all connections of a loop, unless something else is said."""
SMALL = 8192
"""Bytes held for one connection that are not worth counting."""
LARGE = 16384
"""Bytes of messages that wait for the handler of one connection from which on they are counted in any case, except when
one read brought them."""
LARGEST = 65536
"""Bytes of a read that is counted in any case."""
READ_SIZE = 16384
"""Bytes that are read at once while half of what may be held is: of each connection one read may still come."""
EVENT_SIZE = 200
"""Bytes that a message takes beside its payload, about."""
LOOK_INTERVAL = 0.1
"""Seconds between two looks at those that are not read from."""
STUCK = 5.0
"""Seconds without anything becoming free, after which one connection has to give way."""
SWEEP_INTERVAL = 1.0
"""Seconds between two looks at how unfinished messages get on."""
LEAST_RATE = 1024
"""Bytes a second at which an unfinished message has to get on, once more than `SMALL` is held of it."""

MEASURES = ("paused", "closed", "timeouts")
"""The keys of `Receiving.counts`: what is done to connections of which too much is held."""


class ReceiveError(ProtocolError):
    """Too much of what a peer sent has to be held, or for too long."""

    def __init__(self, code: int, reason: str, cause: CloseCause) -> None:
        super().__init__(code, reason)
        self.cause = cause


class Holder(Protocol):
    """A connection that something is held for. The loop's thread calls it."""

    stream: Stream

    def hold_off(self) -> None:
        """Read no more until `read_on`."""

    def read_on(self) -> None:
        """Read on, unless there are other reasons not to."""

    def give_way(self, error: ReceiveError) -> None:
        """Throw away what is unfinished, and end."""


class Unfinished(Holder, Protocol):
    """A connection with an unfinished message."""

    @property
    def message_timeout(self) -> float | None:
        """Seconds within which the message has to get on."""

    @property
    def unread(self) -> bool:
        """Return whether we do not read, so that the peer is not to blame."""

    def held(self) -> int:
        """Return the bytes that are held of the message."""


class Receiving:
    """Bounds what is held for the connections of one loop.

    `total` is the bytes that are held, about. `counts` has, since the beginning: how often a connection was `paused`,
    not read from; connections `closed` to make room; and `timeouts` of messages that did not get on.
    """

    def __init__(self, loop: Loop, most: int | None = MAX_RECEIVED) -> None:
        """`most`: bytes that may be held; None: no limit. Raises TypeError and ValueError."""
        self.limit(most)
        self.total = 0
        self.full = False
        """Whether no more should be held."""
        self.counts = dict.fromkeys(MEASURES, 0)
        self._loop = loop
        self._large = loop.scratch
        self._small = bytearray(min(READ_SIZE, len(loop.scratch)))  # what is read into while much is held
        self._lock = inner_lock("receiving")  # of `total` and `_held`: workers change them, too
        self._held: dict[Holder, list[int]] = {}  # bytes unfinished, waiting, and with a handler
        self._paused: dict[Holder, None] = {}
        self._freed_at = 0.0
        self._stuck = False
        self._tight = False
        self._look_timer: Timer | None = None
        self._unfinished: dict[Unfinished, list[int]] = {}  # the tick of the last look, and bytes that came since
        self._sweep_timer: Timer | None = None

    @staticmethod
    def of(loop: Loop) -> Receiving:
        """Return the one of a loop. Any thread."""
        found: Receiving | None = loop.shared.get(Receiving)
        return loop.shared.setdefault(Receiving, Receiving(loop)) if found is None else found

    def limit(self, most: int | None) -> None:
        """Set how many bytes may be held; None: no limit. Raises TypeError and ValueError."""
        if most is not None and (isinstance(most, bool) or not isinstance(most, int)):
            raise TypeError(f"max_received must be an int or None, not {type(most).__name__}")
        if most is not None and most < 1:
            raise ValueError(f"max_received must be 1 or more, not {most}")
        self.most = most

    # ------------------------------------------------------------------ loop thread

    def note(self, holder: Holder, unfinished: int, came: int) -> bool:
        """Count what is unfinished of a connection, and `came` bytes more that wait for its handler. Return whether
        anything is counted for it now."""
        with self._lock:
            counted = self._held.setdefault(holder, [0, 0, 0])
            self._change_locked(holder, counted, unfinished, counted[1] + came, counted[2])
            any_left = any(counted)
            over = self._over_locked(counted)
        if over:
            self.pause(holder)
        return any_left

    def worth_counting(self) -> int:
        """Return the bytes of one read from which on they are counted, if nothing waited before: so many that half of
        `most` is reached if each connection holds as much; at least `LARGE`."""
        if self.most is None:
            return LARGEST
        return max(LARGE, min(LARGEST, self.most // 2 // (self._loop.live_streams or 1)))

    def pause(self, holder: Holder) -> None:
        """Stop reading from a connection until there is room."""
        if holder not in self._paused:
            self._paused[holder] = None
            self.counts["paused"] += 1
            holder.hold_off()
            self._look_later()

    def set(self, holder: Holder, unfinished: int, waiting: int) -> None:
        """Count just this of a connection."""
        with self._lock:
            waited = self._held.get(holder, (0, 0, 0))[1]
        self.note(holder, unfinished, waiting - waited)

    def counts_for(self, holder: Holder) -> bool:
        """Return whether anything is counted for a connection."""
        return holder in self._held

    def holds_off(self, holder: Holder) -> bool:
        """Return whether a connection is not read from since too much is held."""
        return holder in self._paused

    def lost(self, holder: Holder) -> None:
        """Count nothing of a connection that has ended but what waits for its handler, or is with it."""
        if holder in self._held:
            with self._lock:
                counted = self._held.get(holder)
                if counted is not None:
                    self._change_locked(holder, counted, 0, counted[1], counted[2])
        self._look_no_more(holder)

    def forget(self, holder: Holder) -> None:
        """Forget a connection: it has ended, or become something else."""
        if holder in self._held:
            with self._lock:
                counted = self._held.get(holder)
                if counted is not None:
                    self._change_locked(holder, counted, 0, 0, 0)
        self._look_no_more(holder)

    def _look_no_more(self, holder: Holder) -> None:
        if self._paused:
            self._paused.pop(holder, None)
        if self._unfinished:
            self._unfinished.pop(holder, None)  # type: ignore[call-overload]

    def came(self, holder: Unfinished, n: int) -> None:
        """Note that `n` bytes have come, and a message is unfinished."""
        progress = self._unfinished.get(holder)
        if progress is not None:
            progress[1] += n
            return
        self._unfinished[holder] = [self._loop.ticks, 0]
        if self._sweep_timer is None:
            self._sweep_timer = self._call_later(SWEEP_INTERVAL, self._sweep)

    def ended(self, holder: Unfinished) -> None:
        """Note that no message is unfinished."""
        self._unfinished.pop(holder, None)

    # ------------------------------------------------------------------ any thread, under the lock of the stream

    def waits_locked(self, holder: Holder, waiting: int) -> bool:
        """Note how many bytes wait for a handler. Return whether the connection should be read from no more
        (`pause`)."""
        if DEBUG:
            check_owned(holder.stream.lock)
        with self._lock:
            counted = self._held.setdefault(holder, [0, 0, 0])
            self._change_locked(holder, counted, counted[0], waiting, counted[2])
            return self._over_locked(counted)

    def took_locked(self, holder: Holder) -> None:
        """Note that a task took what waited; what it had before is done."""
        if DEBUG:
            check_owned(holder.stream.lock)
        with self._lock:
            counted = self._held.get(holder)
            if counted is not None:
                self._change_locked(holder, counted, counted[0], 0, counted[1])

    def lent_locked(self, holder: Holder, size: int) -> None:
        """Note how many bytes a callback has that waits for something. All else that its task took waits again, or is
        done."""
        if DEBUG:
            check_owned(holder.stream.lock)
        with self._lock:
            counted = self._held.setdefault(holder, [0, 0, 0])
            self._change_locked(holder, counted, counted[0], counted[1], size)

    def put_back_locked(self, holder: Holder, waiting: int) -> None:
        """Note that a task could not go on, and how many bytes wait now."""
        if DEBUG:
            check_owned(holder.stream.lock)
        with self._lock:
            counted = self._held.setdefault(holder, [0, 0, 0])
            self._change_locked(holder, counted, counted[0], waiting, 0)

    def emptied_locked(self, holder: Holder) -> bool:
        """Note that nothing waits for a handler, nor is with one. Return whether anything is counted still."""
        if DEBUG:
            check_owned(holder.stream.lock)
        with self._lock:
            counted = self._held.get(holder)
            if counted is not None:
                self._change_locked(holder, counted, counted[0], 0, 0)
        return counted is not None and counted[0] > 0

    def _over_locked(self, counted: list[int]) -> bool:
        """Return whether too much is held in all, and of one connection more than half of an equal share. The lock is
        `_lock`."""
        if DEBUG:
            check_owned(self._lock)
        return self.full and self.most is not None and sum(counted) > self.most // (2 * len(self._held) or 1)

    def _change_locked(self, holder: Holder, counted: list[int], unfinished: int, waiting: int, taken: int) -> None:
        """Count other numbers for a connection. The lock is `_lock`."""
        if DEBUG:
            check_owned(self._lock)
        grown = unfinished + waiting + taken - sum(counted)
        self.total += grown
        full, self.full = self.full, self.most is not None and self.total > self.most
        counted[:] = unfinished, waiting, taken
        tight = (
            self.most is not None and self.total > self.most // 2
        )  # a turn may read from very many before it is full
        if tight is not self._tight:
            self._tight = tight
            self._loop.scratch = self._small if tight else self._large
        if grown < 0 or self.full > full:
            self._freed_at = self._loop.time()
        if not any(counted):
            self._held.pop(holder, None)

    # ------------------------------------------------------------------ looks

    def _call_later(self, seconds: float, call: object) -> Timer | None:
        try:
            return self._loop.call_later(seconds, call)  # type: ignore[arg-type]
        except LoopClosedError:
            return None

    def _look_later(self) -> None:
        if self._look_timer is None and (self._paused or self.full):
            self._look_timer = self._call_later(LOOK_INTERVAL, self._look)

    def _look(self) -> None:
        """Read on from as many connections as there is room for, or make one give way."""
        self._look_timer = None
        if self.most is None or self.total < self.most:
            self._stuck = False
            room = 1 << 62 if self.most is None else self.most - self.total
            with self._lock:
                sizes = {holder: sum(self._held.get(holder, ())) for holder in self._paused}
            # the largest first: one that has begun may finish, and make room
            for holder in sorted(sizes, key=sizes.__getitem__, reverse=True):
                if room <= 0 or self.full:
                    break
                room -= len(self._large)  # what one read may bring
                self._paused.pop(holder, None)
                holder.read_on()
        elif self._stuck or self._loop.time() - self._freed_at >= STUCK:
            self._stuck = True  # one at each look, until there is room
            with self._lock:
                holder, counted = max(self._held.items(), key=lambda item: item[1][0])
                largest = counted[0]
            if largest:  # else all waits for handlers, which will get on or not
                self.counts["closed"] += 1
                self._give_way(holder, CloseCode.TRY_AGAIN_LATER, "too much is held", CloseCause.RATE)
        else:
            with self._lock:
                begun = next((holder for holder in self._paused if self._held.get(holder, (0,))[0]), None)
            if begun is not None:  # one after the other: what is missing may be on its way, and makes room
                del self._paused[begun]
                begun.read_on()
        self._look_later()

    def _sweep(self) -> None:
        """End the connections whose unfinished message does not get on."""
        self._sweep_timer = None
        now = self._loop.ticks
        for holder, progress in list(self._unfinished.items()):
            timeout = holder.message_timeout
            if timeout is None or holder.unread:
                progress[:] = now, 0
            elif now - progress[0] >= timeout * TICKS_PER_SECOND:
                least = 1 if holder.held() < SMALL else LEAST_RATE * timeout
                if progress[1] >= least:
                    progress[:] = now, 0
                else:
                    self.counts["timeouts"] += 1
                    self._give_way(holder, CloseCode.POLICY_VIOLATION, "message timeout", CloseCause.IDLE)
        if self._unfinished:
            self._sweep_timer = self._call_later(SWEEP_INTERVAL, self._sweep)

    def _give_way(self, holder: Holder, code: int, reason: str, cause: CloseCause) -> None:
        self._unfinished.pop(holder, None)  # type: ignore[call-overload]
        self._paused.pop(holder, None)
        holder.give_way(ReceiveError(code, reason, cause))
