"""Drain: hundreds of connections that are closed over a time, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from gows import ByteBuffer, CloseCause, Opcode, Response, WebSocket, accept
from gows.reactor import Target
from gows.server.drain import Drain
from tests.support import wire
from tests.support.stage import ADDRESS, Echo, Guest, MakeStage, Stage
from tests.support.wire import Answer


def drain(stage: Stage, seconds: float | None, timeout: float = 5.0) -> Drain:
    """Begin it."""
    stage.server._leaving = stage.server._stopping = True
    begun = Drain(stage.loop, stage.server, stage.server._listeners, seconds, timeout)
    stage.loop.call_soon(begun.begin)
    return begun


def closes(stage: Stage, guests: list[Guest], until: Callable[[], object], limit: float = 120.0) -> dict[Guest, float]:
    """Seconds after now at which each guest saw a close frame, which it answered."""
    began = stage.now
    seen: dict[Guest, float] = {}
    while not until():
        assert stage.now - began < limit
        stage.run_for(0.1)
        for guest in guests:
            for frame in guest.pending():
                if frame.opcode == wire.CLOSE:
                    seen[guest] = stage.now - began
                    guest.send(wire.close(frame.close_code))
    return seen


@pytest.mark.slow
def test_closes_are_spread_evenly_with_jitter(make_stage: MakeStage) -> None:
    stage = make_stage(make_handler=Echo)
    guests = [stage.guest()[0] for _ in range(400)]
    begun = drain(stage, 20.0)
    seen = closes(stage, guests, begun.finished.is_set)
    assert len(seen) == 400
    assert max(seen.values()) < 21
    a_second = [sum(second <= at < second + 1 for at in seen.values()) for second in range(20)]
    assert max(a_second) <= 35, a_second  # 20 on average
    assert min(a_second[1:-1]) >= 8, a_second
    order = sorted(guests, key=seen.__getitem__)
    assert order != guests, "in random order"
    tenths = [sum(second <= at * 10 < second + 1 for at in seen.values()) for second in range(200)]
    assert len(set(tenths)) > 3, "with jitter"
    for handler in stage.handlers:
        assert (handler.ws.close_code, handler.ws.close_cause) == (1012, CloseCause.SHUTDOWN)
        assert handler.calls == ["on_open", "on_close"]


@pytest.mark.slow
def test_nothing_that_was_sent_is_lost_in_silence(make_stage: MakeStage) -> None:
    """Guests that never stop talking: each message is answered, or its sender sees the close."""
    stage = make_stage(make_handler=Echo)
    guests = [stage.guest()[0] for _ in range(100)]
    begun = drain(stage, 5.0)
    sent, answered = dict.fromkeys(guests, 0), dict.fromkeys(guests, 0)
    closed: set[Guest] = set()
    randomness = random.Random(1)
    while not begun.finished.is_set():
        for guest in guests:
            if guest not in closed:
                for _ in range(randomness.randrange(3)):
                    guest.send(wire.frame(wire.TEXT, str(sent[guest])))
                    sent[guest] += 1
        stage.run_for(0.05)
        for guest in guests:
            for frame in guest.pending():
                if frame.opcode == wire.CLOSE:
                    assert frame.close_code == 1012
                    closed.add(guest)
                    guest.send(wire.close(1012))
                else:
                    assert guest not in closed
                    assert frame.payload == b"%d" % answered[guest]
                    answered[guest] += 1
    assert len(closed) == 100
    for guest, handler in zip(guests, stage.handlers, strict=True):
        assert handler.messages[: answered[guest]] == [str(number) for number in range(answered[guest])]
        assert len(handler.messages) == answered[guest], "what was handled was answered"


def test_what_waits_in_the_inbox_is_answered_before_the_close() -> None:
    stage = Stage(inline=False, make_handler=Echo)
    guest, handler = stage.guest()
    stage.pool.held = True
    guest.send(*[wire.frame(wire.TEXT, str(number)) for number in range(5)])
    stage.run_for(0.1)
    begun = drain(stage, 1.0)
    stage.run_for(2.0)
    assert not guest.pending(), "its callbacks have not come to it"
    guest.send(wire.frame(wire.TEXT, "too late"))
    stage.run_for(0.1)
    stage.pool.held = False
    assert [guest.text() for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert guest.close_frame() == (1012, "")
    guest.send(wire.close(1012))
    stage.run_until(begun.finished.is_set)
    assert handler.close_code == 1012
    stage.close()


def test_callbacks_that_take_too_long_do_not_delay_the_close_for_ever() -> None:
    stage = Stage(inline=False, make_handler=Echo, close_timeout=60)
    guest, _ = stage.guest()
    stage.pool.held = True
    guest.send(wire.frame(wire.TEXT, "hello"))
    stage.run_for(0.1)
    began = stage.now
    begun = drain(stage, 1.0, timeout=4.0)
    assert guest.close_frame() == (1012, "")
    assert 2.9 < stage.now - began < 3.5, "half of the timeout"
    stage.run_until(begun.finished.is_set)
    assert 4.9 < stage.now - began < 5.5
    assert stage.log.take() == ["1 connections did not close in time; they are reset"]
    stage.pool.held = False
    stage.close()


def test_the_deadline_is_hard(make_stage: MakeStage) -> None:
    stage = make_stage(close_timeout=60)
    for _ in range(10):
        stage.guest()
    began = stage.now
    begun = drain(stage, 2.0, timeout=1.0)
    stage.run_until(begun.finished.is_set)
    assert 2.9 < stage.now - began < 3.5
    assert stage.log.take() == ["10 connections did not close in time; they are reset"]


def test_it_is_over_as_soon_as_nobody_is_left(make_stage: MakeStage) -> None:
    stage = make_stage()
    guests = [stage.guest()[0] for _ in range(3)]
    began = stage.now
    begun = drain(stage, 60.0)
    for guest in guests:
        guest.send(wire.close(1000))
        assert guest.close_frame()[0] == 1000
        guest.fin()
    stage.run_until(begun.finished.is_set)
    assert stage.now - began < 5


def test_without_a_drain_all_are_closed_at_once_with_1001(make_stage: MakeStage) -> None:
    stage = make_stage()
    guests = [stage.guest()[0] for _ in range(20)]
    begun = drain(stage, None)
    seen = closes(stage, guests, begun.finished.is_set)
    assert len(seen) == 20
    assert max(seen.values()) < 0.3
    assert {handler.close_code for handler in stage.handlers} == {1001}


def test_what_was_accepted_and_not_served_is_closed(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.view = lambda request: stage.handlers.append(accept(request))
    guest = stage.connect()
    assert guest.upgrade().status == 101
    began = stage.now
    begun = drain(stage, 1.0)
    assert guest.close_frame()[0] == 1012
    assert guest.wait_end() == "FIN"
    guest.fin()
    stage.run_until(begun.finished.is_set)
    assert stage.now - began < 2


# ---------------------------------------------------------------------- HTTP


GET = b"GET /page HTTP/1.1\r\nHost: gows.test\r\n\r\n"


def page(stage: Stage) -> None:
    stage.server.add_route("/page", lambda request: Response.text("hello"))


def read_all(guest: Guest) -> bytes:
    guest.wait(lambda: guest.end)
    assert guest._head is not None
    return guest._head


def await_hello(guest: Guest) -> None:
    guest.wait(lambda: b"hello" in (guest._head or b""))


def test_each_answer_of_a_drain_is_the_last_and_idle_connections_are_closed_last(make_stage: MakeStage) -> None:
    stage = make_stage()
    page(stage)
    used, kept, coming, silent = (stage.connect() for _ in range(4))
    for guest in (used, kept):
        guest.send(GET)
        await_hello(guest)
        assert b"onnection: close" not in (guest._head or b"")
    coming.send(GET[:10])
    stage.run_for(0.1)
    began = stage.now
    begun = drain(stage, 3.0)
    stage.run_for(1.0)
    used.send(GET)
    assert read_all(used).count(b"hello") == 2
    assert b"Connection: close" in read_all(used)
    coming.send(GET[10:])
    assert read_all(coming).endswith(b"hello")
    assert stage.now - began < 1.5
    for guest in (kept, silent):
        assert not guest.end
    assert read_all(kept).count(b"hello") == 1
    assert read_all(silent) == b""
    assert 3 <= stage.now - began < 3.5
    stage.run_until(begun.finished.is_set)
    assert stage.now - began < 6  # two seconds of it for FIN, which did not come


def test_idle_connections_that_are_all_that_is_left_do_not_hold_up_a_long_drain(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, kept = stage.guest()[0], stage.connect()
    began = stage.now
    begun = drain(stage, 1e6)  # so that chance does not choose the WebSocket
    stage.run_for(7)
    kept.pump()
    assert not kept.end, "a WebSocket is still there"
    guest.send(wire.close(1000))
    assert guest.close_frame()[0] == 1000
    guest.fin()
    assert read_all(kept) == b""
    kept.fin()
    stage.run_until(begun.finished.is_set)
    assert stage.now - began < 9


def test_a_request_that_comes_late_in_a_drain_is_answered(make_stage: MakeStage) -> None:
    """Half of the timeout is for it."""
    stage = make_stage()
    page(stage)
    coming = stage.connect()
    coming.send(GET[:10])
    began = stage.now
    drain(stage, 1.0)
    stage.run_for(2.0)
    coming.send(GET[10:])
    assert read_all(coming).endswith(b"hello")
    late = stage.now - began
    assert late < 2.5


@pytest.mark.parametrize("seconds", [None, 0.2], ids=["stop", "drain"])
def test_an_upgrade_that_meets_the_end_is_to_be_tried_again(seconds: float | None) -> None:
    """A view looks somebody up for some seconds, and then accepts."""
    stage = Stage(inline=False)
    guest = stage.connect()
    stage.pool.held = True
    guest.send(wire.request("/ws"))
    stage.run_for(0.1)
    drain(stage, seconds, 5.0)
    stage.run_for(4.0)
    stage.pool.held = False
    answer, _, _ = read_all(guest).partition(b"\r\n\r\n")
    found = Answer.parse(answer)
    assert found.status == 503
    assert 1 <= int(found.headers["retry-after"]) <= 5
    assert found.headers["connection"] == "close"
    stage.close()


def test_who_waited_in_the_kernel_s_queue_is_served(make_stage: MakeStage) -> None:
    stage = make_stage()
    page(stage)
    network = stage.world.network
    socks = [network.dial(Target(2, ADDRESS))[0] for _ in range(300)]
    guests = [Guest(stage, sock) for sock in socks]
    stage.guests += guests
    assert stage.loop.live_streams == 0
    begun = Drain(stage.loop, stage.server, stage.server._listeners, 1.0, 5.0)
    begun.begin()
    for guest in guests[1:]:
        guest.send(GET)
    guests[0].send(wire.request("/ws"))
    assert all(read_all(guest).endswith(b"hello") for guest in guests[1:])
    guests[0].wait(lambda: b"\x88\x02\x03\xf4" in (guests[0]._head or b""))
    assert b"101 Switching" in (guests[0]._head or b"")
    guests[0].send(wire.close(1012))
    stage.run_until(begun.finished.is_set)


def test_who_waited_in_the_kernel_s_queue_is_served_by_a_stop_at_once(make_stage: MakeStage) -> None:
    """The request is there, and is read in the turn after the connection was accepted."""
    stage = make_stage()
    page(stage)
    sock, _ = stage.world.network.dial(Target(2, ADDRESS))
    guest = Guest(stage, sock)
    stage.guests.append(guest)
    begun = drain(stage, None)
    stage.run_until(lambda: sock.accepted)
    guest.send(GET)
    assert read_all(guest).endswith(b"hello")
    guest.fin()
    stage.run_until(begun.finished.is_set, 3)


# ---------------------------------------------------------------------- dismissal


def test_dismissal_while_callbacks_wait_for_a_slow_reader(make_stage: MakeStage) -> None:
    stage = make_stage(make_handler=Echo, network={"buffer_size": 1000}, high_water=2000, low_water=1000)
    guest, handler = stage.guest()
    texts = [f"{number:03}" * 200 for number in range(20)]
    sent = 0
    while handler.ws.buffered <= 2000:
        guest.send(wire.frame(wire.TEXT, texts[sent]))
        sent += 1
        stage.run_for(0.1)
    guest.send(wire.frame(wire.TEXT, texts[sent]))
    stage.run_for(0.1)
    ws = handler.ws
    stage.loop.call_soon(ws.dismiss, 1012, "", CloseCause.SHUTDOWN)
    stage.run_for(0.1)
    assert ws.dismissed
    assert not ws.closed
    assert [guest.text() for _ in range(sent + 1)] == texts[: sent + 1]
    assert guest.close_frame() == (1012, "")
    guest.send(wire.close(1012))


def test_a_dismissed_handler_may_go_first(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, handler = stage.guest()

    def leave(ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        ws.close_handshake(4000, "bye")

    handler.do["on_message"] = leave
    stage.pool.held = True
    guest.send(wire.frame(wire.TEXT, "go"))
    stage.run_for(0.1)
    stage.loop.call_soon(handler.ws.dismiss, 1012, "", CloseCause.SHUTDOWN)
    stage.run_for(0.1)
    stage.pool.held = False
    assert guest.close_frame() == (4000, "bye")
    guest.send(wire.close(4000))
    assert guest.drain() == "FIN"
