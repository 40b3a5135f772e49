"""Kept topics over several processes: chosen courses of events, and thousands that a seed chooses."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gows.brokers.local import home_of
from gows.errors import BrokerError, QueueFullError
from tests.support.kept_net import KeptNet, Process

SEEDS = int(os.environ.get("GOWS_SEEDS", "50"))


def play(seed: int, *, single: bool = False) -> KeptNet:
    """One course of events."""
    net = KeptNet(seed)
    rng = net.rng
    for _ in range(rng.randint(1, 4)):
        net.start()
        net.run(rng.choice([0.0, 0.001, 1.0]))
    for _ in range(rng.randint(20, 120)):
        running = [process for process in net.processes.values() if not process.stopped]
        what = rng.random()
        if what < 0.6 and running:
            for _ in range(rng.choice([1, 1, 1, 5, 30])):
                net.publish(rng.choice(running), rng.choice(net.topics))
        elif what < 0.63 and len(net.processes) < 5:
            net.start()
        elif what < 0.66 and len(net.processes) > 1:
            victims = list(net.processes.values())
            if single:
                for process in victims:
                    process.stopped = False
                net.run(3.0)
                for _ in range(rng.choice([0, 3, 30])):
                    net.publish(rng.choice(victims), rng.choice(net.topics))
                for _ in range(rng.choice([0, 5, 50])):
                    net.step()
            net.kill(rng.choice(victims))
            if single:
                net.run(rng.choice([3.0, 10.0]))
        elif what < 0.68 and len(running) > 1:
            net.leave(rng.choice(running))
        elif what < 0.71 and running:
            rng.choice(running).stopped = True
        elif what < 0.75:
            for process in net.processes.values():
                process.stopped = False
        for _ in range(rng.choice([0, 1, 5, 20, 100])):
            net.step()
        if rng.random() < 0.1:
            net.run(rng.choice([0.01, 0.3, 1.0, 3.0, 8.0]))
    net.settle()
    net.check()
    return net


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, 25))
def test_nothing_acknowledged_is_lost_when_one_process_dies_at_a_time(first: int) -> None:
    for seed in range(first, first + 25):
        try:
            play(seed, single=True)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def play_apart(seed: int) -> None:
    """One course of events in which processes begin that the others do not hear for a while, and any may die."""
    net = KeptNet(seed)
    rng = net.rng
    for _ in range(rng.randint(2, 4)):
        net.start()
        net.run(rng.choice([0.0, 0.001, 1.0]))
    until = 0.0
    for _ in range(rng.randint(10, 40)):
        running = list(net.processes.values())
        what = rng.random()
        if what < 0.6:
            for _ in range(rng.choice([1, 1, 5])):
                net.publish(rng.choice(running), rng.choice(net.topics))
        elif what < 0.72 and len(running) < 5:
            net.keep_apart(net.start())
            until = net.now + rng.choice([0.5, 2.0, 4.0, 8.0])
        elif what < 0.8 and len(running) > 1:
            rng.choice([net.leave, net.kill])(rng.choice(running))
        for _ in range(rng.choice([0, 1, 5, 20, 100])):
            net.step()
        if rng.random() < 0.3:
            net.run(rng.choice([0.01, 0.3, 1.0, 3.0]))
        if net.now >= until:
            net.meet()
    net.meet()
    net.settle()
    net.check()


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 8 * SEEDS, 100))
def test_what_was_taken_in_apart_is_told_lost_if_a_process_lives_that_has_it(first: int) -> None:
    for seed in range(first, first + 100):
        try:
            play_apart(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def several(count: int = 3) -> tuple[KeptNet, list[Process], str]:
    """Some processes, and a topic whose home is the first."""
    net = KeptNet(0, topics=0)
    processes = [net.start() for _ in range(count)]
    net.run(2.0)
    names = [process.name for process in processes]
    topic = next(topic for topic in (f"t{number}" for number in range(99)) if home_of(topic, names) == names[0])
    net.topics.append(topic)
    return net, processes, topic


def told(process: Process, topic: str) -> list[str | None]:
    """The messages that its subscribers got, and None for each time they were told that some are lost."""
    return [data for _, data in process.events.told.get(topic, [])]


def test_a_message_is_acknowledged_when_a_second_process_has_it() -> None:
    net, (home, other, third), topic = several()
    data = net.publish(home, topic)
    while not net.links[other.name, home.name]:
        net.step()
        if not told(other, topic) and not told(third, topic):
            assert net.results[data] == []
            assert told(home, topic) == [], "its own subscribers wait, too"
            position = home.events.history.position(topic)
            assert position is None or position.offset == 0
    net.run(1.0)
    assert net.results[data] == [None]
    assert [told(process, topic) for process in (home, other, third)] == [[data]] * 3


def test_the_next_home_goes_on_and_what_was_not_acknowledged_counts_once() -> None:
    net, (home, other, third), topic = several()
    first = [net.publish(process, topic) for process in (home, other, third)]
    net.run(1.0)
    home.stopped = True  # it has what it is sent, and says nothing
    more = [net.publish(other, topic) for _ in range(5)]
    net.run(0.5)
    assert [net.results[data] for data in more] == [[]] * 5
    net.kill(home)
    net.run(2.0)
    assert [net.results[data] for data in more] == [[None]] * 5
    assert other.events.history.position(topic) == third.events.history.position(topic)
    for process in (other, third):
        assert sorted(told(process, topic)[:3], key=str) == sorted(first, key=str)
        assert told(process, topic)[3:] == more, "in order, and nothing was lost"
    positions = [position for position, _ in other.events.told[topic]]
    assert [position.offset for position in positions if position is not None] == list(range(1, 9))
    net.check()


def test_what_the_home_had_sent_to_one_process_only_is_not_numbered_again() -> None:
    net, (home, other, third), topic = several()
    begun = net.publish(home, topic)
    net.run(1.0)
    third.stopped = True
    data = net.publish(other, topic)
    net.run(0.5)
    assert net.results[data] == [None]
    net.links[home.name, third.name].clear()  # as if it had been in a queue of the home's own
    net.kill(home)
    third.stopped = False
    last = net.publish(third, topic)
    net.run(2.0)
    assert told(third, topic) == told(other, topic) == [begun, data, last]


def test_two_that_die_at_once_are_told_and_what_is_kept_stays() -> None:
    net, (home, other, third, last), topic = several(4)
    kept = net.publish(home, topic)
    net.run(1.0)
    net.kill(home)
    net.kill(other)
    net.run(1.0)
    data = net.publish(third, topic)
    net.run(3.0)
    assert net.results[data] == [None]
    for process in (third, last):
        assert told(process, topic)[0] == kept
        assert None in told(process, topic)
        assert told(process, topic)[-1] == data
        latest = process.events.history.latest(topic, 10, net.now)
        assert [each.bare.data.decode() for each in latest] == [kept, data]


def test_a_home_that_was_stopped_and_comes_back_goes_on() -> None:
    net, (home, other, third), topic = several()
    first = net.publish(other, topic)
    net.run(1.0)
    home.stopped = True
    data = net.publish(other, topic)
    net.run(6.0)
    assert [type(result) for result in net.results[data]] == [BrokerError], "nobody knows whether it has it"
    home.stopped = False
    later = net.publish(third, topic)
    net.run(1.0)
    assert net.results[later] == [None]
    assert told(other, topic) == told(third, topic) == [first, data, later]


def test_a_process_that_is_stopped_is_not_waited_for_and_gets_everything_later() -> None:
    net, (home, other), topic = several(2)
    first = net.publish(home, topic)
    net.run(1.0)
    net.longest = 10
    other.stopped = True
    data = [net.publish(home, topic) for _ in range(30)]
    net.run(2.0)
    assert [net.results[each] for each in data] == [[None]] * 30
    other.stopped = False
    net.run(3.0)
    assert told(other, topic) == [first, *data]


def test_a_process_that_was_stopped_while_the_home_died_says_that_it_does_not_know() -> None:
    net, (home, other), topic = several(2)
    net.publish(home, topic)
    net.run(1.0)
    other.stopped = True
    vanished = [net.publish(home, topic) for _ in range(30)]
    net.run(2.0)
    assert net.results[vanished[-1]] == [None]
    while len(net.links[home.name, other.name]) > 10:
        net.links[home.name, other.name].pop()
    net.kill(home)
    other.stopped = False
    data = net.publish(other, topic)
    net.run(3.0)
    assert net.results[data] == [None]
    assert told(other, topic)[-2:] == [None, data]


def test_a_process_that_was_stopped_while_another_came_and_died_says_that_it_does_not_know() -> None:
    net = KeptNet(0)
    home = net.start()
    topic, fresh = net.topics
    first = net.publish(home, topic)
    net.run(1.0)
    home.stopped = True
    other = net.start()
    net.links.clear()
    net.run(2.0)
    vanished = [net.publish(other, name) for name in (topic, fresh)]
    net.run(1.0)
    assert [net.results[data] for data in vanished] == [[None]] * 2
    net.kill(other)
    home.stopped = False
    home.do(home.kept.on_peer_down, other.name)
    last = [net.publish(home, name) for name in (topic, fresh)]
    net.run(1.0)
    assert told(home, topic) == [first, None, last[0]]
    assert told(home, fresh) == [None, last[1]]
    net.check()


@pytest.mark.parametrize("claims", ["who heard of it", "another"])
def test_a_topic_of_which_no_more_than_its_name_was_heard_begins_with_lost(claims: str) -> None:
    net = KeptNet(0)
    home = net.start()
    topic = net.topics[0]
    vanished = net.publish(home, topic)
    net.run(1.0)
    assert net.results[vanished] == [None]
    other, third = net.start(), net.start()
    del net.links[home.name, third.name], net.links[third.name, home.name]
    while topic not in other.kept._fetches:
        net.step()
    net.links[home.name, other.name].clear()
    net.kill(home)
    net.run(0.5)
    here = other if claims == "who heard of it" else third
    here.do(here.kept._claim, here.kept._topic(topic), [])
    net.run(1.0)
    data = net.publish(here, topic)
    net.run(1.0)
    assert net.results[data] == [None]
    assert told(here, topic) == [None, data]
    assert told(other, topic) == [None, data]


def test_a_topic_of_which_nothing_was_heard_begins_without() -> None:
    net, (home, other), topic = several(2)
    data = net.publish(home, topic)
    net.run(1.0)
    assert told(home, topic) == told(other, topic) == [data]


@pytest.mark.parametrize("is_home", [True, False])
def test_a_process_that_was_cut_off_and_is_gone_before_it_could_tell_may_have_numbered(is_home: bool) -> None:
    net, (home, other), topic = several(2)
    first = net.publish(home, topic)
    net.run(1.0)
    net.links.clear()
    here, gone = (home, other) if is_home else (other, home)
    here.do(here.kept.on_peer_down, gone.name)
    gone.do(gone.kept.on_peer_down, here.name)
    vanished = net.publish(gone, topic)
    net.run(1.0)
    assert net.results[vanished] == [None]
    here.do(here.kept.on_peer_up, gone.name)
    here.do(here.kept.on_peer_down, gone.name)
    net.kill(gone)
    last = net.publish(here, topic)
    net.run(3.0)
    assert told(here, topic) == [first, None, last]
    net.check()


@pytest.mark.parametrize("counts", [(1, 1), (3, 1), (1, 3)])
def test_two_that_have_not_met_and_both_numbered_tell_lost_when_they_meet(counts: tuple[int, int]) -> None:
    net = KeptNet(0)
    home = net.start()
    third = net.start()
    net.run(2.0)
    newcomer = net.start()  # the others do not answer it
    net.keep_apart(newcomer)
    net.run(2.0)
    topic = net.topics[0]
    apart = [
        [net.publish(process, topic) for _ in range(count)]
        for process, count in zip((home, newcomer), counts, strict=True)
    ]
    net.run(1.0)
    assert all(net.results[data] == [None] for data in apart[0] + apart[1])
    net.meet()
    net.run(3.0)
    last = [net.publish(process, topic) for process in (home, newcomer, third)]
    net.run(1.0)
    for process, had in ((home, apart[0]), (third, apart[0]), (newcomer, apart[1])):
        heard = told(process, topic)
        assert heard[: len(had)] == had
        assert heard[len(had)] is None, "before anything newer"
        assert set(last) <= set(heard[len(had) :])
    net.check()


@pytest.mark.parametrize("newcomer_counts", [1, 3])
@pytest.mark.parametrize("first", ["the newcomer", "the others"])
def test_what_a_newcomer_numbered_alone_and_what_a_home_that_is_gone_did_are_told_lost(
    first: str, newcomer_counts: int
) -> None:
    net = KeptNet(0)
    started = [net.start() for _ in range(3)]  # the name decides which of two terms counts
    newcomer = started.pop(0 if first == "the newcomer" else 2)
    net.keep_apart(newcomer)
    newcomer.do(newcomer.kept.open)
    net.run(2.0)
    names = [process.name for process in started]
    topic = net.topics[0]
    home, other = sorted(started, key=lambda process: process.name != home_of(topic, names))
    apart = [net.publish(home, topic)], [net.publish(newcomer, topic) for _ in range(newcomer_counts)]
    net.run(1.0)
    assert all(net.results[data] == [None] for data in apart[0] + apart[1])
    net.kill(home)
    net.run(1.0)
    net.meet()
    net.run(5.0)
    assert told(other, topic)[:2] == [*apart[0], None], "though nothing is published any more"
    assert told(newcomer, topic)[: newcomer_counts + 1] == [*apart[1], None]
    last = net.publish(other, topic)
    net.run(2.0)
    assert told(other, topic)[-1] == told(newcomer, topic)[-1] == last
    net.check()


def test_a_process_that_hears_of_another_numbering_when_its_home_is_gone_tells_the_others() -> None:
    net = KeptNet(0)
    newcomer, home, other = (net.start() for _ in range(3))
    topic = net.topics[0]
    net.keep_apart(newcomer)
    newcomer.do(newcomer.kept.open)
    net.run(2.0)
    link = net.links[home.name, newcomer.name] = net.apart.pop((home.name, newcomer.name))
    link.clear()  # what it says is heard, and not that it is there
    newcomer.stopped = True
    home.do(home.kept._claim, home.kept._topic(topic), [])
    net.run(1.0)
    theirs = net.publish(home, topic)
    net.run(1.0)
    alone = [net.publish(newcomer, topic) for _ in range(3)]
    assert [net.results[data] for data in [theirs, *alone]] == [[None]] * 4
    net.leave(home)
    while link:
        net._deliver((home.name, newcomer.name))
    net.meet()
    newcomer.stopped = False
    net.run(5.0)
    assert told(newcomer, topic)[:4] == [*alone, None]
    assert told(other, topic)[:2] == [theirs, None], "though nothing is published any more"
    net.check()


def test_what_was_numbered_in_one_epoch_by_two_is_told_lost_though_one_of_them_is_gone() -> None:
    net, (home, second, third), topic = several()
    first = net.publish(home, topic)
    newcomer = net.start()
    net.keep_apart(newcomer)
    for pair in [(home.name, newcomer.name), (newcomer.name, home.name)]:  # the only one that it meets
        net.links[pair] = net.apart.pop(pair)
    net.run(2.0)
    net.kill(home)
    net.run(1.0)
    second.do(second.kept._claim, second.kept._topic(topic), [])
    net.run(0.1)
    apart = [net.publish(process, topic) for process in (second, newcomer)]
    net.run(1.0)
    assert [net.results[data] for data in apart] == [[None]] * 2
    positions = {process.events.history.position(topic) for process in (second, third, newcomer)}
    assert len(positions) == 1, "two messages have it"
    net.kill(second)
    net.run(1.0)
    net.meet()
    net.run(5.0)
    assert told(third, topic)[:3] == [first, apart[0], None]
    assert told(newcomer, topic)[:3] == [first, apart[1], None]
    net.settle()


@pytest.mark.parametrize("here", [0, 1])
def test_who_claims_a_topic_hears_that_something_of_it_was_given_up(here: int) -> None:
    net, (home, *others), topic = several()
    first = net.publish(home, topic)
    net.run(1.0)
    net.kill(home)
    net.run(0.5)
    others[0].do(others[0].kept._on_gap, home.name, {"topic": topic})  # the home was gone when it came
    claims = others[here]
    claims.do(claims.kept._claim, claims.kept._topic(topic), [])
    net.run(0.1)
    soon = [told(process, topic) for process in others]
    assert [heard[:2] for heard in soon] == [[first, None]] * 2
    net.run(5.0)
    assert [told(process, topic) for process in others] == soon, "no more than that"
    net.check()


def test_a_home_that_begins_an_epoch_says_so_when_it_has_everything_that_is_sent_again() -> None:
    net, (home, other, third), topic = several()
    first = net.publish(other, topic)
    while not told(other, topic):
        net.step()
    net.links[home.name, third.name].clear()
    net.links[other.name, home.name].clear()  # it does not acknowledge to the publisher, either
    for process in (other, third):
        process.do(process.kept._on_gap, home.name, {"topic": topic})
        net.links[process.name, home.name].clear()
    net.kill(home)
    net.run(0.5)
    assert net.results[first] == [None]
    assert None in told(other, topic)
    assert None in told(third, topic)
    assert [each.bare.data.decode() for each in third.events.history.latest(topic, 9, net.now)] == [first]
    net.check()


def test_a_gap_that_comes_when_the_home_is_gone_is_told_though_nobody_publishes() -> None:
    net, (home, other, third), topic = several()
    first = net.publish(home, topic)
    net.run(1.0)
    net.kill(home)
    net.run(0.5)
    other.do(other.kept._on_gap, third.name, {"topic": topic})
    net.run(3.0)
    assert told(other, topic)[:2] == told(third, topic)[:2] == [first, None]
    net.check()


def test_the_home_is_told_of_a_gap_as_soon_as_the_history_is_there() -> None:
    net = KeptNet(0)
    newcomer, home = net.start(), net.start()
    net.keep_apart(newcomer)
    net.run(2.0)
    topic = net.topics[0]
    home.do(home.kept.open)
    apart = [net.publish(process, topic) for process in (newcomer, home)]
    net.run(1.0)
    net.meet()
    net.run(0.1)
    for process, data in zip((newcomer, home), apart, strict=True):
        assert told(process, topic)[:2] == [data, None]
    net.check()


def test_a_newcomer_has_the_history_and_a_home_that_forgot_learns_it_again() -> None:
    net, (home, other), topic = several(2)
    data = [net.publish(other, topic) for _ in range(20)]
    net.run(1.0)
    newcomer = net.start()
    net.run(1.0)
    latest = newcomer.events.history.latest(topic, 100, net.now)
    assert [each.bare.data.decode() for each in latest] == data
    net.kill(home)
    net.run(3.0)
    net.kill(other)
    net.run(3.0)
    again = net.publish(newcomer, topic)
    net.run(3.0)
    assert told(newcomer, topic)[-1] == again
    assert newcomer.events.history.position(topic) == (latest[-1].position.epoch, 21)  # type: ignore[union-attr]


def test_a_home_of_a_lower_term_learns_that_it_is_none() -> None:
    net, (home, other, third), topic = several()
    first = net.publish(home, topic)
    net.run(1.0)
    for process in (other, third):  # they lose sight of it, and it does not know
        process.do(process.kept.on_peer_down, home.name)
        process.do(process.kept._gone.__setitem__, home.name, (net.now, True))
    second = net.publish(other, topic)
    net.run(1.0)
    assert net.results[second] == [None]
    for process in (other, third):
        process.do(process.kept.on_peer_up, home.name)
        net.links[home.name, process.name].append(("up", b"", net.now))
    third_data = net.publish(home, topic)
    net.run(3.0)
    assert net.results[third_data] == [None]
    assert told(home, topic) == told(other, topic) == told(third, topic) == [first, second, third_data]


def test_large_histories_come_in_chunks() -> None:
    net, (home, _), topic = several(2)
    for number in range(30):
        net.publish(home, topic, "x" * 50_000 + str(number))
    net.run(1.0)
    newcomer = net.start()
    sizes: list[int] = []
    send = home.send

    def spy(kind: Any, data: Any, to: Any = None) -> Any:
        sizes.append(len(data))
        return send(kind, data, to)

    home.send = spy  # type: ignore[method-assign]
    net.run(1.0)
    assert len(newcomer.events.history.latest(topic, 100, net.now)) == 30
    assert max(sizes) < 350_000


def test_a_subscriber_waits_for_a_history_that_is_on_its_way() -> None:
    net, (home, _), topic = several(2)
    data = [net.publish(home, topic) for _ in range(3)]
    net.run(1.0)
    newcomer = net.start()
    while not newcomer.kept.up:
        net.step()
    answers: list[Any] = []
    newcomer.do(
        newcomer.kept.follow, topic, 10, lambda found: answers.append([each.bare.data.decode() for each in found]), None
    )
    newcomer.do(newcomer.kept.after_pending, lambda: answers.append("in turn"), None)
    assert answers == []
    net.run(1.0)
    assert answers == [data, "in turn"]


def test_who_has_seen_more_than_we_waits_a_moment() -> None:
    net, (home, other), topic = several(2)
    net.publish(home, topic)
    net.run(1.0)
    position = other.events.history.position(topic)
    assert position is not None
    answers: list[Any] = []
    ahead = position._replace(offset=2)
    other.do(other.kept.follow, topic, ahead, answers.append, None)
    assert answers == []
    net.publish(home, topic)
    net.run(0.1)
    assert answers == [[]]
    other.do(other.kept.follow, topic, ahead._replace(offset=9), answers.append, None)
    net.run(1.0)
    assert answers == [[], None]


def test_an_end_in_order_loses_nothing_and_ends_all_waiting() -> None:
    net, (home, other), topic = several(2)
    data = [net.publish(home, topic) for _ in range(10)]
    net.leave(home)
    net.run(1.0)
    assert [net.results[each] for each in data] == [[None]] * 10
    assert told(other, topic) == data
    other.do(other.kept.leave)
    last = net.publish(other, topic)
    assert [type(result) for result in net.results[last]] == [BrokerError]


def test_what_waits_to_be_acknowledged_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gows.brokers.local.topics.MAX_WAITING", 1000)
    net, (home, other), topic = several(2)
    home.stopped = True
    found = [net.publish(other, topic) for _ in range(20)]
    kinds = [[type(result) for result in net.results[data]] for data in found]
    assert kinds[0] == []
    assert kinds[-1] == [QueueFullError]
    net.run(6.0)
    assert other.kept.waiting == 0
    with pytest.raises(ValueError, match="at most"):
        monkeypatch.setattr("gows.bus.wire.MAX_FRAME", 30_000) or net.publish(other, topic, "x" * 20_000)
