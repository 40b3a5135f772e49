"""Context variables: what a callback or a view sets is not seen by others' callbacks and views."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from gows import AcceptOptions, ByteBuffer, Handler, Opcode, Request, Server, WebSocket, accept
from gows.reactor import Loop
from tests.support import wire
from tests.support.raw import RawPeer
from tests.support.waiting import wait_until

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


Seen = list[tuple[str, str]]
"""Who looked, and whom it saw."""


class Member(Handler):
    """Tells whom it sees, then sets itself; everywhere."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.name = f"member {len(seen)}"

    def look(self, ws: WebSocket) -> None:
        self.seen.append((self.name, tenant.get()))
        tenant.set(self.name)

    def on_open(self, ws: WebSocket) -> None:
        self.look(ws)

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self.look(ws)
        ws.write_string("seen")

    def on_pong(self, ws: WebSocket, data: bytes) -> None:
        self.look(ws)

    def on_close(self, ws: WebSocket) -> None:
        self.look(ws)


@pytest.fixture(params=["inline", "worker", "inline handler"])
def site(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Seen]]:
    seen: Seen = []
    server = Server(workers=0 if request.param == "inline" else 1, options=AcceptOptions(ping_interval=None))

    class Here(Member):
        inline = request.param == "inline handler"

    @server.route("/ws")
    def ws(request: Request) -> None:
        seen.append(("an upgrade", tenant.get()))
        tenant.set("an upgrade")
        accept(request).serve(Here(seen))

    @server.route("/page")
    def page(request: Request) -> str:
        seen.append(("a page", tenant.get()))
        tenant.set("a page")
        return "hello"

    server.start("127.0.0.1:0")
    yield server, seen
    server.stop()


def test_nobody_sees_what_others_set(site: tuple[Server, Seen]) -> None:
    server, seen = site
    address = server.addresses[0]
    with RawPeer(address) as first, RawPeer(address) as second, RawPeer(address) as page:
        for peer in (first, second):
            assert peer.ask(wire.request("/ws")).status == 101
        for _ in range(3):
            for peer in (first, second):
                peer.send(wire.frame(wire.PONG), wire.frame(wire.TEXT, "look"))
            for peer in (first, second):
                assert peer.read_text() == "seen"
            page.send(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n")
            assert page.read_answer()[1] == b"hello"
    wait_until(lambda: len(seen) == 2 * 9 + 3)
    for who, what in seen:
        # callbacks of one connection that come in one go may see each other's, on_open also its view's
        assert what in ("nobody", who) or (who.startswith("member") and what == "an upgrade")
    assert sum(what == "nobody" for _, what in seen) > 10


def test_timers_and_calls_do_not_see_each_others() -> None:
    seen: list[str] = []
    done = threading.Event()

    def look(number: int) -> None:
        seen.append(tenant.get())
        tenant.set(str(number))

    loop = Loop(workers=0)

    def begin() -> None:
        for number in range(3):
            loop.call_soon(look, number)
            loop.call_later(0.1, look, number)
        loop.call_later(0.3, done.set)

    loop.call_soon(begin)
    loop.start()
    assert done.wait(10)
    loop.close()
    assert seen == ["nobody"] * 6


def test_a_loop_that_runs_here_begins_with_what_is_set_here() -> None:
    seen: list[str] = []

    def main() -> None:
        tenant.set("the program")
        with Loop(workers=0) as loop:

            def look() -> None:
                seen.append(tenant.get())
                tenant.set("somebody")

            loop.call_soon(look)
            loop.call_soon(look)
            loop.call_later(0.1, look)
            loop.call_later(0.2, loop.stop)
            loop.run()
        seen.append(tenant.get())

    copy_context().run(main)
    assert seen == ["the program"] * 4


def test_a_task_that_fails_leaves_nothing() -> None:
    seen: list[Any] = []
    done = threading.Event()

    class Task:
        def run(self) -> None:
            seen.append(tenant.get())
            tenant.set("a task")
            if len(seen) == 3:
                done.set()
            raise SystemExit

        def stalled(self) -> None:
            pass

    with Loop(workers=1) as loop:
        loop.start()
        for _ in range(3):
            loop.pool.submit(Task())
        assert done.wait(10)
    assert seen == ["nobody"] * 3
