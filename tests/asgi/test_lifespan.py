"""The beginning and the end of ASGI applications, in every way of running a server."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from gows import LoopClosedError, Server, StartupError, UsageError
from gows.reactor import Loop
from tests.support import wire
from tests.support.asgi_serving import WAYS, Message, Notes, address_of
from tests.support.raw import RawPeer
from tests.support.servers import LOCAL

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Serve = Callable[..., AbstractContextManager[Server]]

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(params=[*WAYS.values()], ids=[*WAYS])
def serve(request: pytest.FixtureRequest) -> Serve:
    found: Serve = request.param
    return found


async def page(send: Send, body: bytes = b"hello") -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})


class App:
    """An application with a lifespan; `notes` has what happened, in order."""

    def __init__(self) -> None:
        self.notes = Notes()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send)
        else:
            await self.request(scope, receive, send)

    async def lifespan(self, scope: Any, receive: Receive, send: Send) -> None:
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
        assert await receive() == {"type": "lifespan.startup"}
        await asyncio.sleep(0)
        scope["state"]["shared"] = []
        self.notes.put("started")
        await send({"type": "lifespan.startup.complete"})
        assert await receive() == {"type": "lifespan.shutdown"}
        await asyncio.sleep(0)
        self.notes.put("stopped")
        await send({"type": "lifespan.shutdown.complete"})

    async def request(self, scope: Any, receive: Receive, send: Send) -> None:
        scope["state"]["own"] = 1
        scope["state"]["shared"].append(scope["path"])
        self.notes.put(dict(scope["state"]))
        await page(send)


def ask(server: Server, path: str = "/") -> int:
    with RawPeer(address_of(server)) as peer:
        return peer.ask(GET.replace(b"/ ", path.encode() + b" ", 1)).status


def test_it_starts_before_requests_and_stops_after_them(serve: Serve) -> None:
    app = App()
    with serve(app) as server:
        assert app.notes.next() == "started"
        assert ask(server, "/a") == 200
        assert ask(server, "/b") == 200
    assert app.notes.next() == {"shared": ["/a", "/b"], "own": 1}
    assert app.notes.next() == {"shared": ["/a", "/b"], "own": 1}
    assert app.notes.next() == "stopped"
    assert app.notes.empty()


def test_each_request_has_a_shallow_copy_of_the_state() -> None:
    app = App()
    with WAYS["thread"](app) as server:
        app.notes.next()
        ask(server)
        first = app.notes.next()
        ask(server)
        second = app.notes.next()
    assert first["shared"] is second["shared"]
    assert first is not second


def answer_close(peer: RawPeer) -> None:
    assert peer.read().close_code == 1001
    peer.send(wire.close(1001))
    peer.close()


def test_a_websocket_has_the_state_too_and_ends_before_the_application(serve: Serve) -> None:
    class Late(App):
        async def request(self, scope: Any, receive: Receive, send: Send) -> None:
            await send({"type": "websocket.accept"})
            while (await receive())["type"] != "websocket.disconnect":
                pass
            await asyncio.sleep(0.05)
            self.notes.put(scope["state"])

    app = Late()
    with serve(app) as server:
        app.notes.next()
        peer = RawPeer(address_of(server))
        peer.upgrade("/")
        answering = threading.Thread(target=answer_close, args=(peer,))
        answering.start()
    answering.join(10)
    assert app.notes.next() == {"shared": []}
    assert app.notes.next() == "stopped"


def test_nothing_is_accepted_before_the_application_has_started() -> None:
    app, go_on = App(), threading.Event()
    asked = Notes()

    async def slow(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            asked.put(None)
            await asyncio.to_thread(go_on.wait, 10)
        await app(scope, receive, send)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    server = Server(asgi=slow)
    early = server.listen(LOCAL)  # the kernel takes connections there, and we do not
    starting = threading.Thread(target=server.start, args=(("127.0.0.1", port),))
    starting.start()
    try:
        asked.next()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with RawPeer(early) as peer:
            peer.send(GET)
            peer.sock.settimeout(0.1)
            with pytest.raises(TimeoutError):
                peer.sock.recv(1)
            peer.sock.settimeout(10)
            go_on.set()
            assert peer.read_answer()[0].status == 200
        starting.join(10)
        with RawPeer(("127.0.0.1", port)) as peer:
            assert peer.ask(GET).status == 200
    finally:
        go_on.set()
        starting.join(10)
        server.stop()


# ---------------------------------------------------------------------- applications without, and those that fail


async def none_at_all(scope: Any, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    await page(send)


async def raises_in_startup(scope: Any, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        raise ZeroDivisionError("at startup")
    await page(send)


async def returns(scope: Any, receive: Receive, send: Send) -> None:
    if scope["type"] != "lifespan":
        await page(send)


async def raises_later(scope: Any, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise ZeroDivisionError("while it runs")
    await page(send)


@pytest.mark.parametrize("app", [none_at_all, raises_in_startup, returns, raises_later])
def test_auto_serves_an_application_without(serve: Serve, app: Any) -> None:
    with serve(app) as server:
        assert ask(server) == 200


@pytest.mark.parametrize("app", [none_at_all, raises_in_startup, returns])
def test_on_wants_one(serve: Serve, app: Any) -> None:
    with pytest.raises(StartupError, match="before it answered"), serve(app, lifespan="on"):
        raise AssertionError("it was entered")


def test_what_it_raised_is_the_cause() -> None:
    with pytest.raises(StartupError) as found, WAYS["thread"](raises_in_startup, lifespan="on"):
        pass
    assert isinstance(found.value.__cause__, ZeroDivisionError)


def test_off_does_not_ask() -> None:
    app = App()
    with WAYS["thread"](app, lifespan="off"):
        pass
    assert app.notes.empty()


def test_a_fault_at_startup_is_told_in_auto(caplog: pytest.LogCaptureFixture) -> None:
    with WAYS["thread"](raises_in_startup):
        pass
    assert "at startup" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "gows"), WAYS["thread"](none_at_all):
        pass
    assert not caplog.text


def test_a_fault_while_it_runs_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with WAYS["thread"](raises_later):
        pass
    assert "while it runs" in caplog.text


@pytest.mark.parametrize("message", ["no database", ""])
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_failed_startup_stops_the_start(serve: Serve, mode: str, message: str) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": message})

    with pytest.raises(StartupError, match=message or "without a message"), serve(app, lifespan=mode):
        raise AssertionError("it was entered")


def test_after_a_failed_startup_the_server_is_stopped() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.failed"})

    server = Server(asgi=app)
    with pytest.raises(StartupError):
        server.listen_and_serve(LOCAL)
    assert not server.loop.running
    with pytest.raises(LoopClosedError):
        server.start(LOCAL)


def test_a_port_that_is_taken_ends_the_application() -> None:
    app = App()
    server = Server(asgi=app)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        server.start(taken.getsockname())
    assert [app.notes.next(), app.notes.next()] == ["started", "stopped"]
    server.stop()


def test_a_failed_shutdown_is_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(App):
        async def lifespan(self, scope: Any, receive: Receive, send: Send) -> None:
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await receive()
            await send({"type": "lifespan.shutdown.failed", "message": "the disk is full"})

    with serve(Failing()):
        pass
    assert "the disk is full" in caplog.text


@pytest.mark.parametrize("catches", [False, True])
def test_a_shutdown_that_does_not_end_is_bounded(serve: Serve, catches: bool, caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(App):
        async def lifespan(self, scope: Any, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if not catches:
                    raise

    with serve(Stuck(), timeout=0.2):
        pass
    assert "did not answer lifespan.shutdown" in caplog.text


@pytest.mark.parametrize("how", ["stop", "cancel"])
def test_a_startup_that_does_not_end_can_be_stopped(how: str) -> None:
    asked = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        asked.put(None)
        await asyncio.sleep(3600)

    server = Server(asgi=app)
    if how == "stop":
        failed = Notes()

        def start() -> None:
            try:
                server.start(LOCAL)
            except LoopClosedError as error:
                failed.put(error)

        thread = threading.Thread(target=start)
        thread.start()
        asked.next()
        server.stop(0.2)
        failed.next()
        thread.join(10)
        return

    async def main() -> None:
        async def enter() -> None:
            async with server.serve(LOCAL, timeout=0.2):
                raise AssertionError("it was entered")

        task = asyncio.ensure_future(enter())
        await asyncio.to_thread(asked.next)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


# ---------------------------------------------------------------------- messages

WRONG = [
    ("lifespan.startup.complete", RuntimeError),  # again
    ("lifespan.startup.failed", RuntimeError),
    ("lifespan.shutdown.complete", RuntimeError),  # before it was asked
    ("lifespan.noise", ValueError),
]


@pytest.mark.parametrize(("kind", "error"), WRONG)
def test_a_message_at_the_wrong_time(kind: str, error: type[Exception]) -> None:
    notes = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        try:
            await send({"type": kind})
        except Exception as found:
            notes.put(found)
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        try:
            await receive()
        except RuntimeError as found:
            notes.put(found)

    with WAYS["thread"](app):
        pass
    assert type(notes.next()) is error
    assert type(notes.next()) is RuntimeError


def test_a_wait_for_the_end_may_be_cancelled() -> None:
    class Impatient(App):
        async def lifespan(self, scope: Any, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            for _ in range(3):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(receive(), 0.001)
            self.notes.put("tried")
            self.notes.put(await receive())

    app = Impatient()
    with WAYS["thread"](app):
        assert app.notes.next() == "tried"
    assert app.notes.next() == {"type": "lifespan.shutdown"}


def test_a_loop_that_nothing_turns() -> None:
    with Loop(workers=0) as loop:
        server = Server(asgi=App(), loop=loop)
        with pytest.raises(UsageError, match="loop that runs"):
            server.start(LOCAL)
        server.stop()


def test_the_mode_is_checked() -> None:
    with pytest.raises(ValueError, match="auto, on, off"):
        Server(asgi=App(), lifespan="yes")


# ---------------------------------------------------------------------- programs and processes

PROGRAM = """
import os, sys, gows
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if "fail" in sys.argv:
            await send({"type": "lifespan.startup.failed", "message": "no database here"})
            return
        os.write(1, b"started\\n")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        os.write(1, b"stopped\\n")
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x"})
def make():
    return gows.Server(asgi=app)
if __name__ == "__main__":
    if "run" in sys.argv:
        gows.run(make, "127.0.0.1:0", processes=2, ready=lambda addresses: os.write(1, b"ready\\n"))
    else:
        make().listen_and_serve("127.0.0.1:0", ready=lambda: os.write(1, b"ready\\n"))
"""


@contextmanager
def run_program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield program
    finally:
        if program.poll() is None:
            program.terminate()
        program.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(("way", "times"), [("serve", 1), ("run", 2)])
def test_a_program_starts_and_ends_it_in_each_process(way: str, times: int) -> None:
    with run_program(way) as program:
        assert program.stdout is not None
        lines = [program.stdout.readline() for _ in range(times + 1)]
        assert lines == ["started\n"] * times + ["ready\n"]
        program.send_signal(signal.SIGTERM)
        out, err = program.communicate(timeout=30)
    assert out == "stopped\n" * times, err
    assert program.returncode == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("way", ["serve", "run"])
def test_a_program_whose_application_fails_ends_with_its_message(way: str) -> None:
    with run_program(way, "fail") as program:
        out, err = program.communicate(timeout=30)
    assert program.returncode not in (0, None)
    assert "no database here" in err
    assert "ready" not in out
