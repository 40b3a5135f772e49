from __future__ import annotations

import queue
import struct
import threading
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from gows.client import BlockingWebSocket, blocking, connect
from gows.codes import Opcode
from gows.errors import ConnectionClosedError, QueueFullError, ReceiveTimeoutError, UsageError
from gows.options import AcceptOptions
from gows.reactor.transports import Loop
from gows.session.states import INBOX_FULL
from tests.support.scripted import Peer, ScriptedServer, close_frame, frame
from tests.support.waiting import wait_until

Script = Callable[[Peer], None]


def finish(peer: Peer) -> tuple[int, bytes]:
    """The end of a close handshake that the client began; its close frame."""
    while True:
        opcode, body = peer.read_frame()
        if opcode == 8:
            peer.send(frame(8, body))
            return opcode, body


def say(*frames: bytes) -> Script:
    """Accept, send these, and wait for the client's close frame, first or in answer."""

    def script(peer: Peer) -> None:
        peer.accept(behind=b"".join(frames))
        finish(peer)

    return script


def accept_and_leave(peer: Peer) -> None:
    peer.accept()


# ---------------------------------------------------------------------- receiving


def test_text_is_str_and_binary_is_bytes(loop: Loop) -> None:
    greetings = say(frame(1, "grüß".encode()), frame(2, b"\xff"))
    with ScriptedServer(greetings) as server, connect(server.url, loop=loop) as ws:
        assert ws.recv() == "grüß"
        assert ws.recv(timeout=10) == b"\xff"


def test_messages_of_the_user_are_sent(loop: Loop) -> None:
    sent: list[tuple[int, bytes]] = []

    def script(peer: Peer) -> None:
        peer.accept()
        sent.extend(peer.read_frame() for _ in range(4))
        finish(peer)

    with ScriptedServer(script) as server, connect(server.url, loop=loop) as ws:
        ws.write_string("one")
        ws.write_binary(b"two")
        ws.write_ping(b"three")
        with ws.next_writer(Opcode.TEXT) as writer:
            writer.write_string("fo")
            writer.write(b"ur")
        wait_until(lambda: len(sent) == 4)
    assert sent == [(1, b"one"), (2, b"two"), (9, b"three"), (1, b"four")]


def test_nothing_in_time(loop: Loop) -> None:
    with ScriptedServer(say()) as server, connect(server.url, loop=loop) as ws:
        with pytest.raises(ReceiveTimeoutError, match=r"within 0\.01 s") as caught:
            ws.recv(timeout=0.01)
        assert isinstance(caught.value, TimeoutError)
        with pytest.raises(ReceiveTimeoutError, match="within 0 s"):
            ws.recv(timeout=0)
        with pytest.raises(ValueError, match="timeout must be more than 0 seconds"):
            ws.recv(timeout=-1)


def test_the_end_comes_behind_the_messages_and_tells_how_it_was(loop: Loop) -> None:
    with ScriptedServer(say(frame(1, b"last"), close_frame(4000, "so long"))) as server:
        ws = connect(server.url, loop=loop)
        assert ws.recv(10) == "last"
        for _ in range(2):
            with pytest.raises(ConnectionClosedError, match="4000 so long") as caught:
                ws.recv(10)
            assert (caught.value.code, caught.value.reason) == (4000, "so long")
        with pytest.raises(ConnectionClosedError):
            ws.write_string("too late")


def test_what_came_before_a_close_can_still_be_answered(loop: Loop) -> None:
    frames: list[tuple[int, bytes]] = []

    def script(peer: Peer) -> None:
        peer.accept(behind=frame(1, b"question") + close_frame(1000))
        frames.extend(peer.read_frame() for _ in range(2))

    with ScriptedServer(script) as server:
        ws = connect(server.url, loop=loop)
        wait_until(lambda: ws.closed)
        assert ws.recv(10) == "question"
        ws.write_string("answer")
        with pytest.raises(ConnectionClosedError, match="1000"):
            ws.recv(10)
    assert frames == [(1, b"answer"), (8, struct.pack("!H", 1000))]


def test_a_close_is_answered_though_nobody_receives(loop: Loop) -> None:
    with ScriptedServer(say(close_frame(1001))) as server:
        ws = connect(server.url, loop=loop)
        wait_until(lambda: ws.closed)
    assert ws.close_code == 1001


def test_a_fault_of_the_server_ends_the_connection(loop: Loop) -> None:
    closes = []

    def script(peer: Peer) -> None:
        peer.accept(behind=frame(1, b"fine") + frame(1, b"\xff"))
        closes.append(peer.read_frame())

    with ScriptedServer(script) as server, connect(server.url, loop=loop) as ws:
        assert ws.recv(10) == "fine"
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv(10)
        assert caught.value.code == 1007
    assert closes[0][1].startswith(struct.pack("!H", 1007))


@pytest.mark.parametrize("code", [1000, 1001, None])
def test_iteration_ends_with_a_normal_close(code: int | None, loop: Loop) -> None:
    end = frame(8) if code is None else close_frame(code)
    with ScriptedServer(say(frame(1, b"a"), frame(2, b"b"), end)) as server, connect(server.url, loop=loop) as ws:
        assert list(ws) == ["a", b"b"]


@pytest.mark.parametrize("code", [1011, 4000])
def test_iteration_raises_after_any_other_close(code: int, loop: Loop) -> None:
    with ScriptedServer(say(frame(1, b"a"), close_frame(code))) as server, connect(server.url, loop=loop) as ws:
        messages = iter(ws)
        assert next(messages) == "a"
        with pytest.raises(ConnectionClosedError, match=str(code)):
            next(messages)


def test_iteration_raises_when_the_connection_breaks(loop: Loop) -> None:
    with ScriptedServer(accept_and_leave) as server, connect(server.url, loop=loop) as ws:
        with pytest.raises(ConnectionClosedError) as caught:
            next(ws)
        assert caught.value.code == 1006


def test_receivers_share_the_messages(loop: Loop) -> None:
    numbers = [b"%d" % number for number in range(50)]
    received: queue.SimpleQueue[object] = queue.SimpleQueue()

    with ScriptedServer(say(*(frame(1, number) for number in numbers), close_frame(1000))) as server:
        ws = connect(server.url, loop=loop)

        def receive() -> None:
            for message in ws:
                received.put(message)

        threads = [threading.Thread(target=receive) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
    assert {received.get() for _ in range(received.qsize())} == {number.decode() for number in numbers}


def test_two_messages_at_once_wake_two_receivers(loop: Loop) -> None:
    received: queue.SimpleQueue[str | bytes] = queue.SimpleQueue()
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.accept()
        assert go_on.wait(10)
        peer.send(frame(1, b"one") + frame(1, b"other"))
        finish(peer)

    with ScriptedServer(script) as server, connect(server.url, loop=loop) as ws:
        threads = [threading.Thread(target=lambda: received.put(ws.recv(10))) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(ws._turn._waiters) == 2)  # type: ignore[attr-defined]
        go_on.set()
        assert {received.get(timeout=5), received.get(timeout=5)} == {"one", "other"}
        for thread in threads:
            thread.join(10)


def test_closing_in_another_thread_ends_recv(loop: Loop) -> None:
    outcome: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    def receive(ws: BlockingWebSocket) -> None:
        try:
            ws.recv()
        except ConnectionClosedError as error:
            outcome.put(error)

    with ScriptedServer(say()) as server:
        ws = connect(server.url, loop=loop)
        thread = threading.Thread(target=receive, args=(ws,))
        thread.start()
        ws.close_handshake()
        error = outcome.get(timeout=10)
        thread.join(10)
    assert isinstance(error, ConnectionClosedError)
    assert error.code == 1000


def test_recv_in_the_loops_thread_is_refused(loop: Loop) -> None:
    outcome: queue.SimpleQueue[str] = queue.SimpleQueue()
    with ScriptedServer(say()) as server, connect(server.url, loop=loop) as ws:

        def in_loop() -> None:
            try:
                ws.recv()
            except UsageError as error:
                outcome.put(str(error))

        loop.call_soon(in_loop)
        assert "recv() waits for the loop" in outcome.get(timeout=10)


def test_a_loop_without_workers_will_do() -> None:
    greetings = say(frame(1, b"hello"), frame(1, b"again"))
    with Loop(workers=0) as loop:
        loop.start()
        with ScriptedServer(greetings) as server, connect(server.url, loop=loop) as ws:
            assert ws.recv(10) == "hello"
            ws.set_read_timeout(30)
            assert ws.recv(10) == "again"


# ---------------------------------------------------------------------- backpressure


def test_who_does_not_receive_stops_the_reading(loop: Loop) -> None:
    count, size = 1000, 100_000  # a hundred megabytes: more than any socket buffer holds
    message = b"\x82\x7f" + struct.pack("!Q", size) + bytes(size)
    sent = 0

    def script(peer: Peer) -> None:
        nonlocal sent
        peer.accept()
        for _ in range(count):
            peer.send(message)
            sent += 1
        finish(peer)

    with ScriptedServer(script) as server, connect(server.url, loop=loop) as ws:
        wait_until(lambda: ws._flags & INBOX_FULL)
        kept = len(ws._events) + len(ws._inbox or ())
        assert kept * size <= 2 * ws.context.options.max_message_size + 2 * len(loop.scratch)
        assert sent < count
        for _ in range(count):
            assert ws.recv(10) == bytes(size)
    assert sent == count


def test_many_small_messages_arrive_in_order_past_a_full_inbox(loop: Loop) -> None:
    count = 5_000

    def script(peer: Peer) -> None:
        peer.accept()
        peer.send(b"".join(frame(1, b"%0120d" % number) for number in range(count)))
        finish(peer)

    with ScriptedServer(script) as server, connect(server.url, loop=loop) as ws:
        wait_until(lambda: ws._flags & INBOX_FULL)
        assert [int(ws.recv(10)) for _ in range(count)] == list(range(count))


def test_messages_that_inflate_are_taken_in_portions(loop: Loop) -> None:
    """One read holds hundreds of compressed messages of half a megabyte each; they are inflated as they are fetched."""
    count, message = 200, bytes(500_000)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    deflated = b"\xc2\x7e" + struct.pack("!H", len(packed)) + packed

    def script(peer: Peer) -> None:
        peer.accept(
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            behind=deflated * count,
        )
        finish(peer)

    with ScriptedServer(script) as server, connect(server.url, compression=True, loop=loop) as ws:
        wait_until(lambda: ws._flags & INBOX_FULL)
        for _ in range(count):
            assert ws.recv(10) == message
            assert len(ws._events) + len(ws._inbox or ()) <= 8


def test_writing_waits_for_a_server_that_reads_slowly(loop: Loop) -> None:
    """Far more than the high-water mark and all socket buffers is written, and nothing is refused or lost."""
    go_on = threading.Event()
    count, size = 200, 100_000
    received: list[int] = []

    def script(peer: Peer) -> None:
        peer.accept()
        assert go_on.wait(10)
        received.extend(len(peer.read(size + 14)) for _ in range(count))
        finish(peer)

    options = AcceptOptions(high_water=65536, low_water=16384, write_timeout=None)
    with ScriptedServer(script) as server, connect(server.url, options=options, loop=loop) as ws:
        written = 0

        def write() -> None:
            nonlocal written
            for number in range(count):
                if number % 2:
                    ws.write_binary(bytes(size))
                else:
                    ws.write_string("x" * size)
                written += 1

        thread = threading.Thread(target=write)
        thread.start()
        wait_until(lambda: ws.stream.stalled_for() > 0.1)
        assert written < count
        assert ws.buffered <= 65536 + size + 14
        go_on.set()
        thread.join(10)
        assert not thread.is_alive()
        wait_until(lambda: len(received) == count)


@pytest.mark.parametrize("unread", [b"", frame(1, b"unread")])
def test_a_server_that_never_reads_is_given_up(unread: bytes, loop: Loop) -> None:
    done = threading.Event()

    def script(peer: Peer) -> None:
        peer.accept(behind=unread)
        assert done.wait(10)

    options = AcceptOptions(high_water=65536, write_timeout=0.1)
    with ScriptedServer(script) as server, connect(server.url, options=options, loop=loop) as ws:
        with pytest.raises(ConnectionClosedError):
            deque(iter(lambda: ws.write_binary(bytes(100_000)), 0))
        if unread:
            assert ws.recv(10) == "unread"
        with pytest.raises(ConnectionClosedError, match="1006 write timeout"):
            ws.recv(10)
        done.set()


def test_in_the_loops_thread_writing_does_not_wait(loop: Loop) -> None:
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()
    done = threading.Event()

    def script(peer: Peer) -> None:
        peer.accept()
        assert done.wait(10)
        finish(peer)

    with (
        ScriptedServer(script) as server,
        connect(server.url, options=AcceptOptions(high_water=65536), loop=loop) as ws,
    ):

        def in_loop() -> None:
            try:
                while True:
                    ws.write_binary(bytes(100_000))
            except QueueFullError as error:
                outcome.put(error)

        loop.call_soon(in_loop)
        assert isinstance(outcome.get(timeout=10), QueueFullError)
        done.set()


# ---------------------------------------------------------------------- leaving


def test_leaving_closes_with_1000(loop: Loop) -> None:
    bodies = []

    def script(peer: Peer) -> None:
        peer.accept()
        bodies.append(finish(peer)[1])

    with ScriptedServer(script) as server:
        with connect(server.url, loop=loop) as ws:
            pass
        assert ws.close_code == 1000
    assert bodies == [struct.pack("!H", 1000)]


def test_leaving_by_an_exception_closes_with_1011(loop: Loop) -> None:
    bodies = []

    def script(peer: Peer) -> None:
        peer.accept()
        bodies.append(finish(peer)[1])

    with ScriptedServer(script) as server, pytest.raises(LookupError), connect(server.url, loop=loop):
        raise LookupError
    assert bodies == [struct.pack("!H", 1011)]


def test_leaving_throws_away_what_was_not_received(loop: Loop) -> None:
    messages = [frame(1, b"%d" % number) for number in range(1000)]

    def script(peer: Peer) -> None:
        peer.accept()
        peer.send(b"".join(messages))
        opcode, body = peer.read_frame()
        peer.send(b"".join(messages) + frame(opcode, body))

    with ScriptedServer(script) as server:
        with connect(server.url, loop=loop) as ws:
            assert ws.recv(10) == "0"
        assert ws.close_code == 1000


def test_leaving_answers_a_close_that_was_not_received(loop: Loop) -> None:
    answers = []

    def script(peer: Peer) -> None:
        peer.accept(behind=frame(1, b"unread") + close_frame(1001))
        answers.append(peer.read_frame())

    with ScriptedServer(script) as server:
        with connect(server.url, loop=loop) as ws:
            wait_until(lambda: ws.closed)
            assert not answers
        assert ws.close_code == 1001
    assert answers == [(8, struct.pack("!H", 1001))]


def test_leaving_does_not_wait_for_ever(loop: Loop) -> None:
    done = threading.Event()

    def script(peer: Peer) -> None:
        peer.accept()
        assert done.wait(10)

    with ScriptedServer(script) as server:
        with connect(server.url, options=AcceptOptions(close_timeout=0.1), loop=loop) as ws:
            pass
        assert ws.close_code == 1006
        done.set()


def test_leaving_after_the_end(loop: Loop) -> None:
    with ScriptedServer(say(close_frame(1000))) as server, connect(server.url, loop=loop) as ws:
        assert list(ws) == []


def test_leaving_when_the_loop_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "_GRACE", 0.0)

    def script(peer: Peer) -> None:
        peer.accept()
        peer.wait_end()

    with ScriptedServer(script) as server, Loop(workers=0) as loop:
        loop.start()
        with connect(server.url, options=AcceptOptions(close_timeout=0.05), loop=loop) as ws:
            loop.stop()
        assert ws.close_code == 1006


def test_leaving_in_the_loops_thread_begins_the_close_and_is_refused(loop: Loop) -> None:
    outcome: queue.SimpleQueue[str] = queue.SimpleQueue()
    with ScriptedServer(say()) as server:
        ws = connect(server.url, loop=loop)

        def in_loop() -> None:
            try:
                ws.__exit__(None, None, None)
            except UsageError as error:
                outcome.put(str(error))

        loop.call_soon(in_loop)
        assert "leaving the with block" in outcome.get(timeout=10)
        with pytest.raises(ConnectionClosedError, match="1000"):
            ws.recv(10)
