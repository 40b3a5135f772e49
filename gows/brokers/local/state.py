"""The state of LocalBroker: what is known of each topic that is kept, and of what is under way. See `topics`."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from gows.brokers.base import ConnectionId, Done, Envelope
from gows.topics.publication import Position, Since

MAX_PUBLISHERS = 64
"""Publishers whose last number is remembered for a topic."""


class Ballot(NamedTuple):
    """A term of a topic, and the process that is its home in it. The higher one counts."""

    number: int
    name: str


NO_BALLOT = Ballot(0, "")


class Origin(NamedTuple):
    """Where an entry of the history comes from: the term in which it was numbered, who published it, and the number by
    which that knows it."""

    ballot: Ballot
    publisher: str
    number: int
    exclude: ConnectionId | None


class Request(NamedTuple):
    """Somebody wants a message to be numbered."""

    sender: str
    publisher: str
    number: int
    before: int
    """The publisher's message before this one that is not acknowledged either; 0: there is none."""
    round: int
    """How often the publisher has looked for the home."""
    born: float
    envelope: Envelope
    body: bytes


class Unconfirmed(NamedTuple):
    """A message that we have numbered, and of which no other process has said that it has it."""

    envelope: Envelope
    request: Request
    before: int
    """The publisher's number before, for the case that it is taken back."""
    sent_at: float

    @property
    def position(self) -> Position:
        """Where it stands."""
        position = self.envelope.publication.position
        assert position is not None
        return position


class Answer(NamedTuple):
    """What another process says of a topic that we want to be the home of."""

    accepted: Ballot
    position: Position | None
    sure: bool


class Claim:
    """We ask the others for a topic, to become its home."""

    __slots__ = ("answers", "fetching", "is_sure", "last", "requests", "since", "unseen", "waiting")

    def __init__(self, names: Iterable[str], requests: Iterable[Request], now: float) -> None:
        self.waiting = set(names)
        self.unseen: set[str] = set()  # others that they see, and we do not yet
        self.answers: dict[str, Answer] = {}
        self.requests: deque[Request] = deque()
        self.last: dict[str, int] = {}  # by publisher: the number of the latest request
        self.since = now
        self.fetching = False  # what one of them has, and we do not
        self.is_sure = True  # that nothing is missing
        for request in requests:
            self.add(request)

    def add(self, request: Request) -> None:
        """Have it numbered once we are the home."""
        self.requests.append(request)
        self.last[request.publisher] = request.number


class Topic:
    """One topic, as this process sees it."""

    __slots__ = (
        "accepted",
        "active",
        "behind",
        "claim",
        "foreign",
        "name",
        "position",
        "promised",
        "seen",
        "settled",
        "sound",
        "tail",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.position: Position | None = None
        """Of the latest that we have, and that is confirmed."""
        self.accepted = NO_BALLOT
        """The term in which that was numbered."""
        self.promised = NO_BALLOT
        """The highest term that we have heard of: we take nothing of lower ones."""
        self.settled = False
        """Whether that has a home that numbers; else somebody is about to become it."""
        self.active = False
        """Whether we are that home."""
        self.claim: Claim | None = None
        self.tail: deque[Unconfirmed] = deque()
        self.seen: dict[str, int] = {}
        """The last number of each publisher."""
        self.foreign = ""
        """An epoch of somebody who did not know that there is another."""
        self.behind = False
        """Whether we were about to fetch something from a process that is gone."""
        self.sound = True
        """Whether nobody had more than we got, as far as whom we fetched it from knew."""

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self.tail and self.claim is None

    @property
    def last(self) -> Position | None:
        """The position of the latest that we have."""
        return self.tail[-1].position if self.tail else self.position

    @property
    def last_ballot(self) -> Ballot:
        """The term of that."""
        return self.promised if self.tail else self.accepted

    def has_seen(self, publisher: str, number: int) -> None:
        """A message of this number is in the topic."""
        before = self.seen.pop(publisher, 0)
        self.seen[publisher] = max(number, before)
        while len(self.seen) > MAX_PUBLISHERS:
            del self.seen[next(iter(self.seen))]

    def follows(self, request: Request) -> bool:
        """Whether a request comes after all earlier ones of its publisher: some may have been sent on to another home,
        and will come again."""
        last = 0 if self.claim is None else self.claim.last.get(request.publisher, 0)
        return request.before <= max(last, self.seen.get(request.publisher, 0))

    def take_back(self) -> list[Request]:
        """Forget what we have numbered and nobody has confirmed; the requests, in order."""
        requests = [item.request for item in self.tail]
        while self.tail:
            item = self.tail.pop()
            self.seen[item.request.publisher] = item.before
        return requests


class Post:
    """A publication of ours that is not acknowledged yet."""

    __slots__ = ("before", "body", "born", "done", "envelope", "error", "finished", "number")

    def __init__(self, number: int, envelope: Envelope, body: bytes, done: Done, born: float) -> None:
        self.number = number
        self.before = 0
        self.envelope = envelope
        self.body = body
        self.done = done
        self.born = born
        self.finished = False
        self.error: Exception | None = None


class Outbox:
    """Those of one topic, in order."""

    __slots__ = ("home", "posts", "round")

    def __init__(self, home: str | None) -> None:
        self.home = home  # to which they were sent; None: it is looked for
        self.round = 0
        self.posts: OrderedDict[int, Post] = OrderedDict()


class Fetch:
    """We ask another process for what it has of a topic, and we do not."""

    __slots__ = ("asked_at", "fill", "peer", "seen", "then")

    def __init__(self, peer: str, then: list[str]) -> None:
        self.peer = peer
        self.asked_at = 0.0  # 0: it waits for others
        self.seen: dict[str, int] = {}  # by publisher: up to which number subscribers here have got all
        self.fill = False  # nothing of it is news to subscribers here
        self.then = then  # who may have more


class Follower(NamedTuple):
    """A connection that waits to be subscribed, or, without a topic, a call that waits for that."""

    owner: object
    topic: str
    since: Since
    then: Callable[..., object]
    until: float
