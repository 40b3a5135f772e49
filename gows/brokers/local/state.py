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
    """Where an entry of the history comes from: the term in which it was numbered, the process that published it, and
    its number there."""

    ballot: Ballot
    publisher: str
    number: int
    exclude: ConnectionId | None


class Request(NamedTuple):
    """A message that its publisher wants to be numbered."""

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
    """A message that is numbered here, and that no other process has confirmed."""

    envelope: Envelope
    request: Request
    before: int
    """The publisher's number before, for the case that it is taken back."""
    sent_at: float

    @property
    def position(self) -> Position:
        """Return its position."""
        position = self.envelope.publication.position
        assert position is not None
        return position


class Answer(NamedTuple):
    """The answer of another process to a claim: where the topic stands there."""

    accepted: Ballot
    position: Position | None
    sure: bool


class Claim:
    """A claim: this process asks all others for a topic, to become its home."""

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
        """Add a request, which is numbered once this process is the home."""
        self.requests.append(request)
        self.last[request.publisher] = request.number


class Topic:
    """A topic, as this process knows it."""

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
        """The position of the latest message that is here and confirmed."""
        self.accepted = NO_BALLOT
        """The term in which the latest message was numbered."""
        self.promised = NO_BALLOT
        """The highest term that is known: messages of lower ones are refused."""
        self.settled = False
        """Whether the home of that term numbers; else a process is about to become it."""
        self.active = False
        """Whether this process is that home."""
        self.claim: Claim | None = None
        self.tail: deque[Unconfirmed] = deque()
        self.seen: dict[str, int] = {}
        """By publisher, the number of its last message."""
        self.foreign = ""
        """An epoch in which another process went on, since it did not know of ours."""
        self.behind = False
        """Whether something was to be fetched from a process that is gone."""
        self.sound = True
        """Whether the process that this was fetched from knew of none that had more."""

    @property
    def idle(self) -> bool:
        """Return whether nothing is under way."""
        return not self.tail and self.claim is None

    @property
    def last(self) -> Position | None:
        """Return the position of the latest message that is here."""
        return self.tail[-1].position if self.tail else self.position

    @property
    def last_ballot(self) -> Ballot:
        """Return the term in which that was numbered."""
        return self.promised if self.tail else self.accepted

    def has_seen(self, publisher: str, number: int) -> None:
        """Note that the message of a publisher with this number is in the topic."""
        before = self.seen.pop(publisher, 0)
        self.seen[publisher] = max(number, before)
        while len(self.seen) > MAX_PUBLISHERS:
            del self.seen[next(iter(self.seen))]

    def follows(self, request: Request) -> bool:
        """Return whether a request comes after all earlier ones of its publisher: some may have been sent on to another
        home, and will come again."""
        last = 0 if self.claim is None else self.claim.last.get(request.publisher, 0)
        return request.before <= max(last, self.seen.get(request.publisher, 0))

    def take_back(self) -> list[Request]:
        """Forget what was numbered here and not confirmed. Returns the requests, in order."""
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
    """The publications of ours to one topic that are not acknowledged, in order."""

    __slots__ = ("home", "posts", "round")

    def __init__(self, home: str | None) -> None:
        self.home = home  # to which they were sent; None: it is looked for
        self.round = 0
        self.posts: OrderedDict[int, Post] = OrderedDict()


class Fetch:
    """A fetch: another process is asked for what it has of a topic, and this one does not."""

    __slots__ = ("asked_at", "fill", "peer", "seen", "then")

    def __init__(self, peer: str, then: list[str]) -> None:
        self.peer = peer
        self.asked_at = 0.0  # 0: it waits for others
        self.seen: dict[str, int] = {}  # by publisher: up to which number subscribers here have got all
        self.fill = False  # nothing of it is news to subscribers here
        self.then = then  # who may have more


class Follower(NamedTuple):
    """A connection that waits to be subscribed; without a topic, a call that waits for those before it."""

    owner: object
    topic: str
    since: Since
    then: Callable[..., object]
    until: float
