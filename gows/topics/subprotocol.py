"""gows.v1: a subprotocol in JSON by which a client uses topics, with no code of the user's in the server.

A client asks, each time with an `id` of its own, and gets one answer with that `id`; what is published to its topics
comes in between. docs/reference/topics.md has the messages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from gows.bytebuffer import ByteBuffer
from gows.codes import TOPIC_SUBPROTOCOL, CloseCode, Opcode
from gows.debug import DEBUG, check_owned
from gows.errors import (
    BrokerError,
    ConnectionClosedError,
    GowsError,
    LoopClosedError,
    NotAllowedError,
    QueueFullError,
    UsageError,
)
from gows.jsontext import to_json_text
from gows.protocol.prepared import PreparedMessage
from gows.session.handler import Handler, Result
from gows.session.websocket import WebSocket
from gows.topics.asking import Asking, Question, answer
from gows.topics.lost import lost_event
from gows.topics.names import check_pattern
from gows.topics.publication import ANSWER, About, Position, Publication
from gows.topics.recovery import LEAST_LEFT, MESSAGE_COST, cost, recover
from gows.topics.requests import (
    RequestError,
    read_data,
    read_history,
    read_id,
    read_key,
    read_position,
    read_request,
    read_topic,
    read_ttl,
)

logger = logging.getLogger("gows")

Reply = Callable[[dict[str, Any]], None]

MAX_MEMBERS = 10_000
"""Members of a topic that are listed in one answer."""
MEMBER_COST = 256
"""Bytes of its budget that a member in an answer counts."""


class TopicHandler(Handler):
    """Serves one connection of gows.v1. A connection that has not agreed on gows.v1 is closed (1008).

    Clients may do only what the server's `may_subscribe` and `may_publish` allow, and nothing without those: a server
    may have topics that are not for everybody.
    """

    __slots__ = ()

    def on_open(self, ws: WebSocket) -> None:
        """Close a connection that has not agreed on gows.v1."""
        if ws.subprotocol != TOPIC_SUBPROTOCOL:
            ws.close_handshake(CloseCode.POLICY_VIOLATION, f"the subprotocol {TOPIC_SUBPROTOCOL} is spoken here")

    def on_publish(self, ws: WebSocket, topic: str, data: Any) -> Any:
        """Return what is published instead of the `data` that a client publishes: a subclass may add the sender's name,
        and the time. `may_publish` was asked before. To refuse, raise a ValueError or a NotAllowedError; the client is
        told the reason. It may be an `async def`."""
        return data

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> Result:
        """Answer one request. If a function of the server's or `on_publish` is an `async def`, it returns the coroutine
        that waits for it; a subclass that overrides this returns that, too."""
        return answer(self._take(ws, opcode, buff))

    def _take(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> Asking[None]:
        id_: int | str | None = None

        def reply(answer: dict[str, Any]) -> None:
            if id_ is not None:
                answer["id"] = id_
            try:
                sent = ws.send_text(to_json_text(answer))  # in whatever thread, with whatever locks: it must not wait
            except QueueFullError:
                sent = False
            except ConnectionClosedError:
                return
            if not sent:
                ws.publisher().losses.close(ws)

        try:
            request = read_request(opcode, buff)
            id_ = read_id(request)
            yield from _act(self, ws, request, reply)
        except RequestError as error:
            id_ = error.id if id_ is None else id_
            reply(_error(error))


def _error(error: RequestError) -> dict[str, Any]:
    return {"type": "error", "code": error.code, "reason": str(error)}


def _act(handler: TopicHandler, ws: WebSocket, request: dict[str, Any], reply: Reply) -> Asking[None]:
    type_ = request.get("type")
    act = _ACTS.get(type_) if isinstance(type_, str) else None
    if act is None:
        raise RequestError("unknown_type", f"a request's type is one of {', '.join(_ACTS)}")
    if act is _ping:
        reply({"type": "pong"})
        return
    if act is not _publish and ws.stream.closed:  # nobody hears the answer, and a thousand such requests may wait
        return
    topic = read_topic(request)
    try:
        asking = act(handler, ws, topic, request, reply)
        if asking is not None:
            yield from asking
    except (GowsError, ValueError, TypeError) as error:
        raise _refusal(error) from None


def _refusal(error: Exception) -> RequestError:
    """Return the error that a client is told."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return RequestError(code, _REASONS.get(code, str(error)))
    logger.error("a request of gows.v1 failed: %r", error)
    return RequestError("unavailable", "the server could not do that")


_CODES: tuple[tuple[type[Exception], str], ...] = (
    (NotAllowedError, "not_allowed"),
    (QueueFullError, "too_slow"),
    (BrokerError, "unavailable"),
    (ConnectionClosedError, "closed"),
    (LoopClosedError, "closed"),
    (UsageError, "too_many"),
    (ValueError, "bad_topic"),
    (TypeError, "bad_topic"),
)
_REASONS = {
    "too_slow": "too much is waiting to be sent; try again later",
    "closed": "the connection is closed",
}


def _subscribe(handler: TopicHandler, ws: WebSocket, topic: str, request: dict[str, Any], reply: Reply) -> Asking[None]:
    _check_subscribing(ws)
    since, history = read_position(request), read_history(request)
    publisher = ws.publisher()
    if not publisher.charge_joining(ws, topic):
        raise RequestError("too_many", f"too many subscribers would be told of a new one in {topic!r}; try again later")

    left = publisher.answers.left(ws)
    asked = since
    if left < LEAST_LEFT:  # what its budget does not allow is not even looked for
        asked = history = None
    elif history is not None:
        history = min(history, left // MESSAGE_COST)

    def on_result(stands: Position | None, missed: list[Publication] | None, error: UsageError | None) -> None:
        """Send the answer, and what was missed, before anything that is published later."""
        if DEBUG:
            check_owned(publisher.lock)
        if error is not None:
            reply(_error(_refusal(error)))
            return
        latest: list[Publication] = []
        if history is not None and since is None:
            latest = missed or []
        elif history is not None and missed is None:  # what is kept is newer, but for what was in that epoch
            latest = publisher.history.latest(topic, history, publisher.now(), since)
        room = ws.context.high_water - ws.stream.queued
        found = recover(topic, stands, since, missed, latest, room, left)
        publisher.answers.take(ws, cost(found.messages))
        answer: dict[str, Any] = {"type": "subscribed", "topic": topic, **found.fields}
        me = publisher.presence.id(ws)
        if me is not None:
            answer["me"] = me
        id_ = read_id(request)
        if id_ is not None:
            answer["id"] = id_
        messages = [(PreparedMessage(Opcode.TEXT, to_json_text(answer).encode()), ANSWER)]
        missed_up_to = About(topic, stands)
        messages += [(message, missed_up_to) for message in found.messages]
        if found.cut:  # behind what is sent, so that it is asked for when that has been read
            messages.append((PreparedMessage(Opcode.TEXT, lost_event(topic, stands)), missed_up_to))
        publisher.send_after_pending_locked(ws, messages)

    yield from publisher.follow(ws, topic, history if since is None else asked, on_result)


def _check_subscribing(ws: WebSocket) -> None:
    if ws.publisher().subscriptions.may_subscribe is None:
        raise NotAllowedError("this server has no may_subscribe, so clients may not subscribe")


def _unsubscribe(handler: TopicHandler, ws: WebSocket, topic: str, request: dict[str, Any], reply: Reply) -> None:
    check_pattern(topic, None)  # what is too long may have been subscribed to under other limits
    publisher = ws.publisher()

    def unsubscribe() -> None:
        publisher.unsubscribe(ws, topic)
        reply({"type": "unsubscribed", "topic": topic})

    publisher.broker.after_pending(unsubscribe, owner=ws)  # a subscription may be under way


def _presence(handler: TopicHandler, ws: WebSocket, topic: str, request: dict[str, Any], reply: Reply) -> Asking[None]:
    _check_subscribing(ws)
    publisher = ws.publisher()
    yield from publisher.subscriptions.ask_subscribe(ws, topic)
    count = publisher.member_count(topic)
    if count > MAX_MEMBERS:
        raise RequestError("too_many", f"{topic!r} has {count} members, and no more than {MAX_MEMBERS} are listed")
    if not publisher.answers.take(ws, count * MEMBER_COST):
        raise RequestError("too_many", "members are asked for too often; try again later")
    members = publisher.members(topic)
    # it takes its time to write of many members, so that is done without the publish lock
    reply({"type": "presence", "topic": topic, "members": [member._asdict() for member in members]})
    publisher.correct_members(ws, topic, members)


def _publish(handler: TopicHandler, ws: WebSocket, topic: str, request: dict[str, Any], reply: Reply) -> Asking[None]:
    data, key, ttl = read_data(request), read_key(request), read_ttl(request)
    subscriptions = ws.publisher().subscriptions
    if subscriptions.may_publish is None:
        raise NotAllowedError("this server has no may_publish, so clients may not publish")
    yield from subscriptions.ask_publish(ws, topic)
    if not ws.publisher().charge_publishing(ws, topic):
        raise RequestError("too_many", f"too many subscribers get what is published to {topic!r}; try again later")

    def done(error: Exception | None) -> None:
        reply({"type": "published", "topic": topic} if error is None else _error(_refusal(error)))

    server = ws.context.owner
    assert server is not None, "`publisher` has raised for such a connection"
    try:
        data = yield Question("on_publish", handler.on_publish, (ws, topic, data))
        server.publish(topic, data, exclude=ws, key=key, ttl=ttl, done=done)
    except RecursionError:
        raise RequestError("bad_request", "the data is nested too deeply") from None
    except (ValueError, TypeError) as error:
        if isinstance(error, GowsError):
            raise
        raise RequestError("bad_request", str(error)) from None


def _ping(handler: TopicHandler, ws: WebSocket, topic: str, request: dict[str, Any], reply: Reply) -> None:
    """Do nothing: `_act` answers `ping`, for it has no topic, and this stands for it in the table of requests."""


_ACTS: dict[str, Callable[[TopicHandler, WebSocket, str, dict[str, Any], Reply], Asking[None] | None]] = {
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "publish": _publish,
    "presence": _presence,
    "ping": _ping,
}
