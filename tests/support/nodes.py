"""Nodes: servers that belong together by some broker, and clients of gows.v1 at them. What the contract needs is done
by clients, so that a node may be another process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Protocol

import gows
from gows.brokers.base import Broker
from gows.bus.bus import Bus
from tests.support import wire
from tests.support.processes import Children
from tests.support.raw import RawPeer
from tests.support.waiting import wait_until

SECONDS = 10.0

APP = """
import os, sys
import gows
from tests.support.nodes import make_server

def make():
    server = make_server(None)
    host, port = server.listen("127.0.0.1:0")
    path = os.path.join({folder!r}, str(os.getpid()))
    with open(path + ".new", "w") as file:
        file.write(str(port))
    os.rename(path + ".new", path)
    return server

gows.run(make, "127.0.0.1:0", processes={count})
"""


def keep(topic: str) -> gows.Keep | None:
    """Topics that begin with "kept" are kept: 100 messages, "kept.long" 10,000, "kept.brief" for half a second."""
    if not topic.startswith("kept"):
        return None
    return gows.Keep(10_000 if topic == "kept.long" else 100, 0.5 if topic == "kept.brief" else None)


def describe(ws: gows.WebSocket, topic: str) -> Any:
    """Whoever is in a room says so."""
    return {"room": topic} if topic.startswith("room") else None


def make_server(broker: Broker | None) -> gows.Server:
    """A node's, which allows everything but secrets."""
    server = gows.Server(
        workers=2,
        may_subscribe=lambda ws, topic: topic != "secret",
        may_publish=lambda ws, topic: topic != "secret",
        keep=keep,
        presence=describe,
        broker=broker,
    )
    gows.serve_topics(server, "/live")
    return server


class Client:
    """Speaks gows.v1."""

    def __init__(self, address: Any) -> None:
        self.peer = RawPeer(address)
        self.peer.upgrade("/live", "Sec-WebSocket-Protocol: gows.v1")
        self._number = 0
        self._messages: deque[dict[str, Any]] = deque()  # that came before an answer

    def send(self, **request: Any) -> int:
        """Ask, and do not wait; the request's id."""
        self._number += 1
        self.peer.send(wire.frame(wire.TEXT, json.dumps({**request, "id": self._number})))
        return self._number

    def ask(self, **request: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        number = self.send(**request)
        while True:
            found = self._told()
            if found.get("id") == number and "type" in found and found["type"] not in ("join", "leave"):
                return found
            self._messages.append(found)

    def next(self) -> dict[str, Any]:
        """The next message, or what else comes unasked, but positions."""
        return self._messages.popleft() if self._messages else self._told()

    def _told(self) -> dict[str, Any]:
        while (found := self._read())["type"] == "position":
            pass
        return found

    def data(self, count: int) -> list[Any]:
        """That of the next messages."""
        return [self.next()["data"] for _ in range(count)]

    def quiet(self, topic: str = "quiet") -> None:
        """Nothing came, or AssertionError: a message that is published afterwards comes first."""
        assert self.ask(type="subscribe", topic=topic)["type"] == "subscribed"
        assert not self._messages, self._messages
        assert self.ask(type="unsubscribe", topic=topic)["type"] == "unsubscribed"
        assert not self._messages, self._messages

    def subscribe(self, topic: str, **more: Any) -> dict[str, Any]:
        """Subscribe; the answer."""
        answer = self.ask(type="subscribe", topic=topic, **more)
        assert answer["type"] == "subscribed", answer
        return answer

    def publish(self, topic: str, data: Any, **more: Any) -> None:
        """Publish, and wait until that is acknowledged."""
        answer = self.ask(type="publish", topic=topic, data=data, **more)
        assert answer["type"] == "published", answer

    def members(self, topic: str) -> list[str]:
        """The ids of those who are there."""
        return sorted(member["id"] for member in self.ask(type="presence", topic=topic)["members"])

    def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.peer.read_text())
        return found

    def close(self) -> None:
        """Without a word."""
        self.peer.close()


class Nodes(Protocol):
    """Some that belong together."""

    def client(self, node: int = 0) -> Client:
        """A new one at a node; there are at least two numbers, which may mean the same node."""

    def kill(self, node: int) -> None:
        """End one as a crash does, or as near to that as can be."""

    @property
    def several(self) -> bool:
        """Whether there is more than one."""


class ServerNodes:
    """In this process."""

    def __init__(self, brokers: list[Broker | None], folder: Path | None = None) -> None:
        self.servers = [make_server(broker) for broker in brokers]
        self.buses: list[Bus] = []
        self._clients: list[Client] = []
        for number, server in enumerate(self.servers):
            if folder is not None:
                self.buses.append(Bus(str(folder), f"n{number}"))
                server.join(self.buses[-1])
            server.start("127.0.0.1:0")
        wait_until(lambda: all(len(server.broker.peers) == len(brokers) - 1 for server in self.servers))

    @property
    def several(self) -> bool:
        return len(self.servers) > 1

    def client(self, node: int = 0) -> Client:
        self._clients.append(Client(self.servers[node % len(self.servers)].addresses[0]))
        return self._clients[-1]

    def kill(self, node: int) -> None:
        self.servers[node].stop(0.1)
        if self.buses:
            self.buses[node].close()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for server in self.servers:
            server.stop()
        for bus in self.buses:
            bus.close()


class ProcessNodes:
    """The worker processes of one `gows.run`."""

    several = True

    def __init__(self, children: Children, folder: Path, count: int) -> None:
        ports = folder / "ports"
        ports.mkdir()
        program = folder / "program.py"
        program.write_text(APP.format(folder=str(ports), count=count))
        self._children = children
        self._process = children.start(
            [sys.executable, str(program)],
            env=os.environ | {"TMPDIR": str(folder), "PYTHONPATH": os.getcwd()},
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: len([name for name in os.listdir(ports) if name.isdigit()]) == count, 20.0)
        self._found = {int(name): int((ports / name).read_text()) for name in sorted(os.listdir(ports))}
        self._clients: list[Client] = []
        first = self.client(0)
        wait_until(lambda: self._both_hear(first), 20.0)

    def _both_hear(self, first: Client) -> bool:
        """Whether the processes have found each other."""
        with_second = self.client(1)
        first.subscribe("room.start")
        with_second.subscribe("room.start")
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            if len(first.members("room.start")) == len(with_second.members("room.start")) >= 2:
                for client in (first, with_second):
                    client.ask(type="unsubscribe", topic="room.start")
                    client._messages.clear()
                return True
            time.sleep(0.02)
        return False

    def client(self, node: int = 0) -> Client:
        self._clients.append(Client(("127.0.0.1", list(self._found.values())[node])))
        return self._clients[-1]

    def kill(self, node: int) -> None:
        os.kill(list(self._found)[node], signal.SIGKILL)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._children.end(self._process)
