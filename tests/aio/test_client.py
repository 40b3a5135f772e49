"""Clients in an asyncio loop, with servers of ours and of another library."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import websockets.sync.server as other
from websockets.exceptions import ConnectionClosed

import gows
import gows.aio
from gows import AcceptOptions, ByteBuffer, CloseCause, Opcode, Reconnect, Request, Server, WebSocket
from gows.aio import AsyncWebSocket, shared
from gows.aio.client import Connecting
from gows.http.response import Response
from gows.protocol.handshake import accept_key
from gows.session.states import INBOX_FULL
from tests.aio.running import RUNS, CancelledAt, Run, run, until
from tests.support.addresses import tcp

__all__ = ["run"]  # the fixture

QUICK = Reconnect(initial=0.01, maximum=0.05)


class Echo(gows.Handler):
    """Echoes, and does what some messages say."""

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        text = buff.clone_bytes()
        if text.startswith(b"close "):
            _, code, reason = text.decode().split(" ", 2)
            ws.close_handshake(int(code), reason)
        elif text == b"drop":
            ws.close()
        elif text.startswith(b"flood "):
            for n in range(int(text[6:])):
                ws.write_string(str(n))
        else:
            ws.write_message(opcode, buff)


class Place:
    """A server of ours, and what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.refusals: list[tuple[int, bytes]] = []
        self.options = AcceptOptions(subprotocols=("chat",), compression=True)
        self.server = Server(workers=2)
        self.server.add_route("/ws", self.view)
        self.server.start("127.0.0.1:0")
        self.url = f"ws://127.0.0.1:{tcp(self.server.addresses[0])[1]}/ws"

    def view(self, request: Request) -> Any:
        self.requests.append(request)
        if self.refusals:
            status, body = self.refusals.pop(0)
            return Response(body, status)
        gows.accept(request, self.options).serve(Echo())
        return None


@pytest.fixture
def place() -> Iterator[Place]:
    found = Place()
    try:
        yield found
    finally:
        found.server.stop()


def connect(place: Place, **settings: Any) -> Connecting:
    return gows.aio.connect(place.url, **settings)


# ---------------------------------------------------------------------- messages


def test_messages_go_to_and_fro(run: Run, place: Place) -> None:
    async def main() -> None:
        async with connect(place, subprotocols=["chat"], headers={"X-Token": "t"}) as ws:
            assert ws.subprotocol == "chat"
            for message in ("ä", b"\x00\xff", "", b"", "x" * 300_000):
                await ws.send(message)
                assert await ws.recv() == message
            assert repr(ws).startswith("<AsyncWebSocket 127.0.0.1:")
            assert not ws.closed
        assert (ws.closed, ws.close_code, ws.close_cause) == (True, 1000, CloseCause.LOCAL)
        assert place.requests[0].headers["x-token"] == "t"

    run(main())


def test_a_connection_that_is_awaited(run: Run, place: Place) -> None:
    async def main() -> None:
        ws = await connect(place)
        await ws.send("a")
        assert await ws.recv() == "a"
        await ws.close(4000, "enough")
        await ws.close()
        assert (ws.close_code, ws.close_reason) == (4000, "enough")
        with pytest.raises(gows.ConnectionClosedError):
            await ws.send("b")
        with pytest.raises(gows.ConnectionClosedError):
            await ws.recv()
        with pytest.raises(gows.ConnectionClosedError):
            await ws.ping()

    run(main())


def test_iteration_ends_with_the_connection(run: Run, place: Place) -> None:
    async def main() -> None:
        for code, quiet in ((1000, True), (1001, True), (1011, False), (4001, False)):
            async with connect(place) as ws:
                await ws.send("a")
                await ws.send(f"close {code} why")
                got: list[str | bytes] = []

                async def iterate(ws: AsyncWebSocket = ws, got: list[str | bytes] = got) -> None:
                    async for message in ws:
                        got.append(message)

                if quiet:
                    await iterate()
                else:
                    with pytest.raises(gows.ConnectionClosedError) as closed:
                        await iterate()
                    assert (closed.value.code, closed.value.reason) == (code, "why")
                assert got == ["a"]
                assert (ws.close_code, ws.close_cause) == (code, CloseCause.PEER)

    run(main())


def test_messages_are_there_after_the_end(run: Run, place: Place) -> None:
    async def main() -> None:
        ws = await connect(place)
        await ws.send("x" * 200_000)
        await until(lambda: ws._ws._events)
        ws._ws.stream.abort()
        await until(lambda: asyncio.get_running_loop() not in shared._loops)
        assert await ws.recv() == "x" * 200_000
        with pytest.raises(gows.ConnectionClosedError) as closed:
            await ws.recv()
        assert closed.value.code == 1006

    run(main())


def test_a_message_is_answered_though_a_close_came_behind_it(run: Run) -> None:
    async def main() -> None:
        # with a raw server, for ours reads past data after its close frame (RFC 6455 §1.4)
        seen = asyncio.Event()
        got = bytearray()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            key = next(line[19:] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
            writer.write(
                b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
                + accept_key(key.strip()).encode()
                + b"\r\n\r\n\x81\x01q\x88\x00"
            )
            while data := await reader.read(1000):
                got.extend(data)
                if len(got) >= 13:  # a message of one byte, and a close frame of none
                    break
            seen.set()
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with gows.aio.connect(f"ws://127.0.0.1:{port}/", compression=False) as ws:
            assert await ws.recv() == "q"
            await ws.send("a")
            with pytest.raises(gows.ConnectionClosedError):
                await ws.recv()
            await seen.wait()
        assert got[0] == 0x81  # the answer, before our close frame
        server.close()
        await server.wait_closed()

    run(main())


def test_one_receives_and_many_send(run: Run, place: Place) -> None:
    async def main() -> None:
        async with connect(place) as ws:
            waiting = asyncio.create_task(ws.recv())
            await asyncio.sleep(0)
            with pytest.raises(gows.UsageError, match="another task"):
                await ws.recv()
            await asyncio.gather(*(ws.send(str(n)) for n in range(100)))
            got = {await waiting, *[await ws.recv() for _ in range(99)]}
            assert got == {str(n) for n in range(100)}

    run(main())


@pytest.mark.slow
def test_what_is_not_fetched_stops_the_reading(run: Run, place: Place) -> None:
    count = 20_000

    async def main() -> None:
        options = AcceptOptions(inbox_messages=50)
        async with connect(place, options=options) as ws:
            await ws.send(f"flood {count}")
            session = ws._ws
            await until(lambda: session._flags & INBOX_FULL)
            held = len(session._events or ()) + len(session._inbox or ())
            assert held < count / 2
            assert [await ws.recv() for _ in range(count)] == [str(n) for n in range(count)]
            await ws.send("more")
            assert await ws.recv() == "more"

    run(main())


@pytest.mark.slow
def test_closing_does_not_wait_behind_messages(run: Run, place: Place) -> None:
    async def main() -> None:
        options = AcceptOptions(inbox_messages=5, close_timeout=60.0)
        async with connect(place, options=options) as ws:
            await ws.send("flood 5000")
            assert await ws.recv() == "0"
        assert ws.close_code == 1000

    run(main())


@pytest.mark.slow
def test_sending_waits_for_a_slow_peer(run: Run) -> None:
    go = threading.Event()
    total = 400

    class Slow(gows.Handler):
        def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            go.wait(10)
            if buff.size() == 1:
                ws.write_string("all")

    server = Server(workers=2)
    server.add_route("/", lambda request: gows.accept(request).serve(Slow()))
    server.start("127.0.0.1:0")

    async def main() -> None:
        async with gows.aio.connect(f"ws://127.0.0.1:{tcp(server.addresses[0])[1]}/", compression=False) as ws:
            sent = 0

            async def send() -> None:
                nonlocal sent
                for _ in range(total):
                    await ws.send(b"x" * 100_000)
                    sent += 1

            task = asyncio.create_task(send())
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.05)
            assert sent < total
            assert ws.buffered < 3_000_000
            go.set()
            await task
            await ws.send("e")
            assert await ws.recv() == "all"

    try:
        run(main())
    finally:
        go.set()
        server.stop()


# ---------------------------------------------------------------------- pings


def test_a_ping_has_its_pong(run: Run, place: Place) -> None:
    async def main() -> None:
        async with connect(place) as ws:
            await ws.send("waits")
            pong = await ws.ping()
            assert 0.0 <= await pong < 10.0
            first = await ws.ping(b"a")
            with pytest.raises(gows.UsageError):
                await ws.ping(b"a")
            last = await ws.ping(b"b")
            assert await last <= await first
            assert await ws.recv() == "waits"
            with pytest.raises(ValueError, match="125"):
                await ws.ping(b"x" * 126)
            lost = await ws.ping()
            ws._ws.stream.abort()
            with pytest.raises(gows.ConnectionClosedError):
                await lost

    run(main())


# ---------------------------------------------------------------------- connecting


def test_what_fails_is_raised(run: Run, place: Place) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

        async def main() -> None:
            with pytest.raises(gows.ConnectError):
                await gows.aio.connect(f"ws://127.0.0.1:{port}/")
            with pytest.raises(ValueError, match="http"):
                await gows.aio.connect("http://127.0.0.1/")
            place.refusals.append((403, b"no"))
            with pytest.raises(gows.HandshakeError) as refused:
                await connect(place)
            assert (refused.value.status, refused.value.body) == (403, b"no")
            unused.listen(1)
            with pytest.raises(gows.ConnectTimeoutError):
                await gows.aio.connect(f"ws://127.0.0.1:{port}/", timeout=0.05)
            with pytest.raises(TypeError, match="reconnect"):
                gows.aio.connect(place.url, reconnect=True)  # type: ignore[arg-type]

        run(main())


def test_url_headers_and_cookies_may_be_coroutine_functions(run: Run, place: Place) -> None:
    async def main() -> None:
        async def url() -> str:
            await asyncio.sleep(0)
            return place.url

        async def headers() -> dict[str, str]:
            return {"X-Token": "t"}

        async def cookies() -> dict[str, str]:
            return {"a": "b"}

        async with gows.aio.connect(url, headers=headers, cookies=cookies):
            pass
        async with gows.aio.connect(lambda: place.url, headers=lambda: {"X-Token": "u"}):
            pass
        assert [request.headers["x-token"] for request in place.requests] == ["t", "u"]
        assert place.requests[0].headers["cookie"] == "a=b"

    run(main())


def test_a_name_is_looked_up_beside_the_loop(run: Run, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def slow(*arguments: Any, **settings: Any) -> Any:
        if settings.get("flags", 0) & socket.AI_NUMERICHOST:
            return real(*arguments, **settings)
        asked.set()
        assert answer.wait(10)
        return real("127.0.0.1", *arguments[1:], **settings)

    monkeypatch.setattr(socket, "getaddrinfo", slow)

    async def main() -> None:
        port = place.url.rpartition(":")[2]
        task = asyncio.create_task(gows.aio.connect(f"ws://somewhere.example:{port}").open())
        await until(asked.is_set)  # the loop goes on
        assert not task.done()
        answer.set()
        await (await task).close()

    run(main())


def test_the_block_says_how_it_ended(run: Run) -> None:
    codes: list[int | None] = []

    class Noting(gows.Handler):
        def on_close(self, ws: WebSocket) -> None:
            codes.append(ws.close_code)

    server = Server(workers=0)
    server.add_route("/", lambda request: gows.accept(request).serve(Noting()))
    server.start("127.0.0.1:0")
    url = f"ws://127.0.0.1:{tcp(server.addresses[0])[1]}/"

    async def main() -> None:
        async with gows.aio.connect(url):
            pass

        async def fail() -> None:
            async with gows.aio.connect(url):
                raise ZeroDivisionError

        async def stay() -> None:
            async with gows.aio.connect(url) as ws:
                await ws.recv()

        with pytest.raises(ZeroDivisionError):
            await fail()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(stay(), 0.1)
        await until(lambda: len(codes) == 3)
        assert codes == [1000, 1011, 1001]

    try:
        run(main())
    finally:
        server.stop()


# ---------------------------------------------------------------------- one after the other


async def rounds(connecting: Connecting, act: Callable[[AsyncWebSocket], Any] | None = None) -> None:
    """Do something with one connection after the other, and wait until each is closed."""
    async for ws in connecting:
        assert act is not None
        await act(ws)
        await ws.wait_closed()


def test_one_connection_after_the_other(run: Run, place: Place) -> None:
    async def main() -> None:
        rounds = 0

        def headers() -> dict[str, str]:
            return {"X-Round": str(rounds)}

        place.refusals += [(503, b"not yet"), (503, b"not yet")]
        async for ws in connect(place, reconnect=QUICK, headers=headers):
            rounds += 1
            await ws.send(f"close {(1012 if rounds == 1 else 1000)} restart" if rounds < 4 else "last")
            try:
                async for message in ws:
                    assert message == "last"
                    await ws.close()
            except gows.ConnectionClosedError:
                continue
        assert rounds == 4
        seen = [request.headers["x-round"] for request in place.requests]
        assert seen == ["0", "0", "0", "1", "2", "3"]

    run(main())


def test_leaving_the_loop_closes_the_connection(run: Run, place: Place) -> None:
    async def main() -> None:
        async for ws in connect(place):
            kept = ws
            break
        await until(lambda: kept._ws.stream.lost)
        assert kept.close_code == 1000
        with pytest.raises(ZeroDivisionError):
            await rounds(connect(place), lambda ws: 1 / 0)

    run(main())


def test_a_final_answer_ends_the_iteration(run: Run, place: Place) -> None:
    async def main() -> None:
        place.refusals.append((403, b""))
        with pytest.raises(gows.HandshakeError):
            await rounds(connect(place, reconnect=QUICK))
        with pytest.raises(gows.ConnectionClosedError) as closed:
            await rounds(connect(place, reconnect=QUICK), lambda ws: ws.send("close 4403 never again"))
        assert closed.value.code == 4403
        place.refusals += [(503, b"")] * 3
        with pytest.raises(gows.HandshakeError):
            await rounds(connect(place, reconnect=Reconnect(initial=0.01, maximum=0.01, attempts=3)))
        assert not place.refusals

    run(main())


def test_a_function_that_raises_is_a_failed_attempt_but_the_first(run: Run, place: Place) -> None:
    async def main() -> None:
        calls = 0

        def url() -> str:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise OSError("no token")
            return place.url

        async for ws in gows.aio.connect(url, reconnect=QUICK):
            await ws.send("drop")
            if calls == 3:
                await ws.close()
        with pytest.raises(ZeroDivisionError):
            await rounds(gows.aio.connect(lambda: str(1 / 0), reconnect=QUICK))

    run(main())


# ---------------------------------------------------------------------- the loop that they share


def test_clients_share_a_loop_that_ends_with_the_last(run: Run, place: Place) -> None:
    async def main() -> None:
        mine = asyncio.get_running_loop()
        assert mine not in shared._loops
        async with connect(place) as one:
            first = shared._loops[mine]
            async with connect(place) as two:
                assert one._ws.context.loop is two._ws.context.loop is first.loop
                assert asyncio.all_tasks() == {asyncio.current_task()}
        await until(lambda: mine not in shared._loops)
        async with connect(place):
            assert shared._loops[mine] is not first

    run(main())


@pytest.mark.parametrize("start", RUNS.values(), ids=RUNS)
def test_a_client_that_nobody_closes_ends_with_the_asyncio_loop(start: Callable[[Any], None], place: Place) -> None:
    kept: list[AsyncWebSocket] = []

    async def main() -> None:
        kept.append(await connect(place))
        assert shared._loops

    start(main())
    assert shared._loops == {}
    assert kept[0].close_code == 1006
    start(main())


@pytest.mark.parametrize("start", RUNS.values(), ids=RUNS)
def test_a_task_may_close_in_order_when_asyncio_ends(start: Callable[[Any], None], place: Place) -> None:
    codes: list[int | None] = []
    opened = asyncio.Event()

    async def stay() -> None:
        async with connect(place) as ws:
            opened.set()
            try:
                await ws.recv()
            finally:
                await ws.send("close 4000 ordered")
                await ws.wait_closed()
                codes.append(ws.close_code)

    async def main() -> None:
        asyncio.create_task(stay())  # noqa: RUF006
        await opened.wait()

    start(main())
    assert codes == [4000]
    assert shared._loops == {}


def test_an_asyncio_loop_that_was_just_closed_leaves_its_clients_to_the_next(run: Run, place: Place) -> None:
    loop = asyncio.new_event_loop()
    ws = loop.run_until_complete(connect(place).open())
    loop.close()
    assert loop in shared._loops

    async def main() -> None:
        async with connect(place):
            assert loop not in shared._loops

    run(main())
    assert ws.closed


def test_what_was_not_closed_is_told(run: Run, place: Place) -> None:
    async def main() -> None:
        ws = await connect(place)
        session = ws._ws
        with pytest.warns(ResourceWarning, match="AsyncWebSocket .* was not closed"):
            del ws
        await until(lambda: session.stream.lost)
        assert session.close_code == 1001

    run(main())


@pytest.mark.slow
def test_nothing_is_imported_before_it_is_used() -> None:
    program = "import gows, sys; assert 'asyncio' not in sys.modules; gows.aio.connect; assert 'asyncio' in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        gows.aio.nothing_like_it  # noqa: B018


@pytest.mark.slow
def test_nothing_is_warned_of_in_development_mode(place: Place) -> None:
    program = f"""
import asyncio, logging, gows.aio

logging.getLogger("asyncio").setLevel(logging.ERROR)  # not that a busy machine is slow

async def main():
    async with gows.aio.connect({place.url!r}) as ws:
        await ws.send("a")
        assert await ws.recv() == "a"
    kept.append(await gows.aio.connect({place.url!r}))

kept = []
asyncio.run(main())
asyncio.run(main())
"""
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")


# ---------------------------------------------------------------------- cancellation


async def _everything(place: Place) -> None:
    async with connect(place) as ws:
        await ws.send("a")
        await ws.recv()
        await (await ws.ping())
        await ws.drain()
        await ws.send("flood 3")
        async for _ in ws:
            break
    async for ws in connect(place, reconnect=QUICK):
        await ws.send("close 1000 again" if len(place.requests) % 3 else "b")
        async for _ in ws:
            await ws.close()


@pytest.mark.parametrize("late", [False, True], ids=["waiting", "just-come"])
@pytest.mark.slow
def test_cancelled_anywhere_nothing_is_left(run: Run, place: Place, late: bool) -> None:
    async def main() -> None:
        mine = asyncio.get_running_loop()
        number = 0
        while True:
            place.requests.clear()
            reached = await asyncio.create_task(_cancelled(number))
            await until(lambda: mine not in shared._loops)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            if not reached:
                break
            number += 1
        assert number > 8

    async def _cancelled(number: int) -> bool:
        return await CancelledAt(_everything(place), number, late=late)

    run(main())


def test_a_cancelled_recv_loses_no_message(run: Run, place: Place) -> None:
    async def main() -> None:
        async with connect(place) as ws:
            got: list[str | bytes] = []
            await ws.send("flood 200")
            while len(got) < 200:
                task = asyncio.create_task(ws.recv())
                await asyncio.sleep(0)
                task.cancel()
                try:
                    got.append(await task)
                except asyncio.CancelledError:
                    await asyncio.sleep(0)
            assert got == [str(n) for n in range(200)]

    run(main())


def test_context_variables_stay_with_their_tasks(run: Run, place: Place) -> None:
    var = contextvars.ContextVar("var", default=0)

    async def talk(n: int) -> None:
        var.set(n)
        async with connect(place, headers=lambda: {"X-N": str(var.get())}) as ws:
            await ws.send(str(n))
            assert await ws.recv() == str(n)
            assert var.get() == n

    async def main() -> None:
        await asyncio.gather(*(talk(n) for n in range(1, 6)))
        assert sorted(request.headers["x-n"] for request in place.requests) == ["1", "2", "3", "4", "5"]

    run(main())


# ---------------------------------------------------------------------- another library


@contextmanager
def other_server(handler: Callable[[other.ServerConnection], None]) -> Iterator[str]:
    with other.serve(handler, "127.0.0.1", 0, compression="deflate") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        finally:
            server.shutdown()
            thread.join(10)


def test_with_a_server_of_another_library(run: Run) -> None:
    def talk(peer: other.ServerConnection) -> None:
        try:
            for message in peer:
                peer.send(message)
        except ConnectionClosed:
            pass

    async def main(url: str) -> None:
        async with gows.aio.connect(url, compression=True) as ws:
            for message in ("ä" * 1000, b"\x00" * 100_000):
                await ws.send(message)
                assert await ws.recv() == message
            assert await (await ws.ping()) >= 0.0
        assert ws.close_code == 1000

    with other_server(talk) as url:
        run(main(url))
