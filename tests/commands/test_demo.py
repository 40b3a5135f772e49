"""The chat demo over real sockets: who hears what, what is refused, and that nobody holds up the others."""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from gows.commands import demo
from gows.topics.names import check_topic
from tests.support import wire
from tests.support.addresses import free_port, tcp
from tests.support.demos import demo_command, start_demo
from tests.support.needs import need_module
from tests.support.processes import Children
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

WAIT = 10.0  # seconds for something that is due at once

HOSTILE = [
    "<script>hacked=1</script>",
    '"><img src=x onerror=hacked=1>',
    "</script><script>hacked=1</script>",
    "'><svg/onload=hacked=1>",
    "</title><script>hacked=1</script>",
    "{user}",
    "$user ${user} $$",
    "&lt;b&gt; &amp; %s %(user)s",
]


class Running:
    """A demo server in this process."""

    def __init__(self, workers: int) -> None:
        self.server = demo.make_server(workers)
        self.port = tcp(self.server.listen(("127.0.0.1", 0)))[1]
        self.server.start()

    def get(self, path: str) -> Any:
        return urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=WAIT)


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    running = Running(getattr(request, "param", 4))
    try:
        yield running
    finally:
        running.server.stop()


both_ways = pytest.mark.parametrize("running", [4, 0], indirect=True, ids=["workers", "inline"])


class Guest:
    """Somebody in a room, through another project's client. What was said before it came is `history`."""

    def __init__(self, connection: ClientConnection, room: str = demo.ROOM, history: int = 0) -> None:
        self.connection = connection
        self.topic = demo.topic_of(room)
        self._unasked: deque[dict[str, Any]] = deque()  # what came before an answer
        more = {"history": history} if history else {}
        self.me: str = self.ask(type="subscribe", topic=self.topic, **more)["me"]
        members = self.members()
        self.history = [self.hear() for _ in range(len(self._unasked))]
        self.name: str = members[self.me]

    def ask(self, **request: Any) -> dict[str, Any]:
        self.connection.send(json.dumps({"id": 1, **request}))
        while True:
            answer: dict[str, Any] = json.loads(self.connection.recv(WAIT))
            if answer.get("id") == 1:
                return answer
            self._unasked.append(answer)

    def say(self, text: Any, **more: Any) -> dict[str, Any]:
        """Say it; the answer."""
        return self.ask(type="publish", topic=self.topic, data={"text": text, **more})

    def hear(self) -> dict[str, Any]:
        """Who came, who left, or what was said and by whom."""
        event: dict[str, Any] = {"type": "position"}  # of what it said itself: nothing that a guest sees
        while event["type"] == "position":
            event = self._unasked.popleft() if self._unasked else json.loads(self.connection.recv(WAIT))
        if event["type"] in ("join", "leave"):
            return {event["type"]: event.get("info", event["id"])}
        assert event["type"] == "message", event
        said: dict[str, Any] = event["data"]
        assert abs(said.pop("time") - time.time()) < 100
        return said

    def members(self) -> dict[str, str]:
        """The names of those who are here, by their ids."""
        answer = self.ask(type="presence", topic=self.topic)
        return {member["id"]: member["info"]["name"] for member in answer["members"]}

    def people(self) -> list[str]:
        return list(self.members().values())

    def leave(self) -> None:
        self.connection.close()


def joined(name: str) -> dict[str, Any]:
    return {"join": {"name": name, "person": ""}}


def message(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "text": text}


Enter = Callable[..., Guest]


def address_of(port: int, name: str, room: str | None = None) -> str:
    more = "" if room is None else f"&room={quote(room)}"
    return f"ws://127.0.0.1:{port}/conn?user={quote(name)}{more}"


@pytest.fixture
def enter_at() -> Iterator[Enter]:
    """Enter a room of the demo at a port."""
    with ExitStack() as guests:

        def enter(port: int, name: str, room: str | None = None, history: int = 0) -> Guest:
            connection = connect(
                address_of(port, name, room),
                open_timeout=WAIT,
                close_timeout=WAIT,
                subprotocols=[Subprotocol("gows.v1")],
            )
            return Guest(guests.enter_context(connection), room or demo.ROOM, history)

        yield enter


@pytest.fixture
def enter(running: Running, enter_at: Enter) -> Enter:
    return lambda name, room=None, history=0: enter_at(running.port, name, room, history)


# ---------------------------------------------------------------------- names and pages


@pytest.mark.parametrize(
    ("wanted", "got"),
    [
        ("ann", "ann"),
        ("  ann \t lee\n", "ann lee"),
        ("x" * 41, "x" * 40),
        ("x" * 39 + " y", "x" * 39),
        ("", ""),
        (" \n\t ", ""),
        ("\x00\x1b\x7f", ""),
        ("\u200b\u2066\u202e", ""),  # invisible, and turning the text around
        ("a\u202enn", "ann"),
        ("Zoe\u0308", "Zo\u00eb"),
        ("日本 🎉", "日本 🎉"),
        ("<b>", "<b>"),
    ],
)
def test_a_name_is_one_line_of_visible_characters(wanted: str, got: str) -> None:
    assert demo.clean_name(wanted) == got


@pytest.mark.parametrize("room", ["lobby", "Lobby", "a.b", "*", ">", "a b", "é", "🎉" * 40, *HOSTILE])
def test_any_room_has_a_topic_of_its_own(room: str) -> None:
    check_topic(demo.topic_of(room))
    assert demo.topic_of(room) != demo.topic_of(room + "a")


class Outline(HTMLParser):
    """The tags of a page, with what they say about the user and the room."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.data: dict[str, str | None] = {}
        self.text: dict[str, str] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.data.update((key, value) for key, value in attrs if key in ("data-user", "data-room", "value"))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text[self.tags[-1]] = self.text.get(self.tags[-1], "") + data


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_escaped_wherever_a_page_shows_it(running: Running, name: str) -> None:
    with running.get("/index?user=ann") as answer:
        usual = Outline(answer.read().decode())
    with running.get(f"/index?user={quote(name)}&room={quote(name)}") as answer:
        page = Outline(answer.read().decode())
    assert page.tags == usual.tags
    assert page.data == {"data-user": name, "data-room": name}
    assert page.text["bdi"] == name * 2
    assert page.text["title"] == f"{name} · {name} · gows chat"
    with running.get(f"/?room={quote(name)}") as answer:
        assert Outline(answer.read().decode()).data == {"value": name}


@pytest.mark.parametrize("path", ["/", "/index?user=ann", "/chat.js", "/chat.css", "/chat.svg"])
def test_nothing_but_our_own_files_may_run(running: Running, path: str) -> None:
    with running.get(path) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.read()
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("path", "room"),
    [("/index", "lobby"), ("/index?user=&room=a%26b", "a&b"), ("/index?user=%20%00&room=%20", "lobby")],
)
def test_who_has_no_name_is_asked_for_one(running: Running, path: str, room: str) -> None:
    with running.get(path) as answer:
        assert answer.url == f"http://127.0.0.1:{running.port}/?room={quote(room)}"
        page = answer.read().decode()
    assert 'name="user"' in page
    assert Outline(page).data == {"value": room}


def test_the_script_of_the_topics_is_there(running: Running) -> None:
    with running.get("/gows.js") as answer:
        assert b"class Gows" in answer.read()


def test_nobody_comes_in_without_a_name(running: Running) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(address_of(running.port, " ")):
        pass
    assert refused.value.response.status_code == 400


def test_a_foreign_page_is_kept_out(running: Running) -> None:
    address = f"ws://127.0.0.1:{running.port}/conn?user=ann"
    with pytest.raises(InvalidStatus) as refused, connect(address, origin=Origin("http://evil.example")):
        pass
    assert refused.value.response.status_code == 403


# ---------------------------------------------------------------------- who hears what


@both_ways
def test_everybody_hears_who_comes_what_is_said_and_who_goes(enter: Enter) -> None:
    ann = enter("ann")
    assert ann.people() == ["ann"]
    ben = enter("ben")
    assert ben.people() == ["ann", "ben"]
    assert ann.hear() == joined("ben")
    assert ann.say("hello <b>")["type"] == "published"
    assert ben.hear() == message("ann", "hello <b>")
    assert ben.say("grüß dich 🎉")["type"] == "published"
    assert ann.hear() == message("ben", "grüß dich 🎉")
    ben.leave()
    assert ann.hear() == {"leave": ben.me}
    assert ann.people() == ["ann"]


@both_ways
def test_rooms_are_apart(enter: Enter) -> None:
    ann, ben = enter("ann", "kitchen"), enter("ben", "cellar")
    assert (ann.people(), ben.people()) == (["ann"], ["ben"])
    ben.say("nobody hears me")
    cid = enter("cid", "kitchen")
    cid.say("hello")
    assert [ann.hear(), ann.hear()] == [joined("cid"), message("cid", "hello")]
    for request in (
        {"type": "subscribe", "topic": ann.topic},
        {"type": "subscribe", "topic": ">"},
        {"type": "publish", "topic": ann.topic, "data": {"text": "I am in the wall"}},
        {"type": "presence", "topic": ann.topic},
    ):
        assert ben.ask(**request)["code"] == "not_allowed"


def test_who_comes_later_sees_what_was_said(enter: Enter) -> None:
    ann = enter("ann")
    for number in range(60):
        ann.say(str(number))
    assert enter("ben", history=50).history == [message("ann", str(number)) for number in range(10, 60)]
    assert enter("cid", history=3).history == [message("ann", str(number)) for number in (57, 58, 59)]
    assert enter("dan", "another room", history=50).history == []


def test_a_name_that_is_taken_gets_a_number_and_nobody_is_lost(enter: Enter) -> None:
    first, second, third = enter("ann"), enter("ann"), enter("ann")
    assert [first.name, second.name, third.name] == ["ann", "ann (2)", "ann (3)"]
    assert third.people() == ["ann", "ann (2)", "ann (3)"]
    assert [first.hear(), first.hear(), second.hear()] == [joined("ann (2)"), joined("ann (3)"), joined("ann (3)")]
    second.leave()
    for guest in (first, third):
        assert guest.hear() == {"leave": second.me}
    third.say("still here")
    assert first.hear() == message("ann (3)", "still here")
    assert enter("ann").name == "ann (2)"
    assert enter("ann", "another room").name == "ann"


def test_who_subscribes_again_keeps_the_name(enter: Enter) -> None:
    ann = enter("ann")
    for _ in range(2):
        assert ann.ask(type="subscribe", topic=ann.topic)["me"] == ann.me
        assert ann.people() == ["ann"]
    ann.ask(type="unsubscribe", topic=ann.topic)
    assert enter("ann").name == "ann"
    ann.ask(type="subscribe", topic=ann.topic)
    assert ann.people() == ["ann", "ann"]  # it has said things under that name


def test_who_is_not_in_the_room_is_not_heard(running: Running, enter: Enter) -> None:
    ann = enter("ann")
    with connect(address_of(running.port, "ghost"), subprotocols=[Subprotocol("gows.v1")]) as ghost:
        ghost.send(json.dumps({"type": "publish", "topic": ann.topic, "data": {"text": "boo"}}))
        assert json.loads(ghost.recv(WAIT))["code"] == "not_allowed"
    enter("ben")
    assert ann.hear() == joined("ben")


def test_a_hostile_name_travels_as_it_is(enter: Enter) -> None:
    ann = enter("ann")
    for name in HOSTILE:
        assert enter(name).name == name
        assert ann.hear() == joined(name)


def test_nobody_says_who_it_is_but_the_server(enter: Enter) -> None:
    ann, ben = enter("ann"), enter("ben")
    ann.hear()
    ben.say("I am ann", name="ann", time=0, more=[1])
    assert ann.hear() == message("ben", "I am ann")


def test_a_token_comes_along(enter: Enter) -> None:
    ann, ben = enter("ann"), enter("ben")
    ann.hear()
    for token, told in (("a" * 32, "a" * 32), ("b" * 33, "b" * 32), (5, None)):
        ben.say("hello", token=token, by="somebody else")
        heard = ann.hear()
        assert (heard.get("token"), heard.get("by")) == (told, None if told is None else "")


def test_what_is_told_of_a_page_does_not_make_another_one_pass_for_it(running: Running) -> None:
    def info(secret: str) -> dict[str, str]:
        address = f"{address_of(running.port, 'ann')}&secret={secret}"
        with connect(address, subprotocols=[Subprotocol("gows.v1")]) as connection:
            guest = Guest(connection)
            members = guest.ask(type="presence", topic=guest.topic)["members"]
            return next(member["info"] for member in members if member["id"] == guest.me)

    with running.get("/index?user=ann") as page:
        text = page.read().decode()
    secret = text.partition('data-secret="')[2].partition('"')[0]
    person = text.partition('data-person="')[2].partition('"')[0]
    assert len(secret) == len(person) == 32
    assert info(secret)["person"] == person, "as the page expects it"
    assert info(person)["person"] not in (person, secret)
    assert secret not in str(info(secret)), "nobody else is told the secret"


@both_ways
@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("x" * 4097, "This message is too long: 4,097 of 4,096 bytes."),
        ("é" * 2049, "This message is too long: 4,098 of 4,096 bytes."),
        ("", "There is nothing in this message."),
        (" \n ", "There is nothing in this message."),
        (5, 'A message is {"text": "..."}.'),
        (None, 'A message is {"text": "..."}.'),
    ],
    ids=["too long", "too long in bytes", "empty", "blank", "a number", "nothing"],
)
def test_what_cannot_be_said_is_told_to_its_sender_alone(enter: Enter, said: Any, problem: str) -> None:
    ann, ben = enter("ann"), enter("ben")
    ann.hear()
    answer = ben.say(said)
    assert (answer["type"], answer["code"], answer["reason"]) == ("error", "bad_request", problem)
    assert ben.ask(type="publish", topic=ben.topic, data="text")["code"] == "bad_request"
    ben.say("x" * 4096)
    assert ann.hear() == message("ben", "x" * 4096)


@both_ways
def test_a_message_far_over_the_limit_ends_the_connection(enter: Enter) -> None:
    ann, ben = enter("ann"), enter("ben")
    ann.hear()
    with pytest.raises(ConnectionClosed) as closed:
        ben.say("x" * (16 * 4096 + 1))
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    assert ann.hear() == {"leave": ben.me}


# ---------------------------------------------------------------------- nobody holds up the others


class RawGuest:
    """A client of a few lines that reads only when told to."""

    def __init__(self, port: int, name: str) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(WAIT)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.file = self.socket.makefile("rb")
        try:
            self._enter(port, name)
        except BaseException:
            self.close()
            raise

    def _enter(self, port: int, name: str) -> None:
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(
            f"GET /conn?user={name} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: gows.v1\r\n\r\n".encode()
        )
        assert self.file.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
        while self.file.readline() != b"\r\n":
            pass
        request = {"type": "subscribe", "topic": demo.topic_of(demo.ROOM)}
        self.socket.sendall(wire.frame(wire.TEXT, json.dumps(request)))
        assert json.loads(self.frame()[1])["type"] == "subscribed"

    def frame(self) -> tuple[int, bytes]:
        """The opcode and payload of the next frame (RFC 6455 §5.2; a server does not mask)."""
        first, length = self.file.read(2)
        if length == 126:
            (length,) = struct.unpack("!H", self.file.read(2))
        return first & 15, self.file.read(length)

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.mark.slow
@both_ways
def test_a_client_that_stops_reading_is_let_go_and_the_others_lose_nothing(running: Running, enter: Enter) -> None:
    with closing(RawGuest(running.port, "slow")) as slow:
        ann, ben = enter("ann"), enter("ben")
        ann.hear()
        said = 0
        while len(ann.people()) == 3:
            assert said < 10_000, "40 MB are more than the kernel and the queue can hold"
            text = f"{said:<4096}"
            ann.say(text)
            assert next_message(ben) == message("ann", text)
            said += 1
        heard = []
        with suppress(ConnectionResetError):  # it did not read the close frame in time
            while (frame := slow.frame())[0] == 1:
                heard.append(json.loads(frame[1]))
        talk = [event["data"]["text"] for event in heard if event["type"] == "message"]
        assert talk == [f"{number:<4096}" for number in range(len(talk))]
        assert len(talk) < said
    assert list(ann.hear()) == ["leave"]
    ann.say("all well?")
    assert next_message(ben) == message("ann", "all well?")


@both_ways
def test_a_client_that_vanishes_leaves_the_room(running: Running, enter: Enter) -> None:
    ann = enter("ann")
    gone = RawGuest(running.port, "gone")
    assert ann.hear() == joined("gone")
    gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends RST
    gone.close()
    assert list(ann.hear()) == ["leave"]


# ---------------------------------------------------------------------- the command


@pytest.fixture
def children() -> Iterator[Children]:
    with Children() as children:
        yield children


Start = Callable[..., tuple[subprocess.Popen[str], int]]


@pytest.fixture
def start(children: Children) -> Iterator[Start]:
    """Start a demo that may run until the test is over."""
    started: list[subprocess.Popen[str]] = []

    def start(*flags: str) -> tuple[subprocess.Popen[str], int]:
        found = start_demo(children, 0, *flags)
        started.append(found[0])
        return found

    yield start
    for process in started:
        children.end(process)
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--processes", "2"]], ids=["one process", "two processes"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_it_says_goodbye(start: Start, enter_at: Enter, number: signal.Signals, flags: list[str]) -> None:
    process, port = start(*flags)
    ann = enter_at(port, "ann")
    process.send_signal(number)
    with pytest.raises(ConnectionClosed) as closed:
        ann.hear()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code in (1001, 1012)
    rest, _ = process.communicate(timeout=WAIT)
    assert rest == "bye\n"
    assert process.returncode == 0


@pytest.mark.slow
def test_a_client_that_does_not_answer_does_not_keep_it_from_ending(start: Start) -> None:
    process, port = start()
    with closing(RawGuest(port, "mute")):
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=4)
    assert rest == "bye\n"
    assert process.returncode == 0


@pytest.mark.slow
def test_a_room_is_one_in_all_processes(start: Start, enter_at: Enter) -> None:
    _, port = start("--processes", "2")
    guests = [enter_at(port, "ann")]
    while process_of(guests[0]) == process_of(guests[-1]):
        assert len(guests) < 50, "all are in one process"
        guests.append(enter_at(port, "ben"))
        wait_until(lambda: set(guests[0].members()) == {guest.me for guest in guests})
    ann, ben = guests[0], guests[-1]
    wait_until(lambda: set(ben.members()) == {guest.me for guest in guests})
    talk_across(ann, ben)
    assert enter_at(port, "cid", history=50).history == [message("ann", "hello"), message(ben.name, "good day")]
    wait_until(lambda: len({*ann.people()}) == len(guests) + 1)


def process_of(guest: Guest) -> str:
    """What the ids of a process begin with."""
    return guest.me.partition("-")[0]


def talk_across(ann: Guest, ben: Guest) -> None:
    """Each says something that the other hears."""
    ann.say("hello")
    assert next_message(ben) == message(ann.name, "hello")
    ben.say("good day")
    assert next_message(ann) == message(ben.name, "good day")


def next_message(guest: Guest) -> dict[str, Any]:
    """The next thing said, whoever comes or leaves before it."""
    while "text" not in (event := guest.hear()):
        pass
    return event


@pytest.mark.slow
def test_servers_with_one_redis_have_the_same_rooms(
    children: Children, start: Start, enter_at: Enter, tmp_path: Path
) -> None:
    need_module("redis")
    redis = RedisServer(children, tmp_path, durable=False)
    (_, here), (there_process, there) = (start("--broker", redis.url) for _ in range(2))
    ann, ben = enter_at(here, "ann"), enter_at(there, "ben")
    for guest in (ann, ben):
        wait_until(lambda guest=guest: set(guest.people()) == {"ann", "ben"})  # type: ignore[misc]
    talk_across(ann, ben)
    cid = enter_at(here, "ann", history=50)
    assert cid.name == "ann (2)"
    assert cid.history == [message("ann", "hello"), message("ben", "good day")]
    there_process.send_signal(signal.SIGINT)
    wait_until(lambda: set(ann.people()) == {"ann", "ann (2)"})
    _, new = start("--broker", redis.url, "--processes", "2")  # which has not heard anything
    dan = enter_at(new, "dan", history=50)
    assert dan.history == [message("ann", "hello"), message("ben", "good day")]
    assert enter_at(new, "dora", history=1).history == [message("ben", "good day")]
    wait_until(lambda: "dan" in ann.people())
    talk_across(ann, dan)


@pytest.mark.slow
def test_without_redis_it_says_so_and_goes_on(start: Start, enter_at: Enter) -> None:
    need_module("redis")
    process, port = start("--broker", f"redis://127.0.0.1:{free_port()}/0")
    ann = enter_at(port, "ann")
    answer = ann.say("is there anybody?")
    assert (answer["code"], answer["reason"]) == ("unavailable", "Redis is not there; try again later")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=WAIT)[0] == "bye\n"


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--processes", "2"]], ids=["one process", "two processes"])
def test_a_broker_that_cannot_be_is_said_in_one_line(children: Children, flags: list[str]) -> None:
    need_module("redis")
    status, err = failing(children, demo_command(0, "--broker", "http://127.0.0.1", *flags))
    assert err.startswith("gows demo: --broker: ")
    assert "redis://" in err
    assert status == 1


@pytest.mark.slow
def test_that_redis_py_is_missing_is_said_in_one_line(children: Children) -> None:
    program = "import sys; sys.modules['redis'] = None; from gows.__main__ import main; sys.exit(main(sys.argv[1:]))"
    status, err = failing(children, [sys.executable, "-c", program, *demo_command(0, "--broker", "redis://")[3:]])
    assert err.startswith("gows demo: RedisBroker needs redis-py: pip install 'gows[redis]'")
    assert status == 1


def failing(children: Children, command: list[str]) -> tuple[int, str]:
    """Run what ends by itself: its exit status, and the one line that it says."""
    process = children.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate(timeout=WAIT)
    assert out == ""
    assert len(err.splitlines()) == 1, err
    return process.returncode, err


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--processes", "2"]], ids=["one process", "two processes"])
def test_a_port_that_is_taken_is_said_in_one_line(children: Children, flags: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, err = failing(children, demo_command(port, *flags))
    assert err.startswith("gows demo: ")
    assert f"127.0.0.1:{port}" in err
    assert "in use" in err
    assert status == 1


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080/"),
        ("0.0.0.0", "http://127.0.0.1:8080/"),
        ("::", "http://127.0.0.1:8080/"),
        ("::1", "http://[::1]:8080/"),
    ],
)
def test_the_address_shown_can_be_opened(host: str, shown: str) -> None:
    assert demo.url(host, 8080) == shown
