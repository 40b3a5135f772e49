"""Every pair of halves, and what may be sent in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gows.errors import ConnectionClosedError, UsageError, WriterBusyError
from gows.protocol.connection import Connection, ConnectionState
from gows.protocol.states import (
    DEFLATED,
    ENDED,
    FAULT,
    GOT_CLOSE,
    MESSAGE,
    READING,
    READY,
    SEND_CONTROL,
    SEND_MESSAGE,
    SEND_NEXT,
    SENT_CLOSE,
    STATES,
)
from tests.support.feeding import feed, frame, server

RECEIVING: dict[int, Callable[[Connection], object]] = {
    READING: lambda c: None,
    GOT_CLOSE: lambda c: feed(c, frame(8, b"\x03\xe8")),
    FAULT: lambda c: feed(c, b"\x83\x80"),
    ENDED: lambda c: c.receive_eof(),
}
SENDING: dict[int, Callable[[Connection], object]] = {
    READY: lambda c: None,
    MESSAGE: lambda c: c.encode_fragment(2, b"a", True, False),
    SENT_CLOSE: lambda c: c.encode_close(1000, ""),
}
EXPECTED = {
    (READING, READY): ConnectionState.OPEN,
    (READING, SENT_CLOSE): ConnectionState.CLOSING,
    (GOT_CLOSE, READY): ConnectionState.CLOSE_RECEIVED,
    (GOT_CLOSE, SENT_CLOSE): ConnectionState.CLOSED,
    (FAULT, READY): ConnectionState.FAILED,
    (FAULT, SENT_CLOSE): ConnectionState.CLOSED,
    (ENDED, READY): ConnectionState.CLOSED,
    (ENDED, SENT_CLOSE): ConnectionState.CLOSED,
}
PAIRS = [(receiving, sending) for receiving in RECEIVING for sending in SENDING]


def reach(receiving: int, sending: int) -> Connection:
    connection = server()
    SENDING[sending](connection)
    RECEIVING[receiving](connection)
    assert (connection._in, connection._out) == (receiving, sending)
    return connection


def test_the_tables_hold_every_pair_once() -> None:
    pairs = [r | s for r in (READING, GOT_CLOSE, FAULT, ENDED) for s in (READY, MESSAGE, DEFLATED, SENT_CLOSE)]
    assert pairs == list(range(16))
    assert {len(table) for table in (STATES, SEND_MESSAGE, SEND_NEXT, SEND_CONTROL)} == {16}


@pytest.mark.parametrize(("receiving", "sending"), PAIRS)
def test_the_state_of_every_pair(receiving: int, sending: int) -> None:
    expected = EXPECTED[receiving, SENT_CLOSE if sending == SENT_CLOSE else READY]
    assert reach(receiving, sending).state is expected
    assert STATES[receiving | DEFLATED] is STATES[receiving | MESSAGE] is STATES[receiving | READY]


@pytest.mark.parametrize(("receiving", "sending"), PAIRS)
@pytest.mark.parametrize("name", ["message", "text", "first", "next", "last", "ping", "pong", "close"])
def test_a_step_is_taken_or_refused_before_anything_happens(receiving: int, sending: int, name: str) -> None:
    connection = reach(receiving, sending)
    steps: dict[str, Callable[[], bytes]] = {
        "message": lambda: connection.encode_message(2, b"x"),
        "text": lambda: connection.encode_text("x"),
        "first": lambda: connection.encode_fragment(2, b"x", True, False),
        "next": lambda: connection.encode_fragment(2, b"x", False, False),
        "last": lambda: connection.encode_fragment(2, b"x", False, True),
        "ping": lambda: connection.encode_ping(b"x"),
        "pong": lambda: connection.encode_pong(b"x"),
        "close": lambda: connection.encode_close(1000, ""),
    }
    refused: type[Exception] | None = None
    if sending == SENT_CLOSE or receiving == ENDED:
        refused = ConnectionClosedError
    elif sending == MESSAGE and name in ("message", "text", "first"):
        refused = WriterBusyError
    elif sending == READY and name in ("next", "last"):
        refused = UsageError
    before = (connection._in, connection._out, connection.state)
    if refused is None:
        assert steps[name]()
        after = {"first": MESSAGE, "next": MESSAGE, "last": READY, "close": SENT_CLOSE}.get(name, sending)
        assert connection._out == after
    else:
        with pytest.raises(refused) as caught:
            steps[name]()
        assert type(caught.value) is refused
        assert (connection._in, connection._out, connection.state) == before


def test_a_deflated_message_in_progress_moves_like_any_other() -> None:
    assert SEND_MESSAGE[DEFLATED] is SEND_MESSAGE[MESSAGE]
    assert SEND_NEXT[DEFLATED] is SEND_NEXT[MESSAGE] is None
    assert SEND_CONTROL[DEFLATED] is None


@pytest.mark.parametrize("receiving", [GOT_CLOSE, FAULT, ENDED])
def test_nothing_moves_the_receiving_half_again(receiving: int) -> None:
    connection = reach(receiving, READY)
    assert feed(connection, frame(1, b"x"), frame(8, b"\x03\xe9"), b"\xff\xff") == []
    assert connection._in == receiving


@pytest.mark.parametrize("receiving", RECEIVING)
@pytest.mark.parametrize("how", ["receive_eof", "end"])
def test_when_the_stream_is_gone_everything_is_over(receiving: int, how: str) -> None:
    connection = reach(receiving, READY)
    code = connection.close_code
    for _ in range(2):
        getattr(connection, how)()
        assert connection.state is ConnectionState.CLOSED
        assert connection.close_code == code
    assert feed(connection, frame(1, b"x")) == []
