"""Publisher: publishes to topics, and subscribes connections to them, in one process of a server.

The file is longer than others: publications, subscriptions and what a broker brings have one order, under one lock.
"""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from gows.brokers.base import Broker, ConnectionId, Done, Envelope
from gows.brokers.lock import PublishLock
from gows.codes import TOPIC_SUBPROTOCOL, Opcode
from gows.debug import DEBUG, check_owned
from gows.errors import (
    ConnectionClosedError,
    GowsError,
    LoopClosedError,
    NotAllowedError,
    QueueFullError,
    UsageError,
)
from gows.options import Keep
from gows.protocol.prepared import PreparedMessage
from gows.reactor import Loop
from gows.session.fanout import Fanout
from gows.session.websocket import WebSocket
from gows.topics.asking import Asking, Question, answer_now
from gows.topics.history import History, as_keep
from gows.topics.lost import Lost, lost_event
from gows.topics.names import is_pattern
from gows.topics.notices import Notices
from gows.topics.presence import Describe, Member, Presence
from gows.topics.publication import ANSWER, About, Position, Publication, Since, position_event, to_json
from gows.topics.recovery import ANSWER_BURST, ANSWER_RATE, DELIVERY_BURST, DELIVERY_RATE, MANY_DELIVERIES, Budget
from gows.topics.subscriptions import Subscriptions, do_nothing

logger = logging.getLogger("gows")

EVENT_COST = 128
"""Bytes that it counts to tell one connection that somebody joined, or left."""
MAX_EXCLUDED = 4096
"""Connections that publications exclude which are on their way back to this process."""

OnResult = Callable[["Position | None", "list[Publication] | None", "UsageError | None"], object]
KeepRule = Callable[[str], "Keep | int | timedelta | None"]


class Publisher:
    """Publishes for one server, and knows its subscribers; the BrokerEvents of its broker. Any thread."""

    def __init__(
        self,
        loop: Loop,
        fanout: Fanout,
        news: Fanout,
        subscriptions: Subscriptions,
        history: History,
        keep: KeepRule | None,
        lock: PublishLock,
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
        self.subscriptions = subscriptions
        self._keep = keep
        self._find: Callable[[int], WebSocket | None] = lambda number: None
        self._tokens = itertools.count(-1, -1)
        self._excluded_by_id: OrderedDict[int, WebSocket] = OrderedDict()  # by publications that come back to us
        self._info_of = presence
        self.losses = losses
        self.answers = Budget(ANSWER_RATE, ANSWER_BURST, loop.time)
        """Bytes that clients of gows.v1 may have of histories and of members."""
        self._deliveries = Budget(DELIVERY_RATE, DELIVERY_BURST, loop.time)
        fanout.on_missed = news.on_missed = self._on_missed
        fanout.on_excluded = self._on_excluded
        self.notices = Notices(loop, subscriptions, news)
        self.presence = Presence(broker.send_to_peers, self._announce_locked)
        broker.attach(self)
        subscriptions.on_first = broker.subscribe
        subscriptions.on_last = broker.unsubscribe
        subscriptions.on_end = self._on_ended

    def join(self, name: str, find: Callable[[int], WebSocket | None]) -> None:
        """Be one of several processes. `name`: of this one. `find`: returns the connection here that has a number."""
        self.name = name
        self._find = find

    def publish(
        self,
        publication: Publication,
        ttl: float | None,
        history: Keep | int | timedelta | None,
        exclude: WebSocket | ConnectionId | None,
        done: Done | None,
    ) -> None:
        """See `Server.publish`."""
        keep = as_keep(history)
        if history is None and self._keep is not None:
            keep = as_keep(self._keep(publication.topic))
        excluded, elsewhere = (exclude, None) if isinstance(exclude, WebSocket) else (None, exclude)
        envelope = Envelope(publication, keep, ttl, elsewhere)
        if self.lock.held():
            self._fanout.check(publication.bare)
            self.lock.before_release(self._publish_deferred_locked, envelope, excluded, done)
            return
        if not self.lock.enter(self._publish_deferred_locked, envelope, excluded, done):
            return
        try:
            finished = self._publish_locked(envelope, excluded, done)
        finally:
            self.lock.__exit__()
        if finished and done is not None:
            done(None)

    def _publish_locked(self, envelope: Envelope, excluded: WebSocket | None, done: Done | None) -> bool:
        """Give a publication to the broker. Returns whether all is done, and `done` will not be called."""
        if DEBUG:
            check_owned(self.lock)
        self._fanout.check(envelope.publication.bare)
        finished = self.broker.publish(envelope, excluded, done or do_nothing)
        self.published += 1
        return finished

    def _publish_deferred_locked(self, envelope: Envelope, excluded: WebSocket | None, done: Done | None) -> None:
        """Publish for a caller that has returned: an error goes to `done`, or to the log."""
        if DEBUG:
            check_owned(self.lock)
        failure: Exception | None = None
        try:
            finished = self._publish_locked(envelope, excluded, done)
        except (GowsError, ValueError) as error:
            finished, failure = True, error
        if finished and done is not None:
            self.lock.after_release(done, failure)
        elif failure is not None:
            self.lock.after_release(
                logger.error, "a message to the topic %s is lost: %s", envelope.publication.topic, failure
            )

    def subscribe(self, ws: WebSocket, topic: str) -> bool:
        """See `WebSocket.subscribe`."""
        # without the lock: a user's function may take its time, or publish
        words, info = answer_now(self._ask_joining(ws, topic))
        with self.lock:
            return self._add_locked(ws, topic, words, info)

    def follow(self, ws: WebSocket, topic: str, since: Since, on_result: OnResult) -> Asking[None]:
        """Subscribe, and call `on_result(position, missed, error)` before anything that is published later is sent to
        `ws`, perhaps in another thread, with the publish lock held. It must not block. `position`: where the topic
        stands, if it is kept; `missed`: what came after `since`, or the latest if that is a number; None: not known.
        Raises NotAllowedError, and ValueError for what is no topic."""
        words, info = yield from self._ask_joining(ws, topic)

        def then(missed: list[Publication] | None) -> None:
            if DEBUG:
                check_owned(self.lock)
            try:
                self._add_locked(ws, topic, words, info)
            except UsageError as error:
                on_result(None, None, error)
            else:
                on_result(self.history.position(topic), missed, None)

        self.broker.follow(topic, since, then, owner=ws, room=ws.context.high_water)

    def send_after_pending_locked(self, ws: WebSocket, messages: list[tuple[PreparedMessage, About]]) -> None:
        """Send messages to one connection, after what was published before: some of that may still be on its way to
        the connection."""
        if DEBUG:
            check_owned(self.lock)
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
                self._on_missed(ws, about)
                break

    def recheck(self, ws: WebSocket) -> int:
        """Ask `may_subscribe` again for all that a connection is subscribed to, and end what it may not be any more.
        Returns how many that were. Raises UsageError if it is an `async def`."""
        ended = 0
        for topic in self.subscriptions.of(ws):
            try:
                answer_now(self._ask_subscribe(ws, topic))
            except NotAllowedError as error:
                ended += 1
                self._tell_ended(ws, topic, error)
            except ValueError:  # too long under a limit that was lowered: it was not when it began
                pass
        return ended

    def _ask_joining(self, ws: WebSocket, topic: str) -> Asking[tuple[list[str], Any]]:
        """Return the words of a topic that a connection may subscribe to, and what others there are told of it."""
        words = yield from self._ask_subscribe(ws, topic)
        info = yield from self._describe(ws, topic, words)
        return words, info

    def _ask_subscribe(self, ws: WebSocket, topic: str) -> Asking[list[str]]:
        """Do what `Subscriptions.ask_subscribe` does; a connection that may not subscribe any more is unsubscribed."""
        try:
            return (yield from self.subscriptions.ask_subscribe(ws, topic))
        except NotAllowedError:
            if topic in self.subscriptions.of(ws):
                self.unsubscribe(ws, topic)
            raise

    def _tell_ended(self, ws: WebSocket, topic: str, error: NotAllowedError) -> None:
        """Tell a client of gows.v1 that its subscription ended, since it is not allowed any more."""
        if ws.subprotocol != TOPIC_SUBPROTOCOL:
            return
        event = {"type": "unsubscribed", "topic": topic, "code": "not_allowed", "reason": str(error)}
        try:
            sent = ws.send_text(to_json(event).decode())
        except QueueFullError:
            sent = False
        except ConnectionClosedError:
            return
        if not sent:  # it hears it when it comes back
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
        """Return how many members a topic has in all processes."""
        with self.lock:
            return self.presence.count(topic)

    def members(self, topic: str) -> list[Member]:
        """Return the members of a topic in all processes."""
        with self.lock:
            return self.presence.members(topic)

    def correct_members(self, ws: WebSocket, topic: str, told: list[Member]) -> None:
        """Tell a subscriber of a topic that was told of these members what has changed since they were found: the
        notice of it may have gone out ahead of the answer. Any thread."""
        with self.lock:
            if not self.subscriptions.covers(ws, topic):
                return
            me = self.presence.id(ws)
            for id_, event in self.presence.since(topic, told):
                if id_ != me and not ws.send_prepared(PreparedMessage(Opcode.TEXT, event)):
                    self.losses.note(ws, topic, None)
                    return

    def _describe(self, ws: WebSocket, topic: str, words: list[str]) -> Asking[Any]:
        """Return what others in the topic are told of `ws`; None: nothing, as for a pattern, which has no members."""
        if self._info_of is None or is_pattern(words):
            return None
        info = yield Question("presence", self._info_of, (ws, topic))
        if info is not None:
            with self.lock:
                self.presence.check(info)
        return info

    def _add_locked(self, ws: WebSocket, topic: str, words: list[str], info: Any) -> bool:
        """Subscribe a connection, and make it a member of the topic. Returns False if it was subscribed already."""
        if DEBUG:
            check_owned(self.lock)
        self.notices.before_subscribing(ws, topic, words)
        if not self.subscriptions.add(ws, topic, words):
            return False
        if info is not None:
            self.presence.join(ws, topic, info)  # should `ws` end meanwhile, `_on_ended` waits for the lock
        return True

    def _on_ended(self, ws: WebSocket, topics: tuple[str, ...]) -> None:
        """Let a connection that ended leave its topics. Loop thread."""
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
            logger.error("other processes were not told that %r left its topics: %s", ws, failed)

    def _announce_locked(self, topic: str, event: bytes, exclude: WebSocket | None) -> None:
        """Tell subscribers with gows.v1 who joined or left."""
        if DEBUG:
            check_owned(self.lock)
        try:
            self.notices.add(topic, event, exclude)
        except LoopClosedError:  # this server has stopped
            pass
        except QueueFullError as error:
            self._all_missed_locked(topic, None, error)

    def _all_missed_locked(self, topic: str, position: Position | None, error: QueueFullError) -> None:
        """Note that subscribers with gows.v1 are not told something. `position`: what they miss."""
        if DEBUG:
            check_owned(self.lock)
        self.losses.note_all(self.subscriptions.targets(topic).enclosed, topic, position)
        self.lock.after_release(logger.error, "the subscribers of %s in this process miss an event: %s", topic, error)

    # ------------------------------------------------------------------ loop thread

    def _on_missed(self, ws: WebSocket, about: Publication | About) -> None:
        """Note that a connection of gows.v1 did not get a message, or close it, if that was an answer."""
        if about is ANSWER:
            self.losses.close(ws)
        else:
            self.losses.note(ws, about.topic, about.position)

    def _on_excluded(self, ws: WebSocket, about: Publication | About) -> None:
        """Tell a connection that does not get its own message of the position, if the topic is kept."""
        position = about.position
        if position is not None and isinstance(about, Publication):
            event = PreparedMessage(Opcode.TEXT, position_event(about.topic, position, position.offset - 1))
            if not ws.send_prepared(event):
                self.losses.note(ws, about.topic, position)

    # ------------------------------------------------------------------ BrokerEvents

    def now(self) -> float:
        """Return the time by the loop's clock, in seconds."""
        return self._loop.time()

    def has_subscribers(self, topic: str) -> bool:
        """Return whether any connection here gets what is published to `topic`."""
        return any(self.subscriptions.targets(topic))

    def exclude_id_locked(self, ws: WebSocket) -> ConnectionId:
        """Return an id by which a publication that comes back to this process excludes `ws`."""
        if DEBUG:
            check_owned(self.lock)
        token = next(self._tokens)
        self._excluded_by_id[token] = ws
        if len(self._excluded_by_id) > MAX_EXCLUDED:
            self._excluded_by_id.popitem(last=False)
        return self.name, token

    def deliver_locked(self, envelope: Envelope, exclude: WebSocket | None = None) -> None:
        """Keep a publication if it has a position, and send it to the subscribers here."""
        if DEBUG:
            check_owned(self.lock)
        if envelope.exclude is not None and envelope.exclude[0] == self.name:
            number = envelope.exclude[1]
            exclude = self._excluded_by_id.pop(number, None) if number < 0 else self._find(number)
        if envelope.keep is not None:
            self.history.add(envelope.publication, envelope.keep, self._loop.time(), envelope.origin)
        publication = envelope.publication
        try:
            self.subscriptions.deliver(publication, self._fanout.send, exclude)
        except QueueFullError:
            targets = self.subscriptions.targets(publication.topic).enclosed
            self.losses.note_all(targets, publication.topic, publication.position)
            raise

    def receive(self, envelope: Envelope, deliver: Callable[[Envelope], object] | None = None) -> None:
        """Deliver a publication that another process sent."""
        with self.lock:
            try:
                (deliver or self.deliver_locked)(envelope)
            except LoopClosedError:  # this server has stopped
                pass
            except QueueFullError as error:
                self.lock.after_release(
                    logger.error, "a message to the topic %s is lost here: %s", envelope.publication.topic, error
                )

    def report_lost_locked(self, topic: str, position: Position | None) -> None:
        """Tell the subscribers of a topic that some of it may be missing."""
        if DEBUG:
            check_owned(self.lock)
        self.gaps += 1
        targets = self.subscriptions.targets(topic).enclosed
        if targets:
            event = PreparedMessage(Opcode.TEXT, lost_event(topic, position))
            try:
                self._fanout.send(event, targets, None, About(topic, position))
            except LoopClosedError:  # this server has stopped
                pass
            except QueueFullError as error:
                self._all_missed_locked(topic, position, error)

    def on_peer_up(self, name: str) -> None:
        """Tell a process that has come of the members here."""
        with self.lock:
            self.presence.on_peer_up(name)

    def on_peer_down(self, name: str) -> None:
        """Forget the members of a process that is gone."""
        with self.lock:
            self.presence.on_peer_down(name)

    def on_peer_message(self, name: str, data: bytes) -> None:
        """Take what another process says of its members."""
        with self.lock:
            self.presence.on_peer_message(name, data)
