"""Publishing: what becomes of a message to a topic, and of who wants to hear of it, in one process of a server."""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gows.brokers.base import Broker, Done, Envelope, LeftOut
from gows.brokers.hublock import HubLock
from gows.codes import TOPIC_SUBPROTOCOL, Opcode
from gows.errors import (
    ConnectionClosedError,
    GowsError,
    LoopClosedError,
    NotAllowedError,
    QueueFullError,
    UsageError,
)
from gows.protocol.prepared import PreparedMessage
from gows.reactor import Loop
from gows.session.fanout import Fanout
from gows.session.websocket import WebSocket
from gows.topics.history import History, Keep
from gows.topics.lost import Lost, lost_event
from gows.topics.patterns import is_pattern
from gows.topics.presence import Describe, Member, Presence
from gows.topics.recovery import ANSWER_BURST, ANSWER_RATE, DELIVERY_BURST, DELIVERY_RATE, MANY_DELIVERIES, Budget
from gows.topics.subscriptions import (
    ANSWER,
    About,
    Position,
    Publication,
    Since,
    Subscriptions,
    nobody,
    position_event,
    to_json,
)

if TYPE_CHECKING:
    from gows.server.remote import RemoteConnection

logger = logging.getLogger("gows")

MOST_MESSAGES = 10_000
"""Of a topic that is kept by time alone."""
EVENT_COST = 128
"""Bytes that it counts to tell one connection that somebody joined, or left."""
MAX_AWAY = 4096
"""Publications of ours that may be on their way back to us, and still leave somebody out."""

Told = Callable[["Position | None", "list[Publication] | None", "UsageError | None"], object]
KeepRule = Callable[[str], "Keep | int | timedelta | None"]


def as_keep(value: Keep | int | timedelta | None) -> Keep | None:
    """A number of messages, a time, or both. Raises TypeError and ValueError for anything else."""
    if value is None or isinstance(value, Keep):
        return value
    if isinstance(value, timedelta):
        return Keep(MOST_MESSAGES, value.total_seconds())
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"history is a number of messages, a timedelta or a gows.Keep, not {type(value).__name__}")
    return None if value == 0 else Keep(value)


class Publishing:
    """A server's; the Hub of its broker. Any thread."""

    def __init__(
        self,
        loop: Loop,
        fanout: Fanout,
        news: Fanout,
        subscriptions: Subscriptions,
        history: History,
        keep: KeepRule | None,
        lock: HubLock,
        broker: Broker,
        presence: Describe | None,
        losses: Lost,
    ) -> None:
        """`keep`: how much of a topic is kept where `publish` does not say. `lock`: held while something is given to
        the broker and to the fan-out, so that both have one order. `presence`: what is told of a connection. `losses`:
        tells connections what they missed."""
        self.name = ""
        self.published = 0
        """Messages that began here."""
        self.gaps = 0
        """Times that some of a topic was lost on the way here."""
        self.lock = lock
        self.history = history
        self.broker = broker
        self._loop = loop
        self._fanout = fanout
        self._news = news
        self.subscriptions = subscriptions
        self._keep = keep
        self._find: Callable[[int], WebSocket | None] = lambda number: None
        self._tokens = itertools.count(-1, -1)
        self._away: OrderedDict[int, WebSocket] = OrderedDict()  # whom a publication leaves out that comes back to us
        self._info_of = presence
        self.losses = losses
        self.answers = Budget(ANSWER_RATE, ANSWER_BURST, loop.time)
        """Bytes that clients of gows.v1 may have of histories and of members."""
        self._deliveries = Budget(DELIVERY_RATE, DELIVERY_BURST, loop.time)
        fanout.on_missed = news.on_missed = self._missed
        fanout.on_excluded = self._excluded
        self.presence = Presence(broker.tell, self._tell_news)
        broker.attach(self)
        subscriptions.on_first = broker.listen
        subscriptions.on_last = broker.unlisten
        subscriptions.on_end = self._ended

    def join(self, name: str, find: Callable[[int], WebSocket | None]) -> None:
        """Be one of several processes: what it is called, and what finds its connections by their number."""
        self.name = name
        self._find = find

    def publish(
        self,
        publication: Publication,
        ttl: float | None,
        history: Keep | int | timedelta | None,
        exclude: WebSocket | RemoteConnection | None,
        done: Done | None,
    ) -> None:
        """See `Server.publish`."""
        keep = as_keep(history)
        if history is None and self._keep is not None:
            keep = as_keep(self._keep(publication.topic))
        own, left_out = None, None
        if isinstance(exclude, WebSocket):
            own = exclude
        elif exclude is not None:
            left_out = exclude.process, exclude.number
        envelope = Envelope(publication, keep, ttl, left_out)
        if self.lock.held():
            self._fanout.check(publication.bare)
            self.lock.in_turn(self._publish_in_turn, envelope, own, done)
            return
        if not self.lock.enter(self._publish_in_turn, envelope, own, done):
            return
        try:
            finished = self._publish(envelope, own, done)
        finally:
            self.lock.__exit__()
        if finished and done is not None:
            done(None)

    def _publish(self, envelope: Envelope, own: WebSocket | None, done: Done | None) -> bool:
        """Give it to the broker; whether that was all. Lock held."""
        self._fanout.check(envelope.publication.bare)
        finished = self.broker.publish(envelope, own, done or nobody)
        self.published += 1
        return finished

    def _publish_in_turn(self, envelope: Envelope, own: WebSocket | None, done: Done | None) -> None:
        """The same for somebody who is not there any more. Lock held."""
        failure: Exception | None = None
        try:
            finished = self._publish(envelope, own, done)
        except (GowsError, ValueError) as error:
            finished, failure = True, error
        if finished and done is not None:
            self.lock.afterwards(done, failure)
        elif failure is not None:
            self.lock.afterwards(
                logger.error, "a message to the topic %s is lost: %s", envelope.publication.topic, failure
            )

    def subscribe(self, ws: WebSocket, topic: str) -> bool:
        """See `WebSocket.subscribe`."""
        # without the lock: a user's function may take its time, or publish
        words = self._check_subscribe(ws, topic)
        info = self._describe(ws, topic, words)
        with self.lock:
            return self._add(ws, topic, words, info)

    def follow(self, ws: WebSocket, topic: str, since: Since, told: Told) -> None:
        """Subscribe, and call `told` with where the topic stands, if it is kept, and what came after `since`, or so
        many of the latest (None: that is not known), or with the error why not; before anything that is published later
        goes out to `ws`, and perhaps in another thread. It must not block. Raises NotAllowedError, and ValueError for
        what is no topic."""
        words = self._check_subscribe(ws, topic)
        info = self._describe(ws, topic, words)

        def then(missed: list[Publication] | None) -> None:
            try:
                self._add(ws, topic, words, info)
            except UsageError as error:
                told(None, None, error)
            else:
                told(self.history.position(topic), missed, None)

        self.broker.follow(topic, since, then, owner=ws, room=ws.context.high_water)

    def send_in_turn(self, ws: WebSocket, messages: list[tuple[PreparedMessage, About]]) -> None:
        """Send messages to one connection, behind what was published before: some of that may still be on its way to
        it. Lock held."""
        if self._fanout.busy:
            targets = (ws,)
            try:
                for message, about in messages:
                    self._fanout.send(message, targets, None, about)
            except LoopClosedError:  # this server has stopped
                pass
            except QueueFullError:
                self.losses.close(ws)
            return
        for message, about in messages:
            if not ws.send_prepared(message):
                self._missed(ws, about)
                break

    def recheck(self, ws: WebSocket) -> int:
        """Ask `may_subscribe` again for all that a connection is subscribed to, and end what it may not be any more.
        Returns how many that were."""
        ended = 0
        for topic in self.subscriptions.of(ws):
            try:
                self._check_subscribe(ws, topic)
            except NotAllowedError as error:
                ended += 1
                self._tell_ended(ws, topic, error)
            except ValueError:  # too long under a limit that was lowered: it was not when it began
                pass
        return ended

    def _check_subscribe(self, ws: WebSocket, topic: str) -> list[str]:
        """As that of the subscriptions; whoever may not subscribe any more is not subscribed any more."""
        try:
            return self.subscriptions.check_subscribe(ws, topic)
        except NotAllowedError:
            if topic in self.subscriptions.of(ws):
                self.unsubscribe(ws, topic)
            raise

    def _tell_ended(self, ws: WebSocket, topic: str, error: NotAllowedError) -> None:
        """Tell a client of gows.v1 that a right of its was taken away."""
        if ws.subprotocol != TOPIC_SUBPROTOCOL:
            return
        event = {"type": "unsubscribed", "topic": topic, "code": "not_allowed", "reason": str(error)}
        try:
            told = ws.send_text(to_json(event).decode())
        except QueueFullError:
            told = False
        except ConnectionClosedError:
            return
        if not told:  # it hears it when it comes back
            self.losses.close(ws)

    def unsubscribe(self, ws: WebSocket, topic: str) -> bool:
        """See `WebSocket.unsubscribe`."""
        with self.lock:
            found = self.subscriptions.unsubscribe(ws, topic)
            self.presence.leave(ws, topic)
        return found

    def charge_joining(self, ws: WebSocket, topic: str) -> bool:
        """Take what it costs to tell the subscribers of a topic that a client joins it, and leaves again, from its
        budget of answers. False: there is not so much left."""
        if self._info_of is None or topic in self.subscriptions.of(ws) or is_pattern(topic.split(".")):
            return True
        return self.answers.take(ws, 2 * EVENT_COST * len(self.subscriptions.targets(topic).enclosed))

    def charge_publishing(self, ws: WebSocket, topic: str) -> bool:
        """Take what it costs to send a client's message to the subscribers here from its budget. False: there is not
        so much left, while so much waits to be sent to all that others would have to wait for it."""
        room = self._deliveries.take(ws, self.subscriptions.count(topic))
        return room or self._fanout.owed < MANY_DELIVERIES

    def member_count(self, topic: str) -> int:
        """How many are in a topic, in all processes."""
        with self.lock:
            return self.presence.count(topic)

    def members(self, topic: str) -> list[Member]:
        """Who is in a topic, in all processes."""
        with self.lock:
            return self.presence.members(topic)

    def _describe(self, ws: WebSocket, topic: str, words: list[str]) -> Any:
        """What is told of `ws` to others in the topic; None: nothing. A pattern is no place to be in."""
        if self._info_of is None or is_pattern(words):
            return None
        info = self._info_of(ws, topic)
        if info is not None:
            with self.lock:
                self.presence.check(info)
        return info

    def _add(self, ws: WebSocket, topic: str, words: list[str], info: Any) -> bool:
        """Lock held."""
        if not self.subscriptions.add(ws, topic, words):
            return False
        if info is not None:
            self.presence.join(ws, topic, info)  # should `ws` end meanwhile, `_ended` waits for the lock
        return True

    def _ended(self, ws: WebSocket, topics: tuple[str, ...]) -> None:
        """A connection is over. Loop thread."""
        if self._info_of is None:
            return
        failed: Exception | None = None
        with self.lock:
            for topic in topics:
                try:
                    self.presence.leave(ws, topic)
                except Exception as error:  # of the broker's: it has left the other topics all the same
                    failed = error
        if failed is not None:
            logger.error("other processes do not hear that %r left its topics: %s", ws, failed)

    def _tell_news(self, topic: str, event: bytes, exclude: WebSocket | None) -> None:
        """Tell those of gows.v1 in a topic who came or went. Lock held."""
        self._announce(self._news, topic, event, exclude)

    def _announce(
        self,
        fanout: Fanout,
        topic: str,
        event: bytes,
        exclude: WebSocket | None = None,
        position: Position | None = None,
    ) -> None:
        """Tell those of gows.v1 in a topic. `position`: what they miss when they do not hear it. Lock held."""
        targets = self.subscriptions.targets(topic).enclosed
        if targets:
            try:
                fanout.send(PreparedMessage(Opcode.TEXT, event), targets, exclude, About(topic, position))
            except LoopClosedError:  # this server has stopped
                pass
            except QueueFullError as error:
                self.losses.note_all(targets, topic, position)
                self.lock.afterwards(
                    logger.error, "the subscribers of %s here do not hear all about it: %s", topic, error
                )

    # ------------------------------------------------------------------ loop thread

    def _missed(self, ws: WebSocket, about: Publication | About) -> None:
        """A connection of gows.v1 did not get a message."""
        if about is ANSWER:
            self.losses.close(ws)
        else:
            self.losses.note(ws, about.topic, about.position)

    def _excluded(self, ws: WebSocket, about: Publication | About) -> None:
        """A connection does not get its own message: where that is kept, it is told of the position."""
        position = about.position
        if position is not None and isinstance(about, Publication):
            event = PreparedMessage(Opcode.TEXT, position_event(about.topic, position, position.offset - 1))
            if not ws.send_prepared(event):
                self.losses.note(ws, about.topic, position)

    # ------------------------------------------------------------------ Hub

    def now(self) -> float:
        """By the loop's clock."""
        return self._loop.time()

    def wanted(self, topic: str) -> bool:
        """Whether anybody here gets what is published to `topic`."""
        return any(self.subscriptions.targets(topic))

    def leave_out(self, ws: WebSocket) -> LeftOut:
        """A number by which `ws` is known again when a publication comes back. Lock held."""
        token = next(self._tokens)
        self._away[token] = ws
        if len(self._away) > MAX_AWAY:
            self._away.popitem(last=False)
        return self.name, token

    def deliver(self, envelope: Envelope, own: WebSocket | None = None) -> None:
        """Keep it if it has a position, and send it to the subscribers here. Lock held."""
        if envelope.left_out is not None and envelope.left_out[0] == self.name:
            number = envelope.left_out[1]
            own = self._away.pop(number, None) if number < 0 else self._find(number)
        if envelope.keep is not None:
            self.history.add(envelope.publication, envelope.keep, self._loop.time(), envelope.origin)
        publication = envelope.publication
        try:
            self.subscriptions.deliver(publication, self._fanout.send, own)
        except QueueFullError:
            targets = self.subscriptions.targets(publication.topic).enclosed
            self.losses.note_all(targets, publication.topic, publication.position)
            raise

    def receive(self, envelope: Envelope, deliver: Callable[[Envelope], object] | None = None) -> None:
        """What has come from elsewhere."""
        with self.lock:
            try:
                (deliver or self.deliver)(envelope)
            except LoopClosedError:  # this server has stopped
                pass
            except QueueFullError as error:
                self.lock.afterwards(
                    logger.error, "a message to the topic %s is lost here: %s", envelope.publication.topic, error
                )

    def lost(self, topic: str, position: Position | None) -> None:
        """Tell the subscribers of a topic that some of it may be missing. Lock held."""
        self.gaps += 1
        self._announce(self._fanout, topic, lost_event(topic, position), position=position)

    def peer_up(self, name: str) -> None:
        """Another process has come."""
        with self.lock:
            self.presence.peer_up(name)

    def peer_down(self, name: str) -> None:
        """It has gone."""
        with self.lock:
            self.presence.peer_down(name)

    def heard(self, name: str, data: bytes) -> None:
        """What another process told us."""
        with self.lock:
            self.presence.heard(name, data)
