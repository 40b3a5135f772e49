"""Functions of a server that decide what clients of gows.v1 may, as coroutines; and plain ones, which go first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import gows
from gows import NotAllowedError, Request, TopicHandler, UsageError, WebSocket
from gows.topics.asking import Asking, Question, answer, answer_now
from tests.support.raw import RawPeer
from tests.support.servers import LOCAL, running_server
from tests.support.wire import TEXT, frame

# ---------------------------------------------------------------------- the two that drive


def asks(*functions: Callable[..., Any]) -> Asking[list[Any]]:
    """Ask functions, and return what they say, errors too."""
    found: list[Any] = []
    for number, function in enumerate(functions):
        try:
            found.append((yield Question(f"function {number}", function, (number,))))
        except ValueError as error:
            found.append(str(error))
    return found


def says(number: int) -> str:
    return f"plain {number}"


async def says_later(number: int) -> str:
    await asyncio.sleep(0)
    return f"later {number}"


def fails(number: int) -> str:
    raise ValueError(f"failed {number}")


async def fails_later(number: int) -> str:
    await asyncio.sleep(0)
    raise ValueError(f"failed later {number}")


def test_plain_functions_are_answered_now() -> None:
    assert answer_now(asks()) == []
    assert answer_now(asks(says, fails, says)) == ["plain 0", "failed 1", "plain 2"]


def test_what_is_raised_comes_out() -> None:
    def raises(number: int) -> None:
        raise KeyError(number)

    with pytest.raises(KeyError):
        answer_now(asks(says, raises))
    with pytest.raises(KeyError):
        answer(asks(says, raises))


def test_plain_code_cannot_wait() -> None:
    with pytest.raises(UsageError, match="function 1 is an `async def`"):
        answer_now(asks(says, says_later))


def test_coroutines_are_waited_for_in_order() -> None:
    found: list[Any] = []

    def collects(*functions: Callable[..., Any]) -> Asking[None]:
        found.append((yield from asks(*functions)))

    assert answer(collects(says, fails)) is None
    rest = answer(collects(says, says_later, fails, fails_later, says, says_later, fails_later))
    assert rest is not None
    asyncio.run(rest)
    assert found == [
        ["plain 0", "failed 1"],
        ["plain 0", "later 1", "failed 2", "failed later 3", "plain 4", "later 5", "failed later 6"],
    ]


# ---------------------------------------------------------------------- requests of gows.v1


class Signs(TopicHandler):
    """Adds who published, after a look elsewhere."""

    async def on_publish(self, ws: WebSocket, topic: str, data: Any) -> Any:
        await asyncio.sleep(0.001)
        if data == "bad":
            raise ValueError("not that")
        if data == "secret":
            raise NotAllowedError("no secrets")
        return {"by": "ann", "data": data}


async def may(ws: WebSocket, topic: str) -> bool:
    await asyncio.sleep(0.002 if topic.startswith("slow") else 0)
    return not topic.startswith("closed")


async def describe(ws: WebSocket, topic: str) -> Any:
    await asyncio.sleep(0)
    return {"topic": topic}


class Client:
    """Speaks gows.v1 on a real socket."""

    def __init__(self, port: int) -> None:
        self.peer = RawPeer(("127.0.0.1", port))
        self.peer.upgrade("/", "Sec-WebSocket-Protocol: gows.v1")

    def tell(self, *requests: dict[str, Any]) -> None:
        self.peer.send(*(frame(TEXT, json.dumps(request)) for request in requests))

    def next(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.peer.read_text())
        return found

    def ask(self, **request: Any) -> dict[str, Any]:
        self.tell(request)
        return self.next()


Make = Callable[..., Client]


@pytest.fixture(params=[0, 2], ids=["inline", "workers"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    clients: list[Client] = []
    functions: dict[str, Any] = {"may_subscribe": may, "may_publish": may, "presence": describe}
    with running_server(start=False, workers=request.param, **functions) as server:
        gows.serve_topics(server, "/", make_handler=lambda request: Signs())
        server.start(LOCAL)
        port = server.addresses[0][1]

        def connect() -> Client:
            clients.append(Client(int(port)))
            return clients[-1]

        yield connect
        for client in clients:
            client.peer.close()


def test_clients_wait_for_coroutines(make: Make) -> None:
    one, two = make(), make()
    assert one.ask(type="subscribe", topic="a", id=1)["type"] == "subscribed"
    assert one.ask(type="subscribe", topic="closed", id=2)["code"] == "not_allowed"
    assert two.ask(type="publish", topic="a", data=1, id=1) == {"type": "published", "topic": "a", "id": 1}
    assert one.next() == {"type": "message", "topic": "a", "data": {"by": "ann", "data": 1}}
    assert two.ask(type="publish", topic="closed", data=1)["code"] == "not_allowed"
    assert two.ask(type="publish", topic="a", data="bad")["reason"] == "not that"
    assert two.ask(type="publish", topic="a", data="secret")["code"] == "not_allowed"
    [member] = two.ask(type="presence", topic="a")["members"]
    assert member["info"] == {"topic": "a"}
    assert two.ask(type="presence", topic="closed")["code"] == "not_allowed"
    assert two.ask(type="ping") == {"type": "pong"}


def test_requests_are_answered_in_their_order(make: Make) -> None:
    client = make()
    requests: list[dict[str, Any]] = []
    for number in range(30):
        requests.append({"type": "subscribe", "topic": f"{'slow' if number % 3 else 'fast'}.{number}", "id": number})
        requests.append({"type": "ping", "id": 1000 + number})
    client.tell(*requests)
    answers = [client.next() for _ in requests]
    assert [found["id"] for found in answers] == [request["id"] for request in requests]


def test_plain_code_is_told_that_it_cannot_ask() -> None:
    """`ws.subscribe`, `ws.publish`, and `recheck`."""
    raised: list[str] = []

    def view(request: Request) -> None:
        class Asks(gows.Handler):
            def on_message(self, ws: WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
                for call in (lambda: ws.subscribe("a"), lambda: ws.publish("a", 1)):
                    with pytest.raises(UsageError, match=r"may_\w+ is an `async def`") as error:
                        call()
                    raised.append(str(error.value))
                ws.write_string("done")

        gows.accept(request).serve(Asks())

    with running_server(start=False, may_subscribe=may, may_publish=may) as server:
        server.add_route("/plain", view)
        gows.serve_topics(server, "/")
        server.start(LOCAL)
        port = int(server.addresses[0][1])
        with RawPeer(("127.0.0.1", port)) as peer:
            peer.upgrade("/plain")
            peer.send(frame(TEXT, "ask"))
            assert peer.read_text() == "done"
        assert len(raised) == 2
        client = Client(port)
        assert client.ask(type="subscribe", topic="a")["type"] == "subscribed"
        with pytest.raises(UsageError, match="may_subscribe is an `async def`"):
            server.recheck()
        client.peer.close()
