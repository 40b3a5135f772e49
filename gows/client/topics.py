"""TopicClient: topics of a gows server, by the subprotocol gows.v1 (docs/topics.md)."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

from gows.bytebuffer import ByteBuffer
from gows.client import Reconnect, connect
from gows.client.opening import refuse_in_callback, refuse_in_loop
from gows.codes import TOPIC_SUBPROTOCOL, Opcode
from gows.errors import ConnectError, GowsError, TopicError, UsageError
from gows.handler import Handler
from gows.options import check_plain_function
from gows.reactor.workers import stepping_aside
from gows.websocket import WebSocket

logger = logging.getLogger("gows")

BEGIN_SECONDS = 10.0
ANSWER_SECONDS = 5.0
"""Leaving the `with` block ends when no answer came for so long."""

Callback = Callable[[Any, str], object]
"""Of the data and the topic of a message: what JSON carries, or bytes."""
Present = Callable[[dict[str, Any]], object]
"""Of the info of everybody in a topic, by id."""


class Answer(Future[Any]):
    """What a server will have answered. To wait for it in a callback of the same client is refused (UsageError): the
    answer comes by the same connection, after that callback."""

    def __init__(self, client: TopicClient) -> None:
        super().__init__()
        self._client = client

    def result(self, timeout: float | None = None) -> Any:
        """As of every Future."""
        with self._waiting("result()", timeout):
            return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As of every Future."""
        with self._waiting("exception()", timeout):
            return super().exception(timeout)

    def _waiting(self, what: str, timeout: float | None) -> AbstractContextManager[None]:
        if self.done() or (timeout is not None and timeout <= 0):
            return nullcontext()
        self._client.refuse_waiting(what)
        return stepping_aside()


class TopicSubscription:
    """One of a TopicClient's, as `subscribe` returns it."""

    __slots__ = ("_client", "callback", "history", "lost", "pattern", "present", "ready")

    def __init__(
        self,
        client: TopicClient,
        pattern: str,
        callback: Callback,
        lost: Callable[[str], object] | None,
        present: Present | None,
        history: int | None,
    ) -> None:
        self._client = client
        self.pattern = pattern
        self.callback = callback
        self.lost = lost
        self.present = present
        self.history = history
        self.ready: Future[None] = Answer(client)
        """Done once the server has answered; its exception is a TopicError when the server refuses."""

    def end(self) -> None:
        """Hear no more. Any thread; idempotent."""
        self._client.end(self)


class TopicClient:
    """A connection that subscribes and publishes, and comes back by itself when it is lost. A context: leaving it waits
    for the answers, and closes.

    After a loss it subscribes again. Of topics that the server keeps it gets what it missed, each message once and in
    order; where that is not to be had, and for patterns, `lost(topic)` is called. Callbacks run on the workers of the
    loop, one after the other; what they raise is logged. Methods may be called from any thread.
    """

    def __init__(self, url: str, *, reconnect: Reconnect | None = None, **settings: Any) -> None:
        """Connects; the first attempt must succeed. `settings`: as for `gows.connect`. Raises as that, and ConnectError
        when the server does not speak gows.v1."""
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._ws: WebSocket | None = None
        self._asked: dict[int, Future[dict[str, Any]]] = {}
        self._subscriptions: dict[str, list[TopicSubscription]] = {}
        self._positions: dict[str, tuple[str, int]] = {}  # by topic: what was heard last
        self._rooms: dict[str, dict[str, Any]] = {}  # by topic: who is there, for those who want to know
        self._speaks = True
        self._begun = threading.Event()
        self._client = connect(
            url, _Receiver(self), subprotocols=[TOPIC_SUBPROTOCOL], reconnect=reconnect or Reconnect(), **settings
        )
        try:
            with stepping_aside():
                self._begun.wait(BEGIN_SECONDS)  # for the first callback: a worker's, and all may be busy
            if not self._speaks:
                raise ConnectError(f"{url} does not speak {TOPIC_SUBPROTOCOL}")
        except BaseException:  # KeyboardInterrupt too: nobody could close it any more
            self.close()
            raise

    @property
    def connected(self) -> bool:
        """Whether a connection is up."""
        return self._client.connected

    def subscribe(
        self,
        pattern: str,
        callback: Callback,
        lost: Callable[[str], object] | None = None,
        *,
        present: Present | None = None,
        history: int | None = None,
    ) -> TopicSubscription:
        """Have `callback(data, topic)` called for what is published to a topic, or to those a pattern stands for.
        Returns at once. `history`: how many of the messages that the server keeps come first. `lost(topic)`: messages
        may have been missed, by us or by the server. `present(members)`: who is in the topic, now and whenever that
        changes."""
        for name, function in (("callback", callback), ("lost", lost), ("present", present)):
            if function is not None:
                check_plain_function(name, function)
        subscription = TopicSubscription(self, pattern, callback, lost, present, history)
        with self._lock:
            others = self._subscriptions.setdefault(pattern, [])
            others.append(subscription)
            if len(others) > 1:
                subscription.ready = others[0].ready
                if present is not None and others[0].ready.done():
                    self._count(pattern)
            elif self._ws is not None:
                self._request(pattern)
        return subscription

    def publish(self, topic: str, data: Any, *, key: str | None = None, ttl: float | None = None) -> Future[None]:
        """Publish what JSON can write. The Future is done when the server has answered; its exception is a TopicError
        when it refuses, with the code "closed" when there is no connection, or it is lost before the answer. To wait
        for it in a callback of this client is a UsageError: the answer comes after it, by the same connection."""
        request = {"type": "publish", "topic": topic, "data": data}
        if key is not None:
            request["key"] = key
        if ttl is not None:
            request["ttl"] = ttl
        done: Future[None] = Answer(self)
        with self._lock:
            answer = self._ask(request)
        answer.add_done_callback(lambda answer: _settle(done, answer.exception()))
        return done

    def close(self) -> None:
        """Unsubscribe from all, and connect no more. Returns at once; idempotent."""
        with self._lock:
            self._subscriptions.clear()
        self._client.stop()

    def refuse_waiting(self, what: str) -> None:
        """Raise UsageError when a caller is about to wait for an answer where that would keep the answer away."""
        client = self._client
        refuse_in_loop(client.loop, what)
        refuse_in_callback(client, what)

    def __enter__(self) -> TopicClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the answers that are still to come, as long as they do come, unless the block raised; then close. In
        the client's own callbacks nothing is waited for."""
        try:
            if kind is None:
                self.refuse_waiting("leaving the with block")
                self._wait_for_answers()
        except UsageError:
            pass
        finally:
            self.close()

    def _wait_for_answers(self) -> None:
        with self._lock:
            asked = set(self._asked.values())
        with stepping_aside():
            while asked:
                done, asked = wait(asked, ANSWER_SECONDS, FIRST_COMPLETED)
                if not done:
                    return

    def end(self, subscription: TopicSubscription) -> None:
        """`subscription.end()`."""
        pattern = subscription.pattern
        with self._lock:
            others = self._subscriptions.get(pattern, [])
            if subscription in others:
                others.remove(subscription)
                if not others:
                    del self._subscriptions[pattern]
                    self._positions.pop(pattern, None)
                    self._rooms.pop(pattern, None)
                    if self._ws is not None:
                        self._ask({"type": "unsubscribe", "topic": pattern})

    # ------------------------------------------------------------------ lock held

    def _ask(self, request: dict[str, Any]) -> Future[dict[str, Any]]:
        answer: Future[dict[str, Any]] = Future()
        number = next(self._numbers)
        if self._ws is None:
            answer.set_exception(TopicError("closed", "there is no connection"))
            return answer
        self._asked[number] = answer
        try:
            self._ws.write_json({**request, "id": number})
        except (GowsError, TypeError, ValueError) as error:
            del self._asked[number]
            if not isinstance(error, GowsError):
                raise
            answer.set_exception(TopicError("closed", str(error)))
        return answer

    def _request(self, pattern: str) -> None:
        """Ask for a subscription, from the position on that was heard last."""
        request: dict[str, Any] = {"type": "subscribe", "topic": pattern}
        position = self._positions.get(pattern)
        if position is not None:
            request["epoch"], request["offset"] = position
        history = self._subscriptions[pattern][0].history
        if history is not None:  # after a loss, too: what comes then is newer than all that was heard
            request["history"] = history
        self._ask(request).add_done_callback(lambda answer: self._subscribed(pattern, answer))

    def _count(self, topic: str) -> None:
        """Ask who is in a topic; from then on joins and leaves keep it right."""
        self._ask({"type": "presence", "topic": topic}).add_done_callback(lambda answer: self._counted(topic, answer))

    # ------------------------------------------------------------------ callbacks of the connection

    def opened(self, ws: WebSocket) -> None:
        """A connection is up."""
        self._speaks = ws.subprotocol == TOPIC_SUBPROTOCOL
        if self._speaks:
            with self._lock:
                self._ws = ws
                for pattern in self._subscriptions:
                    self._request(pattern)
        self._begun.set()

    def lost(self) -> None:
        """It is down."""
        with self._lock:
            self._ws = None
            asked, self._asked = self._asked, {}
        for answer in asked.values():
            answer.set_exception(TopicError("closed", "the connection was lost"))

    def heard(self, message: dict[str, Any]) -> None:
        """A message of the server's."""
        kind = message["type"]
        if kind == "message":
            self._message(message)
        elif kind == "lost":
            self._lost(message)
        elif kind in ("join", "leave"):
            self._moved(message)
        else:
            self._answered(message)

    def _message(self, message: dict[str, Any]) -> None:
        topic = message["topic"]
        with self._lock:
            last = self._positions.get(topic)
            again = last is not None and last[0] == message.get("epoch") and message["offset"] <= last[1]
            if again and topic in self._subscriptions:
                return
            self._note(message)
            wanted = self._wanted(topic)
        data = base64.b64decode(message["base64"]) if "base64" in message else message["data"]
        for subscription in wanted:
            _call(subscription.callback, data, topic)

    def _lost(self, message: dict[str, Any]) -> None:
        """Some of a topic was lost on its way to the server."""
        topic = message["topic"]
        with self._lock:
            self._note(message)
            wanted = self._wanted(topic)
        for subscription in wanted:
            if subscription.lost is not None:
                _call(subscription.lost, topic)

    def _moved(self, message: dict[str, Any]) -> None:
        """Somebody joined a topic, or left it."""
        topic = message["topic"]
        with self._lock:
            room = self._rooms.get(topic)
            if room is not None and message["type"] == "join":
                room[message["id"]] = message["info"]
            elif room is not None:
                room.pop(message["id"], None)
        self._show(topic)

    def _answered(self, message: dict[str, Any]) -> None:
        with self._lock:
            answer = self._asked.pop(message.get("id", 0), None)
        if answer is None:
            return
        if message["type"] == "error":
            answer.set_exception(TopicError(message["code"], message["reason"]))
        else:
            answer.set_result(message)

    def _note(self, message: dict[str, Any]) -> None:
        """Where the topic of a message stands, if it is kept, and subscribed to by its name. Lock held."""
        if "offset" in message and message["topic"] in self._subscriptions:
            self._positions[message["topic"]] = message["epoch"], message["offset"]

    def _wanted(self, topic: str) -> list[TopicSubscription]:
        """Whom a topic concerns. Lock held."""
        words = topic.split(".")
        return [
            subscription
            for pattern, subscriptions in self._subscriptions.items()
            if _stands_for(pattern.split("."), words)
            for subscription in subscriptions
        ]

    def _counted(self, topic: str, answer: Future[dict[str, Any]]) -> None:
        if answer.exception() is None:
            with self._lock:
                self._rooms[topic] = {member["id"]: member["info"] for member in answer.result()["members"]}
            self._show(topic)

    def _show(self, topic: str) -> None:
        """Tell who is there."""
        with self._lock:
            room = self._rooms.get(topic)
            members = None if room is None else dict(room)
            subscriptions = list(self._subscriptions.get(topic, ()))
        for subscription in subscriptions:
            if members is not None and subscription.present is not None:
                _call(subscription.present, members)

    def _subscribed(self, pattern: str, answer: Future[dict[str, Any]]) -> None:
        error = answer.exception()
        with self._lock:
            subscriptions = list(self._subscriptions.get(pattern, ()))
            again = any(subscription.ready.done() for subscription in subscriptions)
            if error is None and "epoch" in answer.result() and not answer.result().get("recovered"):
                self._positions[pattern] = answer.result()["epoch"], answer.result()["offset"]
        if isinstance(error, TopicError) and error.code == "closed":
            return  # it is asked for again with the next connection
        if error is None and any(subscription.present is not None for subscription in subscriptions):
            with self._lock:
                self._count(pattern)
        for subscription in subscriptions:
            if not subscription.ready.done():
                _settle(subscription.ready, error)
            if again and subscription.lost is not None and (error or not answer.result().get("recovered")):
                _call(subscription.lost, pattern)


class _Receiver(Handler):
    """Tells a TopicClient."""

    __slots__ = ("_client",)

    def __init__(self, client: TopicClient) -> None:
        self._client = client

    def on_open(self, ws: WebSocket) -> None:
        self._client.opened(ws)

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self._client.heard(json.loads(buff.get_string()))

    def on_close(self, ws: WebSocket) -> None:
        self._client.lost()


def _settle(done: Future[None], error: BaseException | None) -> None:
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _call(callback: Callable[..., object], *arguments: Any) -> None:
    try:
        callback(*arguments)
    except Exception:
        logger.exception("a callback of a TopicClient raised")


def _stands_for(pattern: list[str], words: list[str]) -> bool:
    """Whether a pattern stands for a topic, as the server sees it."""
    if pattern[-1] == ">":
        pattern = pattern[:-1]
        if len(words) <= len(pattern):
            return False
    elif len(words) != len(pattern):
        return False
    return all(word in ("*", other) for word, other in zip(pattern, words, strict=False))
