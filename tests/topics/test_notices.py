"""Notices: who joined and who left, told together, and yet the same as if each were told alone; in virtual time."""

from __future__ import annotations

import json
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

import gows.session.fanout
import gows.topics.notices
from gows import TopicHandler
from gows.errors import LoopClosedError
from gows.session.websocket import WebSocket
from gows.topics.notices import Notices
from gows.topics.patterns import stands_for
from tests.support import wire
from tests.support.fakes.network import MemorySocket
from tests.support.stage import Guest, Stage

V1 = "Sec-WebSocket-Protocol: gows.v1"
Told = tuple[str, str, str]

MakeHall = Callable[..., Stage]


class Remembering(TopicHandler):
    """Serves a client of gows.v1, and is asked for its connection."""

    __slots__ = ("ws",)

    def on_open(self, ws: WebSocket) -> None:
        super().on_open(ws)
        self.ws = ws


@pytest.fixture
def make_hall() -> Iterator[MakeHall]:
    made: list[Stage] = []

    def make(network: dict[str, Any] | None = None, **options: Any) -> Stage:
        server = {
            "may_subscribe": lambda ws, topic: True,
            "may_publish": lambda ws, topic: True,
            "presence": lambda ws, topic: {"n": 1} if topic.startswith("hall") else None,
        }
        stage = Stage(server=server, make_handler=Remembering, network=network, subprotocols=["gows.v1"], **options)
        made.append(stage)
        return stage

    yield make
    for stage in made:
        stage.close()


def come(stage: Stage, count: int, *headers: str) -> list[tuple[Guest, WebSocket]]:
    """Clients that are connected, and their connections."""
    found = [stage.guest(V1, *headers) for _ in range(count)]
    stage.run_for(1)
    return [(guest, handler.ws) for guest, handler in found]


def told(guest: Guest) -> list[Told]:
    """What it was told."""
    found = [json.loads(frame.payload) for frame in guest.pending() if frame.opcode == wire.TEXT]
    return [(each["type"], each["topic"], each.get("id", "")) for each in found]


def id_of(stage: Stage, ws: WebSocket) -> str:
    found = stage.server.publishing.presence.id(ws)
    assert found is not None
    return found


def test_who_comes_in_one_moment_is_told_in_one_piece(make_hall: MakeHall, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_hall()
    crowd = come(stage, 20)
    sent: list[MemorySocket] = []
    send = MemorySocket.send

    def spy(sock: MemorySocket, data: bytes | memoryview) -> int:
        sent.append(sock)
        return send(sock, data)

    monkeypatch.setattr(MemorySocket, "send", spy)

    for _, ws in crowd:
        ws.subscribe("hall")
    stage.run_for(1)

    ids = [id_of(stage, ws) for _, ws in crowd]
    for number, (guest, _) in enumerate(crowd):
        assert told(guest) == [("join", "hall", later) for later in ids[number + 1 :]], "nobody before, nor itself"
    assert Counter(sent) == Counter(ws.stream.sock for _, ws in crowd[:-1]), "one send for each"
    assert stage.server.traffic.sent == stage.server.news.delivered == 20 * 19 / 2


def test_those_whose_connections_die_in_one_moment_are_told_in_one_piece(make_hall: MakeHall) -> None:
    stage = make_hall()
    crowd = come(stage, 20)
    for _, ws in crowd:
        ws.subscribe("hall")
    stage.run_for(1)
    told(crowd[0][0])
    ids = [id_of(stage, ws) for _, ws in crowd]

    rounds = stage.server.news.delivered
    for guest, _ in crowd[1:]:
        guest.reset()
    stage.run_for(1)

    assert told(crowd[0][0]) == [("leave", "hall", gone) for gone in ids[1:]]
    assert stage.server.news.delivered - rounds == 19, "nobody else is there any more"
    assert stage.server.members("hall")[0].id == ids[0]


def test_what_waits_for_a_round_under_way_goes_with_the_next(
    make_hall: MakeHall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gows.session.fanout, "DELIVERIES_PER_TURN", 8)
    stage = make_hall()
    hall, crowd = come(stage, 10), come(stage, 10)
    for _, ws in hall:
        ws.subscribe("hall")
    stage.run_for(1)
    for guest, _ in hall:
        told(guest)
    news = stage.server.news
    largest = 0
    for _, ws in crowd:  # two a turn are told, so the first round takes five turns
        ws.subscribe("hall")
        stage.world.turn()
        largest = max(largest, len(news._rounds))
    stage.run_for(1)

    joined = [("join", "hall", id_of(stage, ws)) for _, ws in crowd]
    assert all(told(guest) == joined for guest, _ in hall)
    assert largest == 1
    assert (news.waiting, news.owed, stage.server.publishing.notices.waiting) == (0, 0, 0)


def test_how_many_are_looked_up_in_one_turn_is_bounded(make_hall: MakeHall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gows.topics.notices, "TARGETS_PER_TURN", 10)
    stage = make_hall()
    crowd = come(stage, 8)
    for _, ws in crowd[1:]:
        ws.subscribe("*")
    for number in range(20):
        crowd[0][1].subscribe(f"hall{number}")
    notices, sizes = stage.server.publishing.notices, []
    while notices.waiting:
        sizes.append(len(notices._pending))
        stage.world.turn()
    assert len(sizes) >= 10
    assert all(0 <= before - after <= 2 for before, after in pairwise(sizes))
    stage.run_for(1)
    assert all([topic for _, topic, _ in told(guest)] == [f"hall{n}" for n in range(20)] for guest, _ in crowd[1:])


@pytest.mark.parametrize("overflow", ["refuse", "drop", "close", "drop_oldest", "latest", "block"])
@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("max_queued", [None, 1 << 20])
def test_everybody_is_told_what_a_list_would_have(
    make_hall: MakeHall, monkeypatch: pytest.MonkeyPatch, overflow: str, compression: bool, max_queued: int | None
) -> None:
    """At random: who subscribes, by name or pattern, and who ends it, while some is still on its way."""
    dice = random.Random(f"{overflow} {compression} {max_queued}")
    monkeypatch.setattr(gows.session.fanout, "DELIVERIES_PER_TURN", 16)
    monkeypatch.setattr(gows.session.fanout, "JOINED_SIZE", 300)
    stage = make_hall(overflow=overflow)
    if max_queued is not None:
        stage.server.overflow.max_queued = max_queued
    crowd = come(stage, 12)
    subscribed: dict[WebSocket, list[str]] = {ws: [] for _, ws in crowd}
    due: dict[tuple[WebSocket, str], list[tuple[Told, bool]]] = {}  # and whether it must come

    def covered(ws: WebSocket, topic: str) -> bool:
        return any(stands_for(pattern.split("."), topic.split(".")) for pattern in subscribed[ws])

    def check() -> None:
        for guest, ws in crowd:
            heard = told(guest)
            for topic in ("hall.a", "hall.b"):
                found = [each for each in heard if each[1] == topic]
                # from the end: what need not come was before a subscription that ended, what must come after it
                for event, must in reversed(due.pop((ws, topic), [])):
                    if found and found[-1] == event:
                        found.pop()
                    else:
                        assert not must, f"{event} is missing"
                assert not found, f"{found} are too many"

    for _ in range(400):
        _, ws = dice.choice(crowd)
        topic = dice.choice(["hall.a", "hall.a", "hall.a", "hall.b", "hall.*", "*.a"])
        if topic not in subscribed[ws]:
            kind = "join"
            ws.subscribe(topic)
            subscribed[ws].append(topic)
            id_ = stage.server.publishing.presence.id(ws)
        else:
            kind = "leave"
            id_ = stage.server.publishing.presence.id(ws)
            ws.unsubscribe(topic)
            subscribed[ws].remove(topic)
            for each in ("hall.a", "hall.b"):
                if not covered(ws, each):  # what was on its way need not come any more
                    due[ws, each] = [(event, False) for event, _ in due.get((ws, each), [])]
        if "*" not in topic:
            for other in subscribed:
                if other is not ws and covered(other, topic):
                    due.setdefault((other, topic), []).append(((kind, topic, id_ or ""), True))
        if dice.random() < 0.2:
            stage.world.turn()
        elif dice.random() < 0.05:
            stage.run_for(1)
            check()
    stage.run_for(1)
    check()


def test_peers_with_windows_of_their_own_are_told_the_same(make_hall: MakeHall) -> None:
    stage = make_hall(compression=True, server_context_takeover=True, min_compress_size=10)
    (one,), (two,) = come(stage, 1), come(stage, 1, wire.DEFLATE)
    for _, ws in (one, two):
        ws.subscribe("hall")
    stage.run_for(1)
    told(one[0])
    crowd = come(stage, 5)
    for _, ws in crowd:
        ws.subscribe("hall")
    stage.run_for(1)
    ids = [id_of(stage, ws) for _, ws in crowd]
    assert told(one[0]) == [("join", "hall", id_) for id_ in ids]
    frames = two[0].pending()
    assert [frame.rsv for frame in frames] == [4] * 5
    inflater = zlib.decompressobj(-15)
    texts = [inflater.decompress(frame.payload + wire.DEFLATE_TAIL) for frame in frames]
    assert [json.loads(text)["id"] for text in texts] == ids


@pytest.mark.parametrize("overflow", ["refuse", "drop", "close", "drop_oldest"])
def test_one_that_does_not_read_meets_its_policy(make_hall: MakeHall, overflow: str) -> None:
    stage = make_hall(network={"buffer_size": 1000}, overflow=overflow, high_water=2000, low_water=500)
    (slow,), crowd = come(stage, 1), come(stage, 100)
    slow[1].subscribe("hall.*")
    joined: list[str] = []
    for _, ws in crowd:
        ws.subscribe("hall.a")
        joined.append(id_of(stage, ws))
        ws.unsubscribe("hall.a")
        if len(joined) % 10 == 0:
            stage.world.turn()
    stage.run_for(0.5)
    assert slow[1].buffered <= 2000 + 200

    heard: list[Told] = []
    for _ in range(50):
        heard += told(slow[0])
        stage.run_for(0.1)

    every = [(kind, "hall.a", id_) for id_ in joined for kind in ("join", "leave")]
    events = [each for each in heard if each[0] != "lost"]
    assert events == [each for each in every if each in set(events)], "in order"
    assert 5 < len(events) < 100
    if overflow == "close":
        assert slow[1].closed
    else:
        assert heard.count(("lost", "hall.a", "")) == 1
        assert stage.server.publishing.losses.missed == len(every) - len(events)


def test_too_much_that_waits_is_lost_and_told(make_hall: MakeHall, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_hall()
    crowd = come(stage, 20)
    with monkeypatch.context() as patch:
        patch.setattr(gows.session.fanout, "MAX_WAITING", 500)
        for _, ws in crowd:
            ws.subscribe("hall")
    stage.run_for(1)
    heard = told(crowd[0][0])
    assert heard.count(("lost", "hall", "")) == 1
    assert 1 < len(heard) < 19
    assert all("miss an event" in message for message in stage.log.take())


def test_nobody_is_told_when_the_loop_has_closed(make_hall: MakeHall) -> None:
    stage = make_hall()
    notices = stage.server.publishing.notices
    (_, ws), *_ = come(stage, 2)
    ws.subscribe("hall")
    notices.add("hall", b"{}", None)
    assert notices.waiting > 0
    stage.loop.close()
    with pytest.raises(LoopClosedError):
        Notices(stage.loop, stage.server.subscriptions, stage.server.news).add("hall", b"{}", None)
    notices.before_subscribing(ws, "*", ["*"])  # hands over what waits
    assert notices.waiting == stage.server.news.waiting == 0
