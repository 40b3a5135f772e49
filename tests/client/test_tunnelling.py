"""Clients behind proxies that the tests play themselves."""

from __future__ import annotations

import random
import re
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from gows import Handler, Proxy, ProxyError, Reconnect, TopicClient, connect
from gows.client import request as requests
from gows.errors import ConnectError, ConnectTimeoutError, GowsError
from gows.reactor.sockets import Target
from gows.reactor.stream import Stream
from gows.reactor.transports import Loop
from tests.support.addresses import free_port
from tests.support.fakes import World
from tests.support.proxies import FakeProxy, say
from tests.support.recording import Recorder
from tests.support.scripted import Peer, ScriptedServer, frame
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="module")
def certified(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server.test", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def proxy_certified(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def echo(peer: Peer) -> None:
    """Send back what comes, up to the close."""
    peer.accept()
    opcode = 0
    while opcode != 8:
        opcode, body = peer.read_frame()
        if opcode == 8:
            peer.send(frame(8, body))
        else:
            size = len(body)
            length = bytes((size,)) if size < 126 else b"\x7f" + size.to_bytes(8, "big")
            peer.send(bytes((0x80 | opcode,)) + length + body)


def script_of(fake: FakeProxy, scheme: str) -> Callable[[Peer], None]:
    return fake.socks if scheme.startswith("socks") else fake.http


# ---------------------------------------------------------------------- it works


@pytest.mark.parametrize("piece", [1, 1 << 20], ids=["byte by byte", "whole"])
@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("scheme", ["http", "https", "socks5h", "socks5"])
def test_a_conversation_through_a_proxy(
    scheme: str,
    secure: bool,
    piece: int,
    loop: Loop,
    certified: ssl.SSLContext,
    proxy_certified: ssl.SSLContext,
    trusting: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "server.test"
    monkeypatch.setattr(loop.sockets, "resolve", look_up({name: ["2001:db8::9", "192.0.2.9"]}))
    with ScriptedServer(echo, ssl_context=certified if secure else None) as server:
        fake = FakeProxy(server.port, piece, ("me", "secret"))
        listening = ScriptedServer(script_of(fake, scheme), ssl_context=proxy_certified if scheme == "https" else None)
        with listening:
            proxy = Proxy(f"{scheme}://me:secret@127.0.0.1:{listening.port}", trusting if scheme == "https" else None)
            with connect(
                f"{'wss' if secure else 'ws'}://user:pa55@{name}:4444/a",
                proxy=proxy,
                ssl_context=trusting if secure else None,
                headers={"X-Token": "token"},
                cookies={"c": "cookie"},
                loop=loop,
            ) as ws:
                ws.write_string("hello")
                assert ws.recv(10) == "hello"
                data = random.Random(1).randbytes(300_000)
                ws.write_message(2, data)
                assert ws.recv(10) == data
    assert fake.asked == [("192.0.2.9" if scheme == "socks5" else name, 4444)]
    assert not any(secret in head for head in fake.heads for secret in ("token", "cookie", "/a", "Upgrade"))
    assert (b"X-Token: token" in fake.carried) is not secure


def look_up(names: dict[str, list[str]]) -> Callable[[Any], list[Target]]:
    def resolve(address: Any) -> list[Target]:
        if address.host in names:
            pairs = [(socket.AF_INET6 if ":" in host else socket.AF_INET, host) for host in names[address.host]]
            return [Target(family, (host, address.port)) for family, host in pairs]
        if address.host != "127.0.0.1":
            raise socket.gaierror(socket.EAI_NONAME, f"nobody knows {address.host}")
        return [Target(socket.AF_INET, (address.host, address.port))]

    return resolve


@pytest.mark.parametrize("kind", ["blocking", "handler", "not waiting", "reconnecting", "topics"])
def test_every_client_takes_the_way_through_the_proxy(kind: str, loop: Loop) -> None:
    def script(peer: Peer) -> None:
        peer.accept(*(["Sec-WebSocket-Protocol: gows.v1"] if kind == "topics" else []))
        opcode, body = peer.read_frame()
        assert opcode == 8
        peer.send(frame(8, body))

    with ScriptedServer(script) as server:
        fake = FakeProxy(server.port)
        with ScriptedServer(fake.http) as listening:
            proxy = f"http://127.0.0.1:{listening.port}"
            url = "ws://server.test/"
            handler = Recorder()
            if kind == "blocking":
                with connect(url, proxy=proxy, loop=loop):
                    pass
            elif kind == "handler":
                connect(url, handler, proxy=proxy, loop=loop).close_handshake()
            elif kind == "not waiting":
                connect(url, handler, proxy=proxy, wait=False, loop=loop)
                assert handler.opened.wait(10)
                handler.sockets[0].close_handshake()
            elif kind == "reconnecting":
                client = connect(url, handler, proxy=proxy, reconnect=True, loop=loop)
                client.stop()
                assert client.wait(10)
            else:
                TopicClient(url, proxy=proxy, loop=loop).close()
    assert fake.asked == [("server.test", 80)]


def test_the_environments_proxy_is_the_default(monkeypatch: pytest.MonkeyPatch, loop: Loop) -> None:
    with ScriptedServer(echo) as server:
        fake = FakeProxy(server.port)
        with ScriptedServer(fake.socks) as listening:
            monkeypatch.setenv("socks_proxy", f"socks://127.0.0.1:{listening.port}")
            monkeypatch.setenv("no_proxy", "other.test")
            with connect("ws://server.test/", loop=loop) as ws:
                assert ws.remote_addr == ("127.0.0.1", listening.port)
            monkeypatch.setenv("no_proxy", "server.test")
            with pytest.raises(ConnectError, match=r"cannot connect to server\.test:80"):
                connect("ws://server.test/", loop=loop)
            with pytest.raises(ConnectError, match=r"cannot connect to server\.test:80"):
                connect("ws://server.test/", proxy=None, loop=loop)
            with connect(f"ws://127.0.0.1:{server.port}/", loop=loop):
                pass
    assert fake.asked == [("server.test", 80)]


def test_a_unix_domain_socket_needs_no_proxy(tmp_path: Path, loop: Loop) -> None:
    with (
        ScriptedServer(echo, path=str(tmp_path / "s")) as server,
        connect(server.url, proxy=f"http://127.0.0.1:{free_port()}", loop=loop) as ws,
    ):
        ws.write_string("x")
        assert ws.recv(10) == "x"


def test_a_reconnecting_client_asks_the_proxy_each_time(loop: Loop) -> None:
    def script(peer: Peer) -> None:
        try:
            peer.accept()
            peer.send(frame(8, b"\x03\xe9"))
            peer.read_frame()
        except (OSError, EOFError):  # the client was stopped just then
            pass

    with ScriptedServer(script) as server:
        fake = FakeProxy(server.port)
        with ScriptedServer(fake.http) as listening:
            policy = Reconnect(initial=0.01, maximum=0.05)
            proxy = f"http://127.0.0.1:{listening.port}"
            client = connect("ws://server.test/", Handler(), proxy=proxy, reconnect=policy, loop=loop)
            wait_until(lambda: len(fake.asked) >= 3)
            client.stop()
            assert client.wait(10)


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_what_is_kept_of_the_way_when_a_connection_is_open(scheme: str, loop: Loop) -> None:
    """Nothing: an idle connection is as small as one that was made directly."""
    import gc

    from gows.client.opening import Opening
    from gows.client.tunnelling import Tunnelling

    with ScriptedServer(echo) as server:
        fake = FakeProxy(server.port)
        with (
            ScriptedServer(script_of(fake, scheme)) as listening,
            connect("ws://server.test/", proxy=f"{scheme}://127.0.0.1:{listening.port}", loop=loop),
        ):
            gc.collect()
            kept = [each for each in gc.get_objects() if isinstance(each, (Opening, Tunnelling))]
            assert not kept


# ---------------------------------------------------------------------- it does not


def refused(loop: Loop, script: Callable[[Peer], None], scheme: str = "http", **settings: Any) -> GowsError:
    """The error of a connection through a proxy that does what `script` says."""
    url = settings.pop("url", "ws://user:pa55@server.test/")
    with ScriptedServer(script) as listening, pytest.raises(GowsError) as error:
        connect(url, proxy=f"{scheme}://me:secret@127.0.0.1:{listening.port}", loop=loop, **settings)
    for text in (str(error.value), repr(error.value)):
        assert "secret" not in text
        assert "pa55" not in text
    return error.value


def test_a_proxy_that_wants_other_credentials(loop: Loop) -> None:
    fake = FakeProxy(0, user=("me", "other"))
    error = refused(loop, fake.http)
    assert isinstance(error, ProxyError)
    assert error.status == 407
    assert "refused to connect to server.test:80: 407 Proxy Authentication Required" in str(error)
    error = refused(loop, fake.socks, "socks5h")
    assert isinstance(error, ProxyError)
    assert error.status == 1
    assert "refused the user name or the password" in str(error)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize(
    ("scheme", "answers"),
    [
        ("http", [b"HTTP/1.1 302 Found\r\nLocation: http://evil.test/\r\n\r\n"]),
        ("http", [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"]),
        ("http", [b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n"]),
        ("http", [b"nonsense\r\n\r\n"]),
        ("http", [b"HTTP/1.1 200 " + b"x" * 20_000]),
        ("socks5h", [b"\x05\x02", b"\x01\x00\x05\x00\x00\x01" + bytes(6)]),
        ("socks5h", [b"\x05\x00", b"\x05\x05\x00\x01" + bytes(6)]),
        ("socks5h", [b"\x05\x00", b"\x05\x00\x00\x01" + bytes(6) + b"HTTP/1.1 101"]),
        ("socks5h", [b"\x04"]),
    ],
)
def test_a_proxy_that_refuses_or_talks_nonsense(
    scheme: str, answers: list[bytes], secure: bool, loop: Loop, trusting: ssl.SSLContext
) -> None:
    url = "wss://server.test/" if secure else "ws://server.test/"
    error = refused(loop, say(*answers), scheme, url=url, ssl_context=trusting if secure else None)
    assert isinstance(error, ProxyError)


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_a_proxy_that_speaks_first(scheme: str, loop: Loop) -> None:
    """Its answer is taken for what it is, whenever it comes; what is behind it is not."""

    def script(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n" * 2 if scheme == "http" else b"\x05\x00\x05\x00")
        peer.wait_end()

    assert isinstance(refused(loop, script, scheme), ProxyError)


CONVERSATIONS: dict[str, list[bytes]] = {
    "http": [b"HTTP/1.1 200 OK\r\n\r\n"],
    "socks5h": [b"\x05\x02", b"\x01\x00", b"\x05\x00\x00\x01" + bytes(6)],
}
ENDS = [
    (scheme, *[each[: max(0, min(len(each), at - before))] for each, before in zip(said, befores, strict=True)])
    for scheme, said in CONVERSATIONS.items()
    for befores in [[sum(map(len, said[:number])) for number in range(len(said))]]
    for at in range(sum(map(len, said)))
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: f"{end[0]} {sum(map(len, end[1:]))}")
def test_a_proxy_that_closes_at_any_byte(end: tuple[str, bytes], loop: Loop) -> None:
    scheme, *answers = end
    said = [each for each in answers if each]

    def script(peer: Peer) -> None:
        for answer in said:
            peer.sock.recv(65536)
            peer.send(answer)
        if len(said) == 0 or len(said[-1]) == len(CONVERSATIONS[scheme][len(said) - 1]):
            peer.sock.recv(65536)  # else the kernel would answer what comes with a reset

    error = refused(loop, script, scheme)
    assert isinstance(error, ProxyError)
    assert error.status is None
    assert error.temporary
    assert "closed the connection without an answer" in str(error)


def test_a_proxy_that_resets_the_connection(loop: Loop) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    assert "broke the connection" in str(refused(loop, script))


@pytest.mark.parametrize(("scheme", "answers"), [("http", [b"HTTP/1.1 200 "]), ("socks5h", [b"\x05\x00", b"\x05"])])
def test_a_proxy_that_does_not_go_on(scheme: str, answers: list[bytes], loop: Loop) -> None:
    error = refused(loop, say(*answers), scheme, timeout=0.3)
    assert isinstance(error, ConnectTimeoutError)
    assert "the proxy" in str(error)
    assert "did not answer within 0.3 s" in str(error)


def test_a_proxy_that_drips(loop: Loop) -> None:
    """A byte now and then does not make the time longer."""
    over = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_head()
        try:
            for byte in b"HTTP/1.1 100 Continue\r\n\r\n" * 100:
                peer.send(bytes((byte,)))
                if over.wait(0.02):
                    return
        except OSError:
            pass

    with ScriptedServer(script) as listening:
        with pytest.raises(ConnectTimeoutError, match="did not answer within"):
            connect("ws://server.test/", proxy=f"http://127.0.0.1:{listening.port}", timeout=0.3, loop=loop)
        over.set()


def test_a_server_behind_a_proxy_that_says_nothing(loop: Loop, trusting: ssl.SSLContext) -> None:
    for secure, what in ((False, "did not answer the handshake within"), (True, "did not answer within")):
        error = refused(
            loop,
            say(b"HTTP/1.1 200 OK\r\n\r\n"),
            url=f"{'wss' if secure else 'ws'}://server.test/",
            ssl_context=trusting if secure else None,
            timeout=0.3,
        )
        assert isinstance(error, ConnectTimeoutError)
        assert what in str(error)
        assert "server.test" in str(error)
        assert "behind the proxy http://127.0.0.1:" in str(error)


def test_a_proxy_that_is_not_there(loop: Loop) -> None:
    port = free_port()
    with pytest.raises(
        ProxyError, match=rf"cannot connect to the proxy http://127\.0\.0\.1:{port}: .*refused"
    ) as error:
        connect("ws://server.test/", proxy=f"http://me:secret@127.0.0.1:{port}", loop=loop)
    assert isinstance(error.value.__cause__, OSError)
    assert "secret" not in str(error.value)


def test_a_name_that_only_we_are_to_look_up(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop.sockets, "resolve", look_up({}))
    error = refused(loop, lambda peer: peer.wait_end(), "socks5")
    assert isinstance(error, ConnectError)
    assert "cannot look up server.test: [Errno -2] nobody knows server.test" in str(error)


def test_a_name_server_that_does_not_answer_in_time(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it brings later is of no use any more."""
    go_on, over = threading.Event(), threading.Event()
    known = look_up({"server.test": ["192.0.2.9"]})

    def resolve(address: Any) -> list[Target]:
        if address.host == "server.test":
            assert go_on.wait(10)
            over.set()
        return known(address)

    monkeypatch.setattr(loop.sockets, "resolve", resolve)
    error = refused(loop, lambda peer: peer.wait_end(), "socks5", timeout=0.3)
    assert isinstance(error, ConnectTimeoutError)
    go_on.set()
    assert over.wait(10)
    wait_until(lambda: not any(thread.name == "gows-resolve" for thread in threading.enumerate()))


def test_a_proxy_that_speaks_while_we_look_up_a_name(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    known = look_up({"server.test": ["192.0.2.9"]})

    def resolve(address: Any) -> list[Target]:
        assert address.host != "server.test" or go_on.wait(10)
        return known(address)

    def script(peer: Peer) -> None:
        peer.send(b"\x05\x00")
        peer.wait_end()

    monkeypatch.setattr(loop.sockets, "resolve", resolve)
    error = refused(loop, script, "socks5")
    go_on.set()
    assert isinstance(error, ProxyError)
    assert "spoke before it was asked" in str(error)


@pytest.mark.parametrize(
    ("failure", "kind", "what"),
    [
        (ConnectionError("the peer answered"), ProxyError, "answered before it was asked"),
        (ValueError("no room"), ConnectError, "the answer of the proxy http://.* failed: no room"),
    ],
)
def test_tls_that_cannot_begin(
    failure: Exception,
    kind: type[ConnectError],
    what: str,
    loop: Loop,
    trusting: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> Stream:
        raise failure

    monkeypatch.setattr(Loop, "start_tls", fail)
    answer = say(b"HTTP/1.1 200 OK\r\n\r\n")
    error = refused(loop, answer, url="wss://server.test/", ssl_context=trusting)
    assert type(error) is kind
    assert re.search(what, str(error))


def test_a_proxy_that_cannot_be_reached_in_time() -> None:
    world = World()
    world.network.unreachable = {"10.0.0.5"}
    handler = Recorder()
    connect("ws://10.0.0.1/", handler, proxy="http://10.0.0.5:3128", timeout=3.0, wait=False, loop=world.loop())
    world.run_until(handler.closed.is_set)
    assert handler.calls == [(1006, "the proxy http://10.0.0.5:3128 did not answer within 3 s")]
    world.close()


def test_the_certificate_of_the_server_is_verified_behind_a_proxy(
    loop: Loop, certified: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    """A proxy cannot play the server."""

    def script(peer: Peer) -> None:
        raise AssertionError("the TLS handshake succeeded")

    server = ScriptedServer(script, ssl_context=certified)
    with pytest.raises(ssl.SSLError), server:  # noqa: PT012 - the server's own view of the failed handshake
        fake = FakeProxy(server.port)
        with ScriptedServer(fake.http) as listening:
            proxy = f"http://127.0.0.1:{listening.port}"
            with pytest.raises(ConnectError, match=r"cannot connect to other\.test:443.*CERTIFICATE_VERIFY") as error:
                connect("wss://other.test/", proxy=proxy, ssl_context=trusting, loop=loop)
        assert isinstance(error.value.__cause__, ssl.SSLCertVerificationError)
        assert not isinstance(error.value, ProxyError)


def test_the_certificate_of_an_https_proxy_is_verified(loop: Loop, proxy_certified: ssl.SSLContext) -> None:
    listening = ScriptedServer(lambda peer: None, ssl_context=proxy_certified)
    with pytest.raises(ssl.SSLError), listening:  # noqa: PT012
        with pytest.raises(ProxyError, match=r"cannot connect to the proxy https://.*CERTIFICATE_VERIFY"):
            connect("ws://server.test/", proxy=f"https://127.0.0.1:{listening.port}", loop=loop)
        assert requests.default_ssl_context.cache_info().currsize == 1


def test_a_proxy_that_answers_tls_with_plain_text(loop: Loop, trusting: ssl.SSLContext) -> None:
    """Nothing of the request is sent in plain text, whatever the proxy does."""
    came = []

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        came.append(peer.sock.recv(65536))
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        try:
            while data := peer.sock.recv(65536):
                came.append(data)
        except ConnectionError:
            pass

    error = refused(loop, script, url="wss://server.test/path", ssl_context=trusting, headers={"X": "token"})
    assert isinstance(error, ConnectError)
    assert b"".join(came)[:1] == b"\x16", "a TLS handshake"
    assert not any(word in b"".join(came) for word in (b"token", b"GET", b"/path"))


def test_given_up_on_the_way(loop: Loop) -> None:
    from gows.client.opening import Opening

    asked = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_head()
        asked.set()
        peer.wait_end()

    outcome: list[GowsError] = []
    with ScriptedServer(script) as listening:
        request = requests.make_request(
            "ws://server.test/",
            loop,
            options=None,
            subprotocols=(),
            headers=None,
            cookies=None,
            origin=None,
            compression=None,
            ssl_context=None,
            timeout=10.0,
            proxy=f"http://127.0.0.1:{listening.port}",
            redirects=0,
        )
        opening = Opening(request, Handler(), lambda _, error: outcome.append(error))
        opening.start()
        assert asked.wait(10)
        opening.cancel()
        wait_until(lambda: outcome)
    assert "was given up" in str(outcome[0])


def test_a_loop_that_is_closed_on_the_way() -> None:
    loop = Loop(workers=1)
    loop.start()
    asked = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_head()
        asked.set()
        peer.wait_end()

    handler = Recorder()
    with ScriptedServer(script) as listening:
        connect("ws://server.test/", handler, proxy=f"http://127.0.0.1:{listening.port}", wait=False, loop=loop)
        assert asked.wait(10)
        loop.close()


def test_a_final_refusal_of_a_proxy_ends_a_reconnecting_client(loop: Loop) -> None:
    fake = FakeProxy(0, user=("me", "other"))
    with ScriptedServer(fake.http) as listening:
        proxy = f"http://me:secret@127.0.0.1:{listening.port}"
        client = connect("ws://server.test/", Handler(), proxy=proxy, reconnect=True, wait=False, loop=loop)
        assert client.wait(10)
    assert isinstance(client.error, ProxyError)
    assert len(fake.asked) == 1
