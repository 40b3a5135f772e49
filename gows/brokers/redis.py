"""RedisBroker: topics over all servers that use one Redis. Needs `gows[redis]`.

What is published goes to Redis and comes from there, to the process that published it too, so all hear it in one order.
Topics are spread over shards by a hash; a process subscribes to the channels of the shards in which it has subscribers.
A topic of which a history is kept has a stream, whose script numbers each message and publishes it in one step; a
process that misses one, or was cut off, reads it there. What is not kept is lost for whoever is cut off.

When Redis has restarted, and does not write every command to disk before it answers (appendfsync always), it may have
lost what it had acknowledged: then every topic begins a new epoch, and clients hear of a gap.

On the wire: a version (1 byte), the topic, and for what is kept its epoch and offset, a line feed, and an Envelope.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple
from zlib import crc32

from gows.brokers import Broker, Done, Envelope
from gows.brokers.redis_link import READ, RECORD, Command, Link
from gows.bus import Bus
from gows.errors import BrokerError, QueueFullError
from gows.options import check_seconds
from gows.patterns import is_pattern
from gows.topics import Position, Publication, Since
from gows.websocket import WebSocket

logger = logging.getLogger("gows")

MAX_WAITING = 16 << 20
"""Bytes that may wait for Redis."""
BATCH = 256
"""Commands that are sent at once."""
BEAT = 3.0
"""Seconds after which a process says again that it is there."""
GONE = 10.0
"""Seconds without a word after which another one is taken for dead."""
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0
"""Seconds until the next attempt to connect; they double."""
CLOSE_TIMEOUT = 2.0
"""Seconds that `close` gives what waits."""

_VERSION = b"\1"


class _Post(NamedTuple):
    """A publication that waits."""

    number: int
    envelope: Envelope
    body: bytes
    done: Done
    sent_to: str | None = None
    """The incarnation of the server that may have it."""


class _Follow(NamedTuple):
    """Somebody wants to hear of a topic."""

    topic: str
    since: Since
    then: Callable[[list[Publication] | None], object]


class _Call(NamedTuple):
    """Something that is to be done in its turn."""

    call: Callable[[], object]


class _Interest(NamedTuple):
    """There is a subscriber more (1) or less (-1)."""

    topic: str
    change: int


class _CatchUp(NamedTuple):
    """Some of a topic was missed."""

    topic: str


class _Tell(NamedTuple):
    """Something for other processes."""

    head: str
    body: bytes


_Found = tuple[Position, list[Envelope]]
_Job = _Post | _Follow | _Call | _Interest | _CatchUp | _Tell


class RedisBroker(Broker):
    """See `Broker`, and docs/topics.md.

    `url`: redis://, rediss:// or unix://, as redis-py takes it. `prefix`: what all keys and channels begin with;
    servers with the same one belong together. `outage`: what becomes of a message while Redis is not there: "refuse"
    raises BrokerError, "queue" keeps it, `max_waiting` bytes at most, until Redis is back. `sharded`: use the sharded
    pub/sub of Redis 7. `shards`: over how many channels topics are spread; the same for all servers. `forget`: seconds
    without a message after which a topic's history goes. `timeout`: seconds that Redis has to answer.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "gows",
        outage: str = "refuse",
        max_waiting: int = MAX_WAITING,
        sharded: bool = False,
        shards: int = 64,
        forget: float = 86400.0,
        timeout: float = 5.0,
    ) -> None:
        """Raises ValueError for what cannot be meant, ImportError without redis-py."""
        try:
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as error:
            raise ImportError(f"RedisBroker needs redis-py: pip install 'gows[redis]' ({error})") from error
        if outage not in ("refuse", "queue"):
            raise ValueError(f'outage is "refuse" or "queue", not {outage!r}')
        for name, value in (("max_waiting", max_waiting), ("shards", shards)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an int of 1 or more, not {value!r}")
        for name, seconds in (("forget", forget), ("timeout", timeout)):
            check_seconds(name, seconds, optional=False)
        if not prefix or " " in prefix or not prefix.isprintable() or "{" in prefix or "}" in prefix:
            raise ValueError(f"a prefix has characters, and no spaces nor braces: {prefix!r}")
        self._redis = Redis.from_url(
            url, protocol=2, socket_timeout=None, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
        )
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        """What this process is called among all."""
        self._counts = Counter(refused=0, queued=0, full=0, unknown=0, failed=0, reconnects=0)
        self._prefix = prefix
        self._outage = outage
        self._max_waiting = max_waiting
        self._sharded = sharded
        self._publish_command = "SPUBLISH" if sharded else "PUBLISH"
        self._shards = shards
        self._forget = int(forget * 1000)
        self._timeout = timeout
        self._site = self.name
        self._lock = threading.Lock()  # of the next five
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._up = False
        self._closing = False
        self._number = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tried = threading.Event()
        # What follows is of our thread.
        self._woken: asyncio.Event
        self._link: Link
        self._interest: Counter[int] = Counter()  # by shard: subscribed topics, and followers on their way
        self._subscribed: set[int] = set()
        self._topics: Counter[str] = Counter()  # those with subscribers here
        self._followed: Counter[str] = Counter()  # those that somebody is about to subscribe to
        self._live: set[str] = set()  # topics of which we have heard everything, but what was sent during an outage
        self._catching: set[str] = set()  # those for which a _CatchUp waits
        self._doubtful: list[_Post] = []  # sent, and not answered
        self._last_heard = 0.0
        self._seen: dict[str, float] = {}  # other processes: when each was heard last

    # ------------------------------------------------------------------ Broker: any thread

    def join(self, bus: Bus) -> None:
        self._site = f"{socket.gethostname()}:{bus.folder}"

    def start(self) -> None:
        """Connect, in a thread of its own. When that fails it is logged, and tried again and again."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, name="gows-redis", daemon=True)
            self._thread.start()
            self._tried.wait(self._timeout)

    def close(self) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
        if self._thread is not None:
            self._wake()
            self._thread.join(CLOSE_TIMEOUT + self._timeout)
        for job in self._jobs:
            if isinstance(job, _Post):
                job.done(BrokerError("the broker was closed"))

    def publish(self, envelope: Envelope, own: WebSocket | None, done: Done) -> bool:
        if own is not None:
            envelope = envelope._replace(left_out=self.hub.leave_out(own))
        if envelope.left_out is not None:
            process, number = envelope.left_out
            envelope = envelope._replace(left_out=(f"{self._site}/{process}", number))
        body = envelope.pack()
        with self._lock:
            if self._closing:
                raise BrokerError("the broker was closed")
            if not self._up and self._outage == "refuse":
                raise self._refused()
            if self._waiting and self._waiting + len(body) > self._max_waiting:
                self._counts["full"] += 1
                raise QueueFullError(f"{self._waiting} bytes wait for Redis already")
            if not self._up:
                self._counts["queued"] += 1
            self._waiting += len(body)
            self._number += 1
            self._jobs.append(_Post(self._number, envelope, body, done))
        self._wake()
        return False

    def follow(self, topic: str, since: Since, then: Callable[[list[Publication] | None], object]) -> None:
        self._submit(_Follow(topic, since, then))

    def in_turn(self, call: Callable[[], object]) -> None:
        self._submit(_Call(call))

    def listen(self, topic: str) -> None:
        self._submit(_Interest(topic, 1))

    def unlisten(self, topic: str) -> None:
        self._submit(_Interest(topic, -1))

    @property
    def peers(self) -> list[str]:
        return sorted(self._seen)

    def tell(self, data: bytes, to: str | None = None) -> None:
        self._submit(_Tell(f"tell {self.name} {to or ''}", data))

    @property
    def connected(self) -> bool:
        return self._up

    @property
    def waiting(self) -> int:
        return self._waiting

    def counters(self) -> dict[str, int]:
        """Publications that were refused or queued while Redis was not there, refused since too many waited, of which
        it is not known whether Redis has them, and which Redis did not take; how often it was connected again."""
        return dict(self._counts)

    def _submit(self, job: _Job) -> None:
        self._jobs.append(job)
        self._wake()

    def _wake(self) -> None:
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._woken.set)
            except RuntimeError:  # it has ended
                pass

    # ------------------------------------------------------------------ our thread: connections

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception:
            logger.exception("the Redis broker has ended; topics do not go on in this process")
        finally:
            self._up = False
            self._tried.set()

    async def _run(self) -> None:
        self._woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        delay = FIRST_DELAY
        told = False
        while not self._closing:
            self._link = Link(self._redis, self._timeout, sharded=self._sharded)
            try:
                await self._serve()
            except Exception as error:
                if not _is_trouble(error):
                    logger.exception("a fault of the Redis broker")
                elif not told or self._up:
                    logger.error("Redis is not there: %s; it is tried again", error or type(error).__name__)
                told = True
                if self._up:
                    delay = FIRST_DELAY
            finally:
                with self._lock:
                    self._up = False
                await self._link.close()
            self._tried.set()
            self._settle()
            if not self._closing:
                await self._bridge(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, LONGEST_DELAY)

    async def _serve(self) -> None:
        """Until something fails, or the end."""
        await self._link.connect()
        tasks = [asyncio.ensure_future(each) for each in (self._read(), self._work(), self._beat())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pending = set(tasks)
            while pending:  # before Python 3.12 wait_for may swallow a cancellation
                for task in pending:
                    task.cancel()
                _, pending = await asyncio.wait(pending, timeout=0.1)
        errors = [
            task.exception() for task in tasks if not task.cancelled()
        ]  # of all: asyncio logs what nobody asks for
        for error in errors:
            if error is not None:
                raise error

    def _settle(self) -> None:
        """What becomes of messages that were sent and not answered."""
        doubtful, self._doubtful = self._doubtful, []
        again: list[_Post] = []
        for post in doubtful:
            if self._outage == "queue" and post.envelope.keep is not None and not self._closing:
                again.append(post)
            else:
                self._finish(post, self._unknown())
        self._jobs.extendleft(reversed(again))

    def _refused(self) -> BrokerError:
        self._counts["refused"] += 1
        return BrokerError("Redis is not there; try again later")

    def _unknown(self) -> BrokerError:
        self._counts["unknown"] += 1
        return BrokerError("Redis was lost before it answered: it may have the message, or not")

    def _finish(self, post: _Post, error: Exception | None) -> None:
        with self._lock:
            self._waiting -= len(post.body)
        try:
            post.done(error)
        except Exception:
            logger.exception("what was to be called after a publication failed")

    async def _bridge(self, seconds: float) -> None:
        """Without Redis, for a while."""
        until = time.monotonic() + seconds
        while not self._closing:
            held: list[_Post] = []
            while self._jobs:
                job = self._jobs.popleft()
                if isinstance(job, _Post):
                    if self._outage == "queue":
                        held.append(job)
                    else:
                        self._finish(job, self._refused())
                elif isinstance(job, _Follow):
                    self._answer(job, None)
                elif isinstance(job, _Call):
                    self._call(job)
                elif isinstance(job, _Interest):
                    self._count(job)
            self._jobs.extendleft(reversed(held))
            left = until - time.monotonic()
            if left <= 0:
                break
            self._woken.clear()
            try:
                await asyncio.wait_for(self._woken.wait(), left)
            except asyncio.TimeoutError:
                break

    async def _beat(self) -> None:
        """Say that we are there; see who is not."""
        heard = self._last_heard = time.monotonic()
        while True:
            await asyncio.sleep(BEAT)
            now = time.monotonic()
            if self._last_heard == heard and now - heard > 3 * BEAT:
                raise BrokerError("nothing came from Redis for too long")
            heard = self._last_heard
            await self._link.ping()
            self._submit(_Tell(f"alive {self.name} ", b""))
            for name in [name for name, at in self._seen.items() if now - at > GONE]:
                self._gone(name)

    # ------------------------------------------------------------------ our thread: what is asked for

    async def _work(self) -> None:
        self._subscribed.clear()
        self._catching.clear()
        await self._link.subscribe([self._control])
        await self._hear([shard for shard, count in self._interest.items() if count > 0])
        with self._lock:
            self._up = True
        logger.info("connected to Redis as %s", self.name)
        if self._tried.is_set():
            self._counts["reconnects"] += 1
        now = time.monotonic()
        self._seen = dict.fromkeys(self._seen, now)
        await self._publish([_Tell(f"hello {self.name} ", b"")])
        for name in self._seen:
            self.hub.peer_up(name)
        self._live = {topic for topic in self._live if self.hub.wanted(topic)}
        live = list(self._live)
        for at in range(0, len(live), BATCH):
            await self._catch_up(live[at : at + BATCH])
        for topic in self._topics.keys() - self._live:
            await self._begin(topic)
        self._tried.set()
        while True:
            self._woken.clear()
            while self._jobs:
                await self._work_off()
            if self._closing:
                await self._publish([_Tell(f"bye {self.name} ", b"")])
                return
            await self._woken.wait()

    async def _work_off(self) -> None:
        """The first job, or several that go out together."""
        posts: list[_Post | _Tell] = []
        while self._jobs and len(posts) < BATCH and isinstance(job := self._jobs[0], _Post | _Tell):
            posts.append(job)
            self._jobs.popleft()
        if posts:
            await self._publish(posts)
            return
        job = self._jobs[0]
        if isinstance(job, _Follow):
            await self._follow(job)  # which takes it off the queue once it is done
        elif isinstance(job, _CatchUp):
            self._jobs.popleft()
            self._catching.discard(job.topic)
            await self._catch_up([job.topic])
        elif isinstance(job, _Interest):
            self._jobs.popleft()
            self._count(job)
            if job.change > 0:
                await self._hear(self._shards_of(job.topic))
                await self._begin(job.topic)
            else:
                await self._unhear(self._shards_of(job.topic))
        elif isinstance(job, _Call):
            self._jobs.popleft()
            self._call(job)

    async def _publish(self, jobs: list[_Post | _Tell]) -> None:
        """Send them, in order, and tell who asked."""
        incarnation = self._link.incarnation
        commands: list[Command] = []
        posts: list[_Post | None] = []
        for job in jobs:
            if isinstance(job, _Tell):
                frame = b"".join((_VERSION, job.head.encode(), b"\n", job.body))
                commands.append((self._publish_command, self._control, frame))
                posts.append(None)
            elif job.sent_to not in (None, incarnation):
                self._finish(job, self._unknown())  # the server may have had it, and lost it
            else:
                commands.append(self._command(job))
                posts.append(job)
        if not commands:
            return
        self._doubtful = [post._replace(sent_to=incarnation) for post in posts if post is not None]
        answers = await self._link.exchange(commands)
        self._doubtful = []
        for post, answer in zip(posts, answers, strict=True):
            if isinstance(answer, Exception):
                self._counts["failed"] += 1
                logger.error("Redis did not take a message: %s", answer)
            if post is not None:
                failed = isinstance(answer, Exception)
                self._finish(post, BrokerError(f"Redis did not take it: {answer}") if failed else None)

    def _command(self, post: _Post) -> Command:
        topic, keep = post.envelope.publication.topic, post.envelope.keep
        base = self._base(self._shard_of(topic))
        if keep is None:
            return self._publish_command, base, b"".join((_VERSION, topic.encode(), b"\n", post.body))
        age = 0 if keep.seconds is None else max(1, int(keep.seconds * 1000))
        keys = f"{base}:at:{topic}", f"{base}:log:{topic}", f"{base}:last:{self.name}"
        return (
            *("EVAL", RECORD, 3, *keys, self._link.incarnation, secrets.token_hex(8), topic, post.body),
            *(keep.messages, age, max(age, self._forget), base, self._publish_command),
            post.number,
        )

    async def _follow(self, job: _Follow) -> None:
        """Make sure that we hear of the topic, and look up what was missed."""
        shards = self._shards_of(job.topic)
        self._interest.update(shards)  # until the subscription is counted itself
        self._followed[job.topic] += 1  # what is heard from now on is not to be passed over
        try:
            await self._hear(shards)
            await self._begin(job.topic)
            if isinstance(job.since, int):
                missed = await self._latest(job.topic, job.since)
            else:
                missed = await self._missed(job.topic, job.since)
            self._jobs.popleft()
            self._answer(job, missed)
        finally:
            self._followed -= Counter([job.topic])
            self._jobs.append(_Call(lambda: self._interest.subtract(shards)))

    async def _missed(self, topic: str, since: Position | None) -> tuple[Position, list[Publication]] | None:
        """What was published after `since`, as far as it has come here, and how far that is; None: it is in our own
        history, or not known."""
        hub = self.hub
        with hub.lock:
            position = hub.history.position(topic)
            known = since is None or hub.history.since(topic, since, hub.now()) is not None
        if known or position is None or since is None or position.epoch != since.epoch:
            return None
        found = await self._fetch(topic, since)
        if found is None or found[0].epoch != since.epoch:
            return None
        expected = since.offset + 1
        missed = []
        for envelope in found[1]:
            where = envelope.publication.position
            assert where is not None
            if where.offset != expected or where.offset > position.offset:
                break
            expected += 1
            missed.append(envelope.publication)
        return (position, missed) if expected == position.offset + 1 else None

    async def _latest(self, topic: str, count: int) -> tuple[Position, list[Publication]] | None:
        """The latest of a topic, as `_missed`: our own history begins with our first subscriber."""
        hub = self.hub
        with hub.lock:
            position = hub.history.position(topic)
            known = len(hub.history.latest(topic, count, hub.now())) == count
        if known or position is None:
            return None
        found = await self._fetch(topic, Position(position.epoch, max(0, position.offset - count)))
        if found is None or found[0].epoch != position.epoch:
            return None
        newer = found[0].offset - position.offset  # which will be heard, or were
        return position, [each.publication for each in found[1][: max(0, len(found[1]) - newer)]]

    def _answer(self, job: _Follow, fetched: tuple[Position, list[Publication]] | None) -> None:
        """Let it begin, with what was missed, and what came while that was looked up."""
        hub = self.hub
        with hub.lock:
            now = hub.now()
            missed: list[Publication] | None = None
            if fetched is not None:
                later = hub.history.since(job.topic, fetched[0], now)
                if later is not None:
                    missed = [each for each in fetched[1] if each.bare.expires > now] + later
            else:
                missed = hub.history.find(job.topic, job.since, now)
            try:
                job.then(missed)
            except Exception:
                logger.exception("a subscription to %s failed", job.topic)

    def _call(self, job: _Call) -> None:
        try:
            job.call()
        except Exception:
            logger.exception("something that waited for its turn at the broker failed")

    # ------------------------------------------------------------------ our thread: topics

    async def _fetch(self, topic: str, after: Position | None, *, entries: bool = True) -> _Found | None:
        """Where a topic stands in Redis, and what it has after a position; None: it is not kept."""
        (found,) = await self._fetch_all([(topic, after)], entries=entries)
        return found

    async def _fetch_all(
        self, wanted: list[tuple[str, Position | None]], *, entries: bool = True
    ) -> list[_Found | None]:
        """The same for several at once."""
        commands: list[Command] = []
        for topic, after in wanted:
            base = self._base(self._shard_of(topic))
            epoch, offset = after or ("", 0)
            commands.append(
                (
                    *("EVAL", READ, 2, f"{base}:at:{topic}", f"{base}:log:{topic}", self._link.incarnation),
                    *(secrets.token_hex(8), epoch, offset, int(entries)),
                )
            )
        found: list[_Found | None] = []
        for (topic, _), answer in zip(wanted, await self._link.exchange(commands), strict=True):
            if isinstance(answer, Exception):
                logger.error("the history of %s cannot be read: %s", topic, answer)
                answer = None
            if answer is None:
                found.append(None)
            else:
                epoch = answer[0].decode()
                found.append((Position(epoch, answer[1]), self._envelopes(epoch, answer[2], answer[3])))
        return found

    def _envelopes(self, epoch: str, now: int, entries: list[Any]) -> list[Envelope]:
        """Those of a stream that are not too old."""
        kept = []
        for id_, (_, ms, _, body) in entries:
            age = max(0, now - int(ms)) / 1000
            envelope = Envelope.unpack(body, self.hub.now(), age)
            if envelope.keep is None or envelope.keep.seconds is None or age < envelope.keep.seconds:
                envelope.publication.position = Position(epoch, int(id_.partition(b"-")[0]))
                kept.append(self._ours(envelope))
        return kept

    async def _begin(self, topic: str) -> None:
        """Find out where a topic stands that we have not heard of, so that we notice when we miss something."""
        if topic in self._live or is_pattern(topic.split(".")):
            return
        found = await self._fetch(topic, None, entries=False)
        with self.hub.lock:
            if topic not in self._live:
                self.hub.history.begin(topic, None if found is None else found[0])
                self._live.add(topic)

    async def _catch_up(self, topics: list[str]) -> None:
        """Deliver what was missed of topics, and say so if some of it is gone."""
        history = self.hub.history
        with self.hub.lock:
            wanted = [(topic, history.position(topic)) for topic in topics]
        for topic, found in zip(topics, await self._fetch_all(wanted), strict=True):
            self._make_up(topic, found)

    def _make_up(self, topic: str, found: _Found | None) -> None:
        """Deliver what was found of a topic, but what has come meanwhile."""
        hub = self.hub
        with hub.lock:
            last = hub.history.position(topic)
        if found is None:
            if last is not None:
                with hub.lock:
                    hub.history.begin(topic, None)
                    hub.lost(topic, None)
            return
        position, envelopes = found
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
            hub.receive(envelope)
            expected = where.offset + 1
        if broken or expected <= position.offset:
            self._lose(topic, position)

    def _lose(self, topic: str, position: Position) -> None:
        """Some of it before `position` is gone."""
        with self.hub.lock:
            self.hub.history.begin(topic, position)
            self.hub.lost(topic, position)

    def _count(self, job: _Interest) -> None:
        self._interest.update(dict.fromkeys(self._shards_of(job.topic), job.change))
        self._topics[job.topic] += job.change
        if self._topics[job.topic] <= 0:
            del self._topics[job.topic]
            if not self.hub.wanted(job.topic):
                self._live.discard(job.topic)

    async def _hear(self, shards: list[int]) -> None:
        """Be subscribed to these."""
        new = [shard for shard in shards if shard not in self._subscribed]
        if new:
            await self._link.subscribe([self._base(shard) for shard in new])
            self._subscribed.update(new)

    async def _unhear(self, shards: list[int]) -> None:
        for shard in shards:
            if self._interest[shard] <= 0 and shard in self._subscribed:
                self._subscribed.discard(shard)
                await self._link.unsubscribe(self._base(shard))

    def _shard_of(self, topic: str) -> int:
        return crc32(topic.encode()) % self._shards

    def _shards_of(self, pattern: str) -> list[int]:
        return list(range(self._shards)) if is_pattern(pattern.split(".")) else [self._shard_of(pattern)]

    def _base(self, shard: int) -> str:
        """What its keys begin with, and its channel: in a cluster all are in one place."""
        return f"{self._prefix}:{{{shard}}}"

    # ------------------------------------------------------------------ our thread: what is heard

    @property
    def _control(self) -> str:
        return f"{self._prefix}:{{nodes}}"

    async def _read(self) -> None:
        while True:
            message = await self._link.listen()
            self._last_heard = time.monotonic()
            if message is None:
                continue
            channel, data = message
            try:
                if data[:1] != _VERSION:
                    raise ValueError("of another version")
                head, _, body = data[1:].partition(b"\n")
                if channel == self._control:
                    self._heard(head.decode(), body)
                else:
                    self._deliver(head.decode(), body)
            except (ValueError, KeyError, TypeError) as error:
                logger.error("something on the channel %s was not understood: %s", channel, error)

    def _deliver(self, head: str, body: bytes) -> None:
        topic, *where = head.split(" ")
        hub = self.hub
        if not self._followed[topic] and not hub.wanted(topic):
            self._live.discard(topic)
            return
        envelope = self._ours(Envelope.unpack(body, hub.now()))
        if where:
            epoch, offset = where
            position = Position(epoch, int(offset))
            with hub.lock:
                last = hub.history.position(topic)
            if topic in self._live and not _follows(position, last):
                old = last is not None and last.epoch == epoch and position.offset <= last.offset
                if not old and topic not in self._catching:
                    self._catching.add(topic)
                    self._submit(_CatchUp(topic))
                return
            self._live.add(topic)
            envelope.publication.position = position
        hub.receive(envelope)

    def _ours(self, envelope: Envelope) -> Envelope:
        """With the name of the process that leaves somebody out, if it is of our machine; else nobody is."""
        if envelope.left_out is None:
            return envelope
        site, _, process = envelope.left_out[0].rpartition("/")
        left_out = (process, envelope.left_out[1]) if site == self._site else None
        return envelope._replace(left_out=left_out)

    def _heard(self, head: str, body: bytes) -> None:
        kind, name, to = head.split(" ")
        if name == self.name:
            return
        if kind == "bye":
            self._gone(name)
            return
        known = name in self._seen
        self._seen[name] = time.monotonic()
        if not known or kind == "hello":
            self.hub.peer_up(name)
        if kind == "tell" and to in ("", self.name):
            self.hub.heard(name, body)

    def _gone(self, name: str) -> None:
        if self._seen.pop(name, None) is not None:
            self.hub.peer_down(name)


def _follows(position: Position, last: Position | None) -> bool:
    """Whether nothing is missing between the two; what is kept for the first time begins with 1."""
    return position == (Position(position.epoch, 1) if last is None else Position(last.epoch, last.offset + 1))


def _is_trouble(error: Exception) -> bool:
    """Of the connection, and no fault of ours."""
    from redis.exceptions import RedisError

    return isinstance(error, RedisError | OSError | asyncio.TimeoutError | BrokerError)
