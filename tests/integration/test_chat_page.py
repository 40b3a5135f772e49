"""The chat page in a real browser: headless Chromium against `gows demo` in a process of its own.

Screenshots of every state go to artifacts/, for people to look at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.integration.conftest import WAIT
from tests.support.demos import start_demo
from tests.support.needs import need_module
from tests.support.processes import ARTIFACTS, Children

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

HOSTILE = [
    "<script>hacked=1</script>",
    '"><img src=x onerror=hacked=1>',
    "</script><script>hacked=1</script>",
    "</title><svg/onload=hacked=1>",
    "{user}",
    "$user ${hacked=1} $$",
    "<b>&amp;</b>",
    "`+(hacked=1)+`",
]


class Demo:
    """A server's process; it can be killed, and started again on its port."""

    def __init__(self, children: Children, *flags: str) -> None:
        self._children = children
        self._process, self.port = start_demo(children, 0, *flags)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def start_again(self) -> None:
        self._process, _ = start_demo(self._children, self.port)


@pytest.fixture
def demo(browser: Any) -> Iterator[Demo]:
    """A server of its own for each test: who left the last one does not show up in the next."""
    with Children() as children:
        demo = Demo(children)
        yield demo
        demo.kill()


DESK = {"viewport": {"width": 1000, "height": 700}}
DARK = {**DESK, "color_scheme": "dark"}
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
DARK_PHONE = {**PHONE, "color_scheme": "dark"}


class Line:
    """What lies between a page and the server."""

    def __init__(self) -> None:
        self.holds: str | None = None
        """What is said, by either side, does not arrive if it has this in it, and nothing after it to the same end."""
        self.held: list[tuple[Any, str]] = []
        self._is_up = True
        self._page_end: Any = None
        self._server_ends: list[Any] = []

    def __call__(self, page_end: Any) -> None:
        """A page connects."""
        if not self._is_up:
            page_end.close()
            return
        self._page_end, server_end = page_end, page_end.connect_to_server()
        self._server_ends.append(server_end)
        page_end.on_message(lambda message: self._carry(message, server_end))
        server_end.on_message(lambda message: self._carry(message, page_end))
        page_end.on_close(lambda code, reason: None)  # the server does not see it by itself

    def _carry(self, message: str, to: Any) -> None:
        before = any(held_for is to for held_for, _ in self.held)
        if self.holds is not None and (before or self.holds in message):
            self.held.append((to, message))
        else:
            to.send(message)

    def cut(self, notice: bool = True) -> None:
        """The connection is lost, and there is no other. `notice`: the server sees it, too."""
        self._is_up = False
        self._page_end.close()
        if notice:
            self._server_ends.pop().close()

    def mend(self, holds: str | None = None) -> None:
        """The end of that."""
        self._is_up, self.holds, self.held = True, holds, []

    def release(self) -> None:
        """What was held arrives."""
        self.holds = None
        for to, message in self.held:
            to.send(message)

    def let_notice(self) -> None:
        """The server sees that the first connection is lost."""
        self._server_ends.pop(0).close()


class Tabs:
    """Opens pages, and keeps what went wrong in them. Those with the same settings are tabs of one window."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._windows: dict[str, Any] = {}
        self.faults: list[str] = []
        self.requests: list[str] = []

    def _window(self, settings: dict[str, Any]) -> Any:
        window = self._windows.get(repr(settings))
        if window is None:
            window = self._windows[repr(settings)] = self._browser.new_context(**settings)
            window.set_default_timeout(WAIT)
        return window

    def open(self, url: str, settings: dict[str, Any] = DESK, line: Line | None = None) -> Any:
        page = self._window(settings).new_page()
        if line is not None:
            page.route_web_socket("**/conn?*", line)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("console", lambda line: self.faults.append(line.text) if line.type in ("error", "warning") else None)
        page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(url)
        return page

    def chat(self, demo: Demo, name: str, settings: dict[str, Any] = DESK, **more: Any) -> Any:
        """Somebody in the lobby, or in the `room`, over a `line` perhaps."""
        query = urlencode({"user": name, "room": more.pop("room", "lobby")})
        page = self.open(f"{demo.base}index?{query}", settings, **more)
        expect(page.locator("#state")).to_have_text("Connected")
        return page

    def close(self) -> None:
        for window in self._windows.values():
            window.close()


@pytest.fixture
def tabs(browser: Any) -> Iterator[Tabs]:
    tabs = Tabs(browser)
    yield tabs
    tabs.close()


def expect(locator: Any) -> Any:
    """Playwright's expectations, which wait."""
    return need_module("playwright.sync_api").expect(locator)


def say(page: Any, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def last_message(page: Any) -> Any:
    return page.locator(".message").last


def messages(page: Any) -> list[str]:
    return list(page.locator(".message .bubble p").all_text_contents())


def notices(page: Any) -> Any:
    return page.locator(".notice")


def picture(page: Any, name: str) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"chat-{name}.png")


def overflow(page: Any) -> int:
    """Pixels by which the page is wider than the window."""
    return int(page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth"))


# ---------------------------------------------------------------------- talking


def test_two_tabs_chat(demo: Demo, tabs: Tabs) -> None:
    front = tabs.open(demo.base)
    picture(front, "join")
    front.get_by_label("Your name").fill("Ann")
    expect(front.get_by_label("Room")).to_have_value("lobby")
    front.keyboard.press("Enter")
    ann = front
    expect(ann.locator("#room")).to_have_text("lobby")
    expect(ann.locator("#state")).to_have_text("Connected")
    expect(ann.locator("#people li")).to_have_text(["AAnn"])
    picture(ann, "alone")
    ben = tabs.chat(demo, "Ben", DARK)
    expect(notices(ann)).to_have_text(["Ben joined"])
    expect(ann.locator("#count")).to_have_text("2")
    expect(ben.locator("#people li bdi")).to_have_text(["Ann", "Ben"])

    say(ann, "Good morning!")
    expect(last_message(ben).locator(".from")).to_have_text("Ann")
    expect(last_message(ben).locator(".bubble p")).to_have_text("Good morning!")
    expect(last_message(ben).locator("time")).to_have_text(re.compile(r"^\d{1,2}:\d\d"))
    expect(last_message(ann)).to_have_class(re.compile("mine"))
    ben.get_by_label("Message", exact=True).fill("Hello Ann.\nTwo lines & <b>no markup</b>")
    ben.get_by_role("button", name="Send").click()
    for page in (ann, ben):
        expect(last_message(page).locator(".bubble p")).to_have_text("Hello Ann.\nTwo lines & <b>no markup</b>")
    assert messages(ann) == messages(ben) == ["Good morning!", "Hello Ann.\nTwo lines & <b>no markup</b>"]
    expect(ann.locator("#text")).to_have_value("")
    picture(ann, "talk-light")
    picture(ben, "talk-dark")

    ben.get_by_role("link", name="Leave").click()
    expect(notices(ann)).to_have_text(["Ben joined", "Ben left"])
    expect(ann.locator("#people li bdi")).to_have_text(["Ann"])
    assert tabs.faults == []
    assert {url for url in tabs.requests if not url.startswith(demo.base)} == set()


def test_shift_enter_makes_a_new_line(demo: Demo, tabs: Tabs) -> None:
    ann = tabs.chat(demo, "Ann")
    ann.locator("#text").press_sequentially("one")
    ann.keyboard.press("Shift+Enter")
    ann.locator("#text").press_sequentially("two")
    ann.keyboard.press("Enter")
    expect(last_message(ann).locator(".bubble p")).to_have_text("one\ntwo")


def test_the_same_name_twice_gets_a_number_and_is_told(demo: Demo, tabs: Tabs) -> None:
    first, second = tabs.chat(demo, "Ann"), tabs.chat(demo, "Ann")
    expect(second.locator("#me")).to_have_text("Ann (2)")
    expect(notices(second)).to_have_text(["The name Ann was taken: you are Ann (2)"])
    expect(first.locator("#people li bdi")).to_have_text(["Ann", "Ann (2)"])
    say(second, "it is me")
    expect(last_message(first).locator(".from")).to_have_text("Ann (2)")
    expect(last_message(second)).to_have_class(re.compile("mine"))


def test_a_hostile_name_is_shown_and_runs_nothing(demo: Demo, tabs: Tabs) -> None:
    witness = tabs.chat(demo, "Witness")
    active = "() => document.querySelectorAll('script, img, svg, iframe').length"
    usual = witness.evaluate(active)
    said: list[str] = []
    for name in HOSTILE:
        hostile = tabs.chat(demo, name)
        expect(hostile.locator("#me")).to_have_text(name)
        assert hostile.title() == f"{name} · lobby · gows chat"
        expect(hostile.locator(".message .bubble p")).to_have_text(said)
        say(hostile, name)
        said.append(name)
        for page in (witness, hostile):
            expect(page.locator("#people li bdi")).to_have_text(["Witness", name])
            expect(last_message(page).locator(".bubble p")).to_have_text(name)
            assert page.evaluate("() => typeof window.hacked") == "undefined"
        expect(last_message(witness).locator(".from")).to_have_text(name)
        expect(last_message(hostile)).to_have_class(re.compile("mine"))
        hostile.close()
        expect(notices(witness).last).to_have_text(f"{name} left")
    picture(witness, "hostile")
    assert notices(witness).all_text_contents() == [f"{name} {did}" for name in HOSTILE for did in ("joined", "left")]
    assert witness.evaluate(active) == usual
    assert tabs.faults == []


def test_a_hostile_room_is_shown_and_runs_nothing(demo: Demo, tabs: Tabs) -> None:
    for name in HOSTILE:
        page = tabs.chat(demo, "Ann", room=name)
        expect(page.locator("#room")).to_have_text(name)
        assert page.evaluate("() => typeof window.hacked") == "undefined"
        page.close()
    assert tabs.faults == []


# ---------------------------------------------------------------------- rooms


def test_rooms_are_apart(demo: Demo, tabs: Tabs) -> None:
    front = tabs.open(f"{demo.base}?room=K%C3%BCche%20%E2%80%9C1%E2%80%9D")
    expect(front.get_by_label("Room")).to_have_value("Küche “1”")
    front.get_by_label("Your name").fill("Ann")
    front.keyboard.press("Enter")
    ann = front
    expect(ann.locator("#state")).to_have_text("Connected")
    expect(ann.locator("#room")).to_have_text("Küche “1”")
    ben = tabs.chat(demo, "Ben")
    say(ben, "hello lobby")
    expect(last_message(ben).locator(".bubble p")).to_have_text("hello lobby")
    cid = tabs.chat(demo, "Cid", room="Küche “1”")
    say(cid, "hello kitchen")
    expect(last_message(ann).locator(".bubble p")).to_have_text("hello kitchen")
    expect(ann.locator("#people li bdi")).to_have_text(["Ann", "Cid"])
    expect(ben.locator("#people li bdi")).to_have_text(["Ben"])
    assert notices(ann).all_text_contents() == ["Cid joined"]
    assert notices(ben).all_text_contents() == []
    assert (messages(ann), messages(ben)) == (["hello kitchen"], ["hello lobby"])
    assert tabs.faults == []


def test_a_newcomer_sees_what_was_said(demo: Demo, tabs: Tabs) -> None:
    ann = tabs.chat(demo, "Ann")
    said = [f"message {number}" for number in range(52)]
    for text in said:
        say(ann, text)
        expect(last_message(ann).locator(".bubble p")).to_have_text(text)
    ben = tabs.chat(demo, "Ben")
    expect(ben.locator(".message .bubble p")).to_have_text(said[2:])
    expect(ben.locator(".message .from").first).to_have_text("Ann")
    expect(last_message(ben).locator("time")).to_be_in_viewport()
    assert notices(ben).all_text_contents() == []
    picture(ben, "newcomer")
    say(ben, "hello")
    expect(last_message(ann).locator(".bubble p")).to_have_text("hello")
    assert messages(ann) == [*said, "hello"]
    ann.reload()
    expect(ann.locator(".message .bubble p")).to_have_text([*said[3:], "hello"])
    assert tabs.faults == []


def test_tabs_in_different_processes_are_in_one_room(browser: Any, tabs: Tabs) -> None:
    with Children() as children:
        demo = Demo(children, "--processes", "2")
        answers: list[str] = []

        def watch(socket: Any) -> None:
            socket.on("framereceived", lambda frame: answers.append(frame) if '"me"' in frame else None)

        pages: list[Any] = []
        while len({json.loads(answer)["me"].partition("-")[0] for answer in answers}) < 2:  # ids begin with the process
            assert len(pages) < 30, "all are in one process"
            page = tabs.open(demo.base)
            page.on("websocket", watch)
            page.goto(f"{demo.base}index?user=Guest{len(pages)}")
            expect(page.locator("#state")).to_have_text("Connected")
            pages.append(page)
        names = [f"Guest{number}" for number in range(len(pages))]
        for page in pages:
            expect(page.locator("#people li")).to_have_count(len(pages))
            assert sorted(page.locator("#people li bdi").all_text_contents()) == sorted(names)
        first, last = pages[0], pages[-1]
        say(first, "one")
        expect(last_message(last).locator(".bubble p")).to_have_text("one")
        say(last, "two")
        expect(last_message(first).locator(".bubble p")).to_have_text("two")
        last.close()
        expect(notices(first).last).to_have_text(f"{names[-1]} left")
        newcomer = tabs.chat(demo, "Newcomer")
        expect(newcomer.locator(".message .bubble p")).to_have_text(["one", "two"])
        assert tabs.faults == []
        demo.kill()


# ---------------------------------------------------------------------- what cannot be sent


def test_a_message_that_is_too_long_is_refused_and_kept(demo: Demo, tabs: Tabs) -> None:
    ann = tabs.chat(demo, "Ann")
    say(ann, "é" * 2049)
    expect(ann.get_by_role("alert")).to_have_text("This message is too long: 4,098 of 4,096 bytes. Please shorten it.")
    expect(ann.locator("#text")).to_have_value("é" * 2049)
    picture(ann, "too-long")
    say(ann, "é" * 2048)
    expect(last_message(ann).locator(".bubble p")).to_have_text("é" * 2048)
    expect(ann.get_by_role("alert")).to_have_text("")


def test_what_the_server_refuses_comes_back_into_the_box(demo: Demo, tabs: Tabs) -> None:
    ann = tabs.chat(demo, "Ann")
    say(ann, "\x1c")  # a blank to the server, not to the browser
    expect(ann.get_by_role("alert")).to_have_text("There is nothing in this message.")
    expect(ann.locator("#text")).to_have_value("\x1c")


# ---------------------------------------------------------------------- a server that goes and comes


def test_it_comes_back_by_itself_when_the_server_restarts(demo: Demo, tabs: Tabs) -> None:
    ann, ben = tabs.chat(demo, "Ann"), tabs.chat(demo, "Ben")
    say(ann, "before")
    expect(last_message(ben).locator(".bubble p")).to_have_text("before")
    demo.kill()
    for page in (ann, ben):
        expect(page.locator("#state")).to_have_text("Not connected")
        expect(page.locator("#banner")).to_contain_text("Connection lost, trying again")
        expect(page.get_by_role("status")).to_have_text("Connection lost, trying again")
        expect(notices(page).last).to_have_text("Connection lost")
    expect(ann.locator("#text")).to_have_value("")  # what was answered does not come back
    picture(ann, "lost")
    say(ann, "typed while away")
    expect(ann.get_by_role("alert")).to_have_text("Not connected. Your message stays here until you can send it.")
    expect(ann.locator("#text")).to_have_value("typed while away")

    demo.start_again()
    for page in (ann, ben):  # on a slow machine several attempts have failed by now, and the next may be 30 s away
        expect(page.locator("#state")).to_have_text("Connected", timeout=45_000)
        expect(page.locator("#banner")).to_be_hidden()
        expect(page.get_by_role("status")).to_have_text("Back again")
        expect(page.locator("#people li")).to_have_count(2)
    for page in (ann, ben):  # what was in the server's memory is gone
        told = notices(page).all_text_contents()
        assert [text for text in told if "joined" not in text] == [
            "Connection lost",
            "Back again",
            "Some messages may be missing",
        ]
    picture(ann, "missing")
    expect(ann.locator("#text")).to_have_value("typed while away")
    picture(ann, "back")
    ann.locator("#text").press("Enter")
    for page in (ann, ben):  # one's own is shown when it is answered
        expect(last_message(page).locator(".bubble p")).to_have_text("typed while away")
    assert messages(ann) == ["before", "typed while away"]


def test_what_was_said_meanwhile_comes_once(demo: Demo, tabs: Tabs) -> None:
    line = Line()
    ann, ben = tabs.chat(demo, "Ann", line=line), tabs.chat(demo, "Ben")
    say(ben, "zero")
    expect(last_message(ann).locator(".bubble p")).to_have_text("zero")
    say(ann, "one")
    expect(last_message(ben).locator(".bubble p")).to_have_text("one")
    line.cut()
    expect(ann.locator("#state")).to_have_text("Not connected")
    for text in ("two", "three"):
        say(ben, text)
        expect(last_message(ben).locator(".bubble p")).to_have_text(text)
    line.mend()
    expect(ann.locator("#state")).to_have_text("Connected", timeout=45_000)
    say(ben, "four")
    expect(ann.locator(".message .bubble p")).to_have_text(["zero", "one", "two", "three", "four"])
    expect(ann.locator(".message.mine .bubble p")).to_have_text(["one"])
    assert notices(ann).all_text_contents() == ["Ben joined", "Connection lost", "Back again"]
    expect(ann.locator("#people li bdi")).to_have_text(["Ben", "Ann"])
    expect(ann.locator("#people li.mine")).to_have_count(1)


def test_nobody_speaks_or_hides_as_another(demo: Demo, tabs: Tabs) -> None:
    client = need_module("websockets.sync.client")
    ann = tabs.chat(demo, "Ann")
    address = f"ws{demo.base.removeprefix('http')}conn?user=Mallory&secret="

    def ask(connection: Any, type_: str, **more: Any) -> dict[str, Any]:
        topic = ann.evaluate("() => document.body.dataset.topic")
        connection.send(json.dumps({"id": 1, "type": type_, "topic": topic, **more}))
        while True:
            answer: dict[str, Any] = json.loads(connection.recv(10.0))
            if answer.get("id") == 1:
                return answer

    def come_as(secret: str) -> Any:
        return client.connect(address + secret, subprotocols=["gows.v1"])

    with come_as("") as spy:
        ask(spy, "subscribe")
        (info,) = [each["info"] for each in ask(spy, "presence")["members"] if each["info"]["name"] == "Ann"]
        say(ann, "mine")
        said = json.loads(spy.recv(10.0))["data"]
    assert said["by"] == info["person"]
    with come_as(info["person"]) as mallory:
        ask(mallory, "subscribe")
        data = {"text": "not hers", "token": said["token"], "by": said["by"], "name": "Ann"}
        assert ask(mallory, "publish", data=data)["type"] == "published"
        expect(ann.locator(".message .bubble p")).to_have_text(["mine", "not hers"])
        expect(ann.locator(".message.mine .bubble p")).to_have_text(["mine"])
        expect(last_message(ann).locator(".from")).to_have_text("Mallory")
        expect(ann.locator("#people li.mine")).to_have_text(["AAnn"])
        expect(ann.locator("#me")).to_have_text("Ann")
    expect(notices(ann).last).to_have_text("Mallory left")


def test_what_had_arrived_leaves_the_box_again(demo: Demo, tabs: Tabs) -> None:
    line = Line()
    ann, ben = tabs.chat(demo, "Ann", line=line), tabs.chat(demo, "Ben")
    say(ben, "zero")
    expect(last_message(ann).locator(".bubble p")).to_have_text("zero")
    say(ann, "one")
    expect(last_message(ann).locator(".bubble p")).to_have_text("one")
    line.holds = '"type":"published"'
    say(ann, "two")
    expect(last_message(ben).locator(".bubble p")).to_have_text("two")
    line.cut()
    expect(ann.locator("#text")).to_have_value("two")
    expect(ann.get_by_role("alert")).to_contain_text("may not have arrived")
    line.mend()
    expect(ann.locator("#state")).to_have_text("Connected", timeout=45_000)
    expect(ann.locator(".message.mine .bubble p")).to_have_text(["one", "two"])
    expect(ann.locator("#text")).to_have_value("")
    expect(ann.get_by_role("alert")).to_have_text("")


def test_an_end_for_good_is_no_loss_that_it_comes_back_from(demo: Demo, tabs: Tabs) -> None:
    line = Line()
    ann = tabs.chat(demo, "Ann", line=line)
    line._page_end.close(code=4403, reason="go away")
    expect(ann.locator("#state")).to_have_text("Not connected")
    expect(ann.locator("#banner")).to_contain_text("The server has ended the connection; reload the page")
    expect(ann.locator("#banner .spinner")).to_be_hidden()


def test_who_is_here_is_known_when_all_of_them_are(demo: Demo, tabs: Tabs) -> None:
    line = Line()
    ann, ben = tabs.chat(demo, "Ann", line=line), tabs.chat(demo, "Ben")
    say(ben, "zero")
    expect(last_message(ann).locator(".bubble p")).to_have_text("zero")
    line.cut()
    expect(ann.locator("#state")).to_have_text("Not connected")
    ben.close()
    line.mend(holds='"type":"presence"')
    expect(notices(ann).last).to_have_text("Back again", timeout=45_000)
    for _ in range(WAIT // 10):  # for its subscription: then it asks
        if not line.held:
            ann.wait_for_timeout(10)
    cid = tabs.chat(demo, "Cid")
    say(cid, "one")
    expect(last_message(ann).locator(".bubble p")).to_have_text("one")  # and so it knows that Cid has come
    expect(ann.locator("#state")).to_have_text("Not connected")
    line.release()
    expect(ann.locator("#state")).to_have_text("Connected")
    expect(ann.locator("#people li bdi")).to_have_text(["Ann", "Cid"])
    assert notices(ann).all_text_contents() == ["Ben joined", "Connection lost", "Back again"]


def test_who_is_back_before_the_server_knows_of_the_loss_is_there_twice(demo: Demo, tabs: Tabs) -> None:
    line = Line()
    ann, ben = tabs.chat(demo, "Ann", line=line), tabs.chat(demo, "Ben")
    say(ben, "zero")
    expect(last_message(ann).locator(".bubble p")).to_have_text("zero")
    line.cut(notice=False)
    expect(ann.locator("#state")).to_have_text("Not connected")
    line.mend()
    expect(ann.locator("#state")).to_have_text("Connected", timeout=45_000)
    for page in (ann, ben):
        expect(page.locator("#people li bdi")).to_have_text(["Ann", "Ben", "Ann (2)"])
    line.let_notice()
    for page in (ann, ben):
        expect(page.locator("#people li bdi")).to_have_text(["Ben", "Ann (2)"])
    assert notices(ann).all_text_contents() == [
        "Ben joined",
        "Connection lost",
        "Back again",
        "The name Ann was taken: you are Ann (2)",
    ]
    assert notices(ben).all_text_contents() == ["Ann (2) joined", "Ann left"]


def test_what_was_on_its_way_comes_back_into_the_box(demo: Demo, tabs: Tabs) -> None:
    ann = tabs.chat(demo, "Ann")
    ann.evaluate("() => { WebSocket.prototype.send = () => {}; }")  # as a network that swallows it
    say(ann, "lost on the way")
    expect(ann.locator("#text")).to_have_value("")
    demo.kill()
    expect(ann.locator("#text")).to_have_value("lost on the way")
    expect(ann.get_by_role("alert")).to_contain_text("may not have arrived")


# ---------------------------------------------------------------------- scrolling


def test_it_follows_the_talk_only_from_the_bottom(demo: Demo, tabs: Tabs) -> None:
    ann, ben = tabs.chat(demo, "Ann"), tabs.chat(demo, "Ben")
    newer = ann.get_by_role("button", name="New messages")
    lines = "\n".join(["line"] * 40)
    say(ben, f"{lines}\none")
    expect(last_message(ann).locator(".bubble p")).to_contain_text("one")
    expect(last_message(ann).locator("time")).to_be_in_viewport()
    ann.locator("#log").evaluate("log => { log.scrollTop = 0; }")
    say(ben, "two")
    expect(newer).to_be_visible()
    expect(last_message(ann)).not_to_be_in_viewport()
    ann.bring_to_front()  # a tab behind others is drawn once a second, and a click waits for that
    newer.click()
    expect(last_message(ann)).to_be_in_viewport()
    expect(newer).to_be_hidden()
    ann.locator("#log").evaluate("log => { log.scrollTop = 0; }")
    say(ann, "mine")
    expect(last_message(ann)).to_be_in_viewport()


# ---------------------------------------------------------------------- a phone


@pytest.mark.parametrize("phone", [PHONE, DARK_PHONE], ids=["light", "dark"])
def test_it_fits_a_phone(demo: Demo, tabs: Tabs, phone: dict[str, Any], request: pytest.FixtureRequest) -> None:
    scheme = request.node.callspec.id
    front = tabs.open(demo.base, phone)
    assert overflow(front) == 0
    picture(front, f"phone-join-{scheme}")
    ann = tabs.chat(demo, "Ann")
    mia = tabs.chat(demo, "Mia", phone)
    say(ann, "Are you on the train?")
    say(mia, "Yes. It works, even here in the tunnel, and the text wraps as it should.")
    say(ann, "https://example.org/" + "a-very-long-address-without-any-blank" * 5)
    expect(mia.locator(".message")).to_have_count(3)
    picture(mia, f"phone-{scheme}")
    crowd = [tabs.chat(demo, name) for name in ("W" * 40, "Another One", "Third")]
    expect(mia.locator("#people li")).to_have_count(5)
    say(crowd[0], "W" * 200)
    expect(mia.locator(".message")).to_have_count(4)
    say(mia, "x" * 5000)
    expect(mia.get_by_role("alert")).to_contain_text("too long")
    assert overflow(mia) == 0
    assert mia.locator("#log").evaluate("log => log.scrollWidth - log.clientWidth") == 0
    for target in (mia.get_by_role("button", name="Send"), mia.get_by_role("link", name="Leave"), mia.locator("#text")):
        expect(target).to_be_in_viewport(ratio=1)
        assert target.bounding_box()["height"] >= 44
    picture(mia, f"phone-crowd-{scheme}")
    assert tabs.faults == []


def test_who_cannot_see_it_can_use_it(demo: Demo, tabs: Tabs) -> None:
    ann = tabs.chat(demo, "Ann")
    expect(ann.get_by_role("log", name="Messages")).to_have_attribute("aria-live", "polite")
    expect(ann.get_by_role("textbox", name="Message")).to_be_focused()
    expect(ann.get_by_role("list", name="Here now")).to_be_visible()
    for page in (ann, tabs.open(demo.base)):
        unnamed = page.evaluate(
            "() => [...document.querySelectorAll('button, a, input, textarea')]"
            ".filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"
        )
        assert unnamed == []
