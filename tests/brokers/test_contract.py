"""What every broker promises: one suite over a server by itself, over servers on one bus, over worker processes, and
over servers on one Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gows.brokers.redis.broker import RedisBroker
from tests.support.needs import need, need_module
from tests.support.nodes import Client, Nodes, ProcessNodes, ServerNodes
from tests.support.processes import Children
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

KINDS = ["local", "bus", "processes", "redis", "redis-sharded"]


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with Children() as children:
        yield children


@pytest.fixture(scope="module")
def redis(children: Children, tmp_path_factory: pytest.TempPathFactory) -> RedisServer:
    need("redis-server")
    need_module("redis")
    return RedisServer(children, tmp_path_factory.mktemp("redis"), durable=False)


@pytest.fixture(params=KINDS)
def nodes(request: pytest.FixtureRequest, children: Children, tmp_path: Path) -> Iterator[Nodes]:
    made: Any
    if request.param == "local":
        made = ServerNodes([None])
    elif request.param == "bus":
        made = ServerNodes([None, None], tmp_path / "bus")
    elif request.param == "processes":
        made = ProcessNodes(children, tmp_path, 2)
    else:
        url = request.getfixturevalue("redis").url
        sharded = request.param == "redis-sharded"
        prefix = f"t{time.time_ns()}"
        made = ServerNodes([RedisBroker(url, prefix=prefix, sharded=sharded) for _ in range(2)])
    yield made
    made.close()


def wait_for(nodes: Nodes, node: int, topic: str, offset: int) -> dict[str, Any]:
    """Until a node has heard so much of a topic: what is acknowledged may be on its way to others. Where it stands."""
    client = nodes.client(node)
    wait_until(lambda: client.subscribe(topic).get("offset") == offset)
    return client.subscribe(topic)


def test_all_subscribers_get_it_and_who_publishes_does_not(nodes: Nodes) -> None:
    clients = [nodes.client(number) for number in (0, 0, 1, 1)]
    for client in clients:
        client.subscribe("a.b")
        client.subscribe("a.*")
    for number, client in enumerate(clients):
        client.publish("a.b", number)
    for number, client in enumerate(clients):
        assert sorted(client.data(3)) == [other for other in range(4) if other != number], "each once"
        client.quiet()


@pytest.mark.parametrize("topic", ["a", "kept.a"])
def test_what_one_publishes_comes_in_order(nodes: Nodes, topic: str) -> None:
    listeners = [nodes.client(0), nodes.client(1)]
    speakers = [nodes.client(0), nodes.client(1)]
    for listener in listeners:
        listener.subscribe(topic)

    def speak(name: int, speaker: Client) -> None:
        for number in range(200):
            speaker.send(type="publish", topic=topic, data=[name, number])

    threads = [threading.Thread(target=speak, args=pair) for pair in enumerate(speakers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    heard = [[listener.next() for _ in range(400)] for listener in listeners]
    for messages in heard:
        for name in (0, 1):
            assert [data[1] for data in (each["data"] for each in messages) if data[0] == name] == list(range(200))
    if topic == "kept.a":
        assert heard[0] == heard[1], "in one order everywhere"
        assert [each["offset"] for each in heard[0]] == list(range(1, 401))


def test_patterns_and_unsubscribing(nodes: Nodes) -> None:
    here, there = nodes.client(0), nodes.client(1)
    here.subscribe("news.*")
    here.subscribe("news.>")
    there.publish("news.one", 1)
    there.publish("news.one.two", 2)
    there.publish("weather", 3)
    assert here.data(2) == [1, 2]
    here.ask(type="unsubscribe", topic="news.>")
    there.publish("news.one.two", 4)
    there.publish("news.one", 5)
    assert here.data(1) == [5]
    here.ask(type="unsubscribe", topic="news.*")
    there.publish("news.one", 6)
    here.quiet()


def test_what_is_asked_for_in_one_breath_is_done_in_that_order(nodes: Nodes) -> None:
    here, there = nodes.client(0), nodes.client(1)
    for _ in range(10):
        here.send(type="subscribe", topic="a")
        here.send(type="unsubscribe", topic="a")
    assert here.ask(type="unsubscribe", topic="a")["type"] == "unsubscribed"
    here._messages.clear()
    there.publish("a", 1)
    here.quiet()
    here.send(type="subscribe", topic="a")
    number = here.send(type="publish", topic="b", data=1)
    assert [here.next()["id"] for _ in range(2)] == [number - 1, number]


def test_what_was_missed_comes_once_and_before_what_is_new(nodes: Nodes) -> None:
    speaker = nodes.client(0)
    begun = speaker.subscribe("kept.a")
    assert "offset" not in begun or begun["offset"] == 0
    for number in range(50):
        speaker.publish("kept.a", number)
    for node in (0, 1):
        stands = wait_for(nodes, node, "kept.a", 50)
        for seen in (0, 20, 50):
            back = nodes.client(node)
            answer = back.subscribe("kept.a", epoch=stands["epoch"], offset=seen)
            assert answer["recovered"] is True
            assert [back.next()["offset"] for _ in range(50 - seen)] == list(range(seen + 1, 51))
            back.quiet()
    for wrong in ({"epoch": "another", "offset": 3}, {"epoch": stands["epoch"], "offset": 51}):
        assert nodes.client(1).subscribe("kept.a", **wrong)["recovered"] is False
    for number in range(60):
        speaker.publish("kept.a", number)
    for node in (0, 1):
        wait_for(nodes, node, "kept.a", 110)
        back = nodes.client(node)
        assert back.subscribe("kept.a", epoch=stands["epoch"], offset=9)["recovered"] is False, "ten are gone"
        back = nodes.client(node)
        assert back.subscribe("kept.a", epoch=stands["epoch"], offset=10)["recovered"] is True
        assert [back.next()["offset"] for _ in range(100)] == list(range(11, 111))


def test_the_latest_come_first_to_who_asks_for_them(nodes: Nodes) -> None:
    speaker = nodes.client(0)
    for number in range(5):
        speaker.publish("kept.a", number)
    for node in (0, 1):
        wait_for(nodes, node, "kept.a", 5)
        for wanted, first in ((2, 4), (5, 1), (50, 1)):
            client = nodes.client(node)
            assert client.subscribe("kept.a", history=wanted)["offset"] == first - 1
            assert [client.next()["offset"] for _ in range(6 - first)] == list(range(first, 6))
            client.quiet()
        nothing = nodes.client(node)
        assert "offset" not in nothing.subscribe("fleeting", history=5)
        nothing.quiet()


def test_nothing_is_lost_nor_comes_twice_while_it_goes_on(nodes: Nodes) -> None:
    speaker = nodes.client(0)
    speaker.publish("kept.a", 0)
    first = wait_for(nodes, 1, "kept.a", 1)
    ended = threading.Event()

    def speak() -> None:
        for number in range(1, 60):
            speaker.publish("kept.a", number)
            time.sleep(0.002)
        ended.set()

    thread = threading.Thread(target=speak)
    thread.start()
    clients: list[Client] = []
    while not ended.is_set():
        clients.append(nodes.client(len(clients) % 2))
        assert clients[-1].subscribe("kept.a", epoch=first["epoch"], offset=1)["recovered"] is True
    thread.join()
    assert len(clients) > 4
    for client in clients:
        assert [client.next()["offset"] for _ in range(59)] == list(range(2, 61))


def test_what_is_too_old_is_gone(nodes: Nodes) -> None:
    here = nodes.client(0)
    here.publish("kept.brief", 1)
    here.publish("kept.a", "expires", ttl=0.3)
    here.publish("kept.a", "stays")
    brief, kept = wait_for(nodes, 1, "kept.brief", 1), wait_for(nodes, 1, "kept.a", 2)
    time.sleep(0.6)
    for node in (0, 1):
        late = nodes.client(node)
        assert late.subscribe("kept.brief", epoch=brief["epoch"], offset=0)["recovered"] is False
        assert late.subscribe("kept.a", epoch=kept["epoch"], offset=0)["recovered"] is True
        assert late.data(1) == ["stays"]


def test_who_is_there(nodes: Nodes) -> None:
    first, second, third = nodes.client(0), nodes.client(1), nodes.client(1)
    me = first.subscribe("room.a")["me"]
    other = second.subscribe("room.a")["me"]
    joined = first.next()
    assert joined == {"type": "join", "topic": "room.a", "id": other, "info": {"room": "room.a"}}
    wait_until(lambda: second.members("room.a") == third.members("room.a") == sorted([me, other]))
    assert third.members("room.b") == []
    second.ask(type="unsubscribe", topic="room.a")
    assert first.next() == {"type": "leave", "topic": "room.a", "id": other}
    another = third.subscribe("room.a")["me"]
    assert first.next()["id"] == another != other
    third.close()
    assert first.next() == {"type": "leave", "topic": "room.a", "id": another}
    assert first.members("room.a") == [me]
    first.subscribe("room.*")
    assert first.members("room.*") == [], "a pattern is no place to be in"


def test_those_of_a_node_that_dies_are_gone(nodes: Nodes) -> None:
    if not nodes.several:
        return  # there is nobody who would hear of it
    here = nodes.client(0)
    here.subscribe("room.a")
    there = nodes.client(1).subscribe("room.a")["me"]
    assert here.next()["type"] == "join"
    nodes.kill(1)
    assert here.next() == {"type": "leave", "topic": "room.a", "id": there}


def test_what_is_not_allowed_is_refused_at_once(nodes: Nodes) -> None:
    here = nodes.client(0)
    for request in (
        {"type": "subscribe", "topic": "secret"},
        {"type": "publish", "topic": "secret", "data": 1},
        {"type": "presence", "topic": "secret"},
    ):
        assert here.ask(**request)["code"] == "not_allowed"
