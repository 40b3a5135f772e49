"""The tables of states.py: a session is driven through every cell of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gows import ByteBuffer, CloseCause, Handler, WebSocket
from gows.errors import ProtocolError
from gows.protocol.states import BINARY, CHUNK, CLOSE, FAIL, PING, PONG, TEXT
from gows.session.states import (
    DELIVERY,
    DISMISS,
    DRAINED,
    FINISHED,
    HALF_CLOSED,
    HELD,
    INBOX,
    MUTED,
    OPENED,
    PINGED,
    STREAM_LOST,
    Delivery,
    Inbox,
    Step,
)
from tests.support.stage import Actor, Guest, Stage
from tests.support.wire import frame


class Piecewise(Actor):
    """An Actor that gets messages in pieces as well."""

    def on_chunk(self, ws: WebSocket, opcode: int, fin: bool, buff: ByteBuffer) -> None:
        self._told("on_chunk", ws, opcode, fin, buff)


class WithoutDrain(Actor):
    """An Actor to which a drained queue is no event."""

    on_drain = Handler.on_drain  # type: ignore[assignment]


def raises(*_: object) -> None:
    raise ValueError("of the test")


# ---------------------------------------------------------------------- delivery

VALUES: dict[int, Callable[[], Any]] = {
    OPENED: lambda: None,
    TEXT: lambda: ByteBuffer.of(b"text"),
    BINARY: lambda: ByteBuffer.of(b"binary"),
    CHUNK: lambda: (TEXT, True, ByteBuffer.of(b"piece")),
    PING: lambda: b"ping",
    PINGED: lambda: b"ping",
    PONG: lambda: b"pong",
    DRAINED: lambda: None,
    DISMISS: lambda: (1001, "", CloseCause.SHUTDOWN),
    CLOSE: lambda: (1000, ""),
    FAIL: lambda: ProtocolError(1002, "of the test"),
    HALF_CLOSED: lambda: None,
    STREAM_LOST: lambda: None,
}


def delivery_of(ws: WebSocket) -> Delivery:
    flags = ws._flags
    return Delivery.FINISHED if flags & FINISHED else Delivery.MUTED if flags & MUTED else Delivery.SERVED


def deliver(ws: WebSocket, kind: int) -> None:
    """Have the session's task find one event."""
    ws._inbox = [(kind, VALUES[kind]())]
    ws.run()


def stage_in(state: Delivery) -> tuple[Stage, Piecewise]:
    """A stage with one connection, in a state of its delivery."""
    stage = Stage(make_handler=Piecewise, ping_interval=None)
    _, handler = stage.guest()
    if state is Delivery.MUTED:
        handler.do["on_pong"] = raises
        deliver(handler.ws, PONG)
        assert stage.log.take()
    elif state is Delivery.FINISHED:
        deliver(handler.ws, STREAM_LOST)
    assert delivery_of(handler.ws) is state
    return stage, handler


@pytest.mark.parametrize("state", Delivery)
@pytest.mark.parametrize("kind", DELIVERY)
def test_an_event_calls_what_the_table_says(kind: int, state: Delivery) -> None:
    callback, after = DELIVERY[kind][list(Delivery).index(state)]
    stage, handler = stage_in(state)
    handler.calls.clear()
    handler.ws.connection.close_code = None  # type: ignore[assignment]  # none has come
    deliver(handler.ws, kind)
    assert handler.calls == ([] if callback is None else [callback])
    assert delivery_of(handler.ws) is after
    assert handler.ws._inbox is None
    stage.close()


@pytest.mark.parametrize("kind", [kind for kind, row in DELIVERY.items() if row[0][0]])
def test_a_callback_that_raises_mutes(kind: int) -> None:
    callback, after = DELIVERY[kind][0]
    assert callback is not None
    stage, handler = stage_in(Delivery.SERVED)
    handler.do[callback] = raises
    deliver(handler.ws, kind)
    assert delivery_of(handler.ws) is (after if after is Delivery.FINISHED else Delivery.MUTED)
    [logged] = stage.log.take()
    assert callback in logged
    stage.close()


def test_every_kind_of_event_has_a_row() -> None:
    assert DELIVERY.keys() == VALUES.keys()
    assert {len(row) for row in DELIVERY.values()} == {len(Delivery)}


# ---------------------------------------------------------------------- inbox


def inbox_of(ws: WebSocket, stage: Stage) -> Inbox:
    """Its state. Whether there is a task is seen in the pool."""
    if ws._inbox is None:
        assert not ws._flags & HELD
        assert ws not in stage.pool.tasks
        return Inbox.IDLE
    held = ws._flags & HELD
    assert (ws in stage.pool.tasks) is not bool(held)
    return Inbox.HELD if held else Inbox.TASK


def write_too_much(ws: WebSocket) -> None:
    ws.write_binary(bytes(5000))


def inbox_stage(state: Inbox) -> tuple[Stage, Guest, Actor]:
    """A stage with one connection, its inbox in a state, and its task held back if there is one."""
    stage = Stage(
        inline=False,
        make_handler=WithoutDrain,
        ping_interval=None,
        high_water=1000,
        low_water=200,
        network={"buffer_size": 500},
    )
    guest, handler = stage.guest()
    stage.pool.held = True
    if state is Inbox.TASK:
        guest.send(frame(TEXT, "waits"))
    elif state is Inbox.HELD:
        write_too_much(handler.ws)
        guest.send(frame(TEXT, "waits"))
        stage.run_for(0)
        stage.pool.tasks.popleft().run()
    stage.run_for(0)
    assert inbox_of(handler.ws, stage) is state
    return stage, guest, handler


def take_step(step: Step, stage: Stage, guest: Guest, handler: Actor) -> None:
    ws = handler.ws
    if step is Step.ARRIVES:
        guest.send(frame(TEXT, "more"))
        stage.run_for(0)
    elif step is Step.RUNS:
        stage.pool.tasks.popleft().run()
    elif step is Step.STOPS:
        write_too_much(ws)
        stage.pool.tasks.popleft().run()
    elif step is Step.DRAINS:
        if not ws.stream.queued:
            write_too_much(ws)
        while ws.stream.queued > 200:
            guest.pending()
            stage.run_for(1)
    else:
        ws.stream.abort()
        stage.run_for(0)


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("state", Inbox)
def test_an_inbox_goes_where_the_table_says(state: Inbox, step: Step) -> None:
    after = INBOX[state][step]
    stage, guest, handler = inbox_stage(state)
    if after is None:
        assert not stage.pool.tasks, "there is no task that could run"
    else:
        take_step(step, stage, guest, handler)
        assert inbox_of(handler.ws, stage) is after
    stage.close()


def test_every_state_of_an_inbox_has_a_row() -> None:
    assert INBOX.keys() == set(Inbox)
    assert {len(row) for row in INBOX.values()} == {len(Step)}
