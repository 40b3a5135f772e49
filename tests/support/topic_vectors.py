"""What a server of gows.v1 says, and what a client then has to do, for both clients: the rule of
docs/reference/topics.md.

A vector is a list of steps: what the program does (`subscribe`, `end`), what the client must ask for next (`asks`, the
id left out), what the server says (`answers` that request, `sends` unasked, `loses` the connection), and all that each
subscription must have heard by then (`heard`): data, "lost TOPIC", "refused CODE".
"""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from gows import AcceptOptions, Handler, Response, Server, WebSocket, accept
from tests.support.waiting import wait_until

Step = tuple[str, Any]


def subscribe(name: str, topic: str, **settings: Any) -> Step:
    return "subscribe", (name, topic, settings)


def end(name: str) -> Step:
    return "end", name


def asks(type_: str, topic: str, **fields: Any) -> Step:
    return "asks", {"type": type_, "topic": topic, **fields}


def answers(type_: str = "subscribed", **fields: Any) -> Step:
    return "answers", {"type": type_, **fields}


def refuses(code: str) -> Step:
    return "answers", {"type": "error", "code": code, "reason": "so it is"}


def sends(type_: str, topic: str, epoch: str | None = None, offset: int | None = None, **fields: Any) -> Step:
    position = {} if epoch is None else {"epoch": epoch, "offset": offset}
    return "sends", {"type": type_, "topic": topic, **position, **fields}


def message(offset: int, topic: str = "a", epoch: str = "e") -> Step:
    return sends("message", topic, epoch, offset, data=offset)


def heard(**expected: list[Any]) -> Step:
    return "heard", expected


LOSES: Step = ("loses", None)


def begun(*more: Step, history: int | None = None) -> list[Step]:
    """A topic that is kept and stands at 3."""
    wants = {} if history is None else {"history": history}
    return [subscribe("x", "a", **wants), asks("subscribe", "a", **wants), answers(epoch="e", offset=3), *more]


VECTORS: dict[str, list[Step]] = {
    "in order, and each once": begun(message(4), message(4), message(3), message(5), heard(x=[4, 5])),
    "the first message of a topic of which nothing was kept": [
        subscribe("x", "a"),
        asks("subscribe", "a"),
        answers(),
        message(1),
        message(2),
        message(2),
        heard(x=[1, 2]),
    ],
    "the first message was missed": [
        subscribe("x", "a"),
        asks("subscribe", "a"),
        answers(),
        message(2),
        asks("subscribe", "a", epoch="e", offset=0),
        answers(epoch="e", offset=2, recovered=True),
        message(1),
        message(2),
        heard(x=[1, 2]),
    ],
    "a lost where nothing was kept": [
        subscribe("x", "a"),
        asks("subscribe", "a"),
        answers(),
        sends("lost", "a", "e", 2),
        asks("subscribe", "a", epoch="e", offset=0),
        answers(epoch="e", offset=2, recovered=False),
        message(3),
        heard(x=["lost a", 3]),
    ],
    "a position where nothing was kept": [
        subscribe("x", "a"),
        asks("subscribe", "a"),
        answers(),
        sends("position", "a", "e", 1),
        message(2),
        heard(x=[2]),
    ],
    "an answer that does not help": begun(
        message(9),
        asks("subscribe", "a", epoch="e", offset=3),
        answers(epoch="e", offset=3, recovered=True),
        sends("lost", "a", "e", 9),
        sends("lost", "a", "e", 9),
        asks("subscribe", "a", epoch="e", offset=3),
        answers(epoch="e", offset=9, recovered=False),
        message(10),
        heard(x=["lost a", 10]),
    ),
    "without a position": begun(sends("message", "a", data="x"), sends("message", "a", data="x"), heard(x=["x", "x"])),
    "a jump is asked for, and what comes meanwhile is in the answer": begun(
        message(4),
        message(7),
        asks("subscribe", "a", epoch="e", offset=4),
        message(8),
        sends("message", "a", data="no position"),
        answers(epoch="e", offset=8, recovered=True),
        *(message(offset) for offset in (5, 6, 7, 8, 9)),
        heard(x=[4, "no position", 5, 6, 7, 8, 9]),
    ),
    "a jump with a history": begun(
        message(9),
        asks("subscribe", "a", epoch="e", offset=3, history=5),
        answers(epoch="e", offset=6, recovered=False),
        *(message(offset) for offset in (7, 8, 9)),
        heard(x=["lost a", 7, 8, 9]),
        history=5,
    ),
    "a jump that cannot be recovered is told once": begun(
        message(9),
        asks("subscribe", "a", epoch="e", offset=3),
        message(10),
        answers(epoch="e", offset=10, recovered=False),
        message(11),
        message(10),
        heard(x=["lost a", 11]),
    ),
    "another epoch": begun(
        message(1, epoch="f"),
        asks("subscribe", "a", epoch="e", offset=3),
        answers(epoch="f", offset=1, recovered=False),
        message(2, epoch="f"),
        heard(x=["lost a", 2]),
    ),
    "a position after what was missed": begun(
        sends("position", "a", "e", 9, after=8),
        asks("subscribe", "a", epoch="e", offset=3),
        answers(epoch="e", offset=9, recovered=True),
        message(4),
        sends("position", "a", "e", 9, after=4),
        sends("position", "a", "e", 10, after=9),
        message(11),
        heard(x=[4, 11]),
    ),
    "a right that was taken away while the connection stands": begun(
        message(4),
        sends("unsubscribed", "a", code="not_allowed", reason="so it is"),
        message(5),
        heard(x=[4, "refused not_allowed"]),
    ),
    "after a loss, where nothing was kept": [
        subscribe("x", "a"),
        asks("subscribe", "a"),
        answers(),
        LOSES,
        asks("subscribe", "a", history=10_000),
        answers(epoch="e", offset=2),
        message(3),
        message(4),
        heard(x=["lost a", 3, 4]),
    ],
    "after a process that keeps nothing of it, from where it was": begun(
        message(4),
        LOSES,
        asks("subscribe", "a", epoch="e", offset=4),
        answers(recovered=False),
        LOSES,
        asks("subscribe", "a", epoch="e", offset=4, history=10_000),
        answers(epoch="f", offset=4, recovered=False),
        message(5, epoch="f"),
        heard(x=[4, "lost a", "lost a", 5]),
    ),
    "after two processes that keep nothing of it": begun(
        LOSES,
        asks("subscribe", "a", epoch="e", offset=3),
        answers(recovered=False),
        LOSES,
        asks("subscribe", "a", epoch="e", offset=3, history=10_000),
        answers(recovered=False),
        LOSES,
        asks("subscribe", "a", epoch="e", offset=3, history=10_000),
        answers(epoch="e", offset=5, recovered=True),
        message(4),
        message(5),
        message(6),
        heard(x=["lost a", "lost a", 4, 5, 6]),
    ),
    "after a process that keeps nothing of it, in another epoch": begun(
        LOSES,
        asks("subscribe", "a", epoch="e", offset=3),
        answers(recovered=False),
        message(5, epoch="f"),
        asks("subscribe", "a", epoch="e", offset=3, history=10_000),
        answers(epoch="f", offset=3, recovered=False),
        message(4, epoch="f"),
        message(5, epoch="f"),
        heard(x=["lost a", "lost a", 4, 5]),
    ),
    "after a process that keeps nothing of it, a lost of another epoch": begun(
        LOSES,
        asks("subscribe", "a", epoch="e", offset=3),
        answers(recovered=False),
        sends("lost", "a", "f", 3),
        asks("subscribe", "a", epoch="e", offset=3, history=10_000),
        answers(epoch="f", offset=3, recovered=False),
        message(4, epoch="f"),
        heard(x=["lost a", "lost a", 4]),
    ),
    "after a process that keeps nothing of it, a position of another epoch": begun(
        LOSES,
        asks("subscribe", "a", epoch="e", offset=3),
        answers(recovered=False),
        sends("position", "a", "f", 5, after=4),
        asks("subscribe", "a", epoch="e", offset=3, history=10_000),
        answers(epoch="f", offset=5, recovered=False),
        message(6, epoch="f"),
        heard(x=["lost a", "lost a", 6]),
    ),
    "a position moves on, and never back": begun(
        sends("position", "a", "e", 5),
        sends("position", "a", "e", 4),
        message(5),
        message(6),
        heard(x=[6]),
    ),
    "a position of another epoch": begun(
        sends("position", "a", "f", 4),
        asks("subscribe", "a", epoch="e", offset=3),
        answers(epoch="f", offset=4, recovered=False),
        message(5, epoch="f"),
        heard(x=["lost a", 5]),
    ),
    "the lost tells of more than is known": begun(
        sends("lost", "a", "e", 3),
        sends("lost", "a", "e", 2),
        sends("lost", "a", "e", 5),
        asks("subscribe", "a", epoch="e", offset=3),
        sends("lost", "a", "e", 6),
        answers(epoch="e", offset=5, recovered=True),
        message(4),
        message(5),
        heard(x=[4, 5]),
    ),
    "a lost without a position": begun(
        sends("lost", "a"),
        asks("subscribe", "a", epoch="e", offset=3),
        answers(epoch="e", offset=3, recovered=True),
        message(4),
        heard(x=[4]),
    ),
    "a lost of a topic that is not kept": [
        subscribe("x", "a"),
        asks("subscribe", "a"),
        answers(),
        sends("lost", "a"),
        heard(x=["lost a"]),
    ],
    "an answer in parts": begun(
        message(9),
        asks("subscribe", "a", epoch="e", offset=3),
        answers(epoch="e", offset=5, recovered=True),
        message(4),
        message(5),
        sends("lost", "a", "e", 9),
        asks("subscribe", "a", epoch="e", offset=5),
        answers(epoch="e", offset=9, recovered=True),
        sends("position", "a", "e", 7),
        message(8),
        message(9),
        heard(x=[4, 5, 8, 9]),
    ),
    "what is missing from an answer was not to be had": begun(
        message(6),
        asks("subscribe", "a", epoch="e", offset=3),
        answers(epoch="e", offset=6, recovered=True),
        message(6),
        message(7),
        heard(x=[6, 7]),
    ),
    "a right that was taken away": begun(
        message(4),
        message(9),
        asks("subscribe", "a", epoch="e", offset=4),
        refuses("not_allowed"),
        message(10),
        heard(x=[4, "refused not_allowed"]),
        subscribe("y", "a"),
        asks("subscribe", "a"),
        answers(epoch="e", offset=10),
        message(11),
        heard(x=[4, "refused not_allowed"], y=[11]),
    ),
    "after a loss": begun(
        message(4),
        LOSES,
        asks("subscribe", "a", epoch="e", offset=4),
        answers(epoch="e", offset=6, recovered=True),
        message(5),
        message(6),
        LOSES,
        asks("subscribe", "a", epoch="e", offset=6),
        answers(epoch="f", offset=1, recovered=False),
        message(2, epoch="f"),
        heard(x=[4, 5, 6, "lost a", 2]),
    ),
    "a loss while it is asked": begun(
        message(9),
        asks("subscribe", "a", epoch="e", offset=3),
        LOSES,
        asks("subscribe", "a", epoch="e", offset=3),
        answers(epoch="e", offset=4, recovered=True),
        message(4),
        message(5),
        heard(x=[4, 5]),
    ),
    "refused after a loss": begun(
        LOSES, asks("subscribe", "a", epoch="e", offset=3), refuses("not_allowed"), heard(x=["refused not_allowed"])
    ),
    "a pattern that is refused after a loss": [
        subscribe("p", "*"),
        asks("subscribe", "*"),
        answers(),
        LOSES,
        asks("subscribe", "*"),
        refuses("bad_topic"),
        message(1),
        heard(p=["refused bad_topic"]),
    ],
    "a server that cannot just now is asked again": begun(
        LOSES,
        asks("subscribe", "a", epoch="e", offset=3),
        refuses("unavailable"),
        asks("subscribe", "a", epoch="e", offset=3),
        refuses("too_many"),
        asks("subscribe", "a", epoch="e", offset=3),
        refuses("too_slow"),
        asks("subscribe", "a", epoch="e", offset=3),
        answers(epoch="e", offset=4, recovered=True),
        message(4),
        heard(x=[4]),
    ),
    "patterns are told of each lost, and hear nothing twice": [
        subscribe("p", "*"),
        asks("subscribe", "*"),
        answers(),
        message(4),
        message(4),
        message(9),
        sends("lost", "a", "e", 9),
        sends("position", "a", "e", 10),
        message(10),
        message(1, epoch="f"),
        heard(p=[4, 9, "lost a", 1]),
        LOSES,
        asks("subscribe", "*"),
        answers(),
        message(2, epoch="f"),
        heard(p=[4, 9, "lost a", 1, "lost *", 2]),
    ],
    "a history beside a pattern": [
        subscribe("p", "*"),
        asks("subscribe", "*"),
        answers(),
        message(1),
        message(2),
        message(3),
        subscribe("x", "a", history=20),
        asks("subscribe", "a", history=20),
        message(4),
        answers(epoch="e", offset=1),
        message(2),
        message(3),
        message(4),
        message(5),
        heard(p=[1, 2, 3, 4, 5], x=[2, 3, 4, 5]),
    ],
    "a second history of the same topic": begun(
        message(4),
        subscribe("y", "a", history=20),
        asks("subscribe", "a", history=20),
        message(5),
        answers(epoch="e", offset=1),
        *(message(offset) for offset in (2, 3, 4, 5, 6)),
        heard(x=[4, 5, 6], y=[2, 3, 4, 5, 6]),
        message(9),
        asks("subscribe", "a", epoch="e", offset=6, history=20),
        answers(epoch="e", offset=9, recovered=True),
        *(message(offset) for offset in (7, 8, 9)),
        heard(x=[4, 5, 6, 7, 8, 9], y=[2, 3, 4, 5, 6, 7, 8, 9]),
        end("x"),
        end("y"),
        asks("unsubscribe", "a"),
    ),
    "a history is asked for while something is missing": begun(
        message(6),
        asks("subscribe", "a", epoch="e", offset=3),
        subscribe("y", "a", history=9),
        answers(epoch="e", offset=6, recovered=True),
        asks("subscribe", "a", history=9),
        message(4),
        message(5),
        message(6),
        answers(epoch="e", offset=4),
        message(5),
        message(6),
        message(7),
        heard(x=[4, 5, 6, 7], y=[5, 6, 7]),
    ),
    "one more without a history stands where the others do": begun(
        message(4), heard(x=[4]), subscribe("y", "a"), message(5), heard(x=[4, 5], y=[5])
    ),
}


class Client(Protocol):
    """What a test of a client brings."""

    def subscribe(self, name: str, topic: str, settings: dict[str, Any]) -> None: ...
    def end(self, name: str) -> None: ...
    def heard(self) -> dict[str, list[Any]]: ...


class Script(Handler):
    """The server's side: keeps what is asked, and says what it is told to."""

    def __init__(self) -> None:
        self.requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.ws: WebSocket | None = None

    def on_open(self, ws: WebSocket) -> None:
        self.ws = ws

    def on_message(self, ws: WebSocket, opcode: Any, buff: Any) -> None:
        self.requests.put(json.loads(buff.get_string()))


@contextmanager
def scripted_topics(page: str = "") -> Iterator[tuple[Server, Script]]:
    """A server whose /live is a Script."""
    script = Script()
    server = Server(workers=0)
    options = AcceptOptions(subprotocols=["gows.v1"])
    server.add_route("/live", lambda request: accept(request, options).serve(script))
    server.add_route("/", lambda request: Response.html(page))
    server.start("127.0.0.1:0")
    try:
        yield server, script
    finally:
        server.stop()


def play(vector: list[Step], client: Client, script: Script) -> None:
    """Go through the steps."""
    wait_until(lambda: script.ws is not None)
    asked: list[dict[str, Any]] = []
    for kind, what in vector:
        if kind == "subscribe":
            client.subscribe(*what)
        elif kind == "end":
            client.end(what)
        elif kind == "asks":
            request = script.requests.get(timeout=5)
            asked.append({"id": request.pop("id"), "topic": request["topic"]})
            assert request == what
        elif kind == "loses":
            ws, script.ws = script.ws, None
            asked.clear()
            assert ws is not None
            ws.close()
            wait_until(lambda: script.ws is not None)
        elif kind == "heard":
            wait_until(lambda what=what: client.heard() == what, what=lambda: str(client.heard()))  # type: ignore[misc]
        else:
            assert script.ws is not None
            script.ws.write_json({**(asked.pop(0) if kind == "answers" else {}), **what})
    assert script.requests.empty()
