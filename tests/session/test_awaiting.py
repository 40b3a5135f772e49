"""Coroutines that wait for a peer: `send`, `drain`, `wait_closed`, and a writer of pieces."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import gows
from gows import AcceptOptions, ConnectionClosedError, QueueFullError, WebSocket
from tests.support.raw import RawPeer
from tests.support.servers import MakeServer, serving
from tests.support.waiting import wait_until

HIGH_WATER = 100_000
LOW_WATER = 10_000
PIECE = bytes(50_000)


class Keeping(gows.Handler):
    def __init__(self) -> None:
        self.ws: WebSocket
        self.opened = threading.Event()

    def on_open(self, ws: WebSocket) -> None:
        self.ws = ws
        self.opened.set()


class Slow:
    """A server with one connection, whose peer reads when it is told to."""

    def __init__(self, make_server: MakeServer, server: dict[str, Any] | None = None, **options: Any) -> None:
        handler = Keeping()
        accepted = AcceptOptions(high_water=HIGH_WATER, low_water=LOW_WATER, send_buffer=4096, **options)
        self.server = make_server({"/": serving(lambda: handler, accepted)}, **server or {})
        self.peer = RawPeer(self.server.addresses[0], receive_buffer=4096)
        self.peer.upgrade("/")
        assert handler.opened.wait(10.0)
        self.ws = handler.ws
        self.readers: list[threading.Thread] = []

    def read_on(self) -> None:
        """Have the peer read all that comes from now on, and then close as well."""

        def read() -> None:
            self.peer.drain()
            self.peer.close()

        self.readers.append(threading.Thread(target=read, name="reader"))
        self.readers[-1].start()

    def fill(self) -> None:
        """Write until the queue is over its mark, and the kernel takes no more."""
        deadline = time.monotonic() + 10.0
        while self.ws.stream.queued <= HIGH_WATER:
            self.ws.write_binary(PIECE)
            if self.ws.stream.queued > HIGH_WATER:
                time.sleep(0.05)
            assert time.monotonic() < deadline

    def close(self) -> None:
        self.server.stop(0.2)
        for reader in self.readers:
            reader.join(10.0)
        self.peer.close()


Make = Callable[..., Slow]


@pytest.fixture
def make(make_server: MakeServer) -> Iterator[Make]:
    made: list[Slow] = []

    def make_one(*args: Any, **options: Any) -> Slow:
        made.append(Slow(make_server, *args, **options))
        return made[-1]

    yield make_one
    for slow in made:
        slow.close()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it in an asyncio loop of the test's own: it need not be the connection's."""
    asyncio.run(asyncio.wait_for(main, 20.0), debug=True)


async def waits(task: asyncio.Task[Any]) -> bool:
    """Return whether it is still not done after a moment."""
    await asyncio.wait([task], timeout=0.1)
    return not task.done()


def test_send_takes_text_and_bytes(make: Make) -> None:
    slow = make()

    async def main() -> None:
        await slow.ws.send("text")
        await slow.ws.send(b"bytes")
        await slow.ws.send(bytearray(b"more"), compress=False, key=None)

    run(main())
    assert [slow.peer.read()[:2] for _ in range(3)] == [(1, b"text"), (2, b"bytes"), (2, b"more")]


@pytest.mark.parametrize("overflow", ["refuse", "block"])
def test_send_waits_for_a_slow_peer(make: Make, overflow: str) -> None:
    slow = make(overflow=overflow)

    async def main() -> None:
        slow.fill()
        task = asyncio.create_task(slow.ws.send(PIECE))
        assert await waits(task)
        slow.read_on()
        await task
        assert slow.ws.stream.queued <= LOW_WATER + len(PIECE) + 10

    run(main())
    assert not slow.server.overflow._waiting
    assert slow.server.overflow.counts["refused"] == 0


def test_many_that_wait_for_one_peer_all_send(make: Make) -> None:
    slow = make()

    async def main() -> None:
        slow.fill()
        tasks = [asyncio.create_task(slow.ws.send(PIECE)) for _ in range(20)]
        assert await waits(tasks[0])
        slow.read_on()
        await asyncio.gather(*tasks)

    sent = slow.server.traffic.sent
    run(main())
    assert slow.server.traffic.sent >= sent + 20
    assert not slow.server.overflow._waiting


@pytest.mark.parametrize("overflow", ["drop", "drop_oldest", "latest"])
def test_send_leaves_it_to_the_policies_that_decide_at_once(make: Make, overflow: str) -> None:
    slow = make(overflow=overflow)

    async def main() -> None:
        for _ in range(20):
            await slow.ws.send(PIECE)

    run(main())
    assert slow.ws.buffered <= HIGH_WATER + 2 * len(PIECE)


def test_send_does_not_hide_that_the_policy_closes(make: Make) -> None:
    slow = make(overflow="close")

    async def main() -> None:
        sends = asyncio.gather(*(slow.ws.send(PIECE) for _ in range(20)))
        with pytest.raises((ConnectionClosedError, QueueFullError)):
            await sends

    run(main())
    wait_until(lambda: slow.ws.closed, what=lambda: "the close")


def test_send_waits_for_the_budget_of_all(make: Make) -> None:
    slow = make({"max_queued": 2 * HIGH_WATER})

    async def main() -> None:
        slow.fill()
        tasks = [asyncio.create_task(slow.ws.send(PIECE)) for _ in range(10)]
        assert await waits(tasks[0])
        slow.read_on()
        await asyncio.gather(*tasks)

    run(main())


def test_drain_is_over_at_the_low_mark(make: Make) -> None:
    slow = make()

    async def main() -> None:
        await slow.ws.drain()  # nothing is queued
        slow.fill()
        task = asyncio.create_task(slow.ws.drain())
        assert await waits(task)
        slow.read_on()
        await task
        assert slow.ws.stream.queued <= LOW_WATER

    run(main())


@pytest.mark.parametrize("how", ["reset", "close", "abort"])
def test_who_waits_hears_that_the_connection_has_ended(make: Make, how: str) -> None:
    slow = make()

    async def main() -> None:
        slow.fill()
        tasks = [asyncio.create_task(slow.ws.send(PIECE)), asyncio.create_task(slow.ws.drain())]
        closed = asyncio.create_task(slow.ws.wait_closed())
        assert await waits(tasks[0])
        assert await waits(closed)
        if how == "reset":
            slow.peer.reset()
        elif how == "close":
            slow.ws.close()
            slow.read_on()
        else:
            slow.ws.stream.abort()
        for task in tasks:
            with pytest.raises(ConnectionClosedError):
                await task
        await closed
        with pytest.raises(ConnectionClosedError):
            await slow.ws.send("more")
        with pytest.raises(ConnectionClosedError):
            await slow.ws.drain()
        await slow.ws.wait_closed()

    run(main())
    assert not slow.server.overflow._waiting


def test_one_that_is_cancelled_sends_nothing_and_is_forgotten(make: Make) -> None:
    slow = make()

    async def main() -> None:
        slow.fill()
        sent = slow.server.traffic.sent
        task = asyncio.create_task(slow.ws.send(PIECE))
        assert await waits(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert slow.server.traffic.sent == sent

    run(main())
    assert not slow.server.overflow._waiting


def test_an_asyncio_loop_that_has_ended_does_no_harm(make: Make) -> None:
    slow = make()

    async def main() -> None:
        slow.fill()
        asyncio.get_running_loop().create_task(slow.ws.drain())
        await asyncio.sleep(0.05)

    asyncio.run(main())
    slow.read_on()
    wait_until(lambda: slow.ws.stream.queued <= LOW_WATER, what=lambda: "an empty queue")


def test_a_message_in_pieces_waits_for_a_slow_peer(make: Make) -> None:
    slow = make()

    async def main() -> None:
        async with slow.ws.next_writer(gows.Opcode.BINARY) as writer:
            for _ in range(40):
                if slow.ws.buffered > HIGH_WATER and not slow.readers:
                    slow.read_on()
                await writer.send(PIECE)
                assert slow.ws.stream.queued <= HIGH_WATER + len(PIECE) + 100
        async with slow.ws.next_writer() as writer:
            await writer.send("text")

    run(main())
    assert slow.server.overflow.counts["refused"] == 0


def test_a_message_in_pieces_that_fails_closes_the_connection(make: Make) -> None:
    slow = make()

    async def main() -> None:
        with pytest.raises(ValueError, match="mine"):
            await fail()

    async def fail() -> None:
        async with slow.ws.next_writer(gows.Opcode.BINARY) as writer:
            await writer.send(PIECE)
            raise ValueError("mine")

    run(main())
    assert slow.ws.closed
