from __future__ import annotations

import pickle

import pytest

from gows import errors
from gows.errors import (
    BrokerError,
    ConnectError,
    ConnectionClosedError,
    ConnectTimeoutError,
    GowsError,
    HandshakeError,
    HttpError,
    InvalidCloseCodeError,
    InvalidHeaderError,
    PeerError,
    ProtocolError,
    QueueFullError,
    ReceiveTimeoutError,
    TopicError,
    UsageError,
)

EVERY = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


def test_every_error_is_a_gows_error() -> None:
    assert len(EVERY) >= 16
    assert all(issubclass(each, GowsError) for each in EVERY)


def test_every_error_stands_in_the_tree_at_the_head_of_its_file() -> None:
    assert errors.__doc__ is not None
    for each in EVERY:
        assert each.__name__ in errors.__doc__


def test_errors_are_split_by_fault() -> None:
    for each in EVERY:
        kinds = (PeerError, UsageError, QueueFullError, BrokerError, TopicError, ReceiveTimeoutError, ConnectError)
        faults = [base for base in kinds if issubclass(each, base)]
        assert len(faults) == (0 if each is GowsError else 1), each


def test_a_protocol_error_carries_its_close_code() -> None:
    error = ProtocolError(1002, "reserved bit set")
    assert (error.close_code, error.reason) == (1002, "reserved bit set")
    assert str(error) == "1002 reserved bit set"


@pytest.mark.parametrize("kind", [HttpError, HandshakeError])
def test_an_http_error_carries_its_answer(kind: type[HttpError]) -> None:
    error = kind(426, "wrong version", [("Sec-WebSocket-Version", "13")])
    assert (error.status, error.reason) == (426, "wrong version")
    assert error.headers == (("Sec-WebSocket-Version", "13"),)
    assert str(error) == "426 wrong version"
    assert kind(404, "not found").headers == ()


def test_a_handshake_error_may_carry_the_servers_body() -> None:
    assert HandshakeError(403, "no").body == b""


def test_a_closed_connection_says_how_it_ended() -> None:
    error = ConnectionClosedError("closed", 1001, "going")
    assert (str(error), error.code, error.reason) == ("closed", 1001, "going")
    assert (ConnectionClosedError().code, ConnectionClosedError().reason) == (None, "")


def test_errors_are_what_python_users_catch() -> None:
    assert issubclass(InvalidHeaderError, ValueError)
    assert issubclass(InvalidCloseCodeError, ValueError)
    assert issubclass(ReceiveTimeoutError, TimeoutError)
    assert issubclass(ConnectError, ConnectionError)
    assert issubclass(ConnectTimeoutError, TimeoutError)


@pytest.mark.parametrize(
    "error",
    [
        ProtocolError(1009, "big"),
        HttpError(404, "gone", [("a", "b")]),
        HandshakeError(400, "x"),
        ConnectionClosedError("x"),
    ],
)
def test_errors_survive_a_process_boundary(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__
