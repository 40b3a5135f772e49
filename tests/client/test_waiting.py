"""Waiting for a client, or for what a server answers it, on the threads that run its callbacks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gows import Handler, Reconnect, Server, TopicClient, UsageError, WebSocket, accept, connect
from gows.client import ReconnectingClient
from gows.reactor import Loop
from tests.support.addresses import tcp
from tests.support.topic_server import topic_server

Url = Callable[[str], str]


class Echo(Handler):
    def on_open(self, ws: WebSocket) -> None:
        ws.write_string("welcome")

    def on_message(self, ws: WebSocket, opcode: Any, buff: Any) -> None:
        ws.write_message(opcode, buff)


@pytest.fixture
def url() -> Iterator[Url]:
    with topic_server() as server:
        server.add_route("/echo", lambda request: accept(request).serve(Echo()))
        yield lambda path: f"ws://127.0.0.1:{server.addresses[0][1]}{path}"


@pytest.fixture
def one() -> Iterator[Loop]:
    """A loop with one worker: whoever keeps it keeps all callbacks."""
    with Loop(workers=1) as loop:
        loop.start()
        yield loop


class Waiter(Handler):
    """Calls `wait(client)` in one of its callbacks, and puts down what came of it."""

    def __init__(self, where: str, wait: Callable[[ReconnectingClient], Any]) -> None:
        self.where = where
        self.wait = wait
        self.clients: queue.SimpleQueue[ReconnectingClient] = queue.SimpleQueue()
        self.outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def _here(self, where: str) -> None:
        if where == self.where:
            try:
                self.outcomes.put(self.wait(self.clients.get(timeout=10)))
            except UsageError as error:
                self.outcomes.put(error)

    def on_open(self, ws: WebSocket) -> None:
        self._here("on_open")

    def on_message(self, ws: WebSocket, opcode: Any, buff: Any) -> None:
        self._here("on_message")

    def on_close(self, ws: WebSocket) -> None:
        self._here("on_close")


@pytest.mark.parametrize("where", ["on_open", "on_message", "on_close"])
def test_waiting_for_a_client_in_its_own_callback_is_refused(where: str, url: Url, one: Loop) -> None:
    handler = Waiter(where, lambda client: client.wait(20))
    client = connect(url("/echo"), handler, reconnect=True, loop=one)
    handler.clients.put(client)
    if where == "on_close":
        client.stop()
    error = handler.outcomes.get(timeout=10)
    assert isinstance(error, UsageError)
    assert "one of its own callbacks" in str(error)
    client.stop()
    assert client.wait(10)


def test_waiting_for_a_client_in_its_own_retry_if_is_refused(url: Url, one: Loop) -> None:
    handler = Waiter("", lambda client: client.wait(20))

    def retry_if(error: Exception) -> bool:
        handler.where = "retry_if"
        handler._here("retry_if")
        return False

    client = connect(url("/none"), handler, reconnect=Reconnect(retry_if=retry_if), wait=False, loop=one)
    handler.clients.put(client)
    assert isinstance(handler.outcomes.get(timeout=10), UsageError)
    assert client.wait(10)


def test_looking_whether_it_is_over_is_no_waiting(url: Url, one: Loop) -> None:
    handler = Waiter("on_open", lambda client: client.wait(0))
    client = connect(url("/echo"), handler, reconnect=True, loop=one)
    handler.clients.put(client)
    assert handler.outcomes.get(timeout=10) is False
    client.stop()
    assert client.wait(10)


def test_waiting_for_another_client_keeps_no_worker(url: Url, one: Loop) -> None:
    other = connect(url("/echo"), Handler(), reconnect=True, loop=one)
    other_ends = connect(url("/echo"), Handler(), reconnect=True, loop=one)

    def wait(client: ReconnectingClient) -> Any:
        other.stop()
        return other.wait(10), other_ends.wait(0)

    handler = Waiter("on_open", wait)
    client = connect(url("/echo"), handler, reconnect=True, loop=one)
    handler.clients.put(client)
    assert handler.outcomes.get(timeout=15) == (True, False)
    for left in (client, other_ends):
        left.stop()
        assert left.wait(10)


def test_in_a_callback_one_may_connect_and_receive_by_the_same_loop(url: Url, one: Loop) -> None:
    """The answer to what is received needs the loop's one worker: an echo on that very loop."""
    server = Server(loop=one)
    server.add_route("/", lambda request: accept(request).serve(Echo()))
    _, port = tcp(server.listen("127.0.0.1:0"))

    def talk(client: ReconnectingClient) -> Any:
        with connect(f"ws://127.0.0.1:{port}/", loop=one) as ws:
            ws.write_string("x")
            return ws.recv(10), ws.recv(10)

    handler = Waiter("on_open", talk)
    client = connect(url("/echo"), handler, reconnect=True, loop=one)
    handler.clients.put(client)
    assert handler.outcomes.get(timeout=15) == ("welcome", "x")
    client.stop()
    assert client.wait(10)


def test_answers_are_not_waited_for_in_the_clients_own_callback(url: Url, one: Loop) -> None:
    outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()
    begun = threading.Event()

    def hear(data: Any, topic: str) -> None:
        for answer in (client.publish("a", 1), client.subscribe("b", print).ready):
            for wait in (answer.result, answer.exception):
                try:
                    wait(20)
                except UsageError as error:
                    outcomes.put(str(error))
        outcomes.put(client.publish("a", 1).done())
        begun.set()

    with TopicClient(url("/live"), loop=one) as client, TopicClient(url("/live"), loop=one) as other:
        client.subscribe("room", hear).ready.result(5)
        other.publish("room", 1).result(5)
        assert begun.wait(10)
        for _ in range(4):
            assert "one of its own callbacks" in outcomes.get(timeout=1)


def test_answers_of_another_client_keep_no_worker(url: Url, one: Loop) -> None:
    outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def hear(data: Any, topic: str) -> None:
        with TopicClient(url("/live"), loop=one) as third:
            outcomes.put((other.publish("a", 1).exception(5), third.publish("a", 2).exception(5)))

    with TopicClient(url("/live"), loop=one) as client, TopicClient(url("/live"), loop=one) as other:
        client.subscribe("room", hear).ready.result(5)
        other.publish("room", 1).result(5)
        assert outcomes.get(timeout=15) == (None, None)
