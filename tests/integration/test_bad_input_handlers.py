"""Faults of the user's own code: handlers that raise or block, writes that come too late, writes from many threads."""

from __future__ import annotations

import random
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gows import AcceptOptions, ByteBuffer, ConnectionClosedError, Handler, Opcode, WebSocket, WriterBusyError
from tests.integration.conftest import MakeServing
from tests.support import wire
from tests.support.raw import RawPeer
from tests.support.serving import Recorder, Serving
from tests.support.waiting import wait_until
from tests.support.wire import BINARY, CONTINUE, DEFLATE, PING, PONG, TEXT, frame

# ---------------------------------------------------------------------- handlers that raise


class Clumsy(Recorder):
    """Raises in the callback that the test names."""

    where = ""

    def __getattribute__(self, name: str) -> Any:
        if name == type(self).where:
            found = super().__getattribute__(name)

            def fail(*arguments: Any) -> None:
                found(*arguments)
                raise RuntimeError(f"clumsy in {name}: a secret")

            return fail
        return super().__getattribute__(name)

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self.calls.append("on_message")

    def on_drain(self, ws: WebSocket) -> None:
        self.calls.append("on_drain")


class ClumsyChunks(Clumsy):
    def on_chunk(self, ws: WebSocket, opcode: Opcode, fin: bool, buff: ByteBuffer) -> None:
        self.calls.append("on_chunk")


PROVOKED_BY = {
    "on_open": b"",
    "on_message": frame(TEXT, "hello") + frame(TEXT, "never delivered"),
    "on_chunk": frame(TEXT, "hello", fin=False) + frame(CONTINUE, "never delivered"),
    "on_ping": frame(PING, "p") + frame(TEXT, "never delivered"),
    "on_pong": frame(PONG, "q") + frame(TEXT, "never delivered"),
}


@pytest.mark.parametrize("where", PROVOKED_BY)
def test_handler_that_raises(server: Serving, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = ClumsyChunks if where == "on_chunk" else Clumsy
    monkeypatch.setattr(kind, "where", where)
    server.make_handler = kind
    with server.upgraded() as peer:
        address = peer.sock.getsockname()
        peer.send(PROVOKED_BY[where])
        if where == "on_ping":
            assert peer.read() == (PONG, b"p", True, 0)
        closing = peer.read()
        assert (closing.opcode, closing.close_code, closing.reason) == (wire.CLOSE, 1011, ""), "the peer learns no more"
        peer.send(wire.close(1011))
        assert peer.read_end() == "FIN"
        handler = server.wait_closed()
    assert handler.close_code == 1011
    assert handler.calls == (["on_open", "on_close"] if where == "on_open" else ["on_open", where, "on_close"])
    assert [str(error) for error in server.faults.errors] == [f"clumsy in {where}: a secret"]
    (said,) = server.faults.take()
    assert where in said
    assert f"{address[0]}:{address[1]}" in said, "the connection is named"


def test_handler_that_raises_in_on_drain(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clumsy, "where", "on_drain")
    server.make_handler = Clumsy
    with server.upgraded(receive_buffer=4096) as peer:
        wait_until(lambda: server.handlers and server.handler.calls)
        server.handler.ws.stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        server.handler.ws.write_binary(bytes(4 << 20))
        assert len(peer.read().payload) == 4 << 20
        assert peer.read().close_code == 1011
        peer.send(wire.close(1011))
        assert peer.read_end() == "FIN"
        handler = server.wait_closed()
    assert handler.calls == ["on_open", "on_drain", "on_close"]
    (said,) = server.faults.take()
    assert "on_drain" in said


@pytest.mark.parametrize("way", ["their close", "our close", "FIN", "RST", "their fault"])
def test_handler_that_raises_in_on_close(server: Serving, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clumsy, "where", "on_close")
    server.make_handler = Clumsy
    with server.upgraded() as peer:
        wait_until(lambda: server.handlers and server.handler.calls)
        if way == "their close":
            peer.send(wire.close(1000))
            peer.expect_close(1000)
        elif way == "our close":
            server.handler.ws.close_handshake()
            assert peer.read().close_code == 1000
            peer.send(wire.close(1000))
            assert peer.read_end() == "FIN"
        elif way == "FIN":
            peer.close()
        elif way == "RST":
            peer.reset()
        else:
            peer.send(frame(TEXT, key=None))
            peer.expect_close(1002)
        handler = server.wait_closed()
        wait_until(lambda: server.faults.messages)
    assert handler.calls == ["on_open", "on_close"]
    (said,) = server.faults.take()
    assert "on_close" in said


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, BaseException], ids=lambda error: error.__name__)
def test_handler_that_raises_what_is_no_exception(server: Serving, error: type[BaseException]) -> None:
    """It may end a thread elsewhere; here it must not take a worker with it."""

    class Leaver(Recorder):
        def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            raise error

    server.make_handler = Leaver
    for _ in range(6):  # more than there are workers
        with server.upgraded() as peer:
            peer.send(frame(TEXT, "go"))
            assert peer.read().close_code == 1011
            peer.send(wire.close(1011))
            assert peer.read_end() == "FIN"
    wait_until(lambda: all(handler.closes for handler in server.handlers))
    assert len(server.faults.take()) == 6


def test_what_came_before_a_callback_raised_is_answered(server: Serving) -> None:
    class Third(Recorder):
        def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            super().on_message(ws, opcode, buff)
            if len(self.messages) == 3:
                raise RuntimeError("three is enough")

    server.make_handler = Third
    with server.upgraded() as peer:
        peer.send(*(frame(TEXT, str(number)) for number in range(10)))
        assert [peer.read_text() for _ in range(3)] == ["0", "1", "2"]
        assert peer.read().close_code == 1011
        peer.send(wire.close(1011))
        assert peer.read_end() == "FIN"
    assert len(server.faults.take()) == 1


# ---------------------------------------------------------------------- handlers that block


class Blocker(Recorder):
    """Works until it is let go."""

    let_go: threading.Event
    working: threading.Semaphore

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self.working.release()
        assert self.let_go.wait(60)
        super().on_message(ws, opcode, buff)


@pytest.fixture
def blocker(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Blocker]]:
    monkeypatch.setattr(Blocker, "let_go", threading.Event(), raising=False)
    monkeypatch.setattr(Blocker, "working", threading.Semaphore(0), raising=False)
    yield Blocker
    Blocker.let_go.set()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [4], indirect=True)  # inline, callbacks must not block
@pytest.mark.parametrize("blocked", [1, 3])
def test_handler_that_blocks_while_100_others_are_served(server: Serving, blocker: type[Blocker], blocked: int) -> None:
    server.make_handler = blocker
    peers = [server.upgraded() for _ in range(blocked)]
    try:
        for peer in peers:
            peer.send(frame(TEXT, "at last"))
            assert blocker.working.acquire(timeout=10)
        server.make_handler = Recorder
        others = [server.upgraded() for _ in range(100)]
        peers += others
        for turn in range(3):
            for other in others:
                other.send(frame(TEXT, f"turn {turn}"))
            assert {other.read_text() for other in others} == {f"turn {turn}"}
        for peer in peers[:blocked]:
            peer.send(frame(PING, "there?"))
            assert peer.read() == (PONG, b"there?", True, 0), "a busy handler is not a dead server"
        blocker.let_go.set()
        assert {peer.read_text() for peer in peers[:blocked]} == {"at last"}
    finally:
        for peer in peers:
            peer.close()


# ---------------------------------------------------------------------- writes that come too late

WRITES: dict[str, Callable[[WebSocket], object]] = {
    "write_message": lambda ws: ws.write_message(Opcode.TEXT, b"late"),
    "write_text": lambda ws: ws.write_text(b"late"),
    "write_string": lambda ws: ws.write_string("late"),
    "write_binary": lambda ws: ws.write_binary(b"late"),
    "write_json": lambda ws: ws.write_json({"late": True}),
    "write_ping": lambda ws: ws.write_ping(b"late"),
    "write_pong": lambda ws: ws.write_pong(b"late"),
    "next_writer": lambda ws: ws.next_writer(Opcode.TEXT),
}


@pytest.mark.parametrize("way", ["our close", "their close", "close at once", "FIN", "RST", "their fault", "1011"])
def test_write_after_close(server: Serving, way: str) -> None:
    class Failing(Recorder):
        def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            raise RuntimeError("as the test wants it")

    if way == "1011":
        server.make_handler = Failing
    with server.upgraded() as peer:
        wait_until(lambda: server.handlers and server.handler.calls)
        ws: WebSocket = server.handler.ws
        if way == "our close":
            ws.close_handshake()
        elif way == "close at once":
            ws.close()
            assert peer.read_end() == "FIN"
            peer.close()
        elif way == "FIN":
            peer.close()
        elif way == "RST":
            peer.reset()
        else:
            peer.send({"their close": wire.close(1000), "their fault": frame(TEXT, key=None), "1011": GO}[way])
        if way == "1011":
            wait_until(lambda: server.faults.messages)
            server.faults.take()
        elif way != "our close":
            server.wait_closed()
        wait_until(lambda: ws.closed)
        for write in WRITES.values():
            with pytest.raises(ConnectionClosedError):
                write(ws)
        ws.close_handshake()  # these may be called at any time
        ws.close()
        ws.close()
        if way not in ("FIN", "RST", "close at once"):
            received = b"".join(iter(lambda: peer.sock.recv(65536), b""))
            assert b"late" not in received


GO = frame(TEXT, "go")


@pytest.mark.parametrize("callback", ["on_open", "on_message"])
def test_write_after_our_own_close_in_a_callback_is_no_fault(server: Serving, callback: str) -> None:
    """The race of a handler with a close is nobody's fault: nothing is logged, and the code stays what it was."""

    class Late(Recorder):
        def go(self, ws: WebSocket) -> None:
            ws.close_handshake(4001)
            ws.write_string("late")

        def on_open(self, ws: WebSocket) -> None:
            super().on_open(ws)
            if callback == "on_open":
                self.go(ws)

        def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
            self.go(ws)

    server.make_handler = Late
    with server.upgraded() as peer:
        peer.send(GO)
        assert peer.read().close_code == 4001
        peer.send(wire.close(4001))
        assert peer.read_end() == "FIN"
    assert server.wait_closed().close_code == 4001


# ---------------------------------------------------------------------- writes from many threads

THREADS = 8
EACH = 60


def text_of(thread: int, number: int) -> str:
    """A message that says whose it is, partly compressible, of very different sizes."""
    size = random.Random(f"{thread} {number}").choice([0, 1, 50, 200, 3000, 30_000])
    noise = random.Random(f"{number} {thread}").randbytes(size // 2).hex()
    return f"{thread} {number} {noise}"


def write_all(ws: WebSocket, thread: int, start: threading.Barrier, failures: list[Exception]) -> None:
    try:
        start.wait(10)
        for number in range(EACH):
            text = text_of(thread, number)
            if thread == 0:
                with ws.next_writer(Opcode.TEXT) as writer:
                    for at in range(0, len(text), 7001):
                        writer.write_string(text[at : at + 7001])
                    if number % 2:
                        writer.write_string("")
            elif thread == 1:
                ws.write_text(text.encode(), compress=False)
            elif thread == 2:
                ws.write_message(Opcode.TEXT, memoryview(text.encode()))
                ws.write_ping(b"between")
            else:
                ws.write_string(text)
    except Exception as error:
        failures.append(error)


def read_messages(peer: RawPeer, count: int, takeover: bool) -> tuple[list[str], int]:
    """The messages, put together by a reader of its own; and in how many frames they came."""
    inflater = zlib.decompressobj(-15)
    messages: list[str] = []
    pieces: list[bytes] = []
    compressed = False
    frames = 0
    while len(messages) < count:
        found = peer.read()
        if found.opcode == PING:
            assert found.payload == b"between"
            continue
        frames += 1
        assert found.opcode == (CONTINUE if pieces else TEXT), "another message inside a message"
        if not pieces:
            compressed = found.rsv == 4
        else:
            assert found.rsv == 0
        pieces.append(found.payload)
        if found.fin:
            data = b"".join(pieces)
            pieces = []
            if compressed:
                if not takeover:
                    inflater = zlib.decompressobj(-15)
                data = inflater.decompress(data + wire.DEFLATE_TAIL)
            messages.append(data.decode())
    return messages, frames


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["plain", "deflate", "deflate with context takeover"])
def test_write_from_8_threads_at_once(make_serving: MakeServing, mode: str) -> None:
    takeover = mode.endswith("takeover")
    options = AcceptOptions(
        compression=mode != "plain", server_context_takeover=takeover, min_compress_size=100, high_water=1 << 26
    )
    server = make_serving(options=options)
    with server.upgraded(*([] if mode == "plain" else [DEFLATE])) as peer:
        wait_until(lambda: server.handlers and server.handler.calls)
        ws = server.handler.ws
        failures: list[Exception] = []
        start = threading.Barrier(THREADS)
        threads = [threading.Thread(target=write_all, args=(ws, n, start, failures)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        messages, frames = read_messages(peer, THREADS * EACH, takeover)
        for thread in threads:
            thread.join(10)
        assert not failures
        assert frames > len(messages), "some were written in fragments"
        for number in range(THREADS):
            mine = [message for message in messages if message.startswith(f"{number} ")]
            assert mine == [text_of(number, i) for i in range(EACH)], "each thread's messages come whole and in order"


def test_two_writers_at_once(server: Serving) -> None:
    with server.upgraded() as peer:
        wait_until(lambda: server.handlers and server.handler.calls)
        ws = server.handler.ws
        with ws.next_writer(Opcode.BINARY) as writer:
            writer.write(b"one ")
            with pytest.raises(WriterBusyError):
                ws.next_writer(Opcode.TEXT)
            writer.write(b"message")
        assert peer.read() == (BINARY, b"one message", True, 0)
        with ws.next_writer(Opcode.TEXT) as writer:
            writer.write_string("another")
        assert peer.read_text() == "another"


class NoHandler:
    """Looks like one and is none."""

    on_message = Handler.on_message


@pytest.mark.slow
def test_what_is_no_handler(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gows.session.session.SERVE_TIMEOUT", 0.2)
    server.make_handler = NoHandler  # type: ignore[assignment]
    with server.upgraded() as peer:
        peer.expect_close(1011)
    failed, not_served = server.faults.take()
    assert "the view failed" in failed
    assert "not served" in not_served
