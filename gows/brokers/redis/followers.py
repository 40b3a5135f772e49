"""Followers: connections that subscribe, and wait for what was published before."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from gows.brokers.base import BrokerEvents
from gows.brokers.redis.jobs import Call, Follow, Mailbox, Release
from gows.brokers.redis.recovery import LookedUp, Recovery
from gows.brokers.redis.topics import Topics
from gows.session.websocket import WebSocket
from gows.topics.publication import Publication

logger = logging.getLogger("gows")


class Followers:
    """Answers requests of connections: each connection's in order, and connections take turns. Of the broker's
    thread."""

    events: BrokerEvents

    def __init__(self, mailbox: Mailbox, topics: Topics, recovery: Recovery) -> None:
        self._mailbox = mailbox
        self._topics = topics
        self._recovery = recovery
        self._look_ups: dict[WebSocket | None, deque[Follow | Call]] = {}  # by connection, which take turns
        self._asked: asyncio.Event

    def __len__(self) -> int:
        """Return how many connections wait for something that is looked up."""
        return len(self._look_ups)

    def begin(self) -> None:
        """Begin in an event loop."""
        self._asked = asyncio.Event()

    def take_waiting(self) -> list[Follow | Call]:
        """Return the requests that wait for something that is looked up, which do not wait any more."""
        look_ups, self._look_ups = self._look_ups, {}
        return [job for jobs in look_ups.values() for job in jobs]

    async def follow(self, jobs: list[Follow]) -> None:
        """Make sure that their topics are received; answer those for whom nothing has to be looked up."""
        topics = self._topics
        shards: set[int] = set()
        for job in jobs:
            shards.update(topics.follow_begins(job))
        try:
            await topics.subscribe_channels(shards)
            await self._recovery.begin([job.topic for job in jobs])
        except BaseException:
            for job in jobs:
                topics.follow_ends(job.topic)
                topics.release(Release(job.topic))
            self._mailbox.jobs.extendleft(reversed(jobs))  # to be answered without Redis
            raise
        for job in jobs:
            if job.owner in self._look_ups or self._recovery.must_look_up(job):
                self._look_ups.setdefault(job.owner, deque()).append(job)
                self._asked.set()
            else:
                topics.follow_ends(job.topic)
                self.answer(job, None)
                self._mailbox.jobs.append(Release(job.topic))  # behind what says that it has subscribed

    def call_after_pending(self, job: Call) -> None:
        """Call it, after what waits of the same connection."""
        if job.owner in self._look_ups:
            self._look_ups[job.owner].append(job)
        else:
            self.call(job)

    async def look_up(self) -> None:
        """Look up what followers want, one after the other, for ever."""
        while True:
            self._asked.clear()
            while self._look_ups:
                owner = next(iter(self._look_ups))
                jobs = self._look_ups[owner]
                job = jobs[0]
                if isinstance(job, Call):
                    self.call(job)
                else:
                    found = None if job.owner is not None and job.owner.closed else await self._recovery.look_up(job)
                    self._topics.follow_ends(job.topic)
                    self.answer(job, found)
                    self._mailbox.submit(Release(job.topic))
                jobs.popleft()
                del self._look_ups[owner]
                if jobs:
                    self._look_ups[owner] = jobs  # behind the others
            await self._asked.wait()

    def answer(self, job: Follow, found: LookedUp | None) -> None:
        """Let a follower begin, with what it missed, and what came while that was looked up."""
        events = self.events
        history = events.history
        topic = job.topic
        failed: Exception | None = None
        with events.lock:
            now = events.now()
            missed: list[Publication] | None = None
            position = self._topics.position(topic)
            if history.position(topic) != position:  # what is there is old, or the topic gave way to others
                history.begin(topic, position)
            if found is not None:
                later = history.since(topic, found[0], now)
                if later is not None:
                    missed = [each for each in found[1] if each.bare.expires > now] + later
            else:
                missed = history.find(topic, job.since, now)
            try:
                job.then(missed)
            except Exception as error:
                failed = error
        self._mailbox.request_done(job)
        if failed is not None:
            logger.error("a subscription to %s failed", topic, exc_info=failed)

    def call(self, job: Call) -> None:
        """Call it now."""
        self._mailbox.request_done(job)
        try:
            job.call()
        except Exception:
            logger.exception("a call that waited for earlier requests of its connection failed")
