"""Input that is too much of something allowed: bombs, fragments without end, pings to one who does not read, a byte at
a time. Memory stays bounded, and the server goes on serving others."""

from __future__ import annotations

import gc
import socket
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gows import AcceptOptions, WebSocket
from gows.reactor import Stream
from tests.integration.conftest import MakeServing
from tests.support import wire
from tests.support.processes import Children
from tests.support.raw import RawPeer
from tests.support.serving import Recorder, Serving
from tests.support.stage import Echo, Stage
from tests.support.waiting import wait_until
from tests.support.wire import BINARY, CONTINUE, DEFLATE, PING, PONG, TEXT, frame

MEBIBYTE = 1 << 20
KEY = bytes(4)  # masks nothing, so that large messages are made quickly


def bomb(mebibytes: int) -> bytes:
    """The payload of a compressed message of so many MiB of zeros, about a thousandth as large."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(bytes(MEBIBYTE)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return (block * mebibytes)[:-4]


# ---------------------------------------------------------------------- memory of a process of its own

SERVE = """
import sys, gows

class Echo(gows.Handler):
    def on_message(self, ws, opcode, buff):
        ws.write_message(opcode, buff)

server = gows.Server(options=gows.AcceptOptions(compression=True))

@server.route("/ws")
@server.route("/echo")
def serve(request):
    gows.accept(request).serve(Echo())

address = server.listen("127.0.0.1:0")
server.listen_and_serve(ready=lambda: print(address[1], flush=True))
"""


class Process:
    """A server in a process of its own; `peak` is the most memory it ever had, in bytes."""

    def __init__(self, children: Children) -> None:
        self.process = children.start([sys.executable, "-c", SERVE], stdout=-1, text=True)
        assert self.process.stdout is not None
        self.address = ("127.0.0.1", int(self.process.stdout.readline()))

    @property
    def peak(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024

    def assert_serves(self) -> None:
        with RawPeer(self.address) as peer:
            peer.upgrade("/echo", DEFLATE)
            peer.send(frame(TEXT, "still there?"))
            assert peer.read_text() == "still there?"


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell the memory of a process")
    with Children() as children:
        process = Process(children)
        process.assert_serves()
        yield process
        assert process.process.stdout is not None
        process.process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("fragmented", [False, True])
def test_inflation_bomb_is_refused_while_it_inflates(process: Process, fragmented: bool) -> None:
    payload = bomb(1024)
    assert len(payload) < 2 * MEBIBYTE
    before = process.peak
    with RawPeer(process.address) as peer:
        peer.upgrade("/ws", DEFLATE)
        if fragmented:
            peer.send(frame(BINARY, payload[:1000], rsv=4, fin=False, key=KEY))
            payload = payload[1000:]
        peer.send(frame(CONTINUE if fragmented else BINARY, payload, rsv=0 if fragmented else 4, key=KEY)[:200_000])
        closing = peer.read()
        assert closing.close_code == 1009
    assert process.peak - before < 16 * MEBIBYTE
    process.assert_serves()


@pytest.mark.slow
def test_bombs_below_the_limit_from_many_are_not_kept(process: Process) -> None:
    """60 messages of 1 MiB each in 60 KiB of frames, in one read: they are made one after another."""
    before = process.peak
    message = frame(BINARY, bomb(1), rsv=4, key=KEY)
    with RawPeer(process.address, receive_buffer=65536) as peer:
        peer.upgrade("/ws", DEFLATE)
        peer.send(message * 60)
        for _ in range(60):
            assert peer.read().opcode == BINARY
    assert process.peak - before < 24 * MEBIBYTE
    process.assert_serves()


@pytest.mark.slow
def test_announced_and_never_sent_messages_reserve_nothing(process: Process) -> None:
    before = process.peak
    peers = []
    try:
        for _ in range(200):
            peers.append(RawPeer(process.address))
            peers[-1].upgrade("/ws")
            peers[-1].send(frame(BINARY, b"x", length=MEBIBYTE))
        process.assert_serves()
    finally:
        for peer in peers:
            peer.close()
    assert process.peak - before < 16 * MEBIBYTE


# ---------------------------------------------------------------------- objects of this process


def blocks() -> int:
    """How many objects the interpreter has allocated."""
    gc.collect()
    return sys.getallocatedblocks()


def sync(peer: RawPeer) -> None:
    """Wait until the server has taken all that was sent."""
    peer.send(frame(PING, "sync"))
    assert peer.read() == (PONG, b"sync", True, 0)


@pytest.mark.slow
def test_endless_tiny_fragments(server: Serving) -> None:
    """A fragment costs no object. That their number has an end all the same is in test_bad_input_frames."""
    pieces = frame(CONTINUE, b"x", fin=False, key=KEY) * 2000
    with server.upgraded() as peer:
        peer.send(frame(TEXT, "x", fin=False))
        sync(peer)
        before = blocks()
        for _ in range(3):
            peer.send(pieces)
            sync(peer)
        assert blocks() - before < 1000
        peer.send(frame(CONTINUE, "!"))
        assert peer.read_text() == "x" * 6001 + "!"


def test_endless_empty_fragments(server: Serving) -> None:
    with server.upgraded() as peer:
        peer.send(frame(TEXT, fin=False))
        for _ in range(127):
            peer.send(frame(CONTINUE, fin=False))
        sync(peer)
        peer.send(frame(CONTINUE, fin=False))
        peer.expect_close(1008)


@pytest.mark.slow
def test_endless_empty_compressed_blocks(server: Serving) -> None:
    """They inflate to nothing, so no limit on messages stops them."""
    with server.upgraded(DEFLATE) as peer:
        peer.send(frame(TEXT, rsv=4, fin=False))
        block = frame(CONTINUE, b"\x00\x00\x00\xff\xff" * 10_000, fin=False, key=KEY)
        peer.sock.settimeout(0.01)
        for _ in range(100):
            try:
                peer.send(block)
                closing = peer.read()
                break
            except TimeoutError:
                continue
        assert closing.close_code in (1008, 1009)


@pytest.mark.slow
def test_endless_messages_that_need_nothing(server: Serving) -> None:
    """Ten thousand empty messages in one piece are ten thousand calls, and no more memory than a few of them."""
    with server.upgraded() as peer:
        peer.send(frame(TEXT, key=KEY) * 10_000)
        assert {peer.read_text() for _ in range(10_000)} == {""}


class SmallBuffer(Recorder):
    """Has the kernel take little."""

    def on_open(self, ws: WebSocket) -> None:
        assert ws.stream.sock is not None
        ws.stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        super().on_open(ws)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 125])
def test_ping_flood_from_a_peer_that_never_reads(server: Serving, size: int) -> None:
    server.make_handler = SmallBuffer
    flood = frame(PING, "x" * size, key=KEY) * 1000
    with server.upgraded(receive_buffer=4096) as peer:
        wait_until(lambda: server.handlers and server.handler.calls)
        handler: Recorder = server.handler
        for turn in range(1, 21):
            peer.send(flood)
            expected = 1000 * turn
            wait_until(lambda: handler.calls.count("on_ping") >= expected)  # noqa: B023
            assert handler.ws.buffered <= 16 * (2 + size)
        if size:
            assert handler.ws.buffered > 0, "the kernel took everything: the test tests nothing"
        pongs = 0
        peer.send(frame(TEXT, "and now?"))
        while (found := peer.read()).opcode == PONG:
            pongs += 1
        assert found.payload == b"and now?"
        assert pongs >= 16
        if size:
            assert pongs < 1000


def test_pong_flood(server: Serving) -> None:
    with server.upgraded() as peer:
        before = threading.active_count()
        peer.send(frame(PONG, "x" * 125, key=KEY) * 5000)
        peer.send(frame(TEXT, "done"))
        assert peer.read_text() == "done"
        assert threading.active_count() == before, "a pong starts nothing"
        wait_until(lambda: server.loop.active_timers == 0)
        wait_until(lambda: server.handler.ws.buffered == 0)


@pytest.mark.slow
def test_one_byte_per_segment(server: Serving) -> None:
    data = bytes(range(256)) * 64
    with server.upgraded() as peer:
        send = peer.sock.send
        for byte in frame(BINARY, data):
            send(bytes([byte]))
        assert peer.read() == (BINARY, data, True, 0)


@pytest.mark.parametrize("form", ["head", "frame header", "control frame"])
def test_one_byte_per_segment_elsewhere(server: Serving, form: str) -> None:
    with server.connect() as peer:
        if form == "head":
            for byte in wire.request("/ws"):
                peer.send(bytes([byte]))
            assert peer.read_answer()[0].status == 101
            return
        peer.upgrade("/ws")
        message = frame(PING, "x" * 125) if form == "control frame" else frame(TEXT, "x" * 200)
        for byte in message * 5:
            peer.send(bytes([byte]))
        for _ in range(5):
            assert peer.read()[:2] == ((PONG, b"x" * 125) if form == "control frame" else (TEXT, b"x" * 200))


@pytest.mark.slow
def test_one_byte_per_segment_keeps_the_bytes_and_nothing_else() -> None:
    """What is kept of an unfinished message is not an object for each time that something came: a part of 1 MiB a byte
    at a time, then the rest, and what is kept does not grow but for the bytes."""
    stage = Stage(make_handler=Echo)
    guest, handler = stage.guest()
    take, scratch = handler.ws.data_received, bytearray(64)
    take(bytearray(frame(BINARY, length=MEBIBYTE, key=KEY)), 14)
    kept = []
    for at in range(MEBIBYTE // 16):
        take(scratch, 1)
        if at % (MEBIBYTE // 64) == 1000:
            kept.append(blocks())
    assert handler.messages == []
    take(bytearray(MEBIBYTE * 15 // 16), MEBIBYTE * 15 // 16)
    assert guest.read().payload == bytes(MEBIBYTE)
    assert max(kept) - min(kept) < 100, kept
    stage.close()


class Calls:
    """Counts the calls, of Python and of C, that are made while it is a context."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Calls:
        self._before = sys.getprofile()
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)

    def _called(self, *_: object) -> None:
        self.count += 1


def calls_for_a_message(size: int) -> int:
    """How many calls the engine makes for a message of `size` bytes that comes a byte at a time."""
    stage = Stage(make_handler=Echo)
    guest, handler = stage.guest()
    take, scratch = handler.ws.data_received, bytearray(64)
    head = bytearray(frame(BINARY, length=size, form=64 if size > 65535 else 16, key=KEY))
    take(head, len(head))
    with Calls() as calls:
        for _ in range(size):
            take(scratch, 1)
    assert guest.read().payload == bytes(size)
    stage.close()
    return calls.count


def calls_for_a_head(*headers: str, piece: int) -> int:
    """How many calls the engine makes for a request that comes in pieces of so many bytes, and its answer."""
    stage = Stage()
    head = wire.request("/ws", *headers)
    guest = stage.connect()
    (http,) = [stream.observer for stream in stage.loop.streams if isinstance(stream, Stream)]
    with Calls() as calls:
        for at in range(0, len(head), piece):
            data = head[at : at + piece]
            http.data_received(bytearray(data), len(data))
        stage.run_for(0)
    stage.close()
    assert guest.sock is not None
    return calls.count


@pytest.mark.slow
def test_one_byte_at_a_time_costs_the_same_for_each_byte() -> None:
    # from 8 KiB on what is held is counted, so both are beyond that
    small, large = (calls_for_a_message(size) - calls_for_a_message(1 << 13) for size in (3 << 12, 3 << 13))
    assert large / small < 4.1  # of four times as many bytes beyond


@pytest.mark.slow
def test_a_head_costs_the_same_for_each_byte_and_each_line() -> None:
    line = "X: " + "a" * 100
    small, large = calls_for_a_head(*[line] * 20, piece=1), calls_for_a_head(*[line] * 80, piece=1)
    assert large / small < 4.1
    names = [f"Sec-WebSocket-Protocol: {'n' * 20}{number}" for number in range(80)]
    small, large = calls_for_a_head(*names[:20], piece=1 << 14), calls_for_a_head(*names, piece=1 << 14)
    assert large / small < 4.1


def test_connections_beyond_the_limit_are_told_503(make_serving: MakeServing) -> None:
    server = make_serving(max_connections=3)
    peers = [server.connect() for _ in range(3)]
    try:
        for peer in peers:
            peer.upgrade("/ws")
        with server.connect() as one_more:
            answer, _ = one_more.read_answer()
            assert answer.status == 503
            assert "retry-after" in answer.headers
            assert one_more.read_end() == "FIN"
        for peer in peers:
            peer.send(frame(TEXT, "all well"))
            assert peer.read_text() == "all well"
    finally:
        for peer in peers:
            peer.close()
    server.wait_gone()


def test_limits_can_be_set(make_serving: MakeServing) -> None:
    options = AcceptOptions(max_message_size=10, max_fragments=3, max_empty_fragments=0)
    server = make_serving(options=options, max_head_size=400, max_headers=8)
    for bad, code in (
        (frame(TEXT, "x" * 11), 1009),
        (frame(TEXT, "x", fin=False) + frame(CONTINUE, "x", fin=False) * 3, 1008),
        (frame(TEXT, fin=False) + frame(CONTINUE, fin=False), 1008),
    ):
        with server.upgraded() as peer:
            peer.send(bad)
            peer.expect_close(code)
    for head in (wire.request("/ws", "X: " + "x" * 400), wire.request("/ws", *["X: 1"] * 4)):
        with server.connect() as peer:
            assert peer.ask(head).status == 431
