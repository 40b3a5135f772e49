"""History: what is kept of topics, what came after a position, and when that is not known."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gows.brokers.local.broker import home_of
from gows.options import Keep
from gows.topics.history import ENTRY_SIZE, MOST_MESSAGES, History, as_keep
from gows.topics.publication import Position, Publication


def publish(history: History, topic: str, data: str, keep: Keep, now: float = 0.0, **settings: Any) -> Position:
    """Keep one more."""
    publication = Publication(topic, data, **settings)
    publication.position = position = history.number(topic)
    history.add(publication, keep, now)
    return position


def texts(found: list[Publication] | None) -> list[str] | None:
    return None if found is None else [publication.bare.data.decode() for publication in found]


def test_what_came_after_a_position_comes_in_order() -> None:
    history = History()
    positions = [publish(history, "a", str(number), Keep(100)) for number in range(10)]
    epoch = positions[0].epoch
    assert [position.offset for position in positions] == list(range(1, 11))
    assert {position.epoch for position in positions} == {epoch}
    assert history.position("a") == positions[-1]
    for seen in range(11):
        assert texts(history.since("a", Position(epoch, seen), 0.0)) == [str(number) for number in range(seen, 10)]


def test_what_cannot_be_known() -> None:
    history = History()
    first = publish(history, "a", "0", Keep(3))
    for number in range(1, 6):
        last = publish(history, "a", str(number), Keep(3))
    assert texts(history.since("a", Position(first.epoch, 3), 0.0)) == ["3", "4", "5"]
    assert history.since("a", Position(first.epoch, 2), 0.0) is None  # the third is not there any more
    assert history.since("a", Position("another", 5), 0.0) is None
    assert history.since("a", Position(first.epoch, last.offset + 1), 0.0) is None
    assert history.since("a", Position(first.epoch, -1), 0.0) is None
    assert history.since("b", first, 0.0) is None
    assert history.position("b") is None


def test_what_is_too_old_is_not_kept() -> None:
    history = History()
    first = publish(history, "a", "old", Keep(100, 10.0), now=0.0)
    publish(history, "a", "new", Keep(100, 10.0), now=8.0)
    assert texts(history.since("a", Position(first.epoch, 0), 9.0)) == ["old", "new"]
    assert history.since("a", Position(first.epoch, 0), 10.0) is None
    assert texts(history.since("a", first, 10.0)) == ["new"]
    assert history.since("a", first, 18.0) is None
    assert texts(history.since("a", Position(first.epoch, 2), 18.0)) == []


def test_the_latest() -> None:
    history = History()
    assert history.latest("a", 5, 0.0) == []
    for number in range(6):
        publish(history, "a", str(number), Keep(4, 10.0), now=float(number))
    assert texts(history.latest("a", 3, 5.0)) == ["3", "4", "5"]
    assert texts(history.latest("a", 9, 5.0)) == ["2", "3", "4", "5"]
    assert texts(history.latest("a", 9, 13.0)) == ["4", "5"]
    assert history.latest("a", 9, 15.0) == []
    publish(history, "a", "short", Keep(4, 10.0), now=15.0, expires=16.0)
    publish(history, "a", "long", Keep(4, 10.0), now=15.0)
    assert texts(history.latest("a", 1, 16.0)) == ["long"]
    assert texts(history.latest("a", 2, 16.0)) == ["long"]  # not one that is older instead


def test_what_is_wanted_is_found() -> None:
    history = History()
    first = publish(history, "a", "one", Keep(9))
    publish(history, "a", "two", Keep(9))
    assert texts(history.find("a", first, 0.0)) == texts(history.find("a", 1, 0.0)) == ["two"]
    assert history.find("a", None, 0.0) is None


def test_what_has_expired_is_left_out_and_is_no_gap() -> None:
    history = History()
    first = publish(history, "a", "for ever", Keep(100))
    publish(history, "a", "short", Keep(100), expires=5.0)
    publish(history, "a", "for ever, too", Keep(100))
    assert texts(history.since("a", Position(first.epoch, 0), 5.0)) == ["for ever", "for ever, too"]


def test_a_numbering_that_does_not_go_on_begins_anew() -> None:
    history = History()
    for offset, epoch in ((5, "one"), (6, "one"), (1, "two"), (2, "two"), (4, "two"), (5, "two")):
        publication = Publication("a", f"{epoch} {offset}", position=Position(epoch, offset))
        history.add(publication, Keep(100), 0.0)
    assert history.position("a") == ("two", 5)
    assert history.since("a", Position("one", 6), 0.0) is None
    assert history.since("a", Position("two", 2), 0.0) is None  # the third never came
    assert texts(history.since("a", Position("two", 3), 0.0)) == ["two 4", "two 5"]


def test_who_numbers_a_topic_after_another_begins_an_epoch() -> None:
    one, two = History(), History()
    for _ in range(3):
        position = publish(one, "a", "x", Keep(100))
        two.add(Publication("a", "x", position=position), Keep(100), 0.0)
    assert one.number("a") == (position.epoch, 4)
    taken_over = publish(two, "a", "y", Keep(100))
    assert taken_over.epoch != position.epoch
    assert taken_over.offset == 1
    one.add(Publication("a", "y", position=taken_over), Keep(100), 0.0)
    assert publish(two, "a", "z", Keep(100)) == (taken_over.epoch, 2)
    assert one.number("a").epoch not in (position.epoch, taken_over.epoch)


def test_all_topics_together_keep_so_much() -> None:
    history = History(most=20 * ENTRY_SIZE)
    quiet = publish(history, "quiet", "x", Keep(100))
    for number in range(100):
        publish(history, "loud", str(number), Keep(100))
    assert history.size <= 20 * ENTRY_SIZE
    assert history.position("quiet") is None
    assert history.since("quiet", quiet, 0.0) is None
    last = history.position("loud")
    assert last is not None
    assert last.offset == 100
    assert texts(history.since("loud", Position(last.epoch, 98), 0.0)) == ["98", "99"]


def test_names_and_keys_count() -> None:
    """Each may be longer than all the data."""
    sizes = []
    for topic, key in (("a", None), ("a", 5), ("a", "k" * 255), ("\U0001f600" * 255, "\U0001f600" * 255)):
        history = History()
        publish(history, topic, "x", Keep(5), key=key)
        sizes.append(history.size)
    assert sizes == sorted(sizes)
    assert sizes[2] - sizes[0] >= 255
    assert sizes[3] - sizes[0] >= 8 * 255


def test_nothing_is_kept_where_nothing_may_be() -> None:
    history = History(most=0)
    first = publish(history, "a", "x", Keep(5))
    assert history.size == 0
    assert history.position("a") is None
    assert publish(history, "a", "x", Keep(5)).epoch != first.epoch


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.booleans()), max_size=60),
    st.integers(0, 30 * ENTRY_SIZE),
)
def test_it_never_says_less_than_all(steps: list[tuple[str, int, bool]], most: int) -> None:
    history = History(most)
    published: dict[str, list[tuple[Position, str]]] = {"a": [], "b": [], "c": []}
    for number, (topic, keep, timed) in enumerate(steps):
        now = float(number)
        position = publish(history, topic, str(number), Keep(keep, 3.0 if timed else None), now)
        published[topic].append((position, str(number)))
        for each, all_ in published.items():
            for at, (seen, _) in enumerate(all_):
                found = texts(history.since(each, seen, now))
                if found is not None:
                    assert found == [text for position, text in all_[at + 1 :]]
                    assert {position.epoch for position, _ in all_[at:]} == {seen.epoch}
        assert history.size <= max(most, 0)
    kept = sum(ENTRY_SIZE + sum(entry.size for entry in log.entries) for log in history._logs.values())
    assert history.size == kept


@pytest.mark.parametrize(
    ("value", "keep"),
    [
        (None, None),
        (0, None),
        (5, Keep(5)),
        (timedelta(minutes=1), Keep(MOST_MESSAGES, 60.0)),
        (Keep(5, 10), Keep(5, 10)),
    ],
)
def test_how_much_may_be_said(value: Any, keep: Keep | None) -> None:
    assert as_keep(value) == keep


@pytest.mark.parametrize("value", [-1, True, 1.5, "5", timedelta(0)])
def test_how_much_may_not(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        as_keep(value)


@pytest.mark.parametrize("most", [-1, True, 1.5])
def test_bytes_that_cannot_be_meant(most: Any) -> None:
    with pytest.raises(ValueError, match="max_history"):
        History(most)


def test_few_topics_move_when_a_process_comes() -> None:
    topics = [f"topic.{number}" for number in range(1000)]
    before = {topic: home_of(topic, ["0.1", "1.1", "2.1"]) for topic in topics}
    assert all(250 < list(before.values()).count(name) < 420 for name in ("0.1", "1.1", "2.1"))
    assert all(home_of(topic, ["2.1", "0.1", "1.1"]) == home for topic, home in before.items())
    after = {topic: home_of(topic, ["0.1", "1.1", "2.1", "3.1"]) for topic in topics}
    moved = [topic for topic in topics if after[topic] != before[topic]]
    assert all(after[topic] == "3.1" for topic in moved)
    assert 180 < len(moved) < 320


def test_what_is_kept_goes_on_in_another_epoch() -> None:
    history = History()
    for number in range(3):
        first = publish(history, "a", str(number), Keep(2))
    size = history.size
    enclosed = history.entries("a", 0, 0.0)[0].publication.enclosed
    history.rename("a", "another", lambda entry: entry.offset)
    history.rename("b", "another", lambda entry: entry.offset)
    assert history.position("a") == ("another", 3)
    assert history.position("b") is None
    assert history.since("a", first, 0.0) is None
    found = history.since("a", Position("another", 1), 0.0)
    assert texts(found) == ["1", "2"]
    assert found is not None
    assert b'"epoch":"another","offset":2' in found[0].enclosed.data
    assert b"another" not in enclosed.data, "what is on its way stays as it is"
    assert [entry.origin for entry in history.entries("a", 2, 0.0)] == [3]
    assert history.before("a") == {first.epoch: 3}
    assert texts(history.latest("a", 9, 0.0, Position(first.epoch, 2))) == ["2"]
    assert texts(history.latest("a", 9, 0.0, Position(first.epoch, 4))) == [], "nothing comes twice"
    assert texts(history.latest("a", 9, 0.0, Position("unknown", 2))) == ["1", "2"]
    for number in range(20):
        history.rename("a", str(number), lambda entry: None)
    assert len(history.before("a")) == 8
    assert history.size == size
