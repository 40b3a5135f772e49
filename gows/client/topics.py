"""TopicClient: topics of a gows server, by the subprotocol gows.v1 (docs/reference/topics.md).

The file is longer than others: requests, subscriptions and members change together, under one lock.
"""

from __future__ import annotations

import base64
import itertools
import json
import logging
import random
import ssl
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import TracebackType
from typing import Any

from gows.bytebuffer import ByteBuffer
from gows.client.connecting import connect
from gows.client.cookies import Cookies
from gows.client.cursor import Cursor, Position, Take
from gows.client.opening import refuse_in_callback, refuse_in_loop
from gows.client.proxy import ProxyRule
from gows.client.reconnect import ReconnectingClient
from gows.client.request import HeaderRule, Url
from gows.client.retry import Reconnect
from gows.client.subscription import Answer, Callback, Present, TopicSubscription
from gows.codes import TOPIC_SUBPROTOCOL, Opcode
from gows.debug import DEBUG, check_owned, checked_lock
from gows.errors import ConnectError, GowsError, LoopClosedError, QueueFullError, TopicError, UsageError
from gows.jsontext import to_json_text
from gows.options import AcceptOptions, check_plain_function
from gows.reactor.transports import Loop
from gows.reactor.workers import stepping_aside
from gows.session.handler import Handler, Result
from gows.session.websocket import WebSocket

logger = logging.getLogger("gows")

BEGIN_SECONDS = 10.0
EVERYTHING = 10_000
"""Messages of a history: as many as a server gives."""
ANSWER_SECONDS = 5.0
"""Leaving the `with` block ends when no answer came for so long."""

MAX_PATTERN_POSITIONS = 4096
"""Topics heard by patterns of which the last position is remembered."""
TEMPORARY = frozenset({"unavailable", "too_slow", "too_many"})
"""Codes after which a subscription that stood is asked for again."""
ASK_AGAIN = (1.0, 5.0)
"""Seconds until then, a random time between the two; with each refusal in a row twice as many, up to eight times."""


Then = Callable[["dict[str, Any] | None", "TopicError | None"], object]


class TopicClient:
    """A connection that subscribes and publishes, and comes back by itself when it is lost. A context: leaving it waits
    for the answers, and closes.

    After a loss it subscribes again. Of topics that the server keeps it gets what it missed, each message once and in
    order; where that is not to be had, and for patterns, `lost(topic)` is called. Callbacks run on the workers of the
    loop, one after the other; what they raise is logged. Methods may be called from any thread.
    """

    # The lock guards all that follows it, and nothing waits while it is held: requests are put in `_outbox` in their
    # order, and written without it, by one thread at a time.

    def __init__(
        self,
        url: Url,
        *,
        reconnect: Reconnect | None = None,
        options: AcceptOptions | None = None,
        headers: HeaderRule | None = None,
        cookies: Cookies | None = None,
        origin: str | None = None,
        compression: bool | None = None,
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = 10.0,
        proxy: ProxyRule = True,
        redirects: int = 0,
        loop: Loop | None = None,
    ) -> None:
        """Connect; the first attempt must succeed. The arguments are those of `gows.connect`. Raises as that, and
        ConnectError when the server does not speak gows.v1."""
        self._init_state()
        self._follow(
            connect(
                url,
                TopicReceiver(self),
                options=options,
                subprotocols=[TOPIC_SUBPROTOCOL],
                headers=headers,
                cookies=cookies,
                origin=origin,
                compression=compression,
                ssl_context=ssl_context,
                timeout=timeout,
                proxy=proxy,
                redirects=redirects,
                reconnect=reconnect or Reconnect(),
                loop=loop,
            )
        )
        try:
            with stepping_aside():
                self._begun.wait(BEGIN_SECONDS)  # for the first callback: a worker's, and all may be busy
            self.check_speaks()
        except BaseException:  # KeyboardInterrupt too: nobody could close it any more
            self.close()
            raise

    def _init_state(self) -> None:
        """Set the fields, apart from the connection: `gows.aio` makes that in another way."""
        self._lock = checked_lock(
            threading.RLock, "topic client"
        )  # a finalizer may publish while its own thread holds it
        self._numbers = itertools.count(1)
        self._ws: WebSocket | None = None
        self._asked: dict[int, tuple[Then, Answer | None]] = {}
        self._outbox: deque[tuple[WebSocket, int, str]] = deque()
        self._writing = False
        self._cursors: dict[str, list[Cursor]] = {}  # by what is subscribed to
        self._pattern_positions: OrderedDict[str, Position] = OrderedDict()  # by topic: the last seen by a pattern
        self._rooms: dict[str, dict[str, Any]] = {}  # by topic: who is there, for those who want to know
        self._over: TopicError | None = None  # connects no more
        self._closed = False
        self._speaks = True
        self._begun = threading.Event()
        self._client: ReconnectingClient

    def _follow(self, client: ReconnectingClient) -> None:
        """Use the connections of `client`, until it connects no more."""
        self._client = client
        client.when_over(self._ended)

    def check_speaks(self) -> None:
        """Raise ConnectError unless the server speaks gows.v1. After `opened`."""
        if not self._speaks:
            raise ConnectError(f"{self._client.place} does not speak {TOPIC_SUBPROTOCOL}")

    def asked(self) -> set[Future[Any]]:
        """Return what the user waits for, or may wait for. Any thread."""
        with self._lock:
            return {answer for _, answer in self._asked.values() if answer is not None and not answer.cancelled()}

    @property
    def connected(self) -> bool:
        """Whether a connection is up."""
        return self._client.connected

    @property
    def stopped(self) -> bool:
        """Whether it is over: closed, or given up (`Reconnect.retry_if`, `attempts`)."""
        return self._client.stopped

    @property
    def error(self) -> GowsError | None:
        """What failed last, as of a ReconnectingClient."""
        return self._client.error

    def subscribe(
        self,
        pattern: str,
        callback: Callback,
        lost: Callable[[str], object] | None = None,
        *,
        present: Present | None = None,
        history: int | None = None,
        refused: Callable[[TopicError], object] | None = None,
    ) -> TopicSubscription:
        """Have `callback(data, topic)` called for what is published to a topic, or to those a pattern stands for.
        Returns at once. `history`: how many of the messages that the server keeps come first. `lost(topic)`: messages
        may have been missed, by us or by the server. `present(members)`: who is in the topic, now and whenever that
        changes. `refused(error)`: a subscription that stood is over, since the server refused it when the client came
        back (`error.code`, `not_allowed` for instance), or since the client gave up (`closed`)."""
        for name, function in (("callback", callback), ("lost", lost), ("present", present), ("refused", refused)):
            if function is not None:
                check_plain_function(name, function)
        subscription = TopicSubscription(self, pattern, callback, lost, present, history, refused)
        ready = False
        with self._lock:
            over = self._over
            if over is None:
                cursors = self._cursors.setdefault(pattern, [])
                if cursors and (history is None or cursors[0].is_pattern):
                    cursors[0].subscriptions.append(subscription)
                    ready = cursors[0].began
                    if ready and present is not None:
                        self._count_locked(pattern)
                else:
                    cursor = Cursor(pattern, subscription)
                    cursors.append(cursor)
                    self._request_locked(cursor)
        if over is not None or ready:
            _settle(subscription.ready, over)
        self._write()
        return subscription

    def publish(self, topic: str, data: object, *, key: str | None = None, ttl: float | None = None) -> Future[None]:
        """Publish what JSON can write. The Future is done when the server has answered; its exception is a TopicError
        when it refuses, with the code "closed" when there is no connection, or it is lost before the answer. To wait
        for it in a callback of this client is a UsageError: the answer comes after it, by the same connection."""
        request = {"type": "publish", "topic": topic, "data": data}
        if key is not None:
            request["key"] = key
        if ttl is not None:
            request["ttl"] = ttl
        to_json_text(request, allow_nan=False)  # raises for what cannot be sent
        done = Answer(self)
        with self._lock:
            asked = self._over is None and self._ask_locked(request, lambda _, error: _settle(done, error), done)
        if not asked:
            _settle(done, self._over or TopicError("closed", "there is no connection"))
        self._write()
        return done

    def close(self) -> None:
        """Unsubscribe from all, and connect no more. Returns at once; idempotent."""
        self._closed = True
        self._client.stop()
        self._end(TopicError("closed", "the client is closed"), waiting=False)

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
        asked = self.asked()
        with stepping_aside():
            while asked:
                done, asked = wait(asked, ANSWER_SECONDS, FIRST_COMPLETED)
                if not done:
                    return

    def end(self, subscription: TopicSubscription) -> None:
        """`subscription.end()`."""
        pattern = subscription.pattern
        waited = False
        with self._lock:
            cursors = self._cursors.get(pattern, [])
            for cursor in list(cursors):
                if subscription in cursor.subscriptions:
                    cursor.subscriptions.remove(subscription)
                    waited = not cursor.began
                    if not cursor.subscriptions:
                        cursors.remove(cursor)
                        cursor.stop()
            if pattern in self._cursors and not cursors:
                self._forget_locked(pattern)
                self._ask_locked({"type": "unsubscribe", "topic": pattern}, nothing)
        if waited:
            _settle(subscription.ready, TopicError("closed", "the subscription was ended"))
        self._write()

    # ------------------------------------------------------------------ lock held

    def _ask_locked(self, request: dict[str, Any], then: Then, answer: Answer | None = None) -> bool:
        """Put a request in the outbox; `then` is called with what is answered. False: there is no connection."""
        if DEBUG:
            check_owned(self._lock)
        if self._ws is None:
            return False
        number = next(self._numbers)
        self._asked[number] = then, answer
        self._outbox.append((self._ws, number, to_json_text({**request, "id": number}, allow_nan=False)))
        return True

    def _request_locked(self, cursor: Cursor) -> None:
        """Ask for a subscription, from the position on that was heard last."""
        if DEBUG:
            check_owned(self._lock)
        request: dict[str, Any] = {"type": "subscribe", "topic": cursor.name}
        if cursor.known is not None:
            request["epoch"], request["offset"] = cursor.known
        histories = [subscription.history for subscription in cursor.subscriptions if subscription.history is not None]
        if cursor.began and cursor.position is None and not cursor.is_pattern:
            request["history"] = EVERYTHING  # nothing was kept when it was there last: all that is kept now is news
        elif histories:  # after a loss, too: what comes then is newer than all that was heard
            request["history"] = max(histories)
        cursor.asked_from, cursor.asked_at = cursor.known, self._client.loop.time()
        cursor.asking = self._ask_locked(request, lambda message, error: self._subscribed(cursor, message, error))

    def _recover_locked(self, cursor: Cursor) -> None:
        """Ask for what is missing; not at full speed where the answers do not help."""
        if DEBUG:
            check_owned(self._lock)
        if cursor.makes_no_progress(self._client.loop.time()):
            self._ask_later_locked(cursor, 1)
        else:
            self._request_locked(cursor)

    def _ask_later_locked(self, cursor: Cursor, factor: int) -> None:
        if DEBUG:
            check_owned(self._lock)
        low, high = ASK_AGAIN
        cursor.asking = True
        try:
            seconds = factor * random.uniform(low, high)
            cursor.timer = self._client.loop.call_later(seconds, self._ask_again, cursor, self._ws)
        except LoopClosedError:  # and with it the client
            pass

    def _count_locked(self, topic: str) -> None:
        """Ask who is in a topic; from then on joins and leaves keep it right."""
        if DEBUG:
            check_owned(self._lock)
        self._ask_locked({"type": "presence", "topic": topic}, lambda message, error: self._counted(topic, message))

    def _forget_locked(self, pattern: str) -> None:
        if DEBUG:
            check_owned(self._lock)
        self._cursors.pop(pattern, None)
        self._rooms.pop(pattern, None)
        if not any(cursors[0].is_pattern for cursors in self._cursors.values()):
            self._pattern_positions.clear()

    def _wanting_locked(self, topic: str) -> list[Cursor]:
        """Return the patterns that stand for a topic."""
        if DEBUG:
            check_owned(self._lock)
        words = topic.split(".")
        return [
            cursors[0]
            for cursors in list(self._cursors.values())
            if cursors[0].is_pattern and _stands_for(cursors[0].words, words)
        ]

    def _join_locked(self, topic: str) -> None:
        """Let those that have come to the same place go on together."""
        if DEBUG:
            check_owned(self._lock)
        cursors = self._cursors[topic]
        first = cursors[0]
        for cursor in cursors[1:]:
            if first.joins(cursor):
                first.subscriptions += cursor.subscriptions
                cursors.remove(cursor)

    # ------------------------------------------------------------------ writing

    def _write(self) -> None:
        """Write what is in the outbox. Without the lock: the policy "block" may wait for the server. In the loop's own
        thread a worker does it."""
        with self._lock:
            if self._writing or not self._outbox:
                return
            self._writing = True
            loop: Loop = self._outbox[0][0].context.loop
        if loop.in_loop() and not loop.pool.inline:
            loop.pool.submit(_Task(self, self._write_all))
        else:
            self._write_all()

    def _write_all(self) -> None:
        while True:
            with self._lock:
                if not self._outbox:
                    self._writing = False
                    return
                ws, number, text = self._outbox.popleft()
            try:
                ws.write_string(text)
            except GowsError as error:
                code = "too_slow" if isinstance(error, QueueFullError) else "closed"
                self._answer(number, None, TopicError(code, str(error)))
            except BaseException:
                with self._lock:
                    self._writing = False
                raise

    def _answer(self, number: object, message: dict[str, Any] | None, error: TopicError | None) -> None:
        with self._lock:
            then, _ = self._asked.pop(number, (nothing, None)) if isinstance(number, int) else (nothing, None)
        then(message, error)

    # ------------------------------------------------------------------ callbacks of the connection

    def opened(self, ws: WebSocket) -> None:
        """Subscribe to everything by a new connection."""
        self._speaks = ws.subprotocol == TOPIC_SUBPROTOCOL
        if self._speaks:
            with self._lock:
                self._ws = None if self._over else ws
                for cursor in list(itertools.chain.from_iterable(self._cursors.values())):
                    self._request_locked(cursor)
            self._write()
        self._begun.set()

    def lost(self) -> None:
        """End what was asked for by a connection that is lost."""
        with self._lock:
            self._ws = None
            self._rooms.clear()
        self._answer_all(TopicError("closed", "the connection was lost"))

    def _answer_all(self, error: TopicError) -> None:
        with self._lock:
            asked, self._asked = self._asked, {}
            self._outbox.clear()
        for then, _ in asked.values():
            then(None, error)

    def _ended(self) -> None:
        """End all subscriptions: the client connects no more. Any thread."""
        reason = "the client is closed" if self._closed else f"the client gave up: {self._client.error}"
        self._end(TopicError("closed", reason), waiting=True)

    def _end(self, error: TopicError, *, waiting: bool) -> None:
        """End all subscriptions. `waiting`: end what waits for an answer, too: none will come."""
        with self._lock:
            self._over = self._over or error
            cursors, self._cursors = self._cursors, {}
        if waiting:
            with self._lock:
                self._ws = None
            self._answer_all(error)
        for cursor in itertools.chain.from_iterable(cursors.values()):
            self._tell_refused(cursor, error)
        self._begun.set()

    def on_server_message(self, message: dict[str, Any]) -> None:
        """Handle a message of the server."""
        kind = message["type"]
        if kind == "message":
            self._message(message)
        elif kind == "position":
            self._position(message)
        elif kind == "lost":
            self._lost(message)
        elif kind in ("join", "leave"):
            self._moved(message)
        elif kind == "unsubscribed" and "code" in message:  # unasked: a right was taken away
            error = TopicError(message["code"], message["reason"])
            with self._lock:
                cursors = list(self._cursors.get(message["topic"], ()))
            for cursor in cursors:
                self._not_subscribed(cursor, error)
        elif kind == "error":
            self._answer(message.get("id"), None, TopicError(message["code"], message["reason"]))
        else:  # an answer, or what newer servers say unasked
            self._answer(message.get("id"), message, None)
        self._write()

    def _message(self, message: dict[str, Any]) -> None:
        topic, position = message["topic"], _position(message)
        with self._lock:
            cursors = self._cursors.get(topic, ())
            wanted: list[TopicSubscription] = []
            patterns = self._wanting_locked(topic)
            if patterns and self._is_news_locked(topic, position, cursors):
                for cursor in patterns:
                    wanted += cursor.subscriptions
            for cursor in cursors:
                take = cursor.take(position)
                if take is Take.DELIVER:
                    wanted += cursor.subscriptions
                elif take is Take.JUMP:
                    self._recover_locked(cursor)
            if len(cursors) > 1:
                self._join_locked(topic)
        data = base64.b64decode(message["base64"]) if "base64" in message else message["data"]
        for subscription in wanted:
            _call(subscription.callback, data, topic)

    def _is_news_locked(self, topic: str, position: Position | None, cursors: Sequence[Cursor]) -> bool:
        """Return whether those who subscribed to a pattern have not heard it; what is asked for by name comes to them,
        too."""
        if DEBUG:
            check_owned(self._lock)
        if position is None:
            return True
        last = self._pattern_positions.get(topic) or next((cursor.position for cursor in cursors if cursor.began), None)
        if last is not None and last[0] == position[0] and position[1] <= last[1]:
            return False
        self._pattern_positions[topic] = position
        self._pattern_positions.move_to_end(topic)
        if len(self._pattern_positions) > MAX_PATTERN_POSITIONS:
            self._pattern_positions.popitem(last=False)
        return True

    def _position(self, message: dict[str, Any]) -> None:
        """Go on to a position up to which nothing is missing: the message there was our own, or has expired."""
        topic, position = message["topic"], _position(message)
        if position is None:
            return
        with self._lock:
            last = self._pattern_positions.get(topic)
            if last is not None and last[0] == position[0] and last[1] < position[1]:
                self._pattern_positions[topic] = position
            cursors = self._cursors.get(topic, ())
            for cursor in cursors:
                if cursor.move(position, message.get("after", 0)) is Take.JUMP:
                    self._recover_locked(cursor)
            if len(cursors) > 1:
                self._join_locked(topic)

    def _lost(self, message: dict[str, Any]) -> None:
        """Deal with a topic of which some is missing. It is asked for if the topic is subscribed to by name;
        subscribers of a pattern are told that it is lost."""
        topic, position = message["topic"], _position(message)
        with self._lock:
            wanted = [subscription for cursor in self._wanting_locked(topic) for subscription in cursor.subscriptions]
            for cursor in self._cursors.get(topic, ()):
                if not cursor.began or cursor.asking:
                    continue
                if cursor.misses(position):
                    self._recover_locked(cursor)
                elif cursor.position is None:
                    wanted += cursor.subscriptions
            if topic in self._rooms:  # or who joined, or left
                self._count_locked(topic)
        for subscription in wanted:
            if subscription.lost is not None:
                _call(subscription.lost, topic)

    def _moved(self, message: dict[str, Any]) -> None:
        """Add a member that joined a topic, or remove one that left it."""
        topic = message["topic"]
        with self._lock:
            room = self._rooms.get(topic)
            if room is not None and message["type"] == "join":
                room[message["id"]] = message["info"]
            elif room is not None:
                room.pop(message["id"], None)
        self._show(topic)

    def _counted(self, topic: str, message: dict[str, Any] | None) -> None:
        if message is not None:
            with self._lock:
                if topic in self._cursors:
                    self._rooms[topic] = {member["id"]: member["info"] for member in message["members"]}
            self._show(topic)

    def _show(self, topic: str) -> None:
        """Tell who is there."""
        with self._lock:
            room = self._rooms.get(topic)
            members = None if room is None else dict(room)
            subscriptions = [
                subscription for cursor in self._cursors.get(topic, ()) for subscription in cursor.subscriptions
            ]
        for subscription in subscriptions:
            if members is not None and subscription.present is not None:
                _call(subscription.present, members)

    def _subscribed(self, cursor: Cursor, message: dict[str, Any] | None, error: TopicError | None) -> None:
        """Handle the answer to a request for a subscription."""
        if message is None:
            assert error is not None
            self._not_subscribed(cursor, error)
            return
        with self._lock:
            if cursor not in self._cursors.get(cursor.name, ()):
                return
            again, lost = cursor.began, cursor.answered(_position(message), message.get("recovered") is True)
            subscriptions = list(cursor.subscriptions)
            if any(subscription.present is not None for subscription in subscriptions):
                self._count_locked(cursor.name)
            self._join_locked(cursor.name)
        if not again:
            for subscription in subscriptions:
                _settle(subscription.ready, None)
        for subscription in subscriptions:
            if lost and subscription.lost is not None:
                _call(subscription.lost, cursor.name)

    def _not_subscribed(self, cursor: Cursor, error: TopicError) -> None:
        with self._lock:
            cursor.asking = False
            cursors = self._cursors.get(cursor.name, [])
            if cursor not in cursors or error.code == "closed":  # it is asked for with the next connection
                return
            if cursor.began and error.code in TEMPORARY:
                self._ask_later_locked(cursor, 1 << min(cursor.refusals, 3))
                cursor.refusals += 1
                return
            cursors.remove(cursor)
            if not cursors:
                self._forget_locked(cursor.name)
        self._tell_refused(cursor, error)

    def _ask_again(self, cursor: Cursor, ws: WebSocket) -> None:
        """Ask for a subscription again, after the server could not give it. Loop thread."""
        with self._lock:
            if ws is self._ws and cursor in self._cursors.get(cursor.name, ()):
                self._request_locked(cursor)
        self._write()

    def _tell_refused(self, cursor: Cursor, error: TopicError) -> None:
        """Tell the subscriptions of a cursor that they are over."""
        cursor.stop()
        for subscription in cursor.subscriptions:
            if not cursor.began:
                _settle(subscription.ready, error)
            elif subscription.refused is not None and not self._closed:
                _call(subscription.refused, error)


class _Task:
    """A step of a TopicClient for the pool: `client` says whose callback it counts as."""

    __slots__ = ("_step", "client")

    def __init__(self, client: TopicClient, step: Callable[[], None]) -> None:
        self.client = client._client
        self._step = step

    def run(self) -> None:
        """Do the step, in a worker."""
        self._step()

    def stalled(self) -> None:
        """Do nothing: nothing waits for this task."""


class TopicReceiver(Handler):
    """Tells a TopicClient."""

    __slots__ = ("_client",)

    def __init__(self, client: TopicClient) -> None:
        self._client = client

    def on_open(self, ws: WebSocket) -> None:
        self._client.opened(ws)

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> Result:
        self._client.on_server_message(json.loads(buff.get_string()))
        return None

    def on_close(self, ws: WebSocket) -> None:
        self._client.lost()


def nothing(message: dict[str, Any] | None, error: TopicError | None) -> None:
    """Take an answer that nobody needs."""


def _settle(future: Future[Any], error: BaseException | None) -> None:
    """End a Future; not one that was cancelled. Once for each, without the lock: it calls what the user added."""
    if future.set_running_or_notify_cancel():
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _call(callback: Callable[..., object], *arguments: Any) -> None:
    try:
        callback(*arguments)
    except Exception:
        logger.exception("a callback of a TopicClient raised")


def _position(message: dict[str, Any]) -> Position | None:
    """Return where a message stands, if its topic is kept."""
    return (message["epoch"], message["offset"]) if "offset" in message else None


def _stands_for(pattern: list[str], words: list[str]) -> bool:
    """Return whether a pattern stands for a topic, as the server sees it."""
    if pattern[-1] == ">":
        pattern = pattern[:-1]
        if len(words) <= len(pattern):
            return False
    elif len(words) != len(pattern):
        return False
    return all(word in ("*", other) for word, other in zip(pattern, words, strict=False))
