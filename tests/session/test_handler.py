"""Handler: which callbacks there are, in what order they come, and which connections they keep apart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gows import ByteBuffer, Handler, Opcode, Request, Server, WebSocket, accept
from tests.support import wire
from tests.support.raw import RawPeer
from tests.support.servers import running_server
from tests.support.stage import Actor, Stage
from tests.support.waiting import wait_until
from tests.support.wire import CONTINUE, PING, PONG, TEXT, frame

MakeStage = Callable[..., Stage]


@pytest.fixture(params=[True, False], ids=["inline", "pool"])
def make_stage(request: pytest.FixtureRequest) -> Iterator[MakeStage]:
    made: list[Stage] = []

    def make(**settings: Any) -> Stage:
        made.append(Stage(**{"inline": request.param, **settings}))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


def test_a_handler_of_ones_own_needs_no_callback(make_stage: MakeStage) -> None:
    class Silent(Handler):
        __slots__ = ()

    stage = make_stage(make_handler=Silent)
    guest, handler = stage.guest()
    assert not hasattr(handler, "__dict__")
    guest.send(frame(TEXT, "x"), frame(PING), frame(PONG), frame(TEXT, "y", fin=False), frame(CONTINUE))
    assert guest.read().opcode == PONG
    guest.send(wire.close(1000))
    assert guest.close_frame() == (1000, "")
    guest.wait_end()


def test_every_callback_has_a_default() -> None:
    handler = Handler()
    ws: Any = None
    assert handler.on_open(ws) is None
    assert handler.on_message(ws, Opcode.TEXT, ByteBuffer.of(b"")) is None
    assert handler.on_ping(ws, b"") is None
    assert handler.on_pong(ws, b"") is None
    assert handler.on_drain(ws) is None
    assert handler.on_close(ws) is None
    assert not hasattr(handler, "on_chunk")


def test_callbacks_may_be_attributes_of_the_object(make_stage: MakeStage) -> None:
    class Bare(Handler):
        pass

    told: list[str] = []
    bare: Any = Bare()
    for name in ("on_open", "on_message", "on_ping", "on_pong", "on_drain", "on_close"):
        setattr(bare, name, lambda *_, name=name: told.append(name))
    stage = make_stage(make_handler=lambda: bare, high_water=1000, low_water=0, network={"buffer_size": 500})
    guest, _ = stage.guest()
    guest.send(frame(TEXT, "x"), frame(PING), frame(PONG))
    assert guest.read().opcode == PONG
    stage.server.connections[0].write_binary(bytes(5000))
    guest.read()
    stage.run_for(1)
    guest.send(wire.close(1000))
    guest.drain()
    stage.run_until(lambda: "on_close" in told)
    assert told == ["on_open", "on_message", "on_ping", "on_pong", "on_drain", "on_close"]


def test_whoever_has_on_chunk_is_not_told_whole_messages(make_stage: MakeStage) -> None:
    class Both(Actor):
        def on_chunk(self, ws: WebSocket, opcode: Opcode, fin: bool, buff: ByteBuffer) -> None:
            self._told("on_chunk")

    stage = make_stage(make_handler=Both)
    guest, handler = stage.guest()
    guest.send(frame(TEXT, "x"), frame(TEXT, "y"))
    stage.run_until(lambda: len(handler.calls) == 3)
    assert handler.calls == ["on_open", "on_chunk", "on_chunk"]


def test_an_opcode_is_an_opcode(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    seen: list[Any] = []
    handler.do["on_message"] = lambda ws, opcode, buff: seen.append(opcode)
    guest.send(frame(TEXT, "x"), frame(wire.BINARY, "y"))
    guest.send(frame(wire.BINARY, "y" * 300))
    stage.run_until(lambda: len(seen) == 3)
    assert seen == [Opcode.TEXT, Opcode.BINARY, Opcode.BINARY]
    assert all(type(opcode) is Opcode for opcode in seen)


# ---------------------------------------------------------------------- with threads


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server(workers=4) as server:
        yield server


def upgraded(server: Server, path: str = "/ws") -> RawPeer:
    peer = RawPeer(server.addresses[0])
    peer.upgrade(path)
    return peer


class Alone(Handler):
    """Finds out whether it is ever in two callbacks at once, and in which order messages come."""

    def __init__(self) -> None:
        self.inside = threading.Lock()
        self.together = False
        self.numbers: list[int] = []
        self.threads: set[int] = set()
        self.open = False
        self.closed = threading.Event()

    def _enter(self) -> bool:
        self.threads.add(threading.get_ident())
        if not self.inside.acquire(blocking=False):
            self.together = True
            return False
        return True

    def on_open(self, ws: WebSocket) -> None:
        if self._enter():
            self.open = True
            self.inside.release()

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        if self._enter():
            assert self.open
            self.numbers.append(int(buff.get_string()))
            if len(self.numbers) % 50 == 0:
                threading.Event().wait(0.0001)  # lets others have the interpreter in the middle of a callback
            self.inside.release()

    def on_pong(self, ws: WebSocket, data: bytes) -> None:
        if self._enter():
            self.inside.release()

    def on_close(self, ws: WebSocket) -> None:
        if self._enter():
            self.inside.release()
        self.closed.set()


@pytest.mark.slow
def test_callbacks_of_one_connection_come_in_order_and_never_two_at_once(server: Server) -> None:
    handlers: list[Alone] = []

    def view(request: Request) -> None:
        ws = accept(request)
        handlers.append(Alone())
        ws.serve(handlers[-1])

    server.add_route("/ws", view)
    peers = [upgraded(server) for _ in range(8)]
    for start in range(0, 1000, 20):
        for peer in peers:
            peer.send(*(frame(TEXT, str(number)) + frame(PONG) for number in range(start, start + 20)))
    for peer in peers:
        peer.send(wire.close(1000))
        peer.expect_close(1000)
        peer.close()
    assert len({thread for handler in handlers for thread in handler.threads}) <= 4, "no thread for each message"
    for handler in handlers:
        assert handler.closed.wait(10)
        assert handler.numbers == list(range(1000))
        assert not handler.together


def test_callbacks_of_different_connections_run_in_parallel(server: Server) -> None:
    meeting = threading.Barrier(4)

    class Meets(Handler):
        def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            meeting.wait(10)
            ws.write_string("we met")

    server.add_route("/ws", lambda request: accept(request).serve(Meets()))
    peers = [upgraded(server) for _ in range(4)]
    for peer in peers:
        peer.send(frame(TEXT, "go"))
    for peer in peers:
        assert peer.read_text() == "we met"
        peer.close()


def test_what_a_slow_callback_wrote_goes_out_while_it_works(server: Server) -> None:
    go_on = threading.Event()

    class Slow(Handler):
        def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            ws.write_string("working")
            go_on.wait(10)
            ws.write_string("done")

    server.add_route("/ws", lambda request: accept(request).serve(Slow()))
    with upgraded(server) as peer:
        peer.send(frame(TEXT, "go"))
        assert peer.read_text() == "working"
        go_on.set()
        assert peer.read_text() == "done"


def test_serve_returns_at_once_and_the_view_goes_on(server: Server) -> None:
    answered, done = threading.Event(), threading.Event()

    class Answering(Handler):
        def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            ws.write_string("hello")
            answered.set()

    def view(request: Request) -> None:
        accept(request).serve(Answering())
        answered.wait(10)
        done.set()

    server.add_route("/ws", view)
    with upgraded(server) as peer:
        peer.send(frame(TEXT, "x"))
        assert peer.read_text() == "hello"
        assert done.wait(10)


def test_serve_from_another_thread_later(server: Server) -> None:
    accepted: list[WebSocket] = []
    server.add_route("/ws", lambda request: accepted.append(accept(request)))
    with upgraded(server) as peer:
        peer.send(frame(TEXT, "early"))
        wait_until(lambda: accepted)
        handler = Alone()
        handler.on_message = lambda ws, opcode, buff: ws.write_message(opcode, buff)  # type: ignore[method-assign]
        accepted[0].serve(handler)
        assert peer.read_text() == "early"
        peer.send(frame(TEXT, "later"))
        assert peer.read_text() == "later"
    assert handler.closed.wait(10)


class Named(Handler):
    """Writes down in which thread it was called."""

    inline = True

    def __init__(self) -> None:
        self.threads: list[str] = []

    def on_open(self, ws: WebSocket) -> None:
        self.threads.append(threading.current_thread().name)

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self.threads.append(threading.current_thread().name)
        ws.write_message(opcode, buff)

    def on_close(self, ws: WebSocket) -> None:
        self.threads.append(threading.current_thread().name)


def test_a_class_that_never_blocks_is_called_by_the_loop_beside_a_pool() -> None:
    handler = Named()
    server = Server(workers=2)
    server.add_route("/ws", lambda request: accept(request).serve(handler))
    server.start("127.0.0.1:0")
    try:
        with RawPeer(server.addresses[0]) as peer:
            peer.upgrade()
            for size in (1, 70_000):
                peer.send(frame(TEXT, "x" * size))
                assert peer.read().payload == b"x" * size
        wait_until(lambda: len(handler.threads) == 4)
    finally:
        server.stop()
    assert handler.threads == ["gows-loop"] * 4
