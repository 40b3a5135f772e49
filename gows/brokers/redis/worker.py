"""Worker: the thread of a RedisBroker: keeps it connected, and does its jobs.

The thread runs an asyncio loop. While Redis is there, one task reads what is published, one does the jobs in their
order, one says that this process is there, one looks up what followers want, and one checks positions. When any of them
fails all begin anew, with new connections; meanwhile the jobs are done without Redis.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from gows.brokers.base import BrokerEvents
from gows.brokers.redis.connection import BATCH, RECORD, Command, Link
from gows.brokers.redis.followers import Followers
from gows.brokers.redis.jobs import Call, CatchUp, Follow, Interest, Job, Mailbox, PeerMessage, Post, Release
from gows.brokers.redis.logs import Logs
from gows.brokers.redis.nodes import Nodes
from gows.brokers.redis.recovery import Recovery
from gows.brokers.redis.shards import Shards
from gows.brokers.redis.topics import Topics
from gows.brokers.redis.wire import VERSION, Complaints, read_frame
from gows.errors import BrokerError
from gows.printable import printable
from gows.reactor.waits import never_wait

logger = logging.getLogger("gows")

BEAT = 3.0
"""Seconds after which this process says again that it is there."""
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0
"""Seconds until the next attempt to connect; they double."""
NOT_THERE = "Redis is not there; try again later"


class Settings(NamedTuple):
    """Options of a RedisBroker."""

    outage: str
    publish_command: str
    forget: int
    """Milliseconds without a message after which a topic's history goes."""


class Worker:
    """Everything of it runs in its thread, but `start`, `wake` and `peers`."""

    def __init__(
        self, name: str, mailbox: Mailbox, shards: Shards, make_link: Callable[[], Link], settings: Settings
    ) -> None:
        """`name`: of this process. `make_link`: makes connections that are not connected yet."""
        self.thread: threading.Thread | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.tried = threading.Event()
        """Set when it is connected, or the first attempt failed."""
        self.remember = 0.0
        """Seconds for which Redis remembers the number of the last message of this process."""
        self.doubtful: list[Post] = []
        """Publications that were sent, and are not answered."""
        self.held: deque[Post] = deque()
        """Publications that wait for the end of an outage."""
        self.complaints = Complaints(logger.error, on_foreign=lambda: mailbox.count_one("foreign"))
        self.nodes = Nodes(name, mailbox.submit)
        self.logs = Logs(shards, self.complaints)
        self.topics = Topics(shards)
        self.recovery = Recovery(
            self.topics,
            self.logs,
            lambda topic: mailbox.submit(CatchUp(topic)),
            lambda: mailbox.count_one("gaps_found"),
        )
        self.followers = Followers(mailbox, self.topics, self.recovery)
        self._mailbox = mailbox
        self._shards = shards
        self._make_link = make_link
        self._settings = settings
        self._woken: asyncio.Event
        self._link: Link
        self._last_received = 0.0

    def attach(self, events: BrokerEvents) -> None:
        """Belong to a server, which is to hear of `events`."""
        for part in (self.nodes, self.logs, self.topics, self.recovery, self.followers):
            part.events = events

    def start(self) -> None:
        """Begin, in a thread of its own. Once."""
        self.thread = threading.Thread(target=self._main, name="gows-redis", daemon=True)
        self.thread.start()

    def wake(self) -> None:
        """Have the thread look for jobs. Any thread."""
        loop = self.loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._woken.set)
            except RuntimeError:  # it has ended
                pass

    # ------------------------------------------------------------------ connections

    def _main(self) -> None:
        try:
            with never_wait():  # "done" callbacks are user code, and may write
                asyncio.run(self._run())
        except Exception:
            logger.exception("the Redis broker has ended; topics do not go on in this process")
        finally:
            self._mailbox.is_connected = False
            self.tried.set()

    async def _run(self) -> None:
        """Connect, again and again, until the broker is closed."""
        mailbox = self._mailbox
        self._woken = asyncio.Event()
        self.followers.begin()
        self.loop = asyncio.get_running_loop()
        delay = FIRST_DELAY
        logged = False
        while not mailbox.is_closing:
            self._link = self._make_link()
            try:
                await self._serve()
            except Exception as error:
                if not _is_trouble(error):
                    logger.exception("a fault of the Redis broker")
                elif not logged or mailbox.is_connected:
                    reason = printable(str(error)) or type(error).__name__
                    logger.error("Redis is not there: %s; it is tried again", reason)
                logged = True
                if mailbox.is_connected:
                    delay = FIRST_DELAY
            finally:
                with mailbox.lock:
                    mailbox.is_connected = False
                await self._link.close()
            self.tried.set()
            self._settle()
            if not mailbox.is_closing:
                await self._serve_offline(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, LONGEST_DELAY)

    async def _serve(self) -> None:
        """Connect, and do the jobs until something fails, or the broker is closed."""
        await self._link.connect()
        self.logs.link = self._link
        self.topics.attach(self._link)
        self.recovery.begin_again()
        tasks = [
            asyncio.ensure_future(each)
            for each in (self._read(), self._work(), self._beat(), self.followers.look_up(), self.recovery.check())
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
        """Decide, after a loss of Redis, about messages that were sent and not answered, and what was looked up."""
        mailbox = self._mailbox
        doubtful, self.doubtful = self.doubtful, []
        again: list[Post] = []
        for post in doubtful:
            if self._settings.outage == "queue" and post.envelope.keep is not None and not mailbox.is_closing:
                again.append(post)
            else:
                self._finish_unknown(post)
        mailbox.jobs.extendleft(reversed(again))
        for job in self.followers.take_waiting():
            if isinstance(job, Follow):
                self.topics.follow_ends(job.topic)
                mailbox.jobs.append(Release(job.topic))
            self._do_offline(job)

    async def _serve_offline(self, seconds: float) -> None:
        """Do jobs without Redis, for a while. Each job is looked at once, however long it takes."""
        mailbox = self._mailbox
        until = time.monotonic() + seconds
        while not mailbox.is_closing:
            while mailbox.jobs:
                self._do_offline(mailbox.jobs.popleft())
            left = until - time.monotonic()
            if left <= 0:
                break
            self._woken.clear()
            try:
                await asyncio.wait_for(self._woken.wait(), left)
            except asyncio.TimeoutError:
                break

    def _do_offline(self, job: Job) -> None:
        """Do a job without Redis, or set it aside, or refuse it."""
        if isinstance(job, Post):
            if self._settings.outage == "queue":
                self.held.append(job)
            else:
                self._mailbox.count_one("refused")
                self.finish(job, BrokerError(NOT_THERE))
        elif isinstance(job, Follow):
            self.followers.answer(job, None)
        elif isinstance(job, Call):
            self.followers.call(job)
        elif isinstance(job, Interest):
            self.topics.count(job)
        elif isinstance(job, Release):
            self.topics.release(job)
        elif isinstance(job, PeerMessage):  # all is sent anew to whoever is there then
            self._mailbox.peer_message_done(job)

    async def _beat(self) -> None:
        """Say that this process is there, and forget processes that are not. Raises BrokerError if nothing comes."""
        mailbox = self._mailbox
        received = self._last_received = time.monotonic()
        while True:
            await asyncio.sleep(BEAT)
            now = time.monotonic()
            if self._last_received == received and now - received > 3 * BEAT:
                raise BrokerError("nothing came from Redis for too long")
            received = self._last_received
            await self._link.ping()
            mailbox.submit(self.nodes.greeting("alive"))
            self.nodes.drop_silent()
            if mailbox.peers_missed and not mailbox.peer_bytes:
                mailbox.peers_missed = False
                self.nodes.report_all()

    async def _read(self) -> None:
        """Take what is published, for ever."""
        while True:
            message = await self._link.receive()
            self._last_received = time.monotonic()
            if message is None:
                continue
            channel, data = message
            try:
                head, body = read_frame(data)
                if channel == self._shards.control:
                    self.nodes.receive(head, body)
                else:
                    self.recovery.deliver(channel, head, body)
            except Exception as error:  # whatever it is, others' messages come behind it
                self.complaints.add_foreign("a message", channel, error)

    # ------------------------------------------------------------------ jobs

    async def _work(self) -> None:
        """Do the jobs, until the broker is closed."""
        mailbox, nodes = self._mailbox, self.nodes
        mailbox.jobs.extendleft(reversed(self.held))
        self.held.clear()
        await self.topics.subscribe_channels_again()
        with mailbox.lock:
            mailbox.is_connected = True
        logger.info("connected to Redis as %s", nodes.name)
        if self.tried.is_set():
            mailbox.count_one("reconnects")
        nodes.restart_timeouts()
        await self._publish([nodes.greeting("hello")])
        nodes.report_all()
        await self.recovery.come_back()
        self.tried.set()
        while True:
            self._woken.clear()
            while mailbox.jobs:
                await self._work_off()
            if mailbox.is_closing:
                await self._publish([nodes.greeting("bye")])
                return
            await self._woken.wait()

    async def _work_off(self) -> None:
        """Do the first job, or several of a kind that go out together."""
        job = self._mailbox.jobs[0]
        topics = self.topics
        if isinstance(job, Post | PeerMessage):
            await self._publish(self._take(Post, PeerMessage))
        elif isinstance(job, Follow):
            await self.followers.follow(self._take(Follow))
        elif isinstance(job, CatchUp):
            await self.recovery.catch_up_missed([job.topic for job in self._take(CatchUp)])
        elif isinstance(job, Interest):
            await self._change_interest(self._take(Interest))
        elif isinstance(job, Release):
            shards: set[int] = set()
            for each in self._take(Release):
                shards.update(topics.release(each))
            await topics.unsubscribe_channels(shards)
        else:
            self._mailbox.jobs.popleft()
            self.followers.call_after_pending(job)

    def _take(self, *kinds: type[Any]) -> list[Any]:
        """Take the first jobs of these kinds."""
        taken: list[Any] = []
        jobs = self._mailbox.jobs
        while jobs and len(taken) < BATCH and isinstance(jobs[0], kinds):
            taken.append(jobs.popleft())
        return taken

    async def _change_interest(self, jobs: list[Interest]) -> None:
        """Count subscribers, and receive what they want and nothing else."""
        topics = self.topics
        shards: set[int] = set()
        for job in jobs:
            shards.update(topics.count(job))
        await topics.subscribe_channels(shards)
        await self.recovery.begin([job.topic for job in jobs if job.change > 0 and topics.is_subscribed(job.topic)])
        await topics.unsubscribe_channels(shards)

    async def _publish(self, jobs: list[Post | PeerMessage]) -> None:
        """Send messages, in order, and call what is to be called then."""
        mailbox = self._mailbox
        incarnation = self._link.incarnation
        commands: list[Command] = []
        posts: list[Post | None] = []
        now = time.monotonic()
        for job in jobs:
            if isinstance(job, PeerMessage):
                mailbox.peer_message_done(job)
                frame = b"".join((VERSION, job.head.encode(), b"\n", job.body))
                commands.append((self._settings.publish_command, self._shards.control, frame))
                posts.append(None)
            elif job.sent_to is None:
                posts.append(job._replace(sent_to=incarnation, sent_at=now))
                commands.append(self._command(job))
            elif job.sent_to == incarnation and now - job.sent_at < self.remember / 2:
                posts.append(job)
                commands.append(self._command(job))
            else:  # the server may have had it, and lost it, or forgotten its number
                self._finish_unknown(job)
        if not commands:
            return
        self.doubtful = [post for post in posts if post is not None]
        answers = await self._link.exchange(commands)
        self.doubtful = []
        for post, answer in zip(posts, answers, strict=True):
            failed = isinstance(answer, Exception)
            if failed:
                mailbox.count_one("failed")
                self.complaints.add("a refusal of Redis", "publish", answer)
            if post is not None:
                self.finish(post, BrokerError(f"Redis did not take it: {answer}") if failed else None)

    def _command(self, post: Post) -> Command:
        """Return the command that publishes a message."""
        topic, keep = post.envelope.publication.topic, post.envelope.keep
        shards, settings = self._shards, self._settings
        channel = shards.channel(topic)
        if keep is None:
            return settings.publish_command, channel, b"".join((VERSION, topic.encode(), b"\n", post.body))
        age = 0 if keep.seconds is None else max(1, int(keep.seconds * 1000))
        keys = shards.topic_key(topic), shards.log_key(topic), shards.last_number_key(topic, self.nodes.name)
        return (
            *("EVAL", RECORD, len(keys), *keys, self._link.incarnation, secrets.token_hex(8), topic, post.body),
            *(keep.messages, age, max(age, settings.forget), channel, settings.publish_command),
            *(post.number, int(self.remember * 1000)),
        )

    def _finish_unknown(self, post: Post) -> None:
        self._mailbox.count_one("unknown")
        self.finish(post, BrokerError("Redis was lost before it answered: it may have the message, or not"))

    def finish(self, post: Post, error: Exception | None) -> None:
        """Call what is to be called when a message is published, or cannot be. Also for a broker that is closed."""
        mailbox = self._mailbox
        size = len(post.body)  # no call within a change of a count: a signal handler may publish amid it
        with mailbox.lock:
            mailbox.waiting -= size
        try:
            post.done(error)
        except Exception:
            logger.exception("the callback `done` of a publication raised")


def _is_trouble(error: Exception) -> bool:
    """Return whether an error is one of the connection, and no fault of ours."""
    from redis.exceptions import RedisError

    return isinstance(error, RedisError | OSError | asyncio.TimeoutError | BrokerError)
