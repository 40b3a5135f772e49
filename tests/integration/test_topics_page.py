"""gows.js in a real browser: topics of a server by gows.v1, losses of the connection included."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest

from gows import ConnectionClosedError, Response, Server
from gows.client.retry import is_temporary
from gows.topics.publication import Position
from tests.support import pattern_vectors
from tests.support.topic_server import topic_server
from tests.support.topic_vectors import VECTORS, Script, play, scripted_topics
from tests.support.waiting import wait_until

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
    page.evaluate("window.refused = told(gows._cursors.get('secret')[0].subscriptions[0].ready)")
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


def test_it_knows_what_a_pattern_stands_for(page: Any) -> None:
    found = page.evaluate(
        "(all) => all.map(([pattern, topic]) => Gows.matches(pattern, topic))", pattern_vectors.VECTORS
    )
    for (pattern, topic, expected), matches in zip(pattern_vectors.VECTORS, found, strict=True):
        assert matches is expected, (pattern, topic)


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
        server.publishing.history.begin("kept", Position("another", 7))
        server.publishing.report_lost_locked("kept", Position("another", 7))
    page.wait_for_function("lost.length === 1")
    assert page.evaluate("gows._cursors.get('kept')[0].position") == {"epoch": "another", "offset": 7}


# ---------------------------------------------------------------------- by a server that says what a test wants

SCRIPTED = """<!doctype html><script>
(SCRIPT);
Gows.FIRST_DELAY = 50; Gows.ASK_AGAIN = [10, 20];
const states = [], heard = {}, subscriptions = {};
const told = (promise) => promise.then(() => "done", (error) => error.code);
let gows;
function begin(url = "/live") {
  gows = new Gows(url, { onstate: (state, { code }) => states.push(code ? `${state} ${code}` : state) });
}
function subscribe(name, topic, settings) {
  const all = (heard[name] = []);
  subscriptions[name] = gows.subscribe(topic, (data) => all.push(data), {
    lost: (topic) => all.push(`lost ${topic}`), refused: ({ code }) => all.push(`refused ${code}`), ...settings });
}
</script>"""


class Program:
    """A page that uses gows.js as the steps of a vector say."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def subscribe(self, name: str, topic: str, settings: dict[str, Any]) -> None:
        self.page.evaluate("(all) => subscribe(...all)", [name, topic, settings])

    def end(self, name: str) -> None:
        self.page.evaluate(f"subscriptions.{name}.end()")

    def heard(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = self.page.evaluate("heard")
        return found


@pytest.fixture(scope="module")
def scripted(browser: Any) -> Iterator[tuple[Any, str, Script]]:
    """One server and one page for all: a server that stops waits until the browser gives its connections up."""
    source = (files("gows") / "pages" / "gows.js").read_text("utf-8")
    with scripted_topics(SCRIPTED.replace("(SCRIPT)", source)) as (server, script):
        page = browser.new_page()
        yield page, f"http://127.0.0.1:{server.addresses[0][1]}/", script
        page.close()


@pytest.fixture
def script(scripted: tuple[Any, str, Script]) -> Iterator[tuple[Any, Script]]:
    """A page that has connected to a scripted server."""
    page, url, script = scripted
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(url)
    script.ws, script.requests = None, queue.SimpleQueue()
    page.evaluate("begin()")
    wait_until(lambda: script.ws is not None)
    page.wait_for_function("gows.open")
    yield page, script
    page.evaluate("gows.close()")
    assert faults == []


@pytest.mark.parametrize("name", VECTORS)
def test_what_a_client_does_with_positions(name: str, script: tuple[Any, Script]) -> None:
    page, server = script
    play(VECTORS[name], Program(page), server)


def asked(script: Script, type_: str) -> dict[str, Any]:
    request = script.requests.get(timeout=5)
    assert request["type"] == type_
    return request


@pytest.mark.parametrize("how", ["close", "gives up"])
def test_everything_ends_with_the_client(how: str, script: tuple[Any, Script]) -> None:
    page, server = script
    page.evaluate("subscribe('standing', 'a'); undefined")
    assert server.ws is not None
    server.ws.write_json({"type": "subscribed", "topic": "a", "id": asked(server, "subscribe")["id"]})
    page.evaluate("subscriptions.standing.ready")
    page.evaluate("""() => {
      subscribe("waiting", "b"); subscribe("also", "b");
      window.all = [subscriptions.waiting.ready, subscriptions.also.ready, gows.publish("c", 1)].map(told);
    }""")
    asked(server, "subscribe"), asked(server, "publish")
    if how == "close":
        page.evaluate("gows.close(); gows.close()")
    else:
        server.ws.close_handshake(4401, "log in again")
        page.wait_for_function("gows.ended")
    page.evaluate("subscribe('late', 'a')")
    page.evaluate("all.push(told(gows.publish('c', 2)), told(subscriptions.late.ready))")
    assert page.evaluate("Promise.all(all)") == ["closed"] * 5
    assert page.evaluate("heard.standing") == (["refused closed"] if how == "gives up" else [])
    assert page.evaluate("states") == ["open", "ended 4401" if how == "gives up" else "ended 1000"]


@pytest.mark.parametrize("code", [1008, 4403, 4429, 4500])
def test_it_gives_up_on_what_is_final(code: int, script: tuple[Any, Script]) -> None:
    page, server = script
    assert server.ws is not None
    server.ws.close_handshake(code)
    final = is_temporary(ConnectionClosedError("", code)) is False
    assert final == (code in (1008, 4403))
    page.wait_for_function("states.length > 1")
    assert page.evaluate("states[1]") == f"{'ended' if final else 'closed'} {code}"
    assert page.evaluate(f"Gows.isFinal({code})") is final


def test_it_and_the_python_client_agree_on_what_is_final(script: tuple[Any, Script]) -> None:
    page, _ = script
    final = [code for code in range(1000, 5000) if not is_temporary(ConnectionClosedError("", code))]
    assert page.evaluate("[...Array(4000).keys()].map((n) => n + 1000).filter((code) => Gows.isFinal(code))") == final
    for reason in ("", "not here", "too many messages a second"):
        temporary = is_temporary(ConnectionClosedError("", 1008, reason))
        assert page.evaluate(f"Gows.isFinal(1008, {reason!r})") is not temporary


def test_answers_that_do_not_help_are_not_asked_for_at_full_speed(script: tuple[Any, Script]) -> None:
    page, server = script
    page.evaluate("Gows.ASK_AGAIN = [60000, 60000]; subscribe('x', 'a')")
    assert server.ws is not None
    server.ws.write_json({"type": "subscribed", "id": asked(server, "subscribe")["id"], "epoch": "e", "offset": 3})
    server.ws.write_json({"type": "lost", "topic": "a", "epoch": "e", "offset": 9})
    number = asked(server, "subscribe")["id"]
    server.ws.write_json({"type": "subscribed", "id": number, "epoch": "e", "offset": 3, "recovered": True})
    server.ws.write_json({"type": "lost", "topic": "a", "epoch": "e", "offset": 9})
    server.ws.write_json({"type": "message", "topic": "a", "data": "without a position"})
    page.wait_for_function("heard.x.length === 1")
    page.evaluate("gows.publish('a', 1).catch(() => {}), 1")
    asked(server, "publish")  # and nothing before it


def test_each_attempt_may_have_another_url(script: tuple[Any, Script]) -> None:
    page, server = script
    page.evaluate("""() => {
      gows.close();
      window.urls = [];
      begin(async () => {
        urls.push(urls.length);
        if (urls.length === 2) throw new Error("no token");
        return "/live?token=" + urls.length;
      });
    }""")
    page.wait_for_function("gows.open")
    assert server.ws is not None
    server.ws.close_handshake(1001)
    page.wait_for_function("urls.length === 3 && gows.open")
    assert page.evaluate("gows._socket.url").endswith("/live?token=3")
    assert page.evaluate("states") == ["open", "ended 1000", "open", "closed 1001", "closed 1006", "open"]
    page.evaluate("gows.close(); begin(() => new Promise((resolve) => { window.late = resolve; }))")
    page.evaluate("gows.close(); late('/live')")  # it is not wanted any more
    assert page.evaluate("gows._socket") is None
    assert page.evaluate("try { new Gows('http://['); } catch (error) { 'refused' }") == "refused"


def test_a_silent_loss_is_noticed(script: tuple[Any, Script]) -> None:
    page, server = script
    page.evaluate("gows.close(); Gows.SILENCE = 100; Gows.PATIENCE = 300; Gows.LOOK = 20; begin()")
    page.wait_for_function("gows.open")
    first, number = server.ws, asked(server, "ping")["id"]
    assert first is not None
    first.write_json({"type": "pong", "id": number})
    number = asked(server, "ping")["id"]  # the answer was a sign of life, and the silence goes on
    first.write_json({"type": "error", "id": number, "code": "unknown_type", "reason": "an older server"})
    asked(server, "ping")
    page.evaluate("window.lost_ = told(gows.publish('a', 1))")
    assert page.evaluate("lost_") == "closed"
    wait_until(lambda: server.ws is not first)
    assert page.evaluate("states.slice(2, 4)") == ["open", "closed 1006"]


def test_the_silence_of_a_loss_is_noticed_within_40_seconds(script: tuple[Any, Script]) -> None:
    page, _ = script
    assert page.evaluate("Gows.SILENCE + Gows.PATIENCE + 2 * Gows.LOOK") < 40_000


def test_the_network_is_back_so_it_looks_at_once(script: tuple[Any, Script]) -> None:
    page, server = script
    page.evaluate("dispatchEvent(new Event('online'))")
    asked(server, "ping")


def test_pong(page: Any) -> None:
    assert page.evaluate("new Promise((resolve, reject) => gows._ask({ type: 'ping' }, resolve, reject))") == {
        "type": "pong",
        "id": 1,
    }
