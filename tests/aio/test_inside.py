"""Coroutines as callbacks, in every way of running a server."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import gows
from gows import ByteBuffer, CloseCause, Opcode, Server, WebSocket
from gows.reactor import Loop
from gows.reactor.hosting import Coroutines, coroutines_of
from gows.session.receiving import Receiving
from tests.support import wire
from tests.support.addresses import tcp
from tests.support.raw import RawPeer

try:
    import uvloop
except ImportError:  # tests.test_needs says where it has to be
    uvloop = None  # type: ignore[assignment]

Main = Coroutine[Any, Any, None]
Body = Callable[[Server, int], Awaitable[None]]


def run_in_asyncio(main: Main) -> None:
    asyncio.run(main, debug=True)


def run_in_uvloop(main: Main) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop, debug=True) as runner:
        runner.run(main)


def serve_inside(run: Callable[[Main], None]) -> Callable[[Server, Body], None]:
    def serve(server: Server, body: Body) -> None:
        async def main() -> None:
            async with server.serve("127.0.0.1:0"):
                await body(server, tcp(server.addresses[0])[1])
            assert asyncio.all_tasks() == {asyncio.current_task()}

        run(main())

    return serve


def serve_in_thread(server: Server, body: Body) -> None:
    server.start("127.0.0.1:0")
    try:
        asyncio.run(body(server, tcp(server.addresses[0])[1]))  # type: ignore[arg-type]
    finally:
        server.stop()


WAYS: dict[str, Callable[[Server, Body], None]] = {
    "thread": serve_in_thread,
    "asyncio": serve_inside(run_in_asyncio),
}
if uvloop is not None and sys.version_info >= (3, 11):
    WAYS["uvloop"] = serve_inside(run_in_uvloop)


@pytest.mark.parametrize("kind", ["asyncio", *(["uvloop"] if uvloop is not None else [])])
def test_the_loop_of_a_thread_is_of_the_kind_that_was_asked_for(kind: str) -> None:
    server = Server(asyncio_loop=kind)

    class Answering(gows.Handler):
        async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            ws.write_string(type(asyncio.get_running_loop()).__module__)

    server.add_route("/", lambda request: gows.accept(request).serve(Answering()))

    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)
        (found,) = await guest.ask("")
        assert found.partition(".")[0] == kind
        await guest.close()

    serve_in_thread(server, body)


@pytest.fixture(params=[*WAYS.values()], ids=[*WAYS])
def serve(request: pytest.FixtureRequest) -> Callable[[Server, Body], None]:
    found: Callable[[Server, Body], None] = request.param
    return found


@pytest.fixture(params=[0, 2], ids=["inline", "workers"])
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


class Guest:
    """A client of another library, in threads of its own, so that no asyncio loop of the test is its."""

    def __init__(self, port: int) -> None:
        self._end = ExitStack()
        self._ws = self._end.enter_context(connect(f"ws://127.0.0.1:{port}/", proxy=None, ping_interval=None))

    @classmethod
    async def at(cls, port: int) -> Guest:
        """Connect to a port."""
        return await asyncio.to_thread(cls, port)

    async def ask(self, *messages: str, count: int | None = None) -> list[str]:
        """Send messages, as far as the connection lasts; return so many answers."""

        def talk() -> list[str]:
            with suppress(ConnectionClosed):
                for message in messages:
                    self._ws.send(message)
            wanted = len(messages) if count is None else count
            return [str(self._ws.recv(timeout=10.0)) for _ in range(wanted)]

        return await asyncio.to_thread(talk)

    async def close(self) -> int | None:
        """Close in order, and return the code."""

        def close() -> int | None:
            self._end.close()
            return self._ws.close_code

        return await asyncio.to_thread(close)

    async def closed(self) -> int | None:
        """Wait for the end, and return the code."""

        def wait() -> int | None:
            try:
                while True:
                    self._ws.recv(timeout=10.0)
            except ConnectionClosed:
                pass
            self._end.close()
            return self._ws.close_code

        return await asyncio.to_thread(wait)


def make_server(make_handler: Callable[[], gows.Handler], **settings: Any) -> Server:
    server = Server(**settings)
    server.add_route("/", lambda request: gows.accept(request).serve(make_handler()))
    return server


Serve = Callable[[Server, Body], None]


def where() -> str:
    """Name what the calling thread is."""
    return "worker" if threading.current_thread().name.startswith("gows-worker") else "loop"


async def until(condition: Callable[[], object]) -> None:
    """Wait for something, ten seconds at most."""
    async with asyncio.Semaphore():
        for _ in range(1000):
            if condition():
                return
            await asyncio.sleep(0.01)
    raise AssertionError("it did not come")


# ---------------------------------------------------------------------- order, and where


class Mixed(gows.Handler):
    """Some callbacks are coroutines, some are not."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.running = 0

    async def on_open(self, ws: WebSocket) -> None:
        assert ws.request is not None
        await asyncio.sleep(0.01)
        assert ws.request is not None
        self.note("open")

    async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        assert ws.request is None
        self.running += 1
        assert self.running == 1
        text = buff.get_string()
        if text.startswith("wait"):
            await asyncio.sleep(0.02)
            assert buff.get_string() == text  # still lent
        self.note(text)
        await ws.send(text)
        self.running -= 1

    def on_ping(self, ws: WebSocket, data: bytes) -> None:
        assert self.running == 0
        self.note("ping")

    def on_close(self, ws: WebSocket) -> None:
        self.note("close")

    def note(self, call: str) -> None:
        self.calls.append(f"{call} in {where()}")


def test_callbacks_come_in_order_coroutines_or_not(serve: Serve, workers: int) -> None:
    handler = Mixed()
    plain = "worker" if workers else "loop"

    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)
        messages = ["a", "wait 1", "b", "c", "wait 2", "d"]
        assert await guest.ask(*messages) == messages
        guest._ws.ping()
        assert await guest.ask("wait 3", "e") == ["wait 3", "e"]
        assert await guest.close() == 1000
        await until(lambda: len(handler.calls) == 11)
        assert handler.calls == [
            "open in loop",
            *(f"{message} in loop" for message in messages),
            f"ping in {plain}",
            "wait 3 in loop",
            "e in loop",
            f"close in {plain}",
        ]

    serve(make_server(lambda: handler, workers=workers), body)


class PlainMessages(gows.Handler):
    """Messages may block; the others are coroutines."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def on_open(self, ws: WebSocket) -> None:
        await asyncio.sleep(0.01)
        self.calls.append(f"open in {where()}")

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self.calls.append(f"{buff.get_string()} in {where()}")
        ws.write_message(opcode, buff)

    async def on_close(self, ws: WebSocket) -> None:
        self.calls.append(f"closing in {where()}")
        await asyncio.sleep(0.01)
        self.calls.append("closed")


def test_messages_stay_on_the_workers_if_others_are_coroutines(serve: Serve, workers: int) -> None:
    handler = PlainMessages()
    plain = "worker" if workers else "loop"

    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)
        assert await guest.ask("a", "b") == ["a", "b"]
        await guest.close()
        await until(lambda: len(handler.calls) == 5)
        expected = ["open in loop", f"a in {plain}", f"b in {plain}", "closing in loop", "closed"]
        assert handler.calls == expected

    serve(make_server(lambda: handler, workers=workers), body)


class Chunks(gows.Handler):
    """Takes messages in pieces."""

    async def on_chunk(self, ws: WebSocket, opcode: Opcode, fin: bool, buff: ByteBuffer) -> None:
        size = len(buff)
        await asyncio.sleep(0)
        assert len(buff) == size
        ws.write_string(f"{size} {fin}")


def test_pieces_are_handled_one_after_the_other(serve: Serve) -> None:
    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)

        def send() -> list[str]:
            guest._ws.send(iter(["x" * 10, "y" * 20, "z" * 30]))
            return [str(guest._ws.recv(timeout=10.0)) for _ in range(3)]

        pieces = await asyncio.to_thread(send)
        assert pieces == ["10 False", "20 False", "30 False"]
        await guest.close()

    serve(make_server(Chunks), body)


# ---------------------------------------------------------------------- tasks

names: contextvars.ContextVar[str] = contextvars.ContextVar("names", default="nobody")


class Tasks(gows.Handler):
    """Looks at the task that it runs in."""

    async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        text = buff.get_string()
        task = asyncio.current_task()
        assert task is not None
        assert names.get() == "nobody"
        names.set(text)
        if text == "timeout":
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.sleep(10), 0.01)
        elif text == "cancel":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(10)
        elif text == "children":
            values = await asyncio.gather(*(asyncio.sleep(0.001 * n, n) for n in range(5)))
            assert values == [0, 1, 2, 3, 4]
        elif text == "wait":
            await asyncio.sleep(0)
            assert task in asyncio.all_tasks()
            await asyncio.sleep(0.001)
        assert asyncio.current_task() is task
        assert names.get() == text
        ws.write_string(text)


def test_each_coroutine_has_a_task_and_a_context_of_its_own(serve: Serve) -> None:
    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)
        kinds = ["at once", "wait", "timeout", "cancel", "children", "at once"]
        for _ in range(3):
            assert await guest.ask(*kinds) == kinds
        await guest.close()

    serve(make_server(Tasks), body)


def test_one_that_cancels_itself_and_ends_does_no_harm_to_the_next(serve: Serve) -> None:
    class Cancels(gows.Handler):
        async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            task = asyncio.current_task()
            assert task is not None
            if buff.get_string() == "cancel":
                task.cancel()
            else:
                await asyncio.sleep(0)
            ws.write_message(opcode, buff)

    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)
        assert await guest.ask("cancel", "a", "cancel", "cancel", "b") == ["cancel", "a", "cancel", "cancel", "b"]
        await guest.close()

    serve(make_server(Cancels), body)


# ---------------------------------------------------------------------- errors and the end


class Failing(gows.Handler):
    def __init__(self, wait: bool, error: BaseException) -> None:
        self.wait = wait
        self.error = error
        self.ended = threading.Event()
        self.messages = 0
        self.cause: CloseCause | None = None

    async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self.messages += 1
        if self.wait:
            await asyncio.sleep(0.01)
        raise self.error

    async def on_close(self, ws: WebSocket) -> None:
        self.cause = ws.close_cause
        self.ended.set()


@pytest.mark.parametrize("wait", [False, True], ids=["at once", "after a wait"])
@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), asyncio.CancelledError()], ids=repr)
def test_what_a_coroutine_raises_is_logged_and_closes_with_1011(
    serve: Serve, wait: bool, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Failing(wait, error)

    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)
        await guest.ask("a", "b", "c", count=0)
        assert await guest.closed() == 1011
        await until(handler.ended.is_set)

    serve(make_server(lambda: handler), body)
    assert handler.messages == 1
    assert handler.cause is CloseCause.HANDLER_ERROR
    assert "on_message of <WebSocket" in caplog.text


def test_what_on_close_raises_is_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    class Bad(gows.Handler):
        async def on_close(self, ws: WebSocket) -> None:
            await asyncio.sleep(0)
            raise ValueError("mine")

    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)
        await guest.close()
        await until(lambda: "on_close of <WebSocket" in caplog.text)

    serve(make_server(Bad), body)


class Pinged(gows.Handler):
    """Waits until it is told to go on."""

    def __init__(self) -> None:
        self.go_on = False
        self.begun = ""
        self.calls: list[str] = []

    async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self.begun = buff.get_string()
        await until(lambda: self.go_on)
        self.calls.append(buff.get_string())

    def on_ping(self, ws: WebSocket, data: bytes) -> None:
        self.calls.append(data.decode())


def test_pings_are_answered_while_a_coroutine_waits(serve: Serve, workers: int) -> None:
    """A busy handler must not look like a dead peer; what the handler is told keeps its order."""
    handler = Pinged()

    def talk(port: int) -> None:
        with RawPeer(("127.0.0.1", port)) as peer:
            peer.upgrade("/")
            first, second = (wire.frame(wire.TEXT, text) for text in ("one", "two"))
            peer.send(first, wire.frame(wire.PING, "a"), second)  # in one read
            assert peer.read() == wire.Frame(wire.PONG, b"a")
            peer.send(wire.frame(wire.PING, "b"))
            assert peer.read() == wire.Frame(wire.PONG, b"b")
            assert not handler.calls
            handler.go_on = True
            peer.send(wire.close(1000))
            peer.expect_close(1000)

    async def body(server: Server, port: int) -> None:
        await asyncio.to_thread(talk, port)
        await until(lambda: len(handler.calls) == 4)
        assert handler.calls == ["one", "a", "two", "b"]

    serve(make_server(lambda: handler, workers=workers), body)


@pytest.mark.parametrize(("size", "more"), [(100_000, 0), (10, 10)])
def test_what_a_waiting_coroutine_has_counts_as_received(serve: Serve, workers: int, size: int, more: int) -> None:
    """Any number of them may wait at once, with a large message or with some behind it, also for peers that left."""
    handler = Pinged()

    async def body(server: Server, port: int) -> None:
        receiving = Receiving.of(server.loop)
        peer = RawPeer(("127.0.0.1", port))
        await asyncio.to_thread(peer.upgrade, "/")
        peer.send(wire.frame(wire.TEXT, "a" * size))
        await until(lambda: handler.begun)
        await until(lambda: receiving.total >= size or size < 1000)
        peer.send(*(wire.frame(wire.TEXT, "b" * 100) for _ in range(more)))
        await until(lambda: server.traffic.received == 1 + more)
        peer.reset()
        await until(lambda: not server.connection_count())
        assert receiving.total >= max(size, more * 100)
        handler.go_on = True
        await until(lambda: receiving.total == 0)

    serve(make_server(lambda: handler, workers=workers), body)


class Hanging(gows.Handler):
    def __init__(self) -> None:
        self.calls: list[str] = []

    async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self.calls.append("begun")
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            self.calls.append("cancelled")
            raise

    async def on_close(self, ws: WebSocket) -> None:
        await asyncio.sleep(0.01)
        self.calls.append("closed")


@pytest.mark.slow
def test_a_stop_cancels_what_still_runs(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    handler = Hanging()
    server = make_server(lambda: handler)
    guests: list[Guest] = []

    async def body(server: Server, port: int) -> None:
        guests.append(await Guest.at(port))
        await guests[0].ask("a", count=0)
        await until(lambda: handler.calls)

    stop = server.stop
    server.stop = lambda timeout=0.0, **more: stop(0.2, **more)  # type: ignore[method-assign]
    serve(server, body)
    assert handler.calls == ["begun", "cancelled", "closed"]
    assert "raised" not in caplog.text


def test_twice_in_one_process(serve: Serve) -> None:
    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)
        assert await guest.ask("wait") == ["wait"]
        await guest.close()

    for _ in range(2):
        serve(make_server(Tasks), body)


def test_several_servers_in_one_asyncio_loop() -> None:
    async def main() -> None:
        servers = [make_server(Tasks) for _ in range(3)]
        async with AsyncExitStack() as stack:
            for server in servers:
                await stack.enter_async_context(server.serve("127.0.0.1:0"))
            guests = [await Guest.at(tcp(server.addresses[0])[1]) for server in servers]
            for guest in guests:
                assert await guest.ask("wait", "children") == ["wait", "children"]
            for guest in guests:
                await guest.close()

    asyncio.run(main(), debug=True)


def test_a_cancelled_task_leaves_in_order() -> None:
    async def main() -> None:
        server = make_server(Mixed)
        entered = asyncio.Event()

        async def serve_long() -> None:
            async with server.serve("127.0.0.1:0"):
                entered.set()
                await asyncio.sleep(1000)

        task = asyncio.create_task(serve_long())
        await entered.wait()
        guest = await Guest.at(tcp(server.addresses[0])[1])
        assert await guest.ask("a") == ["a"]
        task.cancel()
        assert await guest.closed() == 1001
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main(), debug=True)


def test_a_server_that_runs_cannot_be_served_again() -> None:
    async def main() -> None:
        server = make_server(Mixed)
        async with server.serve("127.0.0.1:0"):
            with pytest.raises(gows.UsageError, match="running already"):
                async with server.serve():
                    pass

    asyncio.run(main())


@pytest.mark.parametrize("poller", ["poll"])
def test_a_poller_without_a_descriptor_is_refused(poller: str) -> None:
    with Loop(poller=poller) as loop:
        with pytest.raises(gows.UsageError, match=f"cannot watch the poller '{poller}'.*epoll or kqueue"):
            coroutines_of(loop)
        assert Coroutines not in loop.shared


# ---------------------------------------------------------------------- fairness


def test_an_idle_server_costs_no_turn() -> None:
    async def main() -> None:
        server = make_server(Mixed)
        async with server.serve("127.0.0.1:0"):
            guests = [await Guest.at(tcp(server.addresses[0])[1]) for _ in range(10)]
            for guest in guests:
                await guest.ask("wait")
            await asyncio.sleep(0.2)
            turns = 0

            def count(seconds: float) -> None:
                nonlocal turns
                turns += 1

            server.loop.on_turn = count
            await asyncio.sleep(1.0)
            assert turns <= 1  # the wheel may have had something to look at
            server.loop.on_turn = None
            for guest in guests:
                await guest.close()

    asyncio.run(main())


def test_what_a_coroutine_writes_later_goes_out() -> None:
    """From a task of the program, and from another thread: both wake the loop."""

    async def main() -> None:
        handler = Mixed()
        server = make_server(lambda: handler)
        async with server.serve("127.0.0.1:0"):
            guest = await Guest.at(tcp(server.addresses[0])[1])
            await guest.ask("a")
            ws = server.connections[0]
            for number in range(3):
                await asyncio.sleep(0.05)
                ws.write_string(f"{number} here")
                assert await guest.ask(count=1) == [f"{number} here"]
                await asyncio.to_thread(ws.write_string, f"{number} there")
                assert await guest.ask(count=1) == [f"{number} there"]
            await guest.close()

    asyncio.run(main())
