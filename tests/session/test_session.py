"""The session, in virtual time: deadlines, order, backpressure, and every way to the end."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from gows import (
    AcceptOptions,
    ByteBuffer,
    CloseCause,
    ConnectionClosedError,
    Handler,
    Opcode,
    QueueFullError,
    WebSocket,
    accept,
)
from gows.reactor import WRITE, Stream
from gows.reactor.progress import CHECKS_PER_TIMEOUT, Progress
from tests.support import wire
from tests.support.fakes.lock import MeddlingLock
from tests.support.stage import Actor, Echo, Stage
from tests.support.wire import BINARY, CONTINUE, DEFLATE, PING, PONG, TEXT, frame

MakeStage = Callable[..., Stage]


@pytest.fixture(params=["inline", "pool", "by class"])
def make_stage(request: pytest.FixtureRequest) -> Iterator[MakeStage]:
    """Makes a stage; in the end nothing may be open, and nothing unexpected logged."""
    made: list[Stage] = []

    def make(**settings: Any) -> Stage:
        made.append(Stage(**{"inline": request.param != "pool", "by_class": request.param == "by class", **settings}))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


pool_only = pytest.mark.parametrize("make_stage", ["pool"], indirect=True)


# ---------------------------------------------------------------------- heartbeat


def test_a_silent_peer_is_pinged_and_stays_as_long_as_it_answers(make_stage: MakeStage) -> None:
    stage = make_stage(ping_interval=30, ping_timeout=20)
    guest, _handler = stage.guest()
    start = stage.now
    for turn in range(1, 20):
        assert guest.read() == (PING, b"", True, 0)
        assert stage.now - start == pytest.approx(30.0 * turn, abs=0.5 * turn)
        guest.send(frame(PONG))
    assert not guest.end


def test_the_interval_may_be_shorter_than_the_timeout(make_stage: MakeStage) -> None:
    stage = make_stage(ping_interval=5, ping_timeout=20)
    guest, _handler = stage.guest()
    start = stage.now
    for turn in range(1, 10):
        assert guest.read().opcode == PING
        assert stage.now - start == pytest.approx(5.0 * turn, abs=0.5 * turn)
        guest.send(frame(PONG))
    assert guest.read().opcode == PING
    asked = stage.now
    assert guest.drain() == "RST"
    assert stage.now - asked == pytest.approx(20.0, abs=0.5)


def test_pings_to_those_who_came_at_once_are_spread(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gows.session.heartbeat.random", Random(7).random)
    stage = make_stage(ping_interval=30, ping_timeout=20)
    start = stage.now
    guests = [stage.guest()[0] for _ in range(40)]
    assert stage.now - start < 1
    for turn in range(1, 4):
        seconds: list[int] = []
        waiting = list(guests)
        while waiting:
            stage.run_for(1)
            for guest in list(waiting):
                if [frame.opcode for frame in guest.pending()] == [PING]:
                    seconds.append(int(stage.now - start))
                    guest.send(frame(PONG))
                    waiting.remove(guest)
        assert max(seconds) <= 30.0 * turn + turn
        assert max(Counter(seconds).values()) <= 8, "of 40"


def test_a_peer_that_answers_no_ping_is_dead(make_stage: MakeStage) -> None:
    stage = make_stage(ping_interval=30, ping_timeout=20)
    guest, handler = stage.guest()
    start = stage.now
    assert guest.read().opcode == PING
    assert guest.wait_end() == "RST"
    assert stage.now - start == pytest.approx(50.0, abs=0.5)
    assert (handler.close_code, handler.calls) == (1006, ["on_open", "on_close"])
    assert "ping timeout" in handler.close_reason


@pytest.mark.parametrize(
    "sign", [frame(PONG, "unasked"), frame(PING), frame(TEXT, "x"), frame(TEXT, "half a frame")[:5]]
)
def test_any_byte_counts_as_life(make_stage: MakeStage, sign: bytes) -> None:
    stage = make_stage(ping_interval=30, ping_timeout=20)
    guest, _ = stage.guest()
    assert guest.read().opcode == PING
    stage.run_for(19)
    guest.send(sign)
    stage.run_for(15)
    assert not guest.end
    assert guest.drain() == "RST"


def test_a_peer_that_talks_is_not_pinged(make_stage: MakeStage) -> None:
    stage = make_stage(ping_interval=30, ping_timeout=20)
    guest, _ = stage.guest()
    for _ in range(20):
        stage.run_for(20)
        guest.send(frame(TEXT, "x"))
    stage.run_for(1)
    assert guest.pending() == []


def test_a_large_message_that_comes_slowly_is_life(make_stage: MakeStage) -> None:
    stage = make_stage(make_handler=Echo, ping_interval=30, ping_timeout=20)
    guest, handler = stage.guest()
    data = bytes(1000)
    message = frame(BINARY, data)
    for at in range(0, len(message), 50):  # 20 pieces, 25 s apart: never silent for 30 s
        guest.send(message[at : at + 50])
        stage.run_for(25)
    assert guest.read() == (BINARY, data, True, 0)
    assert handler.messages == [data]


def test_without_a_ping_interval_nobody_is_pinged(make_stage: MakeStage) -> None:
    stage = make_stage(ping_interval=None)
    guest, _ = stage.guest()
    stage.run_for(10_000)
    assert guest.pending() == []
    assert not guest.end


def test_without_a_ping_timeout_nobody_is_dropped_for_silence(make_stage: MakeStage) -> None:
    stage = make_stage(ping_interval=30, ping_timeout=None)
    guest, _ = stage.guest()
    stage.run_for(95)
    assert [found.opcode for found in guest.pending()] == [PING] * 3
    assert not guest.end


@pytest.mark.parametrize("interval", [1, 100])
def test_a_ping_has_its_whole_timeout_whatever_else_is_looked_at_meanwhile(
    make_stage: MakeStage, interval: float
) -> None:
    """Other deadlines are looked at in between: none of them may judge the ping early."""
    stage = make_stage(ping_interval=interval, ping_timeout=20, write_timeout=3, network={"buffer_size": 1000})
    guest, handler = stage.guest()
    assert guest.read(101).opcode == PING
    pinged = stage.now
    for _ in range(5):
        handler.ws.write_binary(bytes(3000))  # more than the network takes: the write timeout runs
        stage.run_for(1)
        guest.wait(guest.pending)
        handler.ws.set_write_timeout(3)
        stage.run_for(2)
    assert not guest.end
    guest.wait(lambda: guest.end)
    assert 20 <= stage.now - pinged < 21.5
    assert "ping timeout" in handler.close_reason


def test_a_peer_that_takes_what_we_send_is_not_dead(make_stage: MakeStage) -> None:
    """Its pong stands behind all that it has to read first."""
    stage = make_stage(ping_interval=10, ping_timeout=5, write_timeout=30, network={"buffer_size": 1000})
    guest, handler = stage.guest()
    handler.ws.write_binary(bytes(100_000))
    for _ in range(95):
        stage.run_for(1)
        guest.pump(1000)
        assert not guest.end
    assert guest.read().opcode == BINARY


def test_a_ping_behind_megabytes_in_the_kernel_is_no_sign_of_death(make_stage: MakeStage) -> None:
    stage = make_stage(ping_interval=10, ping_timeout=5, network={"buffer_size": 1 << 21})
    guest, handler = stage.guest()
    handler.ws.write_binary(bytes(1_000_000))
    for _ in range(95):
        stage.run_for(1)
        guest.pump(10_000)
        assert not guest.end
    guest.pump()
    stage.run_until(lambda: handler.close_code, 16)  # it takes no more, so it does not answer either
    assert "ping timeout" in handler.close_reason
    assert guest.end == ""


def test_a_peer_that_takes_nothing_of_what_the_kernel_holds_is_dead(make_stage: MakeStage) -> None:
    stage = make_stage(ping_interval=10, ping_timeout=5, network={"buffer_size": 1 << 21})
    guest, handler = stage.guest()
    handler.ws.write_binary(bytes(1_000_000))
    start = stage.now
    while handler.close_code is None:
        handler.ws.write_string("the kernel holds more and more")
        stage.run_for(1)
    assert stage.now - start < 16.5
    assert "ping timeout" in handler.close_reason
    guest.drain()


def test_silence_that_is_ours_is_not_the_peers(make_stage: MakeStage) -> None:
    """A connection that is not read from, because its handler cannot follow, is not dead."""
    stage = make_stage(inline=False, make_handler=Echo, ping_interval=10, ping_timeout=5, inbox_messages=4)
    stage.pool.held = False
    guest, _handler = stage.guest()
    stage.pool.held = True
    guest.send(*(frame(TEXT, str(number)) for number in range(4)))
    stage.run_for(1)
    guest.send(frame(TEXT, "4"))
    stage.run_for(200)
    assert not guest.end
    stage.pool.held = False
    assert [guest.text() for _ in range(5)] == [str(number) for number in range(5)]


def test_a_loop_that_was_held_up_does_not_take_it_out_on_the_peer(make_stage: MakeStage) -> None:
    """All the pongs came meanwhile, more than are read in one turn: nobody is judged before they are read."""
    stage = make_stage(ping_interval=30, ping_timeout=20)
    guest, handler = stage.guest()
    assert guest.read().opcode == PING
    stage.world.clock.advance(60)
    stage.world.turn()
    stage.run_for(0.5)
    assert handler.close_code is None
    guest.send(frame(PONG))
    assert guest.read().opcode == PING
    assert guest.wait_end() == "RST"
    assert "ping timeout" in handler.close_reason


def test_a_close_from_another_thread_may_come_between_look_and_ping(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage(ping_interval=30)
    guest, handler = stage.guest()
    begin = Progress.begin

    def meddle(progress: Progress, stream: Stream, *, least: int = 1) -> None:
        """What the heartbeat calls when it has found that a ping is due."""
        begin(progress, stream, least=least)
        if stream is handler.ws.stream and stream.silent_for() >= 30:
            handler.ws.close_handshake()

    monkeypatch.setattr(Progress, "begin", meddle)
    assert guest.close_frame() == (1000, "")
    guest.send(wire.close(1000))
    assert guest.wait_end() == "FIN"


# ---------------------------------------------------------------------- other deadlines


def test_read_timeout_closes_with_1001(make_stage: MakeStage) -> None:
    stage = make_stage(read_timeout=60, ping_interval=None)
    guest, handler = stage.guest()
    start = stage.now
    stage.run_for(40)
    guest.send(frame(PONG))
    assert guest.close_frame(100) == (1001, "read timeout")
    assert stage.now - start == pytest.approx(100.0, abs=0.5)
    guest.send(wire.close(1001))
    assert guest.wait_end() == "FIN"
    assert handler.calls == ["on_open", "on_pong", "on_close"]


def test_read_timeout_is_put_off_by_pongs(make_stage: MakeStage) -> None:
    stage = make_stage(read_timeout=60, ping_interval=25)
    guest, _ = stage.guest()
    for _ in range(10):
        assert guest.read().opcode == PING
        guest.send(frame(PONG))
    assert not guest.end


def test_write_timeout_drops_a_peer_that_stopped_reading(make_stage: MakeStage) -> None:
    stage = make_stage(write_timeout=30, ping_interval=None, network={"buffer_size": 1000})
    guest, handler = stage.guest()
    handler.ws.write_binary(bytes(10_000))
    for _ in range(3):
        stage.run_for(20)
        guest.pump(100)  # it takes something, now and then
    last = stage.now
    assert handler.calls == ["on_open"]
    stage.run_until(lambda: handler.close_code)
    assert 29.9 <= stage.now - last <= 30 + 30 / CHECKS_PER_TIMEOUT + 0.5, "it is looked at so often"
    assert (handler.close_code, handler.calls) == (1006, ["on_open", "on_close"])
    assert "write timeout" in handler.close_reason
    guest.wait(lambda: guest.end)
    assert guest.end == "RST"


def test_a_peer_that_takes_of_the_kernels_buffer_is_not_dropped(make_stage: MakeStage) -> None:
    """The kernel takes more when a third of its buffer is free: longer than the write timeout."""
    network = {"buffer_size": 600_000, "wakes_at": 0.33}
    stage = make_stage(write_timeout=30, ping_interval=None, network=network, high_water=1 << 20)
    guest, handler = stage.guest()
    handler.ws.write_binary(bytes(1_000_000))
    for _ in range(120):
        stage.run_for(1)
        guest.pump(1000)
    assert handler.calls == ["on_open"]
    last = stage.now
    stage.run_until(lambda: handler.close_code)
    assert stage.now - last == pytest.approx(30.0, abs=4)
    assert "write timeout" in handler.close_reason
    guest.drain()


@pytest.mark.parametrize("buffer_size", [1000, 200_000, 4_000_000], ids=["queue", "both", "kernel"])
def test_what_was_written_before_a_close_arrives_however_long_it_takes(make_stage: MakeStage, buffer_size: int) -> None:
    stage = make_stage(close_timeout=5, ping_interval=None, network={"buffer_size": buffer_size, "wakes_at": 0.3})
    guest, handler = stage.guest()
    handler.ws.write_binary(bytes(3_000_000))
    handler.ws.close_handshake(4000, "done")
    start = stage.now
    while guest.received < 3_000_000:
        for _ in range(30):
            guest.pump(1000)
            stage.run_for(0)
        assert not guest.end, f"{guest.end} after {guest.received} bytes"
        stage.run_for(0.1)
    assert stage.now - start > 9
    assert len(guest.read().payload) == 3_000_000
    assert guest.close_frame() == (4000, "done")
    guest.send(wire.close(4000))
    assert guest.wait_end() == "FIN"
    assert handler.close_code == 4000


@pytest.mark.parametrize("buffer_size", [1000, 4_000_000], ids=["queue", "kernel"])
def test_a_peer_that_takes_a_byte_now_and_then_does_not_hold_up_a_close(
    make_stage: MakeStage, buffer_size: int
) -> None:
    stage = make_stage(close_timeout=5, ping_interval=None, network={"buffer_size": buffer_size})
    guest, handler = stage.guest()
    handler.ws.write_binary(bytes(3_000_000))
    handler.ws.close_handshake()
    start = stage.now
    while handler.close_code is None:
        guest.pump(500)
        stage.run_for(0.5)
        assert stage.now < start + 6
    guest.drain()


def test_without_a_write_timeout_a_peer_may_stop_for_ever(make_stage: MakeStage) -> None:
    stage = make_stage(write_timeout=None, ping_interval=None, network={"buffer_size": 1000})
    guest, handler = stage.guest()
    handler.ws.write_binary(bytes(10_000))
    stage.run_for(10_000)
    assert handler.calls == ["on_open"]
    assert guest.read().payload == bytes(10_000)


def test_close_timeout_bounds_a_peer_that_never_answers(make_stage: MakeStage) -> None:
    stage = make_stage(close_timeout=5)
    guest, handler = stage.guest()
    handler.ws.close_handshake(4000, "enough")
    start = stage.now
    assert guest.close_frame() == (4000, "enough")
    while not guest.end and stage.now < start + 20:
        guest.sock.send(frame(TEXT, "not listening"))
        stage.run_for(1)
        guest.pump()
    assert guest.end == "RST"
    assert stage.now - start == pytest.approx(5.0, abs=1.5)
    assert (handler.close_code, handler.calls) == (1006, ["on_open", "on_close"])
    assert handler.messages == []


def test_a_peer_that_answers_our_close_and_stays_is_left(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    handler.ws.close_handshake()
    assert guest.close_frame() == (1000, "")
    guest.send(wire.close(1000))
    assert guest.wait_end() == "FIN"
    assert handler.close_code == 1000
    stage.run_until(lambda: not stage.loop.live_streams, 5)


@pytest.mark.parametrize("spoke", [False, True])
def test_serve_timeout_closes_what_was_accepted_and_never_served(make_stage: MakeStage, spoke: bool) -> None:
    stage = make_stage()
    kept = []
    stage.view = lambda request: kept.append(accept(request))
    guest = stage.connect()
    assert guest.upgrade().status == 101
    start = stage.now
    if spoke:
        guest.send(frame(TEXT, "hello?"))
    assert guest.close_frame() == (1011, "not served")
    assert stage.now - start == pytest.approx(10.0, abs=0.5)
    guest.wait_end()
    (said,) = stage.log.take()
    assert "not served" in said
    handler = Actor()
    kept[0].serve(handler)
    stage.run_until(lambda: handler.close_code)
    assert (handler.close_code, handler.calls) == (1006, ["on_open", "on_close"])


def test_timeouts_can_be_set_for_one_connection(make_stage: MakeStage) -> None:
    stage = make_stage(read_timeout=None, ping_interval=None, write_timeout=None, network={"buffer_size": 1000})
    (one, first), (_other, second) = stage.guest(), stage.guest()
    first.ws.set_read_timeout(7)
    second.ws.set_write_timeout(9)
    second.ws.write_binary(bytes(10_000))
    start = stage.now
    assert one.close_frame() == (1001, "read timeout")
    assert stage.now - start == pytest.approx(7.0, abs=0.5)
    stage.run_until(lambda: second.close_code)
    assert stage.now - start == pytest.approx(9.0, abs=0.5)
    one.send(wire.close(1001))
    one.wait_end()


def test_timeouts_can_be_taken_away(make_stage: MakeStage) -> None:
    stage = make_stage(read_timeout=7, ping_interval=None)
    guest, handler = stage.guest()
    handler.ws.set_read_timeout(None)
    stage.run_for(1000)
    assert guest.pending() == []
    for bad in (0, -1, "1", True):
        with pytest.raises((TypeError, ValueError)):
            handler.ws.set_read_timeout(bad)
        with pytest.raises((TypeError, ValueError)):
            handler.ws.set_write_timeout(bad)


def test_timeouts_may_be_set_when_all_is_over(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    guest.fin()
    stage.run_until(lambda: not stage.loop.live_streams)
    handler.ws.set_read_timeout(1)
    stage.run_for(10)
    assert handler.calls == ["on_open", "on_close"]


# ---------------------------------------------------------------------- backpressure


def test_an_echo_to_a_slow_reader_waits_and_loses_nothing(make_stage: MakeStage) -> None:
    stage = make_stage(
        make_handler=Echo, high_water=4000, low_water=1000, inbox_messages=8, network={"buffer_size": 2000}
    )
    guest, handler = stage.guest()
    expected = [f"{number} " + "x" * (number % 700) for number in range(300)]
    outgoing = b"".join(frame(TEXT, text) for text in expected)
    sent = 0
    received: list[str] = []
    for _ in range(100_000):
        if len(received) == len(expected):
            break
        if sent < len(outgoing) and guest.sock.readiness() & WRITE:
            sent += guest.sock.send(outgoing[sent : sent + 5000])
        stage.world.turn()
        assert handler.ws.buffered <= 4000 + 800
        guest.pump(300)
        received += [found.payload.decode() for found in guest.taken()]
    assert received == expected
    assert not stage.log.messages


@pytest.mark.parametrize("size", [100, 400])
def test_an_echo_of_one_message_at_a_time_to_a_slow_reader_waits_too(make_stage: MakeStage, size: int) -> None:
    """Each message comes in a read of its own, when the queue is over the mark already."""
    stage = make_stage(make_handler=Echo, high_water=1000, low_water=100, network={"buffer_size": 500})
    guest, handler = stage.guest()
    for number in range(40):
        guest.send(frame(TEXT, f"{number:{size}}"))
        stage.run_for(0.2)
        assert handler.ws.buffered <= 1500
    assert [guest.text() for _ in range(40)] == [f"{number:{size}}" for number in range(40)]
    assert handler.close_code is None


@pytest.mark.parametrize("moment", range(8))
@pytest.mark.parametrize("size", [500, 4000])
def test_callbacks_that_wait_go_on_whenever_another_thread_writes(
    make_stage: MakeStage, moment: int, size: int
) -> None:
    """Between any two steps of the thread that finds the queue over the mark; the kernel then takes everything."""
    stage = make_stage(high_water=1000, low_water=100, network={"buffer_size": 1 << 20})
    guest, handler = stage.guest()
    ws = handler.ws
    lock = ws.stream.lock = MeddlingLock()
    steps = 0

    def meddle() -> None:
        nonlocal steps
        steps += 1
        if steps == moment:
            lock.after = None
            ws.stream.write(bytes(size))

    def answer(ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        if len(handler.messages) == 1:
            ws.write_binary(bytes(2000))  # over the mark
            lock.after = meddle

    handler.do["on_message"] = answer
    guest.send(*(frame(TEXT, str(number)) for number in range(4)))
    stage.run_until(lambda: len(handler.messages) == 4, limit=5)
    lock.after = None


def test_callbacks_that_wait_go_on_when_what_they_wait_for_is_lost(make_stage: MakeStage) -> None:
    """Sending failed; what the peer sent before is still read, and nothing of ours is queued any more."""
    stage = make_stage(high_water=1000, low_water=100, inbox_messages=4, network={"buffer_size": 500})
    guest, handler = stage.guest()
    handler.do["on_message"] = lambda ws, *message: ws.write_binary(bytes(2000))
    guest.send(*(frame(TEXT, str(number)) for number in range(4)))
    stage.run_for(0.5)
    assert len(handler.messages) == 1
    sock = handler.ws.stream.sock

    def broken(data: object) -> int:
        raise BrokenPipeError

    sock.send = sock.sendmsg = broken
    guest.pump(500)
    stage.run_until(lambda: len(handler.messages) == 4, limit=5)
    guest.send(frame(TEXT, "the last"))
    stage.run_until(lambda: len(handler.messages) == 5, limit=5)


class ChunkEcho(Actor):
    """Sends back the pieces as messages."""

    def on_chunk(self, ws: WebSocket, opcode: Opcode, fin: bool, buff: ByteBuffer) -> None:
        self._told("on_chunk")
        ws.write_binary(buff)


def test_pieces_wait_for_a_slow_reader_too(make_stage: MakeStage) -> None:
    stage = make_stage(make_handler=ChunkEcho, high_water=1000, low_water=100, network={"buffer_size": 500})
    guest, handler = stage.guest()
    guest.send(*(frame(CONTINUE if number else BINARY, bytes(400), fin=False) for number in range(20)))
    stage.run_for(5)
    assert handler.ws.buffered <= 1500
    guest.send(frame(CONTINUE))
    received = b""
    while len(received) < 8000:
        received += guest.read().payload
    assert handler.close_code is None


@pytest.mark.parametrize("way", ["RST", "our close"])
def test_an_end_while_callbacks_wait_for_a_slow_reader(make_stage: MakeStage, way: str) -> None:
    """What came is delivered, though nothing can be answered any more."""
    stage = make_stage(high_water=1000, low_water=100, network={"buffer_size": 500})
    guest, handler = stage.guest()
    refused: list[Exception] = []

    def answer(ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        try:
            ws.write_binary(buff)
        except ConnectionClosedError as error:
            refused.append(error)

    handler.do["on_message"] = answer
    guest.send(*(frame(BINARY, bytes(400)) for _ in range(10)))
    stage.run_for(1)
    delivered = len(handler.messages)
    assert delivered < 10
    if way == "RST":
        guest.reset()
    else:
        handler.ws.close()
    stage.run_until(lambda: handler.close_code)
    assert len(handler.messages) == 10
    assert len(refused) == 10 - delivered
    assert handler.calls[-1] == "on_close"


def test_refuse_raises_and_sends_nothing(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="refuse", high_water=1000, low_water=200, network={"buffer_size": 500})
    guest, handler = stage.guest()
    ws = handler.ws
    ws.write_binary(b"a" * 2000)
    for write in (ws.write_string, ws.write_json):
        with pytest.raises(QueueFullError):
            write("no")
    with pytest.raises(QueueFullError):
        ws.write_binary(b"no")
    assert guest.read().payload == b"a" * 2000
    stage.run_until(lambda: "on_drain" in handler.calls)
    ws.write_string("yes")
    assert guest.text() == "yes"


def test_drop_loses_text_and_binary_alike(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="drop", high_water=1000, low_water=200, network={"buffer_size": 500})
    guest, handler = stage.guest()
    ws = handler.ws
    ws.write_binary(b"a" * 2000)
    ws.write_binary(b"lost")
    ws.write_text(b"lost")
    ws.write_message(Opcode.TEXT, b"lost")
    ws.write_json("lost")
    ws.write_ping(b"not a message")
    assert guest.read().payload == b"a" * 2000
    assert guest.read() == (PING, b"not a message", True, 0)
    stage.run_for(1)
    assert not guest.pending()


def test_drop_loses_the_message_and_says_nothing(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="drop", high_water=1000, low_water=200, network={"buffer_size": 500})
    guest, handler = stage.guest()
    handler.ws.write_binary(b"a" * 2000)
    for number in range(100):
        handler.ws.write_string(f"lost {number}")
    assert guest.read().payload == b"a" * 2000
    handler.ws.write_string("kept")
    assert guest.text() == "kept"


def test_close_ends_a_connection_that_is_too_slow(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="close", high_water=1000, low_water=200, network={"buffer_size": 500})
    guest, handler = stage.guest()
    handler.ws.write_binary(b"a" * 2000)
    handler.ws.write_string("one too many")
    assert handler.ws.closed
    assert guest.read().payload == b"a" * 2000
    assert guest.close_frame() == (1013, "too slow")
    guest.send(wire.close(1013))
    assert guest.wait_end() == "FIN"
    assert handler.close_code == 1013


def test_close_for_slowness_is_bounded(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="close", close_timeout=5, high_water=1000, low_water=200, network={"buffer_size": 500})
    _, handler = stage.guest()
    handler.ws.write_binary(b"a" * 2000)
    handler.ws.write_string("one too many")
    start = stage.now
    stage.run_until(lambda: handler.close_code)
    assert stage.now - start == pytest.approx(5.0, abs=0.5)
    assert handler.close_code == 1006


def test_what_the_kernel_takes_is_not_over_the_mark(make_stage: MakeStage) -> None:
    stage = make_stage(high_water=1000, low_water=200)
    guest, handler = stage.guest()
    for _ in range(50):  # in one callback's worth of time, so that nothing was sent yet
        handler.ws.write_binary(b"a" * 900)
    for _ in range(50):
        assert guest.read().payload == b"a" * 900


def test_on_drain_comes_once_for_each_time_the_queue_was_full(make_stage: MakeStage) -> None:
    stage = make_stage(high_water=1000, low_water=200, network={"buffer_size": 500})
    guest, handler = stage.guest()
    for turn in range(1, 4):
        handler.ws.write_binary(bytes(5000))
        assert len(guest.read().payload) == 5000
        stage.run_for(1)
        assert handler.calls.count("on_drain") == turn
        assert handler.ws.buffered == 0
    handler.ws.write_binary(bytes(700))  # above what the network takes, below the mark
    assert len(guest.read().payload) == 700
    stage.run_for(1)
    assert handler.calls.count("on_drain") == 3


def test_on_drain_may_write(make_stage: MakeStage) -> None:
    stage = make_stage(high_water=1000, low_water=200, network={"buffer_size": 500})
    guest, handler = stage.guest()
    left = [5]

    def more(ws: WebSocket) -> None:
        if left[0]:
            left[0] -= 1
            ws.write_binary(bytes(5000))

    handler.do["on_drain"] = more
    more(handler.ws)
    for _ in range(5):
        assert len(guest.read().payload) == 5000
    stage.run_for(1)
    assert handler.calls == ["on_open"] + ["on_drain"] * 5


def test_the_queue_may_drain_before_there_is_a_handler(make_stage: MakeStage) -> None:
    stage = make_stage(high_water=1000, low_water=200, network={"buffer_size": 500})
    kept: list[WebSocket] = []
    stage.view = lambda request: kept.append(accept(request, stage.options))
    guest = stage.connect()
    assert guest.upgrade().status == 101
    kept[0].write_binary(bytes(5000))
    assert len(guest.read().payload) == 5000
    stage.run_for(1)
    handler = Echo()
    kept[0].serve(handler)
    guest.send(frame(TEXT, "now"))
    assert guest.text() == "now"


@pool_only
def test_a_full_inbox_pauses_reading_and_goes_on(make_stage: MakeStage) -> None:
    stage = make_stage(make_handler=Echo, inbox_messages=8, network={"buffer_size": 2000})
    guest, handler = stage.guest()
    stage.pool.held = True
    outgoing = b"".join(frame(TEXT, f"{number:90}") for number in range(1000))
    sent = 0
    for _ in range(1000):
        stage.world.turn()
        try:
            sent += guest.sock.send(outgoing[sent : sent + 500])
        except BlockingIOError:
            break
    assert sent < 10_000, "what is not read stays in the network"
    assert handler.messages == []
    stage.pool.held = False
    guest.send(outgoing[sent:])
    assert [guest.text() for _ in range(1000)] == [f"{number:90}" for number in range(1000)]


def test_a_read_that_inflates_to_very_much_is_taken_in_parts(make_stage: MakeStage) -> None:
    """Each part is a message here; what was not parsed yet waits, and nothing is read meanwhile."""
    stage = make_stage(compression=True, max_message_size=300_000, min_compress_size=1 << 30)
    guest, handler = stage.guest(DEFLATE)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    payload = (compressor.compress(bytes(200_000)) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    handler.do["on_message"] = lambda ws, opcode, buff: ws.write_binary(len(buff).to_bytes(4, "big"))
    guest.send(frame(BINARY, payload, rsv=4) * 30, frame(TEXT, "last"))
    for _ in range(30):
        assert guest.read().payload == (200_000).to_bytes(4, "big")
    assert guest.read().payload == (4).to_bytes(4, "big")
    guest.send(frame(TEXT, "and on"))
    assert guest.read().payload == (6).to_bytes(4, "big")


@pool_only
@pytest.mark.parametrize("kind", [Echo, ChunkEcho])
def test_an_inbox_is_full_by_bytes_too(make_stage: MakeStage, kind: type[Actor]) -> None:
    stage = make_stage(make_handler=kind, max_message_size=10_000, network={"buffer_size": 100_000})
    guest, _handler = stage.guest()
    stage.pool.held = True
    sent = 0
    while not guest.unread:
        assert sent < 40_000
        guest.send(frame(BINARY, bytes(9000)))
        sent += 9000
        stage.run_for(0.1)
    stage.pool.held = False
    stage.run_for(1)
    assert not guest.unread


# ---------------------------------------------------------------------- order


def test_callbacks_come_in_the_order_of_the_wire(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    guest.send(
        frame(TEXT, "1"),
        frame(PONG, "2"),
        frame(PING, "3"),
        frame(BINARY, b"4", fin=False),
        frame(PING, "5"),
        frame(CONTINUE, b"6"),
        wire.close(1000),
    )
    guest.wait(lambda: guest.end)
    assert handler.calls == ["on_open", "on_message", "on_pong", "on_ping", "on_ping", "on_message", "on_close"]
    assert handler.messages == ["1", b"46"]


@pool_only
def test_pings_are_answered_while_the_handler_is_busy(make_stage: MakeStage) -> None:
    stage = make_stage(make_handler=Echo)
    guest, handler = stage.guest()
    stage.pool.held = True
    guest.send(frame(TEXT, "slow"), frame(PING, "a"), frame(PING, "b"))
    assert guest.read() == (PONG, b"a", True, 0)
    assert guest.read() == (PONG, b"b", True, 0)
    assert "on_ping" not in handler.calls
    stage.pool.held = False
    assert guest.text() == "slow"
    assert handler.calls == ["on_open", "on_message", "on_ping", "on_ping"]


def test_pings_are_not_told_to_a_handler_that_does_not_ask(make_stage: MakeStage) -> None:
    class Deaf(Handler):
        pass

    stage = make_stage(make_handler=Deaf)
    guest, _ = stage.guest()
    guest.send(frame(PING, "x"), frame(PONG, "y"))
    assert guest.read() == (PONG, b"x", True, 0)


def test_a_peer_that_does_not_read_has_16_pongs_at_most(make_stage: MakeStage) -> None:
    stage = make_stage(network={"buffer_size": 1000})
    guest, handler = stage.guest()
    for _ in range(500):
        guest.send(frame(PING, "x" * 125))
        stage.run_for(0.01)
        assert handler.ws.buffered <= 16 * 127
    assert handler.ws.buffered >= 15 * 127
    pongs = 0
    while handler.ws.buffered:
        pongs += len(guest.pending())
        stage.run_for(0.1)
    pongs += len(guest.pending())
    assert 16 <= pongs <= 16 + 1000 // 127
    guest.send(frame(PING, "again"))
    assert guest.read() == (PONG, b"again", True, 0)
    assert handler.calls.count("on_ping") == 501


# ---------------------------------------------------------------------- what came before the end is answered first


def test_what_came_before_a_close_is_answered_before_ours(make_stage: MakeStage) -> None:
    stage = make_stage(make_handler=Echo)
    guest, handler = stage.guest()
    guest.send(*(frame(TEXT, str(number)) for number in range(50)), wire.close(4001, "bye"))
    assert [guest.text() for _ in range(50)] == [str(number) for number in range(50)]
    assert guest.close_frame() == (4001, "bye")
    assert guest.wait_end() == "FIN"
    assert (handler.close_code, handler.close_reason) == (4001, "bye")


def test_what_came_before_a_fault_is_answered_before_our_close(make_stage: MakeStage) -> None:
    stage = make_stage(make_handler=Echo)
    guest, handler = stage.guest()
    guest.send(*(frame(TEXT, str(number)) for number in range(50)), frame(TEXT, b"\xff"), frame(TEXT, "after"))
    assert [guest.text() for _ in range(50)] == [str(number) for number in range(50)]
    assert guest.close_frame()[0] == 1007
    assert guest.wait_end() == "FIN"
    assert handler.close_code == 1007
    assert len(handler.messages) == 50


def test_what_came_before_the_end_of_the_stream_is_answered(make_stage: MakeStage) -> None:
    stage = make_stage(make_handler=Echo)
    guest, handler = stage.guest()
    guest.send(*(frame(TEXT, str(number)) for number in range(50)))
    guest.fin()
    assert [guest.text() for _ in range(50)] == [str(number) for number in range(50)]
    assert guest.wait_end() == "FIN"
    assert (handler.close_code, handler.close_reason) == (1006, "")


def test_what_came_before_a_reset_is_delivered(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    guest.send(*(frame(TEXT, str(number)) for number in range(50)))
    guest.reset()
    stage.run_until(lambda: handler.close_code)
    assert handler.messages == [str(number) for number in range(50)]


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (4001, "see you"), (1005, "")])
def test_a_close_is_answered_with_its_code_and_reason(make_stage: MakeStage, code: int, reason: str) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    guest.send(frame(wire.CLOSE) if code == 1005 else wire.close(code, reason))
    assert guest.close_frame() == (code, reason)
    stage.run_until(lambda: handler.close_code)
    assert (handler.close_code, handler.close_reason) == (code, reason)


@pool_only
@pytest.mark.parametrize("end", [wire.close(4001), frame(TEXT, b"\xff")], ids=["close", "fault"])
def test_the_answer_to_an_end_waits_for_a_busy_handler_as_long_as_a_close_may_take(
    make_stage: MakeStage, end: bytes
) -> None:
    """Whatever deadline ran before, the heartbeat's for one."""
    stage = make_stage(make_handler=Echo, close_timeout=5, ping_interval=30)
    guest, _handler = stage.guest()
    stage.run_for(29)
    guest.send(frame(TEXT, "x"))
    assert guest.text() == "x"
    stage.run_for(29)
    stage.pool.held = True
    guest.send(frame(TEXT, "last"), end)
    stage.run_for(4)
    assert not guest.end
    stage.pool.held = False
    assert guest.text() == "last"
    assert guest.close_frame()[0] in (4001, 1007)
    assert guest.wait_end() == "FIN"


@pool_only
@pytest.mark.parametrize("end", [wire.close(4001), frame(TEXT, b"\xff")], ids=["close", "fault"])
@pytest.mark.parametrize("interval", [30, None])
def test_a_handler_that_is_too_busy_for_the_end_is_cut_off(
    make_stage: MakeStage, end: bytes, interval: float | None
) -> None:
    stage = make_stage(make_handler=Echo, close_timeout=5, ping_interval=interval)
    guest, handler = stage.guest()
    stage.pool.held = True
    guest.send(frame(TEXT, "last"), end)
    start = stage.now
    assert guest.wait_end() == "RST"
    assert stage.now - start == pytest.approx(5.0, abs=0.5)
    stage.pool.held = False
    stage.world.turn()
    stage.loop.wakeup.wake()
    stage.run_until(lambda: handler.close_code)
    assert handler.calls[-1] == "on_close"
    assert handler.close_code in (4001, 1007)


@pytest.mark.parametrize("end", ["close", "fault", "FIN"])
def test_the_answer_to_an_end_goes_behind_a_full_queue(make_stage: MakeStage, end: str) -> None:
    stage = make_stage(
        make_handler=Echo, close_timeout=500, high_water=1000, low_water=200, network={"buffer_size": 500}
    )
    guest, handler = stage.guest()
    messages = [bytes([number]) * 400 for number in range(20)]
    guest.send(*(frame(BINARY, message) for message in messages))
    if end == "FIN":
        guest.fin()
    else:
        guest.send(wire.close(1000) if end == "close" else frame(TEXT, key=None))
    stage.run_for(1)
    assert handler.close_code is None, "most messages wait"
    assert [guest.read().payload for _ in messages] == messages
    if end != "FIN":
        assert guest.close_frame()[0] == (1000 if end == "close" else 1002)
    assert guest.wait_end() == "FIN"
    stage.run_until(lambda: handler.close_code)
    assert handler.calls[-1] == "on_close"


# ---------------------------------------------------------------------- the rest


def test_equal_options_made_for_each_connection_share_their_tables(make_stage: MakeStage) -> None:
    stage = make_stage()

    def check(request: Any) -> bool:
        return True

    def view(request: Any) -> None:
        ws = accept(request, AcceptOptions(max_message_size=10, check_origin=check))
        ws.set_read_timeout(100.0)
        stage.handlers.append(Echo())
        ws.serve(stage.handlers[-1])

    stage.view = view
    contexts = set()
    for _ in range(70):
        guest, handler = stage.guest()
        contexts.add(handler.ws.context)
        guest.send(frame(TEXT, "x" * 10))
        assert guest.text() == "x" * 10
    assert len(contexts) == 1
    assert handler.ws.context.options.read_timeout == 100.0
    guest.send(frame(TEXT, "x" * 11))
    assert guest.close_frame()[0] == 1009


@pytest.mark.parametrize("callback", ["on_message", "on_ping", "on_close"])
@pytest.mark.parametrize("make_stage", ["inline", "by class"], indirect=True)
def test_ctrl_c_within_a_callback_is_for_the_program(make_stage: MakeStage, callback: str) -> None:
    stage = make_stage()
    guest, handler = stage.guest()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handler.do[callback] = interrupt
    guest.send({"on_message": frame(TEXT, "x"), "on_ping": frame(PING), "on_close": wire.close(1000)}[callback])
    with pytest.raises(KeyboardInterrupt):
        stage.run_for(1)
    assert len(stage.log.take()) == 1
    handler.do.clear()
    if callback != "on_close":
        stage.run_for(1)
        assert guest.pending()[-1].close_code == 1011
        guest.send(wire.close(1011))
    stage.run_until(lambda: "on_close" in handler.calls)


# ---------------------------------------------------------------------- what made it end


def raising(*_: Any) -> None:
    raise ValueError("of the user's")


def peer_closes(stage: Stage, guest: Any, handler: Any) -> None:
    guest.send(wire.close(1000))


def peer_vanishes(stage: Stage, guest: Any, handler: Any) -> None:
    guest.reset()


def peer_half_closes(stage: Stage, guest: Any, handler: Any) -> None:
    guest.fin()


def peer_is_silent(stage: Stage, guest: Any, handler: Any) -> None:
    stage.run_for(80)


def peer_sends_rubbish(stage: Stage, guest: Any, handler: Any) -> None:
    guest.send(frame(3, b"reserved opcode"))


def peer_does_not_read(stage: Stage, guest: Any, handler: Any) -> None:
    handler.ws.write_binary(bytes(1 << 18))
    guest.send(frame(PONG))
    stage.run_for(31)


def callback_raises(stage: Stage, guest: Any, handler: Any) -> None:
    handler.do["on_message"] = raising
    guest.send(frame(TEXT, "x"))
    guest.drain()
    assert len(stage.log.take()) == 1


def we_close(stage: Stage, guest: Any, handler: Any) -> None:
    handler.ws.close_handshake(1000)
    guest.send(wire.close(1000))


def we_close_at_once(stage: Stage, guest: Any, handler: Any) -> None:
    handler.ws.close()


@pytest.mark.parametrize(
    ("end", "cause", "code"),
    [
        (peer_closes, CloseCause.PEER, 1000),
        (peer_vanishes, CloseCause.LOST, 1006),
        (peer_half_closes, CloseCause.LOST, 1006),
        (peer_is_silent, CloseCause.IDLE, 1006),
        (peer_sends_rubbish, CloseCause.PROTOCOL_ERROR, 1002),
        (peer_does_not_read, CloseCause.SLOW, 1006),
        (callback_raises, CloseCause.HANDLER_ERROR, 1006),
        (we_close, CloseCause.LOCAL, 1000),
        (we_close_at_once, CloseCause.LOCAL, 1006),
    ],
)
def test_what_made_it_end_is_told(
    make_stage: MakeStage, end: Callable[[Stage, Any, Any], None], cause: CloseCause, code: int
) -> None:
    stage = make_stage(high_water=1 << 20, network={"buffer_size": 65536})
    guest, handler = stage.guest()
    before = handler.ws.close_cause
    assert before is None
    end(stage, guest, handler)
    stage.run_until(lambda: "on_close" in handler.calls)
    assert (handler.ws.close_cause, handler.close_code) == (cause, code)
