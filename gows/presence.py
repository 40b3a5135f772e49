"""Presence: who is in which topic, in all processes of a server.

Each process tells the others of its own members, and keeps what they told it: so the answer is here when it is asked
for, and what a process told ends with it. A process that comes, or comes back, is told everything.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gows.topics import to_json
from gows.websocket import WebSocket

Describe = Callable[[WebSocket, str], Any]
Tell = Callable[[bytes, "str | None"], object]
Announce = Callable[[str, bytes, "WebSocket | None"], object]

PART = 1000
"""Members that one message to a process that has come carries."""


class Member(NamedTuple):
    """One connection in one topic."""

    id: str
    """Of the connection; no other has it, nor will have."""
    info: Any
    """What the server's `presence` says of it."""


Room = dict[str, Any]
"""Info by id."""


class Presence:
    """Of one process. The hub's lock guards every call."""

    def __init__(self, tell: Tell, announce: Announce) -> None:
        """`tell(data, to)`: to the other processes, or one. `announce(topic, event, exclude)`: to the subscribers here
        but one."""
        self._tell = tell
        self._announce = announce
        self._own_ids = f"{secrets.token_hex(4)}-"
        self._numbers = itertools.count(1)
        self._ids: dict[WebSocket, str] = {}
        self._topics: dict[WebSocket, list[str]] = {}
        self._own: dict[str, Room] = {}
        self._theirs: dict[str, dict[str, Room]] = {}  # by process
        self._coming: dict[str, dict[str, Room]] = {}  # what has come of all that a process tells

    def members(self, topic: str) -> list[Member]:
        """Those of all processes; ours first."""
        rooms = [self._own.get(topic, {}), *(theirs.get(topic, {}) for theirs in self._theirs.values())]
        return [Member(id_, info) for room in rooms for id_, info in room.items()]

    def count(self, topic: str) -> int:
        """Return how many members there are in all processes."""
        theirs = sum(len(rooms.get(topic, ())) for rooms in self._theirs.values())
        return len(self._own.get(topic, ())) + theirs

    def id(self, ws: WebSocket) -> str | None:
        """What a connection is called; None: it is in no topic."""
        return self._ids.get(ws)

    def join(self, ws: WebSocket, topic: str, info: Any) -> None:
        """A connection of ours has come to a topic."""
        id_ = self._ids.get(ws)
        if id_ is None:
            id_ = self._ids[ws] = f"{self._own_ids}{next(self._numbers)}"
        self._topics.setdefault(ws, []).append(topic)
        self._own.setdefault(topic, {})[id_] = info
        self._tell(to_json({"join": [topic, id_, info]}), None)
        self._announce(topic, _joined(topic, id_, info), ws)

    def leave(self, ws: WebSocket, topic: str) -> None:
        """It has left the topic, if it was there."""
        topics = self._topics.get(ws, [])
        if topic not in topics:
            return
        topics.remove(topic)
        id_ = self._ids[ws]
        if not topics:
            del self._topics[ws], self._ids[ws]
        _take(self._own, topic, id_)
        self._tell(to_json({"leave": [topic, id_]}), None)
        self._announce(topic, _left(topic, id_), ws)

    # ------------------------------------------------------------------ other processes

    def peer_up(self, name: str) -> None:
        """Tell one that has come who is here."""
        everybody = ((topic, id_, info) for topic, room in self._own.items() for id_, info in room.items())
        for part in _parts(everybody):
            self._tell(to_json({"some": part}), name)
        self._tell(to_json({"all": True}), name)

    def peer_down(self, name: str) -> None:
        """Whoever was there is gone."""
        self._coming.pop(name, None)
        self._become(name, {})
        self._theirs.pop(name, None)

    def heard(self, name: str, data: bytes) -> None:
        """What another process told. Raises ValueError for what no process of ours tells."""
        message = _read(data)
        if "join" in message:
            topic, id_, info = message["join"]
            self._theirs.setdefault(name, {}).setdefault(topic, {})[id_] = info
            self._announce(topic, _joined(topic, id_, info), None)
        elif "leave" in message:
            topic, id_ = message["leave"]
            if _take(self._theirs.get(name, {}), topic, id_):
                self._announce(topic, _left(topic, id_), None)
        elif "some" in message:
            coming = self._coming.setdefault(name, {})
            for topic, id_, info in message["some"]:
                coming.setdefault(topic, {})[id_] = info
        else:
            self._become(name, self._coming.pop(name, {}))

    def _become(self, name: str, now: dict[str, Room]) -> None:
        """Have the members of a process be these, and tell of the difference."""
        before, self._theirs[name] = self._theirs.get(name, {}), now
        for topic, room in before.items():
            for id_ in _only_in(room, now.get(topic, {})):
                self._announce(topic, _left(topic, id_), None)
        for topic, room in now.items():
            for id_ in _only_in(room, before.get(topic, {})):
                self._announce(topic, _joined(topic, id_, room[id_]), None)


def _only_in(room: Room, other: Room) -> list[str]:
    """Return who is in `room` and not in `other`, in the order in which they came."""
    return [id_ for id_ in room if id_ not in other]


def _take(rooms: dict[str, Room], topic: str, id_: str) -> bool:
    """Take somebody out; False: it was not there."""
    room = rooms.get(topic, {})
    if id_ not in room:
        return False
    del room[id_]
    if not room:
        del rooms[topic]
    return True


def _parts(everybody: Iterator[tuple[str, str, Any]]) -> Iterator[list[tuple[str, str, Any]]]:
    while part := list(itertools.islice(everybody, PART)):
        yield part


def _joined(topic: str, id_: str, info: Any) -> bytes:
    return to_json({"type": "join", "topic": topic, "id": id_, "info": info})


def _left(topic: str, id_: str) -> bytes:
    return to_json({"type": "leave", "topic": topic, "id": id_})


def _read(data: bytes) -> dict[str, Any]:
    """What a process tells, checked: by a Redis others may speak, too."""
    try:
        message = json.loads(data)
        to_json(message)  # raises for NaN and for half of a surrogate pair, which could not be told to anybody
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if isinstance(message, dict) and len(message) == 1:
        ((kind, value),) = message.items()
        if kind == "all" or (kind == "join" and _is_member(value)) or (kind == "leave" and _are_strings(value, 2)):
            return message
        if kind == "some" and isinstance(value, list) and all(map(_is_member, value)):
            return message
    raise ValueError("neither a member nor a list of them")


def _is_member(value: Any) -> bool:
    """A topic, an id, and what is told of it."""
    return isinstance(value, list) and len(value) == 3 and _are_strings(value[:2], 2)


def _are_strings(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(each, str) for each in value)
