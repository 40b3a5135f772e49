"""What is held of what peers sent: bounded for each turn, for each connection, and for all of them together."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from gows import CloseCause
from gows.reactor import Loop
from gows.session.receiving import EVENT_SIZE, LARGE, LOOK_INTERVAL, MEASURES, READ_SIZE, STUCK, Receiving
from tests.support import wire
from tests.support.stage import Actor, Guest, MakeStage, Stage
from tests.support.wire import BINARY, CONTINUE, DEFLATE, PING, PONG, TEXT, frame


@pytest.fixture(params=["inline", "pool", "by class"])
def make_stage(request: pytest.FixtureRequest) -> Iterator[MakeStage]:
    made: list[Stage] = []

    def make(**settings: Any) -> Stage:
        made.append(Stage(**{"inline": request.param != "pool", "by_class": request.param == "by class", **settings}))
        return made[-1]

    yield make
    for stage in made:
        receiving = stage.server.receiving
        for guest in stage.guests:
            guest.sock.close()
        stage.run_for(20)
        assert receiving.total == 0
        assert not receiving._held
        assert not receiving._unfinished
        assert not receiving._paused
        stage.close()


pool_only = pytest.mark.parametrize("make_stage", ["pool"], indirect=True)


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def await_message(stage: Stage, handler: Actor) -> None:
    stage.run_until(lambda: handler.messages, limit=1)


# ---------------------------------------------------------------------- a turn


@pytest.mark.parametrize(
    "unit",
    [
        frame(BINARY, b""),
        frame(TEXT, b"x" * 300),
        frame(wire.PONG, b""),
        frame(BINARY, deflated(b""), rsv=4),
    ],
    ids=["empty", "text", "pongs", "compressed"],
)
def test_a_turn_deals_with_a_part_of_a_read(make_stage: MakeStage, unit: bytes) -> None:
    stage = make_stage(compression=True, inbox_messages=10, network={"buffer_size": 1 << 20})
    guest, handler = stage.guest(DEFLATE)
    guest.send(unit * 300)
    before = 1
    turns = 0
    while len(handler.calls) < 301:
        assert stage.world.turn(), "it goes on by itself"
        assert len(handler.calls) - before <= 4 * 10
        turns += before != len(handler.calls)
        before = len(handler.calls)
    assert turns >= 8
    assert stage.server.traffic.received == 300


def test_while_there_is_more_of_a_read_nothing_is_read(make_stage: MakeStage) -> None:
    stage = make_stage(compression=True, inbox_messages=10, network={"buffer_size": 1 << 20})
    guest, handler = stage.guest(DEFLATE)
    unit = frame(BINARY, deflated(b""), rsv=4)
    guest.send(unit * 600)
    for _ in range(10):
        stage.world.turn()
        guest.send(unit * 100)  # faster than it is dealt with
        assert handler.ws.connection.held() <= 600 * len(unit) + 1024
    stage.run_until(lambda: len(handler.calls) == 1 + 600 + 10 * 100)


def test_a_message_of_very_many_fragments_takes_turns(make_stage: MakeStage) -> None:
    stage = make_stage(network={"buffer_size": 1 << 20})
    guest, handler = stage.guest()
    other, other_handler = stage.guest()
    guest.send(frame(TEXT, b"x", fin=False) + frame(CONTINUE, b"x", fin=False) * 5000)
    other.send(frame(TEXT, "in between"))
    for _ in range(4):
        stage.world.turn()
    assert other_handler.messages == ["in between"]
    assert handler.ws.connection.pending
    guest.send(frame(CONTINUE, b"x"))
    stage.run_until(lambda: handler.messages)
    assert handler.messages == ["x" * 5002]


@pool_only
def test_one_read_does_not_overrun_the_inbox(make_stage: MakeStage) -> None:
    stage = make_stage(inbox_messages=10, network={"buffer_size": 1 << 20})
    guest, handler = stage.guest()
    stage.pool.held = True
    guest.send(frame(TEXT, "x") * 500)
    stage.run_for(1)
    assert len(handler.ws._inbox or ()) == 10
    guest.send(frame(TEXT, "y") * 500)
    stage.run_for(1)
    assert len(handler.ws._inbox or ()) == 10
    assert guest.unread == 500 * len(frame(TEXT, "y"))
    stage.pool.held = False
    stage.pool.kick()
    stage.run_until(lambda: len(handler.messages) == 1000)
    assert handler.messages == ["x"] * 500 + ["y"] * 500


def test_what_was_put_aside_is_delivered_though_the_peer_has_gone(make_stage: MakeStage) -> None:
    stage = make_stage(inbox_messages=10, network={"buffer_size": 1 << 20})
    guest, handler = stage.guest()
    guest.send(frame(TEXT, "x") * 200)
    stage.world.turn()
    handler.ws.stream.abort()
    stage.run_until(lambda: handler.close_code)
    assert len(handler.messages) == 200


def test_messages_before_serve_are_taken_in_parts_too(make_stage: MakeStage) -> None:
    stage = make_stage(inbox_messages=10, network={"buffer_size": 1 << 20})
    guest, handler = stage.guest()
    guest.send(frame(TEXT, "x") * 300, wire.close(1000))
    assert guest.close_frame() == (1000, "")
    assert len(handler.messages) == 300


# ---------------------------------------------------------------------- an unfinished message gets on


@pytest.mark.parametrize("begun", [frame(BINARY, bytes(1000))[:8], frame(BINARY, bytes(1000), fin=False)])
def test_an_unfinished_message_has_to_get_on(make_stage: MakeStage, begun: bytes) -> None:
    stage = make_stage(message_timeout=60, ping_interval=None)
    guest, handler = stage.guest()
    guest.send(begun)
    stage.run_for(50)
    assert not guest.pending()
    assert guest.close_frame() == (1008, "message timeout")
    stage.run_until(lambda: handler.close_code)
    assert handler.ws.close_cause is CloseCause.IDLE
    assert stage.server.receiving.counts == {"paused": 0, "closed": 0, "timeouts": 1}


@pytest.mark.parametrize("size", [1000, 20_000])
def test_pings_and_pongs_bring_it_no_further(make_stage: MakeStage, size: int) -> None:
    stage = make_stage(message_timeout=20, ping_interval=None)
    guest, handler = stage.guest()
    guest.send(frame(BINARY, bytes(size), fin=False))
    for _ in range(25):
        if not handler.close_code:
            guest.send((frame(PING, bytes(125)) + frame(PONG, b"")) * 20)
        stage.run_for(1)
    assert handler.ws.close_reason == "message timeout"


@pytest.mark.parametrize(("rate", "ends"), [(500, True), (2000, False)])
def test_a_large_one_has_to_get_on_faster(make_stage: MakeStage, rate: int, ends: bool) -> None:
    stage = make_stage(message_timeout=20, ping_interval=None)
    guest, handler = stage.guest()
    message = frame(BINARY, bytes(200_000))
    guest.send(message[:20_000])
    for at in range(20_000, len(message), rate * 5):
        if guest.end or guest.pending():
            break
        guest.send(message[at : at + rate * 5])
        stage.run_for(5)
    assert bool(stage.server.receiving.counts["timeouts"]) is ends
    assert len(handler.messages) == (not ends)


@pytest.mark.parametrize("way", ["none", "pieces", "whole"])
def test_what_is_no_unfinished_message_has_no_deadline(make_stage: MakeStage, way: str) -> None:
    class Pieces(Actor):
        def on_chunk(self, ws: Any, opcode: Any, fin: bool, buff: Any) -> None:
            """A message that goes on for ever is what it is for."""

    stage = make_stage(
        message_timeout=None if way == "none" else 5,
        ping_interval=None,
        make_handler=Pieces if way == "pieces" else Actor,
    )
    guest, _ = stage.guest()
    guest.send(frame(BINARY, bytes(100), fin=way == "whole"))
    stage.run_for(30)
    assert not guest.pending()
    assert not guest.end


@pool_only
def test_silence_that_is_ours_does_not_count(make_stage: MakeStage) -> None:
    stage = make_stage(message_timeout=5, ping_interval=None, inbox_messages=2)
    guest, handler = stage.guest()
    stage.pool.held = True
    guest.send(frame(TEXT, "a") * 2)
    stage.run_for(0.1)
    guest.send(frame(TEXT, "a") * 2 + frame(BINARY, bytes(100), fin=False))
    stage.run_for(30)
    stage.pool.held = False
    stage.pool.kick()
    stage.run_for(3)
    assert not guest.end
    guest.send(frame(CONTINUE, b""))
    stage.run_until(lambda: len(handler.messages) == 5)


# ---------------------------------------------------------------------- all together


def begin(guest: Guest, size: int) -> None:
    """Send `size` bytes of a message of 1 MB."""
    guest.send(struct.pack("!BBQ", 0x82, 0xFF, 1_000_000) + bytes(4) + bytes(size))


def test_over_the_budget_the_largest_are_not_read_from(make_stage: MakeStage) -> None:
    stage = make_stage(server={"max_received": 200_000}, network={"buffer_size": 20_000})
    receiving = stage.server.receiving
    large = [stage.guest() for _ in range(4)]
    small = [stage.guest() for _ in range(4)]
    for at in range(10):
        for guest, _ in large:
            if guest.sock.readiness() & wire_room:
                guest.sock.send(struct.pack("!BBQ", 0x82, 0xFF, 90_000) + bytes(4) if not at else bytes(20_000))
        stage.run_for(0.05)
    assert receiving.counts["paused"] >= 4
    before = receiving.total
    assert before < 200_000 + 4 * 25_000
    stage.run_for(2)
    assert receiving.total <= before + 2.0 / LOOK_INTERVAL * READ_SIZE  # one read at a look, for what may be missing
    for guest, handler in small:  # others go on
        guest.send(frame(TEXT, "hello"))
        await_message(stage, handler)
        guest.send(frame(BINARY, bytes(9000))[:8500])
    stage.run_for(1)
    assert all(guest.unread == 0 for guest, _ in small)


wire_room = 4  # WRITE


def test_over_the_budget_nothing_is_inflated(make_stage: MakeStage) -> None:
    """A read of 1 kB may become 1 MB."""
    stage = make_stage(compression=True, server={"max_received": 1 << 20}, ping_interval=None)
    body = deflated(b"a" * 900_000)
    guests = [stage.guest(DEFLATE) for _ in range(10)]
    for guest, _ in guests:
        guest.send(frame(BINARY, body, fin=False, rsv=4))
        stage.run_for(0.01)
    receiving = stage.server.receiving
    assert receiving.total < 3 << 20
    small, handler = stage.guest(DEFLATE)
    small.send(frame(TEXT, deflated(b"goes on"), rsv=4))
    stage.run_until(lambda: handler.messages == ["goes on"], limit=1)
    for guest, _ in guests:
        guest.send(frame(CONTINUE, b""))
    stage.run_for(30)
    assert receiving.total == 0
    assert sum(len(handler.messages) for _, handler in guests) >= 7


def test_who_waits_for_room_is_read_from_when_there_is_some(make_stage: MakeStage) -> None:
    stage = make_stage(server={"max_received": 200_000}, network={"buffer_size": 300_000})
    guests = [stage.guest() for _ in range(3)]
    message = frame(BINARY, bytes(100_000))
    for guest, _ in guests:
        guest.send(message[:90_000])
        stage.run_for(0.01)
    assert stage.server.receiving.counts["paused"] >= 1
    for guest, _ in guests:
        guest.send(message[90_000:])
    stage.run_until(lambda: all(handler.messages for _, handler in guests), limit=30)
    assert stage.server.receiving.total == 0
    assert stage.server.receiving.counts["closed"] == 0


def test_the_one_that_holds_the_most_gives_way(make_stage: MakeStage) -> None:
    """All that is held is unfinished, and nobody can finish."""
    stage = make_stage(server={"max_received": 200_000}, network={"buffer_size": 100_000}, ping_interval=None)
    guests = [stage.guest() for _ in range(4)]
    for number, (guest, _) in enumerate(guests):
        begin(guest, 60_000 + 10_000 * (number == 2))
        stage.run_for(0.01)
    receiving = stage.server.receiving
    assert receiving.total > 200_000
    began = stage.now
    guest, handler = guests[2]
    assert guest.close_frame() == (1013, "too much is held")
    assert stage.now - began >= STUCK - 1
    stage.run_until(lambda: handler.close_code)
    assert handler.ws.close_cause is CloseCause.RATE
    assert receiving.counts["closed"] >= 1
    assert receiving.total < 200_000


@pool_only
def test_what_waits_for_a_busy_handler_counts(make_stage: MakeStage) -> None:
    stage = make_stage(compression=True, server={"max_received": 10 << 20})
    guest, handler = stage.guest(DEFLATE)
    stage.pool.held = True
    packed = frame(BINARY, deflated(bytes(900_000)), rsv=4)
    guest.send(packed)
    stage.run_for(0.1)
    receiving = stage.server.receiving
    assert receiving.total == pytest.approx(900_000, abs=1000)
    guest.send(packed)
    stage.run_for(0.1)
    assert receiving.total == pytest.approx(1_800_000, abs=1000)
    seen: list[int] = []
    handler.do["on_message"] = lambda *message: seen.append(receiving.total)
    stage.pool.held = False
    stage.pool.kick()
    stage.run_until(lambda: len(seen) == 2)
    assert seen == pytest.approx([1_800_000] * 2, abs=1000)
    stage.run_for(0.1)
    assert receiving.total == 0


@pool_only
def test_small_messages_are_not_counted(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    stage.pool.held = True
    guest.send(frame(TEXT, "x" * 100) * 5)
    stage.run_for(0.1)
    assert stage.server.receiving.total == 0
    stage.pool.held = False
    stage.pool.kick()
    assert len(handler.messages) == 5


@pool_only
def test_small_messages_that_pile_up_are_counted(make_stage: MakeStage) -> None:
    """Each read brings little, but the handler takes none of it."""
    stage = make_stage(inbox_messages=1000)
    guest, handler = stage.guest()
    stage.pool.held = True
    for count in range(1, 31):
        guest.send(frame(BINARY, bytes(5000)))
        stage.run_for(0.1)
        waiting = count * (5000 + EVENT_SIZE)
        assert stage.server.receiving.total == (waiting if waiting >= LARGE else 0)
    stage.pool.held = False
    stage.pool.kick()
    stage.run_until(lambda: len(handler.messages) == 30)
    stage.run_for(0.1)
    assert stage.server.receiving.total == 0
    guest.send(frame(BINARY, bytes(5000)))
    stage.run_for(0.1)
    assert not stage.server.receiving.counts_for(handler.ws)


@pool_only
def test_those_with_piled_up_messages_are_not_read_from_over_the_budget(make_stage: MakeStage) -> None:
    stage = make_stage(server={"max_received": 50_000}, inbox_messages=1000)
    guest, handler = stage.guest()
    receiving = stage.server.receiving
    stage.pool.held = True
    sent = 0
    while not receiving.holds_off(handler.ws):
        guest.send(frame(BINARY, bytes(5000)))
        stage.run_for(0.1)
        sent += 1
        assert sent <= 10
    assert 50_000 < receiving.total == sent * (5000 + EVENT_SIZE)
    stage.pool.held = False
    stage.pool.kick()
    stage.run_until(lambda: len(handler.messages) == sent)
    stage.run_for(1)
    assert not receiving.holds_off(handler.ws)


@pool_only
@pytest.mark.parametrize(
    ("budget", "counted"), [(100_000, True), (2 * 20_000, True), (2 * 20_500, False), (1 << 20, False), (None, False)]
)
def test_one_read_is_counted_if_all_connections_together_could_fill_the_budget(
    make_stage: MakeStage, budget: int | None, counted: bool
) -> None:
    """With one connection, half of the budget may wait uncounted; with ten, a tenth of it for each."""
    guests = 10 if budget == 100_000 else 1
    stage = make_stage(server={"max_received": budget})
    actors = [stage.guest() for _ in range(guests)]
    stage.pool.held = True
    actors[0][0].send(frame(BINARY, bytes(20_000)))
    stage.run_for(0.1)
    assert stage.server.receiving.total == (20_000 + EVENT_SIZE if counted else 0)
    stage.pool.held = False
    stage.pool.kick()
    stage.run_until(lambda: actors[0][1].messages)


def test_what_waits_for_a_slow_reader_counts(make_stage: MakeStage) -> None:
    """The callbacks of a connection wait while its own queue is full, and its messages with them."""
    stage = make_stage(high_water=1000, low_water=100, network={"buffer_size": 40_000})
    guest, handler = stage.guest()
    handler.do["on_message"] = lambda ws, *message: ws.write_binary(bytes(50_000))
    guest.send(*[frame(BINARY, bytes(10_000))] * 3)
    stage.run_for(1)
    assert len(handler.messages) == 1
    assert 20_000 <= stage.server.receiving.total < 31_000
    while guest.pump():
        stage.run_for(0.1)
    stage.run_until(lambda: len(handler.messages) == 3)
    stage.run_for(1)
    assert stage.server.receiving.total == 0


def test_request_bodies_count(make_stage: MakeStage) -> None:
    stage = make_stage(server={"max_received": 100_000, "body_timeout": 1000.0}, network={"buffer_size": 100_000})
    receiving = stage.server.receiving
    guests = [stage.connect() for _ in range(3)]
    for number, guest in enumerate(guests):
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n"
        guest.send(head + bytes(40_000 + 1000 * (number == 1)))
        stage.run_for(0.05)
    assert receiving.total > 100_000
    assert receiving.counts["paused"] >= 1
    guests[1].wait(lambda: guests[1].end, limit=20)
    assert guests[1]._head is not None
    assert guests[1]._head.startswith(b"HTTP/1.1 503 ")
    assert receiving.total < 100_000
    guests[0].send(bytes(1000))
    stage.run_for(2)
    assert guests[0].unread == 0, "there is room again"


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_budgets_that_cannot_be(value: Any, error: type[Exception]) -> None:
    with Loop() as loop, pytest.raises(error, match="max_received"):
        Receiving.of(loop).limit(value)


def test_the_causes_are_the_keys() -> None:
    with Loop() as loop:
        assert tuple(Receiving.of(loop).counts) == MEASURES
        assert Receiving.of(loop) is Receiving.of(loop)
    assert EVENT_SIZE > 0
