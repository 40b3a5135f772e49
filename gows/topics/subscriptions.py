"""Topics: a Publication is what is told of one, Subscriptions are the connections of a server that want to hear of it.

A topic is a name of words with dots between them: "prices.eu.gold". What is subscribed to is a topic, or a pattern, in
which the word `*` stands for any one word, and `>` as the last one for one or more: "prices.*.gold", "prices.>".

A connection that agreed on the subprotocol gows.v1 gets a publication as a message of that, which names the topic; any
other gets the bare data.
"""

from __future__ import annotations

import base64
import copy
import math
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

from gows.bytebuffer import ByteBuffer
from gows.codes import TOPIC_SUBPROTOCOL, Opcode
from gows.errors import ConnectionClosedError, NotAllowedError, UsageError
from gows.jsontext import to_json_text
from gows.options import check_answer
from gows.protocol.connection import to_bytes
from gows.protocol.prepared import PreparedMessage
from gows.reactor import Loop, Stream
from gows.reactor.waits import inner_lock
from gows.session.websocket import WebSocket
from gows.topics.patterns import ONE, REST, Patterns, is_pattern

MAX_TOPICS = 128
"""Subscriptions of one connection."""
MAX_LENGTH = 255
"""Characters of a topic's name."""
MAX_KEY = 255
"""Characters of a message's key."""
MAX_WORDS = 16
"""Words of a topic's name."""
REMEMBERED = 1 << 18
"""Connections in the tuples that are remembered of topics, from one message to the next; and twice as many as there are
subscriptions, in addition: so each topic by name may be remembered."""
TUPLE_COST = 64
"""Connections that a topic counts beside those of its tuples."""

May = Callable[[WebSocket, str], bool]
Send = Callable[[PreparedMessage, "tuple[WebSocket, ...]", "WebSocket | None", "Publication | None"], object]


def check_topic(topic: str, longest: int = MAX_LENGTH) -> None:
    """Raise ValueError, or TypeError, for what cannot be published to."""
    if any(word in (ONE, REST) for word in _words(topic, longest)):
        raise ValueError(f"{topic!r} is a pattern: a message has one topic")


def check_pattern(pattern: str, longest: int | None = MAX_LENGTH) -> list[str]:
    """Return the words of what may be subscribed to. Raises ValueError, or TypeError, for what may not. `longest`: None
    for what may have been subscribed to under other limits."""
    words = _words(pattern, longest)
    if REST in words[:-1]:
        raise ValueError(f"{REST!r} stands at the end of a pattern, not within {pattern!r}")
    return words


def _words(name: str, longest: int | None) -> list[str]:
    if not isinstance(name, str):
        raise TypeError(f"a topic is a str, not {type(name).__name__}")
    if not name or (longest is not None and len(name) > longest):
        raise ValueError(f"a topic has 1 to {longest or MAX_LENGTH} characters, not {len(name)}")
    shown = repr(name if len(name) <= 300 else f"{name[:300]}…")
    if " " in name or not name.isprintable():
        raise ValueError(f"a topic has no spaces and no control characters: {shown}")
    words = name.split(".")
    if longest is not None and len(words) > MAX_WORDS:
        raise ValueError(f"a topic has at most {MAX_WORDS} words, not {len(words)}: {shown}")
    for word in words:
        if not word:
            raise ValueError(f"a topic has words with a dot between them, and none is empty: {shown}")
        if len(word) > 1 and (ONE in word or REST in word):
            raise ValueError(f"{ONE!r} and {REST!r} are words of their own: {shown}")
    return words


def is_text(text: str) -> bool:
    """Whether `text` can be sent: half of a surrogate pair, which JSON may name, is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Position(NamedTuple):
    """Where a publication stands in its topic."""

    epoch: str
    offset: int


Since = Position | int | None
"""What somebody wants of the past of a topic: all after a position, so many of the latest, or nothing."""


class Publication:
    """One message to a topic, in the two forms in which it is sent: `bare`, the data alone, and `enclosed`.

    `data`: a str is text, bytes-like is binary (text when `opcode` says so); anything else must be what JSON can write.
    Raises ValueError and TypeError for what cannot be sent.
    """

    __slots__ = ("_enclosed", "bare", "is_json", "key", "position", "topic")

    def __init__(
        self,
        topic: str,
        data: Any,
        opcode: Opcode | int | None = None,
        *,
        compress: bool = True,
        key: str | int | None = None,
        expires: float = math.inf,
        is_json: bool = False,
        position: Position | None = None,
    ) -> None:
        """`is_json`: the text in `data` is JSON already. `expires`: by the loop's clock. `position`: epoch and offset,
        where a history of the topic is kept."""
        if key is not None and (isinstance(key, bool) or not isinstance(key, str | int)):
            raise TypeError(f"the key of a message to a topic is a str or an int, not {type(key).__name__}")
        if isinstance(key, str) and not (len(key) <= MAX_KEY and is_text(key)):
            raise ValueError(f"a key has at most {MAX_KEY} characters of Unicode, not {len(key)}: {key[:20]!r}…")
        if isinstance(data, str):
            data, opcode = data.encode(), opcode or Opcode.TEXT
        elif isinstance(data, bytes | bytearray | memoryview | ByteBuffer):
            data, opcode = to_bytes(data), opcode or Opcode.BINARY
        else:
            data, opcode, is_json = to_json(data), Opcode.TEXT, True
        self.topic = topic
        self.is_json = is_json
        self.position = position
        self.key = key
        # where a later message takes the place of one with the same key, that is one of the same topic
        self.bare = PreparedMessage(opcode, data, compress, None if key is None else (topic, key), expires)
        self._enclosed: PreparedMessage | None = None

    @property
    def enclosed(self) -> PreparedMessage:
        """A message of gows.v1, made when first needed: its position must be there by then."""
        if self._enclosed is None:
            bare = self.bare
            if bare.opcode == Opcode.BINARY:
                name, value = b"base64", b'"' + base64.b64encode(bare.data) + b'"'
            else:
                name, value = b"data", bare.data if self.is_json else to_json(bare.data.decode())
            where = b""
            if self.position is not None:
                where = b',"epoch":%b,"offset":%d' % (to_json(self.position.epoch), self.position.offset)
            text = b'{"type":"message","topic":%b%b,"%b":%b}' % (to_json(self.topic), where, name, value)
            # of a topic that is kept each message comes, in order: none may take the place of an older one
            key = bare.key if self.position is None else None
            self._enclosed = PreparedMessage(Opcode.TEXT, text, bare.compress, key, bare.expires)
        return self._enclosed

    def at(self, position: Position) -> Publication:
        """Return the same with another position."""
        other = copy.copy(self)
        other.position = position
        other._enclosed = None
        return other


def to_json(value: Any) -> bytes:
    """As JSON, in UTF-8. Raises TypeError or ValueError for what cannot be written so."""
    return to_json_text(value, allow_nan=False).encode()


class About(NamedTuple):
    """What an event, which is no publication, is about."""

    topic: str
    position: Position | None = None


ANSWER = About("")
"""What an answer is about: whoever cannot be sent it is closed."""


def position_event(topic: str, position: Position, after: int) -> bytes:
    """Return the message that says that nothing is missed of a topic from the offset `after` up to `position`."""
    event = {"type": "position", "topic": topic, "epoch": position.epoch, "offset": position.offset, "after": after}
    return to_json(event)


class Targets(NamedTuple):
    """Whom a message to a topic goes to, by the form in which they get it."""

    bare: tuple[WebSocket, ...]
    enclosed: tuple[WebSocket, ...]


def _cost(targets: Targets) -> int:
    return TUPLE_COST + len(targets.bare) + len(targets.enclosed)


class Subscriptions:
    """Of the connections of one server, in this process. Any thread. They end with their connection."""

    def __init__(
        self,
        loop: Loop,
        *,
        most: int = MAX_TOPICS,
        longest: int = MAX_LENGTH,
        may_subscribe: May | None = None,
        may_publish: May | None = None,
    ) -> None:
        for name, value in (("max_topics", most), ("max_topic_length", longest)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an int of 1 or more, not {value!r}")
        self.most = most
        self.longest = longest
        self._loop = loop
        self.may_subscribe = may_subscribe
        self.may_publish = may_publish
        self.on_first: Callable[[str], object] = nobody
        """Called when a topic or pattern has its first subscriber here, with the lock held."""
        self.on_last: Callable[[str], object] = nobody
        """… and when the last has left."""
        self.on_end: Callable[[WebSocket, tuple[str, ...]], object] = nobody
        """Called when a connection that had subscriptions is over, with these."""
        self._lock = inner_lock("subscriptions")  # a finaliser or a signal handler may come amid it, and publish
        self._listening = False  # to the loop, for connections that end
        self._of: dict[WebSocket, tuple[str, ...]] = {}
        self._members: dict[str, dict[WebSocket, None]] = {}  # by topic or pattern, in the order in which they came
        self._patterns = Patterns()
        self._total = 0  # subscriptions
        self._targets: dict[str, Targets] = {}  # by topic, as long as nothing changes
        self._remembered = 0  # what those count

    def check_subscribe(self, ws: WebSocket, pattern: str) -> list[str]:
        """Whether a client may subscribe; the pattern's words. Raises NotAllowedError; ValueError for what is no
        pattern."""
        words = check_pattern(pattern, self.longest)
        may = self.may_subscribe
        if may is not None and not check_answer("may_subscribe", may(ws, pattern)):
            raise NotAllowedError(f"no subscription to {pattern!r}")
        return words

    def add(self, ws: WebSocket, pattern: str, words: list[str]) -> bool:
        """Subscribe one that may, with the pattern's words; nothing of the user's is called. False: it was subscribed
        already. Raises UsageError for more than `most`, ConnectionClosedError for a connection that has ended."""
        with self._lock:
            if not self._listening:  # before the look at `ws`: one that ends after it is told of
                self._loop.on_end.append(self._ended)
                self._listening = True
            if ws.closed:  # `_ended` was called already, or will be
                raise ConnectionClosedError("a connection that has ended cannot subscribe")
            mine = self._of.get(ws, ())
            if pattern in mine:
                return False
            if len(mine) >= self.most:
                raise UsageError(f"a connection may have {self.most} subscriptions")
            self._of[ws] = (*mine, pattern)
            self._total += 1
            members = self._members.get(pattern)
            if members is None:
                members = self._members[pattern] = {}
                if is_pattern(words):
                    self._patterns.add(words)
                self.on_first(pattern)
            members[ws] = None
            self._changed(pattern, words)
        return True

    def unsubscribe(self, ws: WebSocket, pattern: str) -> bool:
        """End a subscription. False: it was none. A message that was published before may still arrive. Raises
        ValueError for what can be no pattern, whatever its length."""
        words = check_pattern(pattern, None)
        with self._lock:
            mine = self._of.get(ws, ())
            if pattern not in mine:
                return False
            rest = tuple(other for other in mine if other != pattern)
            if rest:
                self._of[ws] = rest
            else:
                del self._of[ws]
            self._remove(ws, pattern, words)
        return True

    def of(self, ws: WebSocket) -> tuple[str, ...]:
        """What a connection has subscribed to, in that order."""
        return self._of.get(ws, ())

    def connections(self) -> list[WebSocket]:
        """Return those that have subscribed to anything."""
        with self._lock:
            return list(self._of)

    def check_publish(self, ws: WebSocket, topic: str) -> None:
        """Whether a client may publish. Raises NotAllowedError; ValueError for what is no topic."""
        check_topic(topic, self.longest)
        may = self.may_publish
        if may is not None and not check_answer("may_publish", may(ws, topic)):
            raise NotAllowedError(f"no publishing to {topic!r}")

    def deliver(self, publication: Publication, send: Send, exclude: WebSocket | None = None) -> None:
        """Have `send` (Fanout's) send it to all whom it goes to. Raises what that raises."""
        targets = self.targets(publication.topic)
        if targets.bare:
            send(publication.bare, targets.bare, exclude, None)
        if targets.enclosed:
            send(publication.enclosed, targets.enclosed, exclude, publication)

    def count(self, topic: str) -> int:
        """How many get what is published to `topic`."""
        return sum(map(len, self.targets(topic)))

    def targets(self, topic: str) -> Targets:
        """Whom a message to `topic` goes to, each once however many of its subscriptions match; the same objects as
        long as nothing changes."""
        with self._lock:
            found = self._targets.get(topic)
            if found is None:
                found = self._targets[topic] = self._find(topic)
                cost = _cost(found)
                self._remembered += cost
                most = REMEMBERED + 2 * self._total
                while self._remembered > most and len(self._targets) > 1:
                    self._forget(next(iter(self._targets)))
        return found

    def counts(self) -> dict[str, int]:
        """By topic or pattern, how many have subscribed to just that."""
        with self._lock:
            return {pattern: len(members) for pattern, members in self._members.items()}

    # ------------------------------------------------------------------ lock held

    def _find(self, topic: str) -> Targets:
        """Look for whom a message to `topic` goes to."""
        all_members = self._members
        groups = [all_members[text] for text in self._patterns.candidates(topic.split(".")) if text in all_members]
        if topic in all_members:
            groups.append(all_members[topic])
        everybody = groups[0] if len(groups) == 1 else dict.fromkeys(chain.from_iterable(groups))
        return Targets(
            tuple(ws for ws in everybody if ws.subprotocol != TOPIC_SUBPROTOCOL),
            tuple(ws for ws in everybody if ws.subprotocol == TOPIC_SUBPROTOCOL),
        )

    def _forget(self, topic: str) -> None:
        """Remember no longer whom a message to `topic` goes to."""
        found = self._targets.pop(topic, None)
        if found is not None:
            cost = _cost(found)
            self._remembered -= cost

    def _remove(self, ws: WebSocket, pattern: str, words: list[str]) -> None:
        self._total -= 1
        members = self._members[pattern]
        del members[ws]
        if not members:
            del self._members[pattern]
            if is_pattern(words):
                self._patterns.remove(words)
            self.on_last(pattern)
        self._changed(pattern, words)

    def _changed(self, pattern: str, words: list[str]) -> None:
        if is_pattern(words):
            self._targets.clear()
            self._remembered = 0
        else:
            self._forget(pattern)

    # ------------------------------------------------------------------ loop thread

    def _ended(self, stream: Stream) -> None:
        """A connection of the loop is over."""
        ws = stream.observer
        if isinstance(ws, WebSocket):
            with self._lock:  # for the look, too: another thread may be about to subscribe, and saw it open
                patterns = self._of.pop(ws, ())
                for pattern in patterns:
                    self._remove(ws, pattern, pattern.split("."))
            if patterns:
                self.on_end(ws, patterns)


def nobody(*arguments: object) -> None:
    """Nobody wants to know."""
