"""The chat demo over real sockets: who hears what, what is refused, and that nobody holds up the others."""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any, cast
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from gows import WebSocket
from gows.commands import demo
from tests.demos import demo_command, start_demo
from tests.processes import Children

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
        self.room = demo.Room()
        self.server = demo.make_server(self.room, workers)
        self.port: int = self.server.listen(("127.0.0.1", 0))[1]
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
    """Somebody in the room, through another project's client."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        welcome = self.hear()
        assert welcome["type"] == "welcome"
        self.name: str = welcome["name"]
        self.people: list[str] = welcome["people"]

    def say(self, text: str | bytes) -> None:
        self.connection.send(text)

    def hear(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.connection.recv(WAIT))
        assert isinstance(event.pop("time", 0.0), (int, float))
        return event

    def leave(self) -> None:
        self.connection.close()


Enter = Callable[[str], Guest]


@pytest.fixture
def enter(running: Running) -> Iterator[Enter]:
    with ExitStack() as guests:

        def enter(name: str) -> Guest:
            address = f"ws://127.0.0.1:{running.port}/conn?user={quote(name)}"
            return Guest(guests.enter_context(connect(address, open_timeout=WAIT, close_timeout=WAIT)))

        yield enter


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


class Outline(HTMLParser):
    """The tags of a page, with what they say about the user."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.user: str | None = None
        self.text: dict[str, str] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.user = dict(attrs).get("data-user", self.user)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text[self.tags[-1]] = self.text.get(self.tags[-1], "") + data


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_escaped_wherever_the_page_shows_it(running: Running, name: str) -> None:
    with running.get("/index?user=ann") as answer:
        usual = Outline(answer.read().decode())
    with running.get(f"/index?user={quote(name)}") as answer:
        page = Outline(answer.read().decode())
    assert page.tags == usual.tags
    assert page.user == page.text["bdi"] == name
    assert page.text["title"] == f"{name} · gows chat"


@pytest.mark.parametrize("path", ["/", "/index?user=ann", "/chat.js", "/chat.css", "/chat.svg"])
def test_nothing_but_our_own_files_may_run(running: Running, path: str) -> None:
    with running.get(path) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.read()
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/index", "/index?user=", "/index?user=%20%00"])
def test_who_has_no_name_is_asked_for_one(running: Running, path: str) -> None:
    with running.get(path) as answer:
        assert answer.url == f"http://127.0.0.1:{running.port}/"
        assert 'name="user"' in answer.read().decode()


def test_nobody_comes_in_without_a_name(running: Running) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(f"ws://127.0.0.1:{running.port}/conn?user=%20"):
        pass
    assert refused.value.response.status_code == 400
    assert running.room.members == {}


def test_a_foreign_page_is_kept_out(running: Running) -> None:
    address = f"ws://127.0.0.1:{running.port}/conn?user=ann"
    with pytest.raises(InvalidStatus) as refused, connect(address, origin="http://evil.example"):  # type: ignore[arg-type]
        pass
    assert refused.value.response.status_code == 403


# ---------------------------------------------------------------------- who hears what


@both_ways
def test_everybody_hears_who_comes_what_is_said_and_who_goes(enter: Enter) -> None:
    ann = enter("ann")
    assert ann.people == ["ann"]
    ben = enter("ben")
    assert ben.people == ["ann", "ben"]
    assert ann.hear() == {"type": "join", "name": "ben"}
    ann.say("hello <b>")
    for guest in (ann, ben):
        assert guest.hear() == {"type": "message", "name": "ann", "text": "hello <b>"}
    ben.say("grüß dich 🎉")
    for guest in (ann, ben):
        assert guest.hear() == {"type": "message", "name": "ben", "text": "grüß dich 🎉"}
    ben.leave()
    assert ann.hear() == {"type": "leave", "name": "ben"}


@both_ways
def test_a_name_that_is_taken_gets_a_number_and_nobody_is_lost(enter: Enter) -> None:
    first, second, third = enter("ann"), enter("ann"), enter("ann")
    assert [first.name, second.name, third.name] == ["ann", "ann (2)", "ann (3)"]
    assert third.people == ["ann", "ann (2)", "ann (3)"]
    assert [first.hear()["name"], first.hear()["name"], second.hear()["name"]] == ["ann (2)", "ann (3)", "ann (3)"]
    second.leave()
    for guest in (first, third):
        assert guest.hear() == {"type": "leave", "name": "ann (2)"}
    third.say("still here")
    for guest in (first, third):
        assert guest.hear() == {"type": "message", "name": "ann (3)", "text": "still here"}
    assert enter("ann").name == "ann (2)"


def test_a_hostile_name_travels_as_it_is(enter: Enter) -> None:
    ann = enter("ann")
    for name in HOSTILE:
        assert enter(name).name == name
        assert ann.hear() == {"type": "join", "name": name}


def test_who_never_came_in_takes_nobody_along(running: Running, enter: Enter) -> None:
    ann = enter("ann")
    stranger = cast(WebSocket, object())  # as when on_close comes without on_open: it still has the name it asked for
    running.room.leave(stranger, "ann")
    ann.say("still here")
    assert ann.hear() == {"type": "message", "name": "ann", "text": "still here"}


@both_ways
@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("x" * 4097, "This message is too long: 4,097 of 4,096 bytes."),
        ("é" * 2049, "This message is too long: 4,098 of 4,096 bytes."),
        ("", "There is nothing in this message."),
        (" \n ", "There is nothing in this message."),
        (b"\x00\xff", "Only text can be said here."),
        (b"", "Only text can be said here."),
    ],
    ids=["too long", "too long in bytes", "empty", "blank", "binary", "empty binary"],
)
def test_what_cannot_be_said_is_told_to_its_sender_alone(enter: Enter, said: str | bytes, problem: str) -> None:
    ann, ben = enter("ann"), enter("ben")
    ann.hear()
    ben.say(said)
    assert ben.hear() == {"type": "error", "text": problem}
    ben.say("x" * 4096)
    for guest in (ann, ben):
        assert guest.hear() == {"type": "message", "name": "ben", "text": "x" * 4096}


@both_ways
def test_a_message_far_over_the_limit_ends_the_connection(enter: Enter) -> None:
    ann, ben = enter("ann"), enter("ben")
    ann.hear()
    ben.say("x" * (16 * 4096 + 1))
    with pytest.raises(ConnectionClosed) as closed:
        ben.hear()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    assert ann.hear() == {"type": "leave", "name": "ben"}


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
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert self.file.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
        while self.file.readline() != b"\r\n":
            pass

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
def test_a_client_that_stops_reading_is_let_go_and_the_others_lose_nothing(
    running: Running, enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        demo, "OPTIONS", replace(demo.OPTIONS, close_timeout=WAIT)
    )  # time to read on, on a busy machine
    with closing(RawGuest(running.port, "slow")) as slow:
        ann, ben = enter("ann"), enter("ben")
        ann.hear()
        said = 0
        while not running.room.members["slow"].closed:
            assert said < 10_000, "40 MB are more than the kernel and the queue can hold"
            text = f"{said:<4096}"
            ann.say(text)
            for guest in (ann, ben):
                assert guest.hear() == {"type": "message", "name": "ann", "text": text}
            said += 1
        assert running.room.members["slow"].buffered > demo.OPTIONS.high_water
        opcode, payload = slow.frame()
        heard = []
        while opcode != 8:
            heard.append(json.loads(payload))
            opcode, payload = slow.frame()
        assert payload == struct.pack("!H", 1013) + b"too slow"
        talk = [event["text"] for event in heard if event["type"] == "message"]
        assert talk == [f"{number:<4096}" for number in range(len(talk))]
        assert len(talk) < said
    for guest in (ann, ben):
        assert guest.hear() == {"type": "leave", "name": "slow"}
    ann.say("all well?")
    for guest in (ann, ben):
        assert guest.hear() == {"type": "message", "name": "ann", "text": "all well?"}


@pytest.mark.slow
@both_ways
def test_a_client_that_is_being_closed_is_passed_over(running: Running, enter: Enter) -> None:
    ann = enter("ann")
    with closing(RawGuest(running.port, "ben")):  # which never answers the close
        assert ann.hear() == {"type": "join", "name": "ben"}
        running.room.members["ben"].close_handshake()
        ann.say("is he still here?")
        assert ann.hear() == {"type": "message", "name": "ann", "text": "is he still here?"}
        assert ann.hear() == {"type": "leave", "name": "ben"}


@both_ways
def test_a_client_that_vanishes_leaves_the_room(running: Running, enter: Enter) -> None:
    ann = enter("ann")
    gone = RawGuest(running.port, "gone")
    assert ann.hear() == {"type": "join", "name": "gone"}
    gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends RST
    gone.close()
    assert ann.hear() == {"type": "leave", "name": "gone"}


# ---------------------------------------------------------------------- the command


@pytest.fixture
def children() -> Iterator[Children]:
    with Children() as children:
        yield children


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_it_says_goodbye(children: Children, number: signal.Signals) -> None:
    process, port = start_demo(children)
    with connect(f"ws://127.0.0.1:{port}/conn?user=ann", open_timeout=WAIT) as connection:
        ann = Guest(connection)
        process.send_signal(number)
        with pytest.raises(ConnectionClosed) as closed:
            ann.hear()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code in (1001, 1012)
    rest, _ = process.communicate(timeout=WAIT)
    assert rest == "bye\n"
    assert process.returncode == 0


@pytest.mark.slow
def test_a_client_that_does_not_answer_does_not_keep_it_from_ending(children: Children) -> None:
    process, port = start_demo(children)
    with closing(RawGuest(port, "mute")) as mute:
        assert mute.frame()[0] == 1  # it is in the room
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=4)
    assert rest == "bye\n"
    assert process.returncode == 0


@pytest.mark.slow
def test_a_port_that_is_taken_is_said_in_one_line(children: Children) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = children.start(demo_command(port), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, err = process.communicate(timeout=WAIT)
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("gows demo: ")
    assert f"127.0.0.1:{port}" in err
    assert "in use" in err
    assert process.returncode == 1


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
