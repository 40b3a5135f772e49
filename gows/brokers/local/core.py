"""KeptCore: what the parts of KeptTopics share: the topics, what is sent, timers, and subscribers that wait. The
rules: see `topics`."""

from __future__ import annotations

import json
import logging
import secrets
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from gows.brokers.base import BrokerEvents, Envelope
from gows.brokers.local.state import NO_BALLOT, Fetch, Follower, Origin, Outbox, Post, Topic
from gows.debug import DEBUG, check_owned
from gows.topics.names import is_pattern
from gows.topics.publication import Position, Publication, Since

logger = logging.getLogger("gows")

LAG_LIMIT = 0.5
"""Seconds that a message may have been under way to a process that still counts itself as up to date."""
FOLLOW_TIMEOUT = 2.0
"""Seconds that a subscriber waits for a history that is on its way here."""
AHEAD_TIMEOUT = 0.2
"""Seconds that a subscriber waits that has seen more than this process."""
MAX_FOLLOWERS = 1000
"""Subscribers that may wait; others are answered with what there is."""
DOUBLE = 2.0
"""Seconds between two deaths that count as one: what only those two had is lost."""
TICK = 0.25
"""Seconds between two looks at what is under way."""

Then = Callable[["list[Publication] | None"], object]
Message = dict[str, Any]


class Peers(Protocol):
    """What KeptTopics needs of the bus."""

    name: str

    def send(self, kind: str, data: bytes, to: str | None = None) -> bool:
        """Send to all, or to the process `to`. Returns False if it was lost for a process."""

    def now(self) -> float:
        """Return the time by a clock that all processes share, in seconds."""

    def call_soon(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call `call(*arguments)` later, in the bus's thread."""

    def call_later(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call `call(*arguments)` after `seconds`, in the bus's thread."""


class KeptCore(ABC):
    """The state of one process. The publish lock guards every call."""

    def __init__(self, peers: Peers, events: BrokerEvents, home_of: Callable[[str, Iterable[str]], str]) -> None:
        """`home_of(topic, names)`: which process becomes the home of a topic that has none."""
        self.name = peers.name
        self.up: set[str] = set()
        """The other processes, with a connection in both directions."""
        self.synced = threading.Event()
        """Set while nothing is on its way here that others have."""
        self.synced.set()
        self.settled = threading.Event()
        """Set while nothing waits to be acknowledged."""
        self.settled.set()
        self.waiting = 0
        """Bytes of publications that wait to be acknowledged."""
        self._peers = peers
        self._events = events
        self._home_of = home_of
        self._publisher = f"{peers.name}/{secrets.token_hex(4)}"
        self._number = 0
        self._publishing: Post | None = None  # the one that `publish` is at
        self._outboxes: dict[str, Outbox] = {}
        self._topics: dict[str, Topic] = {}
        self._tails: set[str] = set()  # topics with something unconfirmed
        self._claims: set[str] = set()
        self._fetches: dict[str, Fetch] = {}
        self._fetch_queues: dict[str, deque[str]] = {}  # by peer: topics that wait for others
        self._asked: dict[str, int] = {}  # by peer: topics that do not
        self._followers: list[Follower] = []
        self._greeting: set[str] = set()  # peers whose digest has not come to its end
        self._pages: dict[str, Iterator[str]] = {}  # what is left of ours for a peer
        self._lagging: set[str] = set()  # peers that do not count, as their home
        self._acked_at: dict[str, float] = {}
        self._unsure: set[str] = set()  # homes that may have gone on without us
        self._byes: set[str] = set()
        self._gone: dict[str, tuple[float, bool]] = {}  # when, and whether in order
        self._recent: dict[str, set[str]] = {}  # by home: topics that changed of late
        self._older: dict[str, set[str]] = {}
        self._changed: set[str] = set()  # those of which we are the home, since the last beat
        self._acks: dict[str, dict[str, tuple[int, str, int]]] = {}
        self._record_sent_at: dict[str, float] = {}  # by home: when the latest record was sent
        self._dones: dict[str, list[tuple[str, int]]] = {}
        self._gaps: dict[str, str] = {}  # topics of which something was given up; the process that was told, or ""
        self._forgot = False
        self._uncertain = False  # whether somebody is gone that may have kept topics of which we have never heard
        self._flushing = False
        self._ticking = False
        self._beating = False
        self._open = False
        self._closed = False
        events.history.on_forget = self._forgotten

    @abstractmethod
    def _tick(self) -> None:
        """Look at what is under way, by a timer."""

    # ------------------------------------------------------------------ topics

    def _topic(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            if len(self._topics) > 2 * len(self._events.history) + 1000:
                self._sweep()
            topic = self._topics[name] = Topic(name)
        return topic

    def _sweep(self) -> None:
        """Forget topics of which nothing is kept."""
        kept = set(self._events.history)
        for name in [name for name in self._topics if name not in kept]:
            self._drop(name)

    def _forgotten(self, name: str) -> None:
        """Forget a topic that the history has dropped to make room."""
        self._forgot = True
        self._drop(name)

    def _drop(self, name: str) -> None:
        topic = self._topics.get(name)
        if topic is not None and topic.idle and name not in self._fetches:
            del self._topics[name]
            self._gaps.pop(name, None)

    def _reset(self, topic: Topic, position: Position, *, lost: bool) -> None:
        """Let a topic stand at a position, whatever came before."""
        if DEBUG:
            check_owned(self._events.lock)
        if self._gaps.get(topic.name) and (topic.position is None or topic.position.epoch != position.epoch):
            del self._gaps[topic.name]  # the process that was told has begun this epoch
        topic.position = position
        self._events.history.begin(topic.name, position)
        if lost:
            self._events.report_lost_locked(topic.name, position)

    def _append(
        self, topic: Topic, envelope: Envelope, origin: Origin, *, age: float = 0.0, fill: bool = False
    ) -> None:
        """Keep the message that follows our last one, and deliver it, unless it only fills the history (`fill`)."""
        topic.position = envelope.publication.position
        topic.accepted = origin.ballot
        topic.has_seen(origin.publisher, origin.number)
        if fill:
            assert envelope.keep is not None
            self._events.history.add(envelope.publication, envelope.keep, self._events.now(), origin, age)
        else:
            self._events.receive(envelope._replace(origin=origin))

    def _is_sure(self, topic: Topic) -> bool:
        """Return whether this process has everything of a topic that its last home may have delivered to anyone."""
        home = topic.accepted.name
        if topic.behind:
            return False
        if home in ("", self.name) or home in self.up:
            return True
        if home in self._unsure:
            return False
        if home not in self._gone:
            return topic.sound
        when, in_order = self._gone[home]
        return in_order or not any(
            name != home and not other_in_order and when - DOUBLE <= other <= when + DOUBLE
            for name, (other, other_in_order) in self._gone.items()
        )

    def _ack(self, topic: Topic) -> None:
        """Tell the home of a topic how far this process is."""
        home, position = topic.promised, topic.position
        if position is not None and topic.settled and home.name in self.up:
            self._acks.setdefault(home.name, {})[topic.name] = (home.number, *position)
            self._flush_soon()

    def _note_lag(self, home: str, at: float) -> None:
        """Note when a home sent a message that has come now: a late one means that it may not count us."""
        self._record_sent_at[home] = at
        if self._peers.now() - at > LAG_LIMIT:
            self._unsure.add(home)

    def _standings(self, names: Iterable[str]) -> list[Any]:
        """Return where topics stand here, as it travels."""
        found = []
        for name in names:
            topic = self._topics.get(name)
            if topic is not None and topic.last is not None:
                promised = topic.promised if topic.settled else NO_BALLOT
                found.append([name, *topic.last, topic.last_ballot, promised])
        return found

    # ------------------------------------------------------------------ subscribers

    def follow(self, topic: str, since: Since, then: Then, owner: object) -> None:
        """See `Broker.follow`."""
        first = all(follower.owner is not owner for follower in self._followers)
        if len(self._followers) >= MAX_FOLLOWERS or (first and self._can_answer(topic, since)):
            self._answer(Follower(owner, topic, since, then, 0.0))
            return
        seconds = FOLLOW_TIMEOUT if self._is_coming(topic) else AHEAD_TIMEOUT
        self._followers.append(Follower(owner, topic, since, then, self._peers.now() + seconds))
        self._arm()

    def after_pending(self, call: Callable[[], object], owner: object) -> None:
        """See `Broker.after_pending`."""
        if any(follower.owner is owner for follower in self._followers):
            self._followers.append(Follower(owner, "", None, call, 0.0))
        else:
            call()

    def _is_coming(self, name: str) -> bool:
        """Return whether something of a topic is on its way here."""
        if name in self._fetches:
            return True
        topic = self._topics.get(name)
        return (topic is None or topic.position is None) and bool(self._greeting) and not is_pattern(name.split("."))

    def _can_answer(self, name: str, since: Since) -> bool:
        """Return whether a subscriber need not wait: neither for a history that is on its way here, nor for messages
        that it got from a process which had them a moment earlier."""
        if self._is_coming(name):
            return False
        topic = self._topics.get(name)
        if isinstance(since, Position) and self.up and topic is not None and topic.position is not None:
            return since.epoch != topic.position.epoch or since.offset <= topic.position.offset
        return True

    def _answer_followers(self) -> None:
        """Answer the subscribers that need not wait any more, those of each connection in order."""
        if not self._followers:
            return
        now = self._peers.now()
        waiting: list[Follower] = []
        owners: set[object] = set()
        followers, self._followers = self._followers, []
        for each in followers:
            ready = not each.topic or each.until <= now or self._closed or self._can_answer(each.topic, each.since)
            if ready and each.owner not in owners:
                self._answer(each)
            else:
                waiting.append(each)
                owners.add(each.owner)
        self._followers = waiting + self._followers

    def _answer(self, follower: Follower) -> None:
        try:
            if follower.topic:
                follower.then(self._events.history.find(follower.topic, follower.since, self._events.now()))
            else:
                follower.then()
        except Exception as error:
            self._events.lock.after_release(_log_failure, follower.topic, error)

    def _check_synced(self) -> None:
        """Set or clear `synced`, and answer subscribers."""
        if self._greeting or self._fetches:
            self.synced.clear()
        else:
            self.synced.set()
        self._answer_followers()

    # ------------------------------------------------------------------ sending, timers

    def _send(self, to: str | None, message: Message, body: bytes = b"") -> bool:
        return self._peers.send("kept", b"".join((_to_json(message), b"\n", body)), to)

    def _soon(self, call: Callable[..., object], *arguments: Any) -> None:
        self._peers.call_soon(self._call_with_lock, call, *arguments)

    def _later(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        self._peers.call_later(seconds, self._call_with_lock, call, *arguments)

    def _call_with_lock(self, call: Callable[..., object], *arguments: Any) -> None:
        with self._events.lock:
            call(*arguments)

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._soon(self._flush)

    def _flush(self) -> None:
        """Send what was gathered for others."""
        self._flushing = False
        acks, self._acks = self._acks, {}
        for peer, topics in acks.items():
            found = [[name, *where] for name, where in topics.items()]
            self._send(peer, {"do": "ack", "at": self._record_sent_at.get(peer, 0.0), "topics": found})
        dones, self._dones = self._dones, {}
        for peer, numbers in dones.items():
            self._send(peer, {"do": "done", "topics": numbers})

    def _arm(self) -> None:
        """Start the timer that looks at what is under way."""
        if not self._ticking:
            self._ticking = True
            self._later(TICK, self._tick)


def _to_json(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def _log_failure(topic: str, error: Exception) -> None:
    logger.error("a subscription to %s failed", topic or "a topic", exc_info=error)
