"""gows.v1: a subprotocol in JSON by which a client uses topics, with no code of the user's in the server.

A client asks, each time with an `id` of its own, and gets one answer with that `id`; what is published to its topics
comes in between. docs/topics.md has the messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from gows.bytebuffer import ByteBuffer
from gows.codes import TOPIC_SUBPROTOCOL, CloseCode, Opcode
from gows.errors import BrokerError, ConnectionClosedError, GowsError, NotAllowedError, QueueFullError, UsageError
from gows.handler import Handler
from gows.topics import Position, Publication, check_pattern
from gows.websocket import WebSocket

Reply = Callable[[dict[str, Any]], None]

LONGEST_ID = 64
"""Characters of an `id` that is a string."""


class RequestError(Exception):
    """What a client asked for cannot be had; `code` is for its program."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class TopicHandler(Handler):
    """Serves one connection of gows.v1. Who has not agreed on that is closed (1008).

    Clients may only what the server's `may_subscribe` and `may_publish` allow; without those, nothing: a server may
    have topics that are not for everybody.
    """

    __slots__ = ()

    def on_open(self, ws: WebSocket) -> None:
        """Nothing, or the end."""
        if ws.subprotocol != TOPIC_SUBPROTOCOL:
            ws.close_handshake(CloseCode.POLICY_VIOLATION, f"the subprotocol {TOPIC_SUBPROTOCOL} is spoken here")

    def on_publish(self, ws: WebSocket, topic: str, data: Any) -> Any:
        """What goes out instead of the `data` that a client publishes, which `may_publish` allows: for a subclass that
        adds who said it, and when. It refuses with a ValueError or a NotAllowedError; the client is told the reason."""
        return data

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        """One request, one answer."""
        id_: int | str | None = None

        def reply(answer: dict[str, Any]) -> None:
            if id_ is not None:
                answer["id"] = id_
            try:
                ws.write_json(answer)
            except QueueFullError:
                ws.close_handshake(CloseCode.TRY_AGAIN_LATER, "too slow")
            except ConnectionClosedError:
                pass

        try:
            request = _read(opcode, buff)
            id_ = _id(request)
            _act(self, ws, request, reply)
        except RequestError as error:
            reply(_error(error))


def _error(error: RequestError) -> dict[str, Any]:
    return {"type": "error", "code": error.code, "reason": str(error)}


def _read(opcode: Opcode, buff: ByteBuffer) -> dict[str, Any]:
    try:
        request = json.loads(buff.get_string()) if opcode is Opcode.TEXT else None
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise RequestError("bad_request", "a request is a JSON object in a text message")
    return request


def _id(request: dict[str, Any]) -> int | str | None:
    id_ = request.get("id")
    if id_ is None or (isinstance(id_, int) and not isinstance(id_, bool) and abs(id_) < 1 << 53):
        return id_
    if isinstance(id_, str) and len(id_) <= LONGEST_ID:
        return id_
    raise RequestError("bad_request", f"an id is an integer, or a string of at most {LONGEST_ID} characters")


def _act(handler: TopicHandler, ws: WebSocket, request: dict[str, Any], reply: Reply) -> None:
    type_ = request.get("type")
    act = _ACTS.get(type_) if isinstance(type_, str) else None
    if act is None:
        raise RequestError("unknown_type", f"a request's type is one of {', '.join(_ACTS)}")
    topic = request.get("topic")
    if not isinstance(topic, str):
        raise RequestError("bad_topic", "a request names its topic, a string")
    try:
        act(handler, ws, topic, request, reply)
    except (GowsError, ValueError, TypeError) as error:
        raise _refusal(error) from None


def _refusal(error: Exception) -> RequestError:
    """What a client is told of an error."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return RequestError(code, _REASONS.get(code, str(error)))
    raise error


_CODES: tuple[tuple[type[Exception], str], ...] = (
    (NotAllowedError, "not_allowed"),
    (QueueFullError, "too_slow"),
    (BrokerError, "unavailable"),
    (ConnectionClosedError, "closed"),
    (UsageError, "too_many"),
    (ValueError, "bad_topic"),
    (TypeError, "bad_topic"),
)
_REASONS = {
    "too_slow": "too much is waiting to be sent; try again later",
    "closed": "the connection is closed",
}


def _subscribe(handler: TopicHandler, ws: WebSocket, topic: str, request: dict[str, Any], reply: Reply) -> None:
    _check_subscribing(ws)
    since, history = _position(request), _history(request)
    publishing = ws.publishing()

    def told(position: Position | None, missed: list[Publication] | None, error: UsageError | None) -> None:
        """Nothing that is published later goes out before this returns."""
        if error is not None:
            reply(_error(_refusal(error)))
            return
        answer: dict[str, Any] = {"type": "subscribed", "topic": topic}
        room = ws.context.high_water - ws.stream.queued
        if since is not None:
            if missed is not None and len(_fitting(missed, room)) < len(missed):
                missed = None
            answer["recovered"] = missed is not None
        if history is not None and not answer.get("recovered"):
            if since is not None:  # all that is kept is newer
                missed = publishing.history.latest(topic, history, publishing.now())
            missed = _fitting(missed or [], room)
            if missed and missed[0].position is not None:
                epoch, offset = missed[0].position
                position = Position(epoch, offset - 1)
        if position is not None:
            answer["epoch"], answer["offset"] = position
        me = publishing.presence.id(ws)
        if me is not None:
            answer["me"] = me
        reply(answer)
        for publication in missed or ():
            if not ws.send_prepared(publication.enclosed):
                ws.close_handshake(CloseCode.TRY_AGAIN_LATER, "too slow")
                break

    publishing.follow(ws, topic, history if since is None else since, told)


def _fitting(publications: list[Publication], room: int) -> list[Publication]:
    """The latest of them that may wait for a connection; more would be dropped, or waited for."""
    for at in range(len(publications) - 1, -1, -1):
        room -= len(publications[at].enclosed.data)
        if room < 0:
            return publications[at + 1 :]
    return publications


def _check_subscribing(ws: WebSocket) -> None:
    if ws.publishing().subscriptions.may_subscribe is None:
        raise NotAllowedError("this server has no may_subscribe, so clients may not subscribe")


def _history(request: dict[str, Any]) -> int | None:
    history = request.get("history")
    if history is None or (isinstance(history, int) and not isinstance(history, bool) and history > 0):
        return history
    raise RequestError("bad_request", "history is how many messages are wanted, an integer of 1 or more")


def _position(request: dict[str, Any]) -> Position | None:
    epoch, offset = request.get("epoch"), request.get("offset")
    if epoch is None and offset is None:
        return None
    if not isinstance(epoch, str) or not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
        raise RequestError("bad_request", "a position is an epoch, a string, and an offset, an integer of 0 or more")
    return Position(epoch, offset)


def _unsubscribe(handler: TopicHandler, ws: WebSocket, topic: str, request: dict[str, Any], reply: Reply) -> None:
    check_pattern(topic)
    publishing = ws.publishing()

    def unsubscribe() -> None:
        publishing.unsubscribe(ws, topic)
        reply({"type": "unsubscribed", "topic": topic})

    publishing.broker.in_turn(unsubscribe)  # a subscription may be under way


def _presence(handler: TopicHandler, ws: WebSocket, topic: str, request: dict[str, Any], reply: Reply) -> None:
    _check_subscribing(ws)
    publishing = ws.publishing()
    publishing.subscriptions.check_subscribe(ws, topic)
    members = [member._asdict() for member in publishing.members(topic)]
    reply({"type": "presence", "topic": topic, "members": members})


def _publish(handler: TopicHandler, ws: WebSocket, topic: str, request: dict[str, Any], reply: Reply) -> None:
    if "data" not in request:
        raise RequestError("bad_request", "what is published has data")
    key, ttl = request.get("key"), request.get("ttl")
    if not (key is None or isinstance(key, str)):
        raise RequestError("bad_request", "a key is a string")
    if not (ttl is None or (isinstance(ttl, int | float) and not isinstance(ttl, bool) and ttl > 0)):
        raise RequestError("bad_request", "a ttl is a number of seconds, more than 0")
    subscriptions = ws.publishing().subscriptions
    if subscriptions.may_publish is None:
        raise NotAllowedError("this server has no may_publish, so clients may not publish")
    subscriptions.check_publish(ws, topic)
    try:
        data = handler.on_publish(ws, topic, request["data"])
    except ValueError as error:
        raise RequestError("bad_request", str(error)) from None

    def done(error: Exception | None) -> None:
        reply({"type": "published", "topic": topic} if error is None else _error(_refusal(error)))

    server: Any = ws.context.owner
    server.publish(topic, data, exclude=ws, key=key, ttl=ttl, done=done)


_ACTS: dict[str, Callable[[TopicHandler, WebSocket, str, dict[str, Any], Reply], None]] = {
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "publish": _publish,
    "presence": _presence,
}
