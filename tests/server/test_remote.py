"""One server in several processes: `broadcast`, `connections` and `connection_count` reach all of them."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import gows
import gows.bus.wire
import gows.server.remote
from gows import AcceptOptions, Opcode, RemoteConnection, Server, TopicHandler, UsageError, WebSocket, accept
from gows.brokers.local import home_of
from gows.bus.bus import Bus
from gows.errors import InvalidCloseCodeError
from gows.protocol.prepared import PreparedMessage
from tests.support import wire
from tests.support.processes import Children
from tests.support.raw import RawPeer
from tests.support.serving import Recorder
from tests.support.waiting import wait_until

LOCAL = "127.0.0.1:0"


class Speaker(TopicHandler):
    """Speaks gows.v1, and lets a Recorder know that it is there."""

    __slots__ = ("_recorder",)

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def on_open(self, ws: WebSocket) -> None:
        self._recorder.on_open(ws)


class Part:
    """A server with a bus, as one process of several has it; several in one process for speed."""

    def __init__(self, folder: Path, name: str, workers: int) -> None:
        self.bus = Bus(str(folder), name)
        self.server = Server(workers=workers)
        self.server.join(self.bus)
        self.handlers: list[Recorder] = []
        self.peers: list[RawPeer] = []
        self.server.add_route("/{group}", self._accept)
        self.server.start(LOCAL)

    def _accept(self, request: Any, group: str) -> None:
        ws = accept(request, AcceptOptions(group=group, subprotocols=["chat", "gows.v1"]))
        self.handlers.append(Recorder())
        ws.serve(Speaker(self.handlers[-1]) if ws.subprotocol == "gows.v1" else self.handlers[-1])

    def peer(self, group: str = "all", *headers: str) -> RawPeer:
        before = len(self.handlers)
        peer = RawPeer(self.server.addresses[0])
        self.peers.append(peer)
        peer.upgrade(f"/{group}", *headers)
        wait_until(lambda: len(self.handlers) > before and self.handlers[before].calls)
        return peer

    def sockets(self) -> list[WebSocket]:
        return [ws for ws in self.server.connections if isinstance(ws, WebSocket)]

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        self.server.stop()
        self.bus.close()


MakeParts = Callable[..., "list[Part]"]


@pytest.fixture(params=[0, 2], ids=["inline", "workers"])
def make_parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeParts]:
    folder = tmp_path_factory.mktemp("bus")
    made: list[Part] = []

    def make(*names: str) -> list[Part]:
        parts = [Part(folder, name, request.param) for name in names]
        made.extend(parts)
        wait_until(lambda: all(len(part.bus.peers) == len(made) - 1 for part in made))
        return parts

    yield make
    threads = [threading.Thread(target=part.close) for part in made]  # each looks every 0.1 s whether all is gone
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)


def texts(peer: RawPeer, count: int) -> list[str]:
    return [peer.read_text() for _ in range(count)]


def remote(part: Part) -> list[RemoteConnection]:
    return [ws for ws in part.server.connections if isinstance(ws, RemoteConnection)]


def test_a_broadcast_reaches_every_process_in_order(make_parts: MakeParts) -> None:
    a, b, c = make_parts("a", "b", "c")
    peers = [part.peer() for part in (a, b, c) for _ in range(2)]
    for number in range(50):
        a.server.broadcast(str(number))
    b.server.broadcast(b"\xff")
    for peer in peers:
        seen = [peer.read() for _ in range(51)]
        assert [f.payload for f in seen if f.opcode == wire.TEXT] == [b"%d" % number for number in range(50)]
        assert [f.payload for f in seen if f.opcode == wire.BINARY] == [b"\xff"]


def test_a_group_and_exclusions_hold_everywhere(make_parts: MakeParts) -> None:
    a, b = make_parts("a", "b")
    red_a, blue_a, red_b, blue_b = a.peer("red"), a.peer("blue"), b.peer("red"), b.peer("blue")
    a.server.broadcast("red", group="red")
    a.server.broadcast("not the red of a", exclude=next(ws for ws in a.sockets() if ws.group == "red"))
    there = next(ws for ws in remote(a) if ws.group == "red")
    a.server.broadcast("not the red of b", exclude=there)
    a.server.broadcast("end")
    assert texts(red_a, 3) == ["red", "not the red of b", "end"]
    assert texts(blue_a, 3) == ["not the red of a", "not the red of b", "end"]
    assert texts(red_b, 3) == ["red", "not the red of a", "end"]
    assert texts(blue_b, 3) == ["not the red of a", "not the red of b", "end"]


def test_a_number_is_excluded_in_its_own_process_only(make_parts: MakeParts) -> None:
    a, b, _ = make_parts("a", "b", "c")
    peer = b.peer()
    (ws,) = remote(a)
    a.server.broadcast("not one of c", exclude=RemoteConnection(a.bus, "c", ws.number, None, ""))
    a.server.broadcast("not you", exclude=ws)
    a.server.broadcast("end")
    assert texts(peer, 2) == ["not one of c", "end"]


def test_connections_are_those_of_all_processes(make_parts: MakeParts) -> None:
    a, b, c = make_parts("a", "b", "c")
    a.peer()
    b.peer("red", "Sec-WebSocket-Protocol: chat")
    c.peer("blue")
    c.peer("blue")
    own, *others = a.server.connections
    assert isinstance(own, WebSocket)
    assert [(ws.process, ws.group, ws.subprotocol) for ws in others if isinstance(ws, RemoteConnection)] == [
        ("b", "red", "chat"),
        ("c", "blue", None),
        ("c", "blue", None),
    ]
    assert a.server.connection_count() == 4
    (ws,) = [ws for ws in remote(a) if ws.process == "b"]
    assert ws.remote_addr == b.sockets()[0].remote_addr
    assert repr(ws) == f"<RemoteConnection {ws.number} in b>"
    assert [one.number for one in remote(a)] == [one.number for one in remote(a)], "a number is kept"


def test_whatever_is_written_to_a_connection_elsewhere_arrives(make_parts: MakeParts) -> None:
    a, b = make_parts("a", "b")
    peer = b.peer()
    for ws in a.server.connections:
        ws.write_string("hi")
        ws.write_text("κόσμε".encode())
        ws.write_binary(bytearray(b"\xff"))
        ws.write_json({"a": [1]})
        ws.write_message(Opcode.TEXT, b"last")
    found = [peer.read() for _ in range(5)]
    assert [(f.opcode, f.payload) for f in found] == [
        (wire.TEXT, b"hi"),
        (wire.TEXT, "κόσμε".encode()),
        (wire.BINARY, b"\xff"),
        (wire.TEXT, b'{"a":[1]}'),
        (wire.TEXT, b"last"),
    ]
    mistakes: list[Callable[[], object]] = [
        lambda: ws.write_text(b"\xff"),
        lambda: ws.write_message(Opcode.CLOSE, b""),
        lambda: ws.write_ping(bytes(126)),
    ]
    for wrong in mistakes:
        with pytest.raises(ValueError, match=r"utf-8|TEXT, BINARY, PING or PONG|at most 125 bytes"):
            wrong()


def arguments(module: str, class_name: str) -> dict[str, str]:
    """The arguments of the write methods of a class, as its source has them: compiled ones do not tell."""
    source = (Path(gows.__file__).parent / f"{module}.py").read_text()
    (found,) = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef) and n.name == class_name)
    methods = (n for n in found.body if isinstance(n, ast.FunctionDef) and n.name.startswith("write_"))
    return {method.name: ast.unparse(method.args) for method in methods}


def test_a_connection_elsewhere_is_written_to_with_the_same_arguments() -> None:
    """So `for ws in server.connections: ws.write_json(x, key="price")` works in one process and in many."""
    here = arguments("session/websocket", "WebSocket")

    assert len(here) == 7
    assert arguments("server/remote", "RemoteConnection") == here


def test_keys_and_control_frames_reach_a_connection_elsewhere(
    make_parts: MakeParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[Any] = []

    def prepared(opcode: int, data: bytes, compress: bool, key: Any = None) -> PreparedMessage:
        keys.append(key)
        return PreparedMessage(opcode, data, compress, key)

    a, b = make_parts("a", "b")
    peer = b.peer()
    (ws,) = a.server.connections
    monkeypatch.setattr(gows.server.remote, "PreparedMessage", prepared)

    ws.write_json({"p": 1}, key=("price", "gold", 1))
    ws.write_string("b", key=b"\xff")
    ws.write_binary(b"c", False, 7)
    ws.write_message(Opcode.PING, b"there?")
    ws.write_pong(b"here")
    a.server.broadcast("d", key=("price", b"x"))

    assert [peer.read().payload for _ in range(6)] == [b'{"p":1}', b"b", b"c", b"there?", b"here", b"d"]
    assert [key for key in keys if key is not None] == [("price", "gold", 1), b"\xff", 7, ("price", b"x")]
    for call in (partial(ws.write_string, "x"), partial(a.server.broadcast, "x")):
        with pytest.raises(TypeError, match="a key for other processes"):
            call(key=frozenset({1}))


def test_connections_elsewhere_can_be_closed(make_parts: MakeParts) -> None:
    a, b = make_parts("a", "b")
    in_order, at_once = b.peer(), b.peer()
    one, two = remote(a)
    with pytest.raises(InvalidCloseCodeError):
        one.close_handshake(1006)
    assert not one.closed
    one.close_handshake(4001, "bye")
    found = in_order.read()
    assert (found.close_code, found.reason) == (4001, "bye")
    in_order.send(wire.close(4001))
    two.close()
    assert at_once.read_end() == "FIN"
    assert (one.closed, two.closed) == (True, True)
    in_order.close()
    at_once.close()
    wait_until(lambda: b.server.loop.live_streams == 0)
    assert a.server.connection_count() == 0
    one.write_string("too late")
    one.close()
    two.close_handshake()
    assert one.remote_addr is None


def test_a_number_never_means_another_connection(make_parts: MakeParts) -> None:
    a, b = make_parts("a", "b")
    for _ in range(5):  # descriptors are taken again
        peer = b.peer()
        (ws,) = remote(a)
        peer.send(wire.close(1000))
        peer.expect_close(1000)
        peer.close()
        wait_until(lambda: not b.server.connections)
        next_peer = b.peer()
        ws.write_string("not for you")
        a.server.broadcast("for you", exclude=ws)
        assert next_peer.read_text() == "for you"
        (other,) = remote(a)
        assert other.number != ws.number
        assert ws.remote_addr is None
        next_peer.send(wire.close(1000))
        next_peer.expect_close(1000)
        next_peer.close()
        wait_until(lambda: not b.server.connections)


def test_numbers_that_nobody_gave_mean_nobody(make_parts: MakeParts) -> None:
    a, b = make_parts("a", "b")
    peer = b.peer()
    for number in (0, 5, 1 << 23, 1 << 40):
        nobody = RemoteConnection(a.bus, "b", number, None, "")
        nobody.write_string("lost")
        assert nobody.remote_addr is None
    a.server.broadcast("for you")
    assert peer.read_text() == "for you"


def test_a_server_that_has_stopped_is_no_trouble_to_the_others(
    make_parts: MakeParts, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = make_parts("a", "b")
    peer = a.peer()
    gone = b.peer()
    (ws,) = remote(a)
    gone.close()
    b.server.stop()
    a.server.broadcast("still here")
    ws.write_string("hello?")
    assert peer.read_text() == "still here"
    assert a.server.connection_count() == 1
    b.bus.close()
    wait_until(lambda: a.bus.peers == [])
    assert ws.closed
    assert a.server.connections == a.sockets()
    assert not caplog.records


def test_too_large_for_the_bus_is_told_and_sent_to_nobody(
    make_parts: MakeParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gows.bus.wire, "MAX_FRAME", 10_000)
    a, b = make_parts("a", "b")
    here, there = a.peer(), b.peer()
    with pytest.raises(ValueError, match="at most 10000 bytes"):
        a.server.broadcast(bytes(10_001))
    with pytest.raises(ValueError, match="at most 10000 bytes"):
        remote(a)[0].write_binary(bytes(10_001))
    a.server.broadcast("small")
    assert here.read_text() == there.read_text() == "small"


def test_a_broadcast_that_finds_no_room_elsewhere_is_logged(
    make_parts: MakeParts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = make_parts("a", "b")
    peer = b.peer()
    monkeypatch.setattr("gows.session.fanout.MAX_WAITING", 1000)
    b.server.fanout.waiting = 1000
    a.server.broadcast("x" * 100)
    wait_until(lambda: "a message of process a to many is lost here" in caplog.text)
    b.server.fanout.waiting = 0
    a.server.broadcast("small")
    assert peer.read_text() == "small"


def test_a_server_joins_one_bus(tmp_path: Path) -> None:
    server = Server()
    assert server.bus is None
    bus, other = Bus(str(tmp_path), "a"), Bus(str(tmp_path), "b")
    server.join(bus)
    assert server.bus is bus
    with pytest.raises(UsageError, match="on a bus already"):
        server.join(other)
    server.stop()
    bus.close()
    other.close()


# ---------------------------------------------------------------------- real processes

PROGRAM = """
import sys, gows
from gows.bus.bus import Bus

class Chat(gows.Handler):
    def on_message(self, ws, opcode, buff):
        server.broadcast(f"{name}: {buff.get_string()}", exclude=ws)

folder, name = sys.argv[1:]
server = gows.Server()
server.add_route("/ws", lambda request: gows.accept(request).serve(Chat()))
server.join(Bus(folder, name))
server.listen_and_serve("127.0.0.1:0", ready=lambda: print(server.addresses[0][1], flush=True))
server.bus.close()
"""


def start_process(children: Children, folder: Path, name: str) -> tuple[subprocess.Popen[str], int]:
    child = children.start([sys.executable, "-c", PROGRAM, str(folder), name], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        return child, int(child.stdout.readline())


@pytest.mark.slow
def test_processes_that_come_and_are_killed(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("bus")
    with Children() as children, closing(Bus(str(folder), "watcher")) as watcher:
        watcher.start()
        names = ["p0", "p1", "p2", "p3"]
        running: dict[str, tuple[subprocess.Popen[str], int]] = {}

        def start(name: str) -> None:
            running[name] = start_process(children, folder, name)

        threads = [threading.Thread(target=start, args=(name,)) for name in names]
        for thread in threads:  # all at once
            thread.start()
        for thread in threads:
            thread.join(20)
        wait_until(lambda: watcher.peers == names, 10)
        peers = {name: RawPeer(("127.0.0.1", running[name][1])) for name in names}
        try:
            for peer in peers.values():
                peer.upgrade()
            assert watcher.ask("count", timeout=5) == dict.fromkeys(names, b"1")
            met(peers)
            os.kill(running["p1"][0].pid, signal.SIGKILL)
            peers.pop("p1").close()
            wait_until(lambda: watcher.peers == ["p0", "p2", "p3"], 10)
            peers["p0"].send(wire.frame(wire.TEXT, "p1 is gone"))
            for name in ("p2", "p3"):
                assert until(peers[name], "p0: p1 is gone")
            start("p1")  # under its old name
            wait_until(lambda: watcher.peers == names, 10)
            peers["p1"] = RawPeer(("127.0.0.1", running["p1"][1]))
            peers["p1"].upgrade()
            met(peers)
        finally:
            for peer in peers.values():
                peer.close()
        for child, _ in running.values():
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child, _ in running.values():
            assert child.wait(15) in (0, -signal.SIGKILL)


def met(peers: dict[str, RawPeer]) -> None:
    """Whatever one says is heard in every other process; newcomers may need a moment until they have met."""
    for speaker, peer in peers.items():
        for listener, other in peers.items():
            if listener == speaker:
                continue
            number = 0
            other.sock.settimeout(0.3)
            while True:
                peer.send(wire.frame(wire.TEXT, f"{number} for {listener}"))
                number += 1
                assert number < 30, f"{listener} does not hear {speaker}"
                try:
                    if until(other, f"{speaker}: {number - 1} for {listener}"):
                        break
                except TimeoutError:
                    continue
            other.sock.settimeout(10)


def until(peer: RawPeer, text: str) -> bool:
    while peer.read_text() != text:
        pass
    return True


# ---------------------------------------------------------------------- topics


def subscribe(part: Part, *topics: str) -> RawPeer:
    """One more peer of that process, subscribed to these."""
    peer = part.peer()
    (ws,) = [ws for ws in part.sockets() if ws.remote_addr == peer.sock.getsockname()]
    for topic in topics:
        ws.subscribe(topic)
    return peer


def test_what_is_published_reaches_the_subscribers_of_every_process_in_order(make_parts: MakeParts) -> None:
    a, b, c = make_parts("a", "b", "c")
    peers = [subscribe(part, "news.*", "news.>") for part in (a, b, c)]
    others = [subscribe(part, "weather") for part in (a, b, c)]
    for number in range(50):
        b.server.publish("news.local", str(number))
        b.server.publish("weather", "sun")
    a.server.publish("weather", b"\xff", ttl=60, key="sky")
    for peer in peers:
        assert texts(peer, 50) == [str(number) for number in range(50)]
    for peer in others:
        seen = [peer.read() for _ in range(51)]
        assert sorted(f.payload for f in seen) == [b"sun"] * 50 + [b"\xff"]


def test_topics_are_counted_over_all_processes(make_parts: MakeParts) -> None:
    a, b = make_parts("a", "b")
    subscribe(a, "news", "news.*")
    subscribe(b, "news")
    subscribe(b, "news.local")
    for part in (a, b):
        assert part.server.topics() == {"news": 2, "news.*": 1, "news.local": 1}
        assert part.server.subscriber_count("news") == 2
        assert part.server.subscriber_count("news.local") == 2


def test_who_publishes_does_not_get_it_and_exclusions_hold_everywhere(make_parts: MakeParts) -> None:
    a, b = make_parts("a", "b")
    here, there = subscribe(a, "room"), subscribe(b, "room")
    (ws,) = a.sockets()
    ws.publish("room", "not for me")
    (far,) = remote(a)
    a.server.publish("room", "not for the one of b", exclude=far)
    a.server.publish("room", "end")
    assert texts(here, 2) == ["not for the one of b", "end"]
    assert texts(there, 2) == ["not for me", "end"]


def test_what_comes_too_late_to_a_process_is_not_sent(make_parts: MakeParts) -> None:
    a, b = make_parts("a", "b")
    peer = subscribe(b, "news")
    b.server.loop.stop()
    a.server.publish("news", "late", ttl=0.05)
    a.server.publish("news", "in time")
    time.sleep(0.3)
    b.server.loop.start()
    assert texts(peer, 1) == ["in time"]


# ---------------------------------------------------------------------- history


class Follower:
    """A client of gows.v1 at one process."""

    def __init__(self, part: Part) -> None:
        self.peer = part.peer("v1", "Sec-WebSocket-Protocol: gows.v1")

    def tell(self, **request: Any) -> None:
        self.peer.send(wire.frame(wire.TEXT, json.dumps(request)))

    def next(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.peer.read_text())
        return found


def v1_parts(make_parts: MakeParts, *names: str) -> list[Part]:
    parts = make_parts(*names)
    for part in parts:
        part.server.subscriptions.may_subscribe = part.server.subscriptions.may_publish = lambda ws, topic: True
    return parts


def homes(parts: list[Part]) -> dict[str, str]:
    """A topic that each process is the home of."""
    names = [part.bus.name for part in parts]
    found: dict[str, str] = {}
    for number in range(1000):
        found.setdefault(home_of(f"topic.{number}", names), f"topic.{number}")
    assert len(found) == len(names)
    return found


def kept(part: Part, topic: str, count: int) -> bool:
    """Whether a process has heard of so many."""
    position = part.server.publishing.history.position(topic)
    return position is not None and position.offset == count


def test_one_process_numbers_a_topic_for_all(make_parts: MakeParts) -> None:
    parts = v1_parts(make_parts, "a", "b", "c")
    followers = [Follower(part) for part in parts]
    for topic in homes(parts).values():
        for follower in followers:
            follower.tell(type="subscribe", topic=topic)
            assert follower.next()["type"] == "subscribed"
        for number in range(20):
            for part in parts:
                part.server.publish(topic, [part.bus.name, number], history=100)
        seen = [[follower.next() for _ in range(60)] for follower in followers]
        assert seen[0] == seen[1] == seen[2], "in one order everywhere"
        assert [message["offset"] for message in seen[0]] == list(range(1, 61))
        assert len({message["epoch"] for message in seen[0]}) == 1
        for name in "abc":
            assert [data[1] for data in (message["data"] for message in seen[0]) if data[0] == name] == list(range(20))


def test_any_process_tells_what_was_missed(make_parts: MakeParts) -> None:
    parts = v1_parts(make_parts, "a", "b")
    for topic in homes(parts).values():
        first = Follower(parts[0])
        first.tell(type="subscribe", topic=topic)
        first.next()
        for number in range(5):
            parts[1].server.publish(topic, number, history=100)
        seen = [first.next() for _ in range(5)]
        for part in parts:
            wait_until(partial(kept, part, topic, 5))
            back = Follower(part)
            back.tell(type="subscribe", topic=topic, epoch=seen[1]["epoch"], offset=2)
            assert back.next()["recovered"] is True
            assert [back.next() for _ in range(3)] == seen[2:]


def test_who_publishes_by_another_home_does_not_hear_itself(make_parts: MakeParts) -> None:
    parts = v1_parts(make_parts, "a", "b")
    for home, topic in homes(parts).items():
        here, there = (subscribe(part, topic) for part in parts)
        (ws,) = [ws for ws in parts[0].sockets() if ws.remote_addr == here.sock.getsockname()]
        ws.publish(topic, "not for me", history=5)
        far = next(w for w in remote(parts[0]) if w.remote_addr == there.sock.getsockname())
        parts[0].server.publish(topic, "not for the one of b", history=5, exclude=far)
        parts[0].server.publish(topic, "end", history=5)
        assert texts(here, 2) == ["not for the one of b", "end"], home
        assert texts(there, 2) == ["not for me", "end"], home
        assert not parts[0].server.publishing._excluded_by_id


def test_a_home_that_goes_leaves_its_numbering_to_the_next(make_parts: MakeParts) -> None:
    a, b, c = v1_parts(make_parts, "a", "b", "c")
    topic = homes([a, b, c])["b"]
    a.server.publish(topic, "numbered by b", history=10)
    follower = Follower(a)
    wait_until(lambda: a.server.publishing.history.position(topic))
    follower.tell(type="subscribe", topic=topic)
    begun = follower.next()
    b.close()
    wait_until(lambda: a.bus.peers == ["c"] and c.bus.peers == ["a"])
    for part in (a, c):
        part.server.publish(topic, "numbered by another", history=10)
    told = [follower.next() for _ in range(2)]
    assert [(message["epoch"], message["offset"]) for message in told] == [(begun["epoch"], 2), (begun["epoch"], 3)]
    back = Follower(c)
    back.tell(type="subscribe", topic=topic, epoch=begun["epoch"], offset=begun["offset"])
    assert back.next()["recovered"] is True
    assert [back.next()["offset"] for _ in range(2)] == [2, 3]
