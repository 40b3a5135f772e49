"""History: the latest publications of topics, for those who missed some.

Each that is kept has a position: an *epoch*, which names one unbroken numbering of the topic, and an *offset*, counted
from 1 without a gap. A client that names the last position it has seen gets what came after that, or is told that this
is not known any more.
"""

from __future__ import annotations

import itertools
import math
import secrets
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

from gows.options import Keep
from gows.topics.publication import Position, Publication, Since

MAX_HISTORY = 64 << 20
"""Bytes of data that one process keeps, of all topics together."""
MOST_MESSAGES = 10_000
"""Messages of a topic that are kept if only a time was given."""
MOST_EPOCHS = 8
"""Epochs that are remembered of what was in them and is kept."""
ENTRY_SIZE = 500
"""Bytes that an entry counts beside its data, and a topic beside its entries."""


def as_keep(value: Keep | int | timedelta | None) -> Keep | None:
    """Return a number of messages, a time, or both as a Keep. Raises TypeError and ValueError for anything else."""
    if value is None or isinstance(value, Keep):
        return value
    if isinstance(value, timedelta):
        return Keep(MOST_MESSAGES, value.total_seconds())
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"history is a number of messages, a timedelta or a gows.Keep, not {type(value).__name__}")
    return None if value == 0 else Keep(value)


class Entry(NamedTuple):
    """One publication that is kept."""

    offset: int
    publication: Publication
    until: float
    """The time after which it is not kept any more."""
    keep: Keep
    origin: Any
    """What the broker notes about it."""

    @property
    def size(self) -> int:
        publication = self.publication
        names = sys.getsizeof(publication.topic) + (0 if publication.key is None else sys.getsizeof(publication.key))
        return ENTRY_SIZE + names + len(publication.bare.data)


class _Log:
    """The history of one topic."""

    __slots__ = ("before", "entries", "epoch", "last")

    def __init__(self, epoch: str, last: int) -> None:
        self.epoch = epoch
        self.last = last  # offset of the newest, kept or not
        self.before: dict[str, int] = {}  # epochs that these entries were in, and with which offset each ended
        self.entries: deque[Entry] = deque()


class History:
    """The histories of all topics, in one process. The caller's lock guards every call."""

    def __init__(self, most: int = MAX_HISTORY) -> None:
        if isinstance(most, bool) or not isinstance(most, int) or most < 0:
            raise ValueError(f"max_history must be an int of 0 or more, not {most!r}")
        self.most = most
        self._own = f"{secrets.token_hex(6)}."  # what the epochs that begin here begin with
        self._epochs = itertools.count(1)
        self.size = 0
        """Bytes that are kept, about."""
        self.on_forget: Callable[[str], object] = lambda topic: None
        """Called with a topic whose history is dropped to make room for others."""
        self._logs: OrderedDict[str, _Log] = OrderedDict()  # the topic that was quiet longest first

    def number(self, topic: str) -> Position:
        """Return the position of the next publication, for the one process that numbers this topic. If another process
        did so until now, a new epoch begins: that may have given numbers that are not known here."""
        log = self._logs.get(topic)
        if log is None or not log.epoch.startswith(self._own):
            return Position(self.new_epoch(), 1)
        return Position(log.epoch, log.last + 1)

    def new_epoch(self) -> str:
        """Return a name that no numbering has had."""
        return f"{self._own}{next(self._epochs)}"

    def __len__(self) -> int:
        return len(self._logs)

    def __iter__(self) -> Iterator[str]:
        """Return an iterator of the topics that have a history."""
        return iter(self._logs)

    def add(self, publication: Publication, keep: Keep, now: float, origin: Any = None, age: float = 0.0) -> None:
        """Keep a publication that has a position, and was published `age` seconds ago. If it does not follow the last
        one, the topic begins anew."""
        position = publication.position
        assert position is not None
        topic = publication.topic
        log = self._logs.get(topic)
        if log is None or log.epoch != position.epoch or log.last + 1 != position.offset:
            if log is not None:
                self._forget(topic)
            log = self._logs[topic] = _Log(position.epoch, position.offset - 1)
            self.size += ENTRY_SIZE
        log.last = position.offset
        until = math.inf if keep.seconds is None else now + keep.seconds - age
        entry = Entry(position.offset, publication, until, keep, origin)
        log.entries.append(entry)
        size = entry.size
        self.size += size
        self._logs.move_to_end(topic)
        while len(log.entries) > keep.messages:
            size = log.entries.popleft().size
            self.size -= size
        self._drop_old(log, now)
        while self.size > self.most:
            self._shrink()

    def begin(self, topic: str, position: Position | None) -> None:
        """Let a topic stand at a position (None: it has no history). Drops what was kept, if it stood elsewhere."""
        log = self._logs.get(topic)
        if log is not None and (log.epoch, log.last) != position:
            self._forget(topic)
            log = None
        if log is None and position is not None:
            self._logs[topic] = _Log(*position)
            self.size += ENTRY_SIZE
            while self.size > self.most:
                self._shrink()

    def rename(self, topic: str, epoch: str, origin_of: Callable[[Entry], Any]) -> None:
        """Move what is kept of a topic to another epoch, with the origins that `origin_of` returns."""
        log = self._logs.get(topic)
        if log is None:
            return
        log.before[log.epoch] = log.last
        while len(log.before) > MOST_EPOCHS:
            del log.before[next(iter(log.before))]
        log.epoch = epoch
        entries, log.entries = log.entries, deque()
        for entry in entries:
            publication = entry.publication.at(Position(epoch, entry.offset))
            log.entries.append(entry._replace(publication=publication, origin=origin_of(entry)))

    def before(self, topic: str) -> dict[str, int]:
        """Return the epochs that what is kept of a topic was in, and with which offset each of them ended."""
        log = self._logs.get(topic)
        return {} if log is None else log.before

    def position(self, topic: str) -> Position | None:
        """Return where a topic stands; None: it has no history."""
        log = self._logs.get(topic)
        return None if log is None else Position(log.epoch, log.last)

    def since(self, topic: str, position: Position, now: float) -> list[Publication] | None:
        """Return what came after `position`, in order, without what has expired; None: it is not known whether that is
        all."""
        log = self._logs.get(topic)
        if log is None or log.epoch != position.epoch or not 0 <= position.offset <= log.last:
            return None
        self._drop_old(log, now)
        oldest = log.entries[0].offset if log.entries else log.last + 1
        if position.offset + 1 < oldest:
            return None
        found: list[Publication] = []
        for entry in reversed(log.entries):  # what was missed is near the end
            if entry.offset <= position.offset:
                break
            if entry.publication.bare.expires > now:
                found.append(entry.publication)
        found.reverse()
        return found

    def entries(self, topic: str, offset: int, now: float) -> list[Entry]:
        """Return what is kept after an offset, in order."""
        log = self._logs.get(topic)
        if log is None:
            return []
        self._drop_old(log, now)
        skip = offset + 1 - log.entries[0].offset if log.entries else 0
        return list(itertools.islice(log.entries, max(0, skip), None))

    def latest(self, topic: str, count: int, now: float, seen: Position | None = None) -> list[Publication]:
        """Return the latest publications that are kept and have not expired, in order, `count` at most, without those
        up to `seen`, a position of an epoch that they were in before."""
        log = self._logs.get(topic)
        if log is None:
            return []
        self._drop_old(log, now)
        known = 0 if seen is None else min(seen.offset, log.before.get(seen.epoch, 0))
        found: list[Publication] = []
        for entry in reversed(log.entries):
            if len(found) == count or entry.offset <= known:
                break
            if entry.publication.bare.expires > now:
                found.append(entry.publication)
        found.reverse()
        return found

    def find(self, topic: str, since: Since, now: float) -> list[Publication] | None:
        """Return what a subscriber wants: `since` a position, the `latest`, or None."""
        if since is None:
            return None
        return self.latest(topic, since, now) if isinstance(since, int) else self.since(topic, since, now)

    def _drop_old(self, log: _Log, now: float) -> None:
        while log.entries and log.entries[0].until <= now:
            size = log.entries.popleft().size
            self.size -= size

    def _shrink(self) -> None:
        """Make room: of the topic that was quiet longest, the older half, or all."""
        topic, log = next(iter(self._logs.items()))
        for _ in range((len(log.entries) + 1) // 2):
            size = log.entries.popleft().size
            self.size -= size
        if not log.entries:
            self._forget(topic)
            self.on_forget(topic)

    def _forget(self, topic: str) -> None:
        log = self._logs.pop(topic)
        size = ENTRY_SIZE + sum(entry.size for entry in log.entries)
        self.size -= size
