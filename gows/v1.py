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
from gows.errors import ConnectionClosedError, NotAllowedError, QueueFullError, UsageError
from gows.handler import Handler
from gows.topics import Position, Publication
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
            _act(ws, request, reply)
        except RequestError as error:
            reply({"type": "error", "code": error.code, "reason": str(error)})


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


def _act(ws: WebSocket, request: dict[str, Any], reply: Reply) -> None:
    type_ = request.get("type")
    act = _ACTS.get(type_) if isinstance(type_, str) else None
    if act is None:
        raise RequestError("unknown_type", f"a request's type is one of {', '.join(_ACTS)}")
    topic = request.get("topic")
    if not isinstance(topic, str):
        raise RequestError("bad_topic", "a request names its topic, a string")
    try:
        act(ws, topic, request, reply)
    except NotAllowedError as error:
        raise RequestError("not_allowed", str(error)) from None
    except QueueFullError:
        raise RequestError("too_slow", "too much is waiting to be sent; try again later") from None
    except ConnectionClosedError:
        raise RequestError("closed", "the connection is closed") from None
    except UsageError as error:
        raise RequestError("too_many", str(error)) from None
    except (ValueError, TypeError) as error:
        raise RequestError("bad_topic", str(error)) from None


def _subscribe(ws: WebSocket, topic: str, request: dict[str, Any], reply: Reply) -> None:
    if ws.subscriptions().may_subscribe is None:
        raise NotAllowedError("this server has no may_subscribe, so clients may not subscribe")
    since = _position(request)
    server: Any = ws.context.owner

    def told(position: Position | None, missed: list[Publication] | None) -> None:
        """Nothing that is published later goes out before this returns."""
        if missed and ws.stream.queued + sum(len(p.enclosed.data) for p in missed) > ws.context.high_water:
            missed = None  # more than may wait for a connection: it would be dropped, or waited for
        answer: dict[str, Any] = {"type": "subscribed", "topic": topic}
        if position is not None:
            answer["epoch"], answer["offset"] = position
        if since is not None:
            answer["recovered"] = missed is not None
        reply(answer)
        for publication in missed or ():
            if not ws.send_prepared(publication.enclosed):
                ws.close_handshake(CloseCode.TRY_AGAIN_LATER, "too slow")
                break

    server.publishing.subscribe(ws, topic, since, told)


def _position(request: dict[str, Any]) -> Position | None:
    epoch, offset = request.get("epoch"), request.get("offset")
    if epoch is None and offset is None:
        return None
    if not isinstance(epoch, str) or not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
        raise RequestError("bad_request", "a position is an epoch, a string, and an offset, an integer of 0 or more")
    return Position(epoch, offset)


def _unsubscribe(ws: WebSocket, topic: str, request: dict[str, Any], reply: Reply) -> None:
    ws.unsubscribe(topic)
    reply({"type": "unsubscribed", "topic": topic})


def _publish(ws: WebSocket, topic: str, request: dict[str, Any], reply: Reply) -> None:
    if "data" not in request:
        raise RequestError("bad_request", "what is published has data")
    key, ttl = request.get("key"), request.get("ttl")
    if not (key is None or isinstance(key, str)):
        raise RequestError("bad_request", "a key is a string")
    if not (ttl is None or (isinstance(ttl, int | float) and not isinstance(ttl, bool) and ttl > 0)):
        raise RequestError("bad_request", "a ttl is a number of seconds, more than 0")
    if ws.subscriptions().may_publish is None:
        raise NotAllowedError("this server has no may_publish, so clients may not publish")
    ws.publish(topic, request["data"], key=key, ttl=ttl)
    reply({"type": "published", "topic": topic})


_ACTS: dict[str, Callable[[WebSocket, str, dict[str, Any], Reply], None]] = {
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "publish": _publish,
}
