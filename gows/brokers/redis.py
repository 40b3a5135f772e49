"""RedisBroker: topics over all servers that use one Redis. Needs `gows[redis]`.

What is published goes to Redis and comes from there, to the process that published it too, so all hear it in one order.
Topics are spread over shards by a hash; a process subscribes to the channels of the shards in which it has subscribers.
A topic of which a history is kept has a stream, whose script numbers each message and publishes it in one step; a
process that misses one, or was cut off, reads it there. What is not kept is lost for whoever is cut off.

A process sees everything twice: by what is published, and every few seconds by where its topics stand in Redis.
Whatever comes out of Redis is checked before it is used (redis_wire); what is foreign is skipped.

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
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from zlib import crc32

from gows.brokers import Broker, Done, Envelope
from gows.brokers.redis_link import READ, RECORD, Command, Link
from gows.brokers.redis_wire import (
    VERSION,
    Complaints,
    read_entry,
    read_envelope,
    read_epoch,
    read_frame,
    read_greeting,
    read_heading,
    read_offset,
)
from gows.bus import Bus
from gows.errors import BrokerError, QueueFullError
from gows.history import Keep
from gows.options import check_seconds
from gows.patterns import is_pattern
from gows.printable import printable
from gows.reactor.waits import never_wait
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
CHECK_INTERVAL = 5.0
"""Seconds after which topics with subscribers here are compared with where they stand in Redis."""
MOST_CHECKED = 4096
"""Topics that are compared at a time; the others have their turn later."""
PORTION = 1 << 20
"""Bytes of a topic's log that are read at once, about."""
CATCH_UP_BATCH = 16
"""Topics that are caught up with at once."""
ROOM = 16 << 20
"""Bytes of messages that are looked up for one subscriber, if it is not known how many it can take."""
MOST_REQUESTS = 1024
"""Subscribing and unsubscribing requests of one connection that may wait."""
MOST_WAITING_REQUESTS = 1 << 18
"""… and of all connections."""
MOST_TOLD = 32 << 20
"""Bytes for other processes that may wait; when there are more they are dropped, and all is told anew."""
MOST_PEERS = 4096
"""Processes that are known at a time."""
REMEMBER = 86400.0
"""Seconds for which Redis remembers, at least, the number of the last message of a process."""


class _Post(NamedTuple):
    """A publication that waits."""

    number: int
    envelope: Envelope
    body: bytes
    done: Done
    sent_to: str | None = None
    """The incarnation of the server that may have it."""
    sent_at: float = 0.0
    """When it was sent first."""


class _Follow(NamedTuple):
    """A connection wants to subscribe to a topic."""

    topic: str
    since: Since
    then: Callable[[list[Publication] | None], object]
    owner: WebSocket | None
    room: int


class _Call(NamedTuple):
    """Something that is to be done in its turn, after what was asked for the same connection before."""

    call: Callable[[], object]
    owner: WebSocket | None


class _Interest(NamedTuple):
    """There is a subscriber more (1) or less (-1)."""

    topic: str
    change: int


class _Release(NamedTuple):
    """A follower was answered: it is a subscriber by now, or it was refused."""

    topic: str


class _CatchUp(NamedTuple):
    """Some of a topic was missed."""

    topic: str


class _Tell(NamedTuple):
    """Something for other processes."""

    head: str
    body: bytes


class _Found(NamedTuple):
    """A portion of a topic's log."""

    position: Position
    """Where the topic stands."""
    envelopes: list[Envelope]
    next: int | None
    """The offset at which it goes on."""


MOST_ENTRIES = 10_000
"""Of a log that are read at once."""
LONGEST = 1e9
"""Seconds; more are for ever."""
NOT_THERE = "Redis is not there; try again later"

_LookedUp = tuple[Position, list[Publication]]
_Job = _Post | _Follow | _Call | _Interest | _Release | _CatchUp | _Tell


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
        self._counts = Counter(refused=0, queued=0, full=0, unknown=0, failed=0, reconnects=0, foreign=0, gaps_found=0)
        self._prefix = prefix
        self._outage = outage
        self._max_waiting = max_waiting
        self._sharded = sharded
        self._publish_command = "SPUBLISH" if sharded else "PUBLISH"
        self._shards = shards
        self._forget = int(forget * 1000)
        self._timeout = timeout
        self._site = self.name
        self._remember = max(forget, REMEMBER)
        # of the counts, and of the next eight
        self._lock = threading.RLock()  # nothing is allocated under it: a finaliser would wait there for the hub's lock
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._told = 0
        self._requests: dict[WebSocket | None, int] = {}  # that wait, by connection
        self._request_count = 0
        self._up = False
        self._closing = False
        self._number = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tried = threading.Event()
        # What follows is of our thread.
        self._woken: asyncio.Event
        self._asked: asyncio.Event  # for a look-up
        self._link: Link
        self._complaints = Complaints(logger.error)
        self._interest: Counter[int] = Counter()  # by shard: subscribed topics, and followers on their way
        self._subscribed: set[int] = set()
        self._topics: Counter[str] = Counter()  # those with subscribers here
        self._followed: Counter[str] = Counter()  # those that somebody is about to subscribe to
        self._live: dict[str, Position | None] = {}
        """Where topics stand of which we have heard everything, but what was sent during an outage."""
        self._catching: set[str] = set()  # those for which a _CatchUp waits
        self._caught_up = False
        self._held: deque[_Post] = deque()  # during an outage
        self._doubtful: list[_Post] = []  # sent, and not answered
        self._look_ups: dict[WebSocket | None, deque[_Follow | _Call]] = {}  # by connection, which take turns
        self._forgotten = False  # something for other processes was dropped
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
        closed = BrokerError("the broker was closed")
        for job in (*self._doubtful, *self._held, *self._jobs):
            if isinstance(job, _Post):
                self._finish(job, closed)

    def publish(self, envelope: Envelope, own: WebSocket | None, done: Done) -> bool:
        if own is not None:
            envelope = envelope._replace(left_out=self.hub.leave_out(own))
        if envelope.left_out is not None:
            process, number = envelope.left_out
            envelope = envelope._replace(left_out=(f"{self._site}/{process}", number))
        body = _finite(envelope).pack()
        with self._lock:
            if self._closing:
                raise BrokerError("the broker was closed")
            if not self._up and self._outage == "refuse":
                if self._thread is None:
                    raise BrokerError(
                        "the broker was not started, so it takes no messages: publish after server.start(), or use "
                        'RedisBroker(…, outage="queue")'
                    )
                self._counts["refused"] += 1
                raise BrokerError(NOT_THERE)
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

    def follow(
        self,
        topic: str,
        since: Since,
        then: Callable[[list[Publication] | None], object],
        *,
        owner: WebSocket | None = None,
        room: int | None = None,
    ) -> None:
        self._ask(_Follow(topic, since, then, owner, ROOM if room is None else room))

    def in_turn(self, call: Callable[[], object], *, owner: WebSocket | None = None) -> None:
        self._ask(_Call(call, owner))

    def listen(self, topic: str) -> None:
        self._submit(_Interest(topic, 1))

    def unlisten(self, topic: str) -> None:
        self._submit(_Interest(topic, -1))

    @property
    def peers(self) -> list[str]:
        return sorted(self._seen)

    def tell(self, data: bytes, to: str | None = None) -> None:
        with self._lock:
            if self._told + len(data) > MOST_TOLD:
                self._forgotten = True
                return
            self._told += len(data)
        self._submit(_Tell(f"tell {self.name} {to or ''}", data))

    @property
    def connected(self) -> bool:
        return self._up

    @property
    def waiting(self) -> int:
        return self._waiting

    def counters(self) -> dict[str, int]:
        """Publications that were refused or queued while Redis was not there, refused since too many waited, of which
        it is not known whether Redis has them, and which Redis did not take; how often it was connected again; what
        came from Redis and is not ours, and topics of which only a look into Redis showed that something was missed."""
        return dict(self._counts)

    def _count_one(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def _ask(self, job: _Follow | _Call) -> None:
        """Take a request. Raises QueueFullError when too many wait, of its connection or of all."""
        with self._lock:
            mine = self._requests.get(job.owner, 0)
            too_many = MOST_REQUESTS if mine >= MOST_REQUESTS and job.owner is not None else 0
            if self._request_count >= MOST_WAITING_REQUESTS:
                too_many = MOST_WAITING_REQUESTS
            if not too_many:
                self._requests[job.owner] = mine + 1
                self._request_count += 1
        if too_many:
            raise QueueFullError(f"{too_many} requests wait for Redis already; ask again when they are answered")
        self._submit(job)

    def _answered(self, job: _Follow | _Call) -> None:
        """One that waits less."""
        with self._lock:
            self._request_count -= 1
            left = self._requests.pop(job.owner) - 1
            if left:
                self._requests[job.owner] = left

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
            with never_wait():  # "done" callbacks are user code, and may write
                asyncio.run(self._run())
        except Exception:
            logger.exception("the Redis broker has ended; topics do not go on in this process")
        finally:
            self._up = False
            self._tried.set()

    async def _run(self) -> None:
        self._woken = asyncio.Event()
        self._asked = asyncio.Event()
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
                    said = printable(str(error)) or type(error).__name__
                    logger.error("Redis is not there: %s; it is tried again", said)
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
                await self._serve_offline(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, LONGEST_DELAY)

    async def _serve(self) -> None:
        """Until something fails, or the end."""
        await self._link.connect()
        self._caught_up = False
        tasks = [
            asyncio.ensure_future(each)
            for each in (self._read(), self._work(), self._beat(), self._look_up(), self._check())
        ]
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
        """What becomes of messages that were sent and not answered, and of what was being looked up."""
        doubtful, self._doubtful = self._doubtful, []
        again: list[_Post] = []
        for post in doubtful:
            if self._outage == "queue" and post.envelope.keep is not None and not self._closing:
                again.append(post)
            else:
                self._finish_unknown(post)
        self._jobs.extendleft(reversed(again))
        look_ups, self._look_ups = self._look_ups, {}
        for jobs in look_ups.values():
            for job in jobs:
                if isinstance(job, _Follow):
                    self._follow_ends(job.topic)
                    self._jobs.append(_Release(job.topic))
                self._do_offline(job)

    def _finish_unknown(self, post: _Post) -> None:
        self._count_one("unknown")
        self._finish(post, BrokerError("Redis was lost before it answered: it may have the message, or not"))

    def _finish(self, post: _Post, error: Exception | None) -> None:
        with self._lock:
            self._waiting -= len(post.body)
        try:
            post.done(error)
        except Exception:
            logger.exception("what was to be called after a publication failed")

    async def _serve_offline(self, seconds: float) -> None:
        """Without Redis, for a while. Each job is looked at once, however long it takes."""
        until = time.monotonic() + seconds
        while not self._closing:
            while self._jobs:
                self._do_offline(self._jobs.popleft())
            left = until - time.monotonic()
            if left <= 0:
                break
            self._woken.clear()
            try:
                await asyncio.wait_for(self._woken.wait(), left)
            except asyncio.TimeoutError:
                break

    def _do_offline(self, job: _Job) -> None:
        """What becomes of something that is to be done while Redis is not there."""
        if isinstance(job, _Post):
            if self._outage == "queue":
                self._held.append(job)
            else:
                self._count_one("refused")
                self._finish(job, BrokerError(NOT_THERE))
        elif isinstance(job, _Follow):
            self._answer(job, None)
        elif isinstance(job, _Call):
            self._call(job)
        elif isinstance(job, _Interest):
            self._count(job)
        elif isinstance(job, _Release):
            self._release(job)
        elif isinstance(job, _Tell):  # all is told anew to whoever is there then
            with self._lock:
                self._told -= len(job.body)

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
            if self._forgotten and not self._told:
                self._forgotten = False
                for name in self._seen:
                    self.hub.peer_up(name)

    # ------------------------------------------------------------------ our thread: what is asked for

    async def _work(self) -> None:
        self._subscribed.clear()
        self._catching.clear()
        self._jobs.extendleft(reversed(self._held))
        self._held.clear()
        await self._link.subscribe([self._control])
        await self._hear([shard for shard, count in self._interest.items() if count > 0])
        with self._lock:
            self._up = True
        logger.info("connected to Redis as %s", self.name)
        if self._tried.is_set():
            self._count_one("reconnects")
        now = time.monotonic()
        self._seen = dict.fromkeys(self._seen, now)
        await self._publish([_Tell(f"hello {self.name} ", b"")])
        for name in self._seen:
            self.hub.peer_up(name)
        await self._come_back()
        self._caught_up = True
        self._tried.set()
        while True:
            self._woken.clear()
            while self._jobs:
                await self._work_off()
            if self._closing:
                await self._publish([_Tell(f"bye {self.name} ", b"")])
                return
            await self._woken.wait()

    async def _come_back(self) -> None:
        """Find out what was missed during an outage, and deliver it, or say that something may be missing."""
        self._live = {topic: position for topic, position in self._live.items() if self._wanted(topic)}
        await self._catch_up(list(self._live))
        blind = [topic for topic in self._topics if topic not in self._live]  # subscribed to while Redis was not there
        await self._begin(blind)
        for topic in blind:
            if _is_pattern(topic):  # of which topics there are that we have not heard of, nobody knows
                self._tell_lost(topic, None)
            elif self._live.get(topic) is not None:
                self._tell_lost(topic, self._live[topic])

    async def _work_off(self) -> None:
        """The first job, or several of a kind that go out together."""
        job = self._jobs[0]
        if isinstance(job, _Post | _Tell):
            await self._publish(self._take(_Post, _Tell))
        elif isinstance(job, _Follow):
            await self._follow(self._take(_Follow))
        elif isinstance(job, _CatchUp):
            topics = [job.topic for job in self._take(_CatchUp)]
            self._catching.difference_update(topics)
            await self._catch_up(topics)
        elif isinstance(job, _Interest):
            await self._change_interest(self._take(_Interest))
        elif isinstance(job, _Release):
            shards: set[int] = set()
            for each in self._take(_Release):
                shards.update(self._release(each))
            await self._unhear(shards)
        else:
            self._jobs.popleft()
            if job.owner in self._look_ups:  # what was asked for before waits there
                self._look_ups[job.owner].append(job)
            else:
                self._call(job)

    def _take(self, *kinds: type[Any]) -> list[Any]:
        """The first jobs of these kinds."""
        taken: list[Any] = []
        jobs = self._jobs
        while jobs and len(taken) < BATCH and isinstance(jobs[0], kinds):
            taken.append(jobs.popleft())
        return taken

    async def _change_interest(self, jobs: list[_Interest]) -> None:
        shards: set[int] = set()
        for job in jobs:
            self._count(job)
            shards.update(self._shards_of(job.topic))
        await self._hear([shard for shard in shards if self._interest[shard] > 0])
        await self._begin([job.topic for job in jobs if job.change > 0 and job.topic in self._topics])
        await self._unhear(shards)

    async def _publish(self, jobs: list[_Post | _Tell]) -> None:
        """Send them, in order, and tell who asked."""
        incarnation = self._link.incarnation
        commands: list[Command] = []
        posts: list[_Post | None] = []
        now = time.monotonic()
        for job in jobs:
            if isinstance(job, _Tell):
                with self._lock:
                    self._told -= len(job.body)
                frame = b"".join((VERSION, job.head.encode(), b"\n", job.body))
                commands.append((self._publish_command, self._control, frame))
                posts.append(None)
            elif job.sent_to is None:
                posts.append(job._replace(sent_to=incarnation, sent_at=now))
                commands.append(self._command(job))
            elif job.sent_to == incarnation and now - job.sent_at < self._remember / 2:
                posts.append(job)
                commands.append(self._command(job))
            else:  # the server may have had it, and lost it, or forgotten its number
                self._finish_unknown(job)
        if not commands:
            return
        self._doubtful = [post for post in posts if post is not None]
        answers = await self._link.exchange(commands)
        self._doubtful = []
        for post, answer in zip(posts, answers, strict=True):
            failed = isinstance(answer, Exception)
            if failed:
                self._count_one("failed")
                self._complaints.add("a refusal of Redis", "publish", answer)
            if post is not None:
                self._finish(post, BrokerError(f"Redis did not take it: {answer}") if failed else None)

    def _command(self, post: _Post) -> Command:
        topic, keep = post.envelope.publication.topic, post.envelope.keep
        base = self._base(self._shard_of(topic))
        if keep is None:
            return self._publish_command, base, b"".join((VERSION, topic.encode(), b"\n", post.body))
        age = 0 if keep.seconds is None else max(1, int(keep.seconds * 1000))
        keys = f"{base}:at:{topic}", f"{base}:log:{topic}", f"{base}:last:{self.name}"
        return (
            *("EVAL", RECORD, 3, *keys, self._link.incarnation, secrets.token_hex(8), topic, post.body),
            *(keep.messages, age, max(age, self._forget), base, self._publish_command),
            *(post.number, int(self._remember * 1000)),
        )

    async def _follow(self, jobs: list[_Follow]) -> None:
        """Make sure that we hear of the topics; answer those for whom nothing has to be looked up."""
        shards: set[int] = set()
        for job in jobs:
            shards.update(self._follow_begins(job))
        try:
            await self._hear(shards)
            await self._begin([job.topic for job in jobs])
        except BaseException:
            for job in jobs:
                self._follow_ends(job.topic)
                self._release(_Release(job.topic))
            self._jobs.extendleft(reversed(jobs))  # to be answered without Redis
            raise
        for job in jobs:
            if job.owner in self._look_ups or self._must_look_up(job):
                self._look_ups.setdefault(job.owner, deque()).append(job)
                self._asked.set()
            else:
                self._follow_ends(job.topic)
                self._answer(job, None)
                self._jobs.append(_Release(job.topic))  # behind what tells that it has subscribed

    def _follow_begins(self, job: _Follow) -> list[int]:
        """What is heard of the topic from now on is not to be passed over. Returns its shards."""
        shards = self._shards_of(job.topic)
        self._interest.update(shards)  # until the subscription is counted itself
        self._followed[job.topic] += 1
        return shards

    def _follow_ends(self, topic: str) -> None:
        self._followed[topic] -= 1
        if not self._followed[topic]:
            del self._followed[topic]

    def _release(self, job: _Release) -> list[int]:
        """A follower is not on its way any more. Returns the shards of its topic."""
        shards = self._shards_of(job.topic)
        self._interest.subtract(shards)
        if not self._wanted(job.topic):  # it was refused, or has gone
            self._live.pop(job.topic, None)
        return shards

    def _must_look_up(self, job: _Follow) -> bool:
        """Whether our own history does not have what a follower wants, and Redis may."""
        position = self._live.get(job.topic)
        if position is None or job.since is None:
            return False
        history = self.hub.history
        with self.hub.lock:
            now = self.hub.now()
            if isinstance(job.since, int):
                return len(history.latest(job.topic, job.since, now)) < job.since
            return job.since.epoch == position.epoch and history.since(job.topic, job.since, now) is None

    async def _look_up(self) -> None:
        """Look up what followers want, one after the other; connections take turns."""
        while True:
            self._asked.clear()
            while self._look_ups:
                owner = next(iter(self._look_ups))
                jobs = self._look_ups[owner]
                job = jobs[0]
                if isinstance(job, _Call):
                    self._call(job)
                else:
                    found = None if job.owner is not None and job.owner.closed else await self._look_up_one(job)
                    self._follow_ends(job.topic)
                    self._answer(job, found)
                    self._submit(_Release(job.topic))
                jobs.popleft()
                del self._look_ups[owner]
                if jobs:
                    self._look_ups[owner] = jobs  # behind the others
            await self._asked.wait()

    async def _look_up_one(self, job: _Follow) -> _LookedUp | None:
        """What a follower wants, as far as it has come here, and how far that is; None: it is in our own history, or
        not known."""
        position = self._live.get(job.topic)
        if position is None or not self._must_look_up(job):
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

    def _answer(self, job: _Follow, fetched: _LookedUp | None) -> None:
        """Let it begin, with what was missed, and what came while that was looked up."""
        hub = self.hub
        history = hub.history
        topic = job.topic
        failed: Exception | None = None
        with hub.lock:
            now = hub.now()
            missed: list[Publication] | None = None
            position = self._live.get(topic)
            if history.position(topic) != position:  # what is there is old, or the topic gave way to others
                history.begin(topic, position)
            if fetched is not None:
                later = history.since(topic, fetched[0], now)
                if later is not None:
                    missed = [each for each in fetched[1] if each.bare.expires > now] + later
            else:
                missed = history.find(topic, job.since, now)
            try:
                job.then(missed)
            except Exception as error:
                failed = error
        self._answered(job)
        if failed is not None:
            logger.error("a subscription to %s failed", topic, exc_info=failed)

    def _call(self, job: _Call) -> None:
        self._answered(job)
        try:
            job.call()
        except Exception:
            logger.exception("something that waited for its turn at the broker failed")

    # ------------------------------------------------------------------ our thread: topics

    async def _fetch(
        self, wanted: list[tuple[str, Position | None]], room: int, most: int = MOST_ENTRIES, *, back: bool = False
    ) -> list[_Found | None]:
        """Where topics stand in Redis, and a portion of what each has after a position, or until it, the latest first;
        None: it is not kept. `room`: bytes of each, about; 0: nothing but where it stands. `most`: entries."""
        commands: list[Command] = []
        for topic, position in wanted:
            base = self._base(self._shard_of(topic))
            commands.append(
                (
                    *("EVAL", READ, 2, f"{base}:at:{topic}", f"{base}:log:{topic}", self._link.incarnation),
                    *(secrets.token_hex(8), *(position or ("", 0)), room, most, int(back)),
                )
            )
        found: list[_Found | None] = []
        for at in range(0, len(commands), BATCH):
            answers = await self._link.exchange(commands[at : at + BATCH])
            found += [self._read_found(topic, each) for (topic, _), each in zip(wanted[at:], answers, strict=False)]
        return found

    def _read_found(self, topic: str, answer: Any) -> _Found | None:
        """What Redis has of a topic."""
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
            self._foreign("a history that cannot be read", topic, error)
            return None
        return _Found(position, self._envelopes(topic, position.epoch, written, entries), after)

    def _envelopes(self, topic: str, epoch: str, now: int, entries: list[Any]) -> list[Envelope]:
        """Those of a stream that are ours, and not too old."""
        kept = []
        for raw in entries:
            try:
                entry = read_entry(raw)
                age = max(0, now - entry.written) / 1000
                envelope = read_envelope(topic, entry.body, self.hub.now(), age)
            except ValueError as error:
                self._foreign("an entry of a history", topic, error)
                continue
            if envelope.keep is None or envelope.keep.seconds is None or age < envelope.keep.seconds:
                envelope.publication.position = Position(epoch, entry.offset)
                kept.append(self._ours(envelope))
        return kept

    def _foreign(self, kind: str, where: str, error: Exception) -> None:
        self._count_one("foreign")
        self._complaints.add(kind, where, error)

    async def _begin(self, topics: list[str]) -> None:
        """Find out where topics stand that we have not heard of, so that we notice when we miss something."""
        wanted = [topic for topic in dict.fromkeys(topics) if topic not in self._live and not _is_pattern(topic)]
        for topic, found in zip(wanted, await self._fetch([(topic, None) for topic in wanted], 0), strict=True):
            if topic not in self._live:  # nothing was heard meanwhile
                self._stand(topic, None if found is None else found.position)

    def _stand(self, topic: str, position: Position | None) -> None:
        """A topic stands there: what is heard next follows that."""
        self._live[topic] = position
        with self.hub.lock:
            self.hub.history.begin(topic, position)

    async def _catch_up(self, topics: list[str]) -> None:
        """Deliver what was missed of topics, and say so if some of it is gone."""
        for at in range(0, len(topics), CATCH_UP_BATCH):
            left = [topic for topic in topics[at : at + CATCH_UP_BATCH] if topic in self._live]
            while left:
                found = await self._fetch([(topic, self._live.get(topic)) for topic in left], PORTION // len(left))
                left = [topic for topic, each in zip(left, found, strict=True) if self._make_up(topic, each)]

    def _make_up(self, topic: str, found: _Found | None) -> bool:
        """Deliver what was found of a topic, but what has come meanwhile. Whether there is more."""
        if topic not in self._live:  # nobody wants it any more
            return False
        last = self._live[topic]
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
            self._live[topic] = where
            self.hub.receive(envelope)
            expected = where.offset + 1
        read = position.offset if following is None else following - 1
        if broken or expected <= read:
            self._lose(topic, Position(position.epoch, read))
        elif self._live[topic] is None:
            self._stand(topic, position)
        return following is not None

    def _lose(self, topic: str, position: Position | None) -> None:
        """Some of it before `position` is gone."""
        self._stand(topic, position)
        self._tell_lost(topic, position)

    def _tell_lost(self, topic: str, position: Position | None) -> None:
        with self.hub.lock:
            self.hub.lost(topic, position)

    async def _check(self) -> None:
        """See, every few seconds, whether Redis has more of our topics than we have heard: what nothing else shows."""
        suspected: dict[str, Position] = {}
        waiting: deque[str] = deque()
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            if not self._caught_up:
                continue
            for topic, seen in suspected.items():
                if topic in self._live and _is_behind(self._live[topic], seen) and topic not in self._catching:
                    self._count_one("gaps_found")
                    self._miss(topic)
            suspected = {}
            if not waiting:
                waiting.extend(self._live)
            for _ in range(0, MOST_CHECKED, BATCH):
                topics = [waiting.popleft() for _ in range(min(BATCH, len(waiting)))]
                if topics:
                    suspected.update(await self._compare(topics))

    async def _compare(self, topics: list[str]) -> dict[str, Position]:
        """Where topics stand in Redis of which we have not heard all, unless it is on its way."""
        commands: list[Command] = [
            ("HMGET", f"{self._base(self._shard_of(topic))}:at:{topic}", "epoch", "offset") for topic in topics
        ]
        behind: dict[str, Position] = {}
        for topic, answer in zip(topics, await self._link.exchange(commands), strict=True):
            try:
                epoch, offset = answer
                position = Position(read_epoch(epoch), read_offset(offset))
            except (TypeError, ValueError):  # it is not kept, or not ours
                continue
            if topic in self._live and _is_behind(self._live[topic], position):
                behind[topic] = position
        return behind

    def _miss(self, topic: str) -> None:
        """Some of a topic was missed: look it up."""
        self._catching.add(topic)
        self._submit(_CatchUp(topic))

    def _wanted(self, topic: str) -> bool:
        return topic in self._followed or self.hub.wanted(topic)

    def _count(self, job: _Interest) -> None:
        self._interest.update(dict.fromkeys(self._shards_of(job.topic), job.change))
        self._topics[job.topic] += job.change
        if self._topics[job.topic] <= 0:
            del self._topics[job.topic]
            if not self._wanted(job.topic):
                self._live.pop(job.topic, None)

    async def _hear(self, shards: Iterable[int]) -> None:
        """Be subscribed to these."""
        new = [shard for shard in shards if shard not in self._subscribed]
        if new:
            await self._link.subscribe([self._base(shard) for shard in new])
            self._subscribed.update(new)

    async def _unhear(self, shards: Iterable[int]) -> None:
        """Be subscribed no longer to those of these that nobody is interested in."""
        old = {shard for shard in shards if self._interest[shard] <= 0 and shard in self._subscribed}
        if not old:
            return
        self._subscribed -= old
        for topic in [topic for topic in self._live if self._shard_of(topic) in old]:
            del self._live[topic]  # what comes from now on is not heard
        await self._link.unsubscribe([self._base(shard) for shard in old])

    def _shard_of(self, topic: str) -> int:
        return crc32(topic.encode()) % self._shards

    def _shards_of(self, pattern: str) -> list[int]:
        return list(range(self._shards)) if _is_pattern(pattern) else [self._shard_of(pattern)]

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
                head, body = read_frame(data)
                if channel == self._control:
                    self._hear_of(head, body)
                else:
                    self._deliver(channel, head, body)
            except Exception as error:  # whatever it is, others' messages come behind it
                self._foreign("a message", channel, error)

    def _deliver(self, channel: str, head: str, body: bytes) -> None:
        topic, position = read_heading(head)
        if channel != self._base(self._shard_of(topic)):
            raise ValueError("a topic of another channel")
        hub = self.hub
        if not self._wanted(topic):
            self._live.pop(topic, None)
            return
        envelope = self._ours(read_envelope(topic, body, hub.now()))
        if (envelope.keep is None) != (position is None):
            raise ValueError("a message is kept and has a position, or neither")
        if position is not None:
            last = self._live.get(topic)
            if topic in self._live and not _follows(position, last):
                old = last is not None and last.epoch == position.epoch and position.offset <= last.offset
                if not old and topic not in self._catching:
                    self._miss(topic)
                return
            self._live[topic] = position
            envelope.publication.position = position
        hub.receive(envelope)

    def _ours(self, envelope: Envelope) -> Envelope:
        """With the name of the process that leaves somebody out, if it is of our machine; else nobody is."""
        if envelope.left_out is None:
            return envelope
        site, _, process = envelope.left_out[0].rpartition("/")
        left_out = (process, envelope.left_out[1]) if site == self._site else None
        return envelope._replace(left_out=left_out)

    def _hear_of(self, head: str, body: bytes) -> None:
        """Another process says something."""
        kind, name, to = read_greeting(head)
        if name == self.name:
            return
        if kind == "bye":
            self._gone(name)
            return
        known = name in self._seen
        if not known and len(self._seen) >= MOST_PEERS:
            raise ValueError(f"more than {MOST_PEERS} processes")
        self._seen[name] = time.monotonic()
        if not known or (kind == "hello" and to in ("", self.name)):
            self.hub.peer_up(name)
        if not known and kind == "alive":  # it was taken for dead, and does not know: have it tell us everything again
            self._submit(_Tell(f"hello {self.name} {name}", b""))
        if kind == "tell" and to in ("", self.name):
            self.hub.heard(name, body)

    def _gone(self, name: str) -> None:
        if self._seen.pop(name, None) is not None:
            self.hub.peer_down(name)


def _is_pattern(name: str) -> bool:
    return is_pattern(name.split("."))


def _follows(position: Position, last: Position | None) -> bool:
    """Whether nothing is missing between the two; what is kept for the first time begins with 1."""
    return position == (Position(position.epoch, 1) if last is None else Position(last.epoch, last.offset + 1))


def _is_behind(ours: Position | None, theirs: Position) -> bool:
    return ours is None or ours.epoch != theirs.epoch or ours.offset < theirs.offset


def _finite(envelope: Envelope) -> Envelope:
    """The same, with no time that JSON cannot write, or Redis cannot add to another."""
    keep, ttl = envelope.keep, envelope.ttl
    if keep is not None and keep.seconds is not None and keep.seconds > LONGEST:
        keep = Keep(keep.messages)
    return envelope._replace(keep=keep, ttl=None if ttl is None or ttl > LONGEST else ttl)


def _is_trouble(error: Exception) -> bool:
    """Of the connection, and no fault of ours."""
    from redis.exceptions import RedisError

    return isinstance(error, RedisError | OSError | asyncio.TimeoutError | BrokerError)
