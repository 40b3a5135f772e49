"""The bus: several in one process, on real sockets, and in processes that are killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

import gows.bus.bus
import gows.bus.folder
import gows.bus.links
import gows.bus.wire
from gows.bus.bus import Bus
from gows.bus.wire import Frame, FrameReader, encode
from gows.errors import UsageError
from gows.reactor import Target
from tests.support.fakes import MemoryFolder, World
from tests.support.processes import ROOT
from tests.support.waiting import wait_until

MakeBus = Callable[[str], Bus]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bus")  # of mode 0700


@pytest.fixture
def make_bus(folder: Path) -> Iterator[MakeBus]:
    made: list[Bus] = []

    def make(name: str) -> Bus:
        made.append(Bus(str(folder), name))
        return made[-1]

    yield make
    for bus in made:
        bus.close()


def started(make_bus: MakeBus, *names: str) -> list[Bus]:
    buses = [make_bus(name) for name in names]
    for bus in buses:
        bus.start()
    wait_until(lambda: all(len(bus.peers) == len(names) - 1 for bus in buses))
    return buses


def test_loops_that_the_caller_made_and_runs() -> None:
    world = World()
    folder = MemoryFolder(world.network)
    heard: list[tuple[str, str, bytes]] = []

    def hear(name: str, sender: str, data: bytes) -> None:
        heard.append((name, sender, data))

    buses = [Bus(folder, name, loop=world.loop()) for name in ("a", "b")]
    for bus in buses:
        bus.handle("news", partial(hear, bus.name))
        bus.start()
    a, b = buses
    world.run_until(lambda: a.peers == ["b"] and b.peers == ["a"])
    a.send("news", b"rain")
    b.send("news", b"sun")
    world.run_until(lambda: len(heard) == 2)
    assert sorted(heard) == [("a", "b", b"sun"), ("b", "a", b"rain")]
    b.close()
    world.run_for(0.1)
    assert not b.loop.running  # nobody started it
    assert b.loop.run_once(0) == 0  # nor closed it
    world.close()


def test_a_file_that_a_dead_process_left_goes() -> None:
    world = World()
    folder = MemoryFolder(world.network)
    folder.stale.add("dead")
    a = Bus(folder, "a", loop=world.loop())
    a.start()
    world.run_until(lambda: folder.names() == ["a"])
    a.close()
    world.close()


def test_who_was_heard_and_died_before_it_could_be_reached_is_told_to_be_down() -> None:
    world = World()
    a = Bus(MemoryFolder(world.network), "a", loop=world.loop())
    told: list[str] = []
    a.handle("news", lambda sender, data: told.append(f"{sender} says {data.decode()}"))
    a.on_up.append(lambda name: told.append(f"{name} is up"))
    a.on_down.append(lambda name: told.append(f"{name} is down"))
    a.start()
    for age, spoken, expected in (
        (0.0, True, ["b says rain", "b is down"]),
        (0.0, False, []),
        (
            gows.bus.bus.START_TIMEOUT + 1.0,
            False,
            ["b is down"],
        ),  # `a` was stopped meanwhile: it did not wait any longer
    ):
        told.clear()
        b, _ = world.network.dial(Target(socket.AF_UNIX, "/bus/a.sock"))
        b.send(encode(0, int((a.loop.time() - age) * 1e9), "", b"b"))  # its greeting
        if spoken:
            b.send(encode(1, 0, "news", b"rain"))
        b.close()
        world.run_for(3.0)
        assert told == expected
    a.close()
    world.close()


# ---------------------------------------------------------------------- frames


def test_frames_come_out_however_they_are_cut() -> None:
    frames = [Frame(1, 0, "news", b""), Frame(2, 1 << 63, "é", bytes(300)), Frame(3, 5, "", b"x")]
    wire = b"".join(encode(*frame) for frame in frames)
    for size in (1, 2, 7, 100, len(wire)):
        reader = FrameReader()
        found = []
        for at in range(0, len(wire), size):
            found += reader.feed(wire[at : at + size])
        assert found == frames


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 255), (4, 3), (5, 99), (14, 200)],
    ids=["too long", "another version", "unknown type", "a kind longer than the frame"],
)
def test_what_is_no_frame_is_refused(at: int, value: int) -> None:
    wire = bytearray(encode(1, 0, "news", b"data"))
    wire[at] = value
    with pytest.raises(ValueError, match="no frame of the bus"):
        FrameReader().feed(wire)


def test_a_message_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch, make_bus: MakeBus) -> None:
    monkeypatch.setattr(gows.bus.wire, "MAX_FRAME", 1000)
    with pytest.raises(ValueError, match="at most 1000 bytes"):
        make_bus("a").send("news", bytes(1000))


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "x" * 65])
def test_a_name_must_be_fit_for_a_file(make_bus: MakeBus, name: str) -> None:
    with pytest.raises(ValueError, match="a name on the bus"):
        make_bus(name)


# ---------------------------------------------------------------------- talking


def test_everybody_hears_what_one_sends_in_order(make_bus: MakeBus) -> None:
    a, b, c = started(make_bus, "a", "b", "c")
    heard: dict[str, list[tuple[str, bytes]]] = {"a": [], "b": [], "c": []}
    for bus in (a, b, c):
        bus.handle("news", lambda sender, data, to=heard[bus.name]: to.append((sender, data)))  # type: ignore[misc]
    for number in range(500):
        a.send("news", b"%d" % number)
    a.send("news", b"for c alone", to="c")
    expected = [("a", b"%d" % number) for number in range(500)]
    wait_until(lambda: len(heard["b"]) == 500 and len(heard["c"]) == 501)
    assert heard == {"a": [], "b": expected, "c": [*expected, ("a", b"for c alone")]}


def test_questions_are_answered_by_everybody_who_has_something_to_say(make_bus: MakeBus) -> None:
    a, b, c, _ = started(make_bus, "a", "b", "c", "d")
    b.handle("sum", lambda sender, data: b"b heard " + data)
    c.handle("sum", lambda sender, data: None)
    assert a.ask("sum", b"1 + 1", timeout=5) == {"b": b"b heard 1 + 1"}
    assert a.ask("sum", b"2", timeout=5, to="b") == {"b": b"b heard 2"}
    assert a.ask("sum", b"2", timeout=5, to="nobody") == {}


def test_an_empty_answer_is_an_answer(make_bus: MakeBus) -> None:
    a, b = started(make_bus, "a", "b")
    b.handle("there?", lambda sender, data: b"")
    assert a.ask("there?", timeout=5) == {"b": b""}


def test_who_does_not_answer_in_time_is_left_out(make_bus: MakeBus) -> None:
    a, b, c = started(make_bus, "a", "b", "c")
    go_on = threading.Event()
    b.handle("slow", lambda sender, data: b"" if go_on.wait(10) else None)
    c.handle("slow", lambda sender, data: b"quick")
    try:
        assert a.ask("slow", timeout=0.2) == {"c": b"quick"}
    finally:
        go_on.set()


def test_a_handler_that_raises_is_logged_and_answers_nothing(
    make_bus: MakeBus, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = started(make_bus, "a", "b")

    def broken(sender: str, data: bytes) -> bytes:
        raise RuntimeError("ours")

    b.handle("broken", broken)
    assert a.ask("broken", timeout=5) == {}
    assert "the bus's handler of 'broken' failed" in caplog.text
    b.handle("whole", lambda sender, data: b"still here")
    assert a.ask("whole", timeout=5) == {"b": b"still here"}


def test_a_kind_has_one_handler(make_bus: MakeBus) -> None:
    bus = make_bus("a")
    bus.handle("news", lambda sender, data: None)
    with pytest.raises(ValueError, match="has a handler already"):
        bus.handle("news", lambda sender, data: None)


def test_the_bus_does_not_ask_itself(make_bus: MakeBus) -> None:
    a, _ = started(make_bus, "a", "b")
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            a.ask("news")
        except UsageError as error:
            raised.append(error)

    a.loop.call_soon(ask)
    wait_until(lambda: raised)


def test_large_messages_from_many_threads_stay_whole(make_bus: MakeBus) -> None:
    a, b = started(make_bus, "a", "b")
    heard: list[bytes] = []
    b.handle("bulk", lambda sender, data: heard.append(data))

    def send(letter: bytes) -> None:
        for _ in range(20):
            a.send("bulk", letter * 100_000)

    threads = [threading.Thread(target=send, args=(bytes([65 + n]),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: len(heard) == 160, 20)
    assert all(data == data[:1] * 100_000 for data in heard)


# ---------------------------------------------------------------------- coming and going


def test_newcomers_at_the_same_moment_find_each_other(make_bus: MakeBus) -> None:
    buses = [make_bus(f"n{number}") for number in range(6)]
    threads = [threading.Thread(target=bus.start) for bus in buses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: all(len(bus.peers) == 5 for bus in buses))
    for bus in buses:
        bus.handle("who", lambda sender, data, name=bus.name: name.encode())  # type: ignore[misc]
    answers = buses[0].ask("who", timeout=5)
    assert answers == {f"n{number}": b"n%d" % number for number in range(1, 6)}


def test_what_is_sent_right_after_the_start_arrives(make_bus: MakeBus) -> None:
    b = make_bus("b")
    heard: list[bytes] = []
    b.handle("news", lambda sender, data: heard.append(data))
    b.start()
    for number in range(20):
        a = make_bus(f"a{number}")
        a.start()
        assert a.peers[-1] == "b"
        assert a.send("news", b"%d" % number)
        a.close()
    wait_until(lambda: len(heard) == 20)
    assert sorted(heard, key=int) == [b"%d" % number for number in range(20)]


def test_who_answers_late_is_not_waited_for_but_gets_everything(
    make_bus: MakeBus, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gows.bus.bus, "START_TIMEOUT", 0.05)
    a = make_bus("a")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as before_us:
        listener.settimeout(5)
        listener.bind(str(folder / "b.sock"))
        listener.listen(0)
        before_us.connect(str(folder / "b.sock"))  # its queue is full
        a.start()
        assert a.peers == []
        assert a.send("news", b"waits")
        assert a.send("news", b"for nobody", to="c")
        closing = threading.Thread(target=a.close)
        closing.start()
        listener.accept()[0].close()
        link, _ = listener.accept()
        with link:
            link.settimeout(5)
            reader, frames = FrameReader(), []
            while data := link.recv(1000):
                frames += reader.feed(data)
        closing.join(5)
    assert [(frame.kind, frame.data) for frame in frames] == [("", b"a"), ("news", b"waits")]


def test_one_is_up_when_both_hear_each_other_and_down_when_nothing_comes_of_it(
    make_bus: MakeBus, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gows.bus.bus, "RECONNECT", 0.01)
    a = make_bus("a")
    told: list[str] = []
    a.on_up.append(lambda name: told.append(f"{name} up"))
    a.on_down.append(lambda name: told.append(f"{name} down"))
    a.handle("news", lambda sender, data: told.append(f"{sender} {data.decode()}"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(5)
        listener.bind(str(folder / "b.sock"))
        listener.listen()
        starting = threading.Thread(target=a.start)
        starting.start()
        link, _ = listener.accept()
        wait_until(lambda: a.peers == ["b"])
        assert told == []
        with greet(folder, "a", b"b", 1) as inbound:
            wait_until(lambda: told == ["b up"])
            starting.join(5)
            with greet(folder, "a", b"b", 2) as newer:  # another process of that name
                wait_until(lambda: told == ["b up", "b down", "b up"])
                assert inbound.recv(1) == b""
                link.close()  # it has ended
                link, _ = listener.accept()  # (we try whether it has)
                newer.sendall(encode(1, 0, "news", b"late"))
            wait_until(lambda: told[3:] == ["b late", "b down"])
        with greet(folder, "a", b"b", 3) as inbound:
            wait_until(lambda: told[5:] == ["b up"])
            link.close()
            link, _ = listener.accept()
            assert inbound.recv(1) == b"", "it is there, and is to begin anew"
            wait_until(lambda: told[6:] == ["b down"])
        link.close()


def test_it_is_said_who_reads_again_after_a_loss(make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gows.bus.links, "MAX_QUEUED", 1 << 18)
    a, b = started(make_bus, "a", "b")
    go_on = threading.Event()
    b.handle("bulk", lambda sender, data: (go_on.wait(10), None)[1])
    missed: list[str] = []
    a.on_missed.append(missed.append)
    wait_until(lambda: not a.send("bulk", bytes(50_000)))
    assert missed == []
    go_on.set()
    wait_until(lambda: missed == ["b"])


def test_what_a_listener_raises_is_logged_and_others_are_told(
    make_bus: MakeBus, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = make_bus("a"), make_bus("b")
    told: list[str] = []

    def fail(name: str) -> None:
        raise KeyError(name)

    a.on_up += [fail, told.append]
    a.start()
    b.start()
    wait_until(lambda: told == ["b"])
    assert "a callback about the process b failed" in caplog.text


def test_who_leaves_is_gone_and_may_come_back(make_bus: MakeBus) -> None:
    a, b = started(make_bus, "a", "b")
    b.close()
    wait_until(lambda: a.peers == [])
    a.send("news", b"to nobody")
    again = make_bus("b")
    again.handle("there?", lambda sender, data: b"again")
    again.start()
    wait_until(lambda: a.peers == ["b"])
    assert a.ask("there?", timeout=5) == {"b": b"again"}


def test_a_question_does_not_wait_for_who_leaves(make_bus: MakeBus) -> None:
    a, b = started(make_bus, "a", "b")
    asked = threading.Event()
    go_on = threading.Event()

    def never(sender: str, data: bytes) -> None:
        asked.set()
        go_on.wait(10)

    b.handle("never", never)
    answers: list[dict[str, bytes]] = []
    thread = threading.Thread(target=lambda: answers.append(a.ask("never", timeout=60)))
    thread.start()
    assert asked.wait(5)
    go_on.set()  # it answers nothing, in the same turn as it closes
    b.close()
    thread.join(5)
    assert answers == [{}]


def test_closing_ends_our_own_questions(make_bus: MakeBus) -> None:
    a, b = started(make_bus, "a", "b")
    go_on = threading.Event()
    b.handle("never", lambda sender, data: b"" if go_on.wait(10) else None)
    answers: list[dict[str, bytes]] = []
    thread = threading.Thread(target=lambda: answers.append(a.ask("never", timeout=60)))
    thread.start()
    wait_until(lambda: a._questions)
    closing = threading.Thread(target=a.close)
    closing.start()
    thread.join(5)
    go_on.set()
    closing.join(5)
    assert answers == [{}]
    assert a.ask("never", timeout=60) == {}


def test_the_socket_of_the_dead_is_removed(make_bus: MakeBus, folder: Path) -> None:
    path = folder / "dead.sock"
    leave_dead(path)
    a = make_bus("a")
    a.start()
    wait_until(lambda: not path.exists())
    assert a.peers == []


def leave_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()


def test_a_newcomer_that_does_not_listen_yet_is_not_taken_for_dead(
    make_bus: MakeBus, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gows.bus.bus, "RECONNECT", 0.05)
    refused: list[str] = []
    remove = Bus._remove_stale_socket

    def spy(bus: Bus, name: str) -> None:
        remove(bus, name)
        refused.append(name)

    monkeypatch.setattr(Bus, "_remove_stale_socket", spy)
    a = make_bus("a")
    a.start()
    with gows.bus.folder.SocketFolder(str(folder)).locked(), socket.socket(socket.AF_UNIX) as late:
        late.bind(str(folder / "b.sock"))
        a.loop.call_soon(a.dial, "b")
        wait_until(lambda: len(refused) >= 2)
        late.listen()
        wait_until(lambda: a.peers == ["b"])


def test_what_is_no_socket_of_ours_is_left_alone(make_bus: MakeBus, folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / ".odd.sock").write_text("mine")
    a, b = started(make_bus, "a", "b")
    assert (a.peers, b.peers) == (["b"], ["a"])
    assert (folder / "notes.txt").exists()


@pytest.mark.parametrize(
    "wrong",
    [encode(1, 0, "news", b"x"), b"GET / HTTP/1.1\r\n\r\n", encode(0, 0, "", b"../b"), encode(0, 0, "", b"\xff")],
    ids=["no greeting", "another protocol", "a bad name", "no text"],
)
def test_whoever_does_not_say_its_name_is_cut_off(
    make_bus: MakeBus, folder: Path, caplog: pytest.LogCaptureFixture, wrong: bytes
) -> None:
    a = make_bus("a")
    a.start()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(folder / "a.sock"))
        sock.sendall(wrong)
        assert sock.recv(1) == b""
    assert a.peers == []
    assert len(caplog.records) == 1
    assert "cut off" in caplog.text


def greet(folder: Path, to: str, name: bytes, number: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    sock.connect(str(folder / f"{to}.sock"))
    sock.sendall(encode(0, number, "", name))
    return sock


def test_of_two_connections_of_one_name_the_newer_counts(make_bus: MakeBus, folder: Path) -> None:
    a = make_bus("a")
    heard: list[bytes] = []
    a.handle("news", lambda sender, data: heard.append(data))
    a.start()
    with greet(folder, "a", b"b", 2) as newer, greet(folder, "a", b"b", 1) as older:
        assert older.recv(1) == b""
        newer.sendall(encode(1, 0, "news", b"heard"))
        wait_until(lambda: heard)
        with greet(folder, "a", b"b", 3) as newest:
            assert newer.recv(1) == b""
            newest.sendall(encode(1, 0, "news", b"too"))
            wait_until(lambda: heard == [b"heard", b"too"])


def test_the_other_end_of_a_one_way_connection_may_not_speak(
    make_bus: MakeBus, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gows.bus.bus, "START_TIMEOUT", 0.05)
    a = make_bus("a")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(5)
        listener.bind(str(folder / "b.sock"))
        listener.listen()
        a.start()
        link, _ = listener.accept()
        with link:
            link.settimeout(5)
            link.sendall(b"hello?")
            data = b""
            while not data.endswith(b"a"):  # its greeting
                data += link.recv(100)
            assert link.recv(1) == b""
        wait_until(lambda: a.peers == [])


def test_the_folder_must_be_ours_alone(make_bus: MakeBus, folder: Path) -> None:
    folder.chmod(0o750)
    with pytest.raises(PermissionError, match="mode 0700"):
        make_bus("a").start()


def test_the_folder_is_made(folder: Path) -> None:
    bus = Bus(str(folder / "of" / "ours"), "a")
    bus.start()
    bus.start()
    assert (folder / "of" / "ours").stat().st_mode & 0o777 == 0o700
    bus.close()
    bus.close()
    assert os.listdir(folder / "of" / "ours") == ["lock"]


def test_a_name_is_one_process_s(make_bus: MakeBus) -> None:
    make_bus("a").start()
    with pytest.raises(OSError, match="cannot listen at"):
        make_bus("a").start()


def test_what_was_sent_before_the_close_arrives(make_bus: MakeBus) -> None:
    a, b = started(make_bus, "a", "b")
    heard: list[int] = []
    b.handle("bulk", lambda sender, data: heard.append(len(data)))
    for _ in range(10):
        a.send("bulk", bytes(1 << 20))
    a.close()
    wait_until(lambda: len(heard) == 10)
    assert a.dropped == 0


def test_who_does_not_read_loses_messages_and_nobody_else_does(
    make_bus: MakeBus, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gows.bus.links, "MAX_QUEUED", 1 << 20)
    a, b, c = started(make_bus, "a", "b", "c")
    go_on = threading.Event()
    by_b: list[bytes] = []
    by_c: list[bytes] = []

    def stuck(sender: str, data: bytes) -> None:
        go_on.wait(10)
        by_b.append(data[:4])

    b.handle("bulk", stuck)
    c.handle("bulk", lambda sender, data: by_c.append(data[:4]))
    numbers = [b"%04d" % number for number in range(40)]
    try:
        for number in numbers:
            a.send("bulk", number * 25_000)
            wait_until(lambda: a._up["c"].stream.queued == 0)
        assert a._up["b"].stream.queued <= 1 << 20
        assert "process b does not read" in caplog.text
        assert a.ask("bulk", bytes(100_000), timeout=60, to="b") == {}, "nobody waits for an answer to what was lost"
        wait_until(lambda: by_c == numbers)
    finally:
        go_on.set()
    wait_until(lambda: "process b reads again" in caplog.text)
    wait_until(lambda: len(by_b) + a.dropped == 41)
    assert by_b == numbers[: len(by_b)]
    assert f"it missed {a.dropped} messages" in caplog.text
    a.send("bulk", b"last")
    wait_until(lambda: by_b[-1] == b"last")
    assert a.peers == ["b", "c"]


CHILD = """
import sys, time
from gows.bus.bus import Bus
bus = Bus(sys.argv[1], sys.argv[2])
bus.handle("pid", lambda sender, data: b"%d" % __import__("os").getpid())
bus.start()
print("up", flush=True)
time.sleep(60)
"""


@contextmanager
def processes(folder: Path, *names: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Each with a bus that has started."""
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, str(folder), name], stdout=subprocess.PIPE, cwd=ROOT)
        for name in names
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
        yield children
    finally:
        for child in children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()


@pytest.mark.slow
def test_a_process_that_is_stopped_costs_the_others_little(
    make_bus: MakeBus, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gows.bus.links, "MAX_QUEUED", 1 << 20)
    with processes(folder, "x", "y") as (x, _):
        a = make_bus("a")
        a.start()
        wait_until(lambda: a.peers == ["x", "y"], 10)
        os.kill(x.pid, signal.SIGSTOP)
        os.waitpid(x.pid, os.WUNTRACED)  # on a busy machine it may go on for a while
        for _ in range(100):
            a.send("news", bytes(50_000))
            assert a._up["x"].stream.queued <= 1 << 20
            wait_until(lambda: a._up["y"].stream.queued == 0)
        assert 50 < a.dropped < 100
        assert set(a.ask("pid", timeout=10, to="y")) == {"y"}
        os.kill(x.pid, signal.SIGCONT)
        wait_until(lambda: "process x reads again" in caplog.text, 10)
        assert set(a.ask("pid", timeout=10)) == {"x", "y"}


@pytest.mark.slow
def test_a_process_that_is_killed_is_gone_at_once(make_bus: MakeBus, folder: Path) -> None:
    with processes(folder, "x", "y") as children:
        a = make_bus("a")
        a.start()
        wait_until(lambda: a.peers == ["x", "y"], 10)
        assert a.ask("pid", timeout=10) == {
            name: b"%d" % child.pid for name, child in zip(("x", "y"), children, strict=True)
        }
        os.kill(children[0].pid, signal.SIGKILL)
        wait_until(lambda: a.peers == ["y"], 5)
        began = time.monotonic()
        assert set(a.ask("pid", timeout=30)) == {"y"}
        assert time.monotonic() - began < 20  # it did not wait for the dead
