"""Rates of what a connection may receive: exact, for messages, control frames and bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gows.bytebuffer import ByteBuffer
from gows.codes import CloseCause, CloseCode
from gows.protocol.connection import (
    CHUNK,
    CLOSE,
    FAIL,
    PING,
    PONG,
    TEXT,
    Connection,
    ConnectionConfig,
    ConnectionState,
    Role,
)
from gows.protocol.deflate import DeflateOptions, DeflateParams, DeflatePool
from gows.protocol.metered import MeteredConnection, RateError
from gows.protocol.rates import Meter, Rate, Rates
from tests.support import wire
from tests.support.fakes import VirtualClock
from tests.support.wire import frame

Make = Callable[..., MeteredConnection]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def connection(
    clock: VirtualClock,
    messages: tuple[float, float] | None = None,
    size: tuple[float, float] | None = None,
    **settings: Any,
) -> MeteredConnection:
    rates = Rates(
        None if messages is None else Meter(*messages, clock),
        None if size is None else Meter(*size, clock),
    )
    return MeteredConnection(ConnectionConfig(Role.SERVER, rates=rates, **settings))


def receive(connection: MeteredConnection, *data: bytes) -> list[tuple[int, Any]]:
    """The events of one read."""
    events: list[tuple[int, Any]] = []
    read = b"".join(data)
    plain: Connection = connection
    assert plain.receive_one(read, 0, len(read)) is None, "nothing goes past the count"
    connection.receive(bytearray(read), len(read), events)
    return [(kind, value.get_bytes().tobytes() if isinstance(value, ByteBuffer) else value) for kind, value in events]


def kinds(events: list[tuple[int, Any]]) -> list[int]:
    return [kind for kind, _ in events]


def text(data: str) -> bytes:
    return frame(wire.TEXT, data)


def test_a_bucket_is_exact() -> None:
    rate = Rate(10.0, 3.0)
    full_at = 0.0
    assert rate.room(full_at, 100.0) == 3
    for left in (2, 1, 0):
        full_at = rate.take(full_at, 100.0, 1)
        assert rate.room(full_at, 100.0) == left
    assert rate.room(full_at, 100.09) == 0
    assert rate.room(full_at, 100.1) == 1
    assert rate.room(full_at, 100.3) == 3
    assert rate.room(full_at, 500.0) == 3, "no more than the burst is saved up"


@given(
    st.lists(st.tuples(st.integers(0, 128), st.integers(0, 8)), max_size=60),
    st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]),  # and times in 64ths: nothing is rounded
    st.integers(1, 20),
)
def test_a_meter_is_a_token_bucket(steps: list[tuple[int, int]], rate: float, burst: int) -> None:
    clock = VirtualClock()
    meter = Meter(rate, burst, clock)
    tokens = float(burst)
    for time, amount in steps:
        clock.advance(time / 64)
        tokens = min(burst, tokens + time / 64 * rate)
        assert meter.room("somebody") == int(tokens)
        taken = meter.take("somebody", amount)
        assert taken == min(amount, int(tokens))
        tokens -= taken


def test_who_took_nothing_for_long_is_forgotten(clock: VirtualClock) -> None:
    meter = Meter(10.0, 20.0, clock)  # two seconds to fill
    for key in range(100):
        assert meter.take(key, 20) == 20
    assert len(meter) == 100
    clock.advance(2.0)
    assert meter.take("new", 1) == 1
    assert len(meter) == 101, "still within two generations"
    clock.advance(2.0)
    assert meter.take("new", 1) == 1
    assert len(meter) == 1
    clock.advance(100.0)
    assert meter.take("other", 20) == 20
    assert len(meter) == 1
    clock.advance(2.0)
    meter.take("new", 1)  # "other" is of the older generation now
    meter.forget("other")
    meter.forget("new")
    meter.forget("never there")
    assert len(meter) == 0


def test_a_key_keeps_its_bucket_from_one_generation_to_the_next(clock: VirtualClock) -> None:
    meter = Meter(1.0, 10.0, clock)
    clock.advance(9.0)
    assert meter.take("a", 10) == 10
    clock.advance(1.0)  # the generations change
    assert meter.take("b", 1) == 1
    assert meter.take("a", 10) == 1
    clock.advance(9.9)
    assert meter.take("a", 10) == 9


def test_messages_up_to_the_burst_and_then_the_fault(clock: VirtualClock) -> None:
    one = connection(clock, messages=(2.0, 3.0))
    assert receive(one, text("a")) == [(TEXT, b"a")]
    events = receive(one, text("b"), text("c"), text("d"), text("e"))
    assert events[:2] == [(TEXT, b"b"), (TEXT, b"c")]
    (kind, error) = events[2]
    assert kind == FAIL
    assert isinstance(error, RateError)
    assert (error.close_code, error.reason) == (CloseCode.POLICY_VIOLATION, "too many messages a second")
    assert error.cause is CloseCause.RATE
    assert len(events) == 3
    assert one.state is ConnectionState.FAILED
    assert receive(one, text("f")) == []


def test_a_pace_within_the_rate_is_never_at_fault(clock: VirtualClock) -> None:
    one = connection(clock, messages=(10.0, 1.0), size=(70.0, 7.0))
    for _ in range(200):
        assert kinds(receive(one, text("a"))) == [TEXT]
        clock.advance(0.1)


@pytest.mark.parametrize("kind", [PING, PONG])
def test_control_frames_count(clock: VirtualClock, kind: int) -> None:
    one = connection(clock, messages=(1.0, 5.0))
    assert kinds(receive(one, *[frame(kind, "x")] * 7)) == [kind] * 5 + [FAIL]


def test_a_close_frame_does_not_count_but_may_come_too_late(clock: VirtualClock) -> None:
    one, other = connection(clock, messages=(1.0, 1.0)), connection(clock, messages=(1.0, 1.0))
    assert kinds(receive(one, text("a"), wire.close(1000))) == [TEXT, CLOSE]
    assert kinds(receive(other, text("a"), text("b"), wire.close(1000))) == [TEXT, FAIL]
    assert other.state is ConnectionState.FAILED


def test_another_fault_behind_what_was_allowed(clock: VirtualClock) -> None:
    one, other = connection(clock, messages=(1.0, 1.0)), connection(clock, messages=(1.0, 1.0))
    bad = frame(3, "")
    (_, (_, error)) = receive(one, text("a"), bad)
    assert error.close_code == CloseCode.PROTOCOL_ERROR
    (_, (_, error)) = receive(other, text("a"), text("b"), bad)
    assert isinstance(error, RateError)


def test_a_message_in_fragments_is_one_message(clock: VirtualClock) -> None:
    one = connection(clock, messages=(1.0, 1.0))
    parts = [frame(wire.TEXT, "a", fin=False), frame(wire.CONTINUE, "b", fin=False), frame(wire.CONTINUE, "c")]
    assert receive(one, *parts) == [(TEXT, b"abc")]
    assert kinds(receive(one, text("d"))) == [FAIL]


def test_pieces_of_a_message_are_one_message(clock: VirtualClock) -> None:
    one = connection(clock, messages=(1.0, 1.0), chunked=True, message_buffer_size=1)
    events = receive(one, frame(wire.TEXT, "a", fin=False), frame(wire.CONTINUE, "b"), text("c"))
    assert [(kind, value[1]) for kind, value in events[:-1]] == [(CHUNK, False), (CHUNK, True)]
    assert kinds(events[-1:]) == [FAIL]


def test_what_is_not_delivered_is_given_back(clock: VirtualClock) -> None:
    for chunked in (False, True):
        one = connection(clock, messages=(1.0, 1.0), chunked=chunked)
        pool = one.config.pool
        events: list[tuple[int, Any]] = []
        for _ in range(2):
            data = frame(wire.TEXT, "ab", fin=False) + frame(wire.CONTINUE, "cd")
            for at in range(len(data)):  # so that it is assembled in a buffer of the pool
                one.receive(data[at : at + 1], 1, events)
        lent = [value[2] if kind == CHUNK else value for kind, value in events if kind != FAIL]
        assert pool.lent == len([buffer for buffer in lent if buffer._pool is not None])
        for buffer in lent:
            buffer.release()
        assert pool.lent == 0
        assert kinds(events)[-1] == FAIL


def test_buffers_of_messages_over_the_rate_are_released(clock: VirtualClock) -> None:
    one = connection(clock, messages=(1.0, 1.0))
    pool = one.config.pool
    data = b"".join(frame(wire.TEXT, part, fin=False) + frame(wire.CONTINUE, "c") for part in ("a", "b"))
    events: list[tuple[int, Any]] = []
    one.receive(data[:1], 1, events)  # so that the first is assembled in a buffer of the pool, as the second is
    one.receive(data[1:], len(data) - 1, events)
    assert kinds(events) == [TEXT, FAIL]
    assert pool.lent == 1, "the second was given back"
    assert events[0][1].get_string() == "ac"
    events[0][1].release()
    assert pool.lent == 0


def test_bytes_up_to_the_burst_and_then_the_fault(clock: VirtualClock) -> None:
    size = len(text("1234"))
    one = connection(clock, size=(1.0, 2.5 * size))
    events = receive(one, text("1234"), text("5678"), text("9012"))
    assert events[:2] == [(TEXT, b"1234"), (TEXT, b"5678")], "what lies within the allowance is delivered"
    assert events[2][1].reason == "too many bytes a second"
    assert len(events) == 3


def test_bytes_of_an_unfinished_frame_count(clock: VirtualClock) -> None:
    one = connection(clock, size=(100.0, 100.0))
    head = frame(wire.BINARY, bytes(1000))[:8]
    assert receive(one, head) == []
    assert receive(one, bytes(92)) == []
    assert kinds(receive(one, b"\0")) == [FAIL]
    assert one.config.pool.lent == 0


def test_both_rates_at_once(clock: VirtualClock) -> None:
    one = connection(clock, messages=(1.0, 1.0), size=(1.0, 10.0))
    events = receive(one, text("a"), text("b"))
    assert kinds(events) == [TEXT, FAIL]
    assert events[1][1].reason == "too many bytes a second"
    other = connection(clock, messages=(1.0, 1.0), size=(1.0, 1000.0))
    events = receive(other, text("a"), text("b"))
    assert events[1][1].reason == "too many messages a second"
    third = connection(clock, messages=(1.0, 1.0), size=(1.0, 16.0))
    assert kinds(receive(third, text("a"), text("b"), text("c"))) == [TEXT, FAIL], "one fault is enough"


def test_after_our_close_nothing_counts(clock: VirtualClock) -> None:
    one = connection(clock, messages=(1.0, 1.0), size=(1.0, 10.0))
    one.encode_close(1000)
    assert receive(one, *[text("under way already")] * 50, wire.close(1000)) == [(CLOSE, (1000, ""))]


def test_connections_do_not_share_their_allowance(clock: VirtualClock) -> None:
    rates = Rates(Meter(1.0, 1.0, clock), None)
    config = ConnectionConfig(Role.SERVER, rates=rates)
    one, other = MeteredConnection(config), MeteredConnection(config)
    assert kinds(receive(one, text("a"))) == kinds(receive(other, text("a"))) == [TEXT]
    assert kinds(receive(one, text("a"))) == [FAIL]


def test_a_connection_that_ended_is_not_held(clock: VirtualClock) -> None:
    messages, size = Meter(1.0, 5.0, clock), Meter(1.0, 500.0, clock)
    config = ConnectionConfig(Role.SERVER, rates=Rates(messages, size))
    one = MeteredConnection(config)
    receive(one, text("a"))
    assert (len(messages), len(size)) == (1, 1)
    one.receive_eof()
    assert (len(messages), len(size)) == (0, 0)
    for rates in (Rates(messages, None), Rates(None, size)):
        MeteredConnection(ConnectionConfig(Role.SERVER, rates=rates)).receive_eof()


def test_what_one_read_decodes_to_is_counted_when_it_is_decoded(clock: VirtualClock) -> None:
    options, params = DeflateOptions(level=1), DeflateParams(True, True, 15, 15)
    pool = DeflatePool()
    config = ConnectionConfig(
        Role.SERVER, rates=Rates(Meter(1.0, 3.0, clock), Meter(1.0, 1e6, clock)), max_message_size=1 << 20
    )
    one = MeteredConnection(config, pool.codec(params, options, server=True))
    client = pool.codec(params, options, server=False)
    data = frame(wire.BINARY, client.compress(bytes(1 << 18)), rsv=4) * 8
    events: list[tuple[int, Any]] = []
    one.receive(data, len(data), events)
    while one.pending:
        one.receive(b"\0\0", 0, events)
    assert kinds(events) == [wire.BINARY] * 3 + [FAIL]
    for _, value in events[:-1]:
        value.release()
    assert config.pool.lent == 0
