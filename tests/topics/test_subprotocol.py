"""gows.v1: what clients may ask, and what they are told, in virtual time."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

import gows.server.publisher
import gows.session.fanout
import gows.topics.subprotocol
from gows import AcceptOptions, Handler, HttpError, Keep, NotAllowedError, Server, TopicHandler, accept, serve_topics
from gows.brokers.base import Envelope
from gows.brokers.local.broker import LocalBroker
from gows.errors import LoopClosedError
from gows.server.routes import MESSAGE_BURST, MESSAGE_RATE, SEND_BUFFER
from gows.session.websocket import WebSocket
from gows.topics.publication import Position, Publication
from gows.topics.subprotocol import _ACTS, _CODES
from tests.support import wire
from tests.support.processes import ROOT
from tests.support.stage import Guest, Stage

MakeStage = Callable[..., Stage]
V1 = "Sec-WebSocket-Protocol: gows.v1"


def anybody(ws: WebSocket, topic: str) -> bool:
    return True


@pytest.fixture(params=[True, False], ids=["inline", "workers"])
def make_stage(request: pytest.FixtureRequest) -> Iterator[MakeStage]:
    made: list[Stage] = []

    def make(**server: Any) -> Stage:
        hooks = {"may_subscribe": anybody, "may_publish": anybody}
        stage = Stage(inline=request.param, server=hooks | server, make_handler=TopicHandler, subprotocols=["gows.v1"])
        made.append(stage)
        return stage

    yield make
    for stage in made:
        stage.close()


class Client:
    """A guest that speaks it."""

    def __init__(self, stage: Stage) -> None:
        self.guest: Guest
        self.guest, _ = stage.guest(V1)
        self.stage = stage

    def tell(self, **request: Any) -> None:
        self.guest.send(wire.frame(wire.TEXT, json.dumps(request)))

    def ask(self, **request: Any) -> dict[str, Any]:
        self.tell(**request)
        return self.next()

    def next(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.guest.text())
        return found

    def pending(self) -> list[dict[str, Any]]:
        self.stage.run_for(0.5)
        return [json.loads(frame.payload) for frame in self.guest.pending() if frame.opcode != wire.PING]

    def everything(self) -> list[dict[str, Any]]:
        """What comes until nothing more does: the server sends as the client reads."""
        found, received = self.pending(), -1
        while self.guest.received > received:
            received = self.guest.received
            found += self.pending()
        return found


def plain_guest(stage: Stage) -> tuple[Guest, WebSocket]:
    """A guest that speaks no subprotocol, and the server's end of its connection."""
    found: list[WebSocket] = []

    def plain(request: Any) -> None:
        found.append(accept(request, AcceptOptions()))
        found[0].serve(Handler())

    stage.view = plain
    guest = stage.connect()
    assert guest.upgrade().status == 101
    stage.run_until(lambda: found)
    return guest, found[0]


def test_a_topic_from_beginning_to_end(make_stage: MakeStage) -> None:
    stage = make_stage()
    one, two = Client(stage), Client(stage)
    assert one.ask(type="subscribe", id=1, topic="news.*") == {"type": "subscribed", "id": 1, "topic": "news.*"}
    assert stage.server.topics() == {"news.*": 1}
    assert two.ask(type="publish", id="p1", topic="news.local", data={"rain": [True, None, 1.5, "ä"]}) == {
        "type": "published",
        "id": "p1",
        "topic": "news.local",
    }
    assert one.next() == {"type": "message", "topic": "news.local", "data": {"rain": [True, None, 1.5, "ä"]}}
    assert one.ask(type="unsubscribe", id=2, topic="news.*") == {"type": "unsubscribed", "id": 2, "topic": "news.*"}
    two.ask(type="publish", topic="news.local", data=1)
    assert one.pending() == []


def test_who_publishes_does_not_hear_itself(make_stage: MakeStage) -> None:
    stage = make_stage()
    client = Client(stage)
    client.ask(type="subscribe", topic="room")
    assert client.ask(type="publish", topic="room", data="x") == {"type": "published", "topic": "room"}
    assert client.pending() == []


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("text", {"data": "text"}),
        ('with "quotes"\n', {"data": 'with "quotes"\n'}),
        (b"\x00\xff", {"base64": base64.b64encode(b"\x00\xff").decode()}),
        ({"a": [1, "ü"]}, {"data": {"a": [1, "ü"]}}),
        ([], {"data": []}),
        (5, {"data": 5}),
        (None, {"data": None}),
        (False, {"data": False}),
    ],
)
def test_what_the_server_publishes_is_enclosed(make_stage: MakeStage, data: Any, told: dict[str, Any]) -> None:
    stage = make_stage()
    client = Client(stage)
    client.ask(type="subscribe", topic='t"opic')
    stage.server.publish('t"opic', data)
    assert client.next() == {"type": "message", "topic": 't"opic', **told}


def test_other_connections_get_the_bare_data(make_stage: MakeStage) -> None:
    stage = make_stage()
    client = Client(stage)
    client.ask(type="subscribe", topic="news")
    guest, ws = plain_guest(stage)
    ws.subscribe("news")
    for data in ({"a": 1}, "text", b"\xff", 5):
        stage.server.publish("news", data)
    stage.run_for(0.5)
    assert [(f.opcode, f.payload) for f in guest.pending()] == [
        (wire.TEXT, b'{"a":1}'),
        (wire.TEXT, b"text"),
        (wire.BINARY, b"\xff"),
        (wire.TEXT, b"5"),
    ]
    assert [told.get("data", told.get("base64")) for told in client.pending()] == [{"a": 1}, "text", "/w==", 5]


def test_many_get_the_same_bytes(make_stage: MakeStage) -> None:
    stage = make_stage()
    clients = [Client(stage) for _ in range(20)]
    for client in clients:
        client.ask(type="subscribe", topic="news")
    for number in range(50):
        stage.server.publish("news", number)
    for client in clients:
        assert [told["data"] for told in client.pending()] == list(range(50))


# ---------------------------------------------------------------------- history


def keep_ten(topic: str) -> int:
    return 0 if topic == "unkept" else 10


def data_of(messages: list[dict[str, Any]]) -> list[Any]:
    assert {message["type"] for message in messages} <= {"message"}
    return [message["data"] for message in messages]


def test_messages_that_are_kept_have_a_position(make_stage: MakeStage) -> None:
    stage = make_stage(keep=keep_ten)
    client = Client(stage)
    assert client.ask(type="subscribe", topic="a") == {"type": "subscribed", "topic": "a"}
    client.ask(type="subscribe", topic="unkept")
    for number in range(3):
        stage.server.publish("a", number)
        stage.server.publish("unkept", number)
    told = client.pending()
    kept = [message for message in told if message["topic"] == "a"]
    assert [message["offset"] for message in kept] == [1, 2, 3]
    assert len({message["epoch"] for message in kept}) == 1
    assert all("offset" not in message for message in told if message["topic"] == "unkept")
    late = Client(stage).ask(type="subscribe", topic="a")
    assert (late["epoch"], late["offset"]) == (kept[0]["epoch"], 3)
    assert "recovered" not in late


def test_who_comes_back_gets_what_was_missed_and_then_what_is_new(make_stage: MakeStage) -> None:
    stage = make_stage(keep=keep_ten)
    first = Client(stage)
    first.ask(type="subscribe", topic="a")
    for number in range(3):
        stage.server.publish("a", number)
    last = first.pending()[-1]
    first.guest.reset()
    for number in range(3, 8):
        stage.server.publish("a", number)
    back = Client(stage)
    back.tell(type="subscribe", id=1, topic="a", epoch=last["epoch"], offset=last["offset"])
    for number in range(8, 200):
        stage.server.publish("a", number)
        if number % 10 == 0:
            stage.run_for(0.01)
    answer, *messages = [message for _ in range(3) for message in back.pending()]
    assert (answer["type"], answer["id"], answer["recovered"], answer["epoch"]) == (
        "subscribed",
        1,
        True,
        last["epoch"],
    )
    assert data_of(messages) == list(range(3, 200))
    assert [message["offset"] for message in messages] == list(range(4, 201))


def test_who_comes_back_too_late_is_told(make_stage: MakeStage) -> None:
    stage = make_stage(keep=keep_ten)
    client = Client(stage)
    client.ask(type="subscribe", topic="a")
    stage.server.publish("a", 0)
    (seen,) = client.pending()
    for number in range(1, 20):
        stage.server.publish("a", number)
    for epoch, offset in ((seen["epoch"], 1), ("another", 15), (seen["epoch"], 99)):
        back = Client(stage)
        answer = back.ask(type="subscribe", topic="a", epoch=epoch, offset=offset)
        assert (answer["recovered"], answer["epoch"], answer["offset"]) == (False, seen["epoch"], 20)
        stage.server.publish("b", "nothing else comes")
        assert back.pending() == []
    assert Client(stage).ask(type="subscribe", topic="b.c", epoch="e", offset=0)["recovered"] is False


def asks_again(client: Client, seen: list[dict[str, Any]], topic: str = "a", **wanted: Any) -> list[dict[str, Any]]:
    """What a client has of a topic in the end that goes by the rule of docs/reference/topics.md: messages, and `lost`
    where it tells its program of one. `seen`: what has come, from the answer to its first `subscribe` on."""
    heard: list[dict[str, Any]] = []
    last: tuple[str, int] | None = None
    asking, new = True, False
    coming = list(seen)
    while coming or (coming := client.everything()):
        told = coming.pop(0)
        kind = told["type"]
        where: tuple[Any, Any] = told.get("epoch"), told.get("offset")
        if kind == "subscribed":
            asking = False
            if told.get("recovered") is False:
                heard.append({"type": "lost"})
            if not told.get("recovered"):
                last = where if where[0] else None
                new = last is None
            continue
        if asking:
            continue
        if new and where[0]:  # the first epoch begins
            last = where[0], 0
            new = False
        following = last if last is not None and where[0] == last[0] else None
        if kind == "position" and following and told["after"] <= following[1]:
            last = following[0], max(following[1], where[1])
            continue
        if kind == "message":
            if where[0] is None:
                heard.append(told)
                continue
            if following and where[1] == following[1] + 1:
                heard.append(told)
                last = where
                continue
        if following and where[1] <= following[1] and kind != "position":
            continue
        if last is None:
            heard.append({"type": "lost"})
            continue
        client.tell(type="subscribe", topic=topic, epoch=last[0], offset=last[1], **wanted)
        asking = True
    return heard


@pytest.mark.parametrize("size", [pytest.param(200, marks=pytest.mark.slow), 10_000, 100_000, 300_000])
def test_more_than_may_wait_comes_in_portions(make_stage: MakeStage, size: int) -> None:
    stage = make_stage(keep=lambda topic: 30_000)
    stage.server.publish("a", "first")
    first = Client(stage)
    begun = first.ask(type="subscribe", topic="a")
    first.ask(type="unsubscribe", topic="a")
    count = 800_000 // size
    for number in range(count):
        stage.server.publish("a", f"{number:06} " + "x" * size)
    back = Client(stage)
    back.tell(type="subscribe", topic="a", epoch=begun["epoch"], offset=1)
    answer, *others = back.everything()
    assert answer["recovered"] is True
    assert 1 < answer["offset"] < count + 1
    assert others[-1] == {"type": "lost", "topic": "a", "epoch": begun["epoch"], "offset": count + 1}
    got = [int(message["data"][:6]) for message in others[:-1]]
    last = answer["offset"]
    while got[-1] < count - 1:
        back.tell(type="subscribe", topic="a", epoch=begun["epoch"], offset=last)
        answer, *others = back.everything()
        assert answer["recovered"] is True
        assert answer["offset"] > last
        last = answer["offset"]
        got += [int(message["data"][:6]) for message in others if message["type"] == "message"]
    assert got == list(range(count))
    assert stage.server.overflow.counts["refused"] == 0


@pytest.mark.parametrize(
    ("wanted", "got"), [(1, [6]), (3, [4, 5, 6]), (50, [2, 3, 4, 5, 6]), (10**30, [2, 3, 4, 5, 6])]
)
def test_who_comes_first_may_ask_for_the_latest(make_stage: MakeStage, wanted: int, got: list[int]) -> None:
    stage = make_stage(keep=lambda topic: 5)
    for number in range(1, 7):
        stage.server.publish("a", number)
    client = Client(stage)
    answer = client.ask(type="subscribe", topic="a", history=wanted)
    stage.server.publish("a", "new")
    messages = client.pending()
    assert data_of(messages) == [*got, "new"]
    assert [message["offset"] for message in messages] == [*got, 7]
    assert {message["epoch"] for message in messages} == {answer["epoch"]}
    assert answer["offset"] == got[0] - 1  # so that a client can tell that nothing is missing
    assert "recovered" not in answer


def test_there_may_be_no_history(make_stage: MakeStage) -> None:
    stage = make_stage(keep=keep_ten)
    for topic in ("a", "unkept", ">"):
        assert Client(stage).ask(type="subscribe", topic=topic, history=5) == {"type": "subscribed", "topic": topic}
    stage.server.publish("a", 1, history=Keep(5, 10.0))
    stage.run_for(20)
    client = Client(stage)
    assert client.ask(type="subscribe", topic="a", history=5)["offset"] == 1
    assert client.pending() == []


def test_a_position_counts_more_than_history(make_stage: MakeStage) -> None:
    stage = make_stage(keep=keep_ten)
    for number in range(1, 7):
        stage.server.publish("a", number)
    epoch = Client(stage).ask(type="subscribe", topic="a")["epoch"]
    client = Client(stage)
    answer = client.ask(type="subscribe", topic="a", history=5, epoch=epoch, offset=5)
    assert (answer["recovered"], answer["offset"]) == (True, 6)
    assert data_of(client.pending()) == [6]


def test_who_cannot_have_all_may_have_the_latest(make_stage: MakeStage) -> None:
    stage = make_stage(keep=lambda topic: 3)
    for number in range(1, 7):
        stage.server.publish("a", number)
    epoch = Client(stage).ask(type="subscribe", topic="a")["epoch"]
    for position in ({"epoch": epoch, "offset": 2}, {"epoch": "of yesterday", "offset": 9}):
        client = Client(stage)
        answer = client.ask(type="subscribe", topic="a", history=2, **position)
        assert (answer["recovered"], answer["epoch"], answer["offset"]) == (False, epoch, 4)
        assert data_of(client.pending()) == [5, 6]


def test_history_is_no_more_than_may_wait(make_stage: MakeStage) -> None:
    stage = make_stage(keep=keep_ten)
    for _ in range(4):
        stage.server.publish("a", "x" * 100_000)
    client = Client(stage)
    assert client.ask(type="subscribe", topic="a", history=4)["offset"] == 2
    assert [client.next()["offset"] for _ in range(2)] == [3, 4]
    assert client.pending() == []


@pytest.mark.parametrize("size", [0, 30, 60, 90])
def test_all_of_a_history_that_is_told_goes_out(make_stage: MakeStage, size: int) -> None:
    """Room is counted with frames, and with the answer."""
    stage = make_stage(keep=lambda topic: 600)
    client = Client(stage)
    for _ in range(600):
        stage.server.publish("a", "x" * size)
    stage.run_for(1)
    ws = next(iter(stage.server.connections))
    assert isinstance(ws, WebSocket)
    ws.context.high_water = ws.context.mark = 30_000
    ws.write_binary(bytes(65536))  # the kernel takes no more
    stage.run_for(1)
    assert ws.stream.blocked
    client.tell(type="subscribe", topic="a", history=600)
    stage.run_for(1)
    assert ws.close_code is None
    assert client.guest.read().payload == bytes(65536)
    first = client.next()
    told: list[int] = []
    while messages := client.pending():
        told += [message["offset"] for message in messages]
    assert told == list(range(first["offset"] + 1, 601))
    assert 80 < len(told) < 600


def test_the_latest_comes_however_large_it_is(make_stage: MakeStage) -> None:
    stage = make_stage(keep=keep_ten)
    for number in range(2):
        stage.server.publish("a", f"{number} " + "x" * 300_000)
    client = Client(stage)
    assert client.ask(type="subscribe", topic="a", history=2)["offset"] == 1
    assert [message["data"][:2] for message in client.everything()] == ["1 "]


@pytest.mark.parametrize("history", [0, -1, 1.5, "5", True, [5]])
def test_history_that_cannot_be(make_stage: MakeStage, history: Any) -> None:
    client = Client(make_stage())
    assert client.ask(type="subscribe", topic="a", history=history)["code"] == "bad_request"
    assert client.stage.server.topics() == {}


@pytest.mark.parametrize(("history", "kept"), [(0, 0), (2, 2), (Keep(3), 3), (timedelta(seconds=30), 5), (None, 5)])
def test_a_message_may_say_how_much_is_kept(make_stage: MakeStage, history: Any, kept: int) -> None:
    stage = make_stage(keep=keep_ten)
    begun = None
    for number in range(5):
        stage.server.publish("a", number, history=history)
        begun = begun or Client(stage).ask(type="subscribe", topic="a").get("epoch")
    for offset in range(6):
        answer = Client(stage).ask(type="subscribe", topic="a", epoch=begun or "", offset=offset)
        assert answer["recovered"] is (kept > 0 and 5 - kept <= offset <= 5)


def test_others_get_what_is_kept_without_a_position(make_stage: MakeStage) -> None:
    stage = make_stage(keep=keep_ten)
    guest, ws = plain_guest(stage)
    ws.subscribe("a")
    stage.server.publish("a", "bare")
    assert guest.text() == "bare"


@pytest.mark.parametrize(
    "position",
    [
        {"epoch": "e"},
        {"offset": 1},
        {"epoch": 1, "offset": 1},
        {"epoch": "e", "offset": -1},
        {"epoch": "e", "offset": True},
    ],
)
def test_positions_that_cannot_be(make_stage: MakeStage, position: dict[str, Any]) -> None:
    client = Client(make_stage())
    assert client.ask(type="subscribe", topic="a", **position)["code"] == "bad_request"
    assert client.stage.server.topics() == {}


# ---------------------------------------------------------------------- positions


def test_who_publishes_hears_the_position_of_its_message(make_stage: MakeStage) -> None:
    stage = make_stage(keep=keep_ten)
    one, two = Client(stage), Client(stage)
    for client in (one, two):
        client.ask(type="subscribe", topic="a")
    one.tell(type="publish", topic="a", data="own")
    assert [told["type"] for told in one.pending()] == ["published", "position"]
    (heard,) = two.pending()
    two.tell(type="publish", topic="a", data="answer")
    assert one.pending() == [{"type": "message", "topic": "a", "epoch": heard["epoch"], "offset": 2, "data": "answer"}]
    one.ask(type="publish", topic="unkept", data="own")
    assert one.pending() == []


def test_a_position_stands_for_what_has_expired(make_stage: MakeStage) -> None:
    stage = make_stage(keep=keep_ten)
    stage.server.publish("a", 1)
    epoch = Client(stage).ask(type="subscribe", topic="a")["epoch"]
    for data, ttl in ((2, 1), (3, None), (4, 1), (5, 1), (6, None), (7, 1)):
        stage.server.publish("a", data, ttl=ttl)
    stage.run_for(2)
    for asked, first in (
        ({"epoch": epoch, "offset": 1}, 1),
        ({"history": 10}, 0),
        ({"epoch": "e", "offset": 1, "history": 10}, 0),
    ):
        client = Client(stage)
        client.tell(type="subscribe", topic="a", **asked)
        answer, *others = client.pending()
        assert answer["offset"] == (7 if first else 0)
        expected = [("position", 2), ("message", 3), ("position", 5), ("message", 6), ("position", 7)]
        assert [(told["type"], told["offset"]) for told in others] == ([] if first else [("message", 1)]) + expected


# ---------------------------------------------------------------------- who is too slow


def stop_reading(stage: Stage, client: Client, ws: WebSocket) -> None:
    """The client's kernel takes no more."""
    ws.write_binary(bytes(stage.world.network.buffer_size + 100))
    stage.run_for(0.1)
    assert ws.stream.queued


def subscribers(stage: Stage) -> list[WebSocket]:
    return list(stage.server.subscriptions._of)


@pytest.mark.parametrize("overflow", ["refuse", "drop", "block", "drop_oldest", "latest"])
@pytest.mark.parametrize("size", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_who_misses_messages_is_told_and_recovers(make_stage: MakeStage, overflow: str, size: int) -> None:
    stage = make_stage(keep=lambda topic: 10_000)
    stage.options = AcceptOptions(subprotocols=["gows.v1"], overflow=overflow, high_water=50_000, low_water=10_000)
    client = Client(stage)
    begun = [client.ask(type="subscribe", topic="a")]
    (ws,) = subscribers(stage)
    stop_reading(stage, client, ws)
    for number in range(703):
        stage.server.publish("a", f"{number:06} " + "x" * size, key="always the same")
        stage.run_for(0.001)
    assert client.guest.read().opcode == wire.BINARY
    heard = asks_again(client, begun)
    assert [message.get("data", "lost")[:6] for message in heard] == [f"{number:06}" for number in range(703)]
    losses = stage.server.publishing.losses
    assert losses.missed > 0
    assert losses.sent > 0
    assert len(losses) == 0
    assert not stage.server.overflow._notices


@pytest.mark.parametrize("overflow", ["refuse", "drop", "drop_oldest"])
def test_who_misses_what_is_not_kept_is_told(make_stage: MakeStage, overflow: str) -> None:
    stage = make_stage()
    stage.options = AcceptOptions(subprotocols=["gows.v1"], overflow=overflow, high_water=50_000, low_water=10_000)
    client, other = Client(stage), Client(stage)
    client.ask(type="subscribe", topic="a")
    client.ask(type="subscribe", topic="b.*")
    client.ask(type="subscribe", topic="quiet")
    (ws,) = subscribers(stage)
    other.ask(type="subscribe", topic="a")
    stop_reading(stage, client, ws)
    for number in range(100):
        stage.server.publish("a", "x" * 1000)
        stage.server.publish(f"b.{number % 3}", "x" * 1000)
        stage.run_for(0.01)
        other.guest.pending()
    assert client.guest.read().opcode == wire.BINARY
    told = client.everything()
    lost = [event for event in told if event["type"] == "lost"]
    assert sorted(event["topic"] for event in lost) == ["a", "b.0", "b.1", "b.2"]
    assert all("offset" not in event for event in lost)
    assert told.index(lost[0]) > 0
    stage.server.publish("a", "on again")
    assert client.everything() == [{"type": "message", "topic": "a", "data": "on again"}]


def test_who_misses_very_many_topics_is_told_of_its_subscriptions(make_stage: MakeStage) -> None:
    stage = make_stage()
    client = Client(stage)
    for topic in ("a.>", "b"):
        client.ask(type="subscribe", topic=topic)
    (ws,) = subscribers(stage)
    stop_reading(stage, client, ws)
    ws.write_binary(bytes(stage.options.high_water))
    for number in range(1000):
        stage.server.publish(f"a.{number}", number)
    stage.run_for(0.1)
    assert len(stage.server.publishing.losses._noted[ws]) == 65
    client.guest.read(), client.guest.read()
    assert client.everything() == [{"type": "lost", "topic": "a.>"}, {"type": "lost", "topic": "b"}]


@pytest.mark.parametrize("overflow", ["drop", "drop_oldest"])
def test_a_position_of_its_own_hides_no_loss(make_stage: MakeStage, overflow: str) -> None:
    stage = make_stage(keep=lambda topic: 1000)
    stage.options = AcceptOptions(subprotocols=["gows.v1"], overflow=overflow, high_water=3000, low_water=1000)
    client = Client(stage)
    begun = [client.ask(type="subscribe", topic="a")]
    (ws,) = subscribers(stage)
    for number in range(1, 3):
        stage.server.publish("a", number)
    begun += client.everything()
    stop_reading(stage, client, ws)
    for number in range(3, 40):
        stage.server.publish("a", [number] * 50)
        stage.run_for(0.01)
    stage.server.publish("a", "own", exclude=ws)
    stage.run_for(0.01)
    client.guest.read()
    heard = asks_again(client, begun)
    assert [message.get("offset") for message in heard] == list(range(1, 41))


@pytest.mark.parametrize("high_water", [700, 2000, 3000])
def test_what_is_larger_than_may_wait_is_recovered_all_the_same(make_stage: MakeStage, high_water: int) -> None:
    stage = make_stage(keep=lambda topic: 1000)
    stage.options = AcceptOptions(subprotocols=["gows.v1"], high_water=high_water, low_water=100)
    stage.server.publish("a", "first")
    epoch = Client(stage).ask(type="subscribe", topic="a", history=1)["epoch"]
    for number in range(20):
        stage.server.publish("a", f"{number:04}" + "x" * 500)
    client = Client(stage)
    answer = client.ask(type="subscribe", topic="a", epoch=epoch, offset=1)
    heard = asks_again(client, [{**answer, "recovered": None, "offset": 1}, *client.everything()])
    assert [message["data"][:4] for message in heard] == [f"{number:04}" for number in range(20)]
    assert stage.server.traffic.received < 50


def test_who_comes_and_goes_holds_up_no_publication(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gows.session.fanout, "DELIVERIES_PER_TURN", 8)
    stage = make_stage(presence=lambda ws, topic: {"n": 1} if topic == "hall" else None)
    hall = [Client(stage) for _ in range(20)]
    for client in hall:
        client.ask(type="subscribe", topic="hall")
    listener = Client(stage)
    listener.ask(type="subscribe", topic="good")
    here = [ws for ws in stage.server.connections if isinstance(ws, WebSocket)]
    (newcomer,) = (ws for ws in here if "good" in ws.topics)
    stage.run_for(1)
    before = stage.server.news.delivered

    for _ in range(5):
        newcomer.subscribe("hall")
        newcomer.unsubscribe("hall")
    stage.server.publish("good", "news")
    for _ in range(2):
        stage.world.turn()

    assert stage.server.fanout.waiting == 0
    assert 0 < stage.server.news.delivered - before <= 2 * 2 * 10 < 10 * 20, "two a turn, in one piece each"
    stage.run_for(2)
    assert stage.server.news.delivered - before == 10 * 20
    assert [m["type"] for m in hall[0].everything()][-10:] == ["join", "leave"] * 5


def test_an_answer_does_not_overtake_what_was_published_before(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a connection hears by a pattern is still on its way to it, when it asks for a topic with history."""
    monkeypatch.setattr(gows.session.fanout, "DELIVERIES_PER_TURN", 2)
    stage = make_stage(keep=lambda topic: 100)
    others = [Client(stage) for _ in range(20)]
    for other in others:
        other.ask(type="subscribe", topic=">")

    class Publishing(TopicHandler):
        def on_message(self, ws: WebSocket, opcode: Any, buff: Any) -> None:
            busy = b"history" in buff.clone_bytes()
            for number in range(5 * busy):
                stage.server.publish("a", number)
            super().on_message(ws, opcode, buff)
            if busy:
                stage.server.publish("a", "new")

    stage.make_handler = Publishing
    client = Client(stage)
    client.ask(type="subscribe", topic=">")
    told = client.ask(type="subscribe", topic="a", history=3, id=7)
    told_all = [told, *client.everything()]
    seen = [(message["type"], message.get("data", message.get("id"))) for message in told_all]
    live = [("message", number) for number in range(5)]
    assert seen == [*live, ("subscribed", 7), *live[2:], ("message", "new")]


@pytest.mark.parametrize("overflow", ["drop", "drop_oldest", "latest", "refuse", "block"])
def test_no_answer_is_dropped_without_a_close(make_stage: MakeStage, overflow: str) -> None:
    stage = make_stage()
    stage.options = AcceptOptions(subprotocols=["gows.v1"], overflow=overflow, high_water=3000, low_water=100)
    client = Client(stage)
    client.ask(type="subscribe", topic="a")
    (ws,) = subscribers(stage)
    done: list[Callable[[Exception | None], object]] = []
    stage.server.publish = lambda *arguments, done, **others: later.append(done)  # type: ignore[method-assign]
    later: list[Any] = []
    for _ in range(200):
        client.tell(type="publish", topic="a", data=1)
    stage.run_until(lambda: len(later) == 200)
    stop_reading(stage, client, ws)
    ws.write_binary(bytes(2900))
    for answered in later:
        answered(None)
        stage.run_for(0.001)
    client.guest.read()
    while (frame := client.guest.read()).opcode != wire.CLOSE:
        pass
    assert frame.close_code == 1013
    assert done == []
    assert stage.server.publishing.losses.closed == 1


def test_who_has_unsubscribed_is_not_told(make_stage: MakeStage) -> None:
    stage = make_stage()
    client = Client(stage)
    client.ask(type="subscribe", topic="a")
    (ws,) = subscribers(stage)
    stop_reading(stage, client, ws)
    ws.write_binary(bytes(stage.options.high_water))
    stage.server.publish("a", 1)
    stage.run_for(0.1)
    ws.unsubscribe("a")
    client.guest.read(), client.guest.read()
    assert client.everything() == []
    assert len(stage.server.publishing.losses) == 0


@pytest.mark.parametrize("overflow", ["refuse", "drop_oldest", "close"])
def test_who_ends_is_not_remembered(make_stage: MakeStage, overflow: str) -> None:
    stage = make_stage()
    stage.options = AcceptOptions(subprotocols=["gows.v1"], overflow=overflow, high_water=5000, low_water=100)
    client = Client(stage)
    client.ask(type="subscribe", topic="a")
    (ws,) = subscribers(stage)
    stop_reading(stage, client, ws)
    for _ in range(10):
        stage.server.publish("a", "x" * 1000)
        stage.run_for(0.1)
    losses = stage.server.publishing.losses
    assert len(losses) == (overflow != "close")
    if overflow == "close":
        client.guest.read()
        while (frame := client.guest.read()).opcode != wire.CLOSE:
            pass
        assert frame.close_code == 1013
    else:
        client.guest.reset()
    stage.run_for(10)
    assert len(losses) == 0
    assert not stage.server.overflow._notices
    losses.note(ws, "a", None)
    assert len(losses) == 0
    assert not stage.server.overflow._notices


def test_who_misses_that_somebody_came_is_told(make_stage: MakeStage) -> None:
    stage = make_stage(presence=lambda ws, topic: {"name": "Ann"})
    client = Client(stage)
    client.ask(type="subscribe", topic="a")
    (ws,) = subscribers(stage)
    stop_reading(stage, client, ws)
    ws.write_binary(bytes(stage.options.high_water))
    other = Client(stage)
    other.ask(type="subscribe", topic="a")
    stage.run_for(0.1)
    client.guest.read(), client.guest.read()
    assert client.everything() == [{"type": "lost", "topic": "a"}]


def test_a_message_for_which_there_is_no_room_at_all_is_told(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fan-out of a process is full: what comes from others is lost for all its subscribers."""
    stage = make_stage(keep=keep_ten)
    client = Client(stage)
    begun = [client.ask(type="subscribe", topic="a")]
    stage.server.publish("a", 1)
    begun += client.everything()
    monkeypatch.setattr(gows.session.fanout, "MAX_WAITING", 0)
    stage.server.fanout.waiting = 1
    other = LocalBroker()
    packet = Envelope(Publication("a", 2, position=Position(begun[1]["epoch"], 2)), Keep(10)).pack()
    assert isinstance(stage.server.broker, LocalBroker)
    stage.server.broker._on_publication("other", packet)
    monkeypatch.undo()
    stage.server.fanout.waiting = 0
    assert "is lost here" in stage.log.take()[0]
    assert [message["data"] for message in asks_again(client, begun)] == [1, 2]
    assert other.peers == []


def test_what_a_connection_may_have_of_the_past_is_bounded(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gows.server.publisher, "ANSWER_BURST", 165_000)
    monkeypatch.setattr(gows.server.publisher, "ANSWER_RATE", 5_000)
    stage = make_stage(keep=lambda topic: 100)
    for number in range(100):
        stage.server.publish("a", number)
    client, other = Client(stage), Client(stage)
    client.guest.send(*[wire.frame(wire.TEXT, b'{"type":"subscribe","topic":"a","history":50}')] * 10)
    told = client.everything()
    answers = [answer for answer in told if answer["type"] == "subscribed"]
    assert [answer["offset"] for answer in answers] == [50] * 4 + [100] * 6
    assert len(told) == 10 + 4 * 50
    answer = answers[-1]
    answer = client.ask(type="subscribe", topic="a", epoch=answer["epoch"], offset=10, history=50)
    assert (answer["recovered"], answer["offset"]) == (False, 100)
    assert client.everything() == []
    other.tell(type="subscribe", topic="a", history=50)
    assert len(other.pending()) == 51
    stage.run_for(20)
    client.tell(type="subscribe", topic="a", epoch=answer["epoch"], offset=50)
    assert len(client.everything()) == 51


def test_lists_of_members_are_bounded(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gows.server.publisher, "ANSWER_BURST", 6000)
    monkeypatch.setattr(gows.server.publisher, "ANSWER_RATE", 200)
    monkeypatch.setattr(gows.topics.subprotocol, "MAX_MEMBERS", 4)
    stage = make_stage(presence=lambda ws, topic: {"name": "Ann"})
    clients = [Client(stage) for _ in range(5)]
    for client in clients[:4]:
        client.ask(type="subscribe", topic="a")
    client = Client(stage)
    answers = [client.ask(type="presence", topic="a") for _ in range(10)]
    assert [answer.get("code", len(answer.get("members", ()))) for answer in answers] == [4] * 5 + ["too_many"] * 5
    stage.run_for(10)
    client.everything()
    assert len(client.ask(type="presence", topic="a")["members"]) == 4
    clients[4].ask(type="subscribe", topic="a")
    told = clients[4].ask(type="presence", topic="a")
    assert (told["code"], told["reason"]) == ("too_many", "'a' has 5 members, and no more than 4 are listed")


def test_who_comes_and_goes_again_and_again_is_refused(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gows.server.publisher, "ANSWER_BURST", 10_000)
    monkeypatch.setattr(gows.server.publisher, "ANSWER_RATE", 300)
    stage = make_stage(presence=lambda ws, topic: {"name": "Ann"} if topic == "hall" else None)
    for _ in range(10):
        Client(stage).ask(type="subscribe", topic="hall")
    client = Client(stage)
    codes = []
    for _ in range(6):
        codes.append(client.ask(type="subscribe", topic="hall").get("code"))
        client.ask(type="unsubscribe", topic="hall")
    assert codes == [None] * 3 + ["too_many"] * 3
    assert client.ask(type="subscribe", topic="hall.>")["type"] == "subscribed"
    stage.run_for(10)
    client.everything()
    assert client.ask(type="subscribe", topic="hall")["type"] == "subscribed"
    for _ in range(20):
        assert client.ask(type="subscribe", topic="hall")["type"] == "subscribed"  # it is there: nobody hears of it


def test_who_publishes_to_many_may_not_hold_up_others(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gows.server.publisher, "DELIVERY_BURST", 100)
    monkeypatch.setattr(gows.server.publisher, "DELIVERY_RATE", 10)
    monkeypatch.setattr(gows.server.publisher, "MANY_DELIVERIES", 50)
    stage = make_stage()
    for _ in range(10):
        Client(stage).ask(type="subscribe", topic="news")
    loud, other = Client(stage), Client(stage)
    for _ in range(20):  # the loop keeps up with these, one by one
        assert loud.ask(type="publish", topic="news", data=1)["type"] == "published"
        stage.run_for(0.01)
        assert stage.server.fanout.owed == 0
    loud.guest.send(*[wire.frame(wire.TEXT, b'{"type":"publish","topic":"news","data":2}')] * 40)
    answers = [answer.get("code", answer["type"]) for answer in loud.everything()]
    assert answers.count("published") < 10
    assert answers.count("too_many") > 30
    assert other.ask(type="publish", topic="news", data=3)["type"] == "published"
    stage.run_for(0.1)
    assert (stage.server.fanout.owed, stage.server.fanout.waiting) == (0, 0)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "sent",
    [b"", b"no JSON", b"5", b"[]", b"null", b'"subscribe"', b"{", b"[" * 100_000, b'{"id": true, "type": "subscribe"}'],
    ids=lambda sent: sent[:12].decode() or "empty",
)
def test_what_is_no_request(make_stage: MakeStage, sent: bytes) -> None:
    client = Client(make_stage())
    client.guest.send(wire.frame(wire.TEXT, sent))
    told = client.next()
    assert (told["type"], told["code"]) == ("error", "bad_request")
    assert "id" not in told
    assert client.ask(type="subscribe", id=1, topic="a")["type"] == "subscribed"


def test_binary_is_no_request(make_stage: MakeStage) -> None:
    client = Client(make_stage())
    client.guest.send(wire.frame(wire.BINARY, b'{"type":"subscribe","topic":"a"}'))
    assert client.next()["code"] == "bad_request"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"id": "x" * 65}, "bad_request"),
        ({"id": 1 << 53}, "bad_request"),
        ({"id": [1]}, "bad_request"),
        ({}, "unknown_type"),
        ({"type": "sing"}, "unknown_type"),
        ({"type": ["subscribe"]}, "unknown_type"),
        ({"type": "subscribe"}, "bad_topic"),
        ({"type": "subscribe", "topic": 5}, "bad_topic"),
        ({"type": "subscribe", "topic": ""}, "bad_topic"),
        ({"type": "subscribe", "topic": "a..b"}, "bad_topic"),
        ({"type": "unsubscribe", "topic": "a b"}, "bad_topic"),
        ({"type": "publish", "topic": "a.*", "data": 1}, "bad_topic"),
        ({"type": "publish", "topic": "a"}, "bad_request"),
        ({"type": "publish", "topic": "a", "data": 1, "key": 5}, "bad_request"),
        ({"type": "publish", "topic": "a", "data": 1, "ttl": -1}, "bad_request"),
        ({"type": "publish", "topic": "a", "data": 1, "ttl": 0}, "bad_request"),
        ({"type": "publish", "topic": "a", "data": 1, "ttl": True}, "bad_request"),
        ({"type": "publish", "topic": "a", "data": 1, "ttl": "5"}, "bad_request"),
    ],
)
def test_requests_that_cannot_be(make_stage: MakeStage, request_: dict[str, Any], code: str) -> None:
    client = Client(make_stage())
    told = client.ask(**request_)
    assert (told["type"], told["code"]) == ("error", code)
    assert told["reason"]


def test_an_error_names_the_request(make_stage: MakeStage) -> None:
    client = Client(make_stage())
    assert client.ask(type="sing", id=7)["id"] == 7
    assert client.ask(type="subscribe", id="seven", topic="..")["id"] == "seven"


@pytest.mark.parametrize(
    ("text", "code", "id_"),
    [
        (r'{"type":"unsubscribe","topic":"a","id":"\ud800"}', "bad_request", None),
        (r'{"type":"unsubscribe","topic":"\ud800","id":1}', "bad_topic", 1),
        (r'{"type":"subscribe","topic":"a","epoch":"\udfff","offset":1,"id":1}', "bad_request", 1),
        (r'{"type":"publish","topic":"a","data":"\ud800","id":1}', "bad_request", 1),
        (r'{"type":"publish","topic":"a","data":{"\udfff":1},"id":1}', "bad_request", 1),
        (r'{"type":"publish","topic":"a","data":1,"key":"\udfff","id":1}', "bad_request", 1),
        ('{"type":"publish","topic":"a","data":1,"key":"%s","id":1}' % ("k" * 256), "bad_request", 1),
        ('{"type":"publish","topic":"a","data":1,"ttl":1%s,"id":1}' % ("0" * 400), "bad_request", 1),
        ('{"type":"publish","topic":"a","data":1,"ttl":1e308,"id":1}', "bad_request", 1),
        ('{"type":"publish","topic":"a","data":1,"ttl":1e999,"id":1}', "bad_request", 1),
        ('{"type":"publish","topic":"a","data":1,"ttl":Infinity,"id":1}', "bad_request", 1),
        ('{"type":"publish","topic":"a","data":1,"ttl":NaN,"id":1}', "bad_request", 1),
        ('{"type":"publish","topic":"a","data":NaN,"id":1}', "bad_request", 1),
        ('{"type":"publish","topic":"a","data":[-Infinity],"id":1}', "bad_request", 1),
        ('{"type":"publish","topic":"a","data":1e999,"id":1}', "bad_request", 1),
        ('{"type":"publish","topic":"a","data":%s,"id":1}' % ("1" * 5000), "bad_request", 1),
        ('{"type":"publish","topic":"a","data":%s,"id":"x"}' % ("[" * 600 + "]" * 600), "bad_request", "x"),
        ('{"type":"publish","topic":"a","data":%s,"id":1}' % ("[" * 200_000), "bad_request", None),
        ('{"type":"publish","topic":"a","data":{"x":1,"x":2},"id":1}', "bad_request", 1),
        ('{"type":"publish","topic":"a","topic":"b","data":1,"id":1}', "bad_request", 1),
        ('{"type":"subscribe","topic":"a","epoch":"%s","offset":1,"id":1}' % ("e" * 256), "bad_request", 1),
        ('{"type":"subscribe","topic":"a","epoch":"e","offset":1%s,"id":1}' % ("0" * 4000), "bad_request", 1),
        ('{"type":"subscribe","topic":"a","id":1%s}' % ("0" * 4000), "bad_request", None),
        ('{"type":"subscribe","topic":"a","id":1.5}', "bad_request", None),
        ('{"type":"subscribe","topic":"a","id":NaN}', "bad_request", None),
        ('{"type":"subscribe","topic":"a","id":[[1]]}', "bad_request", None),
        ('{"type":"subscribe","topic":"%s","id":1}' % ("x" * 100_000), "bad_topic", 1),
        ('{"type":[[]],"topic":"a","id":1}', "unknown_type", 1),
    ],
    ids=lambda value: str(value)[:60].encode().hex()[-60:] if len(str(value)) > 60 else None,
)
def test_requests_that_no_json_library_likes(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture, text: str, code: str, id_: Any
) -> None:
    client = Client(make_stage(keep=keep_ten))
    client.guest.send(wire.frame(wire.TEXT, text.encode()))
    told = client.next()
    assert (told["type"], told["code"], told.get("id")) == ("error", code, id_)
    assert client.ask(type="subscribe", id=2, topic="a") == {"type": "subscribed", "id": 2, "topic": "a"}
    assert not caplog.records


def test_what_every_reader_of_json_can_take_is_published(make_stage: MakeStage) -> None:
    stage = make_stage()
    one, two = Client(stage), Client(stage)
    one.ask(type="subscribe", topic="a")
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    values: list[Any] = [deep, 10**1000, "\U0001f600\u2028", {"": [1e-300, -0.0]}, [[[]]] * 50]
    for data in values:
        told = two.ask(type="publish", topic="a", data=data, key="k" * 255, ttl=1e9)
        assert told == {"type": "published", "topic": "a"}
        assert one.next()["data"] == data
    assert two.ask(type="publish", topic="a", data=[deep])["code"] == "bad_request"


def test_history_may_be_any_number(make_stage: MakeStage) -> None:
    client = Client(make_stage())
    client.guest.send(wire.frame(wire.TEXT, b'{"type":"subscribe","topic":"a","history":1%b}' % (b"0" * 4000)))
    assert client.next()["type"] == "subscribed"


class Deepening(TopicHandler):
    """Makes of what is published what cannot be sent."""

    made: Any = None

    def on_publish(self, ws: WebSocket, topic: str, data: Any) -> Any:
        return self.made


def test_what_a_handler_makes_of_it_may_not_be_sent(make_stage: MakeStage) -> None:
    stage = make_stage()
    deep: Any = 1
    for _ in range(20_000):
        deep = [deep]
    stage.make_handler = Deepening
    client = Client(stage)
    for made in (deep, "\ud800", float("inf"), object(), {1: {2}}):
        stage.handlers[-1].__class__.made = made
        assert client.ask(type="publish", topic="a", data=1, id=5)["code"] == "bad_request"
    assert client.ask(type="subscribe", topic="a")["type"] == "subscribed"


def test_a_reason_may_quote_what_cannot_be_sent(make_stage: MakeStage) -> None:
    class Quoting(TopicHandler):
        def on_publish(self, ws: WebSocket, topic: str, data: Any) -> Any:
            raise ValueError("not \udfff")

    stage = make_stage()
    stage.make_handler = Quoting
    assert Client(stage).ask(type="publish", topic="a", data=1)["reason"] == "not \udfff"


@pytest.mark.parametrize("error", [LoopClosedError("it has ended"), RuntimeError("a bug")])
def test_what_fails_in_the_end_is_answered(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    stage = make_stage()
    monkeypatch.setattr(stage.server, "publish", lambda *arguments, done, **others: done(error))
    told = Client(stage).ask(type="publish", topic="a", data=1, id=3)
    assert (told["code"], told["id"]) == ("closed" if isinstance(error, LoopClosedError) else "unavailable", 3)
    logged = ["a request of gows.v1 failed: RuntimeError('a bug')"] if isinstance(error, RuntimeError) else []
    assert stage.log.messages == logged
    stage.log.messages.clear()


def test_too_many_subscriptions(make_stage: MakeStage) -> None:
    client = Client(make_stage(max_topics=1))
    client.ask(type="subscribe", topic="a")
    told = client.ask(type="subscribe", topic="b")
    assert (told["code"], told["reason"]) == ("too_many", "a connection may have 1 subscriptions")


def test_what_hooks_refuse(make_stage: MakeStage) -> None:
    def may(ws: WebSocket, topic: str) -> bool:
        return topic == "open"

    client = Client(make_stage(may_subscribe=may, may_publish=may))
    assert client.ask(type="subscribe", topic="open")["type"] == "subscribed"
    assert client.ask(type="publish", topic="open", data=1)["type"] == "published"
    for request in ({"type": "subscribe", "topic": "secret"}, {"type": "publish", "topic": "secret", "data": 1}):
        assert client.ask(**request)["code"] == "not_allowed"


def test_a_hook_may_publish_itself(make_stage: MakeStage) -> None:
    def may(ws: WebSocket, topic: str) -> bool:
        stage.server.publish("log", topic, history=10)
        return True

    stage = make_stage(may_subscribe=may)
    client = Client(stage)
    client.ask(type="subscribe", topic="log")
    assert client.ask(type="subscribe", topic="a")["type"] in ("message", "subscribed")
    assert {message["type"] for message in client.pending()} <= {"message", "subscribed"}


class Careful(TopicHandler):
    """Says who it was that published a word."""

    def on_publish(self, ws: WebSocket, topic: str, data: Any) -> Any:
        if data == "secret":
            raise NotAllowedError("that is not for you to say")
        if not isinstance(data, str):
            raise ValueError("only words go out")
        return {"by": ws.subprotocol, "word": data}


def test_a_handler_may_change_what_is_published(make_stage: MakeStage) -> None:
    stage = make_stage(may_publish=lambda ws, topic: topic == "open")
    one = Client(stage)
    one.ask(type="subscribe", topic=">")
    stage.make_handler = Careful
    two = Client(stage)
    assert two.ask(type="publish", topic="open", data="hello") == {"type": "published", "topic": "open"}
    assert one.next()["data"] == {"by": "gows.v1", "word": "hello"}
    refused = two.ask(type="publish", topic="open", data=5)
    assert (refused["code"], refused["reason"]) == ("bad_request", "only words go out")
    refused = two.ask(type="publish", topic="open", data="secret")
    assert (refused["code"], refused["reason"]) == ("not_allowed", "that is not for you to say")
    assert two.ask(type="publish", topic="closed", data=5)["code"] == "not_allowed"  # it is not asked
    assert one.pending() == []


def test_rights_that_are_taken_away(make_stage: MakeStage) -> None:
    allowed = {"a", "b.*", "c"}
    stage = make_stage(may_subscribe=lambda ws, topic: topic in allowed, presence=lambda ws, topic: {})
    client, other = Client(stage), Client(stage)
    for topic in ("a", "b.*", "c"):
        client.ask(type="subscribe", topic=topic)
    other.ask(type="subscribe", topic="c")
    other.ask(type="subscribe", topic="a")
    guest, plain = plain_guest(stage)
    plain.subscribe("a")
    client.everything()
    other.everything()
    assert stage.server.recheck() == 0
    allowed.discard("a")
    mine = next(ws for ws in subscribers(stage) if len(ws.topics) == 3)
    assert stage.server.recheck(mine) == 1
    gone = {"type": "unsubscribed", "topic": "a", "code": "not_allowed", "reason": "no subscription to 'a'"}
    assert client.everything() == [gone]
    assert mine.topics == ("b.*", "c")
    assert [event["type"] for event in other.everything()] == ["leave"]
    allowed.clear()
    assert stage.server.recheck() == 5
    assert [event["topic"] for event in client.everything() if event["type"] == "unsubscribed"] == ["b.*", "c"]
    assert [event["topic"] for event in other.everything() if event["type"] == "unsubscribed"] == ["c", "a"]
    assert guest.pending() == []
    assert stage.server.topics() == {}
    assert stage.server.members("c") == []


def test_who_asks_again_and_may_not_hears_no_more(make_stage: MakeStage) -> None:
    allowed = {"a"}
    stage = make_stage(may_subscribe=lambda ws, topic: topic in allowed)
    client = Client(stage)
    client.ask(type="subscribe", topic="a")
    allowed.clear()
    assert client.ask(type="subscribe", topic="a")["code"] == "not_allowed"
    stage.server.publish("a", 1)
    assert client.everything() == []
    assert stage.server.topics() == {}
    allowed.add("a")
    _, ws = plain_guest(stage)
    ws.subscribe("a")
    allowed.clear()
    with pytest.raises(NotAllowedError):
        ws.subscribe("a")
    assert ws.topics == ()


def test_a_right_that_was_taken_away_is_told_to_who_is_too_slow_by_a_close(make_stage: MakeStage) -> None:
    allowed = {"a"}
    stage = make_stage(may_subscribe=lambda ws, topic: topic in allowed)
    client = Client(stage)
    client.ask(type="subscribe", topic="a")
    (ws,) = subscribers(stage)
    stop_reading(stage, client, ws)
    ws.write_binary(bytes(stage.options.high_water))
    allowed.clear()
    assert stage.server.recheck() == 1
    client.guest.read(), client.guest.read()
    assert client.guest.close_frame() == (1013, "too slow")


@pytest.mark.parametrize("answer", [None, 1, "yes", [0]])
def test_only_true_is_a_yes(make_stage: MakeStage, answer: Any) -> None:
    stage = make_stage(may_subscribe=lambda ws, topic: answer, may_publish=lambda ws, topic: answer)
    client = Client(stage)
    assert client.ask(type="subscribe", topic="a")["code"] == "not_allowed"
    assert client.ask(type="publish", topic="a", data=1)["code"] == "not_allowed"
    logged = stage.log.take()
    kind = type(answer).__name__
    assert [line.partition(",")[0] for line in logged] == [
        f"{name} returned {kind}" for name in ("may_subscribe", "may_publish")
    ]


def test_a_coroutine_function_is_refused_where_nothing_can_wait() -> None:
    async def coroutine(*arguments: Any) -> bool:
        return False

    class Callable_:
        async def __call__(self, *arguments: Any) -> bool:
            return False

    for function in (coroutine, partial(coroutine, 1), Callable_()):
        rules: dict[str, Any] = {"keep": function}
        with pytest.raises(TypeError, match="keep is an `async def`"):
            Server(**rules)


def test_without_hooks_nothing_is_allowed(make_stage: MakeStage) -> None:
    client = Client(make_stage(may_subscribe=None, may_publish=None))
    assert "no may_subscribe" in client.ask(type="subscribe", topic=">")["reason"]
    assert "no may_publish" in client.ask(type="publish", topic="a", data=1)["reason"]
    assert client.stage.server.topics() == {}


def test_who_speaks_something_else_is_closed(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, _ = stage.guest()
    assert guest.close_frame() == (1008, "the subprotocol gows.v1 is spoken here")


def test_who_is_too_slow_for_its_answer_is_closed(make_stage: MakeStage) -> None:
    def fill(ws: WebSocket, topic: str) -> bool:
        ws.write_binary(bytes(stage.world.network.buffer_size + 2 * stage.options.high_water))
        return True

    stage = make_stage(may_subscribe=fill)
    client = Client(stage)
    client.tell(type="subscribe", topic="a")
    stage.run_for(0.5)
    assert client.guest.read().opcode == wire.BINARY
    assert client.guest.close_frame() == (1013, "too slow")


# ---------------------------------------------------------------------- the routes


def test_the_routes(make_stage: MakeStage) -> None:
    stage = make_stage()
    serve_topics(stage.server, "/live")
    guest = stage.connect()
    assert guest.upgrade(head=wire.request("/live", V1)).status == 101
    guest.send(wire.frame(wire.TEXT, b'{"type":"subscribe","topic":"a"}'))
    assert json.loads(guest.text())["type"] == "subscribed"
    reader = stage.connect()
    reader.send(b"GET /gows.js HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    reader.wait(lambda: reader.end)
    assert reader._head is not None
    assert b"text/javascript" in reader._head
    assert b"class Gows" in reader._head


@pytest.mark.parametrize(
    ("server", "route", "size"),
    [
        (None, None, SEND_BUFFER),
        (AcceptOptions(send_buffer=50_000), None, 50_000),
        (None, AcceptOptions(), None),
    ],
)
def test_the_kernel_holds_little_for_a_client(make_stage: MakeStage, server: Any, route: Any, size: int | None) -> None:
    stage = make_stage(options=server)
    serve_topics(stage.server, "/live", options=route)
    assert stage.connect().upgrade(head=wire.request("/live", V1)).status == 101
    (ws,) = stage.server.connections
    assert isinstance(ws, WebSocket)
    assert ws.context.options.send_buffer == size


def test_a_client_that_has_gone_asks_for_nothing(make_stage: MakeStage) -> None:
    """What it published is published all the same; for what it asks, nobody hears the answer."""
    stage = make_stage(keep=keep_ten)
    asked: list[str] = []
    follow = stage.server.publishing.follow

    def spy(ws: Any, topic: str, *arguments: Any, **more: Any) -> Any:
        asked.append(topic)
        return follow(ws, topic, *arguments, **more)

    stage.server.publishing.follow = spy  # type: ignore[method-assign]

    class Leaving(TopicHandler):
        def on_message(self, ws: WebSocket, opcode: Any, buff: Any) -> None:
            if b'"b"' in buff.clone_bytes():
                ws.close()
            super().on_message(ws, opcode, buff)

    stage.make_handler = Leaving
    client = Client(stage)
    client.guest.send(
        wire.frame(wire.TEXT, b'{"type":"subscribe","topic":"a"}'),
        wire.frame(wire.TEXT, b'{"type":"subscribe","topic":"b"}'),
        wire.frame(wire.TEXT, b'{"type":"subscribe","topic":"c","history":9}'),
        wire.frame(wire.TEXT, b'{"type":"publish","topic":"d","data":1}'),
    )
    stage.run_for(1)
    assert asked == ["a"]


@pytest.mark.parametrize(
    ("server", "route", "rate"),
    [
        (None, None, MESSAGE_RATE),
        (AcceptOptions(max_message_rate=5.0), None, 5.0),
        (AcceptOptions(max_message_rate=5.0), AcceptOptions(), None),
        (None, AcceptOptions(max_message_rate=7.0), 7.0),
    ],
)
def test_clients_have_a_rate(make_stage: MakeStage, server: Any, route: Any, rate: float | None) -> None:
    stage = make_stage(options=server)
    found: list[WebSocket] = []

    class Kept(TopicHandler):
        def on_open(self, ws: WebSocket) -> None:
            found.append(ws)

    serve_topics(stage.server, "/live", options=route, make_handler=lambda request: Kept())
    guest = stage.connect()
    assert guest.upgrade(head=wire.request("/live", V1)).status == 101
    stage.run_until(lambda: found)
    assert found[0].context.options.max_message_rate == rate
    assert found[0].subprotocol == "gows.v1"
    if rate == MESSAGE_RATE:
        guest.send(*[wire.frame(wire.TEXT, b"5")] * MESSAGE_BURST)
        stage.run_for(0.001)
        assert not found[0].closed
        guest.send(*[wire.frame(wire.TEXT, b"5")] * 200)
        stage.run_until(lambda: found[0].closed)


def test_a_route_may_refuse_and_have_no_script(make_stage: MakeStage) -> None:
    def make_handler(request: Any) -> Handler:
        if request.query.get("token") != "right":
            raise HttpError(401, "who are you?")
        return TopicHandler()

    stage = make_stage()
    serve_topics(stage.server, "/live", script=None, make_handler=make_handler)
    assert stage.connect().upgrade(head=wire.request("/live", V1)).status == 401
    assert stage.connect().upgrade(head=wire.request("/live?token=right", V1)).status == 101
    assert stage.connect().upgrade(head=wire.request("/gows.js", V1)).status == 404


def test_the_tables_of_the_page_are_the_code() -> None:
    source = "".join((ROOT / "gows" / "topics" / name).read_text("utf-8") for name in ("subprotocol.py", "requests.py"))
    tables = {
        name: re.findall(r"^\| `(\w+)`", rows, re.MULTILINE)
        for name, rows in re.findall(
            r"<!-- table: (\w+) -->\n((?:\|.*\n)+)", (ROOT / "docs" / "reference" / "topics.md").read_text("utf-8")
        )
    }
    assert tables["requests"] == list(_ACTS)
    codes = set(re.findall(r'RequestError\("(\w+)"', source)) | {code for _, code in _CODES}
    assert tables["codes"] == sorted(codes, key=tables["codes"].index)


def test_the_script_is_as_short_as_is_said() -> None:
    said = re.search(
        r"the script of (\d+) lines", (ROOT / "docs" / "how-to" / "topics-for-browsers.md").read_text("utf-8")
    )
    assert said is not None
    assert len((ROOT / "gows" / "pages" / "gows.js").read_text("utf-8").splitlines()) <= int(said[1])
