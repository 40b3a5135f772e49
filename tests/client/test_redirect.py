"""Redirects of the upgrade: where they lead, what goes along, and where they end."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from gows import HandshakeError, Reconnect, connect
from gows.client.environment import choose_proxy
from gows.client.redirect import FOLLOWED, redirected
from gows.client.request import ClientRequest, make_request
from gows.client.url import parse_url
from gows.errors import ConnectTimeoutError
from gows.http1.headers import Headers
from gows.reactor.transports import Loop
from tests.support.proxies import FakeProxy
from tests.support.recording import Recorder
from tests.support.scripted import Peer, ScriptedServer, frame
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def still() -> Any:
    """A loop that does not run."""
    with Loop(workers=0) as loop:
        yield loop


def asked(url: str, loop: Loop, **settings: Any) -> ClientRequest:
    """The request for `url`."""
    arguments: dict[str, Any] = {
        "options": None,
        "subprotocols": ["chat"],
        "headers": {"X-Token": "token"},
        "cookies": {"c": "cookie"},
        "origin": "https://page.test",
        "compression": True,
        "ssl_context": None,
        "timeout": 10.0,
        "proxy": None,
        "redirects": 5,
    }
    return make_request(url, loop, **{**arguments, **settings})


LEADS: list[tuple[str, str, str]] = [
    # from, Location, to
    ("ws://a.test/x/y?q=1", "/z", "ws://a.test/z"),
    ("ws://a.test/x/y?q=1", "z", "ws://a.test/x/z"),
    ("ws://a.test/x/y?q=1", "../z?w=2", "ws://a.test/z?w=2"),
    ("ws://a.test/x/y?q=1", "?w=2", "ws://a.test/x/y?w=2"),
    ("ws://a.test/x/y?q=1", "", "ws://a.test/x/y?q=1"),
    ("ws://a.test/x", "//b.test:81/z", "ws://b.test:81/z"),
    ("wss://a.test/x", "//b.test/z", "wss://b.test/z"),
    ("ws://a.test/x", "http://b.test/z", "ws://b.test/z"),
    ("ws://a.test/x", "https://b.test/z", "wss://b.test/z"),
    ("ws://a.test/x", "wss://b.test", "wss://b.test/"),
    ("wss://a.test/x", "HTTPS://B.test/z", "wss://b.test/z"),
    ("ws://a.test:81/x", "/z#part", "ws://a.test:81/z"),
    ("ws://[::1]:81/x", "/z", "ws://[::1]:81/z"),
    ("ws://a.test/x", "/\u00c3\u00a4?\u00ff", "ws://a.test/%C3%A4?%FF"),
    ("ws+unix:///run/s:/x/y", "z", "ws+unix:///run/s:/x/z"),
    ("ws+unix:///run/s:/x", "http://localhost/z", "ws+unix:///run/s:/z"),
    ("ws+unix:///run/s:/x", "http://localhost:81/z", "ws://localhost:81/z"),
    ("ws+unix:///run/s:/x", "https://localhost/z", "wss://localhost/z"),
    ("ws+unix:///run/s:/x", "http://b.test/z", "ws://b.test/z"),
]


@pytest.mark.parametrize(("base", "location", "leads_to"), LEADS)
def test_where_location_leads(base: str, location: str, leads_to: str, still: Loop) -> None:
    assert redirected(asked(base, still), location).url == parse_url(leads_to)


ENDS: list[tuple[str, str, str]] = [
    ("wss://a.test/", "ws://a.test/", "which is not encrypted"),
    ("wss://a.test/", "http://a.test/", "which is not encrypted"),
    ("wss+unix:///run/s:/", "http://localhost/", "which is not encrypted"),
    ("ws://a.test/", "ftp://a.test/", "no place for a WebSocket"),
    ("ws://a.test/", "file:///etc/passwd", "no place for a WebSocket"),
    ("ws://a.test/", "javascript:alert(1)", "no place for a WebSocket"),
    ("ws://a.test/", "ws+unix:///run/s:/", "no place for a WebSocket"),
    ("ws://a.test/", "http://me:secret@a.test/", "which names a user"),
    ("ws://a.test/", "//me@a.test/", "which names a user"),
    ("ws://a.test/", "http://a.test/a b", "white space or a control"),
    ("ws://a.test/", "/\tx", "white space or a control"),
    ("ws://a.test/", "http://a.test:0/", "which cannot be: .* port 0"),
    ("ws://a.test/", "http://a.test:x/", "which cannot be"),
    ("ws://a.test/", "http://[::1/", "which is no URL"),
    ("ws://a.test/", "http://\u00e4.test/", "which cannot be: .* host name"),
    ("ws://a.test/", "/%zz", "which cannot be: .*hexadecimal"),
]


@pytest.mark.parametrize(("base", "location", "why"), ENDS)
def test_what_is_not_followed(base: str, location: str, why: str, still: Loop) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        redirected(asked(base, still), location)
    assert "secret" not in str(refused.value)


SECRETS = ("X-Token", "Cookie", "Authorization")


@pytest.mark.parametrize(
    ("base", "location", "same"),
    [
        ("wss://me:secret@a.test/", "/z", True),
        ("wss://me:secret@a.test/", "https://a.test:443/z", True),
        ("wss://me:secret@a.test/", "wss://A.TEST/z", True),
        ("wss://me:secret@a.test/", "https://a.test:444/z", False),
        ("wss://me:secret@a.test/", "https://b.a.test/z", False),
        ("wss://me:secret@a.test/", "https://a.test./z", False),
        ("ws://me:secret@a.test/", "https://a.test/z", False),
        ("ws://me:secret@a.test/", "https://a.test:80/z", False),
    ],
)
def test_secrets_go_to_the_same_origin_only(base: str, location: str, same: bool, still: Loop) -> None:
    request = redirected(asked(base, still), location)
    text = request.encode("AAAAAAAAAAAAAAAAAAAAAA==").decode()
    for name in SECRETS:
        assert (f"\r\n{name}: " in text) is same
    assert "Sec-WebSocket-Protocol: chat\r\n" in text
    assert "Origin: https://page.test\r\n" in text
    assert f"\r\nHost: {request.url.host}\r\n" in text
    back = redirected(request, f"wss://a.test:{parse_url(base).address.port}/")
    assert back.headers == (request.headers if same else ()), "what was left behind does not come back"


def test_tls_begins_where_it_is_asked_for(still: Loop) -> None:
    plain = asked("ws://a.test/", still)
    assert plain.ssl_context is None
    assert redirected(plain, "https://b.test/").ssl_context is not None
    ours = ssl.create_default_context()
    secure = asked("wss://a.test/", still, ssl_context=ours)
    assert redirected(secure, "https://b.test/").ssl_context is ours
    with pytest.raises(ValueError, match="ssl_context cannot be used"):
        redirected(replace(secure, ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)), "https://b.test/")


def test_the_proxy_is_chosen_anew(still: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "http://proxy.test")
    monkeypatch.setenv("no_proxy", "b.test")
    request = asked("ws://a.test/", still, proxy=True)
    assert request.proxy is not None
    assert request.proxy == choose_proxy(True, request.url)
    assert redirected(request, "/z").proxy == request.proxy
    assert redirected(request, "http://b.test/").proxy is None


@given(location=st.text(st.characters(max_codepoint=255), max_size=20))
def test_any_location_leads_somewhere_or_says_why_not(location: str, still: Loop) -> None:
    try:
        request = redirected(asked("wss://a.test/x", still), location)
    except ValueError as error:
        assert str(error)  # noqa: PT017
    else:
        assert request.url.secure
        head = request.encode("AAAAAAAAAAAAAAAAAAAAAA==")
        assert head.count(b"\r\n\r\n") == 1
        assert head.startswith(b"GET /")


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (21, ValueError), (True, TypeError), ("5", TypeError)])
def test_a_number_that_cannot_be(value: Any, error: type[Exception], still: Loop) -> None:
    with pytest.raises(error, match="redirects must be"):
        connect("ws://127.0.0.1:9/", redirects=value, loop=still)


# ---------------------------------------------------------------------- connections


def send_on(location: str | Callable[[str], str], status: int = 302, more: str = "") -> Callable[[Peer], None]:
    """A script that redirects each request, and accepts one for /end."""

    def script(peer: Peer) -> None:
        head = peer.read_head()
        path = head.split(" ")[1]
        if path == "/end":
            answer_101(peer, head)
        else:
            where = location if isinstance(location, str) else location(path)
            peer.send(f"HTTP/1.1 {status} Elsewhere\r\nLocation: {where}\r\n{more}Content-Length: 5\r\n\r\nthere")
            peer.wait_end()

    return script


def answer_101(peer: Peer, head: str) -> None:
    peer._buffer[:0] = head.encode()
    peer.accept(behind=frame(1, b"here"))
    opcode, body = peer.read_frame()
    assert opcode == 8
    peer.send(frame(8, body))


@pytest.mark.parametrize("status", sorted(FOLLOWED))
def test_a_redirect_is_followed_when_asked(status: int, loop: Loop) -> None:
    with ScriptedServer(send_on("/end", status)) as server:
        with connect(server.url, redirects=1, loop=loop) as ws:
            assert ws.recv(10) == "here"
        with pytest.raises(HandshakeError, match="redirects to /end, and redirects are not followed") as refused:
            connect(server.url, loop=loop)
        assert refused.value.status == status
        assert refused.value.body == b"there"
        assert Headers(list(refused.value.headers)).get("location") == "/end"


@pytest.mark.parametrize("status", [300, 304, 305, 306])
def test_another_status_is_not_followed(status: int, loop: Loop) -> None:
    with ScriptedServer(send_on("/end", status)) as server:
        with pytest.raises(HandshakeError, match=f"redirects to /end, and {status} is not followed") as refused:
            connect(server.url, redirects=5, loop=loop)
        assert refused.value.status == status


def test_several_redirects_over_two_servers(loop: Loop) -> None:
    heads: list[str] = []

    def last(peer: Peer) -> None:
        head = peer.read_head()
        heads.append(head)
        answer_101(peer, head)

    with ScriptedServer(last) as other:
        with ScriptedServer(
            send_on(lambda path: {"/": "a", "/a": "/b"}.get(path, f"http://127.0.0.1:{other.port}/c"))
        ) as server:
            url = f"ws://me:secret@127.0.0.1:{server.port}/"
            with connect(url, headers={"X-Token": "token"}, cookies={"c": "d"}, redirects=3, loop=loop) as ws:
                assert ws.recv(10) == "here"
                assert ws.remote_addr == ("127.0.0.1", other.port)
        assert server.connections == 3
    assert heads[0].startswith("GET /c HTTP/1.1\r\n")
    assert f"\r\nHost: 127.0.0.1:{other.port}\r\n" in heads[0]
    assert not any(name in heads[0] for name in SECRETS)


def test_too_many_redirects(loop: Loop) -> None:
    with ScriptedServer(send_on(lambda path: f"{path}x")) as server:
        with pytest.raises(HandshakeError, match="redirects to /xxx, and no more redirects are followed") as refused:
            connect(server.url, redirects=2, loop=loop)
        assert refused.value.status == 302
        assert refused.value.body == b"there"
        assert server.connections == 3


@pytest.mark.parametrize("location", ["/", "", "/round"])
def test_redirects_that_go_round_in_circles(location: str, loop: Loop) -> None:
    with ScriptedServer(send_on(lambda path: "/" if path == "/round" else location)) as server:
        with pytest.raises(HandshakeError, match="the redirects go round in circles") as refused:
            connect(f"ws://me:secret@127.0.0.1:{server.port}/", redirects=20, loop=loop)
        assert "secret" not in str(refused.value)
        assert server.connections <= 2


@pytest.mark.parametrize(
    ("more", "why"), [("Location: /b\r\n", "without one Location"), ("", "which is no place for a WebSocket")]
)
def test_a_location_that_cannot_be(more: str, why: str, loop: Loop) -> None:
    with ScriptedServer(send_on("gopher://x/", 301, more)) as server:
        with pytest.raises(HandshakeError, match=f"redirects to gopher://x/, {why}") as refused:
            connect(server.url, redirects=5, loop=loop)
        assert refused.value.status == 301


def test_a_redirect_without_location(loop: Loop) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n")
        peer.wait_end()

    with ScriptedServer(script) as server, pytest.raises(HandshakeError, match="redirects, without one Location"):
        connect(server.url, redirects=5, loop=loop)


def test_from_plain_to_tls_and_never_back(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    certified = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(certified)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    monkeypatch.setattr("gows.client.redirect.default_ssl_context", lambda: trusting)
    with ScriptedServer(send_on("http://127.0.0.1:9/"), ssl_context=certified) as secure:
        with (
            ScriptedServer(send_on(f"{secure.url}end".replace("wss", "https"))) as plain,
            connect(plain.url, redirects=1, loop=loop) as ws,
        ):
            assert ws.recv(10) == "here"
        with pytest.raises(HandshakeError, match=r"redirects to http://127\.0\.0\.1:9/, which is not encrypted"):
            connect(secure.url, redirects=5, ssl_context=trusting, loop=loop)


def test_a_unix_domain_socket_sends_us_on(tmp_path: Path, loop: Loop) -> None:
    with (
        ScriptedServer(send_on("http://localhost/end"), path=str(tmp_path / "s")) as server,
        connect(server.url, redirects=1, loop=loop) as ws,
    ):
        assert ws.recv(10) == "here"


def test_through_a_proxy(loop: Loop) -> None:
    with ScriptedServer(send_on("http://b.test/end")) as server:
        fake = FakeProxy(server.port)
        with (
            ScriptedServer(fake.http) as listening,
            connect(
                "ws://a.test/",
                proxy=f"http://127.0.0.1:{listening.port}",
                redirects=1,
                headers={"X-Token": "t"},
                loop=loop,
            ) as ws,
        ):
            assert ws.recv(10) == "here"
    assert fake.asked == [("a.test", 80), ("b.test", 80)]
    assert fake.carried.count(b"X-Token") == 1


def test_all_redirects_share_one_time(loop: Loop) -> None:
    def script(peer: Peer) -> None:
        head = peer.read_head()
        if head.startswith("GET /wait "):
            peer.wait_end()
        else:
            peer.send("HTTP/1.1 302 Found\r\nLocation: /wait\r\nContent-Length: 0\r\n\r\n")
            peer.wait_end()

    with ScriptedServer(script) as server, pytest.raises(ConnectTimeoutError, match="did not answer the handshake"):
        connect(server.url, redirects=5, timeout=0.3, loop=loop)


def test_a_reconnecting_client_begins_where_it_was_told(loop: Loop) -> None:
    paths: list[str] = []

    def script(peer: Peer) -> None:
        try:
            head = peer.read_head()
            path = head.split(" ")[1]
            paths.append(path)
            if path == "/":
                peer.send("HTTP/1.1 301 Moved\r\nLocation: /end\r\nContent-Length: 0\r\n\r\n")
                peer.wait_end()
            else:
                peer._buffer[:0] = head.encode()
                peer.accept()
                peer.send(frame(8, b"\x03\xe9"))
                peer.read_frame()
        except (OSError, EOFError):  # the client was stopped just then
            pass

    with ScriptedServer(script) as server:
        policy = Reconnect(initial=0.01, maximum=0.05)
        client = connect(server.url, Recorder(), redirects=1, reconnect=policy, loop=loop)
        wait_until(lambda: len(paths) >= 4)
        client.stop()
        assert client.wait(10)
    assert paths[:4] == ["/", "/end", "/", "/end"]
