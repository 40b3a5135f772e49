"""A Redis that is killed, frozen and cut off at random, while clients come and go: each client gets every message of a
topic that is kept, once and in order, or is told that some may be missing."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import gows.brokers.redis.recovery
from gows import BrokerError, QueueFullError, Server
from gows.brokers.redis.broker import RedisBroker
from tests.support.needs import need, need_module
from tests.support.nodes import Client, ServerNodes
from tests.support.processes import Children
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

SECONDS = 6.0
TOPICS = ("kept.long", "kept.b")
"""Of the first all is kept, of the second 100 messages, so that a gap may be told."""


class Speaker:
    """Publishes numbers to a topic, by one process."""

    def __init__(self, server: Server, topic: str, ended: threading.Event) -> None:
        self._server = server
        self._topic = topic
        self._ended = ended
        self._random = random.Random(topic)
        self.thread = threading.Thread(target=self._speak)

    def _speak(self) -> None:
        number = 0
        while not self._ended.is_set():
            try:
                self._server.publish(self._topic, number)
                number += 1
            except (QueueFullError, BrokerError):
                time.sleep(0.02)
            time.sleep(self._random.uniform(0.0, 0.004))


class Listener:
    """Comes and goes, and names the last position that it has seen; or subscribes to the pattern of both topics."""

    def __init__(self, seed: int, addresses: list[Any], ended: threading.Event) -> None:
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._addresses = addresses
        self._ended = ended
        self._topic = "kept.*" if seed % 4 == 0 else TOPICS[seed % 2]
        self._seen: dict[str, tuple[str, int]] = {}
        """By topic, the position after which the next one is expected."""
        self._numbers: dict[str, int] = {}
        """By topic, the last number of this subscription."""
        self._positions: dict[tuple[str, int], tuple[str, int]] = {}
        """By topic and number, where that message stands."""
        self.thread = threading.Thread(target=self._listen)

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                client = Client(self._random.choice(self._addresses))
                try:
                    self._come(client)
                finally:
                    client.close()
            except OSError:  # a server that is busy
                self.counts["no connection"] += 1
            time.sleep(self._random.uniform(0.0, 0.2))

    def _come(self, client: Client) -> None:
        more: dict[str, Any] = {}
        before = self._seen.pop(self._topic, None)
        if self._topic == "kept.*":
            self._seen.clear()
            self._numbers.clear()
        elif before is not None and self._random.random() < 0.8:
            more = {"epoch": before[0], "offset": before[1]}
        else:
            # Without a position it begins where this process stands, which may be behind the one asked before.
            self._numbers.clear()
            if self._random.random() < 0.5:
                more = {"history": self._random.choice([1, 20, 200])}
        answer = client.subscribe(self._topic, **more)
        if answer.get("recovered"):
            assert before is not None
            self.counts["recovered"] += 1
            self._seen[self._topic] = before
        else:
            self._numbers.clear()  # who is told that it is not recovered may hear some again
            if "epoch" in answer:
                self._seen[self._topic] = answer["epoch"], answer["offset"]
        client.peer.sock.settimeout(0.5)
        until = time.monotonic() + self._random.uniform(0.01, 1.5)
        while time.monotonic() < until and not self._ended.is_set():
            try:
                self._hear(client.next())
            except TimeoutError:
                return  # perhaps amid a message

    def _hear(self, message: dict[str, Any]) -> None:
        topic = message["topic"]
        if message["type"] == "lost":
            self.counts["lost"] += 1
            if topic == "kept.*":
                self._seen.clear()
                self._numbers.clear()
                return
            self._numbers.pop(topic, None)  # after `lost`, too
            if "epoch" in message:
                self._seen[topic] = message["epoch"], message["offset"]
            else:
                self._seen.pop(topic, None)
            return
        self.counts["messages"] += 1
        here = message["epoch"], message["offset"]
        seen = self._seen.get(topic)
        if seen is not None and here != (seen[0], seen[1] + 1):
            self.faults.append(f"{topic}: {here} follows {seen}")
        if message["data"] <= self._numbers.get(topic, -1):
            self.faults.append(f"{topic}: {message['data']} comes after {self._numbers[topic]}")
        if self._positions.setdefault((topic, message["data"]), here) != here:
            self.faults.append(
                f"{topic}: {message['data']} stands at {self._positions[topic, message['data']]} and {here}"
            )
        self._seen[topic] = here
        self._numbers[topic] = message["data"]


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_missed_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    need("redis-server")
    redis_py = need_module("redis")
    monkeypatch.setattr(gows.brokers.redis.recovery, "CHECK_INTERVAL", 0.3)
    monkeypatch.setattr(gows.brokers.redis.recovery, "PORTION", 5000)
    chosen = random.Random(seed)
    ended = threading.Event()
    with Children() as children:
        redis = RedisServer(children, tmp_path, durable=True)
        nodes = ServerNodes([RedisBroker(redis.url, outage="queue", timeout=0.7) for _ in range(2)])
        addresses = [server.addresses[0] for server in nodes.servers]
        speakers = [Speaker(server, topic, ended) for server, topic in zip(nodes.servers, TOPICS, strict=True)]
        listeners = [Listener(seed * 100 + number, addresses, ended) for number in range(8)]
        threads = [speaker.thread for speaker in speakers] + [listener.thread for listener in listeners]
        try:
            for thread in threads:
                thread.start()
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                time.sleep(chosen.uniform(0.2, 0.8))
                what = chosen.choice(["pubsub", "normal", "normal", "kill", "freeze"])
                if what == "kill":
                    redis.kill()
                    time.sleep(chosen.uniform(0.0, 0.5))
                    redis.start()
                elif what == "freeze":
                    redis.freeze()
                    time.sleep(chosen.uniform(0.1, 1.2))
                    redis.thaw()
                else:
                    with redis_py.Redis(port=redis.port) as admin:
                        admin.client_kill_filter(_type=what, skipme=True)
        finally:
            ended.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join(20.0)
            nodes.close()
    assert not [thread for thread in threads if thread.is_alive()]
    assert [fault for listener in listeners for fault in listener.faults] == []
    counts = sum((listener.counts for listener in listeners), Counter[str]())
    assert counts["messages"] > 100
    assert counts["recovered"] > 0
