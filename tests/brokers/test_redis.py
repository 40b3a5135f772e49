"""RedisBroker, and a Redis that dies, forgets, hangs, and comes back."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import gows
import gows.brokers.redis.jobs
import gows.brokers.redis.nodes
import gows.brokers.redis.recovery
import gows.brokers.redis.worker
from gows import BrokerError, QueueFullError, RemoteConnection
from gows.brokers.redis.broker import RedisBroker
from gows.brokers.redis.logs import Logs
from gows.brokers.redis.recovery import Recovery
from gows.brokers.redis.worker import Worker
from tests.support.addresses import free_port
from tests.support.needs import need, need_module
from tests.support.nodes import Client, ServerNodes
from tests.support.processes import Children
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture
def children() -> Iterator[Children]:
    need("redis-server")
    need_module("redis")
    with Children() as children:
        yield children


MakeRedis = Callable[..., RedisServer]


@pytest.fixture
def make_redis(children: Children, tmp_path: Path) -> MakeRedis:
    def make(*, durable: bool = True) -> RedisServer:
        return RedisServer(children, tmp_path, durable=durable)

    return make


MakeNodes = Callable[..., ServerNodes]


@pytest.fixture
def make_nodes() -> Iterator[MakeNodes]:
    made: list[ServerNodes] = []

    def make(url: str, count: int = 2, folder: Path | None = None, **settings: Any) -> ServerNodes:
        made.append(ServerNodes([RedisBroker(url, **settings) for _ in range(count)], folder))
        return made[-1]

    yield make
    for nodes in made:
        nodes.close()


def brokers(nodes: ServerNodes) -> list[RedisBroker]:
    return [server.broker for server in nodes.servers if isinstance(server.broker, RedisBroker)]


def connected(nodes: ServerNodes) -> bool:
    return all(broker.connected for broker in brokers(nodes))


def gone(nodes: ServerNodes) -> bool:
    return not any(broker.connected for broker in brokers(nodes))


def restart(redis: RedisServer, nodes: ServerNodes) -> None:
    """It dies, and comes back with what is on its disk."""
    redis.kill()
    wait_until(lambda: gone(nodes))
    redis.start()
    wait_until(lambda: connected(nodes), 10.0)


class Speaker:
    """Publishes numbers until it is told to end, and notes which were acknowledged."""

    def __init__(self, client: Client, topic: str, name: int) -> None:
        self.acknowledged: list[int] = []
        self.refused = 0
        self._client = client
        self._topic = topic
        self._name = name
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._speak)
        self._thread.start()

    def _speak(self) -> None:
        number = 0
        while not self._ended.is_set():
            answer = self._client.ask(type="publish", topic=self._topic, data=[self._name, number])
            if answer["type"] == "published":
                self.acknowledged.append(number)
            else:
                self.refused += 1
                time.sleep(0.02)
            number += 1

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


@pytest.mark.parametrize("outage", ["queue", "refuse"])
def test_killed_and_started_again_nothing_acknowledged_is_lost(
    make_redis: MakeRedis, make_nodes: MakeNodes, outage: str
) -> None:
    redis = make_redis()
    nodes = make_nodes(redis.url, outage=outage)
    listeners = [nodes.client(0), nodes.client(1)]
    for listener in listeners:
        listener.subscribe("kept.long")
    speakers = [Speaker(nodes.client(number), "kept.long", number) for number in (0, 1)]
    for _ in range(3):
        wait_until(lambda: connected(nodes), 10.0)
        before = [len(speaker.acknowledged) for speaker in speakers]
        wait_until(lambda before=before: all(len(s.acknowledged) > b + 20 for s, b in zip(speakers, before)))  # type: ignore[misc]  # noqa: B905
        redis.kill()
        wait_until(lambda: gone(nodes))
        redis.start()
    wait_until(lambda: connected(nodes), 10.0)
    for speaker in speakers:
        speaker.end()
    nodes.client(0).publish("kept.long", "end")
    heard: list[list[dict[str, Any]]] = []
    for listener in listeners:
        heard.append([])
        while (message := listener.next())["data"] != "end":
            assert message["type"] == "message", "no gap is told, for there is none"
            heard[-1].append(message)
    assert heard[0] == heard[1]
    assert [message["offset"] for message in heard[0]] == list(range(1, len(heard[0]) + 1))
    for name, speaker in enumerate(speakers):
        numbers = [data[1] for data in (message["data"] for message in heard[0]) if data[0] == name]
        assert numbers == sorted(set(numbers)), "none comes twice, nor out of order"
        assert set(speaker.acknowledged) <= set(numbers)
        if outage == "queue":
            assert (speaker.refused, speaker.acknowledged) == (0, numbers)
    if outage == "refuse":
        assert sum(speaker.refused for speaker in speakers) > 0
        counts = [broker.counters() for broker in brokers(nodes)]
        refused = sum(count["refused"] + count["unknown"] for count in counts)
        assert refused == sum(speaker.refused for speaker in speakers)


def test_a_redis_that_forgets_is_told(make_redis: MakeRedis, make_nodes: MakeNodes) -> None:
    redis = make_redis(durable=False)
    nodes = make_nodes(redis.url)
    here, there = nodes.client(0), nodes.client(1)
    first = here.subscribe("kept.a")
    there.subscribe("other")
    for number in range(3):
        there.publish("kept.a", number)
    seen = [here.next() for _ in range(3)]
    restart(redis, nodes)
    assert here.next() == {"type": "lost", "topic": "kept.a"}
    there.publish("kept.a", "new")
    new = here.next()
    assert (new["data"], new["offset"]) == ("new", 1)
    assert new["epoch"] != seen[0]["epoch"]
    assert there.subscribe("kept.a", epoch=seen[0]["epoch"], offset=2)["recovered"] is False
    assert nodes.servers[0].publishing.gaps == 1
    assert "epoch" not in first or first["epoch"] == seen[0]["epoch"]


def test_an_older_state_is_no_continuation(make_redis: MakeRedis, make_nodes: MakeNodes) -> None:
    """It comes back with a snapshot, in which the topic stood elsewhere."""
    redis_py = need_module("redis")
    redis = make_redis(durable=False)
    nodes = make_nodes(redis.url)
    here, there = nodes.client(0), nodes.client(1)
    here.subscribe("kept.a")
    there.publish("kept.a", "in the snapshot")
    with redis_py.Redis(port=redis.port) as admin:
        admin.save()
    there.publish("kept.a", "not in it")
    old = [here.next() for _ in range(2)]
    restart(redis, nodes)
    there.publish("kept.a", "second, again")
    lost = here.next()
    assert (lost["type"], lost["topic"], lost["offset"]) == ("lost", "kept.a", 0)
    assert lost["epoch"] != old[0]["epoch"]
    assert here.data(1) == ["second, again"]


def test_while_it_is_away(make_redis: MakeRedis, make_nodes: MakeNodes) -> None:
    redis = make_redis()
    nodes = make_nodes(redis.url)
    here, there = nodes.client(0), nodes.client(1)
    where = here.subscribe("kept.a")
    there.subscribe("room.a")
    for number in range(3):
        there.publish("kept.a", number)
    messages = [here.next() for _ in range(3)]
    redis.kill()
    wait_until(lambda: gone(nodes))
    assert here.ask(type="publish", topic="kept.a", data=1)["code"] == "unavailable"
    with pytest.raises(BrokerError, match="not there"):
        nodes.servers[0].publish("a", "b")
    back = nodes.client(0)
    assert back.subscribe("kept.a", epoch=messages[0]["epoch"], offset=1)["recovered"] is True, "what we know ourselves"
    assert back.data(2) == [1, 2]
    assert nodes.client(1).subscribe("kept.a", epoch=messages[0]["epoch"], offset=1)["recovered"] is False
    assert len(back.members("room.a")) == 1
    late = nodes.client(1)
    late.subscribe("kept.b")
    late.subscribe("room.a")
    redis.start()
    wait_until(lambda: connected(nodes), 10.0)
    here.publish("kept.b", "heard")
    assert late.data(1) == ["heard"]
    wait_until(lambda: len(here.members("room.a")) == 2)
    assert where["type"] == "subscribed"


def test_what_waits_is_bounded(make_redis: MakeRedis, make_nodes: MakeNodes) -> None:
    redis = make_redis()
    (server,) = make_nodes(redis.url, 1, outage="queue", max_waiting=10_000).servers
    redis.kill()
    broker = server.broker
    wait_until(lambda: not broker.connected)
    told: list[Exception | None] = []
    sent = 0
    full = None
    while full is None:
        try:
            server.publish("a", "x" * 1000, done=told.append)
            sent += 1
        except QueueFullError as error:
            full = error
    assert "wait for Redis" in str(full)
    assert 5 <= sent <= 10
    assert told == []
    assert (broker.counters()["queued"], broker.counters()["full"]) == (sent, 1)
    redis.start()
    wait_until(lambda: told == [None] * sent, 10.0)
    assert broker.waiting == 0


def test_what_waits_at_the_end_is_told(make_nodes: MakeNodes) -> None:
    need_module("redis")
    (server,) = make_nodes(f"redis://127.0.0.1:{free_port()}/0", 1, outage="queue", timeout=1.0).servers
    told: list[Exception | None] = []
    server.publish("a", "b", done=told.append)
    server.stop()
    assert [str(error) for error in told] == ["the broker was closed"]
    with pytest.raises(BrokerError, match="closed"):
        server.publish("a", "b")


def test_it_may_come_later_than_we(
    make_redis: MakeRedis, make_nodes: MakeNodes, caplog: pytest.LogCaptureFixture
) -> None:
    redis = make_redis()
    redis.kill()
    nodes = make_nodes(redis.url, 1)
    assert caplog.text.count("Redis is not there") == 1
    here, there = nodes.client(), nodes.client()
    here.subscribe("a")
    redis.start()
    wait_until(lambda: connected(nodes), 10.0)
    there.publish("a", 1)
    assert here.data(1) == [1]
    assert caplog.text.count("Redis is not there") == 1, "once, not for every attempt"


def test_all_that_goes_wrong_at_once_is_told_once(
    make_redis: MakeRedis, make_nodes: MakeNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(worker: Worker) -> None:
        raise OSError("a fault")

    async def fail_later(worker: Worker) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OSError("another fault") from None

    for name, failing in (("_read", fail), ("_work", fail_later), ("_beat", fail)):
        monkeypatch.setattr(Worker, name, failing)
    told: list[str] = []
    ear = logging.Handler(logging.ERROR)
    monkeypatch.setattr(ear, "emit", lambda record: told.append(record.getMessage()))
    for logger in map(logging.getLogger, ("gows", "asyncio")):
        monkeypatch.setattr(logger, "handlers", [ear])
        monkeypatch.setattr(logger, "propagate", False)  # pytest keeps records, and so the error, and so its task
    make_nodes(make_redis().url, 1).close()
    gc.collect()
    assert told == ["Redis is not there: a fault; it is tried again"]


def test_it_hangs(make_redis: MakeRedis, make_nodes: MakeNodes) -> None:
    redis = make_redis()
    nodes = make_nodes(redis.url, 1, timeout=0.5)
    here, there = nodes.client(), nodes.client()
    here.subscribe("kept.a")
    redis.freeze()
    answer = there.ask(type="publish", topic="kept.a", data="in doubt")
    assert (answer["code"], "may have the message" in answer["reason"]) == ("unavailable", True)
    assert there.ask(type="publish", topic="kept.a", data=1)["code"] == "unavailable"
    redis.thaw()
    wait_until(lambda: connected(nodes), 10.0)
    there.publish("kept.a", "sure")
    assert here.data(2) == ["in doubt", "sure"], "it was there, and is found when it is looked up"


def test_who_is_cut_off_finds_what_it_missed(make_redis: MakeRedis, make_nodes: MakeNodes) -> None:
    redis_py = need_module("redis")
    redis = make_redis(durable=False)
    nodes = make_nodes(redis.url, outage="queue")
    here = nodes.client(0)
    here.subscribe("kept.long")
    speaker = Speaker(nodes.client(1), "kept.long", 1)

    def reconnects() -> int:
        return sum(broker.counters()["reconnects"] for broker in brokers(nodes))

    with redis_py.Redis(port=redis.port) as admin:
        for _ in range(5):
            wait_until(lambda: len(admin.client_list(_type="pubsub")) == 2 and connected(nodes), 10.0)
            count = len(speaker.acknowledged)
            wait_until(lambda count=count: len(speaker.acknowledged) > count + 10)  # type: ignore[misc]
            before = reconnects()
            assert admin.client_kill_filter(_type="pubsub") == 2
            wait_until(lambda before=before: reconnects() >= before + 2, 10.0)  # type: ignore[misc]
    wait_until(lambda: connected(nodes), 10.0)
    speaker.end()
    heard = [here.next() for _ in range(len(speaker.acknowledged))]
    assert [message["data"][1] for message in heard] == speaker.acknowledged
    assert [message["offset"] for message in heard] == list(range(1, len(heard) + 1))


def test_what_comes_while_somebody_is_about_to_subscribe_is_not_passed_over(
    make_redis: MakeRedis, make_nodes: MakeNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = make_nodes(make_redis().url)
    here, there = nodes.client(0), nodes.client(1)
    for number in range(3):
        there.publish("kept.a", number)
    where = here.subscribe("kept.a")
    here.ask(type="unsubscribe", topic="kept.a")
    look_up = Recovery.look_up

    async def slow(recovery: Recovery, job: Any) -> Any:
        found = await look_up(recovery, job)
        await asyncio.get_running_loop().run_in_executor(None, there.publish, "kept.a", "last")
        await asyncio.sleep(0.2)
        return found

    monkeypatch.setattr(Recovery, "look_up", slow)
    assert here.subscribe("kept.a", epoch=where["epoch"], offset=1)["recovered"] is True
    assert here.data(3) == [1, 2, "last"]


def test_what_was_taken_away_is_told(make_redis: MakeRedis, make_nodes: MakeNodes) -> None:
    redis_py = need_module("redis")
    redis = make_redis()
    nodes = make_nodes(redis.url)
    here, there = nodes.client(0), nodes.client(1)
    here.subscribe("kept.a")
    there.publish("kept.a", 1)
    assert here.data(1) == [1]
    with redis_py.Redis(port=redis.port) as admin:
        admin.flushall()
        there.publish("kept.a", 2)
        lost = here.next()
        assert (lost["type"], lost["offset"]) == ("lost", 0)
        assert here.data(1) == [2]


def test_strangers_on_its_channels_do_no_harm(
    make_redis: MakeRedis, make_nodes: MakeNodes, caplog: pytest.LogCaptureFixture
) -> None:
    redis_py = need_module("redis")
    redis = make_redis()
    nodes = make_nodes(redis.url)
    here, there = nodes.client(0), nodes.client(1)
    here.subscribe("a")
    channel = brokers(nodes)[0]._shards.base(brokers(nodes)[0]._shards.of("a"))
    with redis_py.Redis(port=redis.port) as admin:
        for junk in (b"", b"\2a\n{}\n", b"\1a\nno json\n", b"\1a\n{}\n", b"\1a b c\n{}\n", b"\1\xff\n"):
            assert admin.publish(channel, junk) >= 1
        for junk in (b"\1tell\n", b"\1tell x y z w\n", b"junk"):
            assert admin.publish("gows:{nodes}", junk) == 2
    there.publish("a", 1)
    assert here.data(1) == [1]
    assert caplog.text.count("was not understood") == 2, "once in a minute, by each of two"
    assert sum(broker.counters()["foreign"] for broker in brokers(nodes)) >= 12


def envelope(**fields: Any) -> bytes:
    return json.dumps({"topic": "kept.a", "opcode": 1, "compress": True, "json": True, **fields}).encode()


POISON: dict[str, dict[str, Any]] = {
    "no JSON": {"ms": 1, "body": b"garbage"},
    "no object": {"ms": 1, "body": b"[]\nx"},
    "other fields": {"foo": "bar"},
    "a time that is none": {"ms": "soon", "body": envelope() + b"\n1"},
    "no UTF-8": {"ms": 1, "body": envelope() + b"\n\xff"},
    "a huge time to live": {"ms": 1, "body": envelope()[:-1] + b',"ttl":1' + b"0" * 400 + b"}\n1"},
    "another topic": {"ms": 1, "body": envelope(topic="secret") + b"\n1"},
}


def test_what_somebody_put_into_a_history_is_skipped_and_told(make_redis: MakeRedis, make_nodes: MakeNodes) -> None:
    redis_py = need_module("redis")
    redis = make_redis(durable=False)
    nodes = make_nodes(redis.url, 1)
    (broker,) = brokers(nodes)
    here, there = nodes.client(), nodes.client()
    here.subscribe("kept.a")
    base = broker._shards.base(broker._shards.of("kept.a"))
    with redis_py.Redis(port=redis.port) as admin:
        for number, fields in enumerate(POISON.values()):
            there.publish("kept.a", number)
            ours = here.next()
            assert ours["data"] == number
            offset = ours["offset"] + 1
            admin.xadd(f"{base}:log:kept.a", fields, id=f"{offset}-1")
            admin.hset(f"{base}:at:kept.a", "offset", offset)
            late = nodes.client()
            assert late.subscribe("kept.a", epoch=ours["epoch"], offset=ours["offset"] - 1)["recovered"] is True
            assert late.next()["data"] == number, "all that has come here"
            assert late.subscribe("kept.b", history=50)["type"] == "subscribed"
            late.close()
            there.publish("kept.a", "after it")
            lost = here.next()
            assert (lost["type"], lost["offset"]) == ("lost", offset)
            assert here.next()["data"] == "after it"
        asked = nodes.client()
        asked.subscribe("kept.a", history=50)
        assert asked.data(2) == [0, "after it"]
        admin.xadd(f"{base}:log:kept.a", {"foo": "bar"}, id="999999-1")  # where our numbers would come later
        there.publish("kept.a", "in a new epoch")
        lost = here.next()
        assert (lost["type"], lost["offset"]) == ("lost", 0)
        assert here.data(1) == ["in a new epoch"]
        admin.hset(f"{base}:at:kept.a", "offset", "many")
        there.publish("kept.a", "in another one")
        assert here.next()["type"] == "lost"
        assert here.data(1) == ["in another one"]
    counts = broker.counters()
    assert counts["foreign"] >= len(POISON)
    assert (counts["reconnects"], counts["failed"]) == (0, 0)


NO_GREETINGS = [
    b"\1\n",
    b"\1hello\n",
    b"\1what x \nfoo",
    b"\1tell x \nfoo",
    b"\1tell x \n5",
    b'\1tell x \n{"join":["a"]}',
    b'\1tell x \n{"join":[5,"b",1]}',
    b'\1tell x \n{"join":["room.a",[],1]}',
    b'\1tell x \n{"join":["room.a","nan",NaN]}',
    b'\1tell x \n{"join":["room.a","\\ud800",1]}',
    b'\1tell x \n{"leave":null}',
    b'\1tell x \n{"some":[[1,2,3]]}',
    b"\1tell x \n" + b"[" * 100_000,
    b"\1hello \xed\xa0\x80 \n",
]


def test_what_somebody_tells_about_members_is_checked(make_redis: MakeRedis, make_nodes: MakeNodes) -> None:
    redis_py = need_module("redis")
    redis = make_redis(durable=False)
    nodes = make_nodes(redis.url, 1)
    (broker,) = brokers(nodes)
    here = nodes.client()
    me = here.subscribe("room.a")["me"]
    with redis_py.Redis(port=redis.port) as admin:
        for junk in NO_GREETINGS:
            admin.publish("gows:{nodes}", junk)
        for number in range(gows.brokers.redis.nodes.MOST_PEERS + 10):
            admin.publish("gows:{nodes}", b"\1hello n%d \n" % number)
        wait_until(lambda: broker.counters()["foreign"] >= len(NO_GREETINGS) + 10, 10.0)
    assert here.members("room.a") == [me]
    assert len(broker.peers) == gows.brokers.redis.nodes.MOST_PEERS
    assert broker.counters()["reconnects"] == 0


def test_a_subscription_during_an_outage_is_not_answered_from_what_is_old(
    make_redis: MakeRedis, make_nodes: MakeNodes
) -> None:
    redis = make_redis()
    nodes = make_nodes(redis.url)
    here, there = nodes.client(0), nodes.client(1)
    for number in range(2):
        there.publish("kept.a", number)
    before = here.subscribe("kept.a")
    here.ask(type="unsubscribe", topic="kept.a")
    there.publish("kept.a", "nobody there hears that")
    redis.kill()
    wait_until(lambda: gone(nodes))
    answer = here.subscribe("kept.a", epoch=before["epoch"], offset=before["offset"])
    assert answer["recovered"] is False
    assert "offset" not in answer, "nobody knows where it stands"
    assert here.subscribe("kept.*")["type"] == "subscribed"
    redis.start()
    wait_until(lambda: connected(nodes), 10.0)
    told = sorted([here.next(), here.next()], key=lambda event: str(event["topic"]))
    assert [event["topic"] for event in told] == ["kept.*", "kept.a"], "of a pattern, too"
    assert [event["type"] for event in told] == ["lost", "lost"]
    assert told[1]["offset"] == 3
    there.publish("kept.a", "new")
    new = here.next()
    assert (new["data"], new["offset"]) == ("new", 4)


def test_a_topic_whose_channel_was_left_is_looked_up_again(make_redis: MakeRedis, make_nodes: MakeNodes) -> None:
    nodes = make_nodes(make_redis().url)
    here, there = nodes.client(0), nodes.client(1)
    there.publish("kept.a", 1)
    where = here.subscribe("kept.a")
    here.subscribe("kept.>")  # keeps the topic wanted, and then goes as well
    here.ask(type="unsubscribe", topic="kept.a")
    here.ask(type="unsubscribe", topic="kept.>")
    there.publish("kept.a", 2)
    assert here.subscribe("kept.a", epoch=where["epoch"], offset=where["offset"])["recovered"] is True
    assert here.data(1) == [2]


def test_who_is_refused_leaves_no_subscription_behind(make_redis: MakeRedis, make_nodes: MakeNodes) -> None:
    redis_py = need_module("redis")
    redis = make_redis(durable=False)
    nodes = make_nodes(redis.url, 1)
    (broker,) = brokers(nodes)
    nodes.servers[0].subscriptions.most = 1
    here = nodes.client()
    here.subscribe("a")
    for topic in ("b", "kept.c", "d.*"):
        assert here.ask(type="subscribe", topic=topic)["code"] == "too_many"
    with redis_py.Redis(port=redis.port) as admin:
        channels = {broker._shards.base(broker._shards.of("a")).encode(), b"gows:{nodes}"}
        wait_until(lambda: set(admin.pubsub_channels("gows:*")) == channels)
    assert broker._worker.topics.live() == ["a"]


def test_numbers_are_remembered_as_long_as_something_may_be_sent_again(
    make_redis: MakeRedis, make_nodes: MakeNodes
) -> None:
    redis_py = need_module("redis")
    redis = make_redis()
    nodes = make_nodes(redis.url, 1, outage="queue", timeout=0.5)
    (broker,) = brokers(nodes)
    nodes.client().publish("kept.a", 1)
    with redis_py.Redis(port=redis.port) as admin:
        last = f"{broker._shards.base(broker._shards.of('kept.a'))}:last:{broker.name}"
        assert admin.pttl(last) > 23 * 3600 * 1000
    broker._worker.remember = 0.1  # what was sent before that is not sent again: Redis may not know it any more
    redis.freeze()
    told: list[Exception | None] = []
    nodes.servers[0].publish("kept.a", 2, done=told.append)
    wait_until(lambda: not broker.connected)
    time.sleep(0.1)
    redis.thaw()
    wait_until(lambda: bool(told), 10.0)
    assert "it may have the message, or not" in str(told[0])


def test_before_it_is_started(make_redis: MakeRedis) -> None:
    need_module("redis")
    for outage in ("refuse", "queue"):
        server = gows.Server(broker=RedisBroker("redis://127.0.0.1:1", outage=outage))
        told: list[Exception | None] = []
        if outage == "refuse":
            with pytest.raises(BrokerError, match="was not started"):
                server.publish("a", 1, done=told.append)
        else:
            server.publish("a", 1, done=told.append)
            assert not told
        server.stop()
        assert len(told) == (outage == "queue")


def test_what_waits_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    need_module("redis")
    looks = 0
    do = Worker._do_offline

    def count(worker: Worker, job: Any) -> None:
        nonlocal looks
        looks += 1
        do(worker, job)

    monkeypatch.setattr(Worker, "_do_offline", count)
    server = gows.Server(broker=RedisBroker(f"redis://127.0.0.1:{free_port()}/0", outage="queue", timeout=1.0))
    try:
        server.start()
        for number in range(300):
            server.publish("a", number)
            wait_until(lambda number=number: looks > number)  # type: ignore[misc]
        assert looks == 300, "not all of them at each that comes"
    finally:
        server.stop()


def test_what_nothing_else_shows_is_found_by_a_look_into_redis(
    make_redis: MakeRedis, make_nodes: MakeNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gows.brokers.redis.recovery, "CHECK_INTERVAL", 0.1)
    redis_py = need_module("redis")
    redis = make_redis()
    nodes = make_nodes(redis.url)
    here, there = nodes.client(0), nodes.client(1)
    for topic in ("kept.a", "kept.b"):
        here.subscribe(topic)
    there.publish("kept.a", 1)
    assert here.data(1) == [1]
    deaf = brokers(nodes)[0]
    deliver = deaf._worker.recovery.deliver
    monkeypatch.setattr(deaf._worker.recovery, "deliver", lambda channel, head, body: None)
    there.publish("kept.a", 2)
    there.publish("kept.b", 3)
    assert sorted(here.data(2)) == [2, 3]
    wait_until(lambda: deaf.counters()["gaps_found"] == 2)
    monkeypatch.setattr(deaf._worker.recovery, "deliver", deliver)
    with redis_py.Redis(port=redis.port) as admin:
        admin.flushall()
    time.sleep(0.3)
    there.publish("kept.a", "goes on")
    assert here.next()["type"] == "lost"
    assert here.data(1) == ["goes on"]


def test_a_topic_that_gave_way_to_others_does_not_come_again(make_redis: MakeRedis, make_nodes: MakeNodes) -> None:
    nodes = make_nodes(make_redis().url, 1)
    here, there = nodes.client(), nodes.client()
    here.subscribe("kept.a")
    there.publish("kept.a", 1)
    assert here.data(1) == [1]
    nodes.servers[0].publishing.history.most = 0
    for number in (2, 3):
        there.publish("kept.a", number)
    assert here.data(2) == [2, 3]
    here.quiet()


def test_a_huge_history_is_read_in_portions(
    make_redis: MakeRedis, make_nodes: MakeNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gows.brokers.redis.recovery, "PORTION", 5000)
    redis = make_redis(durable=False)
    nodes = make_nodes(redis.url, outage="queue")
    here, there = nodes.client(0), nodes.client(1)
    here.subscribe("kept.long")
    there.publish("kept.long", -1)
    first = here.next()
    read: list[int] = []
    look = Logs._envelopes

    def note(logs: Logs, topic: str, epoch: str, now: int, entries: list[Any]) -> Any:
        read.append(len(entries))
        return look(logs, topic, epoch, now, entries)

    monkeypatch.setattr(Logs, "_envelopes", note)
    for number in range(200):
        nodes.servers[1].publish("kept.long", [number, "x" * 500])
    assert [data[0] for data in here.data(200)] == list(range(200))
    nodes.servers[0].publishing.history.begin("kept.long", None)
    back = nodes.client(0)
    assert back.subscribe("kept.long", epoch=first["epoch"], offset=first["offset"])["recovered"] is True
    assert [data[0] for data in back.data(200)] == list(range(200))
    latest = nodes.client(0)
    nodes.servers[0].publishing.history.begin("kept.long", None)
    latest.subscribe("kept.long", history=100)
    assert [data[0] for data in latest.data(100)] == list(range(100, 200))
    assert len(read) > 30
    assert max(read) < 30, "a portion each"


def test_nobody_waits_for_a_client_that_does_not_read(make_redis: MakeRedis) -> None:
    """With the policy "block" as well, which is for the program's own threads."""
    server = gows.Server(
        broker=RedisBroker(make_redis(durable=False).url),
        may_subscribe=lambda ws, topic: True,
        may_publish=lambda ws, topic: True,
        keep=lambda topic: 1000,
        options=gows.AcceptOptions(overflow="block", high_water=1 << 14, low_water=1 << 12, write_timeout=30.0),
    )
    gows.serve_topics(server, "/live")
    address = server.listen("127.0.0.1:0")
    server.start()
    clients = [Client(address) for _ in range(3)]
    stuck, asks, speaks = clients
    try:
        asks.subscribe("kept.b")
        stuck.subscribe("kept.a")
        stuck.peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        address = stuck.peer.sock.getsockname()
        (ws,) = [ws for ws in server.connections if ws.remote_addr == address]

        def write(error: Exception | None) -> None:
            with suppress(QueueFullError, gows.ConnectionClosedError):
                ws.write_string("x" * 30_000)

        began = time.monotonic()
        for number in range(300):
            server.publish("kept.c", number, done=write)
            speaks.publish("kept.a", "x" * 30_000)  # 9 MB, of which the kernel takes less
            if number % 10 == 0:
                stuck.send(type="subscribe", topic="kept.a", history=10)  # answered in the broker's thread
            if number % 50 == 0:
                speaks.publish("kept.b", number)
                assert asks.data(1) == [number]
        assert time.monotonic() - began < 20.0, "less than a write timeout"
    finally:
        for client in clients:
            client.close()
        server.stop()


def test_requests_of_one_connection_are_bounded_and_others_have_their_turn(
    make_redis: MakeRedis, make_nodes: MakeNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gows.brokers.redis.jobs, "MOST_REQUESTS", 20)
    nodes = make_nodes(make_redis(durable=False).url, 1)
    (broker,) = brokers(nodes)
    many, one = nodes.client(), nodes.client()
    for number in range(3):
        one.publish("kept.a", number)
    begun, go_on = threading.Event(), threading.Event()
    look_up = Recovery.look_up
    order: list[object] = []

    async def slow(recovery: Recovery, job: Any) -> Any:
        begun.set()
        await asyncio.get_running_loop().run_in_executor(None, go_on.wait, 10.0)
        order.append(job.owner)
        return await look_up(recovery, job)

    monkeypatch.setattr(Recovery, "look_up", slow)
    for _ in range(30):
        many.send(type="subscribe", topic="kept.a", history=50)
    refused = [many.next() for _ in range(10)]
    assert [answer["code"] for answer in refused] == ["too_slow"] * 10
    assert begun.wait(5.0)
    one.publish("kept.b", "is not held up")
    one.send(type="subscribe", topic="kept.a", history=50)
    wait_until(lambda: len(broker._worker.followers) == 2)
    go_on.set()
    assert one.next()["type"] == "subscribed"
    wait_until(lambda: len(order) == 21)
    assert order.index(order[0]) == 0
    assert len(set(map(id, order[:3]))) == 2, "the second connection is second, or third"
    wait_until(lambda: not len(broker._mailbox.requests))


PROGRAM = """
import sys
from gows.brokers.redis.broker import RedisBroker
from tests.support.nodes import make_server
server = make_server(RedisBroker(sys.argv[1]))
server.start("127.0.0.1:0")
print(server.addresses[0][1], flush=True)
sys.stdin.read()
"""


def test_those_of_a_process_that_is_killed_are_gone_after_a_time(
    make_redis: MakeRedis, make_nodes: MakeNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gows.brokers.redis.worker, "BEAT", 0.2)
    monkeypatch.setattr(gows.brokers.redis.nodes, "PEER_TIMEOUT", 1.0)
    redis = make_redis()
    nodes = make_nodes(redis.url, 1)
    here = nodes.client()
    here.subscribe("room.a")
    fast = PROGRAM.replace("from tests", "import gows.brokers.redis.worker as r\nr.BEAT = 0.2\nfrom tests")
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(
        [sys.executable, "-c", fast, redis.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    with process:
        try:
            assert process.stdout is not None
            there = Client(("127.0.0.1", int(process.stdout.readline())))
            me = there.subscribe("room.a")["me"]
            assert here.next()["id"] == me
            time.sleep(1.5)
            assert len(here.members("room.a")) == 2, "it says again and again that it is there"
        finally:
            process.send_signal(signal.SIGKILL)
        assert here.next() == {"type": "leave", "topic": "room.a", "id": me}
        there.close()


def test_who_was_taken_for_dead_and_is_not_tells_all_again(
    make_redis: MakeRedis, make_nodes: MakeNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gows.brokers.redis.worker, "BEAT", 0.2)
    nodes = make_nodes(make_redis(durable=False).url)
    here, there = nodes.client(0), nodes.client(1)
    here.subscribe("room.a")
    me = there.subscribe("room.a")["me"]
    assert here.next()["type"] == "join"
    broker, other = brokers(nodes)
    assert broker._worker.loop is not None
    broker._worker.loop.call_soon_threadsafe(broker._worker.nodes.drop, other.name)  # as after a pause of ten seconds
    assert here.next() == {"type": "leave", "topic": "room.a", "id": me}
    back = here.next()
    assert (back["type"], back["id"]) == ("join", me)


def test_whom_a_publication_leaves_out_in_another_process(
    make_redis: MakeRedis, make_nodes: MakeNodes, tmp_path: Path
) -> None:
    nodes = make_nodes(make_redis().url, 2, tmp_path / "bus")
    here, there, other = nodes.client(0), nodes.client(1), nodes.client(1)
    for client in (here, there, other):
        client.subscribe("a")
    address = there.peer.sock.getsockname()
    (far,) = [
        ws for ws in nodes.servers[0].connections if isinstance(ws, RemoteConnection) and ws.remote_addr == address
    ]
    nodes.servers[0].publish("a", "not for one", exclude=far)
    nodes.servers[0].publish("a", "for all")
    assert there.data(1) == ["for all"]
    assert here.data(2) == other.data(2) == ["not for one", "for all"]


def test_a_value_that_redis_does_not_take(make_redis: MakeRedis, make_nodes: MakeNodes) -> None:
    redis_py = need_module("redis")
    redis = make_redis()
    nodes = make_nodes(redis.url, 1)
    nodes.client().publish("kept.a", 0)
    with redis_py.Redis(port=redis.port) as admin:
        admin.config_set("maxmemory", "1")
        admin.config_set("maxmemory-policy", "noeviction")
        answer = nodes.client().ask(type="publish", topic="kept.a", data=1)
        assert answer.get("code") == "unavailable", answer
        assert "maxmemory" in answer["reason"]
        admin.config_set("maxmemory", "0")
    nodes.client().publish("kept.a", 1)
    assert brokers(nodes)[0].counters()["failed"] == 1


def test_what_somebody_else_put_in_its_place(
    make_redis: MakeRedis, make_nodes: MakeNodes, caplog: pytest.LogCaptureFixture
) -> None:
    redis_py = need_module("redis")
    redis = make_redis()
    nodes = make_nodes(redis.url, 1)
    (broker,) = brokers(nodes)
    with redis_py.Redis(port=redis.port) as admin:
        admin.set(f"{broker._shards.base(broker._shards.of('kept.a'))}:at:kept.a", "no hash")
    here, there = nodes.client(), nodes.client()
    assert "offset" not in here.subscribe("kept.a")
    assert "cannot be read" in caplog.text
    assert there.ask(type="publish", topic="kept.a", data=1)["code"] == "unavailable"
    here.subscribe("kept.b")
    there.publish("kept.b", 1)
    assert here.data(1) == [1]
    assert broker.counters()["reconnects"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"outage": "wait"}, "outage"),
        ({"max_waiting": 0}, "max_waiting"),
        ({"shards": True}, "shards"),
        ({"forget": 0}, "forget"),
        ({"timeout": -1.0}, "timeout"),
        ({"prefix": "a{b"}, "prefix"),
        ({"prefix": ""}, "prefix"),
        ({"url": "http://localhost"}, "scheme"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    need_module("redis")
    with pytest.raises(ValueError, match=message):
        RedisBroker(**{"url": "redis://localhost", **settings})


def test_without_redis_py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ImportError, match=r"pip install 'gows\[redis\]'"):
        RedisBroker("redis://localhost")
