from __future__ import annotations

import pytest

from gows.client.url import WebSocketUrl, parse_url
from gows.reactor.address import Address


def url_of(
    address: Address, host: str, target: str = "/", *, secure: bool = False, authorization: str | None = None
) -> WebSocketUrl:
    name = "localhost" if address.path else address.host
    return WebSocketUrl(secure, address, host, name, target, authorization)


GOOD = {
    "ws://example.com": url_of(Address("example.com", 80), "example.com"),
    "ws://example.com/": url_of(Address("example.com", 80), "example.com"),
    "WS://Example.COM/Path": url_of(Address("example.com", 80), "example.com", "/Path"),
    "wss://example.com": url_of(Address("example.com", 443), "example.com", secure=True),
    "ws://example.com:80/": url_of(Address("example.com", 80), "example.com"),
    "wss://example.com:443/": url_of(Address("example.com", 443), "example.com", secure=True),
    "ws://example.com:443/": url_of(Address("example.com", 443), "example.com:443"),
    "wss://example.com:80/": url_of(Address("example.com", 80), "example.com:80", secure=True),
    "ws://example.com:8080/a/b?c=d&e=%20f": url_of(Address("example.com", 8080), "example.com:8080", "/a/b?c=d&e=%20f"),
    "ws://example.com?q=1": url_of(Address("example.com", 80), "example.com", "/?q=1"),
    "ws://example.com:/x": url_of(Address("example.com", 80), "example.com", "/x"),
    "ws://127.0.0.1:9": url_of(Address("127.0.0.1", 9), "127.0.0.1:9"),
    "ws://my_host.local./": url_of(Address("my_host.local.", 80), "my_host.local."),
    "ws://[::1]:8080/": url_of(Address("::1", 8080), "[::1]:8080"),
    "wss://[2001:DB8::0:1]/": url_of(Address("2001:db8::1", 443), "[2001:db8::1]", secure=True),
    "ws://[fe80::1%25eth0]:81/": WebSocketUrl(False, Address("fe80::1%eth0", 81), "[fe80::1]:81", "fe80::1", "/", None),
    "ws://bücher.example/": url_of(Address("xn--bcher-kva.example", 80), "xn--bcher-kva.example"),
    "ws://faß.example/": url_of(Address("xn--fa-hia.example", 80), "xn--fa-hia.example"),
    "ws://FAß。example/": url_of(Address("xn--fa-hia.example", 80), "xn--fa-hia.example"),
    "ws://a_b.Bücher.example/": url_of(Address("a_b.xn--bcher-kva.example", 80), "a_b.xn--bcher-kva.example"),
    "ws://i❤.example/": url_of(Address("xn--i-7iq.example", 80), "xn--i-7iq.example"),
    "ws://example.com/ä?ö=ü": url_of(Address("example.com", 80), "example.com", "/%C3%A4?%C3%B6=%C3%BC"),
    "ws://u:p@example.com/": url_of(Address("example.com", 80), "example.com", authorization="Basic dTpw"),
    "ws://u%40x:p%3A%20w@example.com/": url_of(
        Address("example.com", 80), "example.com", authorization="Basic dUB4OnA6IHc="
    ),
    "ws://u@example.com/": url_of(Address("example.com", 80), "example.com", authorization="Basic dTo="),
    "ws+unix:///run/app.sock": url_of(Address("", 0, "/run/app.sock"), "localhost"),
    "ws+unix:///run/app.sock:/chat?a=b": url_of(Address("", 0, "/run/app.sock"), "localhost", "/chat?a=b"),
    "ws+unix:///run/a%3Ab.sock:/": url_of(Address("", 0, "/run/a:b.sock"), "localhost"),
    "ws+unix:///run/app.sock:/a:b": url_of(Address("", 0, "/run/app.sock"), "localhost", "/a:b"),
    "wss+unix:///run/app.sock:/chat": url_of(Address("", 0, "/run/app.sock"), "localhost", "/chat", secure=True),
}

BAD = {
    "http://example.com/": "must begin with ws://",
    "example.com": "must begin with ws://",
    "": "must begin with ws://",
    "ws://": "names no host",
    "ws:///path": "names no host",
    "ws://:80/": "names no host",
    "ws://user@/": "names no host",
    "ws://example.com/#frag": "has a fragment",
    "ws://example.com/#": "has a fragment",
    "ws://example.com:x/": "is no URL",
    "ws://example.com:65536/": "is no URL",
    "ws://example.com:0/": "port 0",
    "ws://[::1/": "is no URL",
    "ws://[1.2.3.4:5/": "is no URL",
    "ws://[::1::2]/": r"^'ws://\[::1::2\]/' (is no URL|has an address that cannot be)",
    "ws://[v1.a:b]/": "has an address that cannot be",
    "ws://exam ple.com/": "white space",
    "ws://example.com/a b": "white space",
    "ws://example.com/\r\nX: y": "white space or a control character",
    "ws://example.com/\x00": "control character",
    "ws://example.com/%zz": "two hexadecimal digits",
    "ws://exa<mple.com/": "host name that cannot be",
    "ws://-example.com/": "host name that cannot be",
    "ws://" + "ä" * 80 + ".com/": "host name that cannot be",
    "ws://" + "a" * 64 + ".example/": "1 to 63 characters",
    "ws://" + "a." * 130 + "example/": "253 in all",
    "ws://a..example/": "1 to 63 characters",
    "ws+unix:///run/a%00b.sock": "none of them 0",
    "ws+unix:///run/" + "a" * 120: "socket's path that cannot be",
    "ws+unix://run/app.sock": "three slashes",
    "ws+unix:///": "names no socket",
    "ws+unix://": "names no socket",
    "ws+unix:///run/app.sock:chat": "does not begin with a slash",
    "ws+unix:///run/app.sock#x": "has a fragment",
}


@pytest.mark.parametrize("url", GOOD)
def test_a_url_says_where_and_what(url: str) -> None:
    assert parse_url(url) == GOOD[url]


@pytest.mark.parametrize("url", BAD)
def test_a_bad_url_is_refused_with_a_reason(url: str) -> None:
    with pytest.raises(ValueError, match=BAD[url]):
        parse_url(url)


@pytest.mark.parametrize(
    "password", ["S3CRET/T0P", "S3CRET?T0P", "S3CRET#T0P", "S3CRET/T0P@x", "S3CRET T0P", "[S3CRET/T0P"]
)
def test_no_reason_shows_a_password_that_is_not_encoded(password: str) -> None:
    with pytest.raises(ValueError, match="percent-encode") as refused:
        parse_url(f"wss://me:{password}@example.com/")
    assert "S3CRET" not in str(refused.value)
    assert "T0P" not in str(refused.value)


def test_a_url_is_a_string() -> None:
    with pytest.raises(TypeError, match="str, not bytes"):
        parse_url(b"ws://example.com/")  # type: ignore[arg-type]
