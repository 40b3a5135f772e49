"""KeptTopics: the topics of which a history is kept, over the processes of one machine.

One process at a time, the topic's *home*, gives the positions. It sends each message to all others, which keep it as
well, and acknowledges it, and lets its own subscribers have it, once one other process has it: then the death of one
process loses nothing. Which process is the home is settled for a *term* (a Ballot, which travels with each message);
nothing of a lower term is taken. A process that is to become the home, since the one before is gone or there was none,
claims the topic: it asks all others where they stand, fetches what it lacks, and goes on with the same epoch; or, where
something may be missing that nobody has any more, begins another one, of which all subscribers are told (`lost`).

A publisher numbers its messages. When the home changes it sends what was not acknowledged again; the numbers are kept
with the history, so the new home knows what it has already.

Nothing in here waits, has a thread, or looks at a clock of its own: it is driven by what the bus tells, and by timers.
The hub's lock guards every call. What is sent, each a header of JSON, a line feed, and a body:

| `do` | from, to | |
|---|---|---|
| `post` | publisher, home | number this |
| `moved` | any, publisher | another one is the home |
| `record` | home, all | this has this position |
| `stale` | any, home | there is a higher term |
| `ack` | any, home | so far we have it |
| `done` | home, publisher | these are confirmed |
| `claim`, `promise`, `refuse` | new home, all, and back | who is the home, and where the topic stands |
| `digest`, `next` | any, newcomer, and back | where all topics stand, page by page |
| `again` | any, all | send the digest again |
| `fetch`, `entries` | any, any, and back | what comes after a position, chunk by chunk |
| `beat` | home, all | every two seconds: where those topics stand that changed, and who does not count |
| `gap` | any, home | two numbered by themselves, and what one of them did is given up |
| `bye` | any, all | we leave in order |
"""

from __future__ import annotations

import json
import logging
import secrets
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

import gows.bus
from gows.brokers import Done, Envelope, Hub
from gows.brokers.local_state import (
    NO_BALLOT,
    Answer,
    Ballot,
    Claim,
    Fetch,
    Follower,
    Origin,
    Outbox,
    Post,
    Request,
    Topic,
    Unconfirmed,
)
from gows.errors import BrokerError, QueueFullError
from gows.history import Entry
from gows.patterns import is_pattern
from gows.topics import Position, Publication, Since

PUBLISH_TIMEOUT = 5.0
"""Seconds after which a message that is not acknowledged counts as unknown."""
ACK_TIMEOUT = 1.0
"""Seconds after which the home goes on without processes that do not confirm."""
LAG_LIMIT = 0.5
"""Seconds that a message may have been under way to a process that still counts itself as up to date."""
CLAIM_TIMEOUT = 2.0
"""Seconds that the others have to say where a topic stands; then it begins anew."""
FETCH_TIMEOUT = 5.0
"""Seconds that one chunk may take."""
FOLLOW_TIMEOUT = 2.0
"""Seconds that a subscriber waits for a history that is on its way here."""
AHEAD_TIMEOUT = 0.2
"""Seconds that one waits who has seen more than we."""
MAX_FOLLOWERS = 1000
"""Subscribers that wait at most; others are answered with what there is."""
DOUBLE = 2.0
"""Seconds between two deaths that count as one: what only those two had is lost."""
BEAT = 2.0
"""Seconds between two comparisons of positions."""
TICK = 0.25
"""Seconds between two looks at what is under way."""
RETRY = 0.05
"""Seconds until somebody is asked again that has not heard of a death yet."""
MAX_WAITING = 16 << 20
"""Bytes of publications that may wait to be acknowledged."""
CHUNK = 256 << 10
"""Bytes of entries that are sent at once, or one entry."""
ROOM = 16 << 10
"""Bytes that what is said of an entry takes at most, beside its topic's name."""
PAGE = 1000
"""Topics on one page of a digest."""
WINDOW = 4
"""Topics that are fetched from one process at a time."""

logger = logging.getLogger("gows")

_LENGTHS = struct.Struct("!II")

Then = Callable[["list[Publication] | None"], object]
Message = dict[str, Any]


class Peers(Protocol):
    """What is needed of the bus."""

    name: str

    def send(self, kind: str, data: bytes, to: str | None = None) -> bool:
        """Send to all, or to one; False: it was lost for somebody."""

    def now(self) -> float:
        """Seconds of a clock that all processes share."""

    def call_soon(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call it later, in the bus's thread."""

    def call_later(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call it after so many seconds, in the bus's thread."""


class KeptTopics:
    """Those of one process."""

    def __init__(self, peers: Peers, hub: Hub, home_of: Callable[[str, Iterable[str]], str]) -> None:
        """`home_of(topic, names)`: who becomes the home of a topic that has none."""
        self.name = peers.name
        self.up: set[str] = set()
        """The other processes that hear us, and that we hear."""
        self.synced = threading.Event()
        """Set while nothing is on its way here that others have."""
        self.synced.set()
        self.settled = threading.Event()
        """Set while nothing waits to be acknowledged."""
        self.settled.set()
        self.waiting = 0
        """Bytes of what does."""
        self._peers = peers
        self._hub = hub
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
        self._heard_at: dict[str, float] = {}  # by home: when the latest record was sent
        self._dones: dict[str, list[tuple[str, int]]] = {}
        self._forgot = False
        self._uncertain = False  # whether somebody is gone that may have kept topics of which we have never heard
        self._flushing = False
        self._ticking = False
        self._beating = False
        self._open = False
        self._closed = False
        hub.history.on_forget = self._forgotten

    # ------------------------------------------------------------------ publisher

    def publish(self, envelope: Envelope, done: Done) -> bool:
        """Have a message numbered and sent. True: that was it; else `done` will be called. Raises BrokerError,
        QueueFullError when too much waits, ValueError for what is too large."""
        topic = envelope.publication.topic
        if self._closed:
            raise BrokerError("the bus was closed")
        body = envelope.pack()
        if len(body) > gows.bus.MAX_FRAME - ROOM - 24 * len(topic):
            raise ValueError(f"a message between processes has at most {gows.bus.MAX_FRAME} bytes, not {len(body)}")
        if self.waiting and self.waiting + len(body) > MAX_WAITING:
            raise QueueFullError(f"{self.waiting} bytes wait to be acknowledged by other processes already")
        outbox = self._outboxes.get(topic)
        if outbox is None:
            outbox = self._outboxes[topic] = Outbox(self._route(topic))
        self._number += 1
        before = next(reversed(outbox.posts), 0)
        post = outbox.posts[self._number] = Post(self._number, envelope, body, done, self._peers.now())
        post.before = before
        self.waiting += len(body)
        self._publishing = post
        try:
            self._pass_on(topic, outbox, post)
        finally:
            self._publishing = None
        if post.finished:
            if post.error is not None:
                raise post.error
            return True
        self.settled.clear()
        self._arm()
        return False

    def _route(self, topic: str) -> str:
        """Who is, or should be, the home."""
        known = self._topics.get(topic)
        if known is not None and (known.promised.name in self.up or known.promised.name == self.name):
            return known.promised.name
        return self._home_of(topic, [self.name, *self.up])

    def _pass_on(self, topic: str, outbox: Outbox, post: Post) -> None:
        """Send it to the home, or number it."""
        if outbox.home is None:
            return
        if outbox.home == self.name:
            numbers = self._publisher, post.number, post.before, outbox.round
            self._requested(Request(self.name, *numbers, post.born, post.envelope, post.body), self._topic(topic))
            return
        ids = [self._publisher, post.number, post.before, outbox.round]
        message = {"do": "post", "topic": topic, "id": ids, "born": post.born}
        if not self._send(outbox.home, message, post.body):
            error = BrokerError(f"process {outbox.home}, which numbers the topic {topic}, does not read")
            self._finish(topic, post.number, error)

    def _reroute(self, topic: str) -> None:
        """Send everything that is not acknowledged to the present home."""
        outbox = self._outboxes.get(topic)
        if outbox is not None and outbox.home is None:
            outbox.home = self._route(topic)
            outbox.round += 1
            before = 0
            for post in list(outbox.posts.values()):
                post.before, before = before, post.number
                self._pass_on(topic, outbox, post)

    def _look_for_home(self, topic: str) -> None:
        """The process that our messages were sent to is not their home."""
        outbox = self._outboxes.get(topic)
        if outbox is not None and outbox.home is not None:
            outbox.home = None
            if outbox.round < 4:
                self._soon(self._reroute, topic)
            else:  # they do not agree yet
                self._later(RETRY, self._reroute, topic)

    def _finish(self, topic: str, number: int, error: Exception | None) -> None:
        """One of ours is acknowledged, or never will be."""
        outbox = self._outboxes.get(topic)
        post = None if outbox is None else outbox.posts.pop(number, None)
        if outbox is None or post is None:
            return
        if not outbox.posts:
            del self._outboxes[topic]
            if not self._outboxes:
                self.settled.set()
        self.waiting -= len(post.body)
        post.finished = True
        post.error = error
        if post is not self._publishing:
            self._hub.lock.afterwards(post.done, error)

    def give_up(self) -> None:
        """Wait no longer for what is not acknowledged."""
        for topic, outbox in list(self._outboxes.items()):
            for number in list(outbox.posts):
                self._finish(topic, number, BrokerError("the bus was closed: others may have the message, or not"))

    def leave(self) -> None:
        """Say that we go, and take nothing any more."""
        self._flush()
        if self.up:
            self._send(None, {"do": "bye"})
        self._closed = True
        self.give_up()
        self._answer_followers()

    # ------------------------------------------------------------------ home

    def _topic(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            if len(self._topics) > 2 * len(self._hub.history) + 1000:
                self._sweep()
            topic = self._topics[name] = Topic(name)
        return topic

    def _sweep(self) -> None:
        """Forget topics of which nothing is kept."""
        kept = set(self._hub.history)
        for name in [name for name in self._topics if name not in kept]:
            self._drop(name)

    def _forgotten(self, name: str) -> None:
        """The history has given up a topic."""
        self._forgot = True
        self._drop(name)

    def _drop(self, name: str) -> None:
        topic = self._topics.get(name)
        if topic is not None and topic.idle and name not in self._fetches:
            del self._topics[name]

    def _requested(self, request: Request, topic: Topic) -> None:
        """Somebody wants us to number a message."""
        elsewhere = topic.promised.name != self.name and topic.promised.name in self.up
        if elsewhere or not topic.follows(request):
            self._refer(topic, request)
        elif topic.active:
            self._record(topic, request)
        elif topic.claim is not None:
            topic.claim.add(request)
        else:
            self._claim(topic, [request])

    def _refer(self, topic: Topic, request: Request) -> None:
        """Another process is the home."""
        if request.sender == self.name:
            outbox = self._outboxes.get(topic.name)
            if outbox is not None and outbox.round == request.round:
                self._look_for_home(topic.name)
        else:
            message = {"do": "moved", "topic": topic.name, "home": topic.promised, "round": request.round}
            self._send(request.sender, message)

    def _record(self, topic: Topic, request: Request) -> None:
        """Give it a position, and send it to all."""
        before = topic.seen.get(request.publisher, 0)
        if request.number <= before:
            if not any(item.request[1:3] == request[1:3] for item in topic.tail):  # else it is confirmed with that
                self._confirmed(request, topic.name)
            return
        last = topic.last
        assert last is not None
        position = Position(last.epoch, last.offset + 1)
        now = self._peers.now()
        message: Message = {
            "do": "record",
            "topic": topic.name,
            "n": topic.promised.number,
            "at": now,
            "position": position,
            "after": topic.last_ballot,
            "id": [request.publisher, request.number],
            "born": request.born,
        }
        topic.has_seen(request.publisher, request.number)
        request.envelope.publication.position = position
        origin = Origin(topic.promised, request.publisher, request.number, request.envelope.left_out)
        topic.tail.append(Unconfirmed(request.envelope._replace(origin=origin), request, before, now))
        if self.up:
            self._send(None, message, request.body)
            self._changed.add(topic.name)
        if self._others_count():
            self._tails.add(topic.name)
            self._arm()
        else:
            self._confirm(topic)

    def _others_count(self) -> bool:
        """Whether some other process is to have a message before it is acknowledged."""
        return not self.up <= self._lagging

    def _confirm(self, topic: Topic, upto: int | None = None) -> None:
        """These are not lost any more, as long as one process dies at a time."""
        tail = topic.tail
        while tail and (upto is None or tail[0].position.offset <= upto):
            item = tail.popleft()
            topic.position = item.position
            topic.accepted = topic.promised
            self._hub.receive(item.envelope)
            self._confirmed(item.request, topic.name)
        if not tail:
            self._tails.discard(topic.name)
            if self._hub.history.position(topic.name) is None:
                self._forgotten(topic.name)
        self._answer_followers()

    def _confirmed(self, request: Request, topic: str) -> None:
        if request.sender == self.name:
            self._finish(topic, request.number, None)
        else:
            self._dones.setdefault(request.sender, []).append((topic, request.number))
            self._flush_soon()

    def _follow_home(self, topic: Topic, ballot: Ballot, *, settled: bool) -> None:
        """Another process is the home, or about to become it."""
        requests = topic.take_back()
        if topic.claim is not None:
            requests += topic.claim.requests
            topic.claim = None
        self._tails.discard(topic.name)
        self._claims.discard(topic.name)
        topic.active = False
        topic.promised = ballot
        topic.settled = settled
        for request in requests:
            self._refer(topic, request)

    # ------------------------------------------------------------------ becoming the home

    def _claim(self, topic: Topic, requests: Iterable[Request], since: float | None = None) -> None:
        """Ask the others for a topic."""
        topic.promised = Ballot(topic.promised.number + 1, self.name)
        topic.settled = topic.active = False
        topic.claim = Claim(self.up, requests, self._peers.now() if since is None else since)
        self._claims.add(topic.name)
        if self.up:
            self._send(None, self._claim_message(topic))
            self._arm()
        self._look_at_claim(topic)

    def _claim_message(self, topic: Topic) -> Message:
        return {"do": "claim", "topic": topic.name, "n": topic.promised.number}

    def _on_claim(self, sender: str, message: Message) -> None:
        topic = self._topic(message["topic"])
        ballot = Ballot(message["n"], sender)
        home = topic.promised.name
        elsewhere = topic.settled and home not in ("", sender, self.name) and home in self.up
        if topic.active or elsewhere or ballot <= topic.promised:
            home_known = topic.active or elsewhere
            answer = {"do": "refuse", "promised": topic.promised, "home": home_known}
        else:
            self._follow_home(topic, ballot, settled=False)
            answer = {"do": "promise", "accepted": topic.accepted, "position": topic.position}
            answer.update(sure=self._is_sure(topic), peers=sorted(self.up))
        self._send(sender, {**answer, "topic": topic.name, "n": message["n"]})

    def _claimed(self, message: Message) -> Topic | None:
        """The topic of an answer, if we still wait for it."""
        topic = self._topics.get(message["topic"])
        if topic is None or topic.claim is None or topic.claim.fetching or topic.promised.number != message["n"]:
            return None
        return topic

    def _on_promise(self, sender: str, message: Message) -> None:
        topic = self._claimed(message)
        if topic is not None:
            claim = topic.claim
            assert claim is not None
            claim.answers[sender] = Answer(
                Ballot(*message["accepted"]), _position(message["position"]), message["sure"]
            )
            claim.waiting.discard(sender)
            claim.unseen |= set(message["peers"]) - self.up - {self.name} - self._gone.keys()
            self._look_at_claim(topic)

    def _on_refuse(self, sender: str, message: Message) -> None:
        topic = self._claimed(message)
        if topic is None:
            return
        promised = Ballot(*message["promised"])
        if message["home"] and promised.name in self.up:
            self._follow_home(topic, promised, settled=True)
        elif message["home"]:  # it will hear of its death as well
            self._later(RETRY, self._claim_again, topic.name, message["n"], sender)
        else:
            self._later(RETRY * 0.2, self._claim_higher, topic.name, message["n"], promised.number)

    def _claim_again(self, name: str, number: int, peer: str) -> None:
        topic = self._claimed({"topic": name, "n": number})
        if topic is not None and peer in self.up:
            self._send(peer, self._claim_message(topic))

    def _claim_higher(self, name: str, number: int, least: int) -> None:
        topic = self._claimed({"topic": name, "n": number})
        if topic is not None:
            assert topic.claim is not None
            topic.promised = Ballot(max(least, number), self.name)
            self._claim(topic, topic.claim.requests, topic.claim.since)

    def _look_at_claim(self, topic: Topic, *, out_of_time: bool = False) -> None:
        """Become the home, if all have answered."""
        claim = topic.claim
        assert claim is not None
        if not self._open or claim.fetching or ((claim.waiting or claim.unseen) and not out_of_time):
            return
        candidates = {self.name: Answer(topic.accepted, topic.position, self._is_sure(topic)), **claim.answers}
        best = self.name
        for name, answer in candidates.items():
            if _is_newer(answer.accepted, answer.position, candidates[best].accepted, candidates[best].position):
                best = name
        accepted, position, _ = candidates[best]
        sure = accepted.name in candidates or any(
            answer.sure for answer in candidates.values() if answer.accepted.name == accepted.name
        )
        if position is None:
            self._begin_epoch(topic, lost=self._forgot or self._uncertain)
        elif not sure or claim.waiting or claim.unseen:
            self._begin_epoch(topic, lost=True)
        elif best != self.name:
            claim.fetching = True
            self._want(topic, best)
        else:
            self._become_home(topic)

    def _is_sure(self, topic: Topic) -> bool:
        """Whether we have everything that the last home of a topic may have let anybody have, or others here do."""
        home = topic.accepted.name
        if home in ("", self.name) or home in self.up:
            return True
        if topic.behind or home in self._unsure:
            return False
        if home not in self._gone:
            return topic.sound
        when, in_order = self._gone[home]
        return in_order or not any(
            name != home and not other_in_order and when - DOUBLE <= other <= when + DOUBLE
            for name, (other, other_in_order) in self._gone.items()
        )

    def _begin_epoch(self, topic: Topic, *, lost: bool) -> None:
        """What there was may not be all: number from 1 on."""
        self._reset(topic, Position(self._hub.history.new_epoch(), 0), lost=lost)
        topic.accepted = topic.promised
        self._become_home(topic)

    def _become_home(self, topic: Topic) -> None:
        claim = topic.claim
        assert claim is not None
        topic.claim = None
        self._claims.discard(topic.name)
        topic.active = topic.settled = True
        topic.behind = False
        topic.sound = True
        for request in claim.requests:
            self._record(topic, request)

    def _reset(self, topic: Topic, position: Position, *, lost: bool) -> None:
        """The topic stands there, whatever came before."""
        topic.position = position
        self._hub.history.begin(topic.name, position)
        if lost:
            self._hub.lost(topic.name, position)

    # ------------------------------------------------------------------ what the home sends

    def _on_post(self, sender: str, message: Message, body: bytes) -> None:
        age = max(0.0, self._peers.now() - message["born"])
        envelope = Envelope.unpack(body, self._hub.now(), age)
        publisher, number, before, round_ = message["id"]
        request = Request(sender, publisher, number, before, round_, message["born"], envelope, body)
        self._requested(request, self._topic(message["topic"]))

    def _on_gap(self, sender: str, message: Message) -> None:
        self._diverged(self._topic(message["topic"]))

    def _diverged(self, topic: Topic) -> None:
        """Another process numbered the topic as well, and that is given up. The positions that it gave mean something
        else here, or what had them is lost: the home begins another epoch."""
        if not topic.active:
            if topic.promised.name in self.up:
                self._send(topic.promised.name, {"do": "gap", "topic": topic.name})
            return
        requests = topic.take_back()
        self._tails.discard(topic.name)
        topic.promised = topic.accepted = Ballot(topic.promised.number + 1, self.name)
        self._reset(topic, Position(self._hub.history.new_epoch(), 0), lost=True)
        self._send(None, {"do": "beat", "topics": self._standings([topic.name])})
        for request in requests:
            self._record(topic, request)

    def _on_moved(self, sender: str, message: Message) -> None:
        name = message["topic"]
        outbox = self._outboxes.get(name)
        if outbox is None or outbox.home != sender or outbox.round != message["round"]:
            return
        topic, promised = self._topic(name), Ballot(*message["home"])
        if promised > topic.promised:
            if promised.name == self.name:  # we were it, and have forgotten that
                topic.promised = promised
            else:
                self._follow_home(topic, promised, settled=False)
        self._look_for_home(name)

    def _on_done(self, sender: str, message: Message) -> None:
        for topic, number in message["topics"]:
            self._finish(topic, number, None)

    def _on_record(self, sender: str, message: Message, body: bytes) -> None:
        topic = self._topic(message["topic"])
        ballot = Ballot(message["n"], sender)
        self._note_lag(sender, message["at"])
        if ballot < topic.promised:
            self._send(sender, {"do": "stale", "topic": topic.name, "promised": topic.promised})
            epoch = message["position"][0]
            if topic.position is not None and epoch not in (topic.position.epoch, topic.foreign):
                topic.foreign = epoch
                self._diverged(topic)
            return
        if ballot > topic.promised:
            self._follow_home(topic, ballot, settled=True)
        topic.settled = True
        self._recent.setdefault(sender, set()).add(topic.name)
        where, last = Position(*message["position"]), topic.position
        if topic.name in self._fetches:
            self._want(topic, sender)  # it comes with that, or after it
            return
        if last is not None and last.epoch == where.epoch and topic.accepted == ballot and where.offset <= last.offset:
            self._ack(topic)  # it came with what we fetched
            return
        if where.offset == 1 and (last is None or last.epoch != where.epoch):
            self._reset(topic, Position(where.epoch, 0), lost=last is not None or self._forgot or self._uncertain)
        elif last is None and self._forgot:  # there was no room for it: it is not fetched again and again
            self._reset(topic, Position(where.epoch, where.offset - 1), lost=True)
        elif (
            last is None
            or last.epoch != where.epoch
            or last.offset + 1 != where.offset
            or topic.accepted != Ballot(*message["after"])
        ):
            self._want(topic, sender)
            return
        age = max(0.0, self._peers.now() - message["born"])
        envelope = Envelope.unpack(body, self._hub.now(), age)
        envelope.publication.position = where
        publisher, number = message["id"]
        self._append(topic, envelope, Origin(ballot, publisher, number, envelope.left_out))
        self._ack(topic)
        self._answer_followers()

    def _append(
        self, topic: Topic, envelope: Envelope, origin: Origin, *, age: float = 0.0, fill: bool = False
    ) -> None:
        """Keep what follows our last one, and let subscribers here have it, if it is not only there to `fill` up."""
        topic.position = envelope.publication.position
        topic.accepted = origin.ballot
        topic.has_seen(origin.publisher, origin.number)
        if fill:
            assert envelope.keep is not None
            self._hub.history.add(envelope.publication, envelope.keep, self._hub.now(), origin, age)
        else:
            self._hub.receive(envelope._replace(origin=origin))

    def _on_stale(self, sender: str, message: Message) -> None:
        topic = self._topics.get(message["topic"])
        promised = Ballot(*message["promised"])
        if topic is not None and topic.active and promised > topic.promised:
            requests = topic.take_back()
            self._tails.discard(topic.name)
            topic.promised = promised
            self._claim(topic, requests)  # or hear who the home is

    def _ack(self, topic: Topic) -> None:
        """Tell the home how far we are."""
        home, position = topic.promised, topic.position
        if position is not None and topic.settled and home.name in self.up:
            self._acks.setdefault(home.name, {})[topic.name] = (home.number, *position)
            self._flush_soon()

    def _on_ack(self, sender: str, message: Message) -> None:
        now = self._acked_at[sender] = self._peers.now()
        if now - message["at"] < LAG_LIMIT:
            self._lagging.discard(sender)
        for name, number, epoch, offset in message["topics"]:
            topic = self._topics.get(name)
            if topic is None or not topic.active or not topic.tail or topic.promised.number != number:
                continue
            if topic.tail[0].position.epoch == epoch:
                self._confirm(topic, offset)

    def _note_lag(self, home: str, at: float) -> None:
        """A message of a home has come that it sent at a time."""
        self._heard_at[home] = at
        if self._peers.now() - at > LAG_LIMIT:
            self._unsure.add(home)

    # ------------------------------------------------------------------ other processes

    def open(self) -> None:
        """We know by now who else is there: from now on we may become the home of topics."""
        self._open = True
        for topic in self._claiming():
            self._look_at_claim(topic)

    def peer_up(self, name: str) -> None:
        """Another process hears us, and we hear it."""
        self.up.add(name)
        self._gone.pop(name, None)
        self._byes.discard(name)
        self._unsure.add(name)  # until it says that it counts us
        self._lagging.discard(name)
        self._acked_at[name] = self._peers.now()
        self._greeting.add(name)
        self._look_whether_synced()
        self._send_digest(name)
        for topic in self._claiming():
            assert topic.claim is not None
            topic.claim.unseen.discard(name)
            topic.claim.waiting.add(name)
            self._send(name, self._claim_message(topic))
        if not self._beating:
            self._beating = True
            self._later(BEAT, self._beat)

    def _claiming(self) -> list[Topic]:
        """The topics that we ask the others for."""
        topics = (self._topics[name] for name in sorted(self._claims))
        return [topic for topic in topics if topic.claim is not None and not topic.claim.fetching]

    def peer_down(self, name: str) -> None:
        """It is gone, or cut off."""
        if name not in self.up:
            return
        self.up.discard(name)
        self._gone[name] = self._peers.now(), name in self._byes
        while len(self._gone) > 256:
            del self._gone[next(iter(self._gone))]
        if name in self._greeting:  # it may have had what we have not heard of
            self._greeting.discard(name)
            self._unsure.add(name)
            self._uncertain = True
        for by_peer in (self._pages, self._acks, self._dones, self._acked_at, self._heard_at):
            by_peer.pop(name, None)
        self._lagging.discard(name)
        self._drop_fetches(name)
        changed = self._recent.pop(name, set()) | self._older.pop(name, set())
        if changed and self.up:  # one of us may have heard more of it than others
            for page in _parts(sorted(changed), PAGE):
                self._send(None, {"do": "beat", "topics": self._standings(page)})
        for topic in self._claiming():
            assert topic.claim is not None
            topic.claim.waiting.discard(name)
            topic.claim.unseen.discard(name)
            self._look_at_claim(topic)
        if not self._others_count():
            for each in sorted(self._tails):
                self._confirm(self._topics[each])
        for each, outbox in list(self._outboxes.items()):
            if outbox.home == name:
                self._look_for_home(each)
        self._look_whether_synced()

    def missed(self, name: str) -> None:
        """It did not read, and has missed some of what we sent."""
        if name in self.up:
            self._send_digest(name)

    # ------------------------------------------------------------------ where topics stand

    def _standings(self, names: Iterable[str]) -> list[Any]:
        found = []
        for name in names:
            topic = self._topics.get(name)
            if topic is not None and topic.last is not None:
                promised = topic.promised if topic.settled else NO_BALLOT
                found.append([name, *topic.last, topic.last_ballot, promised])
        return found

    def _send_digest(self, peer: str) -> None:
        """Tell a process where all topics stand, page by page."""
        self._pages[peer] = iter(list(self._topics))
        self._send_page(peer)

    def _send_page(self, peer: str) -> None:
        names = self._pages.get(peer)
        if names is not None:
            page = list(islice(names, PAGE))
            if len(page) < PAGE:
                del self._pages[peer]
            message = {"do": "digest", "topics": self._standings(page), "more": len(page) == PAGE}
            self._send(peer, {**message, "at": self._peers.now(), "out": sorted(self._lagging)})

    def _on_digest(self, sender: str, message: Message) -> None:
        self._compare(sender, message["topics"])
        if message["more"]:
            self._send(sender, {"do": "next"})
        else:
            self._greeting.discard(sender)
            self._note_count(sender, message)
            self._look_whether_synced()

    def _note_count(self, home: str, message: Message) -> None:
        """A process says whether it waits for us before it lets others have a message."""
        if self._peers.now() - message["at"] <= LAG_LIMIT and self.name not in message["out"]:
            self._unsure.discard(home)
        else:
            self._unsure.add(home)

    def _compare(self, sender: str, standings: list[Any]) -> None:
        """Fetch what another process has, and we do not."""
        for name, epoch, offset, accepted, promised in standings:
            topic = self._topic(name)
            ballot = Ballot(*promised)
            if ballot > topic.promised and ballot.name != self.name:
                self._follow_home(topic, ballot, settled=True)
            if topic.active or (topic.position is None and self._forgot):  # there is no room for all topics here
                continue
            if _is_newer(Ballot(*accepted), Position(epoch, offset), topic.last_ballot, topic.last):
                self._want(topic, sender)
        self._answer_followers()

    def _beat(self) -> None:
        """Timer: compare positions, and say who does not count."""
        if self._closed or not self.up:
            self._beating = False
            return
        self._later(BEAT, self._beat)
        self._older, self._recent = self._recent, {}
        changed, self._changed = sorted(self._changed), set()
        beat = {"do": "beat", "at": self._peers.now(), "out": sorted(self._lagging)}
        for page in _parts(changed, PAGE) if changed else iter([[]]):
            self._send(None, {**beat, "topics": self._standings(page)})

    def _on_beat(self, sender: str, message: Message) -> None:
        if "at" in message:
            self._note_count(sender, message)
        self._compare(sender, message["topics"])

    # ------------------------------------------------------------------ fetching

    def _want(self, topic: Topic, peer: str) -> None:
        """Have from a process what it has of a topic, and we do not."""
        if peer not in self.up:  # it is gone, and this is the last that came of it
            topic.behind = True
            return
        fetch = self._fetches.get(topic.name)
        if fetch is not None:
            if fetch.peer != peer and peer not in fetch.then:
                fetch.then.append(peer)
            return
        self._fetch(topic, peer, [])

    def _fetch(self, topic: Topic, peer: str, then: list[str]) -> None:
        """Do so, and see afterwards whether others have more."""
        self._fetches[topic.name] = Fetch(peer, then)
        self._fetch_queues.setdefault(peer, deque()).append(topic.name)
        self._look_whether_synced()
        self._arm()
        self._pump(peer)

    def _pump(self, peer: str) -> None:
        """Ask for the next ones."""
        queue = self._fetch_queues.get(peer)
        while queue and self._asked.get(peer, 0) < WINDOW:
            name = queue.popleft()
            fetch = self._fetches.get(name)
            if fetch is not None and fetch.peer == peer and not fetch.asked_at:
                self._asked[peer] = self._asked.get(peer, 0) + 1
                self._ask(self._topic(name), fetch)

    def _ask(self, topic: Topic, fetch: Fetch) -> None:
        fetch.asked_at = self._peers.now()
        message = {"do": "fetch", "topic": topic.name, "position": topic.position, "accepted": topic.accepted}
        self._send(fetch.peer, message)

    def _on_fetch(self, sender: str, message: Message) -> None:
        topic = self._topics.get(message["topic"])
        last = None if topic is None else topic.last
        asked, accepted = _position(message["position"]), Ballot(*message["accepted"])
        if topic is None or last is None or not _is_newer(topic.last_ballot, last, accepted, asked):
            self._send(sender, {"do": "entries", "topic": message["topic"], "last": None})  # nothing that it has not
            return
        now, history = self._hub.now(), self._hub.history
        kept = history.position(topic.name)
        entries = [] if kept is None or kept != topic.position else history.entries(topic.name, 0, now)
        for item in topic.tail:
            envelope = item.envelope
            assert envelope.keep is not None
            until = now + (envelope.keep.seconds or 0.0)
            entries.append(Entry(item.position.offset, envelope.publication, until, envelope.keep, envelope.origin))
        start = entries[0].offset - 1 if entries else last.offset
        reset = True
        if asked is not None and asked.epoch == last.epoch and start <= asked.offset <= last.offset:
            skip = asked.offset - start
            ballot = entries[skip - 1].origin.ballot if skip else accepted
            if ballot == accepted:
                start, entries, reset = asked.offset, entries[skip:], False
        chunk: list[bytes] = []
        size = 0
        end, ballot = start, topic.last_ballot
        for entry in entries:
            packed = self._pack(entry, now)
            if chunk and size + len(packed) > CHUNK:
                break
            chunk.append(packed)
            size += len(packed)
            end = entry.offset
        answer = {
            "do": "entries",
            "topic": topic.name,
            "epoch": last.epoch,
            "start": start,
            "reset": reset,
            "last": last.offset,
            "more": end < last.offset,
            "accepted": topic.last_ballot,
            "promised": topic.promised if topic.settled else NO_BALLOT,
            "seen": topic.seen,
            "sure": topic.active or (self._is_sure(topic) and topic.accepted.name not in self.up),
        }
        self._send(sender, answer, b"".join(chunk))

    def _pack(self, entry: Entry, now: float) -> bytes:
        """An entry as it travels."""
        origin = entry.origin
        expires = entry.publication.bare.expires
        envelope = Envelope(
            entry.publication, entry.keep, None if expires == float("inf") else expires - now, origin.left_out
        )
        age = 0.0 if entry.keep.seconds is None else entry.keep.seconds - (entry.until - now)
        head = json.dumps([origin.ballot, origin.publisher, origin.number, age]).encode()
        body = envelope.pack()
        return b"".join((_LENGTHS.pack(len(head), len(body)), head, body))

    def _on_entries(self, sender: str, message: Message, body: bytes) -> None:
        topic = self._topics.get(message["topic"])
        fetch = self._fetches.get(message["topic"])
        if topic is None or fetch is None or fetch.peer != sender or not fetch.asked_at:
            return
        more = False
        if message["last"] is not None:
            has = Ballot(*message["accepted"]), Position(message["epoch"], message["last"])
            if not topic.active and _is_newer(*has, topic.accepted, topic.position):
                more = self._take(topic, fetch, message, body)
        if more:
            self._ask(topic, fetch)
        else:
            if message["last"] is not None:
                topic.behind = False
                topic.sound = message["sure"] or topic.accepted.name in self.up  # else nobody would see its end
            self._fetched(topic, fetch)

    def _take(self, topic: Topic, fetch: Fetch, message: Message, body: bytes) -> bool:
        """Keep a chunk. Whether there is more."""
        last, start = topic.position, Position(message["epoch"], message["start"])
        if message["reset"] or last is None or last.epoch != start.epoch or last.offset < start.offset:
            fetch.fill = last is None
            if last is not None and topic.accepted.name == self.name:
                self._send(fetch.peer, {"do": "gap", "topic": topic.name})
            self._reset(topic, start, lost=last is not None)
            fetch.seen = dict(topic.seen)  # those are not delivered twice
            topic.accepted = NO_BALLOT
            topic.seen.clear()
        now = self._hub.now()
        skipped = False
        for head, packed in _unpack(body):
            number, name = head[0]
            origin_ballot, publisher, sequence, age = Ballot(number, name), head[1], head[2], head[3]
            envelope = Envelope.unpack(packed, now)
            position = envelope.publication.position
            assert position is not None
            assert topic.position is not None
            if position.offset == topic.position.offset + 1:
                origin = Origin(origin_ballot, publisher, sequence, envelope.left_out)
                fill = fetch.fill or sequence <= fetch.seen.get(publisher, 0)
                if skipped and not fill:
                    self._hub.lost(topic.name, topic.position)
                skipped = fill and not fetch.fill
                self._append(topic, envelope, origin, age=age, fill=fill)
        if skipped:
            self._hub.lost(topic.name, topic.position)
        for publisher, sequence in message["seen"].items():
            topic.has_seen(publisher, sequence)
        promised = Ballot(*message["promised"])
        if promised > topic.promised and promised.name != self.name:
            self._follow_home(topic, promised, settled=True)
        assert topic.position is not None
        if not message["more"] and topic.position.offset == message["last"]:
            topic.accepted = Ballot(*message["accepted"])
        return bool(message["more"])

    def _fetched(self, topic: Topic, fetch: Fetch) -> None:
        """We have what a process had, or never will."""
        del self._fetches[topic.name]
        if fetch.fill and self._hub.wanted(topic.name):  # what they have not seen of that, nobody knows
            self._hub.lost(topic.name, topic.position)
        if fetch.asked_at and fetch.peer in self._asked:
            self._asked[fetch.peer] -= 1
        self._pump(fetch.peer)
        then = [peer for peer in fetch.then if peer in self.up]
        if topic.claim is not None and topic.claim.fetching:
            if topic.behind:
                self._claim(topic, topic.claim.requests, topic.claim.since)
            else:
                self._become_home(topic)
        elif then:
            self._fetch(topic, then[0], then[1:])
        else:
            self._ack(topic)
        self._look_whether_synced()

    def _drop_fetches(self, peer: str) -> None:
        """A process is gone that was to tell us something."""
        self._fetch_queues.pop(peer, None)
        self._asked.pop(peer, None)
        dropped = [name for name, fetch in self._fetches.items() if fetch.peer == peer]
        for name in dropped:
            topic = self._topic(name)
            topic.behind = True
            self._fetched(topic, self._fetches[name])
        if dropped and self.up:  # others may know it, too
            self._send(None, {"do": "again"})

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

    def in_turn(self, call: Callable[[], object], owner: object) -> None:
        """See `Broker.in_turn`."""
        if any(follower.owner is owner for follower in self._followers):
            self._followers.append(Follower(owner, "", None, call, 0.0))
        else:
            call()

    def _is_coming(self, name: str) -> bool:
        """Whether something of a topic is on its way here."""
        if name in self._fetches:
            return True
        topic = self._topics.get(name)
        return (topic is None or topic.position is None) and bool(self._greeting) and not is_pattern(name.split("."))

    def _can_answer(self, name: str, since: Since) -> bool:
        """Whether there is nothing that a subscriber is to wait for: a history that is on its way here, or messages
        that it got from a process which had them a moment earlier."""
        if self._is_coming(name):
            return False
        topic = self._topics.get(name)
        if isinstance(since, Position) and self.up and topic is not None and topic.position is not None:
            return since.epoch != topic.position.epoch or since.offset <= topic.position.offset
        return True

    def _answer_followers(self) -> None:
        """Answer those that need not wait, each connection's in order."""
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
                follower.then(self._hub.history.find(follower.topic, follower.since, self._hub.now()))
            else:
                follower.then()
        except Exception as error:
            self._hub.lock.afterwards(_log_failure, follower.topic, error)

    def _look_whether_synced(self) -> None:
        if self._greeting or self._fetches:
            self.synced.clear()
        else:
            self.synced.set()
        self._answer_followers()

    # ------------------------------------------------------------------ sending, timers

    def _send(self, to: str | None, message: Message, body: bytes = b"") -> bool:
        return self._peers.send("kept", b"".join((_to_json(message), b"\n", body)), to)

    def _soon(self, call: Callable[..., object], *arguments: Any) -> None:
        self._peers.call_soon(self._locked, call, *arguments)

    def _later(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        self._peers.call_later(seconds, self._locked, call, *arguments)

    def _locked(self, call: Callable[..., object], *arguments: Any) -> None:
        with self._hub.lock:
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
            self._send(peer, {"do": "ack", "at": self._heard_at.get(peer, 0.0), "topics": found})
        dones, self._dones = self._dones, {}
        for peer, numbers in dones.items():
            self._send(peer, {"do": "done", "topics": numbers})

    def _arm(self) -> None:
        """Look at what is under way, after a while."""
        if not self._ticking:
            self._ticking = True
            self._later(TICK, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        if self._closed:
            return
        now = self._peers.now()
        for name in sorted(self._tails):
            topic = self._topics[name]
            if topic.tail and topic.tail[0].sent_at + ACK_TIMEOUT <= now:
                late = {peer for peer in self.up if self._acked_at.get(peer, 0.0) + ACK_TIMEOUT <= now}
                self._lagging |= late
                self._confirm(topic)
        if not self._others_count():
            for name in sorted(self._tails):
                self._confirm(self._topics[name])
        for topic in self._claiming():
            assert topic.claim is not None
            if topic.claim.since + CLAIM_TIMEOUT <= now:
                self._look_at_claim(topic, out_of_time=True)
        for name, fetch in list(self._fetches.items()):
            if fetch.asked_at and fetch.asked_at + FETCH_TIMEOUT <= now and self._fetches.get(name) is fetch:
                topic = self._topic(name)
                if topic.claim is not None and topic.claim.fetching:
                    topic.behind = True
                    self._fetched(topic, fetch)
                else:  # the question was lost, or the answer
                    self._ask(topic, fetch)
        for name, outbox in list(self._outboxes.items()):
            for post in list(outbox.posts.values()):
                if post.born + PUBLISH_TIMEOUT > now:
                    break
                self._give_up(name, post.number)
        self._answer_followers()
        if self._tails or self._claims or self._fetches or self._outboxes or self._followers:
            self._arm()

    def _give_up(self, name: str, number: int) -> None:
        """One of ours was not acknowledged in time."""
        topic = self._topics.get(name)
        if topic is not None and topic.claim is not None:
            kept = [each for each in topic.claim.requests if each[1:3] != (self._publisher, number)]
            topic.claim.requests = deque(kept)  # with what it was the last of: later ones still follow it
        home = self._outboxes[name].home
        error = BrokerError(
            f"the topic {name} is numbered by process {home or 'nobody'}, which has not answered within"
            f" {PUBLISH_TIMEOUT:g} s: it may have the message, or not"
        )
        self._finish(name, number, error)

    # ------------------------------------------------------------------ what comes

    def heard(self, sender: str, packet: bytes) -> None:
        """Another process says something."""
        head, _, body = packet.partition(b"\n")
        message = json.loads(head)
        do = message["do"]
        if self._closed:
            return
        if do == "bye":
            self._byes.add(sender)
        elif do == "next":
            self._send_page(sender)
        elif do == "again":
            self._send_digest(sender)
        elif do in _WITH_BODY:
            _WITH_BODY[do](self, sender, message, body)
        else:
            _PLAIN[do](self, sender, message)


_WITH_BODY: dict[str, Callable[[KeptTopics, str, Message, bytes], None]] = {
    "post": KeptTopics._on_post,
    "record": KeptTopics._on_record,
    "entries": KeptTopics._on_entries,
}
_PLAIN: dict[str, Callable[[KeptTopics, str, Message], None]] = {
    "moved": KeptTopics._on_moved,
    "stale": KeptTopics._on_stale,
    "ack": KeptTopics._on_ack,
    "done": KeptTopics._on_done,
    "gap": KeptTopics._on_gap,
    "claim": KeptTopics._on_claim,
    "promise": KeptTopics._on_promise,
    "refuse": KeptTopics._on_refuse,
    "digest": KeptTopics._on_digest,
    "beat": KeptTopics._on_beat,
    "fetch": KeptTopics._on_fetch,
}


def _to_json(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def _position(value: list[Any] | None) -> Position | None:
    return None if value is None else Position(*value)


def _is_newer(accepted: Ballot, position: Position | None, than: Ballot, its: Position | None) -> bool:
    """Whether somebody who stands at `position` has more than another one."""
    if position is None or its is None:
        return its is None and position is not None
    return (accepted, position.offset) > (than, its.offset)


def _unpack(body: bytes) -> Iterator[tuple[list[Any], bytes]]:
    """The entries of a chunk, as `_pack` made them."""
    at = 0
    while at < len(body):
        head, size = _LENGTHS.unpack_from(body, at)
        at += _LENGTHS.size
        yield json.loads(body[at : at + head]), body[at + head : at + head + size]
        at += head + size


def _parts(names: list[str], size: int) -> Iterator[list[str]]:
    """Cut a list up."""
    return (names[at : at + size] for at in range(0, len(names), size))


def _log_failure(topic: str, error: Exception) -> None:
    logger.error("a subscription to %s failed", topic or "a topic", exc_info=error)
