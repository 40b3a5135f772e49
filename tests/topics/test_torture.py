"""Torture of topics, with real threads and real sockets: everything at once, on two servers that share a bus.

Publishers publish; clients of gows.v1 subscribe, unsubscribe and end in every way; threads of the program subscribe and
unsubscribe connections of others, ask who is there, and close them. Meanwhile and afterwards:

- What a client receives of one publisher and topic is in order and whole: nothing twice, no gap within a subscription,
  and everything that was published after the answer `subscribed`. Offsets of topics that are kept have no gap.
- When all but a few have gone, they are in no table any more, of subscriptions, presence and losses, in no process; and
  when the last have gone the tables are empty.

In the suite it takes two seconds a seed. By hand, for minutes:

    GOWS_PURE=1 python -m tests.topics.test_torture --seconds 300 --seed 7
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import gows
from gows import ConnectionClosedError, Handler, Server, UsageError, WebSocket
from gows.bus import Bus
from gows.topics.patterns import stands_for
from tests.support import wire
from tests.support.raw import RawPeer
from tests.support.waiting import wait_until

TOPICS = ("t.a", "t.b", "room.a", "kept.a", "kept.b")
PATTERNS = ("t.*", "kept.>", ">", "*.a")
SUBSCRIBED_TO = (*TOPICS, *PATTERNS)
PUBLISHERS, CLIENTS, MEDDLERS = 3, 6, 3
MAX_TOPICS = 4
"""So few that subscriptions are refused, too."""
PATIENCE = 15.0
"""Seconds until everything that is under way must have come."""


class Plain(Handler):
    """A connection that agreed on no subprotocol: the program subscribes it."""

    def __init__(self, sockets: list[WebSocket]) -> None:
        self._sockets = sockets

    def on_open(self, ws: WebSocket) -> None:
        self._sockets.append(ws)


class Torture:
    """One run."""

    def __init__(self, seed: int, folder: str) -> None:
        self.seed = seed
        self.ended = threading.Event()
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self.begun: dict[tuple[str, str], int] = {}
        """By publisher and topic: the number of the last message that was given to `publish`, or is about to be."""
        self.sockets: list[WebSocket] = []
        """Plain connections, some of which have ended."""
        self.peers: list[RawPeer] = []
        """Of the clients that are there."""
        self.servers: list[Server] = []
        self.buses: list[Bus] = []
        for number in range(2):
            server = Server(
                workers=2,
                max_topics=MAX_TOPICS,
                may_subscribe=lambda ws, topic: True,
                may_publish=lambda ws, topic: True,
                keep=lambda topic: 50 if topic.startswith("kept") else None,
                presence=lambda ws, topic: {"in": topic} if topic.startswith("room") else None,
            )
            gows.serve_topics(server, "/live")
            server.add_route("/plain", lambda request: gows.accept(request).serve(Plain(self.sockets)))
            self.buses.append(Bus(folder, f"n{number}"))
            server.join(self.buses[-1])
            server.start("127.0.0.1:0")
            self.servers.append(server)
        wait_until(lambda: all(len(server.broker.peers) == 1 for server in self.servers))

    def run(self, seconds: float) -> None:
        """Let all of them loose for some seconds. Raises AssertionError for what goes wrong."""
        anchors = [
            Client(self, number % 2, topics) for number, topics in enumerate((TOPICS[:4], ("t.a", ">"), ("room.a",)))
        ]
        threads = [self._thread(f"publisher {n}", self._publish) for n in range(PUBLISHERS)]
        threads += [self._thread(f"client {n}", self._come_and_go) for n in range(CLIENTS)]
        threads += [self._thread(f"meddler {n}", self._meddle) for n in range(MEDDLERS)]
        readers = [self._thread(f"anchor {n}", anchor.read_until_ended) for n, anchor in enumerate(anchors)]
        for thread in (*readers, *threads):
            thread.start()
        self.ended.wait(seconds)  # a fault ends it early
        self.ended.set()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"{thread.name} hangs"
        for anchor in anchors:
            anchor.may_end.set()
        for thread in readers:
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"{thread.name} hangs"
        assert not self.faults, self.faults[:5]
        self._check_who_is_left(anchors)
        for anchor in anchors:
            anchor.peer.close()
        wait_until(lambda: not any(self._left_behind()), PATIENCE, lambda: str(self._left_behind()))

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        for server in self.servers:
            server.stop()
        for bus in self.buses:
            bus.close()

    def fault(self, text: str) -> None:
        """Note that something was wrong, and end the run."""
        self.faults.append(text)
        self.ended.set()

    def _thread(self, name: str, call: Callable[[random.Random], object]) -> threading.Thread:
        def run() -> None:
            try:
                call(random.Random(f"{self.seed} {name}"))
            except Exception as error:
                self.fault(f"{name}: {type(error).__name__}: {error}")

        return threading.Thread(target=run, name=name)

    # ------------------------------------------------------------------ threads

    def _publish(self, choice: random.Random) -> None:
        """Publish numbers to all topics, by one server."""
        name = threading.current_thread().name
        server = choice.choice(self.servers)
        while not self.ended.is_set():
            topic = choice.choice(TOPICS)
            number = self.begun.get((name, topic), 0) + 1
            self.begun[name, topic] = number
            server.publish(topic, [name, number])
            self.counts["published"] += 1
            time.sleep(choice.uniform(0.0, 0.003))

    def _come_and_go(self, choice: random.Random) -> None:
        """Be one client after the other."""
        while not self.ended.is_set():
            client = Client(self, choice.randrange(2), (), plan=choice)
            for _ in range(choice.randrange(8)):
                topic = choice.choice(SUBSCRIBED_TO)
                if topic in client.topics:
                    client.ask("unsubscribe", topic)
                elif len(client.topics) < MAX_TOPICS:
                    client.subscribe(topic)
                client.read_for(choice.uniform(0.0, 0.02))
                if self.ended.is_set():
                    break
            self.counts["clients"] += 1
            how = choice.randrange(4)
            if how == 0:
                client.peer.reset()
            elif how == 1:
                client.send("subscribe", choice.choice(SUBSCRIBED_TO))  # amid which it ends
                client.peer.reset()
            elif how == 2:
                client.peer.send(wire.frame(wire.CLOSE, b"\x03\xe8"))
                client.peer.close()
            else:
                client.peer.close()

    def _meddle(self, choice: random.Random) -> None:
        """Do to anybody's plain connection what a program may do, and have one of one's own."""
        while not self.ended.is_set():
            with RawPeer(choice.choice(self.servers).addresses[0]) as peer:
                peer.upgrade("/plain")
                peer.sock.settimeout(0.0)
                for _ in range(choice.randrange(30)):
                    self._meddle_once(choice)
                    try:
                        while peer.sock.recv(1 << 16):
                            pass
                    except BlockingIOError:
                        pass
                    except ConnectionResetError:
                        break
                if choice.randrange(2):
                    peer.reset()

    def _meddle_once(self, choice: random.Random) -> None:
        server = choice.choice(self.servers)
        topic = choice.choice(SUBSCRIBED_TO)
        sockets = self.sockets[-2 * MEDDLERS :]
        ws = choice.choice(sockets) if sockets else None
        what = choice.randrange(10)
        self.counts["meddled"] += 1
        try:
            if what == 0:
                server.members("room.a")
            elif what == 1:
                server.subscriptions.count(choice.choice(TOPICS))
            elif what == 2:
                server.recheck(ws)
            elif ws is None or what == 3:
                server.publish("meddled", "x", exclude=ws, history=choice.choice([None, 5]))
            elif what < 7:
                ws.subscribe(topic)
            elif what < 9:
                ws.unsubscribe(topic)
            else:
                ws.close() if choice.randrange(2) else ws.close_handshake(1000)
        except ConnectionClosedError:
            self.counts["closed"] += 1
        except UsageError:
            self.counts["too many"] += 1

    # ------------------------------------------------------------------ afterwards

    def _check_who_is_left(self, anchors: list[Client]) -> None:
        """Look into the tables when all but the anchors have gone."""
        for number, server in enumerate(self.servers):
            own = [anchor for anchor in anchors if anchor.node == number]
            expected = Counter(topic for anchor in own for topic in anchor.topics)
            subscriptions = server.subscriptions
            wait_until(lambda s=subscriptions, e=expected: s.counts() == e, PATIENCE)  # type: ignore[misc]
            assert len(subscriptions._of) == len(own)
            assert subscriptions._total == sum(expected.values())
            wild = [name for name in expected if name in PATTERNS]
            assert len(subscriptions._patterns) == len(wild)
        inside = {anchor.member for anchor in anchors if "room.a" in anchor.topics}
        for server in self.servers:
            wait_until(lambda s=server: {m.id for m in s.members("room.a")} == inside, PATIENCE)  # type: ignore[misc]
            assert server.publishing.gaps == 0
            assert server.publishing.losses.missed == 0
            assert server.publishing.losses.closed == 0
        assert all(bus.dropped == 0 for bus in self.buses)
        for anchor in anchors:
            assert anchor.present <= inside, "somebody who has gone is still there for a client"

    def _left_behind(self) -> list[object]:
        """Return what is in the tables of both servers."""
        found: list[object] = []
        for server in self.servers:
            subscriptions, publisher = server.subscriptions, server.publishing
            presence = publisher.presence
            found += [subscriptions._of, subscriptions._members, subscriptions._patterns._shapes, subscriptions._total]
            found += [presence._ids, presence._topics, presence._own, presence.size, presence._coming, presence._syncs]
            found += [rooms for rooms in presence._theirs.values() if rooms]
            found += [publisher.losses._noted, publisher._excluded_by_id]
        return [each for each in found if each]


class Client:
    """Speaks gows.v1, and checks what it hears. Of one thread."""

    def __init__(self, torture: Torture, node: int, topics: tuple[str, ...], plan: random.Random | None = None) -> None:
        self.torture = torture
        self.node = node
        self.topics: list[str] = []
        self.member = ""
        """Its id in rooms."""
        self.present: set[str] = set()
        """Who has joined, and not left, since it is in the room."""
        self.may_end = threading.Event()
        self.peer = RawPeer(torture.servers[node].addresses[0])
        torture.peers = [*torture.peers[-4 * CLIENTS :], self.peer]
        self.peer.upgrade("/live", "Sec-WebSocket-Protocol: gows.v1")
        self._plan = plan
        self._number = 0
        self._last: dict[tuple[str, str], int] = {}  # by publisher and topic: the last number that it heard
        self._limits: dict[tuple[str, str], int] = {}  # … and the highest that may come next, whatever came before
        self._offsets: dict[str, tuple[str, int]] = {}  # by topic that it subscribed to by name: epoch and offset
        for topic in topics:
            self.subscribe(topic)

    def send(self, type_: str, topic: str, **fields: Any) -> int:
        """Ask, and do not wait; the request's id."""
        self._number += 1
        request = {"type": type_, "topic": topic, "id": self._number, **fields}
        self.peer.send(wire.frame(wire.TEXT, json.dumps(request)))
        return self._number

    def ask(self, type_: str, topic: str, **fields: Any) -> dict[str, Any]:
        """Ask, and hear what comes before the answer."""
        number = self.send(type_, topic, **fields)
        found: dict[str, Any]
        while (found := self._read()).get("id") != number or found["type"] in ("join", "leave"):
            self._hear(found)
        assert found["type"] == f"{type_}d", found
        if type_ == "unsubscribe":
            self.topics.remove(topic)
            self._offsets.pop(topic, None)
        return found

    def subscribe(self, topic: str) -> None:
        """Subscribe; from now on everything must come that is published to the topic."""
        answer = self.ask("subscribe", topic)
        for (name, each), number in list(self.torture.begun.items()):
            if _stands_for(topic, each) and not any(_stands_for(other, each) for other in self.topics):
                self._limits[name, each] = number + 1
        self.topics.append(topic)
        if "offset" in answer:
            self._offsets[topic] = answer["epoch"], answer["offset"]
        self.member = answer.get("me", self.member)

    def read_for(self, seconds: float) -> None:
        """Hear what comes, for a while."""
        until = time.monotonic() + seconds
        self.peer.sock.settimeout(0.005)
        try:
            while time.monotonic() < until:
                try:
                    self._hear(self._read())
                except TimeoutError:
                    pass
        finally:
            self.peer.sock.settimeout(PATIENCE)

    def read_until_ended(self, choice: random.Random) -> None:
        """Hear everything, until all publishers have ended, and their last message has come."""
        while not self.may_end.is_set():
            self.read_for(0.1)
        deadline = time.monotonic() + PATIENCE / 2
        while missing := {
            key: number
            for key, number in self.torture.begun.items()
            if any(_stands_for(topic, key[1]) for topic in self.topics) and self._last.get(key, 0) < number
        }:
            assert time.monotonic() < deadline, f"never came: {missing}, of which it has {self._last}"
            self.read_for(0.1)
        self.read_for(0.3)  # who has left, too

    def _read(self) -> dict[str, Any]:
        """Return the next message. Answers the pings of long runs."""
        while (frame := self.peer.read()).opcode == wire.PING:
            self.peer.send(wire.frame(wire.PONG, frame.payload))
        assert (frame.opcode, frame.fin, frame.rsv) == (wire.TEXT, True, 0), frame
        message: dict[str, Any] = json.loads(frame.payload)
        return message

    def _hear(self, message: dict[str, Any]) -> None:
        type_, topic = message["type"], message["topic"]
        if type_ == "join":
            assert message["id"] not in self.present, f"{message} came twice"
            self.present.add(message["id"])
        elif type_ == "leave":
            self.present.discard(message["id"])
        elif type_ == "message":
            self._check_offset(message)
            if topic != "meddled":
                self._check_number(topic, *message["data"])
        else:
            raise AssertionError(f"unasked: {message}")

    def _check_offset(self, message: dict[str, Any]) -> None:
        topic = message["topic"]
        if topic in self._offsets:
            epoch, offset = self._offsets[topic]
            now = message["epoch"], message["offset"]
            assert now == (epoch, offset + 1), f"{topic} was at {epoch} {offset}, and is at {now}"
            self._offsets[topic] = now

    def _check_number(self, topic: str, name: str, number: int) -> None:
        self.torture.counts["heard"] += 1
        key = name, topic
        last, limit = self._last.get(key), self._limits.pop(key, None)
        self._last[key] = number
        if last is not None and number == last + 1:
            return
        if limit is None and last is None:  # the publisher had not begun when this subscribed
            limit = 1
        assert limit is not None, f"{key}: {number} comes after {last}"
        assert (last or 0) < number <= limit, f"{key}: {number} comes after {last}, and {limit} at the latest had to"


def _stands_for(pattern: str, topic: str) -> bool:
    return stands_for(pattern.split("."), topic.split("."))


@contextmanager
def _many_switches() -> Iterator[None]:
    """Let threads take turns a hundred times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def torture(seed: int, seconds: float, folder: str) -> Counter[str]:
    """Run once. Returns how much happened. Raises AssertionError for what goes wrong."""
    run = Torture(seed, folder)
    try:
        with _many_switches():
            run.run(seconds)
    finally:
        run.ended.set()
        run.close()
    return run.counts


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_everything_at_once_leaves_nobody_behind(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.mktemp("bus")  # of mode 0700
    counts = torture(seed, 2.0, str(folder))
    for what in ("published", "clients", "meddled", "heard"):
        assert counts[what] > 20, counts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.topics.test_torture", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(dict(torture(options.seed, options.seconds, folder)))  # noqa: T201


if __name__ == "__main__":
    main()
