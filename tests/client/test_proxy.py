"""The URL of a proxy, read."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gows import Proxy
from gows.reactor.address import Address

READ: dict[str, tuple[str, Address, tuple[bytes, bytes] | None]] = {
    "http://proxy.example:3128": ("http", Address("proxy.example", 3128), None),
    "http://proxy.example:3128/": ("http", Address("proxy.example", 3128), None),
    "proxy.example:3128": ("http", Address("proxy.example", 3128), None),
    "proxy.example": ("http", Address("proxy.example", 80), None),
    "HTTP://Proxy.Example": ("http", Address("proxy.example", 80), None),
    "https://proxy.example": ("https", Address("proxy.example", 443), None),
    "socks5://proxy.example": ("socks5", Address("proxy.example", 1080), None),
    "socks5h://[::1]:9050": ("socks5h", Address("::1", 9050), None),
    "socks://proxy.example": ("socks5h", Address("proxy.example", 1080), None),
    "http://me:secret@proxy.example": ("http", Address("proxy.example", 80), (b"me", b"secret")),
    "me:secret@proxy.example:1": ("http", Address("proxy.example", 1), (b"me", b"secret")),
    "http://me@proxy.example": ("http", Address("proxy.example", 80), (b"me", b"")),
    "http://m%40e:s%3a%2F%C3%A4@proxy.example": ("http", Address("proxy.example", 80), (b"m@e", b"s:/\xc3\xa4")),
    "http://a:b@c:d@proxy.example": ("http", Address("proxy.example", 80), (b"a", b"b@c:d")),
    "socks5://me:@proxy.example": ("socks5", Address("proxy.example", 1080), (b"me", b"")),
    "http://prüfung.example": ("http", Address("xn--prfung-4ya.example", 80), None),
}


@pytest.mark.parametrize("url", READ)
def test_what_a_url_says(url: str) -> None:
    proxy = Proxy(url)
    assert (proxy.scheme, proxy.address, proxy.credentials) == READ[url]


WRONG: dict[str, str] = {
    "": "names no host",
    "http://": "names no host",
    "http://:80": "names no host",
    "ftp://a": "must begin with",
    "socks4://a": "must begin with",
    "http://a:0": "names no port",
    "http://a:65536": "is no URL",
    "http://a:x": "is no URL",
    "http://[::1": "is no URL",
    "http://a/path": "no path, query or fragment",
    "http://a?b": "no path, query or fragment",
    "http://a#b": "no path, query or fragment",
    "http://a b": "white space or a control",
    "http://a\r\nX: y": "white space or a control",
    "http://a_!b": "host name that cannot be",
    "http://" + "a" * 64: "host name that cannot be",
    "http://[1::2::3]": "cannot be|no URL",
    "http://a%3ab:c@d": "no colon in the name",
    "http://a:b%0a@d": "no control character",
    "http://a%00:b@d": "no control character",
    f"socks5://{'a' * 256}:b@d": "1 to 255 bytes",
    f"socks5://a:{'b' * 256}@d": "1 to 255 bytes",
    "socks5://:b@d": "1 to 255 bytes",
}


@pytest.mark.parametrize("url", WRONG)
def test_a_url_that_cannot_be(url: str) -> None:
    with pytest.raises(ValueError, match=WRONG[url]):
        Proxy(url)


def test_what_is_no_url_at_all() -> None:
    wrong: Any = 5
    with pytest.raises(TypeError, match="must be a str, not int"):
        Proxy(wrong)
    with pytest.raises(TypeError, match=r"must be an ssl\.SSLContext, not int"):
        Proxy("https://a", wrong)
    with pytest.raises(ValueError, match="not encrypted; write https://"):
        Proxy("http://a", ssl.create_default_context())


def test_neither_text_shows_the_credentials() -> None:
    proxy = Proxy("http://me:secret@[::1]:3128")
    assert str(proxy) == "http://[::1]:3128"
    assert repr(proxy) == "<Proxy http://[::1]:3128>"


@pytest.mark.parametrize("scheme", ["http://", "https://", "socks5://", "ftp://", "", "socks5h:/"])
@given(
    password=st.text("abc/?#%:@[]\\ \t\n.0", max_size=6), port=st.sampled_from(["", ":1", ":x", ":0", "/path", "?q"])
)
def test_an_error_shows_no_password_however_it_is_written(scheme: str, password: str, port: str) -> None:
    try:
        proxy = Proxy(f"{scheme}me:S3CRET{password}T0P@host{port}")
    except ValueError as error:
        text = str(error)
    else:
        text = f"{proxy} {proxy!r}"
    assert "S3CRET" not in text.upper()
    assert "T0P" not in text.upper()
