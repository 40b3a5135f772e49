"""Topics: what this process knows of each topic, and the channels that it is subscribed to for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from gows.brokers.base import BrokerEvents
from gows.brokers.redis.connection import Link
from gows.brokers.redis.jobs import Follow, Interest, Release
from gows.brokers.redis.shards import Shards
from gows.topics.publication import Position


class TopicState:
    """What is known of one topic, or of a pattern that is subscribed to. It is kept as long as anything is known."""

    __slots__ = ("followers", "is_live", "is_missed", "position", "subscribers")

    def __init__(self) -> None:
        self.subscribers = 0
        """1 while connections here are subscribed."""
        self.followers = 0
        """Connections here that are about to subscribe."""
        self.is_live = False
        """Whether everything of it was received since `position`, but what was sent during an outage."""
        self.position: Position | None = None
        """Where a live topic stands; None: nothing of it is kept."""
        self.is_missed = False
        """Whether something was missed that is not looked up yet."""

    @property
    def is_empty(self) -> bool:
        """Return whether nothing is known."""
        return not (self.subscribers or self.followers or self.is_live or self.is_missed)


class Topics:
    """The topics of one process. Of the broker's thread."""

    events: BrokerEvents
    link: Link

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self._states: dict[str, TopicState] = {}
        self._interest: Counter[int] = Counter()  # by shard: subscribed topics, and followers on their way
        self._channels: set[int] = set()  # shards to whose channels we are subscribed

    def attach(self, link: Link) -> None:
        """Begin with a new link, by which nothing is received yet."""
        self.link = link
        self._channels.clear()
        for topic, state in list(self._states.items()):
            state.is_missed = False
            self._drop_empty(topic, state)

    # ------------------------------------------------------------------ how far each is

    def is_live(self, topic: str) -> bool:
        """Return whether everything of a topic was received since a position."""
        state = self._states.get(topic)
        return state is not None and state.is_live

    def position(self, topic: str) -> Position | None:
        """Return where a live topic stands; None: it is not live, or not kept."""
        state = self._states.get(topic)
        return None if state is None else state.position

    def set_position(self, topic: str, position: Position | None) -> None:
        """Let a topic be live, and stand there."""
        state = self._state(topic)
        state.is_live = True
        state.position = position

    def forget_position(self, topic: str) -> None:
        """Let a topic be live no longer."""
        state = self._states.get(topic)
        if state is not None:
            state.is_live = False
            state.position = None
            self._drop_empty(topic, state)

    def live(self) -> list[str]:
        """Return the topics that are live."""
        return [topic for topic, state in self._states.items() if state.is_live]

    def is_subscribed(self, topic: str) -> bool:
        """Return whether a topic or pattern has subscribers here."""
        state = self._states.get(topic)
        return state is not None and state.subscribers > 0

    def subscribed(self) -> list[str]:
        """Return the topics and patterns that have subscribers here."""
        return [topic for topic, state in self._states.items() if state.subscribers]

    def is_missed(self, topic: str) -> bool:
        """Return whether something of a topic was missed that is not looked up yet."""
        state = self._states.get(topic)
        return state is not None and state.is_missed

    def set_missed(self, topic: str, missed: bool) -> None:
        """Note that something of a topic was missed, or that it is looked up now."""
        state = self._state(topic)
        state.is_missed = missed
        self._drop_empty(topic, state)

    def _state(self, topic: str) -> TopicState:
        """Return the state of a topic; a new one, if nothing is known."""
        state = self._states.get(topic)
        if state is None:
            state = self._states[topic] = TopicState()
        return state

    def _drop_empty(self, topic: str, state: TopicState) -> None:
        """Drop the state of a topic if nothing is known."""
        if state.is_empty:
            self._states.pop(topic, None)

    # ------------------------------------------------------------------ who is interested

    def is_wanted(self, topic: str) -> bool:
        """Return whether any connection here gets what is published to a topic, or is about to subscribe to it."""
        state = self._states.get(topic)
        return (state is not None and state.followers > 0) or self.events.has_subscribers(topic)

    def count(self, job: Interest) -> list[int]:
        """Count a topic that has its first subscriber, or lost its last. Returns its shards."""
        shards = self.shards.of_pattern(job.topic)
        self._interest.update(dict.fromkeys(shards, job.change))
        state = self._state(job.topic)
        state.subscribers = max(0, state.subscribers + job.change)
        if not state.subscribers:
            self._forget_unwanted(job.topic)
            self._drop_empty(job.topic, state)
        return shards

    def follow_begins(self, job: Follow) -> list[int]:
        """Count a follower: from now on nothing of its topic is passed over. Returns the shards of the topic."""
        shards = self.shards.of_pattern(job.topic)
        self._interest.update(shards)  # until the subscription is counted itself
        self._state(job.topic).followers += 1
        return shards

    def follow_ends(self, topic: str) -> None:
        """Note that a follower is answered now; its interest is counted until `release`."""
        state = self._state(topic)
        state.followers -= 1
        self._drop_empty(topic, state)

    def release(self, job: Release) -> list[int]:
        """Count a follower no more: what it wants is counted as a subscription now. Returns the shards of its topic."""
        shards = self.shards.of_pattern(job.topic)
        self._interest.subtract(shards)
        self._forget_unwanted(job.topic)  # it was refused, or has gone
        return shards

    def _forget_unwanted(self, topic: str) -> None:
        """Let a topic that nobody wants be live no longer."""
        if not self.is_wanted(topic):
            self.forget_position(topic)

    # ------------------------------------------------------------------ channels

    async def subscribe_channels_again(self) -> None:
        """Subscribe to all channels that are of interest, by a new link."""
        await self.link.subscribe([self.shards.control])
        await self.subscribe_channels([shard for shard, count in self._interest.items() if count > 0])

    async def subscribe_channels(self, shards: Iterable[int]) -> None:
        """Subscribe to the channels of those shards that are of interest."""
        new = [shard for shard in shards if shard not in self._channels and self._interest[shard] > 0]
        if new:
            await self.link.subscribe([self.shards.base(shard) for shard in new])
            self._channels.update(new)

    async def unsubscribe_channels(self, shards: Iterable[int]) -> None:
        """Unsubscribe from the channels of those shards that are of no interest any more."""
        old = {shard for shard in shards if self._interest[shard] <= 0 and shard in self._channels}
        if not old:
            return
        self._channels -= old
        for topic in self.live():
            if self.shards.of(topic) in old:
                self.forget_position(topic)  # what comes from now on is not received
        await self.link.unsubscribe([self.shards.base(shard) for shard in old])
