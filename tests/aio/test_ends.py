"""Coroutines that fail, never end, or begin where another runs; loops that end, twist and fork around them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import gows
from gows import ByteBuffer, Opcode, Server, WebSocket
from gows.reactor import Loop, shared_loop
from tests.aio.test_inside import Guest, Mixed, Serve, make_server, serve, until, workers
from tests.support.addresses import tcp
from tests.support.raw import RawPeer
from tests.support.waiting import wait_until
from tests.support.wire import TEXT, frame

__all__ = ["serve", "workers"]  # fixtures


class Echo(gows.Handler):
    """Answers, some messages after a wait."""

    async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        if buff.get_string().startswith("wait"):
            await asyncio.sleep(0.001)
        await ws.send(buff.get_string())


@pytest.fixture(autouse=True)
def no_garbage() -> Iterator[None]:
    """What a test leaves is collected in it: asyncio says then what nobody awaited."""
    yield
    gc.collect()


# ---------------------------------------------------------------------- the end


class Stubborn(gows.Handler):
    """Goes on when it is cancelled, so many times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls: list[str] = []

    async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self.calls.append("begun")
        while self.times:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                self.times -= 1
        self.calls.append("ended")

    def on_close(self, ws: WebSocket) -> None:
        self.calls.append("closed")


@pytest.mark.slow
def test_who_swallows_its_cancellation_is_cancelled_again(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    handler = Stubborn(2)
    server = make_server(lambda: handler)
    stop = server.stop
    server.stop = lambda timeout=0.0, **more: stop(0.1, **more)  # type: ignore[method-assign]

    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)
        await guest.ask("a", count=0)
        await until(lambda: handler.calls)

    serve(server, body)
    assert handler.calls == ["begun", "ended", "closed"]
    assert "coroutines" not in caplog.text


@pytest.mark.slow
def test_one_that_never_ends_is_left_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    handler = Stubborn(1000)
    server = make_server(lambda: handler)
    server.start("127.0.0.1:0")
    peer = RawPeer(tcp(server.addresses[0]))
    peer.upgrade("/")
    peer.send(frame(TEXT, "a"))
    wait_until(lambda: handler.calls, what=lambda: "the coroutine")
    server.stop(0.1)
    peer.close()
    handler.times = 0
    assert "1 coroutines go on though they were cancelled" in caplog.text
    gc.collect()
    assert "destroyed" not in caplog.text


class Blocking(gows.Handler):
    """A plain callback beside a coroutine, which blocks on its worker."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.calls: list[str] = []

    async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        pass

    def on_ping(self, ws: WebSocket, data: bytes) -> None:
        self.calls.append("ping")
        self.gate.wait(10.0)
        self.calls.append("pinged")

    async def on_close(self, ws: WebSocket) -> None:
        assert self.calls[-1] == "pinged"
        self.calls.append("closed")


@pytest.mark.slow
def test_no_callback_begins_before_a_worker_is_through_with_one() -> None:
    handler = Blocking()
    server = make_server(lambda: handler)
    server.start("127.0.0.1:0")
    peer = RawPeer(tcp(server.addresses[0]))
    peer.upgrade("/")
    peer.send(b"\x89\x80\0\0\0\0")
    wait_until(lambda: handler.calls, what=lambda: "the ping")
    stopper = threading.Thread(target=server.stop, args=(0.1,))
    stopper.start()
    wait_until(lambda: handler.calls == ["ping"] and not server.loop.live_streams, what=lambda: "the end")
    time.sleep(1.2)
    assert handler.calls == ["ping"]
    handler.gate.set()
    stopper.join(10.0)
    peer.close()
    assert not stopper.is_alive()
    assert handler.calls == ["ping", "pinged", "closed"]


class ClosesAsync(gows.Handler):
    """Only its end is a coroutine: a worker meets it."""

    def __init__(self, ended: list[str]) -> None:
        self.ended = ended

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        ws.write_message(opcode, buff)

    async def on_close(self, ws: WebSocket) -> None:
        self.ended.append("begun")
        await asyncio.sleep(0.001)
        self.ended.append("ended")


@pytest.mark.parametrize("round_", range(20))
def test_a_close_of_the_loop_waits_for_what_workers_begin(round_: int) -> None:
    ended: list[str] = []
    server = make_server(lambda: ClosesAsync(ended))
    server.start("127.0.0.1:0")
    peers = [RawPeer(tcp(server.addresses[0])) for _ in range(5)]
    for peer in peers:
        peer.upgrade("/")
    wait_until(lambda: len(server.connections) == 5, what=lambda: "the connections")
    server.loop.close()  # without the close frames of stop()
    assert ended.count("begun") == ended.count("ended") == 5
    server.stop()
    for peer in peers:
        peer.close()


def test_a_loop_that_ended_before_its_first_coroutine_still_runs_it() -> None:
    ended: list[str] = []
    loop = Loop(workers=0)
    ours, peers = socket.socketpair()
    loop.start()
    ws = gows.accept((ours, UPGRADE), loop=loop)
    ws.serve(ClosesAsync(ended))
    loop.stop()
    loop.close()
    peers.close()
    assert ended == ["begun", "ended"]


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def test_a_loop_that_nothing_turns_refuses_coroutines(caplog: pytest.LogCaptureFixture) -> None:
    with Loop(workers=0) as loop:
        ours, peer = socket.socketpair()
        ws = gows.accept((ours, UPGRADE), loop=loop)
        ws.serve(Mixed())
        for _ in range(10):
            loop.run_once(0.0)
        assert "UsageError: coroutines need a loop that runs" in caplog.text
        assert ws.close_code == 1011 or ws.closed
        peer.close()
        for _ in range(10):
            loop.run_once(0.0)


def test_what_the_interrupt_key_raises_in_a_coroutine_ends_the_program_in_order() -> None:
    calls: list[str] = []

    class Interrupted(gows.Handler):
        async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            if buff.get_string() == "later":
                await asyncio.sleep(0.001)
            raise KeyboardInterrupt

        async def on_close(self, ws: WebSocket) -> None:
            calls.append("closed")
            await asyncio.sleep(0.001)  # asyncio may cancel it: it cancels all tasks

    async def main(text: str) -> None:
        server = make_server(Interrupted)
        async with server.serve("127.0.0.1:0"):
            guest = await Guest.at(tcp(server.addresses[0])[1])
            try:
                await guest.ask(text, count=0)
                await guest.closed()
            finally:
                calls.append("over")

    for text in ("at once", "later"):
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main(text))
        assert sorted(calls) == ["closed", "over"]
        calls.clear()


def test_a_task_of_the_program_that_raises_system_exit_ends_no_server(caplog: pytest.LogCaptureFixture) -> None:
    class Exits(gows.Handler):
        async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            async def exits() -> None:
                raise SystemExit(3)

            if buff.get_string() == "exit":
                self.task = asyncio.create_task(exits())
            await ws.send(buff.get_string())

    server = make_server(Exits)
    server.start("127.0.0.1:0")
    peer = RawPeer(tcp(server.addresses[0]))
    peer.upgrade("/")
    for text in ("exit", "a", "exit", "b"):
        peer.send(frame(TEXT, text))
        assert peer.read()[1] == text.encode()
    peer.close()
    server.stop()
    assert caplog.text.count("a task raised SystemExit") == 2


# ---------------------------------------------------------------------- where a coroutine begins


def test_a_plain_callback_may_return_a_coroutine(serve: Serve, workers: int) -> None:
    """A lambda, or what a decorator makes of an `async def`: nobody can tell before it is called."""

    class Decorated(gows.Handler):
        on_message = lambda self, ws, opcode, buff: Decorated.answer(ws, buff)  # noqa: E731

        @staticmethod
        async def answer(ws: WebSocket, buff: ByteBuffer) -> None:
            assert asyncio.current_task() is not None
            await asyncio.sleep(0)
            await ws.send(buff.get_string())

    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)
        messages = [str(number) for number in range(20)]
        assert await guest.ask(*messages) == messages
        await guest.close()

    serve(make_server(Decorated, workers=workers), body)


@pytest.mark.parametrize("cancels", [False, True])
def test_a_coroutine_may_serve_another_connection(serve: Serve, workers: int, cancels: bool) -> None:
    """Its callbacks are begun amid the task of the first one, and are not of that task."""
    tasks: set[asyncio.Task[Any] | None] = set()
    pairs: list[socket.socket] = []

    class Inner(Echo):
        async def on_open(self, ws: WebSocket) -> None:
            tasks.add(asyncio.current_task())

    class Outer(gows.Handler):
        async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            if cancels:
                task.cancel()
            ours, theirs = socket.socketpair()
            pairs.append(theirs)
            gows.accept((ours, UPGRADE), loop=ws.context.loop).serve(Inner())
            assert asyncio.current_task() is task
            ws.write_string("served")

    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)
        assert await guest.ask(*["serve"] * 3) == ["served"] * 3
        await until(lambda: len(tasks) >= 2)
        await guest.close()
        for pair in pairs:
            pair.close()
        await until(lambda: not server.loop.live_streams)
        tasks.clear()

    serve(make_server(Outer, workers=workers), body)


def test_sockets_of_other_servers_and_clients_may_have_coroutines() -> None:
    """They live on the loop that all of the process share, which has a thread of its own."""
    heard: list[str] = []

    class Hears(gows.Handler):
        async def on_open(self, ws: WebSocket) -> None:
            await asyncio.sleep(0.001)
            await ws.send("hello")

        async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            await asyncio.sleep(0)
            heard.append(buff.get_string())
            if len(heard) == 4:
                ws.close_handshake()

        async def on_close(self, ws: WebSocket) -> None:
            heard.append("closed")

    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()

    def take() -> None:
        sock, _ = listener.accept()
        gows.accept(sock).serve(Echo())

    taker = threading.Thread(target=take)
    taker.start()
    ws = gows.connect(f"ws://127.0.0.1:{address[1]}/", handler=Hears())
    for text in ("a", "wait", "b"):
        ws.write_string(text)
    wait_until(lambda: heard[-1:] == ["closed"], what=lambda: f"the end: {heard}")
    assert sorted(heard[:4]) == ["a", "b", "hello", "wait"]
    taker.join(10.0)
    listener.close()
    shared_loop().close()


# ---------------------------------------------------------------------- tasks that are used again

color: contextvars.ContextVar[str] = contextvars.ContextVar("color", default="none")
kept: list[object] = []
in_task: weakref.WeakKeyDictionary[asyncio.Task[Any], str] = weakref.WeakKeyDictionary()

TRACES: dict[str, Callable[[asyncio.Task[Any]], object]] = {
    "context variable": lambda task: color.set("red"),
    "reference": kept.append,
    "weak reference": lambda task: in_task.setdefault(task, "mine"),
    "callback": lambda task: task.add_done_callback(lambda _: kept.append("called")),
    "cancellation": lambda task: task.cancel(),
}


@pytest.mark.parametrize("trace", TRACES)
def test_a_task_in_which_something_was_left_is_not_used_again(serve: Serve, trace: str) -> None:
    class Leaves(gows.Handler):
        async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            task = asyncio.current_task()
            assert task is not None
            assert color.get() == "none"
            assert task not in in_task
            if trace == "reference":
                assert not any(task is other for other in kept)
            TRACES[trace](task)
            ws.write_message(opcode, buff)

    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)
        assert await guest.ask(*"abcde") == [*"abcde"]
        await guest.close()
        if trace == "callback":
            await until(lambda: kept == ["called"] * 5)

    kept.clear()
    serve(make_server(Leaves, workers=0), body)
    kept.clear()


def test_a_coroutine_does_not_see_what_a_plain_callback_has_set(serve: Serve) -> None:
    class Sets(gows.Handler):
        def on_open(self, ws: WebSocket) -> None:
            color.set("red")

        async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            ws.write_string(color.get())

    async def body(server: Server, port: int) -> None:
        for _ in range(3):
            guest = await Guest.at(port)
            assert await guest.ask("a", "b") == ["none", "none"]
            await guest.close()

    serve(make_server(Sets, workers=0), body)


def test_tasks_need_no_garbage_collector(serve: Serve) -> None:
    tasks: list[weakref.ref[Any]] = []

    class Waits(gows.Handler):
        async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            tasks.append(weakref.ref(asyncio.current_task()))
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            ws.write_message(opcode, buff)

    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)
        gc.disable()
        try:
            assert await guest.ask(*"abc") == [*"abc"]
            await until(lambda: not any(task() for task in tasks))
        finally:
            gc.enable()
        assert len(tasks) == 3
        await guest.close()

    serve(make_server(Waits), body)


def test_one_that_lets_others_go_first_goes_on_after_them(serve: Serve) -> None:
    """What a coroutine has asked asyncio to call is called before `sleep(0)` is over."""

    class Lets(gows.Handler):
        async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            rounds: list[int] = []
            aloop = asyncio.get_running_loop()

            def first_round() -> None:
                rounds.append(1)
                aloop.call_soon(rounds.append, 2)

            aloop.call_soon(first_round)
            await asyncio.sleep(0)
            first = [*rounds]
            await asyncio.sleep(0)
            ws.write_string(f"{first} {rounds}")

    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)
        assert await guest.ask(*"abc") == ["[1] [1, 2]"] * 3
        await guest.close()

    serve(make_server(Lets, workers=0), body)


# ---------------------------------------------------------------------- beside what else the program does


def test_a_loop_that_is_never_idle_starves_no_task() -> None:
    async def main() -> None:
        server = make_server(Mixed)
        async with server.serve("127.0.0.1:0"):
            turns = 0

            def again() -> None:
                nonlocal turns
                turns += 1
                if turns < 100_000:
                    server.loop.call_soon(again)

            server.loop.call_soon(again)
            for _ in range(100):
                before = turns
                await asyncio.sleep(0)
                assert turns <= before + 2
            await asyncio.sleep(0.01)
            assert turns > 100
            turns = 100_000

    asyncio.run(main())


def test_a_task_that_computes_delays_by_that_only() -> None:
    """It gets its turn once between two of ours, however much is to be done."""

    async def main() -> None:
        server = make_server(Echo, workers=0)
        async with server.serve("127.0.0.1:0"):
            steps = 0
            over = False

            async def compute() -> None:
                nonlocal steps
                while not over:
                    steps += 1
                    await asyncio.sleep(0)

            task = asyncio.create_task(compute())
            guest = await Guest.at(tcp(server.addresses[0])[1])
            assert await guest.ask("wait", "a") == ["wait", "a"]
            over = True
            await task
            assert steps > 1
            await guest.close()

    asyncio.run(main())


def test_a_server_that_cannot_be_served_binds_no_port() -> None:
    async def main() -> None:
        server = make_server(Mixed)
        async with server.serve("127.0.0.1:0"):
            with pytest.raises(gows.UsageError, match="running already"):
                async with server.serve("127.0.0.1:0"):
                    pass
            assert len(server.addresses) == 1

    asyncio.run(main())
    with Loop(poller="poll") as loop:
        server = Server(loop=loop)

        async def refused() -> None:
            with pytest.raises(gows.UsageError, match="poller"):
                async with server.serve("127.0.0.1:0"):
                    pass
            assert not server.addresses

        asyncio.run(refused())


PROGRAM = """
import asyncio, logging, os, sys, threading
import gows

logging.getLogger("asyncio").setLevel(logging.ERROR)  # not that a busy machine is slow

class Echo(gows.Handler):
    async def on_message(self, ws, opcode, buff):
        if buff.get_string() == "wait":
            await asyncio.sleep(0.01)
        await ws.send(buff.get_string())

    async def on_close(self, ws):
        await asyncio.sleep(0)

def make():
    server = gows.Server()
    server.add_route("/", lambda request: gows.accept(request).serve(Echo()))
    return server

def talk(port):
    with gows.connect(f"ws://127.0.0.1:{port}/") as ws:
        for text in ("a", "wait"):
            ws.write_string(text)
            assert ws.recv(timeout=10) == text

async def inside():
    server = make()
    async with server.serve("127.0.0.1:0"):
        await asyncio.to_thread(talk, server.addresses[0][1])

def beside():
    server = make()
    server.start("127.0.0.1:0")
    talk(server.addresses[0][1])
    return server

"""

ENDINGS = {
    "inside": "asyncio.run(inside()); asyncio.run(inside())",
    "beside": "beside().stop(); beside().stop()",
    "never stopped": "beside()",
    "forked": """
beside().stop()
running = beside()
pid = os.fork()
if pid == 0:
    asyncio.run(inside())
    beside().stop()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
talk(running.addresses[0][1])
running.stop()
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends_without_a_word(ending: str) -> None:
    program = PROGRAM + ENDINGS[ending]
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_is_logged_in_debug_mode(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def body(server: Server, port: int) -> None:
        guest = await Guest.at(port)
        assert await guest.ask("a", "wait", "b") == ["a", "wait", "b"]
        await guest.close()

    caplog.set_level(logging.WARNING)
    serve(make_server(Echo), body)
    assert not [record for record in caplog.records if "seconds" not in record.getMessage()]
