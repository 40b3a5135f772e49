"""Recovery: delivers what is received, in order, and looks up what was missed.

A topic is *live* when everything of it was received since a position that is known. Whatever leaves a hole after that
is looked up in the topic's log, in portions, and delivered in order, or reported as lost. All of it happens in the
broker's thread; the publish lock is held for single steps, and never while something is awaited.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from gows.brokers.base import BrokerEvents
from gows.brokers.redis.connection import BATCH
from gows.brokers.redis.jobs import Follow
from gows.brokers.redis.logs import MOST_ENTRIES, Found, Logs
from gows.brokers.redis.topics import Topics
from gows.brokers.redis.wire import read_envelope, read_heading
from gows.topics.names import is_pattern
from gows.topics.publication import Position, Publication

CHECK_INTERVAL = 5.0
"""Seconds after which topics with subscribers here are compared with where they stand in Redis."""
MOST_CHECKED = 4096
"""Topics that are compared at a time; the others have their turn later."""
PORTION = 1 << 20
"""Bytes of a topic's log that are read at once, about."""
CATCH_UP_BATCH = 16
"""Topics that are caught up with at once."""

LookedUp = tuple[Position, list[Publication]]


class Recovery:
    """Delivers messages of topics in order, and looks up what was missed. Of the broker's thread."""

    events: BrokerEvents

    def __init__(
        self, topics: Topics, logs: Logs, on_missed: Callable[[str], object], on_gap_found: Callable[[], object]
    ) -> None:
        """`on_missed`: called with a topic of which something was missed; `catch_up_missed` is to be called in its
        turn. `on_gap_found`: called when only the check of positions found that something was missed."""
        self._topics = topics
        self._logs = logs
        self._on_missed = on_missed
        self._on_gap_found = on_gap_found
        self._is_caught_up = False  # since the connection was made

    def begin_again(self) -> None:
        """Begin with a new connection."""
        self._is_caught_up = False

    # ------------------------------------------------------------------ what is received

    def deliver(self, channel: str, head: str, body: bytes) -> None:
        """Deliver a message that came on a channel, or look up what is missing before it. Raises ValueError for what is
        not ours."""
        topic, position = read_heading(head)
        topics = self._topics
        if channel != topics.shards.channel(topic):
            raise ValueError("a topic of another channel")
        if not topics.is_wanted(topic):
            topics.forget_position(topic)
            return
        envelope = self._logs.with_own_exclude(read_envelope(topic, body, self.events.now()))
        if (envelope.keep is None) != (position is None):
            raise ValueError("a message is kept and has a position, or neither")
        if position is not None:
            last = topics.position(topic)
            if topics.is_live(topic) and not _follows(position, last):
                old = last is not None and last.epoch == position.epoch and position.offset <= last.offset
                if not old and not topics.is_missed(topic):
                    self._miss(topic)
                return
            topics.set_position(topic, position)
            envelope.publication.position = position
        self.events.receive(envelope)

    # ------------------------------------------------------------------ catching up

    async def come_back(self) -> None:
        """Find out what was missed during an outage, and deliver it, or say that something may be missing."""
        topics = self._topics
        for topic in topics.live():
            if not topics.is_wanted(topic):
                topics.forget_position(topic)
        await self._catch_up(topics.live())
        # subscribed to while Redis was not there
        unknown = [topic for topic in topics.subscribed() if not topics.is_live(topic)]
        await self.begin(unknown)
        for topic in unknown:
            if _is_pattern(topic):  # which topics of it there are that we have not received, nobody knows
                self._report_lost(topic, None)
            elif topics.position(topic) is not None:
                self._report_lost(topic, topics.position(topic))
        self._is_caught_up = True

    async def begin(self, names: list[str]) -> None:
        """Find out where topics stand that are not live, so that we notice when we miss something."""
        topics = self._topics
        wanted = [topic for topic in dict.fromkeys(names) if not topics.is_live(topic) and not _is_pattern(topic)]
        for topic, found in zip(wanted, await self._logs.fetch([(topic, None) for topic in wanted], 0), strict=True):
            if not topics.is_live(topic):  # nothing was received meanwhile
                self._begin_at(topic, None if found is None else found.position)

    async def catch_up_missed(self, topics: list[str]) -> None:
        """Look up what was missed, after `on_missed`."""
        for topic in topics:
            self._topics.set_missed(topic, False)
        await self._catch_up(topics)

    async def _catch_up(self, names: list[str]) -> None:
        """Deliver what was missed of topics, and say so if some of it is gone."""
        topics = self._topics
        for at in range(0, len(names), CATCH_UP_BATCH):
            left = [topic for topic in names[at : at + CATCH_UP_BATCH] if topics.is_live(topic)]
            while left:
                positions = [(topic, topics.position(topic)) for topic in left]
                found = await self._logs.fetch(positions, PORTION // len(left))
                left = [topic for topic, each in zip(left, found, strict=True) if self._make_up(topic, each)]

    def _make_up(self, topic: str, found: Found | None) -> bool:
        """Deliver what was found of a topic, but what has come meanwhile. Returns whether there is more."""
        topics = self._topics
        if not topics.is_live(topic):  # nobody wants it any more
            return False
        last = topics.position(topic)
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
            topics.set_position(topic, where)
            self.events.receive(envelope)
            expected = where.offset + 1
        read = position.offset if following is None else following - 1
        if broken or expected <= read:
            self._lose(topic, Position(position.epoch, read))
        elif topics.position(topic) is None:
            self._begin_at(topic, position)
        return following is not None

    def _begin_at(self, topic: str, position: Position | None) -> None:
        """Let a topic stand there: what is received next follows that."""
        self._topics.set_position(topic, position)
        with self.events.lock:
            self.events.history.begin(topic, position)

    def _lose(self, topic: str, position: Position | None) -> None:
        """Go on at a position, and report that something before it is lost."""
        self._begin_at(topic, position)
        self._report_lost(topic, position)

    def _report_lost(self, topic: str, position: Position | None) -> None:
        """Tell the subscribers of a topic that some of it, up to `position`, may be missing."""
        with self.events.lock:
            self.events.report_lost_locked(topic, position)

    def _miss(self, topic: str) -> None:
        """Have looked up what was missed of a topic."""
        self._topics.set_missed(topic, True)
        self._on_missed(topic)

    # ------------------------------------------------------------------ the check

    async def check(self) -> None:
        """See, every few seconds, whether Redis has more of our topics than we received: what nothing else shows."""
        topics = self._topics
        suspected: dict[str, Position] = {}
        waiting: deque[str] = deque()
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            if not self._is_caught_up:
                continue
            for topic, seen in suspected.items():
                if self._is_behind(topic, seen) and not topics.is_missed(topic):
                    self._on_gap_found()
                    self._miss(topic)
            suspected = {}
            if not waiting:
                waiting.extend(topics.live())
            for _ in range(0, MOST_CHECKED, BATCH):
                names = [waiting.popleft() for _ in range(min(BATCH, len(waiting)))]
                if names:
                    found = await self._logs.positions(names)
                    # it may be on its way
                    suspected.update({topic: at for topic, at in found.items() if self._is_behind(topic, at)})

    def _is_behind(self, topic: str, theirs: Position) -> bool:
        """Return whether a live topic stands before a position of Redis."""
        ours = self._topics.position(topic)
        behind = ours is None or ours.epoch != theirs.epoch or ours.offset < theirs.offset
        return behind and self._topics.is_live(topic)

    # ------------------------------------------------------------------ looking up

    def must_look_up(self, job: Follow) -> bool:
        """Return whether our own history does not have what a follower wants, and Redis may."""
        position = self._topics.position(job.topic)
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
        position = self._topics.position(job.topic)
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
            (found,) = await self._logs.fetch([(job.topic, where)], min(room, PORTION), count, back=back)
            if found is None or found.position.epoch != position.epoch:
                return None
            for envelope in found.envelopes:
                publication = envelope.publication
                assert publication.position is not None
                offset = publication.position.offset
                if offset > position.offset:  # it will be received, or was
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


def _is_pattern(name: str) -> bool:
    return is_pattern(name.split("."))


def _follows(position: Position, last: Position | None) -> bool:
    """Return whether nothing is missing between the two; what is kept for the first time begins with 1."""
    return position == (Position(position.epoch, 1) if last is None else Position(last.epoch, last.offset + 1))
