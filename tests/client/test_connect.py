from __future__ import annotations

import queue
import re
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from gows.client import Reconnect, connect, connecting, opening
from gows.client.opening import Opening
from gows.errors import (
    ConnectError,
    ConnectionClosedError,
    ConnectTimeoutError,
    HandshakeError,
    InvalidHeaderError,
    UsageError,
)
from gows.options import AcceptOptions
from gows.protocol.handshake import accept_key
from gows.reactor.address import Address
from gows.reactor.interfaces import Observer
from gows.reactor.shared import shared_loop
from gows.reactor.sockets import SocketLayer
from gows.reactor.stream import Stream
from gows.reactor.transports import Loop
from tests.support.recording import Recorder
from tests.support.scripted import Peer, ScriptedServer, close_frame, frame
from tests.support.waiting import wait_until

_RST = struct.pack("ii", 1, 0)


def close_politely(peer: Peer) -> None:
    """The server's end of a close handshake that the client began."""
    opcode, body = peer.read_frame()
    assert opcode == 8
    peer.send(frame(8, body))


# ---------------------------------------------------------------------- success


def test_the_handler_hears_of_everything_in_order_on_a_worker(loop: Loop) -> None:
    def script(peer: Peer) -> None:
        peer.accept(behind=frame(1, b"with the 101"))
        peer.send(frame(2, b"\x00\xff"))
        assert peer.read_frame() == (1, b"hello")
        peer.send(close_frame(1001, "bye"))
        assert peer.read_frame() == (8, struct.pack("!H", 1001) + b"bye")

    with ScriptedServer(script) as server:
        handler = Recorder()
        ws = connect(server.url, handler, loop=loop)
        ws.write_string("hello")
        assert handler.closed.wait(10)
    assert handler.calls == ["open", "with the 101", b"\x00\xff", (1001, "bye")]
    assert handler.sockets == [ws, ws]
    assert all(name.startswith("gows-") and name != "gows-loop" for name in handler.threads)


def test_the_request_says_what_was_asked_for(loop: Loop) -> None:
    heads = []

    def script(peer: Peer) -> None:
        heads.append(peer.accept("Sec-WebSocket-Protocol: b"))
        close_politely(peer)

    with (
        ScriptedServer(script) as server,
        connect(
            f"ws://me:secret@127.0.0.1:{server.port}/chat/ä?room=1",
            subprotocols=["a", "b"],
            headers={"X-One": "1"},
            origin="https://example.com",
            loop=loop,
        ) as ws,
    ):
        assert ws.subprotocol == "b"
        assert ws.remote_addr == ("127.0.0.1", server.port)
    lines = heads[0].split("\r\n")
    assert lines[0] == "GET /chat/%C3%A4?room=1 HTTP/1.1"
    assert f"Host: 127.0.0.1:{server.port}" in lines
    assert "Sec-WebSocket-Protocol: a, b" in lines
    assert "Sec-WebSocket-Version: 13" in lines
    assert "X-One: 1" in lines
    assert "Origin: https://example.com" in lines
    assert "Authorization: Basic bWU6c2VjcmV0" in lines
    assert not any(line.startswith("Sec-WebSocket-Extensions") for line in lines)


@pytest.mark.parametrize(
    ("in_options", "argument", "offered"),
    [(False, None, False), (True, None, True), (False, True, True), (True, False, False)],
)
def test_compression_is_offered_as_set(in_options: bool, argument: bool | None, offered: bool, loop: Loop) -> None:
    heads = []

    def script(peer: Peer) -> None:
        heads.append(peer.accept())
        close_politely(peer)

    options = AcceptOptions(compression=in_options, subprotocols=["from-options"])
    with (
        ScriptedServer(script) as server,
        connect(server.url, options=options, compression=argument, loop=loop) as ws,
    ):
        assert ws.subprotocol is None
    assert ("permessage-deflate" in heads[0]) is offered
    assert "Sec-WebSocket-Protocol: from-options" in heads[0]


def test_the_keys_of_two_connections_differ(loop: Loop) -> None:
    keys = []

    def script(peer: Peer) -> None:
        keys.append(re.findall("Sec-WebSocket-Key: (.*)\r", peer.accept()))
        close_politely(peer)

    with ScriptedServer(script) as server:
        for _ in range(2):
            with connect(server.url, loop=loop):
                pass
    assert len(keys[0]) == len(keys[1]) == 1
    assert keys[0] != keys[1]


def test_an_answer_may_say_what_is_none_of_our_business_in_any_encoding(loop: Loop) -> None:
    def script(peer: Peer) -> None:
        head = peer.read_head()
        key = head.split("Sec-WebSocket-Key: ")[1].split("\r\n")[0]
        upgrade = b"HTTP/1.1 101 Jawohl\xfc\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nDate: S\xe1. 13\r\n"
        peer.send(upgrade + f"Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode())
        close_politely(peer)

    with ScriptedServer(script) as server, connect(server.url, loop=loop):
        pass


def test_a_unix_domain_socket(tmp_path: Path, loop: Loop) -> None:
    heads = []

    def script(peer: Peer) -> None:
        heads.append(peer.accept())
        close_politely(peer)

    with ScriptedServer(script, path=str(tmp_path / "s")) as server, connect(server.url + "chat?a=b", loop=loop):
        pass
    assert heads[0].startswith("GET /chat?a=b HTTP/1.1\r\nHost: localhost\r\n")


def test_the_shared_loop_is_the_default() -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        close_politely(peer)

    with ScriptedServer(script) as server, connect(server.url) as ws:
        loop = ws.context.loop
        assert loop is shared_loop()
    loop.close()


# ---------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def greet(peer: Peer) -> None:
    peer.accept(behind=frame(1, b"hello"))
    close_politely(peer)


def test_tls(authority: trustme.CA, trusting: ssl.SSLContext, loop: Loop) -> None:
    with (
        ScriptedServer(greet, ssl_context=server_context(authority, "127.0.0.1")) as server,
        connect(server.url, ssl_context=trusting, loop=loop) as ws,
    ):
        assert ws.recv(10) == "hello"


def test_tls_over_a_unix_domain_socket(
    authority: trustme.CA, trusting: ssl.SSLContext, tmp_path: Path, loop: Loop
) -> None:
    certified = server_context(authority, "localhost")
    with (
        ScriptedServer(greet, ssl_context=certified, path=str(tmp_path / "s")) as server,
        connect(server.url, ssl_context=trusting, loop=loop) as ws,
    ):
        assert ws.recv(10) == "hello"


def test_an_unknown_authority_is_refused(authority: trustme.CA, loop: Loop) -> None:
    refused = threading.Event()

    def script(peer: Peer) -> None:
        raise AssertionError("the TLS handshake succeeded")

    server = ScriptedServer(script, ssl_context=server_context(authority, "127.0.0.1"))
    with pytest.raises(ssl.SSLError), server:  # noqa: PT012 - the server's own view of the failed handshake
        with pytest.raises(ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            connect(server.url, loop=loop)
        refused.set()
    assert refused.is_set()


def test_a_certificate_for_another_name_is_refused(authority: trustme.CA, trusting: ssl.SSLContext, loop: Loop) -> None:
    refused = threading.Event()
    server = ScriptedServer(greet, ssl_context=server_context(authority, "example.com"))
    with pytest.raises(ssl.SSLError), server:  # noqa: PT012
        with pytest.raises(ConnectError, match=r"IP address mismatch"):
            connect(server.url, ssl_context=trusting, loop=loop)
        refused.set()
    assert refused.is_set()


# ---------------------------------------------------------------------- refusals


def refuse(answer: bytes) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer)

    return script


REFUSALS = {
    "404 with a body": (
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nX-Why: no\r\n\r\nnope\nmore",
        (404, b"nope\n", "refused the upgrade: Not Found"),
    ),
    "401 without a body": (
        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
        (401, b"", "Unauthorized"),
    ),
    "401 in Latin-1": (
        b"HTTP/1.1 401 Nicht autorisiert f\xfcr Sie\r\nDate: S\xe1. 13\r\nContent-Length: 2\r\n\r\nno",
        (401, b"no", "Nicht autorisiert für Sie"),
    ),
    "503 in chunks": (
        b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntoo\r\n5\r\n busy\r\n0\r\n\r\n",
        (503, b"too busy", "Busy"),
    ),
    "500 in malformed chunks": (
        b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntoo\r\nxyz\r\n\r\n",
        (500, b"too", "Oops"),
    ),
    "400 up to the end of the stream": (b"HTTP/1.1 400 Bad Request\r\n\r\nbecause", (400, b"because", "Bad Request")),
    "403 with an endless body": (
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 10000,
        (403, b"x" * 4096, "Forbidden"),
    ),
    "403 with an absurd length": (
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 99999999999999999999\r\n\r\nabc",
        (502, b"", "malformed head"),
    ),
    "204 has no body": (b"HTTP/1.1 204 No Content\r\n\r\nwhat", (204, b"", "No Content")),
    "200 is no upgrade": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", (200, b"hi", "OK")),
    "a redirect is not followed": (
        b"HTTP/1.1 302 Found\r\nLocation: ws://example.com/\r\nContent-Length: 0\r\n\r\n",
        (302, b"", "redirects to ws://example.com/, and redirects are not followed"),
    ),
    "an interim answer first": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        (404, b"", "Not Found"),
    ),
    "garbage": (b"\x16\x03\x01 what is this\r\n\r\n", (502, b"", "no HTTP/1.1 answer: control byte")),
    "an endless head": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20000, (502, b"", "head larger than 16384 bytes")),
    "too many headers": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200, (502, b"", "more than 100 header fields")),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_reported_as_it_was_said(name: str, loop: Loop) -> None:
    answer, (status, body, reason) = REFUSALS[name]
    with ScriptedServer(refuse(answer)) as server:
        with pytest.raises(HandshakeError, match=reason) as caught:
            connect(server.url, loop=loop)
        assert (caught.value.status, caught.value.body) == (status, body)
        if status == 404 and body:
            assert ("X-Why", "no") in caught.value.headers


WRONG_ANSWERS: dict[str, tuple[Callable[[str], str], str]] = {
    "wrong accept": (
        lambda head: re.sub("Accept: [^\r]*", "Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", head),
        "does not answer",
    ),
    "no accept": (lambda head: re.sub("Sec-WebSocket-Accept: .*\r\n", "", head), "does not answer our key"),
    "no upgrade": (lambda head: head.replace("Upgrade: websocket\r\n", ""), "Upgrade is not websocket"),
    "no connection": (lambda head: head.replace("Connection: Upgrade\r\n", ""), "Connection does not name upgrade"),
    "HTTP/1.0": (lambda head: head.replace("HTTP/1.1", "HTTP/1.0"), "HTTP/1.0"),
    "a subprotocol nobody offered": (
        lambda head: head.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: x\r\n\r\n"),
        "subprotocol that was not offered",
    ),
    "an extension nobody offered": (
        lambda head: head.replace("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
        "extension that was not offered",
    ),
}


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_a_101_that_is_not_valid_is_no_connection(name: str, loop: Loop) -> None:
    spoil, reason = WRONG_ANSWERS[name]

    def script(peer: Peer) -> None:
        peer.accept(spoil=spoil)
        peer.wait_end()

    with ScriptedServer(script) as server:
        with pytest.raises(HandshakeError, match=reason) as caught:
            connect(server.url, loop=loop)
        assert caught.value.status == 101


def test_the_body_of_a_refusal_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch, loop: Loop) -> None:
    monkeypatch.setattr(opening, "REFUSAL_SECONDS", 0.1)

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nbegun")
        peer.wait_end()

    with ScriptedServer(script) as server:
        with pytest.raises(HandshakeError, match="Forbidden") as caught:
            connect(server.url, loop=loop)
        assert caught.value.body == b"begun"


def test_the_body_of_a_refusal_may_come_in_pieces(loop: Loop) -> None:
    def refused() -> bool:
        observers = [stream.observer for stream in loop.streams if isinstance(stream, Stream)]
        return any(isinstance(observer, Opening) and observer._refusal for observer in observers)

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 10\r\n\r\n")
        wait_until(refused)
        peer.send(b"first")
        peer.send(b" last")
        peer.wait_end()

    with ScriptedServer(script) as server:
        with pytest.raises(HandshakeError, match="Forbidden") as caught:
            connect(server.url, loop=loop)
        assert caught.value.body == b"first last"


def test_a_refusal_counts_when_the_connection_breaks_in_its_body(loop: Loop) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nbegun")
        wait_until(lambda: loop.live_streams == 1)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)

    with ScriptedServer(script) as server, pytest.raises(HandshakeError, match="Forbidden"):
        connect(server.url, loop=loop)


# ---------------------------------------------------------------------- no connection


def test_a_refused_connection(loop: Loop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ConnectError, match=f"cannot connect to 127.0.0.1:{port}: .*refused") as caught:
        connect(f"ws://127.0.0.1:{port}/", loop=loop)
    assert isinstance(caught.value.__cause__, OSError)


def test_a_missing_unix_domain_socket(tmp_path: Path, loop: Loop) -> None:
    with pytest.raises(ConnectError, match="No such file"):
        connect(f"ws+unix://{tmp_path}/none", loop=loop)


def test_a_name_that_nobody_knows() -> None:
    class NoNames(SocketLayer):
        def resolve(self, address: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with Loop(workers=0, sockets=NoNames()) as loop:
        loop.start()
        with pytest.raises(ConnectError, match=r"cannot connect to nowhere\.example:80: .*not known"):
            connect("ws://nowhere.example/", loop=loop)


def test_names_are_looked_up_as_browsers_do() -> None:
    asked: list[str] = []

    class Names(SocketLayer):
        def resolve(self, address: Any) -> Any:
            asked.append(address.host)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    class Nobody(Observer):
        def data_received(self, buf: Any, n: int) -> None: ...

    with Loop(workers=0, sockets=Names()) as loop:
        loop.start()
        with pytest.raises(ConnectError):
            connect("ws://faß.example/", loop=loop)
        loop.connect("faß.example:80", Nobody())
        wait_until(lambda: len(asked) == 2)
    assert asked == ["xn--fa-hia.example"] * 2


def test_a_server_that_keeps_its_window_though_it_was_asked_not_to(loop: Loop) -> None:
    """As Tornado does. The second message points back into the first."""
    compressor = zlib.compressobj(wbits=-15)

    def compressed(text: bytes) -> bytes:
        data = (compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        return bytes((0xC1, len(data))) + data

    def script(peer: Peer) -> None:
        peer.accept("Sec-WebSocket-Extensions: permessage-deflate", behind=compressed(b"hello" * 9))
        peer.send(compressed(b"hello" * 9))
        close_politely(peer)

    with ScriptedServer(script) as server, connect(server.url, compression=True, loop=loop) as ws:
        assert [ws.recv(10), ws.recv(10)] == ["hello" * 9] * 2


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switching"])
def test_a_server_that_ends_during_the_handshake(answer: bytes, reset: bool, loop: Loop) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer)
        if reset:
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)

    with ScriptedServer(script) as server, pytest.raises(ConnectError, match="connection during the handshake"):
        connect(server.url, loop=loop)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_server_that_says_nothing(scheme: str, loop: Loop) -> None:
    with ScriptedServer(Peer.wait_end) as server:
        with pytest.raises(ConnectTimeoutError, match=r"within 0\.1 s") as caught:
            connect(f"{scheme}://127.0.0.1:{server.port}/", timeout=0.1, loop=loop)
        assert isinstance(caught.value, TimeoutError)


def test_a_loop_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_GRACE", 0.0)
    with (
        ScriptedServer(Peer.wait_end) as server,
        Loop(workers=0) as loop,
        pytest.raises(ConnectTimeoutError, match="the loop is not running"),
    ):
        connect(server.url, timeout=0.05, loop=loop)


@pytest.mark.parametrize("answered", [False, True])
def test_an_interrupted_caller_leaves_nothing_behind(
    answered: bool, monkeypatch: pytest.MonkeyPatch, loop: Loop
) -> None:
    class Interrupted(queue.SimpleQueue):  # type: ignore[type-arg]
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if answered:
                super().get(timeout=timeout)
            raise KeyboardInterrupt

    def script(peer: Peer) -> None:
        if answered:
            peer.accept()
        peer.wait_end()

    monkeypatch.setattr(connecting, "SimpleQueue", Interrupted)
    with ScriptedServer(script) as server:
        with pytest.raises(KeyboardInterrupt):
            connect(server.url, loop=loop)
        wait_until(lambda: server.connections == 0 or loop.live_streams == 0)


@pytest.mark.parametrize("error", [queue.Empty, KeyboardInterrupt])
def test_a_reconnecting_client_that_nobody_gets_is_closed(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, loop: Loop
) -> None:
    class TooLate(queue.SimpleQueue):  # type: ignore[type-arg]
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            super().get(timeout=timeout)
            raise error

    def script(peer: Peer) -> None:
        peer.accept()
        peer.wait_end()

    monkeypatch.setattr(connecting, "SimpleQueue", TooLate)
    handler = Recorder()
    with ScriptedServer(script) as server:
        with pytest.raises((KeyboardInterrupt, ConnectTimeoutError)):
            connect(server.url, handler, reconnect=Reconnect(initial=0.01), loop=loop)
        assert handler.closed.wait(10)
        wait_until(lambda: loop.live_streams == 0 and loop.active_timers == 0)
        assert server.connections == 1


# ---------------------------------------------------------------------- faults on the loop's side


class Unwilling(Recorder):
    """A handler that cannot be attached, though it looked well when it was given to `connect`."""

    @property
    def on_chunk(self) -> Any:
        if threading.current_thread() is not threading.main_thread():
            raise ZeroDivisionError("no chunks")
        raise AttributeError


def no_stream(*arguments: Any, **settings: Any) -> Any:
    raise ZeroDivisionError("no stream")


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("reconnect", [False, Reconnect(attempts=1)])
@pytest.mark.parametrize("where", ["at the start", "at the answer"])
def test_a_fault_of_ours_ends_the_attempt(
    where: str, reconnect: Any, wait: bool, monkeypatch: pytest.MonkeyPatch, loop: Loop
) -> None:
    if where == "at the start":
        monkeypatch.setattr(Loop, "connect", no_stream)
    else:
        monkeypatch.setattr(opening, "check_response", no_stream)

    def script(peer: Peer) -> None:
        peer.accept()
        peer.wait_end()

    handler = Recorder()
    with ScriptedServer(script) as server:
        if wait:
            with pytest.raises(ConnectError, match="no stream") as caught:
                connect(server.url, handler, reconnect=reconnect, loop=loop)
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
        else:
            connect(server.url, handler, reconnect=reconnect, wait=False, loop=loop)
            assert handler.closed.wait(5)
            assert "no stream" in handler.sockets[0].close_reason
        wait_until(lambda: loop.live_streams == 0)


def test_a_handler_that_cannot_be_attached_ends_the_attempt(loop: Loop) -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.wait_end()

    with ScriptedServer(script) as server, pytest.raises(ConnectError, match="no chunks"):
        connect(server.url, Unwilling(), loop=loop)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a\0b", "x." * 150 + "example"])
def test_a_name_that_cannot_be_looked_up_ends_the_stream(
    host: str, loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()

    class Waiting(Observer):
        def connected(self, stream: Stream) -> None:
            outcome.put(stream)

        def data_received(self, buf: Any, n: int) -> None: ...

        def connection_lost(self, error: Exception | None) -> None:
            outcome.put(error)

    for address in (Address(host, 80), Address("", 0, "/tmp/a\0b")):
        loop.connect(address, Waiting())
        assert isinstance(outcome.get(timeout=10), ConnectError)
    assert caplog.text == ""


# ---------------------------------------------------------------------- without waiting


def test_without_waiting_success_reaches_on_open(loop: Loop) -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        close_politely(peer)

    with ScriptedServer(script) as server:
        handler = Recorder()
        assert connect(server.url, handler, wait=False, loop=loop) is None
        assert handler.opened.wait(10)
        handler.sockets[0].close_handshake()
        assert handler.closed.wait(10)
    assert handler.calls == ["open", (1000, "")]


def test_without_waiting_failure_reaches_on_close_alone(loop: Loop) -> None:
    with ScriptedServer(refuse(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")) as server:
        handler = Recorder()
        connect(server.url, handler, wait=False, loop=loop)
        assert handler.closed.wait(10)
        place = f"127.0.0.1:{server.port}"
    assert handler.calls == [(1006, f"404 {place} refused the upgrade: Not Found")]
    ws = handler.sockets[0]
    assert ws.closed
    with pytest.raises(ConnectionClosedError):
        ws.write_string("too late")


def test_without_waiting_a_connection_that_cannot_be_made_reaches_on_close(tmp_path: Path, loop: Loop) -> None:
    handler = Recorder()
    connect(f"ws+unix://{tmp_path}/none", handler, wait=False, loop=loop)
    assert handler.closed.wait(10)
    assert len(handler.calls) == 1
    assert handler.sockets[0].close_code == 1006
    assert handler.sockets[0].close_reason.startswith("cannot connect to unix:")


def test_in_the_loops_thread_waiting_is_refused_and_not_waiting_is_fine(tmp_path: Path, loop: Loop) -> None:
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()
    handler = Recorder()
    url = f"ws+unix://{tmp_path}/none"

    def in_loop() -> None:
        try:
            connect(url, handler, loop=loop)
        except UsageError as error:
            outcome.put(str(error))
        outcome.put(connect(url, handler, wait=False, loop=loop))

    loop.call_soon(in_loop)
    assert "the loop's own thread" in outcome.get(timeout=10)
    assert outcome.get(timeout=10) is None
    assert handler.closed.wait(10)


def test_all_workers_may_connect_at_once(loop: Loop) -> None:
    """Two workers, both of them waiting in connect(): nothing that connect() waits for needs a worker."""
    both = threading.Barrier(2)
    results: queue.SimpleQueue[object] = queue.SimpleQueue()

    class Task:
        def __init__(self, url: str) -> None:
            self.url = url

        def run(self) -> None:
            both.wait(10)
            with connect(self.url, loop=loop, timeout=5) as ws:
                results.put(ws.recv(5))
                both.wait(10)

        def stalled(self) -> None:
            pass

    with ScriptedServer(greet) as server:
        for _ in range(2):
            loop.pool.submit(Task(server.url))
        assert [results.get(timeout=10), results.get(timeout=10)] == ["hello", "hello"]


# ---------------------------------------------------------------------- what cannot be asked for

WRONG_CALLS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a bad URL": ({"url": "http://example.com/"}, ValueError, "must begin with ws://"),
    "reconnect without a handler": ({"reconnect": True}, ValueError, "need a handler"),
    "not waiting without a handler": ({"wait": False}, ValueError, "need a handler"),
    "a handler that is none": ({"handler": object()}, TypeError, "must be a gows.Handler, not object"),
    "a handler class": ({"handler": Recorder}, TypeError, "must be a gows.Handler"),
    "one string of subprotocols": ({"subprotocols": "chat"}, TypeError, "sequence of strings"),
    "a subprotocol that is no token": ({"subprotocols": ["a b"]}, InvalidHeaderError, "different tokens"),
    "a subprotocol twice": ({"subprotocols": ["a", "a"]}, InvalidHeaderError, "different tokens"),
    "a header with a line end": ({"headers": {"X": "a\r\nY: b"}}, InvalidHeaderError, "printable ASCII"),
    "a header of the handshake": ({"headers": {"Sec-WebSocket-Key": "x"}}, InvalidHeaderError, "handshake itself"),
    "an origin with a line end": ({"origin": "http://a\r\n"}, InvalidHeaderError, "printable ASCII"),
    "two origins": ({"origin": "http://a", "headers": {"origin": "http://b"}}, ValueError, "Origin is given twice"),
    "two fields of cookies": ({"cookies": {"a": "1"}, "headers": {"cookie": "b"}}, ValueError, "Cookie is given twice"),
    "a cookie with a line end": ({"cookies": {"a": "1\r\nX: y"}}, InvalidHeaderError, "the cookie a has"),
    "a proxy that is none": ({"proxy": "ftp://a"}, ValueError, "must begin with http://"),
    "no proxy, said wrongly": ({"proxy": False}, TypeError, "proxy must be a URL"),
    "two authorizations": (
        {"url": "ws://a:b@example.com/", "headers": [("authorization", "x")]},
        ValueError,
        "Authorization is given twice",
    ),
    "TLS settings without TLS": ({"ssl_context": ssl.create_default_context()}, ValueError, "write wss://"),
    "TLS settings that are none": ({"url": "wss://a/", "ssl_context": "no"}, TypeError, "must be an ssl.SSLContext"),
    "TLS settings of a server": (
        {"url": "wss://a.example/", "ssl_context": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)},
        ValueError,
        "ssl_context cannot be used to connect to 'a.example'",
    ),
    "no time": ({"timeout": 0}, ValueError, "more than 0 seconds"),
    "no limit of time": ({"timeout": None}, TypeError, "number of seconds"),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_what_cannot_be_is_refused_at_once(name: str) -> None:
    arguments, error, reason = WRONG_CALLS[name]
    with Loop(workers=0) as loop, pytest.raises(error, match=reason):
        connect(**{"url": "ws://127.0.0.1:9/", "loop": loop, **arguments})
