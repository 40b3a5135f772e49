"""Topics: who gets what is published, in virtual time; what patterns stand for; how subscriptions end."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gows.topics.subscriptions
from gows import ConnectionClosedError, NotAllowedError, Opcode, Server, UsageError, WebSocket, accept
from gows.protocol.deflate import PerMessageDeflate
from gows.protocol.prepared import PreparedMessage
from gows.reactor import Loop
from gows.topics import patterns
from gows.topics.names import MAX_LENGTH, check_pattern, check_topic, is_pattern
from gows.topics.patterns import Patterns
from gows.topics.publication import ANSWER
from gows.topics.subscriptions import MAX_TOPICS, Subscriptions
from tests.support import pattern_vectors, wire
from tests.support.fakes.network import MemorySocket
from tests.support.stage import Guest, MakeStage, Stage


def subscribed(stage: Stage, *topics: str) -> tuple[Guest, WebSocket]:
    """One more guest, subscribed to these."""
    guest, handler = stage.guest()
    for topic in topics:
        assert handler.ws.subscribe(topic)
    return guest, handler.ws


def texts(guest: Guest) -> list[str]:
    guest.stage.run_for(0.5)
    return [frame.payload.decode() for frame in guest.pending()]


# ---------------------------------------------------------------------- who gets it


def test_subscribers_get_what_is_published_in_order(make_stage: MakeStage) -> None:
    stage = make_stage()
    one, _ = subscribed(stage, "news")
    two, _ = subscribed(stage, "news", "weather")
    other, _ = subscribed(stage, "weather")
    stage.guest()
    for number in range(100):
        stage.server.publish("news", f"n{number}")
        stage.server.publish("weather", f"w{number}")
    assert texts(one) == [f"n{number}" for number in range(100)]
    assert texts(other) == [f"w{number}" for number in range(100)]
    assert texts(two) == [f"{letter}{number}" for number in range(100) for letter in "nw"]


def test_what_is_published_may_be_text_or_binary(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, _ = subscribed(stage, "news")
    stage.server.publish("news", "κόσμε")
    stage.server.publish("news", b"\xff")
    stage.server.publish("news", bytearray(b"text"), Opcode.TEXT)
    stage.run_for(0.5)
    assert [(f.opcode, f.payload) for f in guest.pending()] == [
        (wire.TEXT, "κόσμε".encode()),
        (wire.BINARY, b"\xff"),
        (wire.TEXT, b"text"),
    ]
    for data, opcode in ((b"\xff", Opcode.TEXT), (b"", Opcode.CLOSE)):
        with pytest.raises(ValueError, match=r"utf-8|TEXT or BINARY"):
            stage.server.publish("news", data, opcode)
    for no_json in (object(), float("nan"), {1: object()}):
        with pytest.raises((TypeError, ValueError)):
            stage.server.publish("news", no_json)


def test_once_for_each_however_many_of_its_subscriptions_match(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, _ = subscribed(stage, "a.b", "a.*", "a.>", ">", "*.b", "*")
    stage.server.publish("a.b", "both")
    stage.server.publish("a", "one word")
    stage.server.publish("a.b.c", "three")
    stage.server.publish("b", "b")
    assert texts(guest) == ["both", "one word", "three", "b"]


def test_a_pattern_that_comes_and_goes_counts_at_once(make_stage: MakeStage) -> None:
    stage = make_stage()
    plain, _ = subscribed(stage, "a.b")
    guest, ws = subscribed(stage)
    stage.server.publish("a.b", "1")
    ws.subscribe("a.*")
    stage.server.publish("a.b", "2")
    assert ws.unsubscribe("a.*")
    stage.server.publish("a.b", "3")
    ws.subscribe("a.b")
    stage.server.publish("a.b", "4")
    assert texts(plain) == ["1", "2", "3", "4"]
    assert texts(guest) == ["2", "4"]


def test_a_client_publishes_to_the_others(make_stage: MakeStage) -> None:
    stage = make_stage()
    one, ws = subscribed(stage, "room")
    two, _ = subscribed(stage, "room")
    ws.publish("room", "from one")
    stage.server.publish("room", "for two alone", exclude=ws)
    assert (texts(one), texts(two)) == ([], ["from one", "for two alone"])


def test_who_publishes_may_be_told_that_it_is_done(make_stage: MakeStage) -> None:
    stage = make_stage()
    _, ws = subscribed(stage, "talk")
    told: list[Exception | None] = []
    stage.server.publish("talk", "from the server", done=told.append)
    ws.publish("talk", "from a client", done=told.append)
    assert told == [None, None]


def test_many_are_served_over_turns_and_get_it_once(make_stage: MakeStage) -> None:
    stage = make_stage()
    all_of_them = [subscribed(stage, "all") for _ in range(600)]
    stage.server.publish("all", "to everybody")
    all_of_them[-1][1].unsubscribe("all")  # too late for what was published before
    stage.server.publish("all", "to those who are left")
    stage.run_for(0.5)
    expected = [b"to everybody", b"to those who are left"]
    found = [[frame.payload for frame in guest.pending()] for guest, _ in all_of_them]
    assert found == [expected] * 599 + [expected[:1]]
    assert stage.server.fanout.delivered == 1199


# ---------------------------------------------------------------------- how subscriptions begin and end


def test_a_subscription_counts_once(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, ws = subscribed(stage, "news")
    assert not ws.subscribe("news")
    assert list(ws.topics) == ["news"]
    stage.server.publish("news", "once")
    assert texts(guest) == ["once"]
    assert ws.unsubscribe("news")
    assert not ws.unsubscribe("news")
    assert ws.topics == ()
    stage.server.publish("news", "to nobody")
    assert texts(guest) == []


@pytest.mark.parametrize("end", ["peer", "reset", "close", "handler"])
def test_subscriptions_end_with_the_connection(make_stage: MakeStage, end: str) -> None:
    stage = make_stage()
    guest, ws = subscribed(stage, "news", "news.*")
    other, _ = subscribed(stage, "news")
    assert stage.server.topics() == {"news": 2, "news.*": 1}
    if end == "peer":
        guest.send(wire.frame(wire.CLOSE, b"\x03\xe8"))
    elif end == "reset":
        guest.reset()
    elif end == "close":
        ws.close()
    else:
        stage.handlers[0].do["on_message"] = lambda *_: 1 / 0
        guest.send(wire.frame(wire.TEXT, b"x"))
        guest.drain()
        stage.log.take()
    stage.run_for(6)
    assert stage.server.topics() == {"news": 1}
    stage.server.publish("news", "x")
    assert texts(other) == ["x"]
    assert stage.server.fanout.missed == 0
    with pytest.raises(ConnectionClosedError):
        ws.subscribe("news")
    assert ws.topics == ()


def test_a_connection_that_has_ended_is_not_counted_as_closed_for_an_answer(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, ws = subscribed(stage, "news")
    guest.reset()
    stage.run_until(lambda: ws.closed)
    with stage.server.publishing.lock:
        stage.server.publishing.send_after_pending_locked(ws, [(PreparedMessage(Opcode.TEXT, b"{}"), ANSWER)])
    assert stage.server.publishing.losses.closed == 0


class _Moment:
    """Stands for a limit: `subscribe` compares with it after it found the connection open, and waits there."""

    def __init__(self) -> None:
        self.come = threading.Event()
        self.go = threading.Event()

    def __le__(self, count: int) -> bool:
        self.come.set()
        assert self.go.wait(10)
        return False


class _SeenLock:
    """A lock that tells when the test's own thread asks for it."""

    def __init__(self, asked: threading.Event) -> None:
        self._lock = threading.RLock()
        self._asked = asked
        self._thread = threading.current_thread()

    def __enter__(self) -> None:
        if threading.current_thread() is self._thread:
            self._asked.set()
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def _is_owned(self) -> bool:
        return self._lock._is_owned()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("first", [True, False])
def test_who_subscribes_while_its_connection_ends_is_not_left_behind(make_stage: MakeStage, first: bool) -> None:
    stage = make_stage(server={"presence": lambda ws, topic: {"name": "Ann"}})
    if not first:
        subscribed(stage, "other")
    guest, ws = subscribed(stage)
    moment = _Moment()
    subscriptions = stage.server.subscriptions
    subscriptions.most = moment  # type: ignore[assignment]
    subscriptions._lock = _SeenLock(moment.go)
    thread = threading.Thread(target=ws.subscribe, args=("news",))
    thread.start()
    assert moment.come.wait(10)
    guest.reset()
    stage.run_until(
        lambda: ws.stream.observer is not ws
    )  # its end was told to all, perhaps after it waited for the lock
    moment.go.set()
    thread.join(10)
    assert not thread.is_alive()
    assert "news" not in stage.server.topics()
    assert stage.server.members("news") == []
    assert ws.topics == ()


def test_who_ends_leaves_all_its_topics(make_stage: MakeStage) -> None:
    stage = make_stage(server={"presence": lambda ws, topic: {"name": "Ann"}})
    guest, _ = subscribed(stage, "a", "b", "c")
    assert len(stage.server.members("a")) == 1

    def tell(data: bytes, to: str | None) -> None:
        raise ValueError("too large")

    stage.server.publishing.presence._send_to_peers = tell
    guest.reset()
    stage.run_until(lambda: not stage.server.topics())
    assert [stage.server.members(topic) for topic in "abc"] == [[], [], []]
    assert stage.server.publishing.presence._ids == {}
    (logged,) = stage.log.take()
    assert "left its topics: too large" in logged


def test_topics_and_how_many_listen(make_stage: MakeStage) -> None:
    stage = make_stage()
    assert stage.server.topics() == {}
    assert stage.server.subscriber_count("a.b") == 0
    subscribed(stage, "a.b", "a.*")
    _, ws = subscribed(stage, "a.>")
    subscribed(stage, "c")
    assert stage.server.topics() == {"a.b": 1, "a.*": 1, "a.>": 1, "c": 1}
    assert stage.server.subscriber_count("a.b") == 2
    ws.unsubscribe("a.>")
    assert stage.server.subscriber_count("a.b") == 1
    with pytest.raises(ValueError, match="is a pattern"):
        stage.server.subscriber_count("a.*")


# ---------------------------------------------------------------------- limits and hooks


def test_a_connection_has_so_many_subscriptions(make_stage: MakeStage) -> None:
    stage = make_stage(server={"max_topics": 3})
    _, ws = subscribed(stage, "a", "b", "c")
    with pytest.raises(UsageError, match="may have 3 subscriptions"):
        ws.subscribe("d")
    assert not ws.subscribe("a")
    ws.unsubscribe("a")
    assert ws.subscribe("d")
    assert stage.server.topics() == {"b": 1, "c": 1, "d": 1}


def test_the_defaults() -> None:
    server = Server(workers=0)
    assert (server.subscriptions.most, server.subscriptions.longest) == (MAX_TOPICS, MAX_LENGTH) == (128, 255)
    server.loop.close()


@pytest.mark.parametrize("name", ["max_topics", "max_topic_length"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "5"])
def test_limits_that_cannot_be_meant(name: str, value: Any) -> None:
    with Loop(workers=0) as loop, pytest.raises(ValueError, match=f"{name} must be an int of 1 or more"):
        Server(loop=loop, **{name: value})


def test_who_may_subscribe_and_publish(make_stage: MakeStage) -> None:
    asked: list[tuple[WebSocket, str]] = []

    def may(ws: WebSocket, topic: str) -> bool:
        asked.append((ws, topic))
        return topic.startswith("open.")

    stage = make_stage(server={"may_subscribe": may, "may_publish": may})
    guest, ws = subscribed(stage, "open.a", "open.*")
    with pytest.raises(NotAllowedError, match=r"no subscription to 'secret\.a'"):
        ws.subscribe("secret.a")
    with pytest.raises(NotAllowedError, match=r"no publishing to 'secret\.a'"):
        ws.publish("secret.a", "x")
    _, other = subscribed(stage)
    other.publish("open.a", "allowed")
    stage.server.publish("secret.a", "the server asks nobody")
    assert texts(guest) == ["allowed"]
    assert asked == [
        (ws, "open.a"),
        (ws, "open.*"),
        (ws, "secret.a"),
        (ws, "secret.a"),
        (other, "open.a"),
    ]


def test_a_connection_of_no_server_has_no_topics() -> None:
    ours, theirs = socket.socketpair()
    head = wire.request("/ws")
    with Loop(workers=0) as loop, theirs:
        ws = accept((ours, head), loop=loop)
        for call in (
            lambda: ws.subscribe("a"),
            lambda: ws.unsubscribe("a"),
            lambda: ws.topics,
            lambda: ws.publish("a", "b"),
        ):
            with pytest.raises(UsageError, match=r"topics are those of a gows\.Server"):
                call()
        ws.close()


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["a", "a.b", "prices.eu-1.gold_2", "ä.日本", "x" * 255, "*", ">", "a.*.b", "a.>", "*.>", ".".join("a" * 16)]
)
def test_what_may_be_subscribed_to(name: str) -> None:
    assert ".".join(check_pattern(name)) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "1 to 255 characters"),
        ("x" * 256, "1 to 255 characters"),
        (".".join("a" * 17), "at most 16 words, not 17"),
        (".", "none is empty"),
        ("a.", "none is empty"),
        (".a", "none is empty"),
        ("a..b", "none is empty"),
        ("a b", "no spaces"),
        ("a\nb", "no control"),
        ("a\0", "no control"),
        ("a*", "words of their own"),
        ("a.b>", "words of their own"),
        ("**", "words of their own"),
        (">.a", "at the end"),
        ("a.>.b", "at the end"),
        (b"a", "a str, not bytes"),
        (None, "a str, not NoneType"),
    ],
)
def test_what_may_not(make_stage: MakeStage, name: Any, why: str) -> None:
    stage = make_stage()
    _, ws = subscribed(stage)
    for call in (
        ws.subscribe,
        ws.unsubscribe,
        lambda name: ws.publish(name, ""),
        lambda n: stage.server.publish(n, ""),
    ):
        if call == ws.unsubscribe and len(name or "") > 30:
            assert not call(name)  # it may have been subscribed to under other limits
            continue
        with pytest.raises((ValueError, TypeError), match=why if "the end" not in why else r"at the end|is a pattern"):
            call(name)
    assert stage.server.topics() == {}


@pytest.mark.parametrize("name", ["*", ">", "a.*", "a.>"])
def test_a_message_has_one_topic(name: str) -> None:
    with pytest.raises(ValueError, match="is a pattern"):
        check_topic(name)


WORDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4)
PATTERNS = st.builds(
    lambda words, end: ".".join(words + end),
    st.lists(st.sampled_from(["a", "b", "c", "*"]), max_size=3),
    st.sampled_from([["a"], ["*"], [">"], ["b"]]),
)


def stands_for(pattern: list[str], topic: list[str]) -> bool:
    """The rule as a document would say it."""
    if not pattern or not topic:
        return not pattern and not topic
    if pattern == [">"]:
        return True
    return pattern[0] in ("*", topic[0]) and stands_for(pattern[1:], topic[1:])


class Listener(WebSocket):
    """Somebody who can subscribe."""

    __slots__ = ()

    def __init__(self) -> None:
        """Without a connection."""

    @property
    def closed(self) -> bool:
        return False

    @property
    def subprotocol(self) -> None:
        return None


@given(st.lists(st.tuples(st.integers(0, 3), PATTERNS, st.booleans()), max_size=30), st.lists(WORDS, max_size=10))
def test_patterns_find_whom_the_rule_says(steps: list[tuple[int, str, bool]], topics: list[list[str]]) -> None:
    with Loop(workers=0) as loop:
        subscriptions = Subscriptions(loop)
        listeners = [Listener() for _ in range(4)]
        model: set[tuple[int, str]] = set()
        for who, pattern, on in steps:
            if on:
                assert subscriptions.add(listeners[who], pattern, pattern.split(".")) is ((who, pattern) not in model)
                model.add((who, pattern))
            else:
                assert subscriptions.unsubscribe(listeners[who], pattern) is ((who, pattern) in model)
                model.discard((who, pattern))
            for words in topics:
                found = subscriptions.targets(".".join(words))
                expected = {who for who, pattern in model if stands_for(pattern.split("."), words)}
                assert len(found.bare) == len(expected)
                assert {listeners.index(ws) for ws in found.bare} == expected  # type: ignore[arg-type]
                covered = {number for number, ws in enumerate(listeners) if subscriptions.covers(ws, ".".join(words))}
                assert covered == expected
        for who, pattern in sorted(model):
            subscriptions.unsubscribe(listeners[who], pattern)
        assert (subscriptions.counts(), subscriptions._of, subscriptions._members) == ({}, {}, {})
        assert not subscriptions._patterns._shapes
        assert subscriptions._total == 0


def test_who_comes_by_name_is_added_to_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand that come one after the other are not looked through a thousand times."""
    with Loop(workers=0) as loop:
        subscriptions = Subscriptions(loop)
        listeners = [Listener() for _ in range(5)]
        subscriptions.add(listeners[0], "*", ["*"])
        subscriptions.targets("a")
        monkeypatch.setattr(subscriptions, "_find_targets_locked", None)
        for listener in listeners[1:]:
            subscriptions.add(listener, "a", ["a"])
            subscriptions.add(listener, "a", ["a"])
        assert subscriptions.targets("a") == (tuple(listeners), ())
        assert subscriptions._remembered == gows.topics.subscriptions.TUPLE_COST + 5
        subscriptions.add(listeners[0], "a", ["a"])  # which gets it already
        assert "a" not in subscriptions._targets


def test_it_knows_what_a_pattern_stands_for() -> None:
    with Loop(workers=0) as loop:
        subscriptions = Subscriptions(loop)
        listener = Listener()
        for pattern, topic, expected in pattern_vectors.VECTORS:
            check_topic(topic)
            assert patterns.stands_for(pattern.split("."), topic.split(".")) is expected, (pattern, topic)
            assert subscriptions.add(listener, pattern, check_pattern(pattern))
            assert (subscriptions.count(topic) == 1) is expected, (pattern, topic)
            assert subscriptions.unsubscribe(listener, pattern)


@given(st.lists(PATTERNS, unique=True, max_size=20), WORDS)
def test_each_pattern_is_tried_once(patterns: list[str], words: list[str]) -> None:
    found = Patterns()
    wild = [pattern.split(".") for pattern in patterns if is_pattern(pattern.split("."))]
    for pattern in wild:
        found.add(pattern)
    assert len(found) == len(wild)
    tried = list(found.candidates(words))
    assert len(tried) == len(set(tried))
    assert {".".join(pattern) for pattern in wild if stands_for(pattern, words)} <= set(tried)


def test_a_pattern_costs_little_memory() -> None:
    """A tree of words took 40 times as much."""
    patterns = Patterns()
    names = [["public", *(f"w{number}x{at}" for at in range(14)), "*"] for number in range(2000)]
    tracemalloc.start()
    try:
        for words in names:
            patterns.add(words)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 2000


def test_what_is_remembered_of_topics_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gows.topics.subscriptions, "REMEMBERED", 10 * (gows.topics.subscriptions.TUPLE_COST + 3))
    with Loop(workers=0) as loop:
        subscriptions = Subscriptions(loop)
        listeners = [Listener() for _ in range(3)]
        for listener in listeners:
            subscriptions.add(listener, ">", [">"])
        for number in range(100):
            assert subscriptions.targets(str(number)) == (tuple(listeners), ())
            assert len(subscriptions._targets) <= 10
            assert subscriptions._remembered == len(subscriptions._targets) * (gows.topics.subscriptions.TUPLE_COST + 3)
        assert subscriptions.targets("99") is subscriptions.targets("99")
        for listener in listeners:
            subscriptions.unsubscribe(listener, ">")
        assert (subscriptions._targets, subscriptions._remembered) == ({}, 0)


def test_what_is_remembered_counts_those_who_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand topics that go to a thousand connections each are a million references."""
    monkeypatch.setattr(gows.topics.subscriptions, "REMEMBERED", 2000)
    with Loop(workers=0) as loop:
        subscriptions = Subscriptions(loop)
        listeners = [Listener() for _ in range(1000)]
        for listener in listeners:
            subscriptions.add(listener, ">", [">"])
        subscriptions.add(listeners[0], "by.name", ["by", "name"])
        for number in range(50):
            subscriptions.targets(f"t.{number}")
            subscriptions.targets("by.name")
            assert sum(len(found.bare) for found in subscriptions._targets.values()) <= 4004
        subscriptions.unsubscribe(listeners[0], "by.name")
        assert "by.name" not in subscriptions._targets


def test_what_is_too_long_may_be_unsubscribed(make_stage: MakeStage) -> None:
    stage = make_stage(server={"max_topic_length": 400})
    long, wordy = "x" * 300, ".".join("a" * 16)
    _, ws = subscribed(stage, long, wordy)
    stage.server.subscriptions.longest = 10
    with pytest.raises(ValueError, match="1 to 10 characters, not 300"):
        ws.subscribe(long)
    assert ws.unsubscribe(long)
    assert ws.unsubscribe(wordy)
    assert not ws.unsubscribe("x" * 1000)
    assert not ws.unsubscribe(".".join("a" * 17))
    assert stage.server.topics() == {}


def test_a_key_has_so_many_characters(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, ws = subscribed(stage, "a")
    for key in ("k" * 256, "\ud800"):
        with pytest.raises(ValueError, match="a key has at most 255 characters"):
            stage.server.publish("a", "x", key=key)
        with pytest.raises(ValueError, match="a key has at most 255 characters"):
            ws.publish("a", "x", key=key)
    stage.server.publish("a", "x", key="k" * 255)
    assert texts(guest) == ["x"]


# ---------------------------------------------------------------------- those who do not read, and what comes too late


def stuck(stage: Stage, guest: Guest, ws: WebSocket) -> None:
    """The guest does not read, and the kernel takes no more for it."""
    ws.write_binary(bytes(stage.world.network.buffer_size + 1000))
    stage.run_for(0.5)
    assert ws.stream.blocked
    assert isinstance(guest.sock, MemorySocket)


def test_who_does_not_read_gets_the_latest_of_each_key(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="latest", write_timeout=None)
    guest, ws = subscribed(stage, "prices.>")
    stuck(stage, guest, ws)
    for price in range(50):
        for symbol in ("gold", "iron"):
            stage.server.publish(f"prices.{symbol}", f"{symbol} {price}", key=symbol)
    stage.run_for(0.5)
    guest.read()
    assert texts(guest) == ["gold 49", "iron 49"]
    assert stage.server.overflow.counts["replaced"] == 98


def test_a_key_is_one_of_its_topic(make_stage: MakeStage) -> None:
    """Or who may publish to one topic could erase what waits of others."""
    stage = make_stage(overflow="latest", write_timeout=None)
    guest, ws = subscribed(stage, ">")
    stuck(stage, guest, ws)
    stage.server.publish("prices", "1800", key="gold")
    stage.server.publish("chat", "boo", key="gold")
    stage.server.broadcast("to all", key="gold")
    stage.server.publish("chat", "boo!", key="gold")
    stage.run_for(0.5)
    guest.read()
    assert texts(guest) == ["1800", "boo!", "to all"]


def test_what_was_kept_back_for_too_long_is_not_sent(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="drop_oldest", write_timeout=None)
    guest, ws = subscribed(stage, "news")
    stuck(stage, guest, ws)
    stage.server.publish("news", "for five seconds", ttl=5)
    stage.server.publish("news", "for ever")
    stage.server.publish("news", "for a minute", ttl=60)
    stage.run_for(10)
    guest.read()
    assert texts(guest) == ["for ever", "for a minute"]
    assert stage.server.overflow.counts["expired"] == 1


def test_what_waits_for_its_turn_too_long_is_not_sent(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, _ = subscribed(stage, "news")
    fanout = stage.server.fanout
    stage.server.publish("news", "late", ttl=1)
    stage.server.publish("news", "in time", ttl=100)
    stage.world.clock.advance(2)
    assert texts(guest) == ["in time"]
    assert (fanout.expired, fanout.waiting) == (1, 0)
    stage.server.publish("news", "late", ttl=1)
    stage.world.clock.advance(2)
    assert texts(guest) == []
    stage.server.publish("news", "next")
    assert texts(guest) == ["next"]
    assert (fanout.expired, fanout.waiting) == (2, 0)


@pytest.mark.parametrize("ttl", [-1, float("nan"), "5"])
def test_a_ttl_is_a_number_of_seconds(make_stage: MakeStage, ttl: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="ttl"):
        make_stage().server.publish("news", "x", ttl=ttl)


def test_compressed_once_for_all(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage(compression=True, min_compress_size=10)
    some = [subscribed_with(stage, wire.DEFLATE) for _ in range(5)] + [subscribed_with(stage) for _ in range(5)]
    calls: list[bytes] = []
    deflate = some[0][1].connection.deflate
    assert deflate is not None
    kind = type(deflate)
    compress = kind.compress

    def spy(self: PerMessageDeflate, data: bytes, *rest: Any) -> bytes:
        calls.append(data)
        return compress(self, data, *rest)

    monkeypatch.setattr(kind, "compress", spy)
    stage.server.publish("all", "x" * 1000)
    stage.run_for(0.5)
    sizes = {len(frame.payload) for guest, _ in some for frame in guest.pending()}
    assert len(sizes) == 2
    assert calls == [b"x" * 1000]


def subscribed_with(stage: Stage, *headers: str) -> tuple[Guest, WebSocket]:
    guest, handler = stage.guest(*headers)
    handler.ws.subscribe("all")
    return guest, handler.ws
