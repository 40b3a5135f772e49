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
from collections.abc import Callable
from typing import Any

from gows.brokers.base import Broker, BrokerEvents, Done, Envelope
from gows.brokers.redis.connection import BATCH, RECORD, Command, Link
from gows.brokers.redis.jobs import Call, CatchUp, Follow, Interest, Job, Post, Release, Requests, Tell
from gows.brokers.redis.topics import LookedUp, Shards, Topics
from gows.brokers.redis.wire import VERSION, read_frame, read_greeting
from gows.bus.bus import Bus
from gows.debug import checked_lock
from gows.errors import BrokerError, QueueFullError
from gows.options import check_seconds
from gows.printable import printable
from gows.reactor.waits import never_wait
from gows.session.websocket import WebSocket
from gows.topics.history import Keep
from gows.topics.subscriptions import Publication, Since

logger = logging.getLogger("gows")

MAX_WAITING = 16 << 20
"""Bytes that may wait for Redis."""
BEAT = 3.0
"""Seconds after which a process says again that it is there."""
GONE = 10.0
"""Seconds without a word after which another one is taken for dead."""
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0
"""Seconds until the next attempt to connect; they double."""
CLOSE_TIMEOUT = 2.0
"""Seconds that `close` gives what waits."""
ROOM = 16 << 20
"""Bytes of messages that are looked up for one subscriber, if it is not known how many it can take."""
MOST_TOLD = 32 << 20
"""Bytes for other processes that may wait; when there are more they are dropped, and all is told anew."""
MOST_PEERS = 4096
"""Processes that are known at a time."""
REMEMBER = 86400.0
"""Seconds for which Redis remembers, at least, the number of the last message of a process."""


LONGEST = 1e9
"""Seconds; more are for ever."""
NOT_THERE = "Redis is not there; try again later"


class RedisBroker(Broker):
    """See `Broker`, and docs/reference/topics.md.

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
        self._outage = outage
        self._max_waiting = max_waiting
        self._sharded = sharded
        self._publish_command = "SPUBLISH" if sharded else "PUBLISH"
        self._forget = int(forget * 1000)
        self._timeout = timeout
        self._site = self.name
        self._remember = max(forget, REMEMBER)
        # of the counts, and of the next seven; nothing is allocated under it: a finaliser would wait for it
        self._lock = checked_lock(threading.RLock, "redis broker")
        self._jobs: deque[Job] = deque()
        self._waiting = 0
        self._told = 0
        self._requests = Requests()
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
        self._shards = Shards(prefix, shards)
        self._topics = Topics(self._shards, self._count_one, lambda topic: self._submit(CatchUp(topic)))
        self._held: deque[Post] = deque()  # during an outage
        self._doubtful: list[Post] = []  # sent, and not answered
        self._look_ups: dict[WebSocket | None, deque[Follow | Call]] = {}  # by connection, which take turns
        self._forgotten = False  # something for other processes was dropped
        self._last_heard = 0.0
        self._seen: dict[str, float] = {}  # other processes: when each was heard last

    # ------------------------------------------------------------------ Broker: any thread

    def attach(self, events: BrokerEvents) -> None:
        super().attach(events)
        self._topics.events = events
        self._topics.site = self._site

    def join(self, bus: Bus) -> None:
        self._topics.site = self._site = f"{socket.gethostname()}:{bus.folder}"

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
            if isinstance(job, Post):
                self._finish(job, closed)

    def publish(self, envelope: Envelope, exclude: WebSocket | None, done: Done) -> bool:
        if exclude is not None:
            envelope = envelope._replace(exclude=self.events.exclude_id_locked(exclude))
        if envelope.exclude is not None:
            process, number = envelope.exclude
            envelope = envelope._replace(exclude=(f"{self._site}/{process}", number))
        body = _finite(envelope).pack()
        size = len(body)  # no call within an increment: a signal handler may publish amid it
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
            if self._waiting and self._waiting + size > self._max_waiting:
                self._counts["full"] += 1
                raise QueueFullError(f"{self._waiting} bytes wait for Redis already")
            if not self._up:
                self._counts["queued"] += 1
            self._waiting += size
            self._number += 1
            self._jobs.append(Post(self._number, envelope, body, done))
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
        self._ask(Follow(topic, since, then, owner, ROOM if room is None else room))

    def after_pending(self, call: Callable[[], object], *, owner: WebSocket | None = None) -> None:
        self._ask(Call(call, owner))

    def subscribe(self, topic: str) -> None:
        self._submit(Interest(topic, 1))

    def unsubscribe(self, topic: str) -> None:
        self._submit(Interest(topic, -1))

    @property
    def peers(self) -> list[str]:
        return sorted(self._seen)

    def send_to_peers(self, data: bytes, to: str | None = None) -> None:
        size = len(data)
        with self._lock:
            if self._told + size > MOST_TOLD:
                self._forgotten = True
                return
            self._told += size
        self._submit(Tell(f"tell {self.name} {to or ''}", data))

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

    def _ask(self, job: Follow | Call) -> None:
        """Take a request. Raises QueueFullError when too many wait, of its connection or of all."""
        with self._lock:
            limit = self._requests.add(job.owner)
        if limit:
            raise QueueFullError(f"{limit} requests wait for Redis already; ask again when they are answered")
        self._submit(job)

    def _answered(self, job: Follow | Call) -> None:
        with self._lock:
            self._requests.remove(job.owner)

    def _submit(self, job: Job) -> None:
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
        self._topics.attach(self._link)
        tasks = [
            asyncio.ensure_future(each)
            for each in (self._read(), self._work(), self._beat(), self._look_up(), self._topics.check())
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pending = set(tasks)
            while pending:  # before Python 3.12 wait_for may swallow a cancellation
                for task in pending:
                    task.cancel()
                _, pending = await asyncio.wait(pending, timeout=0.1)
        # of all: asyncio logs what nobody asks for
        errors = [task.exception() for task in tasks if not task.cancelled()]
        for error in errors:
            if error is not None:
                raise error

    def _settle(self) -> None:
        """What becomes of messages that were sent and not answered, and of what was being looked up."""
        doubtful, self._doubtful = self._doubtful, []
        again: list[Post] = []
        for post in doubtful:
            if self._outage == "queue" and post.envelope.keep is not None and not self._closing:
                again.append(post)
            else:
                self._finish_unknown(post)
        self._jobs.extendleft(reversed(again))
        look_ups, self._look_ups = self._look_ups, {}
        for jobs in look_ups.values():
            for job in jobs:
                if isinstance(job, Follow):
                    self._topics.follow_ends(job.topic)
                    self._jobs.append(Release(job.topic))
                self._do_offline(job)

    def _finish_unknown(self, post: Post) -> None:
        self._count_one("unknown")
        self._finish(post, BrokerError("Redis was lost before it answered: it may have the message, or not"))

    def _finish(self, post: Post, error: Exception | None) -> None:
        size = len(post.body)
        with self._lock:
            self._waiting -= size
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

    def _do_offline(self, job: Job) -> None:
        """What becomes of something that is to be done while Redis is not there."""
        if isinstance(job, Post):
            if self._outage == "queue":
                self._held.append(job)
            else:
                self._count_one("refused")
                self._finish(job, BrokerError(NOT_THERE))
        elif isinstance(job, Follow):
            self._answer(job, None)
        elif isinstance(job, Call):
            self._call(job)
        elif isinstance(job, Interest):
            self._topics.count(job)
        elif isinstance(job, Release):
            self._topics.release(job)
        elif isinstance(job, Tell):  # all is told anew to whoever is there then
            size = len(job.body)
            with self._lock:
                self._told -= size

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
            self._submit(Tell(f"alive {self.name} ", b""))
            for name in [name for name, at in self._seen.items() if now - at > GONE]:
                self._gone(name)
            if self._forgotten and not self._told:
                self._forgotten = False
                for name in self._seen:
                    self.events.on_peer_up(name)

    # ------------------------------------------------------------------ our thread: what is asked for

    async def _work(self) -> None:
        topics = self._topics
        self._jobs.extendleft(reversed(self._held))
        self._held.clear()
        await topics.listen()
        with self._lock:
            self._up = True
        logger.info("connected to Redis as %s", self.name)
        if self._tried.is_set():
            self._count_one("reconnects")
        now = time.monotonic()
        self._seen = dict.fromkeys(self._seen, now)
        await self._publish([Tell(f"hello {self.name} ", b"")])
        for name in self._seen:
            self.events.on_peer_up(name)
        await topics.come_back()
        self._tried.set()
        while True:
            self._woken.clear()
            while self._jobs:
                await self._work_off()
            if self._closing:
                await self._publish([Tell(f"bye {self.name} ", b"")])
                return
            await self._woken.wait()

    async def _work_off(self) -> None:
        """The first job, or several of a kind that go out together."""
        job = self._jobs[0]
        if isinstance(job, Post | Tell):
            await self._publish(self._take(Post, Tell))
        elif isinstance(job, Follow):
            await self._follow(self._take(Follow))
        elif isinstance(job, CatchUp):
            await self._topics.catch_up_missed([job.topic for job in self._take(CatchUp)])
        elif isinstance(job, Interest):
            await self._topics.change_interest(self._take(Interest))
        elif isinstance(job, Release):
            shards: set[int] = set()
            for each in self._take(Release):
                shards.update(self._topics.release(each))
            await self._topics.unhear(shards)
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

    async def _publish(self, jobs: list[Post | Tell]) -> None:
        """Send them, in order, and tell who asked."""
        incarnation = self._link.incarnation
        commands: list[Command] = []
        posts: list[Post | None] = []
        now = time.monotonic()
        for job in jobs:
            if isinstance(job, Tell):
                size = len(job.body)
                with self._lock:
                    self._told -= size
                frame = b"".join((VERSION, job.head.encode(), b"\n", job.body))
                commands.append((self._publish_command, self._shards.control, frame))
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
                self._topics.complain("a refusal of Redis", "publish", answer)
            if post is not None:
                self._finish(post, BrokerError(f"Redis did not take it: {answer}") if failed else None)

    def _command(self, post: Post) -> Command:
        topic, keep = post.envelope.publication.topic, post.envelope.keep
        base = self._shards.base(self._shards.of(topic))
        if keep is None:
            return self._publish_command, base, b"".join((VERSION, topic.encode(), b"\n", post.body))
        age = 0 if keep.seconds is None else max(1, int(keep.seconds * 1000))
        keys = f"{base}:at:{topic}", f"{base}:log:{topic}", f"{base}:last:{self.name}"
        return (
            *("EVAL", RECORD, 3, *keys, self._link.incarnation, secrets.token_hex(8), topic, post.body),
            *(keep.messages, age, max(age, self._forget), base, self._publish_command),
            *(post.number, int(self._remember * 1000)),
        )

    async def _follow(self, jobs: list[Follow]) -> None:
        """Make sure that we hear of the topics; answer those for whom nothing has to be looked up."""
        shards: set[int] = set()
        for job in jobs:
            shards.update(self._topics.follow_begins(job))
        try:
            await self._topics.hear(shards)
            await self._topics.begin([job.topic for job in jobs])
        except BaseException:
            for job in jobs:
                self._topics.follow_ends(job.topic)
                self._topics.release(Release(job.topic))
            self._jobs.extendleft(reversed(jobs))  # to be answered without Redis
            raise
        for job in jobs:
            if job.owner in self._look_ups or self._topics.must_look_up(job):
                self._look_ups.setdefault(job.owner, deque()).append(job)
                self._asked.set()
            else:
                self._topics.follow_ends(job.topic)
                self._answer(job, None)
                self._jobs.append(Release(job.topic))  # behind what tells that it has subscribed

    async def _look_up(self) -> None:
        """Look up what followers want, one after the other; connections take turns."""
        while True:
            self._asked.clear()
            while self._look_ups:
                owner = next(iter(self._look_ups))
                jobs = self._look_ups[owner]
                job = jobs[0]
                if isinstance(job, Call):
                    self._call(job)
                else:
                    found = None if job.owner is not None and job.owner.closed else await self._topics.look_up(job)
                    self._topics.follow_ends(job.topic)
                    self._answer(job, found)
                    self._submit(Release(job.topic))
                jobs.popleft()
                del self._look_ups[owner]
                if jobs:
                    self._look_ups[owner] = jobs  # behind the others
            await self._asked.wait()

    def _answer(self, job: Follow, fetched: LookedUp | None) -> None:
        """Let it begin, with what was missed, and what came while that was looked up."""
        events = self.events
        history = events.history
        topic = job.topic
        failed: Exception | None = None
        with events.lock:
            now = events.now()
            missed: list[Publication] | None = None
            position = self._topics.live.get(topic)
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

    def _call(self, job: Call) -> None:
        self._answered(job)
        try:
            job.call()
        except Exception:
            logger.exception("something that waited for its turn at the broker failed")

    # ------------------------------------------------------------------ our thread: topics

    # ------------------------------------------------------------------ our thread: what is heard

    async def _read(self) -> None:
        while True:
            message = await self._link.listen()
            self._last_heard = time.monotonic()
            if message is None:
                continue
            channel, data = message
            try:
                head, body = read_frame(data)
                if channel == self._shards.control:
                    self._hear_of(head, body)
                else:
                    self._topics.deliver(channel, head, body)
            except Exception as error:  # whatever it is, others' messages come behind it
                self._topics.foreign("a message", channel, error)

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
            self.events.on_peer_up(name)
        if not known and kind == "alive":  # it was taken for dead, and does not know: have it tell us everything again
            self._submit(Tell(f"hello {self.name} {name}", b""))
        if kind == "tell" and to in ("", self.name):
            self.events.on_peer_message(name, body)

    def _gone(self, name: str) -> None:
        if self._seen.pop(name, None) is not None:
            self.events.on_peer_down(name)


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
