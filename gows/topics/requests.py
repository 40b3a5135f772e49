"""Requests: reads what clients of gows.v1 send, or says what is wrong with it.

Whatever a field holds, an integer of 4,000 digits, half of a surrogate pair, NaN, the answer is an error with a code. A
field that passes can be sent on: to other processes, to Redis, and to clients in other languages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from typing import Any, TypeGuard

from gows.bytebuffer import ByteBuffer
from gows.codes import Opcode
from gows.topics.names import is_text
from gows.topics.publication import MAX_KEY, Position

MAX_ID = 64
"""Characters of an `id` that is a string."""
MAX_INTEGER = 1 << 53
"""Integers from here on have no exact value in JavaScript."""
MAX_TTL = 1_000_000_000
"""Seconds: 31 years."""
MAX_EPOCH = 255
"""Characters of an `epoch`."""
MAX_HISTORY = 10_000
"""Messages that one request can have of a history."""
MAX_DEPTH = 100
"""Arrays and objects within each other: a few hundred are more than some readers of JSON can take."""


class RequestError(Exception):
    """A request that is refused. `code`: for the client's program; `id`: the request's, if it was read."""

    def __init__(self, code: str, reason: str, id_: int | str | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.id = id_


def read_request(opcode: Opcode, buff: ByteBuffer) -> dict[str, Any]:
    """Return the request that a message holds. Raises RequestError."""
    if opcode is not Opcode.TEXT:
        raise RequestError("bad_request", "a request is a text message, not a binary one")
    text = buff.get_string()
    try:
        request = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise RequestError("bad_request", f"a request is a JSON object: {error}", _find_id(text)) from None
    if not isinstance(request, dict):
        raise RequestError("bad_request", "a request is a JSON object, and this is none")
    return request


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON. Raises ValueError for a name that is there twice: readers of JSON differ about it."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is twice in one object")
    return found


def _find_id(text: str) -> int | str | None:
    """Return the `id` of a request that cannot be read for another reason, such as a number that is too long."""
    try:
        request = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 20 else None)
        return read_id(request) if isinstance(request, dict) else None
    except (ValueError, RecursionError, RequestError):
        return None


def read_id(request: dict[str, Any]) -> int | str | None:
    """Return the `id` of a request; None when it has none."""
    id_ = request.get("id")
    if id_ is None or (_is_integer(id_) and -MAX_INTEGER < id_ < MAX_INTEGER):
        return id_
    if isinstance(id_, str) and len(id_) <= MAX_ID and is_text(id_):
        return id_
    raise RequestError("bad_request", f"an id is an integer, or a string of at most {MAX_ID} characters")


def read_topic(request: dict[str, Any]) -> str:
    """Return the `topic` of a request: a string; whether it is a name is not known yet."""
    topic = request.get("topic")
    if not isinstance(topic, str) or not is_text(topic):
        raise RequestError("bad_topic", "a request names its topic, a string")
    return topic


def read_history(request: dict[str, Any]) -> int | None:
    """Return how many messages are wanted, MAX_HISTORY at most; None: none."""
    history = request.get("history")
    if history is None:
        return None
    if _is_integer(history) and history > 0:
        return min(history, MAX_HISTORY)
    raise RequestError("bad_request", "history is how many messages are wanted, an integer of 1 or more")


def read_position(request: dict[str, Any]) -> Position | None:
    """Return the last position that a client has seen; None: it names none."""
    epoch, offset = request.get("epoch"), request.get("offset")
    if epoch is None and offset is None:
        return None
    if not (isinstance(epoch, str) and len(epoch) <= MAX_EPOCH and is_text(epoch)):
        raise RequestError("bad_request", f"an epoch is a string of at most {MAX_EPOCH} characters")
    if not (_is_integer(offset) and 0 <= offset < MAX_INTEGER):
        raise RequestError("bad_request", "an offset is an integer of 0 or more, below 2 to the power of 53")
    return Position(epoch, offset)


def read_key(request: dict[str, Any]) -> str | None:
    """Return the `key` of what is published; None: it has none."""
    key = request.get("key")
    if key is None or (isinstance(key, str) and len(key) <= MAX_KEY and is_text(key)):
        return key
    raise RequestError("bad_request", f"a key is a string of at most {MAX_KEY} characters")


def read_ttl(request: dict[str, Any]) -> int | float | None:
    """Return the seconds for which a message is of use; None: for ever."""
    ttl = request.get("ttl")
    if ttl is None or (isinstance(ttl, int | float) and not isinstance(ttl, bool) and 0 < ttl <= MAX_TTL):
        return ttl
    raise RequestError("bad_request", f"a ttl is a number of seconds, more than 0 and at most {MAX_TTL}")


def read_data(request: dict[str, Any]) -> Any:
    """Return what is to be published: what JSON can carry, and every reader of it can take."""
    if "data" not in request:
        raise RequestError("bad_request", "a request to publish has data")
    data = request["data"]
    level = [data]
    for _ in range(MAX_DEPTH + 1):
        if any(isinstance(value, str) and not is_text(value) for value in level):
            raise RequestError("bad_request", "data has half of a surrogate pair, which is no character")
        level = [child for value in level if isinstance(value, list | dict) for child in _children(value)]
        if not level:
            return data
    raise RequestError("bad_request", f"data has at most {MAX_DEPTH} arrays and objects within each other")


def _children(value: list[Any] | dict[str, Any]) -> Iterable[Any]:
    """Return the values in an array or an object, and the names of an object's members."""
    return chain.from_iterable(value.items()) if isinstance(value, dict) else value


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
