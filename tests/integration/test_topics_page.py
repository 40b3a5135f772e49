"""gows.js in a real browser: topics of a server by gows.v1, losses of the connection included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gows import Response, Server
from gows.topics import Position
from tests.topic_server import PATTERNS, topic_server
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PAGE = """<!doctype html><title>topics</title><script src="/gows.js"></script><script>
Gows.FIRST_DELAY = 50; Gows.RESTART_DELAY = [10, 50];
const heard = [], states = [];
const gows = new Gows("/live", { onstate: (state) => states.push(state) });
const lost = [];
const hear = (name) => (data, topic) => heard.push([name, topic, data instanceof Uint8Array ? [...data] : data]);
const told = (promise) => promise.then((answer) => answer.type, (error) => error.code);
</script>"""


@pytest.fixture
def server() -> Iterator[Server]:
    with topic_server() as server:
        server.add_route("/", lambda request: Response.html(PAGE))
        yield server


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    page = browser.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"http://127.0.0.1:{server.addresses[0][1]}/")
    page.wait_for_function("gows.open")
    yield page
    page.close()
    assert faults == []


def heard(page: Any, count: int) -> list[Any]:
    page.wait_for_function(f"heard.length >= {count}")
    found: list[Any] = page.evaluate("heard.splice(0)")
    return found


def test_topics_from_a_browser(page: Any, server: Server) -> None:
    page.evaluate("""async () => {
      window.news = gows.subscribe("news.*", hear("words"));
      window.all = gows.subscribe("news.>", hear("rest"));
      await news.ready; await all.ready;
    }""")
    assert server.topics() == {"news.*": 1, "news.>": 1}
    server.publish("news.local", {"rain": True})
    server.publish("news.local", b"\x00\xff")
    server.publish("news.local.north", "text")
    assert heard(page, 5) == [
        ["words", "news.local", {"rain": True}],
        ["rest", "news.local", {"rain": True}],
        ["words", "news.local", [0, 255]],
        ["rest", "news.local", [0, 255]],
        ["rest", "news.local.north", "text"],
    ]
    page.evaluate("news.end()")
    wait_until(lambda: server.topics() == {"news.>": 1})
    server.publish("news.local", 1)
    assert heard(page, 1) == [["rest", "news.local", 1]]


def test_one_topic_for_several_parts_of_a_page(page: Any, server: Server) -> None:
    page.evaluate("""async () => {
      window.one = gows.subscribe("a", hear("one")); window.two = gows.subscribe("a", hear("two"));
      await one.ready; await two.ready; one.end(); one.end();
    }""")
    server.publish("a", 1)
    assert heard(page, 1) == [["two", "a", 1]]
    page.evaluate("two.end()")
    wait_until(lambda: server.topics() == {})


def test_pages_talk_to_each_other(page: Any, server: Server, browser: Any) -> None:
    other = browser.new_page()
    other.goto(page.url)
    other.evaluate("gows.subscribe('room', hear('other')).ready")
    assert page.evaluate("told(gows.publish('room', {text: 'ä'}))") == "published"
    assert heard(other, 1) == [["other", "room", {"text": "ä"}]]
    other.close()


def test_what_is_refused_is_told(page: Any) -> None:
    assert page.evaluate("told(gows.subscribe('secret.a', hear('x')).ready)") == "not_allowed"
    assert page.evaluate("told(gows.publish('secret.a', 1))") == "not_allowed"
    assert page.evaluate("told(gows.publish('a..b', 1))") == "bad_topic"


@pytest.mark.parametrize("code", [1001, 1012])
def test_it_comes_back_and_subscribes_again(page: Any, server: Server, code: int) -> None:
    page.evaluate("gows.subscribe('a', hear('a')).ready")
    (ws,) = server.connections
    ws.close_handshake(code)
    page.wait_for_function("states.length === 3")
    assert page.evaluate("states") == ["open", "closed", "open"]
    wait_until(lambda: server.topics() == {"a": 1})
    server.publish("a", "again")
    assert heard(page, 1) == [["a", "a", "again"]]


def test_while_there_is_no_connection(page: Any, server: Server) -> None:
    (ws,) = server.connections
    page.evaluate("Gows.FIRST_DELAY = 3000; Math.random = () => 0.5")
    ws.close()
    page.wait_for_function("!gows.open")
    assert page.evaluate("told(gows.publish('a', 1))") == "closed"
    assert page.evaluate("window.late = gows.subscribe('a', hear('late')), gows.subscribe('secret', hear('x')), 1") == 1
    page.evaluate("window.refused = told(gows._topics.get('secret')[0].ready)")
    assert page.evaluate("told(late.ready)") == "subscribed"
    assert page.evaluate("refused") == "not_allowed"
    assert server.topics() == {"a": 1}


def lose(page: Any, server: Server) -> None:
    """The connection ends, and there is none for a while."""
    page.evaluate("Gows.FIRST_DELAY = 1000; Math.random = () => 0.8")
    (ws,) = server.connections
    ws.close()
    page.wait_for_function("!gows.open")


def test_what_was_missed_comes_once_and_in_order(page: Any, server: Server) -> None:
    page.evaluate("gows.subscribe('kept', hear('kept'), { lost: (topic) => lost.push(topic) }).ready")
    for number in range(5):
        server.publish("kept", number)
    assert [data for _, _, data in heard(page, 5)] == [0, 1, 2, 3, 4]
    for start in (5, 15):
        lose(page, server)
        for number in range(start, start + 10):
            server.publish("kept", number)
        assert [data for _, _, data in heard(page, 10)] == list(range(start, start + 10))
    server.publish("kept", "live")
    assert heard(page, 1) == [["kept", "kept", "live"]]
    assert page.evaluate("lost") == []


def test_what_cannot_be_had_any_more_is_told(page: Any, server: Server) -> None:
    page.evaluate("gows.subscribe('kept', hear('kept'), { lost: (topic) => lost.push(topic) }).ready")
    page.evaluate("gows.subscribe('fleeting', hear('fleeting'), { lost: (topic) => lost.push(topic) }).ready")
    server.publish("kept", "first")
    assert heard(page, 1) == [["kept", "kept", "first"]]
    lose(page, server)
    for number in range(50):
        server.publish("kept", number)
    page.wait_for_function("lost.length === 2")
    assert sorted(page.evaluate("lost")) == ["fleeting", "kept"]
    server.publish("kept", "live")
    assert heard(page, 1) == [["kept", "kept", "live"]]
    lose(page, server)
    server.publish("kept", "missed")
    assert heard(page, 1) == [["kept", "kept", "missed"]]
    assert page.evaluate("lost.filter((topic) => topic === 'kept').length") == 1


def test_its_end_is_the_end(page: Any, server: Server) -> None:
    page.evaluate("gows.subscribe('a', hear('a')).ready")
    page.evaluate("gows.close()")
    wait_until(lambda: server.topics() == {})
    assert page.evaluate("states") == ["open", "ended"]
    assert page.evaluate("told(gows.publish('a', 1))") == "closed"


def test_it_and_the_server_agree_on_patterns(page: Any, server: Server) -> None:
    for pattern, topic, expected in PATTERNS:
        assert page.evaluate(f"Gows.matches({pattern!r}, {topic!r})") is expected, (pattern, topic)
        page.evaluate(f"window.one = gows.subscribe({pattern!r}, () => {{}}); one.ready")
        assert (server.subscriber_count(topic) == 1) is expected, (pattern, topic)
        page.evaluate("one.end()")
        wait_until(lambda: server.topics() == {})


def test_who_is_there(page: Any, browser: Any, server: Server) -> None:
    page.evaluate("""async () => {
      window.here = [];
      window.me = (await gows.subscribe("room", () => {}, { present: (all) => here.push(all) }).ready).me;
    }""")
    page.wait_for_function("here.length === 1")
    assert page.evaluate("here[0].map(({ id, info }) => [id === me, info.topic])") == [[True, "room"]]
    other = browser.new_page()
    other.goto(page.url)
    other.wait_for_function("gows.open")
    other.evaluate("gows.subscribe('room', () => {}).ready")
    page.wait_for_function("here.at(-1).length === 2")
    other.close()
    page.wait_for_function("here.at(-1).length === 1")
    page.evaluate("gows._socket.close()")  # it comes back, and asks again
    page.wait_for_function("here.at(-1).length === 1 && here.at(-1)[0].id !== me")
    assert len(server.members("room")) == 1


def test_what_was_lost_on_the_way_to_the_server_is_told(page: Any, server: Server) -> None:
    page.evaluate("gows.subscribe('kept', hear('kept'), { lost: (topic) => lost.push(topic) }).ready")
    server.publish("kept", 1)
    assert heard(page, 1) == [["kept", "kept", 1]]
    with server.publishing.lock:
        server.publishing.lost("kept", Position("another", 7))
    page.wait_for_function("lost.length === 1")
    assert page.evaluate("[...gows._positions]") == [["kept", {"epoch": "another", "offset": 7}]]
