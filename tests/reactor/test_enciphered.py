"""TLS begun on a connection that is made, and TLS within TLS."""

from __future__ import annotations

import random
import socket
import ssl
from collections import deque
from typing import Any, cast

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from gows.reactor import Loop, Stream, TLSStream
from gows.reactor.enciphered import LEAST_BUFFER, EncipheredSocket
from tests.support.fakes import World
from tests.support.recorder import Acceptor, Recorder

AUTHORITY = trustme.CA()
SERVER = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
AUTHORITY.issue_cert("example.org", "proxy.example").configure_cert(SERVER)
CLIENT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
AUTHORITY.configure_trust(CLIENT)


class Session:
    """A server's end of TLS, that echoes, in memory."""

    def __init__(self) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = SERVER.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.plain = bytearray()
        self.ended = False
        self._begun = False

    def feed(self, data: bytes, echo: bool = True) -> bytes:
        """Take what came; return what is to be sent."""
        self.incoming.write(data)
        try:
            if not self._begun:
                self.tls.do_handshake()
                self._begun = True
            while piece := self.tls.read(65536):
                self.plain += piece
                if echo:
                    self.tls.write(piece)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()


class Wire:
    """A Sock that takes and gives what it likes."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.coming: deque[bytes] = deque()
        self.sent = bytearray()
        self.full = False
        self.family = socket.AF_INET
        self.shut: list[int] = []

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        if not self.coming:
            raise BlockingIOError
        data = self.coming.popleft()
        if len(data) > len(buffer):
            self.coming.appendleft(data[len(buffer) :])
            data = data[: len(buffer)]
        buffer[: len(data)] = data
        return len(data)

    def send(self, data: bytes | memoryview) -> int:
        if self.full or self.random.random() < 0.3:
            raise BlockingIOError
        size = self.random.randint(1, len(data))
        self.sent += data[:size]
        return size

    def shutdown(self, how: int) -> None:
        self.shut.append(how)


def shaken(seed: int = 0) -> tuple[EncipheredSocket, Wire, Session]:
    """A socket over a session that has begun, the wire under it, and the other end."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = CLIENT.wrap_bio(incoming, outgoing, server_hostname="proxy.example")
    server = Session()
    for _ in range(4):
        try:
            session.do_handshake()
        except ssl.SSLWantReadError:
            pass
        incoming.write(server.feed(outgoing.read()))
    wire = Wire(seed)
    sock: Any = wire
    return EncipheredSocket(sock, session, incoming, outgoing), wire, server


def send_all(sock: EncipheredSocket, data: bytes, rng: random.Random) -> None:
    """Send as a stream does: what was not taken comes again, with more behind it or not."""
    at = 0
    for _ in range(100_000):
        if at == len(data):
            return
        piece = memoryview(data)[at : at + rng.choice([1, 2, 100, 20_000, 200_000])]
        try:
            at += sock.send(piece) if rng.random() < 0.5 else sock.sendmsg([piece[:1], piece[1:]])
        except BlockingIOError:
            pass
    raise AssertionError("it takes nothing")


@given(st.integers(0, 1 << 30), st.integers(0, 300_000), st.integers(1, 70_000))
@settings(max_examples=40, deadline=None)
def test_bytes_arrive_in_order_however_they_are_cut(seed: int, size: int, cut: int) -> None:
    rng = random.Random(seed)
    data = rng.randbytes(size)
    sock, wire, server = shaken(seed)
    send_all(sock, data, rng)
    answer = server.feed(bytes(wire.sent))
    assert server.plain == data
    wire.coming.extend(answer[at : at + cut] for at in range(0, len(answer), cut))
    got = bytearray()
    buffer = bytearray(LEAST_BUFFER)
    while wire.coming:
        try:
            got += buffer[: sock.recv_into(buffer)]
        except BlockingIOError:
            pass
    assert got == data


def test_what_has_come_is_read_whole_for_no_event_would_tell_of_the_rest() -> None:
    sock, wire, server = shaken()
    server.tls.write(b"a" * 16384)
    server.tls.write(b"b" * 100)
    wire.coming.append(server.outgoing.read())
    buffer = bytearray(LEAST_BUFFER)
    assert sock.recv_into(buffer) == 16484
    with pytest.raises(BlockingIOError):
        sock.recv_into(buffer)


def test_a_full_kernel_takes_nothing_twice() -> None:
    sock, wire, server = shaken(1)
    wire.full = True
    assert sock.send(b"hello") == 4, "all is enciphered; the last byte keeps the stream waiting"
    with pytest.raises(BlockingIOError):
        sock.send(b"o")
    wire.full = False
    wire.random.random = lambda: 1.0  # type: ignore[method-assign]
    assert sock.send(b"o!") == 2
    server.feed(bytes(wire.sent))
    assert server.plain == b"hello!"
    wire.full = True
    wire.sent.clear()
    with pytest.raises(BlockingIOError):
        sock.send(b"?")
    wire.full = False
    assert sock.send(b"?") == 1
    server.feed(bytes(wire.sent))
    assert server.plain == b"hello!?"


def test_who_comes_amid_a_call_of_the_same_thread_comes_again() -> None:
    """A signal handler, or a finaliser, that writes."""
    sock, wire, server = shaken(1)
    wire.random.random = lambda: 1.0  # type: ignore[method-assign]
    send = wire.send
    seen: list[str] = []

    def interrupted(data: bytes | memoryview) -> int:
        wire.send = send  # type: ignore[method-assign]
        with pytest.raises(BlockingIOError):
            sock.send(b"amid")
        with pytest.raises(BlockingIOError):
            sock.recv_into(bytearray(LEAST_BUFFER))
        seen.append("refused")
        return send(data)

    wire.send = interrupted  # type: ignore[method-assign]
    assert sock.send(b"before") == 6
    assert sock.send(b"amid") == 4
    server.feed(bytes(wire.sent))
    assert server.plain == b"beforeamid"
    assert seen == ["refused"]


def test_the_end_is_told_in_both_directions() -> None:
    sock, wire, server = shaken(1)
    wire.random.random = lambda: 1.0  # type: ignore[method-assign]
    sock.shutdown(socket.SHUT_WR)
    server.feed(bytes(wire.sent))
    assert server.ended
    assert wire.shut == [socket.SHUT_WR]
    server.tls.write(b"bye")
    server.tls.unwrap()
    buffer = bytearray(LEAST_BUFFER)
    wire.coming.extend([server.outgoing.read(), b""])
    assert sock.recv_into(buffer) == 3
    assert sock.recv_into(buffer) == 0


def test_a_connection_that_is_cut_is_an_end_too() -> None:
    sock, wire, _ = shaken()
    wire.coming.append(b"")
    assert sock.recv_into(bytearray(LEAST_BUFFER)) == 0


def test_what_is_no_record_is_an_error() -> None:
    sock, wire, _ = shaken()
    wire.coming.append(b"HTTP/1.1 200 OK\r\n\r\n")
    with pytest.raises(ssl.SSLError):
        sock.recv_into(bytearray(LEAST_BUFFER))


# ---------------------------------------------------------------------- start_tls


class Proxy:
    """Answers "go" to the first bytes, and is the server behind itself from then on."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.session = Session()
        self.asked = False
        recorder.on("data_received", self.came)

    def came(self) -> None:
        data, stream = bytes(self.recorder.data), self.recorder.stream
        self.recorder.data.clear()
        assert stream is not None
        if self.asked:
            stream.write(self.session.feed(data))
        else:
            assert data == b"please"
            self.asked = True
            stream.write(b"go")


def tunnel(world: World, outer: bool, server_hostname: str = "example.org") -> tuple[Loop, Recorder, Recorder]:
    """A connection on which TLS is begun, over TLS or not: the loop, and the observers before and after."""
    loop = world.loop()
    acceptor = Acceptor(Proxy)
    loop.listen("10.0.0.1:443", acceptor, ssl_context=SERVER if outer else None)
    before, after = Recorder(), Recorder()

    def begin() -> None:
        assert before.stream is not None
        after.stream = loop.start_tls(before.stream, after, ssl_context=CLIENT, server_hostname=server_hostname)

    before.on("connected", lambda: before.stream.write(b"please"))  # type: ignore[union-attr]
    before.on("data_received", begin)
    loop.connect("10.0.0.1:443", before, ssl_context=CLIENT if outer else None, server_hostname="proxy.example")
    world.run_until(lambda: after.calls)
    return loop, before, after


@pytest.mark.parametrize("outer", [False, True])
def test_tls_begins_on_a_connection_that_is_made(outer: bool, world: World) -> None:
    loop, before, after = tunnel(world, outer)
    assert after.calls == ["connected"]
    assert isinstance(after.stream, TLSStream)
    assert loop.live_streams == 2  # ours, and the proxy's
    assert after.stream.peer_address == ("10.0.0.1", 443)
    assert after.stream.local_address is not None
    data = random.Random(1).randbytes(1 << 20)
    after.stream.write(data)
    world.run_until(lambda: len(after.data) == len(data))
    assert after.data == data
    after.stream.close()
    world.run_until(lambda: after.lost)
    assert after.error is None
    assert before.calls == ["connected", "data_received"], "nothing was told to the former observer"


@pytest.mark.parametrize("outer", [False, True])
def test_a_certificate_for_another_name_ends_it(outer: bool, world: World) -> None:
    _, before, after = tunnel(world, outer, "other.example")
    world.run_until(lambda: after.lost)
    assert isinstance(after.error, ssl.SSLCertVerificationError)
    assert not before.lost


def test_the_deadline_is_the_new_observers(world: World) -> None:
    loop = world.loop()
    loop.listen("10.0.0.1:443", Acceptor())
    before, after = Recorder(), Recorder()

    def begin() -> None:
        assert before.stream is not None
        before.stream.set_deadline(1.0)
        stream = loop.start_tls(before.stream, after, ssl_context=CLIENT, server_hostname="example.org")
        stream.set_deadline(3.0)

    before.on("connected", begin)
    loop.connect("10.0.0.1:443", before)
    begun = world.clock()
    world.run_until(lambda: "deadline_reached" in after.calls)
    assert world.clock() - begun > 2.9
    assert "deadline_reached" not in before.calls


def test_a_stream_with_a_queue_cannot_begin(world: World) -> None:
    loop = world.loop()
    loop.listen("10.0.0.1:443", Acceptor(lambda recorder: recorder.stream.pause_reading()))  # type: ignore[union-attr]
    before, after = Recorder(), Recorder()
    stream = loop.connect("10.0.0.1:443", before)
    world.run_until(lambda: before.calls)
    stream.write(bytes(1 << 20))
    with pytest.raises(ConnectionError, match="before it took what was sent"):
        loop.start_tls(stream, after, ssl_context=CLIENT, server_hostname="example.org")
    stream.abort()
    world.run_until(lambda: before.lost)
    with pytest.raises(ConnectionError):
        loop.start_tls(stream, after, ssl_context=CLIENT, server_hostname="example.org")
    assert after.calls == []


def test_tls_within_tls_needs_a_buffer(world: World) -> None:
    loop = world.loop(read_buffer_size=4096)
    stream: Stream = TLSStream(loop, None, CLIENT, server_hostname="example.org")
    with pytest.raises(ValueError, match="read_buffer_size of 34816"):
        loop.start_tls(stream, Recorder(), ssl_context=CLIENT, server_hostname="example.org")


@pytest.mark.parametrize("outer", [False, True])
def test_a_loop_that_is_closed_ends_it(outer: bool, world: World) -> None:
    loop, _, after = tunnel(world, outer)
    loop.close()
    assert after.lost


def test_a_proxy_that_sends_records_without_data_is_not_put_up_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Session tickets are such records; a few come with each connection."""
    monkeypatch.setattr(SERVER, "num_tickets", 2000)
    server, wire = Session(), Wire(0)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = CLIENT.wrap_bio(incoming, outgoing, server_hostname="proxy.example")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    incoming.write(server.feed(outgoing.read()))
    session.do_handshake()
    sock = EncipheredSocket(cast(Any, wire), session, incoming, outgoing)
    wire.coming.append(server.feed(outgoing.read()))
    refused = None
    while wire.coming and refused is None:
        try:
            sock.recv_into(bytearray(LEAST_BUFFER))
        except BlockingIOError:
            pass
        except ssl.SSLError as error:
            refused = error
    assert "without data" in str(refused)
