"""PreparedMessage: for every connection the very bytes that it would have sent alone, made once for each variant."""

from __future__ import annotations

import zlib
from typing import Any

import pytest

from gows.errors import ConnectionClosedError, UsageError, WriterBusyError
from gows.protocol import prepared as module
from gows.protocol.connection import BINARY, CLOSE, TEXT, Connection
from gows.protocol.deflate import DeflateParams
from gows.protocol.frames import encode_frame
from gows.protocol.prepared import PreparedMessage, PreparedSeries
from tests.support.feeding import client, feed, frame, server

NO_TAKEOVER = DeflateParams(True, True)
SMALL_WINDOW = DeflateParams(True, True, server_max_window_bits=9)
TAKEOVER = DeflateParams()

LONG = b"the same words again and again, " * 100


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The frames that were encoded."""
    frames: list[bytes] = []

    def encode(*arguments: Any, **options: Any) -> bytes:
        frames.append(encode_frame(*arguments, **options))
        return frames[-1]

    monkeypatch.setattr(module, "encode_frame", encode)
    return frames


def read(its: Connection, wire: bytes) -> bytes:
    """The message as the other side reads it."""
    ((_, data),) = feed(its, wire)
    return bytes(data)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_the_same_frame_for_everybody(opcode: int, made: list[bytes]) -> None:
    message = PreparedMessage(opcode, b"hello")
    assert [message.encode(server()) for _ in range(5)] == [frame(opcode, b"hello", key=None)] * 5
    assert len(made) == 1


@pytest.mark.parametrize("params", [None, NO_TAKEOVER, SMALL_WINDOW, TAKEOVER])
@pytest.mark.parametrize("data", [b"", b"short", LONG, bytes(200_000)])
def test_every_variant_decodes(params: DeflateParams | None, data: bytes) -> None:
    message = PreparedMessage(BINARY, data)
    for _ in range(2):
        assert read(client(params), message.encode(server(params))) == data


def test_variants_are_made_once_each(made: list[bytes]) -> None:
    plain = [server() for _ in range(3)]
    flate = server(NO_TAKEOVER)
    twins = [Connection(flate.config, flate.deflate) for _ in range(3)]  # a pool gives them one codec
    message = PreparedMessage(TEXT, LONG)
    frames = [message.encode(connection) for pair in zip(plain, twins, strict=True) for connection in pair]
    assert len(made) == 2
    assert len(frames[0]) > len(LONG) > len(frames[1])
    assert frames == [frames[0], frames[1]] * 3


def test_a_kept_window_is_each_connection_s_own() -> None:
    ours = [server(TAKEOVER) for _ in range(2)]
    theirs = [client(TAKEOVER) for _ in range(2)]
    assert read(theirs[0], ours[0].encode_message(BINARY, b"something before " * 100)) == b"something before " * 100
    message = PreparedMessage(BINARY, LONG)
    for mine, its in zip(ours, theirs, strict=True):
        for _ in range(2):
            assert read(its, message.encode(mine)) == LONG
    first, second = (message.encode(mine) for mine in ours)
    assert len(second) < len(zlib.compress(LONG)), "the window helps"
    assert first is not second


def test_small_messages_and_those_that_ask_for_it_are_not_compressed(made: list[bytes]) -> None:
    ours = server(NO_TAKEOVER)
    small = b"x" * (ours.config.min_compress_size - 1)
    assert PreparedMessage(BINARY, small).encode(ours) == frame(BINARY, small, key=None)
    assert PreparedMessage(BINARY, LONG, compress=False).encode(ours) == frame(BINARY, LONG, key=None)
    assert PreparedMessage(BINARY, LONG, compress=False).encode(server(TAKEOVER)) == frame(BINARY, LONG, key=None)


def test_it_refuses_what_is_no_message() -> None:
    with pytest.raises(ValueError, match="TEXT or BINARY"):
        PreparedMessage(CLOSE, b"")
    with pytest.raises(ValueError, match="utf-8"):
        PreparedMessage(TEXT, b"\xff")
    assert PreparedMessage(TEXT, "€".encode()).encode(server()) == frame(TEXT, "€".encode(), key=None)


def test_only_open_connections_get_it() -> None:
    message = PreparedMessage(TEXT, b"hello")
    closing, closed_by_peer, busy = server(), server(), server()
    closing.encode_close()
    feed(closed_by_peer, frame(CLOSE, b""))
    busy.encode_fragment(TEXT, b"a", True, False)
    for connection in (closing, closed_by_peer):
        with pytest.raises(ConnectionClosedError):
            message.encode(connection)
    with pytest.raises(WriterBusyError):
        message.encode(busy)


def test_a_client_masks_and_so_prepares_nothing() -> None:
    with pytest.raises(UsageError):
        PreparedMessage(TEXT, b"hello").encode(client())


# ---------------------------------------------------------------------- several at once


@pytest.mark.parametrize("params", [None, NO_TAKEOVER, SMALL_WINDOW])
def test_a_series_is_the_same_frames_joined(params: DeflateParams | None, made: list[bytes]) -> None:
    messages = [PreparedMessage(TEXT, LONG), PreparedMessage(TEXT, b"short"), PreparedMessage(BINARY, LONG, False)]
    connections = [server(params) for _ in range(3)]
    single = [b"".join(message.encode(connection) for message in messages) for connection in connections]
    series = PreparedSeries(messages)
    found = [series.encode(connection) for connection in connections]
    assert found == single
    if params is None:
        assert len(made) == 3
    assert found[0] is not None
    assert [bytes(data) for _, data in feed(client(params), found[0])] == [LONG, b"short", LONG]


def test_variants_of_a_series_are_joined_once_each() -> None:
    series = PreparedSeries([PreparedMessage(TEXT, LONG), PreparedMessage(TEXT, b"short")])
    plain, packed = server(), server(NO_TAKEOVER)
    first = [series.encode(connection) for connection in (plain, packed)]
    assert all(series.encode(plain) is first[0] and series.encode(packed) is first[1] for _ in range(2))


def test_a_series_is_no_piece_for_a_connection_with_its_own_window() -> None:
    assert PreparedSeries([PreparedMessage(TEXT, LONG)]).encode(server(TAKEOVER)) is None


def test_a_series_is_refused_as_each_of_its_messages() -> None:
    series = PreparedSeries([PreparedMessage(TEXT, b"x")])
    series.encode(server())
    closing = server()
    closing.encode_close(1000, "")
    with pytest.raises(ConnectionClosedError):
        series.encode(closing)
    with pytest.raises(UsageError):
        PreparedSeries([PreparedMessage(TEXT, b"x")]).encode(client())
    busy = server()
    busy.encode_fragment(TEXT, b"x", True, False)
    with pytest.raises(WriterBusyError):
        series.encode(busy)
