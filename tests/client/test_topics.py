"""TopicClient: topics of a server on real sockets, losses of the connection included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gows import ConnectError, Handler, Reconnect, Server, TopicClient, TopicError, accept
from gows.client import topics
from gows.client.subscription import TopicSubscription
from gows.client.topics import _stands_for
from gows.reactor import Loop
from gows.topics.publication import Position
from tests.support import pattern_vectors
from tests.support.addresses import tcp
from tests.support.topic_server import topic_server
from tests.support.topic_vectors import VECTORS, Script, play, scripted_topics
from tests.support.waiting import wait_until

QUICK = Reconnect(initial=0.05, maximum=0.2)


@pytest.fixture
def server() -> Iterator[Server]:
    with topic_server() as server:
        server.add_route("/other", lambda request: accept(request).serve(Handler()))
        yield server


@pytest.fixture
def make_client(server: Server) -> Iterator[Callable[..., TopicClient]]:
    made: list[TopicClient] = []
    with Loop(workers=2) as loop:
        loop.start()

        def make(path: str = "/live", **settings: Any) -> TopicClient:
            host, port = tcp(server.addresses[0])
            made.append(TopicClient(f"ws://{host}:{port}{path}", loop=loop, **{"reconnect": QUICK, **settings}))
            return made[-1]

        yield make
        for client in made:
            client.close()
            client.close()
            assert client._client.wait(5)


MakeClient = Callable[..., TopicClient]


class Ear:
    """What a subscription heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.lost: list[str] = []

    def __call__(self, data: Any, topic: str) -> None:
        self.heard.append((topic, data))

    def take(self, count: int) -> list[tuple[str, Any]]:
        wait_until(lambda: len(self.heard) >= count)
        found, self.heard = self.heard, []
        return found


def test_topics_of_a_server(server: Server, make_client: MakeClient) -> None:
    client, ear, rest = make_client(), Ear(), Ear()
    words = client.subscribe("news.*", ear)
    everything = client.subscribe("news.>", rest)
    for subscription in (words, everything):
        subscription.ready.result(5)
    assert server.topics() == {"news.*": 1, "news.>": 1}
    server.publish("news.local", {"rain": [1, None, "ä"]})
    server.publish("news.local", b"\x00\xff")
    server.publish("news.local.north", "text")
    expected = [("news.local", {"rain": [1, None, "ä"]}), ("news.local", b"\x00\xff")]
    assert ear.take(2) == expected
    assert rest.take(3) == [*expected, ("news.local.north", "text")]
    words.end()
    words.end()
    wait_until(lambda: server.topics() == {"news.>": 1})


def test_clients_talk_to_each_other(server: Server, make_client: MakeClient) -> None:
    one, two, ear, own = make_client(), make_client(), Ear(), Ear()
    one.subscribe("room", ear).ready.result(5)
    two.subscribe("room", own).ready.result(5)
    two.publish("room", {"text": "ä"}, key="k", ttl=60).result(5)
    assert ear.take(1) == [("room", {"text": "ä"})]
    assert own.heard == []


def test_several_subscriptions_to_one_topic(server: Server, make_client: MakeClient) -> None:
    client, one, two = make_client(), Ear(), Ear()
    first, second = client.subscribe("a", one), client.subscribe("a", two)
    second.ready.result(5)
    server.publish("a", 1)
    assert (one.take(1), two.take(1)) == ([("a", 1)], [("a", 1)])
    first.end()
    server.publish("a", 2)
    assert two.take(1) == [("a", 2)]
    assert one.heard == []
    second.end()
    wait_until(lambda: server.topics() == {})


def test_what_is_refused_is_told(server: Server, make_client: MakeClient) -> None:
    client = make_client()
    for future in (client.subscribe("secret", Ear()).ready, client.publish("secret", 1), client.publish("a..b", 1)):
        with pytest.raises(TopicError) as refusal:
            future.result(5)
        assert refusal.value.code in ("not_allowed", "bad_topic")
    with pytest.raises(TypeError):
        client.publish("a", object())
    assert not client._asked


def test_a_callback_that_raises_is_logged_and_harms_nobody(
    server: Server, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    client, ear = make_client(), Ear()
    client.subscribe("a", lambda data, topic: 1 / 0).ready.result(5)
    client.subscribe("a", ear)
    server.publish("a", 1)
    server.publish("a", 2)
    assert ear.take(2) == [("a", 1), ("a", 2)]
    assert "a callback of a TopicClient raised" in caplog.text


def lose(server: Server, client: TopicClient) -> None:
    (ws,) = server.connections
    ws.close()
    wait_until(lambda: not client.connected)


def test_what_was_missed_comes_once_and_in_order(server: Server, make_client: MakeClient) -> None:
    client, ear = make_client(reconnect=Reconnect(initial=0.6, jitter=0)), Ear()
    client.subscribe("kept", ear, ear.lost.append).ready.result(5)
    for number in range(5):
        server.publish("kept", number)
    assert [data for _, data in ear.take(5)] == list(range(5))
    for start in (5, 15):
        lose(server, client)
        for number in range(start, start + 10):
            server.publish("kept", number)
        assert [data for _, data in ear.take(10)] == list(range(start, start + 10))
    server.publish("kept", "live")
    assert ear.take(1) == [("kept", "live")]
    assert ear.lost == []


def test_what_cannot_be_had_any_more_is_told(server: Server, make_client: MakeClient) -> None:
    client, ear = make_client(reconnect=Reconnect(initial=0.6, jitter=0)), Ear()
    for topic in ("kept", "fleeting", "kept.*"):
        client.subscribe(topic, ear, ear.lost.append).ready.result(5)
    server.publish("kept", "first")
    ear.take(1)
    lose(server, client)
    for number in range(50):
        server.publish("kept", number)
    wait_until(lambda: len(ear.lost) == 3)
    assert sorted(ear.lost) == ["fleeting", "kept", "kept.*"]
    server.publish("kept", "live")
    assert ear.take(1) == [("kept", "live")]


def test_who_is_there(server: Server, make_client: MakeClient) -> None:
    one, two = make_client(), make_client()
    seen: list[dict[str, Any]] = []
    also: list[dict[str, Any]] = []
    one.subscribe("room", Ear(), present=seen.append).ready.result(5)
    wait_until(lambda: seen and len(seen[-1]) == 1)
    here = two.subscribe("room", Ear())
    here.ready.result(5)
    wait_until(lambda: len(seen[-1]) == 2)
    assert list(seen[-1].values()) == [{"topic": "room"}] * 2
    second = one.subscribe("room", Ear(), present=also.append)
    wait_until(lambda: also and len(also[-1]) == 2)
    second.end()
    here.end()
    wait_until(lambda: len(seen[-1]) == 1)
    (me,) = seen[-1]
    (ws,) = server.connections[:1]
    ws.close()  # it comes back, and asks again
    wait_until(lambda: len(seen[-1]) == 1 and me not in seen[-1])


def test_the_latest_messages_come_first(server: Server, make_client: MakeClient) -> None:
    for number in range(5):
        server.publish("kept", number)
    ear = Ear()
    make_client().subscribe("kept", ear, history=3).ready.result(5)
    assert ear.take(3) == [("kept", 2), ("kept", 3), ("kept", 4)]
    server.connections[0].close()
    wait_until(lambda: server.subscriber_count("kept") == 0)
    server.publish("kept", 5)
    assert ear.take(1) == [("kept", 5)], "and no history once more"


def test_what_the_server_has_lost_is_told(server: Server, make_client: MakeClient) -> None:
    client = make_client()
    ear, others = Ear(), Ear()
    client.subscribe("kept", ear, lost=ear.lost.append).ready.result(5)
    client.subscribe("*", others, lost=others.lost.append).ready.result(5)
    server.publish("kept", 1)
    assert ear.take(1) == [("kept", 1)]
    with server.publishing.lock:
        server.publishing.history.begin("kept", Position("another", 7))
        server.publishing.report_lost_locked("kept", Position("another", 7))
        server.publishing.report_lost_locked("fleeting", None)
    wait_until(lambda: (ear.lost, others.lost) == (["kept"], ["kept", "fleeting"]))
    assert client._cursors["kept"][0].position == ("another", 7)


def test_while_there_is_no_connection(server: Server, make_client: MakeClient) -> None:
    client, ear = make_client(reconnect=Reconnect(initial=0.6, jitter=0)), Ear()
    lose(server, client)
    with pytest.raises(TopicError, match="no connection") as refusal:
        client.publish("a", 1).result(5)
    assert refusal.value.code == "closed"
    subscription, refused = client.subscribe("a", ear), client.subscribe("secret", ear)
    ended = client.subscribe("ended", ear)
    ended.end()
    subscription.ready.result(5)
    with pytest.raises(TopicError):
        refused.ready.result(5)
    assert server.topics() == {"a": 1}


def test_who_waits_for_an_answer_hears_of_the_loss(server: Server, make_client: MakeClient) -> None:
    client = make_client()
    (ws,) = server.connections
    ws.close()
    futures = [client.publish("a", number) for number in range(50)]
    codes = {error.code for future in futures if isinstance(error := future.exception(5), TopicError)}
    assert codes == {"closed"}


def test_a_server_that_speaks_something_else(server: Server, make_client: MakeClient) -> None:
    with pytest.raises(ConnectError, match=r"does not speak gows\.v1"):
        make_client("/other")
    wait_until(lambda: server.connection_count() == 0)


def test_the_end(server: Server, make_client: MakeClient) -> None:
    with make_client() as client:
        client.subscribe("a", Ear()).ready.result(5)
    wait_until(lambda: server.topics() == {})
    assert client._client.wait(5)
    with pytest.raises(TopicError):
        client.publish("a", 1).result(5)


def test_it_knows_what_a_pattern_stands_for() -> None:
    for pattern, topic, expected in pattern_vectors.VECTORS:
        assert _stands_for(pattern.split("."), topic.split(".")) is expected, (pattern, topic)


# ---------------------------------------------------------------------- by a server that says what a test wants


class Program:
    """A program that uses a TopicClient as the steps of a vector say."""

    def __init__(self, client: TopicClient) -> None:
        self.client = client
        self.subscriptions: dict[str, TopicSubscription] = {}
        self._heard: dict[str, list[Any]] = {}

    def subscribe(self, name: str, topic: str, settings: dict[str, Any]) -> None:
        heard = self._heard[name] = []
        self.subscriptions[name] = self.client.subscribe(
            topic,
            lambda data, topic: heard.append(data),
            lambda topic: heard.append(f"lost {topic}"),
            refused=lambda error: heard.append(f"refused {error.code}"),
            **settings,
        )

    def end(self, name: str) -> None:
        self.subscriptions[name].end()

    def heard(self) -> dict[str, list[Any]]:
        return self._heard


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TopicClient, Script]]:
    monkeypatch.setattr(topics, "ASK_AGAIN", (0.01, 0.02))
    with scripted_topics() as (server, script), Loop(workers=2) as loop:
        loop.start()
        client = TopicClient(f"ws://127.0.0.1:{server.addresses[0][1]}/live", reconnect=QUICK, loop=loop)
        wait_until(lambda: script.ws is not None)
        yield client, script
        client.close()
        assert client._client.wait(5)


@pytest.mark.parametrize("name", VECTORS)
def test_what_a_client_does_with_positions(name: str, script: tuple[TopicClient, Script]) -> None:
    client, server = script
    play(VECTORS[name], Program(client), server)


def asked(script: Script, type_: str) -> dict[str, Any]:
    request = script.requests.get(timeout=5)
    assert request["type"] == type_
    return request


def test_a_future_that_was_cancelled_spoils_nothing(
    script: tuple[TopicClient, Script], caplog: pytest.LogCaptureFixture
) -> None:
    client, server = script
    cancelled = [client.publish("a", 1), client.subscribe("b", print).ready]
    other, second = client.publish("a", 2), client.subscribe("b", print)
    for future in cancelled:
        assert future.cancel()
    assert not second.ready.cancelled()
    assert server.ws is not None
    for type_ in ("publish", "subscribe", "publish"):
        request = asked(server, type_)
        server.ws.write_json({"type": type_, "id": request["id"]})
    assert other.result(5) is None
    assert second.ready.result(5) is None
    lost = client.publish("a", 3), client.publish("a", 4)
    assert lost[0].cancel()
    server.ws.close()
    assert isinstance(lost[1].exception(5), TopicError)
    wait_until(lambda: client.connected)
    assert caplog.text == ""


@pytest.mark.parametrize("how", ["close", "gives up", "with"])
def test_everything_ends_with_the_client(how: str, script: tuple[TopicClient, Script]) -> None:
    client, server = script
    refused: list[TopicError] = []
    standing = client.subscribe("a", print, refused=refused.append)
    assert server.ws is not None
    server.ws.write_json({"type": "subscribed", "id": asked(server, "subscribe")["id"]})
    standing.ready.result(5)
    waiting, published = client.subscribe("b", print), client.publish("c", 1)
    cancelled = client.subscribe("b", print)
    assert cancelled.ready.cancel()
    server.requests.get(timeout=5), server.requests.get(timeout=5)
    if how == "close":
        client.close()
    elif how == "gives up":
        server.ws.close_handshake(4401, "log in again")
    else:
        with pytest.raises(ZeroDivisionError), client:
            raise ZeroDivisionError
    for future in (waiting.ready, published, client.publish("c", 2), client.subscribe("d", print).ready):
        error = future.exception(5)
        assert isinstance(error, TopicError)
        assert error.code == "closed"
    wait_until(lambda: client.stopped)
    for future in (client.publish("c", 3), client.subscribe("d", print, history=3).ready):
        assert future.done()
        assert isinstance(future.exception(0), TopicError)
    assert [error.code for error in refused] == (["closed"] if how == "gives up" else [])
    assert (client.error is not None) == (how == "gives up")
    waiting.end()
    standing.end()


def test_answers_that_do_not_help_are_not_asked_for_at_full_speed(
    script: tuple[TopicClient, Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "ASK_AGAIN", (60.0, 60.0))
    client, server = script
    ear = Ear()
    client.subscribe("a", ear)
    assert server.ws is not None
    server.ws.write_json({"type": "subscribed", "id": asked(server, "subscribe")["id"], "epoch": "e", "offset": 3})
    server.ws.write_json({"type": "lost", "topic": "a", "epoch": "e", "offset": 9})
    number = asked(server, "subscribe")["id"]
    server.ws.write_json({"type": "subscribed", "id": number, "epoch": "e", "offset": 3, "recovered": True})
    server.ws.write_json({"type": "lost", "topic": "a", "epoch": "e", "offset": 9})
    server.ws.write_json({"type": "message", "topic": "a", "data": "without a position"})
    assert ear.take(1) == [("a", "without a position")]
    assert server.requests.empty()
    client.publish("a", 1)
    asked(server, "publish")  # and nothing before it
    assert client._client.loop.active_timers == 1
    client.close()
    wait_until(lambda: client._client.loop.active_timers == 0)


def test_a_subscription_that_is_ended_is_not_waited_for(script: tuple[TopicClient, Script]) -> None:
    client, server = script
    subscription = client.subscribe("a", print)
    subscription.end()
    assert isinstance(subscription.ready.exception(5), TopicError)
    first, second = asked(server, "subscribe"), asked(server, "unsubscribe")
    assert server.ws is not None
    server.ws.write_json({"type": "subscribed", "id": first["id"], "topic": "a"})
    server.ws.write_json({"type": "unsubscribed", "id": second["id"], "topic": "a"})
    wait_until(lambda: not client._asked)


def test_what_cannot_be_written_is_refused_at_once(script: tuple[TopicClient, Script]) -> None:
    client, server = script
    for data in (object(), float("nan")):
        with pytest.raises((TypeError, ValueError)):
            client.publish("a", data)
    client.publish("a", "half a pair: \ud83d")
    assert asked(server, "publish")["data"] == "half a pair: \ud83d"
