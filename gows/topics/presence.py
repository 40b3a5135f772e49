"""Presence: who is in which topic, in all processes of a server.

Each process sends the others its own members, and keeps theirs: so nobody has to be asked, and the members of a process
end with it. A process that comes, or comes back, or has missed something, is sent everything, in parts: the next one
when it says that it has one, so that no queue fills. Changes are sent meanwhile.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gows.errors import UsageError
from gows.session.websocket import WebSocket
from gows.topics.names import is_text
from gows.topics.publication import to_json

Describe = Callable[[WebSocket, str], Any]
SendToPeers = Callable[[bytes, "str | None"], object]
Announce = Callable[[str, bytes, "WebSocket | None"], object]

PART = 1000
"""Members that one message to a process that has come carries at most."""
PART_SIZE = 256 << 10
"""Bytes of it, about."""
WINDOW = 4
"""Messages that it has not confirmed."""
MAX_INFO = 16 << 10
"""Bytes, as JSON, of what is told of a connection."""
MAX_INFOS = 32 << 20
"""Bytes, as JSON, of what a process tells of all its connections in all topics."""
MEMBER_SIZE = 200
"""Bytes that a member counts beside that."""


class Member(NamedTuple):
    """A connection in a topic."""

    id: str
    """The id of the connection, which no other connection has or will have."""
    info: Any
    """What the server's `presence` returned for it."""


Room = dict[str, Any]
"""The infos of the members of one process in a topic, by id."""


class _Sync:
    """The members that are still to be sent to a process that gets all."""

    __slots__ = ("rest", "token")

    def __init__(self, token: int, rest: Iterator[tuple[str, str]]) -> None:
        self.token = token
        self.rest = rest


class Presence:
    """The members of topics, as one process knows them. The publish lock guards every call."""

    def __init__(self, send_to_peers: SendToPeers, announce: Announce) -> None:
        """`send_to_peers(data, to)`: sends to all other processes, or to the process `to`. `announce(topic, event,
        exclude)`: sends to the subscribers here, but not to `exclude`. Both are called with the publish lock held."""
        self._send_to_peers = send_to_peers
        self._announce = announce
        self._own_ids = f"{secrets.token_hex(4)}-"
        self._numbers = itertools.count(1)
        self._ids: dict[WebSocket, str] = {}
        self._topics: dict[WebSocket, list[str]] = {}
        self._own: dict[str, Room] = {}
        self.size = 0
        """Bytes of what is sent of our own members, about."""
        self._syncs: dict[str, _Sync] = {}  # by process that is told everything
        self._tokens = itertools.count(1)
        self._theirs: dict[str, dict[str, Room]] = {}  # by process
        self._coming: dict[str, dict[str, Room]] = {}  # what has come of all that a process tells

    def members(self, topic: str) -> list[Member]:
        """Return the members of a topic in all processes, ours first."""
        return [Member(id_, info) for room in self._rooms(topic) for id_, info in room.items()]

    def _rooms(self, topic: str) -> list[Room]:
        """Return the members of a topic by process, ours first."""
        return [self._own.get(topic, {}), *(theirs.get(topic, {}) for theirs in self._theirs.values())]

    def since(self, topic: str, told: list[Member]) -> list[tuple[str, bytes]]:
        """Return what has become of the members of a topic since they were these: the id of each that came or went, and
        the notice of it."""
        known = dict(told)
        events: list[tuple[str, bytes]] = []
        for room in self._rooms(topic):
            for id_, info in room.items():
                if known.pop(id_, events) is not info:
                    events.append((id_, _joined(topic, id_, info)))
        return [*((id_, _left(topic, id_)) for id_ in known), *events]

    def count(self, topic: str) -> int:
        """Return how many members there are in all processes."""
        theirs = sum(len(rooms.get(topic, ())) for rooms in self._theirs.values())
        return len(self._own.get(topic, ())) + theirs

    def id(self, ws: WebSocket) -> str | None:
        """Return the id of a connection; None: it is in no topic."""
        return self._ids.get(ws)

    def check(self, info: Any) -> None:
        """Check what is to be sent of a connection. Raises ValueError for what is too large, or no JSON, and UsageError
        if there is no room for it."""
        size = len(to_json(info))
        if size > MAX_INFO:
            raise ValueError(f"what presence tells of a connection has at most {MAX_INFO} bytes as JSON, not {size}")
        if self.size + size + MEMBER_SIZE > MAX_INFOS:
            raise UsageError(f"presence tells {self.size} bytes of connections in topics already")

    def join(self, ws: WebSocket, topic: str, info: Any) -> None:
        """Add a connection of ours to a topic, and tell all others."""
        size = len(to_json(info)) + MEMBER_SIZE
        self.size += size
        id_ = self._ids.get(ws)
        if id_ is None:
            id_ = self._ids[ws] = f"{self._own_ids}{next(self._numbers)}"
        self._topics.setdefault(ws, []).append(topic)
        self._own.setdefault(topic, {})[id_] = info
        self._send_to_peers(to_json({"join": [topic, id_, info]}), None)
        self._announce(topic, _joined(topic, id_, info), ws)

    def leave(self, ws: WebSocket, topic: str) -> None:
        """Remove a connection of ours from a topic, if it is there, and tell all others."""
        topics = self._topics.get(ws, [])
        if topic not in topics:
            return
        topics.remove(topic)
        id_ = self._ids[ws]
        if not topics:
            del self._topics[ws], self._ids[ws]
        size = len(to_json(self._own[topic][id_])) + MEMBER_SIZE
        self.size -= size
        _take(self._own, topic, id_)
        self._send_to_peers(to_json({"leave": [topic, id_]}), None)
        self._announce(topic, _left(topic, id_), ws)

    # ------------------------------------------------------------------ other processes

    def on_peer_up(self, name: str) -> None:
        """Send our members to a process that has come, or has missed something."""
        token = next(self._tokens)
        everybody = [(topic, id_) for topic, room in self._own.items() for id_ in room]
        self._syncs[name] = sync = _Sync(token, iter(everybody))
        self._send_to_peers(to_json({"begin": token}), name)
        for _ in range(WINDOW):
            if self._syncs.get(name) is sync:
                self._send_part(name, sync)

    def _send_part(self, name: str, sync: _Sync) -> None:
        """Send the next members, or that these were all, without those that have left meanwhile."""
        part: list[bytes] = []
        size = 0
        for topic, id_ in sync.rest:
            room = self._own.get(topic, {})
            if id_ in room:
                part.append(to_json([topic, id_, room[id_]]))
                size += len(part[-1])
                if size >= PART_SIZE or len(part) >= PART:
                    break
        if part:
            self._send_to_peers(b'{"some":[%d,[%s]]}' % (sync.token, b",".join(part)), name)
        else:
            del self._syncs[name]
            self._send_to_peers(to_json({"all": sync.token}), name)

    def on_peer_down(self, name: str) -> None:
        """Remove the members of a process that is gone."""
        self._coming.pop(name, None)
        self._syncs.pop(name, None)
        self._become(name, {})
        self._theirs.pop(name, None)

    def on_peer_message(self, name: str, data: bytes) -> None:
        """Take a message of another process. Raises ValueError for what no process of ours sends."""
        ((kind, value),) = _read(data).items()
        if kind == "join":
            topic, id_, info = value
            self._join_theirs(self._coming.get(name), topic, id_, info)
            self._join_theirs(self._theirs.setdefault(name, {}), topic, id_, info)
            self._announce(topic, _joined(topic, id_, info), None)
        elif kind == "leave":
            topic, id_ = value
            _take(self._coming.get(name, {}), topic, id_)
            if _take(self._theirs.get(name, {}), topic, id_):
                self._announce(topic, _left(topic, id_), None)
        elif kind == "begin":
            self._coming[name] = {}
        elif kind == "some":
            token, members = value
            for topic, id_, info in members:
                self._join_theirs(self._coming.get(name), topic, id_, info)
            self._send_to_peers(to_json({"got": token}), name)
        elif kind == "got":
            sync = self._syncs.get(name)
            if sync is not None and sync.token == value:
                self._send_part(name, sync)
        elif name in self._coming:  # else we have missed how it began, and are told again
            self._become(name, self._coming.pop(name))

    def _join_theirs(self, rooms: dict[str, Room] | None, topic: str, id_: str, info: Any) -> None:
        if rooms is not None:
            rooms.setdefault(topic, {})[id_] = info

    def _become(self, name: str, now: dict[str, Room]) -> None:
        """Replace the members of a process, and announce the difference."""
        before, self._theirs[name] = self._theirs.get(name, {}), now
        for topic, room in before.items():
            for id_ in _only_in(room, now.get(topic, {})):
                self._announce(topic, _left(topic, id_), None)
        for topic, room in now.items():
            for id_ in _only_in(room, before.get(topic, {})):
                self._announce(topic, _joined(topic, id_, room[id_]), None)


def _only_in(room: Room, other: Room) -> list[str]:
    """Return the ids that are in `room` and not in `other`, in the order in which they came."""
    return [id_ for id_ in room if id_ not in other]


def _take(rooms: dict[str, Room], topic: str, id_: str) -> bool:
    """Remove a member. Returns False if it was not there."""
    room = rooms.get(topic, {})
    if id_ not in room:
        return False
    del room[id_]
    if not room:
        del rooms[topic]
    return True


def _joined(topic: str, id_: str, info: Any) -> bytes:
    return to_json({"type": "join", "topic": topic, "id": id_, "info": info})


def _left(topic: str, id_: str) -> bytes:
    return to_json({"type": "leave", "topic": topic, "id": id_})


def _read(data: bytes) -> dict[str, Any]:
    """Return a message of a process, checked: others may write to the same Redis."""
    try:
        message = json.loads(data)
        to_json(message)  # raises for NaN, which could not be told to anybody
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if isinstance(message, dict) and len(message) == 1:
        ((kind, value),) = message.items()
        if (kind == "join" and _is_member(value)) or (kind == "leave" and _are_strings(value, 2)):
            return message
        if kind in ("begin", "all", "got") and _is_token(value):
            return message
        if kind == "some" and isinstance(value, list) and len(value) == 2 and _is_token(value[0]):
            members = value[1]
            if isinstance(members, list) and all(map(_is_member, members)):
                return message
    raise ValueError("neither a member nor a list of them")


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_member(value: Any) -> bool:
    """Return whether a value is a topic, an id, and an info."""
    return isinstance(value, list) and len(value) == 3 and _are_strings(value[:2], 2)


def _are_strings(value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(each, str) and is_text(each) for each in value)
    )
