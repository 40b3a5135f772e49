"""Topics of a RedisBroker: where each stands, what of it was heard, and what is looked up in Redis.

A topic is *live* when everything of it was heard since a position that is known. Whatever leaves a hole after that is
looked up in the topic's stream, in portions, and delivered in order, or told as lost. All of it happens in the broker's
thread; the publish lock is held for single steps, and never while something is awaited.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from zlib import crc32

from gows.brokers.base import BrokerEvents, Envelope
from gows.brokers.redis.connection import BATCH, READ, Command, Link
from gows.brokers.redis.jobs import Follow, Interest, Release
from gows.brokers.redis.wire import (
    Complaints,
    read_entry,
    read_envelope,
    read_epoch,
    read_heading,
    read_offset,
)
from gows.topics.patterns import is_pattern
from gows.topics.subscriptions import Position, Publication

logger = logging.getLogger("gows")

CHECK_INTERVAL = 5.0
"""Seconds after which topics with subscribers here are compared with where they stand in Redis."""
MOST_CHECKED = 4096
"""Topics that are compared at a time; the others have their turn later."""
PORTION = 1 << 20
"""Bytes of a topic's log that are read at once, about."""
MOST_ENTRIES = 10_000
"""… and entries."""
CATCH_UP_BATCH = 16
"""Topics that are caught up with at once."""

LookedUp = tuple[Position, list[Publication]]


class Found(NamedTuple):
    """A portion of a topic's log."""

    position: Position
    """Where the topic stands."""
    envelopes: list[Envelope]
    next: int | None
    """The offset at which it goes on."""


class Shards:
    """How topics are spread: each belongs to one shard, which is a channel, and what its keys begin with."""

    def __init__(self, prefix: str, count: int) -> None:
        self.control = f"{prefix}:{{nodes}}"
        """The channel on which processes speak of themselves."""
        self._prefix = prefix
        self._count = count

    def of(self, topic: str) -> int:
        """Return the shard of a topic."""
        return crc32(topic.encode()) % self._count

    def of_pattern(self, pattern: str) -> list[int]:
        """Return the shards in which topics of a pattern may be: all, or that of the one topic."""
        return list(range(self._count)) if _is_pattern(pattern) else [self.of(pattern)]

    def base(self, shard: int) -> str:
        """Return the channel of a shard, with which its keys begin: in a cluster all are in one place."""
        return f"{self._prefix}:{{{shard}}}"


class Topics:
    """Those of one process. Of the broker's thread."""

    events: BrokerEvents
    link: Link

    def __init__(self, shards: Shards, count_one: Callable[[str], None], on_missed: Callable[[str], object]) -> None:
        """`count_one`: count something by its name. `on_missed`: some of a topic was missed; `catch_up_missed` is to
        be called in its turn."""
        self.shards = shards
        self.site = ""
        """This machine's part of the server, as it stands in what leaves somebody out."""
        self.live: dict[str, Position | None] = {}
        """Where topics stand of which we have heard everything, but what was sent during an outage."""
        self._count_one = count_one
        self._on_missed = on_missed
        self._complaints = Complaints(logger.error)
        self._interest: Counter[int] = Counter()  # by shard: subscribed topics, and followers on their way
        self._channels: set[int] = set()  # shards to whose channels we are subscribed
        self._subscribers: Counter[str] = Counter()  # topics and patterns with subscribers here
        self._followed: Counter[str] = Counter()  # those that somebody is about to subscribe to
        self._catching: set[str] = set()  # those that were missed, and are not looked up yet
        self._caught_up = False

    def attach(self, link: Link) -> None:
        """Begin with a new link, by which nothing is heard yet."""
        self.link = link
        self._channels.clear()
        self._catching.clear()
        self._caught_up = False

    async def listen(self) -> None:
        """Hear again what somebody here is interested in."""
        await self.link.subscribe([self.shards.control])
        await self.hear([shard for shard, count in self._interest.items() if count > 0])

    async def catch_up_missed(self, topics: list[str]) -> None:
        """Look up what was missed, after `on_missed`."""
        self._catching.difference_update(topics)
        await self.catch_up(topics)

    # ------------------------------------------------------------------ who is interested

    def wanted(self, topic: str) -> bool:
        """Return whether anybody here gets what is published to a topic, or is about to."""
        return topic in self._followed or self.events.has_subscribers(topic)

    def count(self, job: Interest) -> None:
        """Count a subscriber more or less."""
        self._interest.update(dict.fromkeys(self.shards.of_pattern(job.topic), job.change))
        self._subscribers[job.topic] += job.change
        if self._subscribers[job.topic] <= 0:
            del self._subscribers[job.topic]
            if not self.wanted(job.topic):
                self.live.pop(job.topic, None)

    def follow_begins(self, job: Follow) -> list[int]:
        """Pass over nothing that is heard of the topic from now on. Returns its shards."""
        shards = self.shards.of_pattern(job.topic)
        self._interest.update(shards)  # until the subscription is counted itself
        self._followed[job.topic] += 1
        return shards

    def follow_ends(self, topic: str) -> None:
        """Undo that: the follower is answered now."""
        self._followed[topic] -= 1
        if not self._followed[topic]:
            del self._followed[topic]

    def release(self, job: Release) -> list[int]:
        """Count a follower no more: what it wants is counted as a subscription now. Returns the shards of its topic."""
        shards = self.shards.of_pattern(job.topic)
        self._interest.subtract(shards)
        if not self.wanted(job.topic):  # it was refused, or has gone
            self.live.pop(job.topic, None)
        return shards

    async def change_interest(self, jobs: list[Interest]) -> None:
        """Count subscribers, and hear what they want and nothing else."""
        shards: set[int] = set()
        for job in jobs:
            self.count(job)
            shards.update(self.shards.of_pattern(job.topic))
        await self.hear([shard for shard in shards if self._interest[shard] > 0])
        await self.begin([job.topic for job in jobs if job.change > 0 and job.topic in self._subscribers])
        await self.unhear(shards)

    async def hear(self, shards: Iterable[int]) -> None:
        """Subscribe to the channels of shards."""
        new = [shard for shard in shards if shard not in self._channels]
        if new:
            await self.link.subscribe([self.shards.base(shard) for shard in new])
            self._channels.update(new)

    async def unhear(self, shards: Iterable[int]) -> None:
        """Unsubscribe from the channels of those shards in which nobody is interested."""
        old = {shard for shard in shards if self._interest[shard] <= 0 and shard in self._channels}
        if not old:
            return
        self._channels -= old
        for topic in [topic for topic in self.live if self.shards.of(topic) in old]:
            del self.live[topic]  # what comes from now on is not heard
        await self.link.unsubscribe([self.shards.base(shard) for shard in old])

    # ------------------------------------------------------------------ catching up

    async def come_back(self) -> None:
        """Find out what was missed during an outage, and deliver it, or say that something may be missing."""
        self.live = {topic: position for topic, position in self.live.items() if self.wanted(topic)}
        await self.catch_up(list(self.live))
        # subscribed to while Redis was not there
        blind = [topic for topic in self._subscribers if topic not in self.live]
        await self.begin(blind)
        for topic in blind:
            if _is_pattern(topic):  # of which topics there are that we have not heard of, nobody knows
                self._tell_lost(topic, None)
            elif self.live.get(topic) is not None:
                self._tell_lost(topic, self.live[topic])
        self._caught_up = True

    async def begin(self, topics: list[str]) -> None:
        """Find out where topics stand that we have not heard of, so that we notice when we miss something."""
        wanted = [topic for topic in dict.fromkeys(topics) if topic not in self.live and not _is_pattern(topic)]
        for topic, found in zip(wanted, await self._fetch([(topic, None) for topic in wanted], 0), strict=True):
            if topic not in self.live:  # nothing was heard meanwhile
                self._stand(topic, None if found is None else found.position)

    def _stand(self, topic: str, position: Position | None) -> None:
        """A topic stands there: what is heard next follows that."""
        self.live[topic] = position
        with self.events.lock:
            self.events.history.begin(topic, position)

    async def catch_up(self, topics: list[str]) -> None:
        """Deliver what was missed of topics, and say so if some of it is gone."""
        for at in range(0, len(topics), CATCH_UP_BATCH):
            left = [topic for topic in topics[at : at + CATCH_UP_BATCH] if topic in self.live]
            while left:
                found = await self._fetch([(topic, self.live.get(topic)) for topic in left], PORTION // len(left))
                left = [topic for topic, each in zip(left, found, strict=True) if self._make_up(topic, each)]

    def _make_up(self, topic: str, found: Found | None) -> bool:
        """Deliver what was found of a topic, but what has come meanwhile. Returns whether there is more."""
        if topic not in self.live:  # nobody wants it any more
            return False
        last = self.live[topic]
        if found is None:
            if last is not None:
                self._lose(topic, None)
            return False
        position, envelopes, following = found
        same = last is not None and last.epoch == position.epoch
        expected = last.offset + 1 if same and last is not None else 1
        broken = not same and last is not None
        for envelope in envelopes:
            where = envelope.publication.position
            assert where is not None
            if where.offset < expected:
                continue
            if broken or where.offset > expected:
                self._lose(topic, Position(position.epoch, where.offset - 1))
                broken = False
            self.live[topic] = where
            self.events.receive(envelope)
            expected = where.offset + 1
        read = position.offset if following is None else following - 1
        if broken or expected <= read:
            self._lose(topic, Position(position.epoch, read))
        elif self.live[topic] is None:
            self._stand(topic, position)
        return following is not None

    def _lose(self, topic: str, position: Position | None) -> None:
        """Some of it before `position` is gone."""
        self._stand(topic, position)
        self._tell_lost(topic, position)

    def _tell_lost(self, topic: str, position: Position | None) -> None:
        with self.events.lock:
            self.events.report_lost_locked(topic, position)

    def _miss(self, topic: str) -> None:
        """Some of a topic was missed: look it up."""
        self._catching.add(topic)
        self._on_missed(topic)

    # ------------------------------------------------------------------ the check

    async def check(self) -> None:
        """See, every few seconds, whether Redis has more of our topics than we have heard: what nothing else shows."""
        suspected: dict[str, Position] = {}
        waiting: deque[str] = deque()
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            if not self._caught_up:
                continue
            for topic, seen in suspected.items():
                if topic in self.live and _is_behind(self.live[topic], seen) and topic not in self._catching:
                    self._count_one("gaps_found")
                    self._miss(topic)
            suspected = {}
            if not waiting:
                waiting.extend(self.live)
            for _ in range(0, MOST_CHECKED, BATCH):
                topics = [waiting.popleft() for _ in range(min(BATCH, len(waiting)))]
                if topics:
                    suspected.update(await self._compare(topics))

    async def _compare(self, topics: list[str]) -> dict[str, Position]:
        """Return the topics of which we have not heard all, and where they stand in Redis; it may be on its way."""
        commands: list[Command] = [
            ("HMGET", f"{self.shards.base(self.shards.of(topic))}:at:{topic}", "epoch", "offset") for topic in topics
        ]
        behind: dict[str, Position] = {}
        for topic, answer in zip(topics, await self.link.exchange(commands), strict=True):
            try:
                epoch, offset = answer
                position = Position(read_epoch(epoch), read_offset(offset))
            except (TypeError, ValueError):  # it is not kept, or not ours
                continue
            if topic in self.live and _is_behind(self.live[topic], position):
                behind[topic] = position
        return behind

    # ------------------------------------------------------------------ looking up

    def must_look_up(self, job: Follow) -> bool:
        """Return whether our own history does not have what a follower wants, and Redis may."""
        position = self.live.get(job.topic)
        if position is None or job.since is None:
            return False
        history = self.events.history
        with self.events.lock:
            now = self.events.now()
            if isinstance(job.since, int):
                return len(history.latest(job.topic, job.since, now)) < job.since
            return job.since.epoch == position.epoch and history.since(job.topic, job.since, now) is None

    async def look_up(self, job: Follow) -> LookedUp | None:
        """Read what a follower wants, as far as it has come here, and how far that is. None: it is in our own history,
        or not known."""
        position = self.live.get(job.topic)
        if position is None or not self.must_look_up(job):
            return None
        back = isinstance(job.since, int)
        most = job.since if isinstance(job.since, int) else 0
        after = 0 if isinstance(job.since, int) or job.since is None else job.since.offset
        room = job.room
        missed: list[Publication] = []
        at: int | None = position.offset if back else after
        while at is not None and room > 0:
            where = Position(position.epoch, at)
            count = most - len(missed) if back else MOST_ENTRIES
            (found,) = await self._fetch([(job.topic, where)], min(room, PORTION), count, back=back)
            if found is None or found.position.epoch != position.epoch:
                return None
            for envelope in found.envelopes:
                publication = envelope.publication
                assert publication.position is not None
                offset = publication.position.offset
                if offset > position.offset:  # it will be heard, or was
                    continue
                if not back and offset != after + 1:
                    return None
                after = offset
                room -= len(publication.bare.data)
                missed.append(publication)
            at = None if found.next is None else found.next if back else found.next - 1
            if back and len(missed) >= most:
                break
        if back:
            return position, missed[::-1]
        return (position, missed) if after == position.offset else None

    async def _fetch(
        self, wanted: list[tuple[str, Position | None]], room: int, most: int = MOST_ENTRIES, *, back: bool = False
    ) -> list[Found | None]:
        """Read where topics stand in Redis, and a portion of what each has after a position, or, with `back`, until it,
        the latest first; None: it is not kept. `room`: bytes of each, about; 0: nothing but where it stands. `most`:
        entries."""
        commands: list[Command] = []
        for topic, position in wanted:
            base = self.shards.base(self.shards.of(topic))
            commands.append(
                (
                    *("EVAL", READ, 2, f"{base}:at:{topic}", f"{base}:log:{topic}", self.link.incarnation),
                    *(secrets.token_hex(8), *(position or ("", 0)), room, most, int(back)),
                )
            )
        found: list[Found | None] = []
        for at in range(0, len(commands), BATCH):
            answers = await self.link.exchange(commands[at : at + BATCH])
            found += [self._read_found(topic, each) for (topic, _), each in zip(wanted[at:], answers, strict=False)]
        return found

    def _read_found(self, topic: str, answer: Any) -> Found | None:
        """Read an answer about a topic."""
        if answer is None:
            return None
        try:
            if isinstance(answer, Exception):
                raise answer
            epoch, offset, now, entries, *rest = answer
            position = Position(read_epoch(epoch), read_offset(offset))
            after = None if not rest or rest[0] is None else read_offset(rest[0])
            written = read_offset(now)
        except Exception as error:
            self.foreign("a history that cannot be read", topic, error)
            return None
        return Found(position, self._envelopes(topic, position.epoch, written, entries), after)

    def _envelopes(self, topic: str, epoch: str, now: int, entries: list[Any]) -> list[Envelope]:
        """Read those entries of a stream that are ours, and not too old."""
        kept = []
        for raw in entries:
            try:
                entry = read_entry(raw)
                age = max(0, now - entry.written) / 1000
                envelope = read_envelope(topic, entry.body, self.events.now(), age)
            except ValueError as error:
                self.foreign("an entry of a history", topic, error)
                continue
            if envelope.keep is None or envelope.keep.seconds is None or age < envelope.keep.seconds:
                envelope.publication.position = Position(epoch, entry.offset)
                kept.append(self._ours(envelope))
        return kept

    def foreign(self, kind: str, where: str, error: Exception) -> None:
        """Count something of Redis that is not ours, and log the first of a kind."""
        self._count_one("foreign")
        self.complain(kind, where, error)

    def complain(self, kind: str, where: str, error: Exception) -> None:
        """Log something that went wrong, once a minute of a kind."""
        self._complaints.add(kind, where, error)

    # ------------------------------------------------------------------ what is heard

    def deliver(self, channel: str, head: str, body: bytes) -> None:
        """Deliver a message that came on a channel, in its turn. Raises ValueError for what is not ours."""
        topic, position = read_heading(head)
        if channel != self.shards.base(self.shards.of(topic)):
            raise ValueError("a topic of another channel")
        events = self.events
        if not self.wanted(topic):
            self.live.pop(topic, None)
            return
        envelope = self._ours(read_envelope(topic, body, events.now()))
        if (envelope.keep is None) != (position is None):
            raise ValueError("a message is kept and has a position, or neither")
        if position is not None:
            last = self.live.get(topic)
            if topic in self.live and not _follows(position, last):
                old = last is not None and last.epoch == position.epoch and position.offset <= last.offset
                if not old and topic not in self._catching:
                    self._miss(topic)
                return
            self.live[topic] = position
            envelope.publication.position = position
        events.receive(envelope)

    def _ours(self, envelope: Envelope) -> Envelope:
        """Return the same with the name of the process that leaves somebody out, if it is of our machine."""
        if envelope.exclude is None:
            return envelope
        site, _, process = envelope.exclude[0].rpartition("/")
        exclude = (process, envelope.exclude[1]) if site == self.site else None
        return envelope._replace(exclude=exclude)


def _is_pattern(name: str) -> bool:
    return is_pattern(name.split("."))


def _follows(position: Position, last: Position | None) -> bool:
    """Whether nothing is missing between the two; what is kept for the first time begins with 1."""
    return position == (Position(position.epoch, 1) if last is None else Position(last.epoch, last.offset + 1))


def _is_behind(ours: Position | None, theirs: Position) -> bool:
    return ours is None or ours.epoch != theirs.epoch or ours.offset < theirs.offset
