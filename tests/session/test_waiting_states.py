"""A session whose callback is a coroutine that waits (AWAITING): every event comes while it does. A stand-in for
asyncio holds the coroutine, so that all is in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest

from gows import ByteBuffer, Handler, Opcode, WebSocket
from gows.protocol.states import BINARY, CHUNK, PING, PONG, TEXT
from gows.reactor.hosting import Awaiting, Coroutines
from gows.session.states import AWAITING, DELIVERY, FINISHED, HELD, INBOX_FULL, MUTED, OPENED, Event
from tests.session.test_states import VALUES
from tests.support.stage import Guest, Stage
from tests.support.wire import CLOSE, close, frame


class Pause:
    """What a coroutine of these tests waits for."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class Held:
    """Runs coroutines as `gows.aio` does; one that waits goes on when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Coroutine[Any, Any, Any], Awaiting, str, Any]] = []

    def start(self, coro: Coroutine[Any, Any, Any], owner: Awaiting, name: str, value: Any) -> bool:
        try:
            coro.send(None)
        except StopIteration:
            return True
        self.waiting.append((coro, owner, name, value))
        return False

    def go_on(self, error: BaseException | None = None) -> None:
        """Take the next step of the one that waits."""
        [(coro, owner, name, value)] = self.waiting
        self.waiting.clear()
        failed: BaseException | None = None
        try:
            coro.throw(error) if error is not None else coro.send(None)
        except StopIteration:
            pass
        except BaseException as raised:
            failed = raised
        else:
            self.waiting.append((coro, owner, name, value))
            return
        owner.coroutine_ended(name, value, failed)

    def offload(self, fn: Callable[..., object], *args: object) -> Coroutine[Any, Any, object]:
        async def call() -> object:
            return fn(*args)

        return call()


class Waits(Handler):
    """Each callback is a coroutine, which waits once if it is told to."""

    def __init__(self) -> None:
        self.ws: WebSocket
        self.calls: list[str] = []
        self.running: str | None = None
        self.waits: set[str] = set()
        self.wrote = 0

    async def _told(self, name: str, ws: WebSocket, buff: ByteBuffer | None = None) -> None:
        assert self.running is None, f"{name} within {self.running}"
        assert "on_close" not in self.calls, f"{name} after on_close"
        self.ws = ws
        self.running = name
        self.calls.append(name)
        before = None if buff is None else buff.clone_bytes()
        try:
            if name in self.waits:
                await Pause()
            assert before is None or (buff is not None and buff.clone_bytes() == before), "it is not lent any more"
            if self.wrote:
                ws.write_binary(bytes(self.wrote))
        finally:
            self.running = None

    async def on_open(self, ws: WebSocket) -> None:
        await self._told("on_open", ws)

    async def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        await self._told("on_message", ws, buff)

    async def on_ping(self, ws: WebSocket, data: bytes) -> None:
        await self._told("on_ping", ws)

    async def on_pong(self, ws: WebSocket, data: bytes) -> None:
        await self._told("on_pong", ws)

    async def on_drain(self, ws: WebSocket) -> None:
        await self._told("on_drain", ws)

    async def on_close(self, ws: WebSocket) -> None:
        await self._told("on_close", ws)


class WaitsPiecewise(Waits):
    async def on_chunk(self, ws: WebSocket, opcode: Opcode, fin: bool, buff: ByteBuffer) -> None:
        await self._told("on_chunk", ws, buff)


@pytest.fixture(params=[True, False], ids=["inline", "workers"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., tuple[Stage, Held, Guest, Waits]]]:
    made: list[Stage] = []

    def make_one(kind: type[Waits] = Waits, **options: Any) -> tuple[Stage, Held, Guest, Waits]:
        stage = Stage(inline=request.param, make_handler=kind, ping_interval=None, **options)
        made.append(stage)
        held = Held()
        stage.loop.shared[Coroutines] = held
        guest, handler = stage.guest()
        stage.run_until(lambda: handler.calls == ["on_open"])
        handler.calls.clear()
        return stage, held, guest, handler

    yield make_one
    for stage in made:
        stage.close()


Make = Callable[..., tuple[Stage, Held, Guest, Waits]]


def wait_in(callback: str, kind: int, stage: Stage, handler: Waits) -> WebSocket:
    """Have a coroutine wait in a callback, for an event of this kind."""
    handler.waits = {callback}
    ws = handler.ws
    ws._inbox = [(kind, VALUES[kind]())]
    ws._submit()
    stage.run_for(0)
    assert ws._flags & AWAITING
    assert handler.calls == [callback]
    assert ws not in stage.loop.pool.tasks
    handler.calls.clear()
    handler.waits.clear()
    return ws


def arrive(ws: WebSocket, *events: Event) -> None:
    """Have events come while a coroutine waits."""
    assert ws._inbox is not None
    ws._inbox.extend(events)


KINDS = [kind for kind, row in DELIVERY.items() if row[0][0] and row[0][1] != FINISHED]
"""Those for which a callback is called that may not be the last."""


@pytest.mark.parametrize("coming", DELIVERY)
@pytest.mark.parametrize("kind", KINDS)
def test_an_event_waits_for_a_coroutine(make: Make, kind: int, coming: int) -> None:
    stage, held, _, handler = make(WaitsPiecewise if CHUNK in (kind, coming) else Waits)
    callback, _ = DELIVERY[kind][0]
    assert callback is not None
    ws = wait_in(callback, kind, stage, handler)
    ws.connection.close_code = None  # type: ignore[assignment]
    arrive(ws, (coming, VALUES[coming]()))
    stage.run_for(0)
    assert handler.calls == []
    assert ws not in stage.loop.pool.tasks
    held.go_on()
    stage.run_for(0)
    expected, _ = DELIVERY[coming][0]
    assert handler.calls == ([] if expected is None else [expected])
    assert not ws._flags & AWAITING
    assert ws._inbox is None


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_raises_mutes_what_came_meanwhile(make: Make, kind: int) -> None:
    stage, held, guest, handler = make(WaitsPiecewise if kind == CHUNK else Waits)
    callback, _ = DELIVERY[kind][0]
    assert callback is not None
    ws = wait_in(callback, kind, stage, handler)
    arrive(ws, (TEXT, VALUES[TEXT]()), (PONG, b""))
    stage.run_for(0)
    held.go_on(ValueError("mine"))
    stage.run_for(0)
    assert handler.calls == []
    assert ws._flags & MUTED
    if kind == PING:
        assert guest.read().opcode == PONG
    assert guest.close_frame()[0] == 1011
    guest.send(close(1011))
    assert guest.wait_end() == "FIN"
    assert handler.calls == ["on_close"]
    assert "mine" not in stage.log.take()[0]


def test_an_end_waits_and_the_last_callback_may_wait_too(make: Make) -> None:
    stage, held, guest, handler = make()
    wait_in("on_message", TEXT, stage, handler)
    guest.send(frame(TEXT, "b"), close(1000))
    stage.run_for(0)
    handler.waits = {"on_close"}
    held.go_on()
    stage.run_for(0)
    assert handler.calls == ["on_message", "on_close"]
    assert guest.close_frame()[0] == 1000
    guest.wait_end()
    assert handler.ws._flags & AWAITING
    held.go_on()
    stage.run_for(0)
    assert not held.waiting
    assert handler.ws._inbox is None


def test_a_reset_while_one_waits(make: Make) -> None:
    stage, held, guest, handler = make()
    wait_in("on_message", BINARY, stage, handler)
    guest.reset()
    stage.run_for(1)
    assert handler.ws.stream.lost
    assert handler.calls == []
    held.go_on()
    stage.run_for(0)
    assert handler.calls == ["on_close"]


def test_pings_are_answered_meanwhile(make: Make) -> None:
    stage, held, guest, handler = make()
    wait_in("on_message", TEXT, stage, handler)
    guest.send(frame(PING, "x"))
    assert guest.read().opcode == PONG
    guest.send(frame(TEXT, "b") + frame(PING, "y") + frame(TEXT, "c"))
    assert guest.read().payload == b"y"
    handler.waits = {"on_message"}
    held.go_on()
    stage.run_for(0)
    assert handler.calls == ["on_ping", "on_message"]
    held.go_on()
    stage.run_for(0)
    assert handler.calls == ["on_ping", "on_message", "on_ping", "on_message"]
    held.go_on()
    stage.run_for(0)
    assert guest.pending() == [], "none is answered twice"


def test_a_ping_behind_a_message_of_one_read_is_answered_too(make: Make) -> None:
    stage, held, guest, handler = make()
    handler.waits = {"on_message"}
    guest.send(frame(TEXT, "a") + frame(PING, "x") + frame(PONG) + frame(PING, "y"))
    assert [guest.read().payload for _ in range(2)] == [b"x", b"y"]
    assert handler.calls == ["on_message"]
    held.go_on()
    stage.run_for(0)
    assert handler.calls == ["on_message", "on_ping", "on_pong", "on_ping"]
    assert guest.pending() == []


def test_a_full_inbox_stops_the_reading(make: Make) -> None:
    stage, held, guest, handler = make(inbox_messages=4)
    ws = wait_in("on_message", TEXT, stage, handler)
    for number in range(20):
        guest.send(frame(TEXT, str(number)))
        stage.run_for(0)
    assert ws._flags & INBOX_FULL
    assert guest.unread
    assert handler.calls == []
    held.go_on()
    stage.run_for(1)
    assert handler.calls == ["on_message"] * 20
    assert not ws._flags & INBOX_FULL
    assert ws._inbox is None


def test_a_compressed_read_waits_with_its_rest(make: Make) -> None:
    """Many small messages that are put aside or parsed in portions: none is lost, or comes twice."""
    stage, held, guest, handler = make(inbox_messages=4)
    wait_in("on_message", TEXT, stage, handler)
    guest.send(*(frame(TEXT, str(number)) for number in range(500)))
    stage.run_for(1)
    handler.waits = {"on_message"}
    rounds = 0
    while True:
        held.go_on()
        stage.run_for(0.01)
        if not held.waiting:
            break
        rounds += 1
    assert rounds == len(handler.calls) == 500
    assert handler.ws._inbox is None


def test_a_queue_over_its_mark_holds_what_comes_after_a_coroutine(make: Make) -> None:
    stage, held, guest, handler = make(high_water=1000, low_water=200, network={"buffer_size": 500})
    ws = wait_in("on_message", TEXT, stage, handler)
    guest.send(frame(TEXT, "b"))
    stage.run_for(0)
    handler.wrote = 5000
    held.go_on()
    stage.run_for(0)
    assert ws._flags & HELD
    assert handler.calls == []
    handler.wrote = 0
    guest.wait(lambda: handler.calls)
    assert handler.calls[:2] == ["on_drain", "on_message"] or handler.calls[:2] == ["on_message", "on_drain"]
    assert not ws._flags & HELD
    guest.taken()


def test_a_dismissal_waits_behind_what_came_before(make: Make) -> None:
    stage, held, guest, handler = make()
    ws = wait_in("on_message", TEXT, stage, handler)
    guest.send(frame(TEXT, "b"))
    stage.run_for(0)
    ws.dismiss(1012, "", VALUES[20]()[2])
    stage.run_for(0)
    assert guest.pending() == []
    handler.wrote = 3
    held.go_on()
    stage.run_for(0)
    frames = [guest.read() for _ in range(3)]
    assert [each.opcode for each in frames] == [BINARY, BINARY, CLOSE]
    assert frames[-1].close_code == 1012
    handler.wrote = 0


def test_what_waits_is_counted_once(make: Make) -> None:
    stage, held, guest, handler = make(
        server={"max_received": 10_000_000}, max_message_size=100_000, network={"buffer_size": 1 << 20}
    )
    receiving = stage.server.receiving
    wait_in("on_message", TEXT, stage, handler)
    for _ in range(3):
        guest.send(frame(BINARY, bytes(90_000)))
        stage.run_for(0)
    waiting = receiving.total
    assert 180_000 <= waiting <= 300_000
    handler.waits = {"on_message"}
    while held.waiting:
        held.go_on()
        stage.run_for(0.1)
        assert receiving.total <= waiting
    assert len(handler.calls) == 3
    assert receiving.total == 0


def test_the_first_callback_keeps_the_request_until_it_has_ended(make: Make) -> None:
    stage, held, _, handler = make()
    request = handler.ws._request = object()
    ws = wait_in("on_open", OPENED, stage, handler)
    assert ws._request is request
    held.go_on()
    assert ws._request is None
