"""Log: what was published in a run, and what each subscriber was told of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Message:
    """One that was published."""

    __slots__ = ("acknowledged", "began", "data", "error", "id", "kept", "key", "own", "publisher", "seq", "topic")

    def __init__(self, id_: str, publisher: str, seq: int, topic: str, kept: bool, began: float, own: str) -> None:
        self.id = id_
        self.publisher = publisher
        self.seq = seq  # of those of this publisher
        self.topic = topic
        self.kept = kept
        self.began = began
        self.own = own  # the client that published it, which does not get it
        self.acknowledged: float | None = None
        self.error: BaseException | None = None
        self.key: str | None = None
        self.data: dict[str, Any] = {"id": id_, "topic": topic}

    def __repr__(self) -> str:
        state = "" if self.acknowledged is None else f", acknowledged {self.acknowledged:.3f}"
        return f"{self.id} ({self.topic}, published {self.began:.3f}{state})"


class Event(NamedTuple):
    """Something a subscriber was told."""

    at: float
    kind: str  # "message" or "lost"
    topic: str
    id: str
    via: str  # the connection by which a client published it
    seq: int


class Subscriber:
    """A subscription of a TopicClient, or a connection on whose behalf the server subscribed."""

    def __init__(self, log: Log, name: str, pattern: str, policy: str = "") -> None:
        self.name = name
        self.pattern = pattern
        self.policy = policy  # of a plain connection
        self.events: list[Event] = []
        self.ready: float | None = None
        self.refused: BaseException | None = None
        self.ended: float | None = None
        self.asked = False  # when it ended, the server had still to answer whether it is subscribed again
        self.wants_members = False
        self.members: dict[str, Any] | None = None
        self.host = ""  # the process that a plain connection has come to
        self.since: dict[str, float] = {}  # … and when it had subscribed, by topic
        self._log = log

    def matches(self, topic: str) -> bool:
        """Whether it is told of a topic."""
        words, wanted = topic.split("."), self.pattern.split(".")
        if wanted[-1] == ">":
            return len(words) >= len(wanted) and all(
                one in ("*", other) for one, other in zip(wanted[:-1], words, strict=False)
            )
        return len(words) == len(wanted) and all(one in ("*", other) for one, other in zip(wanted, words, strict=True))

    def message(self, topic: str, data: dict[str, Any]) -> None:
        self._tell(Event(self._log.now(), "message", topic, data["id"], data.get("via", ""), data.get("seq", 0)))

    def lost(self, topic: str) -> None:
        self._tell(Event(self._log.now(), "lost", topic, "", "", 0))

    def _tell(self, event: Event) -> None:
        if self.ended is None:
            self.events.append(event)
        self._log.note(f"{self} hears {event.kind} {event.topic} {event.id}")

    def present(self, members: dict[str, Any]) -> None:
        self.members = members
        self._log.note(f"{self} sees {', '.join(members)}")

    def is_ready(self, answer: Any) -> None:
        error = answer.exception()
        if error is None:
            self.ready = self._log.now()
        else:
            self.refused = error
        self._log.note(f"{self} is ready: {error or 'yes'}")

    def end(self, *, asked: bool = False) -> None:
        if self.ended is None:
            self.ended = self._log.now()
            self.asked = asked

    def __repr__(self) -> str:
        return f"{self.name}[{self.pattern or self.policy}]"


class Log:
    """Of one run."""

    def __init__(self, now: Callable[[], float], note: Callable[[str], object], kept: Callable[[str], bool]) -> None:
        self.now = now
        self.note = note
        self.messages: dict[str, Message] = {}
        self.subscriptions: list[Subscriber] = []
        self.connections: list[Subscriber] = []
        self._kept = kept
        self._numbers: dict[str, int] = {}
        self.pad: Callable[[], str] = lambda: ""

    def publish(self, publisher: str, topic: str, own: str = "") -> Message:
        """Somebody is about to publish; what it does."""
        seq = self._numbers[publisher] = self._numbers.get(publisher, 0) + 1
        message = Message(f"{publisher}#{seq}", publisher, seq, topic, self._kept(topic), self.now(), own)
        if topic.startswith("price."):
            message.key = message.data["key"] = f"k{seq % 2}"
        message.data["pad"] = self.pad()
        self.messages[message.id] = message
        self.note(f"{publisher} publishes {message.id} to {topic}")
        return message

    def acknowledge(self, message: Message) -> None:
        message.acknowledged = self.now()
        self.note(f"{message.id} is acknowledged")

    def refuse(self, message: Message, error: BaseException | None) -> None:
        message.error = error
        self.note(f"{message.id} is refused: {error}")

    def subscription(self, client: str, pattern: str) -> Subscriber:
        """A client is about to subscribe."""
        found = Subscriber(self, f"{client}.{len(self.subscriptions)}", pattern)
        self.subscriptions.append(found)
        self.note(f"{found} subscribes")
        return found

    def connection(self, name: str, policy: str) -> Subscriber:
        """A plain connection is open."""
        found = Subscriber(self, name, "", policy)
        self.connections.append(found)
        return found
