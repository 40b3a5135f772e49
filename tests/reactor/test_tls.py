"""TLS streams: in memory and virtual time, and against the standard library's blocking sockets."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import trustme

from gows.errors import ConnectError
from gows.reactor import Loop, Stream, Target, TLSStream
from gows.reactor.enciphered import MOST_OWED
from gows.reactor.tls import PIECE, PORTION
from tests.support.fakes import World
from tests.support.reactor_bench import Peer, tcp_pair
from tests.support.recorder import Acceptor, Recorder, echo
from tests.support.waiting import turn_until

BIG = bytes(range(256)) * 4096


@dataclass
class Contexts:
    server: ssl.SSLContext
    client: ssl.SSLContext


def make_contexts(**limits: Any) -> Contexts:
    authority = trustme.CA()
    contexts = Contexts(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    authority.issue_cert("example.org", "127.0.0.1").configure_cert(contexts.server)
    authority.configure_trust(contexts.client)
    for name, value in limits.items():
        setattr(contexts.server, name, value)
    return contexts


@pytest.fixture(scope="module", params=["1.3", "1.2"])
def contexts(request: pytest.FixtureRequest) -> Contexts:
    limits = {} if request.param == "1.3" else {"maximum_version": ssl.TLSVersion.TLSv1_2}
    return make_contexts(**limits)


@dataclass
class Conversation:
    """A client and a server of one world, connected by TLS."""

    world: World
    loop: Loop
    client: Recorder
    server: Recorder
    stream: Stream  # the client's
    accepted: Stream


def converse(world: World, contexts: Contexts, setup: Any = None) -> Conversation:
    loop = world.loop()
    acceptor = Acceptor(setup)
    loop.listen("10.0.0.1:443", acceptor, ssl_context=contexts.server)
    client = Recorder()
    client.stream = stream = loop.connect(
        "10.0.0.1:443", client, ssl_context=contexts.client, server_hostname="example.org"
    )
    world.run_until(lambda: client.calls)
    assert client.calls == ["connected"]
    accepted = acceptor.one.stream
    assert accepted is not None
    world.run_for(0)
    return Conversation(world, loop, client, acceptor.one, stream, accepted)


def test_a_conversation(world: World, contexts: Contexts) -> None:
    talk = converse(world, contexts, echo)
    talk.stream.write(b"hello")
    world.run_until(lambda: talk.client.data == b"hello")
    assert isinstance(talk.stream, TLSStream)
    assert talk.stream.ssl_object.version() in ("TLSv1.3", "TLSv1.2")
    certificate = talk.stream.ssl_object.getpeercert()
    assert certificate is not None
    assert ("DNS", "example.org") in certificate["subjectAltName"]
    assert talk.server.calls == ["data_received"], "connected() is for outgoing streams"


def greet(recorder: Recorder) -> None:
    assert recorder.stream is not None
    recorder.stream.write(b"greeting")


def test_what_is_written_before_the_handshake_waits_for_it(world: World, contexts: Contexts) -> None:
    loop = world.loop()
    acceptor = Acceptor(greet)
    loop.listen("10.0.0.1:443", acceptor, ssl_context=contexts.server)
    client = Recorder()
    stream = loop.connect("10.0.0.1:443", client, ssl_context=contexts.client, server_hostname="example.org")
    stream.write(b"early")
    stream.flush()
    world.run_until(lambda: acceptor.recorders and acceptor.one.data == b"early" and client.data == b"greeting")


def test_more_than_the_kernel_takes_arrives_whole(world: World, contexts: Contexts) -> None:
    talk = converse(world, contexts)
    talk.client.high_water = 500_000
    for start in range(0, len(BIG), 100_000):
        talk.stream.write(BIG[start : start + 100_000])
    assert talk.stream.queued == len(BIG)
    talk.accepted.pause_reading()
    world.run_for(3)
    assert len(BIG) - PORTION <= talk.stream.queued < len(BIG) + PORTION
    assert 2.9 <= talk.stream.stalled_for() <= 3.1
    talk.accepted.resume_reading()
    world.run_until(lambda: len(talk.server.data) == len(BIG))
    assert talk.server.data == BIG
    world.run_for(0)
    assert talk.stream.queued == 0
    assert talk.client.calls == ["connected", "blocked", "drained"]
    assert not world.turn(), "nothing is watched for that is there all the time"


def test_a_slow_peers_queue_is_not_kept_twice(world: World, contexts: Contexts) -> None:
    talk = converse(world, contexts)
    talk.accepted.pause_reading()
    talk.stream.write(BIG)
    world.run_for(1)
    assert isinstance(talk.stream, TLSStream)
    assert talk.stream._cipher is not None
    assert len(talk.stream._cipher) < PORTION * 1.1
    talk.accepted.resume_reading()
    world.run_until(lambda: talk.server.data == BIG)


def test_many_small_pieces(world: World, contexts: Contexts) -> None:
    talk = converse(world, contexts)
    sent = b"".join(b"%d," % number for number in range(20000))
    for number in range(20000):
        talk.stream.write(b"%d," % number)
    world.run_until(lambda: len(talk.server.data) == len(sent))
    assert talk.server.data == sent


class Watched:
    """A memory BIO, and the most that ever lay in it."""

    def __init__(self, bio: Any) -> None:
        self._bio = bio
        self.most = 0

    def write(self, data: Any) -> int:
        written: int = self._bio.write(data)
        self.most = max(self.most, self._bio.pending)
        return written

    def read(self) -> bytes:
        self.most = max(self.most, self._bio.pending)
        data: bytes = self._bio.read()
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bio, name)


def test_what_keeps_its_memory_never_grows(world: World, contexts: Contexts) -> None:
    talk = converse(world, contexts, echo)
    assert isinstance(talk.stream, TLSStream)
    assert isinstance(talk.accepted, TLSStream)
    bios: list[Watched] = []
    for stream in (talk.stream, talk.accepted):
        incoming, outgoing = Watched(stream._incoming), Watched(stream._outgoing)
        stream._incoming = incoming  # type: ignore[assignment]
        stream._outgoing = outgoing  # type: ignore[assignment]
        bios += [incoming, outgoing]
    talk.stream.write(BIG)
    world.run_until(lambda: len(talk.client.data) == len(BIG))
    assert talk.client.data == BIG
    for bio in bios:
        assert 1000 < bio.most < PIECE + 100


def test_an_end_that_came_behind_what_was_not_wanted_yet(world: World, contexts: Contexts) -> None:
    talk = converse(world, contexts)
    talk.accepted.pause_reading()
    talk.stream.write(b"last words")
    talk.stream.close()
    world.run_for(1)
    assert talk.server.calls == []
    talk.accepted.resume_reading()
    world.run_until(lambda: "eof_received" in talk.server.calls)
    assert talk.server.data == b"last words"


def test_all_that_was_deciphered_is_delivered(contexts: Contexts) -> None:
    """No event would tell of what waits inside the TLS layer."""
    world = World()
    world.loop(read_buffer_size=1000)
    talk = converse(world, contexts)
    for loop in world.loops:
        loop.scratch = bytearray(1000)
    talk.stream.write(bytes(50_000))
    world.run_until(lambda: len(talk.server.data) == 50_000)
    world.close()


def test_pausing_amid_what_was_deciphered(world: World, contexts: Contexts) -> None:
    """The rest waits, though the socket has nothing more to tell, and comes at once when it is wanted."""
    talk = converse(world, contexts)
    talk.loop.scratch = bytearray(5000)
    talk.server.on("data_received", talk.accepted.pause_reading)
    talk.stream.write(bytes(16_000))
    world.run_for(1)
    steps = [len(talk.server.data)]
    while len(talk.server.data) < 16_000:
        talk.accepted.resume_reading()
        world.run_for(0)
        steps.append(len(talk.server.data))
    assert steps == sorted(set(steps)), "each resume brings something"
    assert steps[0] < 16_000


def test_paused_from_the_beginning_the_handshake_goes_on(world: World, contexts: Contexts) -> None:
    talk = converse(world, contexts, lambda recorder: recorder.stream.pause_reading())
    talk.stream.write(b"hello")
    world.run_for(1)
    assert talk.server.calls == []
    talk.accepted.resume_reading()
    world.run_until(lambda: talk.server.data == b"hello")


def test_resumed_during_the_handshake(world: World, contexts: Contexts) -> None:
    def pause_and_resume(recorder: Recorder) -> None:
        assert recorder.stream is not None
        recorder.stream.pause_reading()
        recorder.stream.resume_reading()

    talk = converse(world, contexts, pause_and_resume)
    talk.stream.write(b"hello")
    world.run_until(lambda: talk.server.data == b"hello")


# ---------------------------------------------------------------------- the end


def test_orderly_close(world: World, contexts: Contexts) -> None:
    talk = converse(world, contexts, echo)
    talk.stream.write(b"last words")
    talk.client.on("eof_received", talk.stream.close)
    talk.stream.shutdown_write()
    world.run_until(lambda: talk.client.lost and talk.server.lost)
    assert talk.server.calls == ["data_received", "eof_received", "connection_lost"]
    assert talk.client.calls == ["connected", "data_received", "eof_received", "connection_lost"]
    assert (talk.client.error, talk.server.error) == (None, None)
    assert talk.client.data == b"last words"


def test_close_sends_everything_first(world: World, contexts: Contexts) -> None:
    talk = converse(world, contexts)
    talk.server.on("eof_received", talk.accepted.close)
    talk.stream.write(BIG)
    talk.stream.close()
    world.run_until(lambda: talk.client.lost and talk.server.lost)
    assert talk.server.data == BIG
    assert talk.client.error is None


def test_half_close_and_reading_on(world: World, contexts: Contexts) -> None:
    talk = converse(world, contexts)
    talk.stream.shutdown_write()
    world.run_until(lambda: "eof_received" in talk.server.calls)
    talk.accepted.write(BIG)
    world.run_until(lambda: talk.client.data == BIG)


def test_the_end_is_told_once_however_it_is_read(world: World, contexts: Contexts) -> None:
    talk = converse(world, contexts)
    talk.loop.scratch = bytearray(1000)

    def pause_and_resume() -> None:
        talk.accepted.pause_reading()
        talk.accepted.resume_reading()

    talk.server.on("data_received", pause_and_resume)
    talk.stream.write(bytes(1500))
    talk.stream.shutdown_write()
    world.run_for(1)
    assert len(talk.server.data) == 1500
    assert talk.server.calls == ["data_received", "eof_received"]


@pytest.mark.parametrize("how", ["abort", "close"])
def test_the_end_is_not_told_to_who_has_left(world: World, contexts: Contexts, how: str) -> None:
    talk = converse(world, contexts)
    talk.server.on("data_received", getattr(talk.accepted, how))
    talk.stream.write(b"last words")
    talk.stream.close()
    world.run_until(lambda: talk.server.lost)
    assert talk.server.calls == ["data_received", "connection_lost"]


def test_abort(world: World, contexts: Contexts) -> None:
    talk = converse(world, contexts)
    talk.stream.write(BIG)
    world.run_for(0)
    talk.stream.abort()
    world.run_until(lambda: talk.client.lost and talk.server.lost)
    assert talk.stream.queued == 0
    assert isinstance(talk.server.error, ConnectionError)


def test_end_of_file_without_a_goodbye(world: World, contexts: Contexts) -> None:
    """Many peers are like that; what is carried knows by itself whether it is complete."""
    talk = converse(world, contexts)
    assert talk.stream.sock is not None
    talk.stream.sock.shutdown(socket.SHUT_WR)
    world.run_until(lambda: talk.server.calls)
    assert talk.server.calls == ["eof_received"]


def test_garbage_after_the_handshake(world: World, contexts: Contexts) -> None:
    talk = converse(world, contexts)
    assert talk.stream.sock is not None
    talk.stream.sock.send(b"\x17\x03\x03\x00\x10" + bytes(16))
    world.run_until(lambda: talk.server.lost)
    assert isinstance(talk.server.error, ssl.SSLError)
    world.run_until(lambda: talk.client.lost or "eof_received" in talk.client.calls)
    assert isinstance(talk.client.error, ssl.SSLError), "the alert tells why"


def test_reset(world: World, contexts: Contexts) -> None:
    talk = converse(world, contexts)
    assert talk.stream.sock is not None
    Peer(talk.stream.sock).sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    talk.stream.close(linger=False)
    talk.stream.abort()
    world.run_until(lambda: talk.server.lost)
    assert isinstance(talk.server.error, ConnectionResetError)


def test_an_idle_stream_holds_no_buffer_of_ours(world: World, contexts: Contexts) -> None:
    talk = converse(world, contexts, echo)
    talk.stream.write(BIG)
    world.run_until(lambda: talk.client.data == BIG)
    world.run_for(0)
    for stream in (talk.stream, talk.accepted):
        assert isinstance(stream, TLSStream)
        assert (stream._out, stream._cipher, stream.queued) == (None, None, 0)
        assert (stream._incoming.pending, stream._outgoing.pending) == (0, 0)


# ---------------------------------------------------------------------- the handshake


def raw_client(world: World) -> Peer:
    client, _ = world.network.dial(Target(socket.AF_INET, ("10.0.0.1", 443)))
    world.network.peers.append(client)
    world.run_for(0)
    return Peer(client)


def listen(world: World, contexts: Contexts, setup: Any = None) -> Acceptor:
    acceptor = Acceptor(setup)
    world.loop().listen("10.0.0.1:443", acceptor, ssl_context=contexts.server)
    return acceptor


def hello(contexts: Contexts) -> bytes:
    """A ClientHello."""
    outgoing = ssl.MemoryBIO()
    client = contexts.client.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="example.org")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_a_slow_handshake_is_bounded_by_the_observers_deadline(world: World, contexts: Contexts) -> None:
    """One byte a second, for ever: bytes do not move the deadline set at accept."""

    def setup(recorder: Recorder) -> None:
        assert recorder.stream is not None
        recorder.stream.set_deadline(10)
        recorder.on("deadline_reached", recorder.stream.abort)

    acceptor = listen(world, contexts, setup)
    client = raw_client(world)
    start = world.clock()
    for byte in hello(contexts):
        if acceptor.one.lost:
            break
        client.send(bytes([byte]))
        world.run_for(1)
    assert acceptor.one.calls == ["deadline_reached", "connection_lost"]
    assert 10 <= world.clock() - start <= 12


def test_a_handshake_byte_by_byte(world: World, contexts: Contexts) -> None:
    acceptor = listen(world, contexts, echo)
    peer = raw_client(world)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = contexts.client.wrap_bio(incoming, outgoing, server_hostname="example.org")

    def step(call: Any) -> Any:
        while True:
            try:
                result = call()
            except ssl.SSLWantReadError:
                result = None
            for byte in outgoing.read():
                peer.send(bytes([byte]))
                world.run_for(0)
            if result is not None:
                return result
            peer.read()
            incoming.write(bytes(peer.data))
            peer.data.clear()

    def shake_hands() -> bool:
        client.do_handshake()
        return True

    step(shake_hands)
    step(lambda: client.write(b"drop by drop"))
    assert step(lambda: client.read(100)) == b"drop by drop"
    assert acceptor.one.data == b""


@pytest.mark.parametrize("ending", ["end", "abort", "close"])
@pytest.mark.parametrize("sent", [0, 1, 100])
def test_the_peer_leaves_during_the_handshake(world: World, contexts: Contexts, ending: str, sent: int) -> None:
    acceptor = listen(world, contexts)
    client = raw_client(world)
    client.send(hello(contexts)[:sent])
    world.run_for(0)
    getattr(client, ending)()
    world.run_until(lambda: acceptor.one.lost)
    assert acceptor.one.calls == ["connection_lost"]
    assert isinstance(acceptor.one.error, OSError)
    others = converse_again(world, contexts)
    world.run_until(lambda: others.calls)
    assert others.calls == ["connected"]


def converse_again(world: World, contexts: Contexts) -> Recorder:
    client = Recorder()
    world.loops[0].connect("10.0.0.1:443", client, ssl_context=contexts.client, server_hostname="example.org")
    return client


def test_plain_text_at_a_tls_port(world: World, contexts: Contexts) -> None:
    acceptor = listen(world, contexts)
    client = raw_client(world)
    client.send(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
    world.run_until(lambda: acceptor.one.lost)
    assert isinstance(acceptor.one.error, ssl.SSLError)
    assert acceptor.one.calls == ["connection_lost"]
    world.run_until(client.finished)


@pytest.mark.parametrize("how", ["close", "abort", "shutdown_write"])
def test_given_up_by_us_during_the_handshake(world: World, contexts: Contexts, how: str) -> None:
    acceptor = listen(world, contexts)
    client = raw_client(world)
    client.send(hello(contexts)[:50])
    world.run_for(0)
    stream = acceptor.one.stream
    assert stream is not None
    getattr(stream, how)()
    world.run_for(0)
    stream.close()
    world.run_until(lambda: acceptor.one.lost)
    assert acceptor.one.calls == ["connection_lost"]


def test_given_up_at_once(world: World, contexts: Contexts) -> None:
    acceptor = listen(world, contexts, lambda recorder: recorder.stream.abort())
    raw_client(world)
    assert acceptor.one.calls == ["connection_lost"]


def test_half_closed_during_the_handshake(world: World, contexts: Contexts) -> None:
    """FIN waits for the handshake, as everything written does."""
    acceptor = listen(world, contexts)
    client = Recorder()
    stream = world.loops[0].connect("10.0.0.1:443", client, ssl_context=contexts.client, server_hostname="example.org")
    stream.shutdown_write()
    world.run_until(lambda: acceptor.recorders and "eof_received" in acceptor.one.calls)
    assert client.calls == ["connected"]


def test_a_certificate_for_somebody_else(world: World, contexts: Contexts) -> None:
    acceptor = listen(world, contexts)
    client = Recorder()
    world.loops[0].connect("10.0.0.1:443", client, ssl_context=contexts.client, server_hostname="evil.org")
    world.run_until(lambda: client.lost and acceptor.one.lost)
    assert client.calls == ["connection_lost"]
    assert isinstance(client.error, ConnectError)
    assert isinstance(client.error.__cause__, ssl.SSLCertVerificationError)
    assert "alert" in str(acceptor.one.error), "it tells why"


def test_the_host_of_the_address_is_what_is_verified(world: World, contexts: Contexts) -> None:
    listen(world, contexts)
    client = Recorder()
    world.loops[0].connect("10.0.0.1:443", client, ssl_context=contexts.client)
    world.run_until(lambda: client.lost)
    assert "10.0.0.1" in str(client.error)


def test_the_timeout_of_connect_bounds_the_handshake_too(world: World, contexts: Contexts) -> None:
    loop = world.loop()
    loop.listen("10.0.0.1:443", Acceptor())  # takes the connection and says nothing
    client = Recorder()
    loop.connect("10.0.0.1:443", client, ssl_context=contexts.client, server_hostname="example.org", timeout=4)
    start = world.clock()
    world.run_until(lambda: client.lost)
    assert 4 <= world.clock() - start <= 4.3
    assert isinstance(client.error, ConnectError)


def test_a_connected_that_raises(world: World, contexts: Contexts, caplog: pytest.LogCaptureFixture) -> None:
    listen(world, contexts)
    client = converse_again(world, contexts).on("connected", lambda: 1 / 0)
    world.run_until(lambda: client.lost)
    assert isinstance(client.error, ZeroDivisionError)


def test_closed_in_connected(world: World, contexts: Contexts) -> None:
    acceptor = listen(world, contexts)
    client = Recorder()
    stream = client.stream = world.loops[0].connect(
        "10.0.0.1:443", client, ssl_context=contexts.client, server_hostname="example.org"
    )
    client.on("connected", stream.close)
    world.run_until(lambda: client.lost)
    assert client.error is None
    assert acceptor.one.calls[-1] == "eof_received"


# ---------------------------------------------------------------------- over real sockets


def test_adopted_on_both_sides(loop: Loop, contexts: Contexts) -> None:
    one, other = tcp_pair()
    server, client = Recorder(), Recorder()
    server.stream = loop.adopt(one, server, ssl_context=contexts.server)
    echo(server)
    stream = loop.adopt(other, client, ssl_context=contexts.client, server_side=False, server_hostname="example.org")
    stream.write(b"hello")
    turn_until(loop, lambda: client.data == b"hello")
    assert client.calls == ["data_received"]


def test_an_ssl_socket_is_refused(loop: Loop, contexts: Contexts) -> None:
    one, other = tcp_pair()
    with contexts.server.wrap_socket(one, server_side=True, do_handshake_on_connect=False) as wrapped:
        with pytest.raises(TypeError, match="ssl_context="):
            loop.adopt(wrapped, Recorder())
        assert wrapped.fileno() > 0
    other.close()


@pytest.fixture
def echo_server(poller_name: str, contexts: Contexts) -> Iterator[tuple[Any, Acceptor]]:
    """A running server, for blocking clients."""
    acceptor = Acceptor(echo)
    with Loop(poller=poller_name, workers=0) as loop:
        listener = loop.listen("127.0.0.1:0", acceptor, ssl_context=contexts.server)
        loop.start()
        yield listener.address, acceptor


def test_the_standard_librarys_client(echo_server: tuple[Any, Acceptor], contexts: Contexts) -> None:
    address, acceptor = echo_server
    with socket.create_connection(address, timeout=5) as plain:
        client = contexts.client.wrap_socket(plain, server_hostname="example.org", suppress_ragged_eofs=False)
        for start in range(0, len(BIG), 65536):  # an SSLSocket must not be used by two threads at once
            client.sendall(BIG[start : start + 65536])
            received = bytearray()
            while len(received) < 65536:
                received += client.recv(65536)
            assert received == BIG[start : start + 65536]
        client.unwrap()  # our goodbye, and the server's
        client.close()
    assert len(acceptor.recorders) == 1


def test_a_client_that_leaves_without_a_word(echo_server: tuple[Any, Acceptor], contexts: Contexts) -> None:
    address, _ = echo_server
    for _ in range(3):
        plain = socket.create_connection(address, timeout=5)
        client = contexts.client.wrap_socket(plain, server_hostname="example.org")
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        client.close()


# ---------------------------------------------------------------------- something before TLS


class Prefaced(Recorder):
    """Takes a line as it comes, then TLS begins, and another recorder takes over."""

    def __init__(self) -> None:
        super().__init__()
        self.behind = Recorder()

    def data_received(self, buf: bytearray, n: int) -> None:
        super().data_received(buf, n)
        line, newline, rest = bytes(self.data).partition(b"\n")
        if newline:
            assert isinstance(self.stream, TLSStream)
            self.data[:] = line
            self.stream.observer = self.behind
            self.stream.start_tls(rest)


class RawClient:
    """A TLS client whose bytes the test moves, so that it can put others before them."""

    def __init__(self, world: World, contexts: Contexts) -> None:
        self.world = world
        self.sock: Any
        self.sock, _ = world.network.dial(Target(socket.AF_INET, ("10.0.0.1", 443)))
        world.network.peers.append(self.sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = contexts.client.wrap_bio(self._incoming, self._outgoing, server_hostname="example.org")

    def hello(self) -> bytes:
        """The first bytes of the handshake."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._outgoing.read()

    def shake(self) -> bool:
        """A step of the handshake; whether it is over."""
        try:
            self._incoming.write(self.sock.recv(65536))
        except BlockingIOError:
            pass
        try:
            self.tls.do_handshake()
            return True
        except ssl.SSLWantReadError:
            return False
        finally:
            if self._outgoing.pending:
                self.sock.send(self._outgoing.read())


def prefaced(world: World, contexts: Contexts) -> tuple[RawClient, Prefaced]:
    loop = world.loop()
    observers: list[Prefaced] = []

    def accept(stream: Stream) -> None:
        observers.append(Prefaced())
        observers[-1].stream = stream
        stream.observer = observers[-1]

    loop.listen("10.0.0.1:443", accept, ssl_context=contexts.server, defer_tls=True)
    client = RawClient(world, contexts)
    world.run_until(lambda: observers)
    return client, observers[0]


@pytest.mark.parametrize("cut", ["together", "apart", "in the hello"])
def test_what_comes_before_tls(world: World, contexts: Contexts, cut: str) -> None:
    client, before = prefaced(world, contexts)
    hello = client.hello()
    pieces = {
        "together": [b"the line\n" + hello],
        "apart": [b"the ", b"line\n", hello],
        "in the hello": [b"the line\n" + hello[:20], hello[20:]],
    }[cut]
    for piece in pieces:
        client.sock.send(piece)
        world.run_for(0)
    world.run_until(client.shake)
    client.tls.write(b"under TLS")
    client.sock.send(client._outgoing.read())
    world.run_until(lambda: before.behind.data == b"under TLS")
    assert before.data == b"the line"
    assert not before.lost
    assert before.stream is not None
    before.stream.write(b"answer")
    world.run_for(0)
    client._incoming.write(client.sock.recv(65536))
    assert client.tls.read(100) == b"answer"


def test_what_is_written_before_tls_waits(world: World, contexts: Contexts) -> None:
    client, before = prefaced(world, contexts)
    assert before.stream is not None
    before.stream.write(b"early")
    world.run_for(0)
    with pytest.raises(BlockingIOError):
        client.sock.recv(100)
    client.sock.send(b"\n" + client.hello())
    world.run_for(0)
    world.run_until(client.shake)
    world.run_for(0)
    try:
        client._incoming.write(client.sock.recv(65536))
    except BlockingIOError:
        pass
    assert client.tls.read(100) == b"early"


@pytest.mark.parametrize("end", ["close", "abort", "FIN", "RST", "handshake"])
def test_ends_before_tls(world: World, contexts: Contexts, end: str) -> None:
    client, before = prefaced(world, contexts)
    stream = before.stream
    assert stream is not None
    client.sock.send(b"half")
    world.run_for(0)
    if end in ("close", "abort"):
        getattr(stream, end)()
        client.sock.send(b" more\n")
    elif end == "FIN":
        client.sock.shutdown(socket.SHUT_WR)
        world.run_until(lambda: "eof_received" in before.calls)
        stream.close()
    elif end == "RST":
        client.sock._peer.reset_by_peer()
    else:
        client.sock.send(b"\nno handshake at all, but long enough")
    world.run_until(lambda: before.lost or before.behind.lost)
    assert before.data == b"half"
    assert isinstance(before.behind.error, ssl.SSLError) == (end == "handshake")
    assert stream.loop.live_streams == 0


def test_a_peer_that_sends_records_without_data_is_not_put_up_with(world: World) -> None:
    """Session tickets are such records, and so are key updates. A few come with each connection."""
    contexts = make_contexts(num_tickets=20)
    talk = converse(world, contexts)
    talk.accepted.write(b"data")
    world.run_until(lambda: talk.client.data == b"data")
    contexts.server.num_tickets = 2000
    client = Recorder()
    client.stream = talk.loop.connect(
        "10.0.0.1:443", client, ssl_context=contexts.client, server_hostname="example.org"
    )
    world.run_until(lambda: client.lost)
    assert isinstance(client.error, ssl.SSLError)
    assert "without data" in str(client.error)


def test_data_in_the_smallest_records_is_taken(world: World, contexts: Contexts) -> None:
    talk = converse(world, contexts)
    for number in range(10_000):
        talk.stream.write(b"%d" % (number % 10))
        talk.stream.flush()
        if number % 1000 == 999:
            world.run_for(0)
    world.run_until(lambda: len(talk.server.data) == 10_000)
    assert talk.server.data == b"0123456789" * 1000


def test_little_is_read_at_a_time_of_what_is_hardly_data(world: World, contexts: Contexts) -> None:
    """A record costs CPU time also when there is nothing in it, and others wait for that."""
    talk = converse(world, contexts)
    sizes: list[int] = []
    received = talk.server.data_received

    def note(buf: bytearray, n: int) -> None:
        sizes.append(n)
        received(buf, n)

    talk.server.data_received = note  # type: ignore[method-assign]
    talk.accepted.pause_reading()
    for size in (1, 4000):
        sizes.clear()
        for _ in range(24_000 // (size + 25)):
            talk.stream.write(bytes(size))
            talk.stream.flush()
        talk.accepted.resume_reading()
        world.run_for(1)
        talk.accepted.pause_reading()
        if size == 1:
            assert max(sizes) * (size + 22) <= PIECE
        else:
            assert max(sizes) > PIECE


def test_a_peer_that_does_not_read_has_only_so_many_keys_updated(world: World, contexts: Contexts) -> None:
    """Each of its requests is answered, with as many bytes as it has."""
    talk = converse(world, contexts)
    talk.stream.pause_reading()
    talk.accepted.write(BIG)
    world.run_for(1)
    assert talk.accepted.queued
    assert isinstance(talk.accepted, TLSStream)
    talk.accepted._outgoing.write(bytes(MOST_OWED))  # as the TLS layer does
    talk.stream.write(b"a")
    world.run_until(lambda: talk.server.data == b"a")
    assert not talk.server.lost
    talk.accepted._outgoing.write(b"1")
    talk.stream.write(b"b")
    world.run_until(lambda: talk.server.lost)
    assert isinstance(talk.server.error, ssl.SSLError)
