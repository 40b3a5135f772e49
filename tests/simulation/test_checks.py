"""Checks: each finds what it is there to find, and nothing in a run without fault."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.simulation import checks
from tests.simulation.checks import Check
from tests.simulation.log import Log, Subscriber


class Run:
    """Stands for a Simulation whose log a test writes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.scenario = SimpleNamespace(servers=1, kept_messages=1000, faults=(), preemption=0.0, overflow="refuse")
        self.log = Log(self._tick, lambda text: None, lambda topic: topic.startswith("kept"))
        self.rooms: tuple[str, ...] = ("room",)
        self.kept_topics = ["kept.a"]
        self.deaths: list[tuple[float, str]] = []
        self.others_at = lambda time: True
        self.apart: list[float] = []  # when two processes did not hear each other
        self.serving: dict[str, Any] = {}
        self.clients: list[Any] = []
        self.turn_faults: list[str] = []
        self.encoding_faults: list[str] = []
        self.raised: list[str] = []

    def _tick(self) -> float:
        self.now += 1.0
        return self.now

    def publish(self, topic: str, publisher: str = "server") -> str:
        """A message that was acknowledged."""
        message = self.log.publish(publisher, topic)
        self.log.acknowledge(message)
        return message.id

    def subscribe(self, pattern: str, name: str = "client0") -> Subscriber:
        subscriber = self.log.subscription(name, pattern)
        subscriber.ready = self._tick()
        return subscriber

    def hear(self, subscriber: Subscriber, *ids: str) -> None:
        for id_ in ids:
            subscriber.message(self.log.messages[id_].topic, self.log.messages[id_].data)

    def apart_between(self, since: float, until: float) -> bool:
        return any(since <= at <= until for at in self.apart)

    def found(self, check: Check) -> list[str]:
        return list(check(self))  # type: ignore[arg-type]


@pytest.fixture
def run() -> Run:
    return Run()


def test_nothing_is_found_where_all_is_well(run: Run) -> None:
    one, other = run.subscribe("kept.>"), run.subscribe("news", "client1")
    ids = [run.publish(topic) for topic in ("kept.a", "news", "kept.b", "kept.a")]
    run.hear(one, ids[0], ids[2], ids[3])
    run.hear(other, ids[1])
    for check in (*checks.AT_REST, *checks.AT_THE_END):
        assert run.found(check) == [], check.__name__


def test_once(run: Run) -> None:
    subscriber = run.subscribe("kept.a")
    id_ = run.publish("kept.a")
    run.hear(subscriber, id_, id_)
    assert "twice" in run.found(checks.once)[0]


def test_what_was_heard_may_come_again_after_lost(run: Run) -> None:
    subscriber = run.subscribe(">")
    ids = [run.publish(topic) for topic in ("news", "news", "kept.a")]
    run.hear(subscriber, *ids)
    subscriber.lost(">")
    run.hear(subscriber, ids[0])
    assert run.found(checks.once) == []
    assert run.found(checks.process_order) == []
    run.hear(subscriber, ids[0])
    assert len(run.found(checks.once)) == 1


def test_what_was_not_subscribed_to(run: Run) -> None:
    subscriber = run.subscribe("kept.*")
    run.hear(subscriber, run.publish("news"))
    subscriber.message("kept.a", {"id": "nobody's"})
    assert len(run.found(checks.once)) == 2


@pytest.mark.parametrize("topics", [("kept.a", "kept.a"), ("news", "news"), ("news", "sport")])
def test_process_order(run: Run, topics: tuple[str, str]) -> None:
    subscriber = run.subscribe(">")
    first, second = map(run.publish, topics)
    run.hear(subscriber, second, first)
    assert f"got {first}" in run.found(checks.process_order)[0]


def test_topics_that_are_kept_may_overtake_others(run: Run) -> None:
    subscriber = run.subscribe(">")
    first, second, third = map(run.publish, ("kept.a", "kept.b", "news"))
    run.hear(subscriber, third, second, first)
    assert run.found(checks.process_order) == []


def test_one_order(run: Run) -> None:
    subscribers = [run.subscribe("kept.a", f"client{n}") for n in range(2)]
    ids = run.publish("kept.a", "one"), run.publish("kept.a", "other")
    run.hear(subscribers[0], *ids)
    run.hear(subscribers[1], *reversed(ids))
    assert len(run.found(checks.one_order)) == 1


def test_one_order_after_lost(run: Run) -> None:
    one, other = run.subscribe("kept.a", "client0"), run.subscribe("kept.*", "client1")
    ids = [run.publish("kept.a") for _ in range(3)]
    run.hear(one, *ids)
    run.hear(other, ids[1])
    other.lost("kept.*")
    run.hear(other, *ids)
    assert run.found(checks.one_order) == []
    other.lost("kept.b")
    run.hear(other, ids[0])
    assert run.found(checks.one_order) == []
    other.lost("kept.a")
    run.hear(other, ids[2], ids[1])
    assert len(run.found(checks.one_order)) > 0


def test_a_message_that_is_missed(run: Run) -> None:
    subscriber = run.subscribe("kept.a")
    missed, heard = run.publish("kept.a"), run.publish("kept.a")
    assert len(run.found(checks.all_or_lost)) == 2
    run.hear(subscriber, heard)
    assert [missed in text for text in run.found(checks.all_or_lost)] == [True]
    subscriber.lost("kept.a")
    assert run.found(checks.all_or_lost) == []


def test_lost_that_was_told_before_the_message_came_does_not_count(run: Run) -> None:
    subscriber = run.subscribe("kept.a")
    subscriber.lost("kept.a")
    run.publish("kept.a")
    assert len(run.found(checks.all_or_lost)) == 1


def test_lost_that_is_told_long_after_a_newer_message_does_not_count(run: Run) -> None:
    subscriber = run.subscribe("kept.a")
    run.publish("kept.a")
    run.hear(subscriber, run.publish("kept.a"))
    run.now += checks.TOLD_WITHIN + 1.0
    subscriber.lost("kept.a")
    assert len(run.found(checks.all_or_lost)) == 1


def test_who_has_ended_its_subscription_is_not_told_what_is_given_up_later(run: Run) -> None:
    stays, ended = run.subscribe("kept.a", "client0"), run.subscribe("kept.a", "client1")
    run.publish("kept.a", "0.1/main")
    heard = run.publish("kept.a", "1.2/main")
    run.hear(stays, heard)
    run.hear(ended, heard)
    ended.end()
    assert len(run.found(checks.all_or_lost)) == 2
    run.apart.append(heard_at := run.log.messages[heard].began)
    assert len(run.found(checks.all_or_lost)) == 2, "the message that was missed came before"
    run.apart.append(heard_at - 1.0)
    assert ["client0" in text for text in run.found(checks.all_or_lost)] == [True]
    ended.ended = ended.events[0].at + checks.TOLD_WITHIN
    assert len(run.found(checks.all_or_lost)) == 2, "until then it would have been told"


def test_who_ends_a_pattern_before_it_is_subscribed_again_is_not_told(run: Run) -> None:
    pattern, name = run.subscribe("kept.*", "client0"), run.subscribe("kept.a", "client1")
    run.publish("kept.a", "0.1/main")
    heard = run.publish("kept.a", "1.2/main")
    run.hear(pattern, heard)
    run.hear(name, heard)
    name.end(asked=True)
    pattern.end()
    assert len(run.found(checks.all_or_lost)) == 2, "the pattern ended while it was subscribed"
    pattern.asked = True
    assert ["client1" in text for text in run.found(checks.all_or_lost)] == [True], "by a name there was a gap to see"
    pattern.ended = pattern.events[0].at + checks.TOLD_WITHIN
    assert len(run.found(checks.all_or_lost)) == 2, "until then it would have been told"


def test_who_has_no_claim_to_a_message(run: Run) -> None:
    run.publish("kept.a")  # before anybody subscribed
    own = run.subscribe("kept.a")
    refused = run.log.publish("client0", "kept.a", own="client0")
    run.log.refuse(refused, None)
    mine = run.log.publish("client0", "kept.a", own="client0")
    run.log.acknowledge(mine)
    ended = run.subscribe("kept.a", "client1")
    ended.end()
    run.publish("kept.b")
    assert own.events == []
    assert run.found(checks.all_or_lost) == []


def test_a_message_that_was_kept_and_not_recovered(run: Run) -> None:
    subscriber = run.subscribe("kept.a")
    heard = run.publish("kept.a")
    run.hear(subscriber, heard)
    run.publish("kept.a")
    subscriber.lost("kept.a")
    assert run.found(checks.all_or_lost) == []
    assert len(run.found(checks.recovers)) == 1
    run.scenario.faults = ("kill",)
    assert run.found(checks.recovers) == []


def _keeper(name: str, *messages: Any) -> Any:
    publications = [
        SimpleNamespace(bare=SimpleNamespace(data=json.dumps(message.data).encode())) for message in messages
    ]
    history = SimpleNamespace(latest=lambda topic, count, now: publications)
    server = SimpleNamespace(publishing=SimpleNamespace(history=history))
    return SimpleNamespace(name=name, server=server, loop=SimpleNamespace(time=lambda: 0.0))


def test_processes_that_keep_different_messages(run: Run) -> None:
    message = run.log.messages[run.publish("kept.a")]
    run.serving["0.1"], run.serving["1.2"] = _keeper("0.1", message), _keeper("1.2", message)
    assert run.found(checks.same_history) == []
    run.serving["1.3"] = _keeper("1.3")
    assert len(run.found(checks.same_history)) == 1


def test_a_message_that_one_death_has_lost(run: Run) -> None:
    message = run.log.messages[run.publish("kept.a")]
    run.deaths.append((run.now, "1.2"))
    run.serving["0.1"] = _keeper("0.1", message)
    assert run.found(checks.survives_a_death) == []
    run.serving["0.1"] = _keeper("0.1")
    assert "after the death of 1.2 alone" in run.found(checks.survives_a_death)[0]
    run.deaths.append((run.now, "0.3"))
    assert run.found(checks.survives_a_death) == []


def _latest(run: Run) -> Subscriber:
    connection = run.log.connection("bare0/1", "latest")
    connection.host = "0.1"
    connection.since["price.f"] = 0.5
    counts = {"dropped_oldest": 0}
    run.serving["0.1"] = SimpleNamespace(server=SimpleNamespace(overflow=SimpleNamespace(counts=counts)))
    return connection


def test_newest_by_key(run: Run) -> None:
    connection = _latest(run)
    ids = [run.publish("price.f", "0.1/main") for _ in range(4)]  # their keys take turns
    run.hear(connection, ids[2])
    assert [ids[3] in text for text in run.found(checks.newest_by_key)] == [True]
    counts = run.serving["0.1"].server.overflow.counts
    counts["dropped_oldest"] = 1
    assert run.found(checks.newest_by_key) == []
    counts["dropped_oldest"] = 0
    run.hear(connection, ids[3])
    assert run.found(checks.newest_by_key) == []
    run.hear(connection, ids[1])
    assert "older" in run.found(checks.newest_by_key)[0]


def test_a_key_is_the_last_publishers(run: Run) -> None:
    connection = _latest(run)
    before = [run.publish("price.f", "1.2/main") for _ in range(2)]
    run.publish("price.f", "0.1/main")
    mine = run.publish("price.f", "0.1/main")
    run.hear(connection, run.publish("price.f", "1.2/main"))
    assert [mine in text for text in run.found(checks.newest_by_key)][-1], "another key"
    after = run.publish("price.f", "1.2/main")
    run.hear(connection, before[1])
    run.hear(connection, after)
    assert not any(mine in text for text in run.found(checks.newest_by_key))


def test_futures_that_never_end(run: Run) -> None:
    future = SimpleNamespace(done=lambda: False)
    run.clients.append(SimpleNamespace(name="client0", futures=[("publish", future)]))
    assert "never ended" in run.found(checks.answers_come)[0]


def test_a_client_that_does_not_come_back(run: Run) -> None:
    run.clients.append(SimpleNamespace(name="client0", topics=SimpleNamespace(connected=False)))
    assert "not connected" in run.found(checks.comes_back)[0]


def _process(name: str, counts: dict[str, int], members: list[str]) -> Any:
    subscriptions = SimpleNamespace(counts=lambda: counts, of=lambda ws: ())
    found = [SimpleNamespace(id=member) for member in members]
    server = SimpleNamespace(subscriptions=subscriptions, members=lambda topic: found)
    return SimpleNamespace(name=name, server=server, loop=SimpleNamespace(streams=[]))


def test_a_subscriber_that_stayed(run: Run) -> None:
    run.serving["0.1"] = _process("0.1", {"kept.a": 1}, [])
    assert "subscribers" in run.found(checks.subscriptions_end)[0]


def test_presence(run: Run) -> None:
    run.serving["0.1"] = _process("0.1", {"room": 1}, ["a"])
    run.serving["1.2"] = _process("1.2", {"room": 1}, ["a", "b"])
    found = run.found(checks.presence)
    assert "0.1 knows of 1 members" in found[0]
    assert "different members" in found[1]
    run.serving["0.1"] = _process("0.1", {"room": 1}, ["a", "b"])
    assert run.found(checks.presence) == []
    subscriber = run.subscribe("room")
    subscriber.wants_members = True
    assert "sees []" in run.found(checks.presence)[0]
    subscriber.present({"a": None, "b": None})
    assert run.found(checks.presence) == []


@pytest.mark.parametrize(
    ("check", "where"),
    [
        (checks.turn_share, "turn_faults"),
        (checks.encoded_once, "encoding_faults"),
        (checks.nothing_raised, "raised"),
    ],
)
def test_what_was_found_on_the_way(run: Run, check: Check, where: str) -> None:
    getattr(run, where).append("a fault")
    assert run.found(check) == ["a fault"]
