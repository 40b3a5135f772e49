"""What a user does with a WebSocket: writing, writing in pieces, closing, asking. In virtual time."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gows import (
    BufferReleasedError,
    ByteBuffer,
    ConnectionClosedError,
    Handler,
    InvalidCloseCodeError,
    MessageWriter,
    Opcode,
    QueueFullError,
    Request,
    UsageError,
    WebSocket,
    WriterBusyError,
    accept,
)
from gows.http.connection import HttpConnection
from gows.http1.head import RequestHead, RequestParser
from tests.support import wire
from tests.support.living import living, no_collector
from tests.support.stage import Actor, Echo, Stage
from tests.support.wire import BINARY, CLOSE, CONTINUE, DEFLATE, PING, PONG, TEXT, Frame, frame

MakeStage = Callable[..., Stage]


@pytest.fixture(params=[True, False], ids=["inline", "pool"])
def make_stage(request: pytest.FixtureRequest) -> Iterator[MakeStage]:
    """Makes a stage; in the end nothing may be open, and nothing unexpected logged."""
    made: list[Stage] = []

    def make(**settings: Any) -> Stage:
        made.append(Stage(**{"inline": request.param, **settings}))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


# ---------------------------------------------------------------------- whole messages


def test_every_way_to_write_a_message(make_stage: MakeStage) -> None:
    guest, handler = make_stage().guest()
    ws: WebSocket = handler.ws
    ws.write_string("tschüß 👋")
    ws.write_text("tschüß".encode())
    ws.write_text(memoryview(b"view"))
    ws.write_binary(bytearray(b"\xff\x00"))
    ws.write_binary(ByteBuffer.of(b"buffer"))
    ws.write_message(Opcode.TEXT, b"text")
    ws.write_message(2, b"binary")
    ws.write_message(Opcode.PING, b"ping")
    ws.write_message(Opcode.PONG, b"pong")
    ws.write_ping()
    ws.write_pong(b"x" * 125)
    ws.write_json({"ä": [1, None]})
    ws.write_string("")
    assert [guest.read() for _ in range(13)] == [
        Frame(TEXT, "tschüß 👋".encode()),
        Frame(TEXT, "tschüß".encode()),
        Frame(TEXT, b"view"),
        Frame(BINARY, b"\xff\x00"),
        Frame(BINARY, b"buffer"),
        Frame(TEXT, b"text"),
        Frame(BINARY, b"binary"),
        Frame(PING, b"ping"),
        Frame(PONG, b"pong"),
        Frame(PING, b""),
        Frame(PONG, b"x" * 125),
        Frame(TEXT, '{"ä":[1,null]}'.encode()),
        Frame(TEXT, b""),
    ]


WRONG: dict[str, tuple[Callable[[WebSocket], object], type[Exception]]] = {
    "text that is not UTF-8": (lambda ws: ws.write_text(b"\xff"), ValueError),
    "a lone surrogate": (lambda ws: ws.write_string("\ud800"), ValueError),
    "JSON that is none": (lambda ws: ws.write_json(object()), TypeError),
    "JSON in a circle": (lambda ws: ws.write_json(_circle()), ValueError),
    "a string where bytes belong": (lambda ws: ws.write_binary("x"), TypeError),  # type: ignore[arg-type]
    "a number where bytes belong": (lambda ws: ws.write_binary(5), TypeError),  # type: ignore[arg-type]
    "bytes where a string belongs": (lambda ws: ws.write_string(b"x"), TypeError),  # type: ignore[arg-type]
    "a close as a message": (lambda ws: ws.write_message(Opcode.CLOSE, b""), ValueError),
    "a continuation as a message": (lambda ws: ws.write_message(Opcode.CONTINUE, b""), ValueError),
    "a reserved opcode": (lambda ws: ws.write_message(3, b""), ValueError),
    "a large ping": (lambda ws: ws.write_ping(b"x" * 126), ValueError),
    "a large pong": (lambda ws: ws.write_pong(b"x" * 126), ValueError),
    "a writer of pings": (lambda ws: ws.next_writer(Opcode.PING), ValueError),
}


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


@pytest.mark.parametrize("compression", [False, True], ids=["plain", "deflate"])
@pytest.mark.parametrize("writing", [False, True], ids=["alone", "while a writer is open"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_write_that_fails_sends_nothing(make_stage: MakeStage, wrong: str, writing: bool, compression: bool) -> None:
    stage = make_stage(compression=compression, min_compress_size=0)
    guest, handler = stage.guest(*([DEFLATE] if compression else []))
    write, error = WRONG[wrong]
    if writing:
        with handler.ws.next_writer(compress=False) as writer:
            writer.write_string("x" * 20_000)
            with pytest.raises(error):
                write(handler.ws)
        assert [guest.read().fin, guest.read().fin] == [False, True]
    else:
        with pytest.raises(error):
            write(handler.ws)
    handler.ws.write_text(b"good", compress=False)
    assert guest.text() == "good"
    assert not guest.pending()


def inflated(found: Frame) -> bytes:
    assert found.rsv == 4
    return zlib.decompressobj(-15).decompress(found.payload + wire.DEFLATE_TAIL)


def test_messages_are_compressed_from_a_size_on_and_on_request_not_at_all(make_stage: MakeStage) -> None:
    stage = make_stage(compression=True, min_compress_size=100)
    guest, handler = stage.guest(DEFLATE)
    ws = handler.ws
    ws.write_string("x" * 99)
    assert guest.text() == "x" * 99
    for write in (ws.write_string, ws.write_json):
        write("x" * 100)
        assert b"x" * 100 in inflated(guest.read())
        write("x" * 100, compress=False)
        assert "x" * 100 in guest.text()
    for write in (ws.write_text, ws.write_binary, lambda data, compress=True: ws.write_message(2, data, compress)):
        write(b"x" * 100)
        assert inflated(guest.read()) == b"x" * 100
        write(b"x" * 100, compress=False)
        assert guest.read()[1:] == (b"x" * 100, True, 0)


def test_a_peer_that_did_not_offer_compression_never_gets_it(make_stage: MakeStage) -> None:
    """The flaw of a pooled writer: what was made for one peer went to another."""
    stage = make_stage(compression=True, min_compress_size=0)
    (with_it, first), (without, second) = stage.guest(DEFLATE), stage.guest()
    for _ in range(5):
        first.ws.write_string("x" * 1000)
        second.ws.write_string("x" * 1000)
        assert inflated(with_it.read()) == b"x" * 1000
        assert without.text() == "x" * 1000
        with first.ws.next_writer() as writer:
            writer.write_string("x" * 1000)
        with second.ws.next_writer() as writer:
            writer.write_string("x" * 1000)
        assert inflated(with_it.read()) == b"x" * 1000
        assert without.text() == "x" * 1000


def test_compression_that_was_not_wanted_is_not_negotiated(make_stage: MakeStage) -> None:
    stage = make_stage(compression=False)
    guest = stage.connect()
    assert "sec-websocket-extensions" not in guest.upgrade(DEFLATE).headers


# ---------------------------------------------------------------------- in pieces


def test_a_message_in_pieces(make_stage: MakeStage) -> None:
    guest, handler = make_stage().guest()
    with handler.ws.next_writer(Opcode.TEXT) as writer:
        writer.write_string("a" * 10_000)
        writer.write(b"b" * 10_000)
        writer.write_string("c")
    assert [guest.read(), guest.read()] == [
        Frame(TEXT, b"a" * 10_000 + b"b" * 10_000, fin=False),
        Frame(CONTINUE, b"c"),
    ]


def test_small_pieces_are_one_frame(make_stage: MakeStage) -> None:
    guest, handler = make_stage().guest()
    with handler.ws.next_writer(Opcode.BINARY) as writer:
        for number in range(100):
            writer.write(bytes([number]))
    assert guest.read() == Frame(BINARY, bytes(range(100)))
    with handler.ws.next_writer() as writer:
        pass
    assert guest.read() == Frame(TEXT, b"")


def test_pieces_of_views_count_their_bytes(make_stage: MakeStage) -> None:
    guest, handler = make_stage().guest()
    with handler.ws.next_writer(Opcode.BINARY) as writer:
        writer.write(memoryview(bytes(16384)).cast("Q"))
        writer.write(ByteBuffer.of(b"end"))
    assert [len(guest.read().payload), guest.read().payload] == [16384, b"end"]


@pytest.mark.parametrize("compression", [False, True], ids=["plain", "deflate"])
def test_text_split_within_a_character(make_stage: MakeStage, compression: bool) -> None:
    stage = make_stage(compression=compression, min_compress_size=0)
    guest, handler = stage.guest(*([DEFLATE] if compression else []))
    text = ("x" * 16383 + "👋") * 3
    data = text.encode()
    for cut in (16384, 16385, 16386):
        with handler.ws.next_writer(Opcode.TEXT) as writer:
            writer.write(data[:cut])
            writer.write(data[cut:])
        frames = [guest.read()]
        while not frames[-1].fin:
            frames.append(guest.read())
        payload = b"".join(found.payload for found in frames)
        if compression:
            assert [found.rsv for found in frames] == [4] + [0] * (len(frames) - 1)
            payload = zlib.decompressobj(-15).decompress(payload + wire.DEFLATE_TAIL)
        assert payload.decode() == text


def test_pieces_that_are_not_utf8_are_refused_and_the_message_may_go_on(make_stage: MakeStage) -> None:
    guest, handler = make_stage().guest()
    with handler.ws.next_writer(Opcode.TEXT) as writer:
        writer.write_string("good ")
        with pytest.raises(ValueError, match="UTF-8"):
            writer.write(b"\xff" * 16384)
        writer.write_string("and good")
    assert guest.text() == "good and good"


def write_pieces(ws: WebSocket, opcode: Opcode, *pieces: bytes) -> None:
    with ws.next_writer(opcode) as writer:
        for piece in pieces:
            writer.write(piece)


def test_a_message_that_ends_within_a_character_is_not_sent(make_stage: MakeStage) -> None:
    guest, handler = make_stage().guest()
    with pytest.raises(UnicodeDecodeError):
        write_pieces(handler.ws, Opcode.TEXT, b"cut \xc3")
    handler.ws.write_string("good")
    assert guest.text() == "good"


def test_a_message_that_was_begun_and_ends_within_a_character_ends_the_connection(make_stage: MakeStage) -> None:
    guest, handler = make_stage().guest()
    with pytest.raises(ValueError, match="UTF-8"):
        write_pieces(handler.ws, Opcode.TEXT, b"x" * 20_000, b"cut \xc3")
    assert guest.read().fin is False
    assert guest.close_frame()[0] == 1011
    guest.send(wire.close(1011))
    guest.wait_end()


def test_whole_messages_meanwhile_come_after(make_stage: MakeStage) -> None:
    guest, handler = make_stage().guest()
    ws = handler.ws
    with ws.next_writer(Opcode.TEXT) as writer:
        writer.write_string("not begun yet")
        ws.write_string("before")
        assert guest.text() == "before"
        writer.write_string("x" * 20_000)
        ws.write_string("after 1")
        ws.write_binary(bytearray(b"after 2"))
        ws.write_json(3)
        ws.write_ping(b"between")
        assert guest.read().fin is False
        assert guest.read() == Frame(PING, b"between")
        assert not guest.pending()
        assert ws.buffered == len("after 1after 23")
    assert guest.read() == Frame(CONTINUE, b"")
    assert [guest.read() for _ in range(3)] == [Frame(TEXT, b"after 1"), Frame(BINARY, b"after 2"), Frame(TEXT, b"3")]


def test_messages_that_wait_for_a_writer_have_an_end(make_stage: MakeStage) -> None:
    guest, handler = make_stage(high_water=10_000, low_water=0).guest()
    ws = handler.ws
    taken = 0
    with ws.next_writer(Opcode.TEXT) as writer:
        writer.write_string("x" * 20_000)
        guest.read()
        while ws.buffered <= 10_000:
            ws.write_binary(bytes(1000))
            taken += 1
        with pytest.raises(QueueFullError):
            ws.write_binary(b"no more")
        assert 10 <= taken <= 12
    assert guest.read() == Frame(CONTINUE, b"")
    for _ in range(taken):
        assert guest.read() == Frame(BINARY, bytes(1000))
    ws.write_string("on we go")
    assert guest.text() == "on we go"


def test_messages_that_wait_for_a_writer_may_be_dropped(make_stage: MakeStage) -> None:
    guest, handler = make_stage(high_water=10_000, low_water=0, overflow="drop").guest()
    with handler.ws.next_writer(Opcode.TEXT) as writer:
        writer.write_string("x" * 20_000)
        guest.read()
        for _ in range(100):
            handler.ws.write_binary(bytes(1000))
    assert guest.read() == Frame(CONTINUE, b"")
    guest.stage.run_for(1)
    assert 10 <= len(guest.pending()) <= 12


def test_messages_for_a_writer_that_is_just_closing_are_not_lost(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the closing of a writer and its last fragment another thread may write."""
    guest, handler = make_stage().guest()
    ws = handler.ws
    writer = ws.next_writer(Opcode.TEXT)
    writer.write_string("streamed")
    send = MessageWriter._send

    def write_and_send(self: MessageWriter, *arguments: Any, **keywords: Any) -> None:
        ws.write_string("in between")
        send(self, *arguments, **keywords)

    monkeypatch.setattr(MessageWriter, "_send", write_and_send)
    writer.close()
    assert {guest.text(), guest.text()} == {"streamed", "in between"}


@pytest.mark.parametrize("size", [10, 20_000])
def test_an_exception_in_the_block(make_stage: MakeStage, size: int) -> None:
    """What was not begun is forgotten; what was begun cannot be taken back."""
    guest, handler = make_stage().guest()
    ws = handler.ws

    def fail() -> None:
        with writer:
            writer.write_string("x" * size)
            ws.write_string("mine")
            raise ZeroDivisionError

    writer = ws.next_writer()
    with pytest.raises(ZeroDivisionError):
        fail()
    if size == 10:
        assert guest.text() == "mine"
        ws.write_string("still open")
        assert guest.text() == "still open"
    else:
        assert guest.read().fin is False
        assert guest.close_frame() == (1011, "")
        guest.send(wire.close(1011))
        guest.wait_end()
    with pytest.raises(WriterBusyError):
        writer.write_string("more")
    writer.close()


def test_one_writer_at_a_time(make_stage: MakeStage) -> None:
    guest, handler = make_stage().guest()
    ws = handler.ws
    writer = ws.next_writer()
    with pytest.raises(WriterBusyError):
        ws.next_writer()
    writer.write_string("one")
    writer.close()
    writer.close()
    with pytest.raises(WriterBusyError):
        writer.write_string("more")
    with ws.next_writer() as writer:
        writer.write_string("two")
    assert [guest.text(), guest.text()] == ["one", "two"]


def test_a_streamed_message_over_the_mark_is_refused_piece_by_piece(make_stage: MakeStage) -> None:
    """What a refused write holds is not taken, everything else is, so it may be tried again."""
    stage = make_stage(high_water=20_000, low_water=1000, network={"buffer_size": 1000})
    guest, handler = stage.guest()
    with handler.ws.next_writer(Opcode.BINARY) as writer:
        writer.write(b"a" * 30_000)
        writer.write(b"b" * 100)
        with pytest.raises(QueueFullError):
            writer.write(b"c" * 30_000)
        stage.run_for(0.1)
        received = b""
        while "on_drain" not in handler.calls:
            found = guest.read()
            received += found.payload
            assert not found.fin
            stage.run_for(0.1)
        writer.write(b"d" * 30_000)
    while True:
        found = guest.read()
        received += found.payload
        if found.fin:
            break
    assert received == b"a" * 30_000 + b"b" * 100 + b"d" * 30_000


def test_the_end_of_a_streamed_message_is_never_refused(make_stage: MakeStage) -> None:
    stage = make_stage(high_water=20_000, low_water=1000, network={"buffer_size": 1000})
    guest, handler = stage.guest()
    with handler.ws.next_writer(Opcode.BINARY) as writer:
        writer.write(b"a" * 30_000)
        writer.write(b"b" * 100)
    assert guest.read() == Frame(BINARY, b"a" * 30_000, fin=False)
    assert guest.read() == Frame(CONTINUE, b"b" * 100)


def test_a_streamed_message_is_dropped_whole_or_not_at_all(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="drop", high_water=20_000, low_water=1000, network={"buffer_size": 1000})
    guest, handler = stage.guest()
    ws = handler.ws
    ws.write_binary(bytes(30_000))
    with ws.next_writer(Opcode.TEXT) as writer:
        writer.write_string("lost " * 5000)
        assert guest.read().payload == bytes(30_000)
        stage.run_for(1)
        writer.write_string("lost " * 5000)  # there is room again, but not for half a message
    ws.write_string("kept")
    assert guest.text() == "kept"
    with ws.next_writer(Opcode.BINARY) as writer:
        writer.write(bytes(30_000))
        with pytest.raises(QueueFullError):  # begun, so it cannot be dropped
            writer.write(bytes(30_000))
    assert [len(guest.read().payload), guest.read()] == [30_000, Frame(CONTINUE, b"")]


def test_a_streamed_message_over_the_mark_ends_the_connection(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="close", high_water=20_000, low_water=1000, network={"buffer_size": 1000})
    guest, handler = stage.guest()
    with pytest.raises(ConnectionClosedError):
        write_pieces(handler.ws, Opcode.BINARY, bytes(30_000), bytes(30_000))
    assert len(guest.read().payload) == 30_000
    assert guest.close_frame() == (1013, "too slow")
    guest.send(wire.close(1013))
    guest.wait_end()


def test_what_the_peer_asked_before_its_close_may_be_answered_in_pieces(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, handler = stage.guest()

    def answer(ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        with ws.next_writer() as writer:
            writer.write_string("a" * 20_000)
            ws.write_string("b")

    handler.do["on_message"] = answer
    guest.send(frame(TEXT, "go"), wire.close(1000))
    assert [guest.read().payload for _ in range(3)] == [b"a" * 20_000, b"", b"b"]
    assert guest.close_frame() == (1000, "")
    guest.wait_end()


@pytest.mark.parametrize("way", ["our close", "their close", "lost"])
def test_a_writer_that_is_overtaken_by_the_end(make_stage: MakeStage, way: str) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    ws = handler.ws
    writer = ws.next_writer()
    writer.write_string("x" * 20_000)
    ws.write_string("waits in vain")
    if way == "our close":
        ws.close_handshake()
    elif way == "their close":
        guest.send(wire.close(1000))
        stage.run_until(lambda: handler.close_code)
    else:
        guest.reset()
        stage.run_until(lambda: handler.close_code)
    with pytest.raises(ConnectionClosedError):
        ws.write_string("too late")
    writer.write_string("too late")
    with pytest.raises(ConnectionClosedError):
        writer.close()
    assert ws.buffered == 0 or way == "our close"
    with pytest.raises(ConnectionClosedError):
        ws.next_writer()


# ---------------------------------------------------------------------- closing


def test_close_handshake(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    ws = handler.ws
    assert (ws.closed, ws.close_code, ws.close_reason) == (False, None, "")
    ws.close_handshake(4000, "güle güle")
    assert (ws.closed, handler.close_code) == (True, None)
    assert guest.close_frame() == (4000, "güle güle")
    guest.send(frame(TEXT, "not heard"), wire.close(4001, "same to you"))
    assert guest.wait_end() == "FIN"
    stage.run_until(lambda: handler.close_code)
    assert (handler.close_code, handler.close_reason) == (4001, "same to you")
    assert (ws.close_code, ws.close_reason) == (4001, "same to you")
    assert handler.messages == []


def test_close_at_once(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    handler.ws.write_string("last")
    handler.ws.close()
    assert (handler.ws.closed, handler.ws.close_code) == (True, 1006)
    with pytest.raises(ConnectionClosedError):
        handler.ws.write_string("late")
    assert guest.text() == "last"
    assert guest.wait_end() == "FIN"
    guest.sock.close()
    stage.run_until(lambda: handler.close_code)
    assert handler.close_code == 1006


def test_closing_is_idempotent(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    for _ in range(3):
        handler.ws.close_handshake(4000)
        handler.ws.close_handshake(4001)
    assert guest.close_frame() == (4000, "")
    guest.send(wire.close(4000))
    for _ in range(3):
        handler.ws.close()
    guest.drain()
    for _ in range(3):
        handler.ws.close()
        handler.ws.close_handshake()
    stage.run_until(lambda: not stage.loop.live_streams)
    assert handler.calls.count("on_close") == 1


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_codes_that_may_not_travel_are_refused(make_stage: MakeStage, code: int) -> None:
    guest, handler = make_stage().guest()
    if code == 1005:
        handler.ws.close_handshake(code)  # how a close frame without a code is asked for
        assert guest.read() == Frame(CLOSE, b"")
        guest.send(wire.close())
        guest.wait_end()
        return
    with pytest.raises(InvalidCloseCodeError):
        handler.ws.close_handshake(code)
    with pytest.raises(InvalidCloseCodeError):
        handler.ws.close_handshake(1000, "x" * 124)
    assert not handler.ws.closed
    handler.ws.write_string("still open")
    assert guest.text() == "still open"


@pytest.mark.parametrize("callback", ["on_open", "on_message", "on_ping", "on_pong", "on_drain"])
@pytest.mark.parametrize("way", ["close", "close_handshake"])
def test_closing_within_a_callback(make_stage: MakeStage, callback: str, way: str) -> None:
    stage = make_stage(high_water=1000, low_water=0, network={"buffer_size": 500})

    class Closing(Actor):
        def __init__(self) -> None:
            super().__init__()
            self.do[callback] = lambda ws, *rest: getattr(ws, way)()

    stage.make_handler = Closing
    guest, handler = stage.guest()
    guest.send(frame(PING), frame(PONG), frame(TEXT, "x"), frame(TEXT, "y"))
    if callback == "on_drain":
        handler.ws.write_binary(bytes(2000))
    while not guest.end:
        guest.wait(lambda: guest.pending() or guest.end)
        stage.run_for(1)
        if way == "close_handshake" and not guest.end:
            guest.sock.send(wire.close(1000))
    stage.run_until(lambda: not stage.loop.live_streams)
    assert handler.calls.count("on_close") == 1
    assert handler.close_code == (1000 if way == "close_handshake" else 1006)


def test_on_close_may_do_anything_but_write(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    tried: list[type[Exception]] = []

    def last(ws: WebSocket) -> None:
        ws.close()
        ws.close_handshake()
        for write in (ws.write_string, ws.write_json):
            try:
                write("late")
            except ConnectionClosedError as error:
                tried.append(type(error))
        assert ws.closed
        assert "CLOSED" in repr(ws)

    handler.do["on_close"] = last
    guest.send(wire.close(1000))
    assert guest.close_frame() == (1000, "")
    guest.wait_end()
    assert tried == [ConnectionClosedError] * 2


# ---------------------------------------------------------------------- the handler, the request, the rest


def test_serve_once(make_stage: MakeStage) -> None:
    guest, handler = make_stage().guest()
    with pytest.raises(UsageError):
        handler.ws.serve(Actor())
    with pytest.raises(TypeError):
        handler.ws.serve(object())
    guest.send(frame(TEXT, "x"))
    guest.stage.run_until(lambda: handler.messages)


def test_a_handler_may_be_shared(make_stage: MakeStage) -> None:
    class Room(Handler):
        def __init__(self) -> None:
            self.calls: list[str] = []

        def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            ws.write_string(f"{ws.data} {buff.get_string()}")
            self.calls.append(ws.data)

        def on_open(self, ws: WebSocket) -> None:
            ws.data = f"guest {len(self.calls)}"
            self.calls.append(ws.data)

    room = Room()
    stage = make_stage(make_handler=lambda: room)
    (one, _), (other, _) = stage.guest(), stage.guest()
    stage.run_until(lambda: len(room.calls) == 2)
    one.send(frame(TEXT, "hi"))
    other.send(frame(TEXT, "ho"))
    assert {one.text(), other.text()} == {"guest 0 hi", "guest 1 ho"}


def test_the_request_is_let_go_after_on_open(make_stage: MakeStage) -> None:
    headers: list[str | None] = []

    class Asking(Echo):
        def on_open(self, ws: WebSocket) -> None:
            assert ws.request is not None
            headers.append(ws.request.headers.get("x-token"))
            super().on_open(ws)

    stage = make_stage(make_handler=Asking)
    kinds = Request, RequestHead, RequestParser, HttpConnection
    with no_collector():
        others = living(*kinds)  # an error that another test left may hold some
        guest, handler = stage.guest("X-Token: 1")
        guest.send(frame(TEXT, "x"))
        assert guest.text() == "x"
        assert headers == ["1"]
        assert handler.ws.request is None
        assert not [found for found in living(*kinds) if not any(found is other for other in others)]


def test_the_request_is_kept_on_request(make_stage: MakeStage) -> None:
    guest, handler = make_stage(keep_request=True, make_handler=Echo).guest("X-Token: 1")
    guest.send(frame(TEXT, "x"))
    assert guest.text() == "x"
    assert handler.ws.request is not None
    assert handler.ws.request.headers["x-token"] == "1"


def test_the_request_is_there_before_there_is_a_handler(make_stage: MakeStage) -> None:
    stage = make_stage()
    kept: list[WebSocket] = []
    stage.view = lambda request: kept.append(accept(request))
    guest = stage.connect()
    guest.upgrade("X-Token: 1")
    request = kept[0].request
    assert request is not None
    assert request.headers["x-token"] == "1"
    kept[0].close()
    guest.drain()


def test_what_comes_before_serve_is_delivered_after(make_stage: MakeStage) -> None:
    stage = make_stage()
    kept: list[WebSocket] = []
    stage.view = lambda request: kept.append(accept(request, stage.options))
    guest = stage.connect()
    guest.upgrade()
    messages = [str(number) for number in range(200)]
    guest.send(*(frame(TEXT, text) for text in messages[:100]))
    stage.run_for(1)
    kept[0].write_string("welcome")
    assert guest.text() == "welcome"
    guest.send(*(frame(TEXT, text) for text in messages[100:]), wire.close(1000))
    stage.run_for(1)
    handler = Actor()
    kept[0].serve(handler)
    assert guest.close_frame() == (1000, "")
    guest.wait_end()
    assert handler.messages == messages
    assert handler.calls == ["on_open"] + ["on_message"] * 200 + ["on_close"]


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_part_of_a_frame_may_come_before_serve(make_stage: MakeStage, size: int) -> None:
    stage = make_stage()
    kept: list[WebSocket] = []
    stage.view = lambda request: kept.append(accept(request, stage.options))
    guest = stage.connect()
    guest.upgrade()
    whole = frame(TEXT, "x" * 200)
    guest.send(whole[:size])
    stage.run_for(1)
    handler = Echo()
    kept[0].serve(handler)
    stage.run_for(1)
    guest.send(whole[size:])
    assert guest.text() == "x" * 200


@pytest.mark.parametrize("way", ["FIN", "RST", "our close"])
def test_an_end_before_serve_is_told_after(make_stage: MakeStage, way: str) -> None:
    stage = make_stage()
    kept: list[WebSocket] = []
    stage.view = lambda request: kept.append(accept(request))
    guest = stage.connect()
    guest.upgrade()
    if way == "FIN":
        guest.fin()
    elif way == "RST":
        guest.reset()
    else:
        kept[0].close()
        guest.drain()
        guest.sock.close()
    stage.run_until(lambda: not stage.loop.live_streams)
    handler = Actor()
    kept[0].serve(handler)
    stage.run_until(lambda: handler.close_code)
    assert (handler.calls, handler.close_code) == (["on_open", "on_close"], 1006)


def test_a_buffer_is_lent_until_the_callback_returns(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    kept: list[ByteBuffer] = []
    handler.do["on_message"] = lambda ws, opcode, buff: kept.append(buff)
    large = b"x" * 100_000
    guest.send(frame(TEXT, "small"), frame(BINARY, b"in ", fin=False), frame(CONTINUE, b"pieces"), frame(BINARY, large))
    stage.run_until(lambda: len(kept) == 3)
    for buff in kept:
        for use in (buff.get_bytes, buff.clone_bytes, buff.get_string, buff.size, lambda buff=buff: len(buff)):
            with pytest.raises(BufferReleasedError):
                use()
    assert stage.loop.buffers.lent == 0


def test_a_buffer_is_given_back_by_a_callback_that_raises(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    kept: list[ByteBuffer] = []

    def fail(ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        kept.append(buff)
        raise RuntimeError("as the test wants it")

    handler.do["on_message"] = fail
    guest.send(frame(BINARY, b"in ", fin=False), frame(CONTINUE, b"pieces"), frame(BINARY, b"next", fin=False))
    assert guest.close_frame() == (1011, "")
    guest.send(wire.close(1011))
    guest.wait_end()
    stage.log.take()
    with pytest.raises(BufferReleasedError):
        kept[0].get_bytes()
    stage.run_until(lambda: not stage.loop.live_streams)
    assert stage.loop.buffers.lent == 0


class Chunks(Actor):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[tuple[Opcode, bool, bytes]] = []

    def on_chunk(self, ws: WebSocket, opcode: Opcode, fin: bool, buff: ByteBuffer) -> None:
        self.pieces.append((opcode, fin, buff.clone_bytes()))
        self._told("on_chunk", ws)


def test_a_handler_with_on_chunk_gets_pieces_as_they_come(make_stage: MakeStage) -> None:
    stage = make_stage(make_handler=Chunks, message_buffer_size=100)
    guest, handler = stage.guest()
    guest.send(frame(TEXT, "whole"), frame(BINARY, b"one", fin=False))
    stage.run_until(lambda: len(handler.pieces) == 2)
    guest.send(frame(PING), frame(CONTINUE, b"two", fin=False), frame(CONTINUE))
    stage.run_until(lambda: len(handler.pieces) == 4)
    assert handler.pieces == [
        (Opcode.TEXT, True, b"whole"),
        (Opcode.BINARY, False, b"one"),
        (Opcode.BINARY, False, b"two"),
        (Opcode.BINARY, True, b""),
    ]
    handler.pieces.clear()
    message = frame(TEXT, "ü" * 1000)
    for at in range(0, len(message), 99):
        guest.send(message[at : at + 99])
        stage.run_for(0.1)
    assert b"".join(piece for _, _, piece in handler.pieces).decode() == "ü" * 1000
    assert [fin for _, fin, _ in handler.pieces].index(True) == len(handler.pieces) - 1
    assert len(handler.pieces) > 10
    assert handler.messages == []
    assert stage.loop.buffers.lent == 0


@pytest.mark.parametrize(
    ("bad", "code"),
    [(frame(CONTINUE, b"\xff"), 1007), (frame(CONTINUE, length=1 << 30), 1009), (frame(TEXT, "x"), 1002)],
)
def test_pieces_are_checked_like_messages(make_stage: MakeStage, bad: bytes, code: int) -> None:
    stage = make_stage(make_handler=Chunks)
    guest, handler = stage.guest()
    guest.send(frame(TEXT, "begun", fin=False), bad)
    assert guest.close_frame()[0] == code
    guest.wait_end()
    assert [piece for _, _, piece in handler.pieces] == [b"begun"]


def test_addresses_and_facts(make_stage: MakeStage) -> None:
    stage = make_stage(subprotocols=["chat"])
    guest, handler = stage.guest("Sec-WebSocket-Protocol: soap, chat")
    ws = handler.ws
    assert ws.remote_addr == guest.sock.getsockname()
    assert ws.local_addr == ("10.0.0.1", 80)
    assert ws.subprotocol == "chat"
    assert repr(ws) == f"<WebSocket {ws.remote_addr[0]}:{ws.remote_addr[1]} OPEN>"
    assert ws.data is None
    with pytest.raises(AttributeError):
        ws.anything = 1
    guest.fin()
    stage.run_until(lambda: not stage.loop.live_streams)
    assert (ws.remote_addr, ws.local_addr) == (None, None)
    assert repr(ws) == "<WebSocket - CLOSED>"


def test_forwarded_headers_are_not_believed(make_stage: MakeStage) -> None:
    stage = make_stage(keep_request=True)
    guest, handler = stage.guest("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "Forwarded: for=192.0.2.1")
    assert handler.ws.remote_addr == guest.sock.getsockname()
    assert handler.ws.request.remote_addr == guest.sock.getsockname()
    assert handler.ws.request.scheme == "http"


@pytest.mark.parametrize("compression", [False, True], ids=["plain", "deflate"])
def test_an_idle_connection_holds_nothing(make_stage: MakeStage, compression: bool) -> None:
    """No buffer, no compressor or inflater of its own, no request, no timer: all that is lent while bytes move."""
    stage = make_stage(make_handler=Echo, compression=compression, min_compress_size=0)
    offers = [DEFLATE] if compression else []
    (one, first), (_, second) = stage.guest(*offers), stage.guest(*offers)
    text = "x" * 50_000
    one.send(frame(TEXT, text[:100], fin=False), frame(CONTINUE, text[100:]))
    one.read()
    stage.run_for(1)
    connection = first.ws.connection
    assert connection.deflate is second.ws.connection.deflate, "shared by all"
    assert (connection.deflate is not None) is compression
    assert connection._assembly is None
    assert connection.config is second.ws.connection.config
    assert first.ws.context is second.ws.context
    assert (first.ws._inbox, first.ws._request, first.ws._writer, first.ws.stream._out) == (None,) * 4
    assert stage.loop.buffers.lent == 0
    assert stage.loop.active_timers == 0


def test_buffered_is_what_the_kernel_has_not_taken(make_stage: MakeStage) -> None:
    stage = make_stage(network={"buffer_size": 1000})
    guest, handler = stage.guest()
    handler.ws.write_binary(bytes(5000))
    stage.run_for(0.1)
    assert handler.ws.buffered == 5004 - 1000
    assert guest.read().payload == bytes(5000)
    stage.run_for(0.1)
    assert handler.ws.buffered == 0


def test_json_is_what_browsers_read(make_stage: MakeStage) -> None:
    guest, handler = make_stage().guest()
    value = {"text": "ü </script> \u2028", "numbers": [1, 2.5, -3e100], "nothing": None, "yes": True}
    handler.ws.write_json(value)
    assert json.loads(guest.text()) == value


def test_write_timeouts_of_one_connection_do_not_make_a_new_context_for_others(make_stage: MakeStage) -> None:
    stage = make_stage(read_timeout=100, ping_interval=None)
    (_, first), (_, second) = stage.guest(), stage.guest()
    shared = first.ws.context
    assert second.ws.context is shared
    first.ws.set_read_timeout(50)
    assert second.ws.context is shared
    assert shared.options.read_timeout == 100
    assert first.ws.context.options.read_timeout == 50
