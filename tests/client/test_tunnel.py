"""What is said to a proxy, without I/O: whole, byte by byte, and what no proxy should say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gows import Proxy, ProxyError
from gows.client.tunnel import MAX_HEAD, Tunnel, make_tunnel

OK = b"HTTP/1.1 200 Connection established\r\n\r\n"


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """`data` whole, byte by byte, and cut in two everywhere."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


def feed(tunnel: Tunnel, pieces: list[bytes]) -> bytes:
    sent = b""
    for piece in pieces:
        assert not tunnel.done
        sent += tunnel.feed(piece)
    return sent


# ---------------------------------------------------------------------- HTTP


@pytest.mark.parametrize(
    ("url", "host", "port", "request_bytes"),
    [
        ("http://p", "a.example", 80, b"CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n"),
        ("https://p", "192.0.2.1", 443, b"CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: 192.0.2.1:443\r\n\r\n"),
        ("http://p", "::1", 443, b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n"),
        ("http://p", "fe80::1%eth0", 443, b"CONNECT [fe80::1]:443 HTTP/1.1\r\nHost: [fe80::1]:443\r\n\r\n"),
        (
            "http://me:secret@p",
            "a",
            1,
            b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n",
        ),
        (
            "http://a%20b:%C3%A4%3A@p",
            "a",
            1,
            b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nProxy-Authorization: Basic YSBiOsOkOg==\r\n\r\n",
        ),
    ],
)
def test_the_request_to_an_http_proxy(url: str, host: str, port: int, request_bytes: bytes) -> None:
    assert make_tunnel(Proxy(url), host, port).begin() == request_bytes


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 204 No\r\nVia: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",  # RFC 9110 section 9.3.6: ignored
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    ],
)
def test_a_2xx_opens_the_tunnel(answer: bytes) -> None:
    for pieces in cuts(answer):
        tunnel = make_tunnel(Proxy("http://p"), "a", 1)
        tunnel.begin()
        assert feed(tunnel, pieces) == b""
        assert tunnel.done


@pytest.mark.parametrize(
    ("status", "temporary"),
    [(407, False), (403, False), (404, False), (302, False), (101, False), (429, True), (502, True), (504, True)],
)
def test_any_other_status_is_an_error_that_carries_it(status: int, temporary: bool) -> None:
    head = f"HTTP/1.1 {status} Because\r\nLocation: http://evil/\r\nProxy-Authenticate: Basic\r\n"
    answer = f"{head}Upgrade: x\r\nConnection: Upgrade\r\n\r\n".encode()
    for pieces in cuts(answer):
        tunnel = make_tunnel(Proxy("http://me:secret@p"), "a", 1)
        tunnel.begin()
        with pytest.raises(ProxyError, match=rf"the proxy http://p:80 refused .* a:1: {status} Because") as refused:
            feed(tunnel, pieces)
        assert refused.value.status == status
        assert refused.value.temporary is temporary
        assert "secret" not in repr(refused.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 OK\r\nA: b\x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 65 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * MAX_HEAD,
        b"\x05\x00",
        b"\x15\x03\x01\x00\x02\x02\x28",
        OK + b"x",
        OK + OK,
    ],
)
def test_what_is_no_answer_of_an_http_proxy(answer: bytes) -> None:
    tunnel = make_tunnel(Proxy("http://p"), "a", 1)
    tunnel.begin()
    with pytest.raises(ProxyError, match=r"the proxy http://p:80 (gave an answer|said more)") as refused:
        tunnel.feed(answer)
    assert refused.value.status is None


def test_the_reason_of_a_proxy_cannot_play_with_a_terminal() -> None:
    tunnel = make_tunnel(Proxy("http://p"), "a", 1)
    with pytest.raises(ProxyError) as refused:
        tunnel.feed(b"HTTP/1.1 403 \x9b2J\xff\r\n\r\n")
    assert str(refused.value).isprintable()


# ---------------------------------------------------------------------- SOCKS5

ANSWERED = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"


@pytest.mark.parametrize(
    ("host", "where"),
    [
        ("a.example", b"\x03\x09a.example"),
        ("192.0.2.1", b"\x01\xc0\x00\x02\x01"),
        ("::1", b"\x04" + bytes(15) + b"\x01"),
        ("fe80::1%eth0", b"\x04\xfe\x80" + bytes(13) + b"\x01"),
    ],
)
def test_the_request_to_a_socks_proxy(host: str, where: bytes) -> None:
    for pieces in cuts(b"\x05\x00"):
        tunnel = make_tunnel(Proxy("socks5h://p"), host, 443)
        assert tunnel.begin() == b"\x05\x01\x00"
        assert feed(tunnel, pieces) == b"\x05\x01\x00" + where + b"\x01\xbb"
        assert not tunnel.done


@pytest.mark.parametrize(
    "reply",
    [
        ANSWERED,
        b"\x05\x00\x00\x03\x01a\x00\x50",
        b"\x05\x00\x00\x03\x00\x00\x50",
        b"\x05\x00\x00\x03\xff" + b"a" * 255 + b"\x00\x50",
        b"\x05\x00\x00\x04" + bytes(18),
    ],
)
def test_a_reply_of_a_socks_proxy(reply: bytes) -> None:
    for pieces in cuts(reply):
        tunnel = make_tunnel(Proxy("socks5://p"), "a", 1)
        tunnel.begin()
        tunnel.feed(b"\x05\x00")
        assert feed(tunnel, pieces) == b""
        assert tunnel.done


@pytest.mark.parametrize("method", [0, 2])
def test_user_and_password_are_sent_when_they_are_asked_for(method: int) -> None:
    for pieces in cuts(b"\x01\x00"):
        tunnel = make_tunnel(Proxy("socks5://me:s%00cret@p"), "192.0.2.1", 80)
        assert tunnel.begin() == b"\x05\x02\x00\x02"
        sent = tunnel.feed(bytes((5, method)))
        if method == 2:
            assert sent == b"\x01\x02me\x06s\x00cret"
            sent = feed(tunnel, pieces)
        assert sent == b"\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50"
        tunnel.feed(ANSWERED)
        assert tunnel.done


@pytest.mark.parametrize(
    ("reply", "temporary"), [(1, True), (2, False), (3, True), (4, True), (5, True), (6, True), (7, False), (8, False)]
)
def test_a_refusal_of_a_socks_proxy_carries_its_reply(reply: int, temporary: bool) -> None:
    tunnel = make_tunnel(Proxy("socks5://p"), "a", 1)
    tunnel.begin()
    tunnel.feed(b"\x05\x00")
    with pytest.raises(ProxyError, match=r"the proxy socks5://p:1080 refused to connect to a: ") as refused:
        tunnel.feed(bytes((5, reply)))
    assert (refused.value.status, refused.value.temporary) == (reply, temporary)


def test_a_reply_that_no_table_has() -> None:
    tunnel = make_tunnel(Proxy("socks5://p"), "a", 1)
    tunnel.feed(b"\x05\x00")
    with pytest.raises(ProxyError, match="reply 99"):
        tunnel.feed(b"\x05\x63\x00")


@pytest.mark.parametrize("status", [1, 255])
def test_a_password_that_is_refused(status: int) -> None:
    tunnel = make_tunnel(Proxy("socks5://me:secret@p"), "a", 1)
    tunnel.begin()
    tunnel.feed(b"\x05\x02")
    with pytest.raises(ProxyError, match="refused the user name or the password") as refused:
        tunnel.feed(bytes((1, status)))
    assert (refused.value.status, refused.value.temporary) == (status, False)
    assert "secret" not in repr(refused.value)


@pytest.mark.parametrize(("url", "what"), [("socks5://p", "user name"), ("socks5://me:x@p", "something else")])
def test_a_proxy_that_wants_another_method(url: str, what: str) -> None:
    tunnel = make_tunnel(Proxy(url), "a", 1)
    with pytest.raises(ProxyError, match=f"it wants {what}") as refused:
        tunnel.feed(b"\x05\xff")
    assert not refused.value.temporary


@pytest.mark.parametrize(
    ("url", "answers"),
    [
        ("socks5://p", [b"HTTP/1.1 400 Bad Request\r\n\r\n"]),
        ("socks5://p", [b"\x04\x5a"]),
        ("socks5://p", [b"\x05\x01"]),  # GSSAPI, not offered
        ("socks5://p", [b"\x05\x02"]),  # a password, not offered
        ("socks5://p", [b"\x05\x00" + ANSWERED]),  # answered before it was asked
        ("socks5://me:x@p", [b"\x05\x02\x01\x00"]),
        ("socks5://me:x@p", [b"\x05\x02", b"\x05"]),
        ("socks5://me:x@p", [b"\x05\x02", b"\x01\x00" + ANSWERED]),
        ("socks5://p", [b"\x05\x00", b"\x04"]),
        ("socks5://p", [b"\x05\x00", b"\x05\x00\x00\x02\x00"]),
        ("socks5://p", [b"\x05\x00", ANSWERED + b"x"]),
    ],
)
def test_what_is_no_answer_of_a_socks_proxy(url: str, answers: list[bytes]) -> None:
    tunnel = make_tunnel(Proxy(url), "a", 1)
    tunnel.begin()
    *before, last = answers
    for each in before:
        tunnel.feed(each)
    with pytest.raises(ProxyError, match=r"the proxy socks5://p:1080 (gave an answer that is none|said more)"):
        tunnel.feed(last)


# ---------------------------------------------------------------------- anything


@given(
    st.sampled_from(["http://p", "socks5://p", "socks5h://me:secret@p"]),
    st.lists(
        st.one_of(
            st.binary(max_size=20), st.sampled_from([OK, ANSWERED, b"\x05\x00", b"\x05\x02", b"\x01\x00", b"\x05\x05"])
        ),
        max_size=8,
    ),
)
def test_whatever_comes_it_goes_on_or_it_ends(url: str, pieces: list[bytes]) -> None:
    tunnel = make_tunnel(Proxy(url), "a", 1)
    sent = tunnel.begin()
    try:
        for piece in pieces:
            if tunnel.done:
                break
            sent += tunnel.feed(piece)
    except ProxyError as failure:
        sent += str(failure).encode()
    assert b"secret" not in sent.partition(b"refused")[2]
    assert len(sent) < 300
    assert b"GET " not in sent, "nothing of the request goes to a proxy"
