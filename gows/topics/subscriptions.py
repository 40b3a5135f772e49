"""Subscriptions: which connections of a server get what is published to a topic."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from itertools import chain
from typing import Any, NamedTuple

from gows.codes import TOPIC_SUBPROTOCOL
from gows.debug import DEBUG, check_owned
from gows.errors import ConnectionClosedError, NotAllowedError, UsageError
from gows.options import check_answer
from gows.protocol.prepared import PreparedMessage
from gows.reactor import Loop, Stream
from gows.reactor.waits import inner_lock
from gows.session.websocket import WebSocket
from gows.topics.asking import Asking, Question, answer_now
from gows.topics.names import MAX_LENGTH, check_pattern, check_topic, is_pattern
from gows.topics.patterns import Patterns, stands_for
from gows.topics.publication import Publication

MAX_TOPICS = 128
"""Subscriptions of one connection."""
REMEMBERED = 1 << 18
"""Connections in the tuples that are remembered of topics, from one message to the next; and twice as many as there are
subscriptions, in addition: so each topic by name may be remembered."""
TUPLE_COST = 64
"""Connections that a topic counts beside those of its tuples."""

May = Callable[[WebSocket, str], "bool | Coroutine[Any, Any, bool]"]
Send = Callable[[PreparedMessage, "tuple[WebSocket, ...]", "WebSocket | None", "Publication | None"], object]


class Targets(NamedTuple):
    """The connections that get a message to a topic, by the form in which they get it."""

    bare: tuple[WebSocket, ...]
    enclosed: tuple[WebSocket, ...]

    def plus(self, ws: WebSocket) -> Targets:
        """Return them with one more, behind the others."""
        if ws.subprotocol == TOPIC_SUBPROTOCOL:
            return Targets(self.bare, (*self.enclosed, ws))
        return Targets((*self.bare, ws), self.enclosed)


def _cost(targets: Targets) -> int:
    return TUPLE_COST + len(targets.bare) + len(targets.enclosed)


class Subscriptions:
    """The subscriptions of the connections of one server, in this process; each ends with its connection. Any thread.

    What ends in `_locked` is called with `_lock` held.
    """

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
        self.on_first: Callable[[str], object] = do_nothing
        """Called when a topic or pattern has its first subscriber here, with `_lock` held."""
        self.on_last: Callable[[str], object] = do_nothing
        """Called when a topic or pattern has lost its last subscriber here, with `_lock` held."""
        self.on_end: Callable[[WebSocket, tuple[str, ...]], object] = do_nothing
        """Called when a connection that had subscriptions has ended, with these. Loop thread."""
        self._lock = inner_lock("subscriptions")  # a finaliser or a signal handler may come amid it, and publish
        self._listening = False  # to the loop, for connections that end
        self._of: dict[WebSocket, tuple[str, ...]] = {}  # by connection: its topics and patterns
        self._members: dict[str, dict[WebSocket, None]] = {}  # by topic or pattern, in the order in which they came
        self._patterns = Patterns()
        self._total = 0  # subscriptions
        self._targets: dict[str, Targets] = {}  # by topic, as long as nothing changes
        self._remembered = 0  # what those count

    def ask_subscribe(self, ws: WebSocket, pattern: str) -> Asking[list[str]]:
        """Return the words of a pattern that a client may subscribe to. Raises NotAllowedError, and ValueError for what
        is no pattern."""
        words = check_pattern(pattern, self.longest)
        may = self.may_subscribe
        if may is not None:
            allowed = yield Question("may_subscribe", may, (ws, pattern))
            if not check_answer("may_subscribe", allowed):
                raise NotAllowedError(f"no subscription to {pattern!r}")
        return words

    def add(self, ws: WebSocket, pattern: str, words: list[str]) -> bool:
        """Subscribe a connection to a pattern of these words, without asking whether it may. Returns False if it was
        subscribed already. Raises UsageError for more than `most`, ConnectionClosedError for a connection that has
        ended."""
        with self._lock:
            if not self._listening:  # before the look at `ws`: one that ends after it is told of
                self._loop.on_end.append(self._on_ended)
                self._listening = True
            if ws.closed:  # `_on_ended` was called already, or will be
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
            known = self._targets.get(pattern)
            if known is None or is_pattern(words) or any(is_pattern(other.split(".")) for other in mine):
                self._on_changed_locked(pattern, words)
            else:  # where many come at once, to find all of them for each costs the square
                self._targets[pattern] = known.plus(ws)
                self._remembered += 1
        return True

    def unsubscribe(self, ws: WebSocket, pattern: str) -> bool:
        """End a subscription. Returns False if there is none. A message that was published before may still arrive.
        Raises ValueError for what is no pattern, but not for its length."""
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
            self._remove_locked(ws, pattern, words)
        return True

    def of(self, ws: WebSocket) -> tuple[str, ...]:
        """Return the topics and patterns of a connection, in the order in which it subscribed."""
        return self._of.get(ws, ())

    def covers(self, ws: WebSocket, topic: str) -> bool:
        """Return whether a connection gets what is published to `topic`."""
        words = topic.split(".")
        return any(stands_for(pattern.split("."), words) for pattern in self.of(ws))

    def connections(self) -> list[WebSocket]:
        """Return the connections that have subscriptions."""
        with self._lock:
            return list(self._of)

    def check_publish(self, ws: WebSocket, topic: str) -> None:
        """Check that a client may publish to a topic. Raises NotAllowedError, ValueError for what is no topic, and
        UsageError if `may_publish` is an `async def`."""
        answer_now(self.ask_publish(ws, topic))

    def ask_publish(self, ws: WebSocket, topic: str) -> Asking[None]:
        """Do what `check_publish` does, in steps."""
        check_topic(topic, self.longest)
        may = self.may_publish
        if may is not None:
            allowed = yield Question("may_publish", may, (ws, topic))
            if not check_answer("may_publish", allowed):
                raise NotAllowedError(f"no publishing to {topic!r}")

    def deliver(self, publication: Publication, send: Send, exclude: WebSocket | None = None) -> None:
        """Send a publication to its subscribers, but not to `exclude`, with `send` (`Fanout.send`). Raises what that
        raises."""
        targets = self.targets(publication.topic)
        if targets.bare:
            send(publication.bare, targets.bare, exclude, None)
        if targets.enclosed:
            send(publication.enclosed, targets.enclosed, exclude, publication)

    def count(self, topic: str) -> int:
        """Return how many connections get what is published to `topic`."""
        return sum(map(len, self.targets(topic)))

    def targets(self, topic: str) -> Targets:
        """Return the connections that get a message to `topic`, each once however many of its subscriptions match; the
        same objects as long as nothing changes."""
        with self._lock:
            found = self._targets.get(topic)
            if found is None:
                found = self._targets[topic] = self._find_targets_locked(topic)
                cost = _cost(found)
                self._remembered += cost
                most = REMEMBERED + 2 * self._total
                while self._remembered > most and len(self._targets) > 1:
                    self._forget_targets_locked(next(iter(self._targets)))
        return found

    def counts(self) -> dict[str, int]:
        """Return by topic or pattern how many connections have subscribed to just that."""
        with self._lock:
            return {pattern: len(members) for pattern, members in self._members.items()}

    # ------------------------------------------------------------------ lock held

    def _find_targets_locked(self, topic: str) -> Targets:
        """Find the connections that get a message to `topic`."""
        if DEBUG:
            check_owned(self._lock)
        all_members = self._members
        groups = [all_members[text] for text in self._patterns.candidates(topic.split(".")) if text in all_members]
        if topic in all_members:
            groups.append(all_members[topic])
        everybody = groups[0] if len(groups) == 1 else dict.fromkeys(chain.from_iterable(groups))
        return Targets(
            tuple(ws for ws in everybody if ws.subprotocol != TOPIC_SUBPROTOCOL),
            tuple(ws for ws in everybody if ws.subprotocol == TOPIC_SUBPROTOCOL),
        )

    def _forget_targets_locked(self, topic: str) -> None:
        """Remember no longer which connections get a message to `topic`."""
        if DEBUG:
            check_owned(self._lock)
        found = self._targets.pop(topic, None)
        if found is not None:
            cost = _cost(found)
            self._remembered -= cost

    def _remove_locked(self, ws: WebSocket, pattern: str, words: list[str]) -> None:
        """Remove a connection from the subscribers of a pattern of these words."""
        if DEBUG:
            check_owned(self._lock)
        self._total -= 1
        members = self._members[pattern]
        del members[ws]
        if not members:
            del self._members[pattern]
            if is_pattern(words):
                self._patterns.remove(words)
            self.on_last(pattern)
        self._on_changed_locked(pattern, words)

    def _on_changed_locked(self, pattern: str, words: list[str]) -> None:
        """Forget the targets of the topics that a pattern stands for: its subscribers have changed."""
        if DEBUG:
            check_owned(self._lock)
        if is_pattern(words):
            self._targets.clear()
            self._remembered = 0
        else:
            self._forget_targets_locked(pattern)

    # ------------------------------------------------------------------ loop thread

    def _on_ended(self, stream: Stream) -> None:
        """End the subscriptions of a connection that has ended."""
        ws = stream.observer
        if isinstance(ws, WebSocket):
            with self._lock:  # for the look, too: another thread may be about to subscribe, and saw it open
                patterns = self._of.pop(ws, ())
                for pattern in patterns:
                    self._remove_locked(ws, pattern, pattern.split("."))
            if patterns:
                self.on_end(ws, patterns)


def do_nothing(*arguments: object) -> None:
    """Do nothing: stands for a callback that was not given."""
