"""RedisBroker: topics over all servers that use one Redis. Needs `gows[redis]`.

What is published goes to Redis and comes from there, to the process that published it too, so all have one order.
Topics are spread over shards by a hash; a process subscribes to the channels of the shards in which it has subscribers.
A topic of which a history is kept has a stream, whose script numbers each message and publishes it in one step; a
process that misses one, or was cut off, reads it there. What is not kept is lost for whoever is cut off.

A process sees everything twice: by what is published, and every few seconds by where its topics stand in Redis.
Whatever comes out of Redis is checked before it is used (`wire`); what is foreign is skipped.

When Redis has restarted, and does not write every command to disk before it answers (appendfsync always), it may have
lost what it had acknowledged: then every topic begins a new epoch, and clients hear of a gap.

On the wire: a version (1 byte), the topic, and for what is kept its epoch and offset, a line feed, and an Envelope.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from functools import partial

from gows.brokers.base import Broker, BrokerEvents, Done, Envelope
from gows.brokers.redis.connection import Link
from gows.brokers.redis.jobs import Call, Follow, Interest, Mailbox, Post
from gows.brokers.redis.shards import Shards
from gows.brokers.redis.worker import NOT_THERE, Settings, Worker
from gows.bus.bus import Bus
from gows.debug import DEBUG, check_owned
from gows.errors import BrokerError, QueueFullError
from gows.options import Keep, check_seconds
from gows.session.websocket import WebSocket
from gows.topics.publication import Publication, Since

MAX_WAITING = 16 << 20
"""Bytes that may wait for Redis."""
CLOSE_TIMEOUT = 2.0
"""Seconds that `close` gives what waits."""
ROOM = 16 << 20
"""Bytes of messages that are looked up for one subscriber, if it is not known how many it can take."""
MAX_PEER_BYTES = 32 << 20
"""Bytes for other processes that may wait; when there are more they are dropped, and all is sent anew."""
REMEMBER = 86400.0
"""Seconds for which Redis remembers, at least, the number of the last message of a process."""
LONGEST = 1e9
"""Seconds; more are for ever."""


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
        """Make the broker, not connected yet. Raises ValueError for what cannot be meant, ImportError without
        redis-py."""
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
        redis = Redis.from_url(
            url, protocol=2, socket_timeout=None, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
        )
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        """The name of this process, which no other has."""
        self._outage = outage
        self._max_waiting = max_waiting
        self._timeout = timeout
        self._site = self.name
        self._mailbox = Mailbox()
        self._shards = Shards(prefix, shards)
        settings = Settings(outage, "SPUBLISH" if sharded else "PUBLISH", int(forget * 1000))
        make_link = partial(Link, redis, timeout, sharded=sharded)
        self._worker = Worker(self.name, self._mailbox, self._shards, make_link, settings)
        self._worker.remember = max(forget, REMEMBER)
        self._mailbox.wake = self._worker.wake
        self._jobs = self._mailbox.jobs
        self._seen = self._worker.nodes.last_seen

    def attach(self, events: BrokerEvents) -> None:
        super().attach(events)
        self._worker.attach(events)
        self._worker.logs.site = self._site

    def join(self, bus: Bus) -> None:
        self._worker.logs.site = self._site = f"{socket.gethostname()}:{bus.folder}"

    def start(self) -> None:
        """Connect, in a thread of its own. When that fails it is logged, and tried again and again."""
        if self._worker.thread is None:
            self._worker.start()
            self._worker.tried.wait(self._timeout)

    def close(self) -> None:
        mailbox, worker = self._mailbox, self._worker
        with mailbox.lock:
            if mailbox.is_closing:
                return
            mailbox.is_closing = True
        if worker.thread is not None:
            worker.wake()
            worker.thread.join(CLOSE_TIMEOUT + self._timeout)
        closed = BrokerError("the broker was closed")
        for job in (*worker.doubtful, *worker.held, *self._jobs):
            if isinstance(job, Post):
                worker.finish(job, closed)

    def publish(self, envelope: Envelope, exclude: WebSocket | None, done: Done) -> bool:
        if DEBUG:
            check_owned(self.events.lock)
        if exclude is not None:
            envelope = envelope._replace(exclude=self.events.exclude_id_locked(exclude))
        if envelope.exclude is not None:
            process, number = envelope.exclude
            envelope = envelope._replace(exclude=(f"{self._site}/{process}", number))
        body = _finite(envelope).pack()
        mailbox = self._mailbox
        size = len(body)  # no call within a change of a count: a signal handler may publish amid it
        with mailbox.lock:
            if mailbox.is_closing:
                raise BrokerError("the broker was closed")
            if not mailbox.is_connected and self._outage == "refuse":
                if self._worker.thread is None:
                    raise BrokerError(
                        "the broker was not started, so it takes no messages: publish after server.start(), or use "
                        'RedisBroker(…, outage="queue")'
                    )
                mailbox.counts["refused"] += 1
                raise BrokerError(NOT_THERE)
            if mailbox.waiting and mailbox.waiting + size > self._max_waiting:
                mailbox.counts["full"] += 1
                raise QueueFullError(f"{mailbox.waiting} bytes wait for Redis already")
            if not mailbox.is_connected:
                mailbox.counts["queued"] += 1
            mailbox.waiting += size
            mailbox.number += 1
            self._jobs.append(Post(mailbox.number, envelope, body, done))
        mailbox.wake()
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
        self._mailbox.request(Follow(topic, since, then, owner, ROOM if room is None else room))

    def after_pending(self, call: Callable[[], object], *, owner: WebSocket | None = None) -> None:
        self._mailbox.request(Call(call, owner))

    def subscribe(self, topic: str) -> None:
        self._mailbox.submit(Interest(topic, 1))

    def unsubscribe(self, topic: str) -> None:
        self._mailbox.submit(Interest(topic, -1))

    @property
    def peers(self) -> list[str]:
        return sorted(self._seen)

    def send_to_peers(self, data: bytes, to: str | None = None) -> None:
        mailbox = self._mailbox
        size = len(data)
        with mailbox.lock:
            if mailbox.peer_bytes + size > MAX_PEER_BYTES:
                mailbox.peers_missed = True
                return
            mailbox.peer_bytes += size
        mailbox.submit(self._worker.nodes.data_message(data, to))

    @property
    def connected(self) -> bool:
        return self._mailbox.is_connected

    @property
    def waiting(self) -> int:
        return self._mailbox.waiting

    def counters(self) -> dict[str, int]:
        """Return the counts of publications that were refused or queued while Redis was not there, refused since too
        many waited, of which it is not known whether Redis has them, and which Redis did not take; how often it was
        connected again; what came from Redis and is not ours, and topics of which only a look into Redis showed that
        something was missed."""
        return dict(self._mailbox.counts)


def _finite(envelope: Envelope) -> Envelope:
    """Return the same without times that JSON cannot write, or Redis cannot add to another."""
    keep, ttl = envelope.keep, envelope.ttl
    if keep is not None and keep.seconds is not None and keep.seconds > LONGEST:
        keep = Keep(keep.messages)
    return envelope._replace(keep=keep, ttl=None if ttl is None or ttl > LONGEST else ttl)
