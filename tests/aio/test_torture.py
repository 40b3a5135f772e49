"""Tortures coroutines: peers send, ping, close and reset, threads and tasks write and close, while callbacks wait.
Every message is handled once and in order, and in the end nothing is left."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import pytest

import gows
from gows import AcceptOptions, ByteBuffer, ConnectionClosedError, Opcode, QueueFullError, Server, WebSocket
from gows.aio.inside import Inside
from gows.reactor.hosting import Coroutines
from tests.aio.test_inside import Serve, serve, until, workers
from tests.support.raw import RawPeer
from tests.support.wire import PING, TEXT, close, frame

__all__ = ["serve", "workers"]  # fixtures

PEERS = 8
MESSAGES = 200


class Torn(gows.Handler):
    """Waits for one thing or another, and notes what comes."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.ws: WebSocket | None = None
        self.came: list[int] = []
        self.running = False
        self.opened = self.closed = 0

    def enter(self) -> None:
        assert not self.running, "two callbacks at once"
        assert not self.closed, "a callback after on_close"
        self.running = True

    async def on_open(self, ws: WebSocket) -> None:
        self.enter()
        self.ws = ws
        await self.dawdle()
        self.opened += 1
        self.running = False

    async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self.enter()
        text = buff.get_string()
        await self.dawdle()
        assert buff.get_string() == text
        self.came.append(int(text.split()[0]))
        try:
            await ws.send(text)
            if self.rng.random() < 0.2:
                ws.write_string("more")
            if self.rng.random() < 0.1:
                await ws.drain()
        except (ConnectionClosedError, QueueFullError):
            pass
        finally:
            self.running = False

    def on_ping(self, ws: WebSocket, data: bytes) -> None:
        self.enter()
        self.running = False

    async def on_close(self, ws: WebSocket) -> None:
        self.enter()
        await self.dawdle()
        self.closed += 1
        self.running = False

    async def dawdle(self) -> None:
        chance = self.rng.random()
        if chance < 0.3:
            await asyncio.sleep(0)
        elif chance < 0.35:
            await asyncio.sleep(self.rng.random() * 0.003)
        elif chance < 0.4:
            await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0.0001))
        elif chance < 0.45:
            try:
                await asyncio.wait_for(asyncio.Event().wait(), 0.0005)
            except asyncio.TimeoutError:
                pass


def peer(address: tuple[str, int], rng: random.Random, sent: list[int], gentle: bool) -> None:
    """Send messages, some many at a time; end in one way or another."""
    with RawPeer(address) as raw:
        raw.upgrade("/")
        reader = threading.Thread(target=read, args=(raw,))
        reader.start()
        try:
            while len(sent) < MESSAGES:
                burst = []
                for _ in range(rng.choice([1, 1, 2, 20])):
                    burst.append(frame(TEXT, f"{len(sent)} {'x' * rng.choice([0, 10, 3000])}"))
                    sent.append(len(sent))
                    if rng.random() < 0.1:
                        burst.append(frame(PING, b"?"))
                raw.send(*burst)
                if rng.random() < 0.1:
                    time.sleep(0.001)
                if not gentle and rng.random() < 0.01:
                    raw.reset()
                    return
            raw.send(close(1000))
        except OSError:
            pass
        finally:
            reader.join(20.0)


def read(raw: RawPeer) -> None:
    try:
        while raw.sock.recv(65536):
            pass
    except OSError:
        pass


def meddle(handlers: list[Torn], over: threading.Event, rng: random.Random) -> None:
    """Write from another thread, and close some."""
    while not over.is_set():
        for handler in list(handlers):
            ws = handler.ws
            if ws is None:
                continue
            try:
                ws.write_string("from elsewhere")
                if rng.random() < 0.002:
                    ws.close_handshake()
            except (ConnectionClosedError, QueueFullError):
                pass
        time.sleep(0.002)


async def meddle_inside(handlers: list[Torn], over: threading.Event, rng: random.Random) -> None:
    """Write from tasks of the program, and wait for peers."""
    while not over.is_set():
        for handler in list(handlers):
            if handler.ws is not None and rng.random() < 0.1:
                try:
                    await asyncio.wait_for(handler.ws.send("from a task"), 5.0)
                except (ConnectionClosedError, QueueFullError):
                    pass
        await asyncio.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("gentle", [True, False], ids=["in order", "rough"])
def test_every_message_is_handled_once_and_in_order(serve: Serve, workers: int, gentle: bool) -> None:
    rng = random.Random(7)
    handlers: list[Torn] = []

    def view(request: gows.Request) -> None:
        handlers.append(Torn(random.Random(len(handlers))))
        gows.accept(request, AcceptOptions(high_water=20_000, low_water=5_000, inbox_messages=8)).serve(handlers[-1])

    server = Server(workers=workers)
    server.add_route("/", view)
    sent: list[list[int]] = [[] for _ in range(PEERS)]

    async def body(server: Server, port: int) -> None:
        over = threading.Event()
        peers = [
            threading.Thread(target=peer, args=(("127.0.0.1", port), random.Random(number), sent[number], gentle))
            for number in range(PEERS)
        ]
        for thread in peers:
            thread.start()
        writer = threading.Thread(target=meddle, args=(handlers, over, rng)) if not gentle else None
        if writer is not None:
            writer.start()
        task = asyncio.create_task(meddle_inside(handlers, over, rng))
        for thread in peers:
            await asyncio.to_thread(thread.join, 30.0)
        assert not any(thread.is_alive() for thread in peers)
        await until(lambda: len(handlers) == PEERS and all(handler.closed for handler in handlers))
        over.set()
        await task
        if writer is not None:
            writer.join(10.0)
        await until(lambda: not server.loop.live_streams)
        check(server)

    def check(server: Server) -> None:
        inside = server.loop.shared[Coroutines]
        assert isinstance(inside, Inside)
        assert not inside.tasks
        assert not server.overflow._waiting
        assert not server.receiving.total
        for handler in handlers:
            assert handler.opened == handler.closed == 1
            assert handler.came == list(range(len(handler.came)))
        if gentle:
            assert sorted(len(handler.came) for handler in handlers) == sorted(len(numbers) for numbers in sent)

    serve(server, body)
