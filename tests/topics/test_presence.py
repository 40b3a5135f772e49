"""Presence: who is in which topic, as one process and the others see it."""

from __future__ import annotations

import json
import threading
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gows
import gows.topics.presence
import gows.topics.subprotocol
from gows import Server, UsageError, serve_topics
from gows.jsontext import to_json_text
from gows.topics.presence import Presence
from tests.support import wire
from tests.support.raw import RawPeer
from tests.support.stage import MakeStage


class Side:
    """One process."""

    def __init__(self, name: str, others: dict[str, Side]) -> None:
        self.name = name
        self.others = others
        self.events: list[tuple[str, str, str]] = []
        self.presence = Presence(self._tell, self._announce)

    def _tell(self, data: bytes, to: str | None) -> None:
        for name, other in self.others.items():
            if name != self.name and to in (None, name):
                other.presence.on_peer_message(self.name, data)

    def _announce(self, topic: str, event: bytes, exclude: Any) -> None:
        told = json.loads(event)
        assert told["topic"] == topic
        self.events.append((told["type"], topic, told["id"]))

    def seen(self) -> dict[str, set[str]]:
        """Who is where, going by what was announced alone."""
        found: dict[str, set[str]] = {}
        for kind, topic, id_ in self.events:
            members = found.setdefault(topic, set())
            if kind == "join":
                assert id_ not in members
                members.add(id_)
            else:
                members.remove(id_)
        return {topic: members for topic, members in found.items() if members}

    def members(self) -> dict[str, set[str]]:
        found = {topic: {member.id for member in self.presence.members(topic)} for topic in "ab"}
        return {topic: members for topic, members in found.items() if members}


def request(text: str) -> bytes:
    """A request of gows.v1, in a frame."""
    return wire.frame(wire.TEXT, text)


class Connection:
    """Stands for a WebSocket."""


@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 2), st.sampled_from("ab"), st.booleans()), max_size=40)
)
def test_all_processes_agree_whoever_comes_and_goes(steps: list[tuple[str, int, str, bool]]) -> None:
    sides: dict[str, Side] = {}
    for name in "xy":
        sides[name] = Side(name, sides)
    connections = {(name, number): Connection() for name in "xyz" for number in range(3)}
    model: set[tuple[str, int, str]] = set()
    for at, (name, number, topic, on) in enumerate(steps):
        if at == len(steps) // 2:  # z comes late
            sides["z"] = Side("z", sides)
            for side in sides.values():
                for other in sides:
                    if side.name != other:
                        side.presence.on_peer_up(other)
        if name not in sides:
            continue
        ws: Any = connections[name, number]
        if on and (name, number, topic) not in model:
            sides[name].presence.join(ws, topic, {"number": number})
            model.add((name, number, topic))
        elif not on:
            sides[name].presence.leave(ws, topic)
            model.discard((name, number, topic))
    seen = [side.seen() for side in sides.values()]
    for side in sides.values():
        assert side.members() == side.seen() == seen[0]
    assert sorted((topic, len(members)) for topic, members in seen[0].items()) == sorted(
        (topic, sum(where == topic for _, _, where in model)) for topic in {where for _, _, where in model}
    )
    for name in list(sides)[1:]:
        sides["x"].presence.on_peer_down(name)
    own = {id_ for room in sides["x"].presence._own.values() for id_ in room}
    assert {id_ for members in sides["x"].seen().values() for id_ in members} == own
    for (name, _), ws in connections.items():
        for topic in "ab":
            if name in sides:
                sides[name].presence.leave(ws, topic)
    left = sides["x"].presence
    assert (left._own, left._ids, left._topics) == ({}, {}, {})


def test_what_was_missed_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process is told everything anew, in parts, and tells of the difference."""
    monkeypatch.setattr(gows.topics.presence, "PART", 2)
    sides: dict[str, Side] = {}
    for name in "xy":
        sides[name] = Side(name, sides)
    connections: list[Any] = [Connection() for _ in range(7)]
    for ws in connections[:4]:
        sides["x"].presence.join(ws, "a", None if ws is connections[0] else 1)
    y = sides.pop("y")  # what follows does not reach it
    sides["x"].presence.leave(connections[0], "a")
    for ws in connections[4:]:
        sides["x"].presence.join(ws, "b", 2)
    sides["y"] = y
    y.events.clear()
    sides["x"].presence.on_peer_up("y")
    assert sorted(kind for kind, _, _ in y.events) == ["join", "join", "join", "leave"]
    assert y.members() == sides["x"].members()
    sides["x"].presence.on_peer_up("y")
    assert len(y.events) == 4, "nothing is new"


class Queued(Side):
    """One whose words wait until they are passed on."""

    def __init__(self, name: str, others: dict[str, Side]) -> None:
        super().__init__(name, others)
        self.waiting: deque[tuple[str, bytes]] = deque()

    def _tell(self, data: bytes, to: str | None) -> None:
        self.waiting += [(name, data) for name in self.others if name != self.name and to in (None, name)]

    def pass_on(self) -> bool:
        """The first."""
        if not self.waiting:
            return False
        name, data = self.waiting.popleft()
        self.others[name].presence.on_peer_message(self.name, data)
        return True


def test_everything_is_told_in_parts_that_are_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gows.topics.presence, "PART_SIZE", 1000)
    sides: dict[str, Side] = {}
    x = sides["x"] = Queued("x", sides)
    connections: list[Any] = [Connection() for _ in range(100)]
    for ws in connections:
        x.presence.join(ws, "a", "x" * 100)
    y = sides["y"] = Queued("y", sides)
    x.presence.on_peer_up("y")
    told = 0
    while x.waiting or y.waiting:
        assert len(x.waiting) <= gows.topics.presence.WINDOW + 3, "no queue fills"
        assert all(len(data) < 1300 for _, data in x.waiting)
        told += x.pass_on()
        if told == 4:  # changes amid it
            x.presence.leave(connections[0], "a")  # who was told of
            x.presence.leave(connections[99], "a")  # who was not
            late: Any = Connection()
            x.presence.join(late, "b", 1)
            told += 1
        y.pass_on()
    assert told > 10
    assert y.members() == x.members()
    assert y.seen() == x.members()
    assert len(y.members()["a"]) == 98
    for ws in [*connections, late]:
        for topic in "ab":
            x.presence.leave(ws, topic)
    assert x.presence.size == 0


def test_one_that_is_told_everything_anew_forgets_what_it_was_told_amid_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gows.topics.presence, "PART", 2)
    sides: dict[str, Side] = {}
    x = sides["x"] = Queued("x", sides)
    connections: list[Any] = [Connection() for _ in range(30)]
    for ws in connections:
        x.presence.join(ws, "a", 1)
    y = sides["y"] = Queued("y", sides)
    x.presence.on_peer_up("y")
    for _ in range(3):
        x.pass_on()
    x.waiting.clear()  # it missed the rest
    x.presence.leave(connections[0], "a")
    x.presence.on_peer_up("y")
    while x.pass_on() or y.pass_on():
        pass
    assert y.members() == x.members()
    assert x.presence._syncs == {}


def test_what_is_told_of_connections_is_bounded(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage(server={"presence": lambda ws, topic: "x" * (20_000 if topic == "long" else 900)})
    ws = stage.guest()[1].ws
    with pytest.raises(ValueError, match="at most 16384 bytes as JSON, not 20002"):
        ws.subscribe("long")
    monkeypatch.setattr(gows.topics.presence, "MAX_INFOS", 3000)
    ws.subscribe("a")
    ws.subscribe("b")
    with pytest.raises(UsageError, match="tells 2204 bytes of connections in topics already"):
        ws.subscribe("c")
    assert ws.topics == ("a", "b")
    ws.unsubscribe("a")
    ws.subscribe("c")


def test_what_cannot_be_told_is_refused(make_stage: MakeStage) -> None:
    stage = make_stage(server={"presence": lambda ws, topic: {1, 2}})
    ws = stage.guest()[1].ws
    with pytest.raises(TypeError, match="set"):
        ws.subscribe("a")
    assert ws.topics == ()
    ws.subscribe("a.*")
    assert stage.server.members("a.b") == []


@pytest.mark.parametrize("kind", ["join", "leave"])
def test_a_notice_ahead_of_a_list_of_members_is_not_undone_by_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker writes the list while others come and go, and the loop tells of them meanwhile."""
    server = Server(may_subscribe=lambda ws, topic: True, presence=lambda ws, topic: {})
    serve_topics(server, "/ws")
    server.start("127.0.0.1:0")
    writing, written = threading.Event(), threading.Event()

    def write(answer: dict[str, Any]) -> str:
        if answer["type"] == "presence":
            writing.set()
            assert written.wait(5)
        return to_json_text(answer)

    monkeypatch.setattr(gows.topics.subprotocol, "to_json_text", write)
    subscribe, unsubscribe = (request(f'{{"type":"{type_}","topic":"a"}}') for type_ in ("subscribe", "unsubscribe"))
    try:
        with RawPeer(server.addresses[0]) as asker, RawPeer(server.addresses[0]) as other:
            for peer in (asker, other):
                peer.upgrade("/ws", "Sec-WebSocket-Protocol: gows.v1")
            asker.send(subscribe)
            me = json.loads(asker.read_text())["me"]
            if kind == "leave":
                other.send(subscribe)
                assert json.loads(asker.read_text())["type"] == "join"
            asker.send(request('{"type":"presence","topic":"a"}'))
            assert writing.wait(5)
            other.send(subscribe if kind == "join" else unsubscribe)
            notice = json.loads(asker.read_text())
            assert notice["type"] == kind
            written.set()
            answer = json.loads(asker.read_text())
            assert {member["id"] for member in answer["members"]} == {me} | (
                {notice["id"]} if kind == "leave" else set()
            )
            assert json.loads(asker.read_text()) == notice
            asker.send(request('{"type":"ping"}'))
            assert json.loads(asker.read_text()) == {"type": "pong"}
    finally:
        written.set()
        server.stop(timeout=1)
