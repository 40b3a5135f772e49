"""The proxy that the environment names, and NO_PROXY."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gows.client.environment import VARIABLES, choose_proxy, environment_proxy, is_excluded, is_here
from gows.client.proxy import Proxy
from gows.client.url import parse_url
from gows.reactor.address import Address

FAR = Address("example.com", 80)


def named(environ: Mapping[str, str], secure: bool = True) -> str | None:
    """The name of the proxy that is chosen."""
    proxy = environment_proxy(FAR, secure, environ)
    return None if proxy is None else proxy.address.host


@pytest.mark.parametrize("secure", [True, False])
def test_the_first_that_is_set_counts(secure: bool) -> None:
    environ = {name: f"http://{name.lower()}" for names in VARIABLES.values() for name in names}
    order = []
    while (name := named(environ, secure)) is not None:
        order.append(name)
        del environ[name.upper()]
    assert tuple(each.upper() for each in order) == VARIABLES[secure]


def test_small_letters_come_first_and_switch_off() -> None:
    assert named({"https_proxy": "a", "HTTPS_PROXY": "b"}) == "a"
    assert named({"https_proxy": "", "HTTPS_PROXY": "b"}) is None
    assert named({"https_proxy": "", "HTTPS_PROXY": "b", "ALL_PROXY": "c"}) == "c"
    assert named({"https_proxy": " a "}) == "a"
    assert named({"HTTPS_PROXY": "b", "no_proxy": "", "NO_PROXY": "*"}) == "b"


def test_a_header_of_a_cgi_request_is_no_variable() -> None:
    assert named({"HTTP_PROXY": "a"}, False) == "a"
    assert named({"HTTP_PROXY": "a", "REQUEST_METHOD": "GET"}, False) is None
    assert named({"http_proxy": "a", "REQUEST_METHOD": "GET"}, False) == "a"


def test_a_proxy_that_cannot_be_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match=r"HTTPS_PROXY in the environment: .*\*\*\*@p") as refused:
        named({"HTTPS_PROXY": "socks4://me:secret@p"})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST", "localhost.", "a.localhost"),
        *("127.0.0.1", "127.1", "127.255.0.9", "2130706433", "0x7f.1", "0.0.0.0"),
        *("::", "::1", "::1%lo", "::ffff:127.0.0.1"),
    ],
)
def test_the_machine_itself_is_reached_directly(host: str) -> None:
    assert is_here(host)
    assert environment_proxy(Address(host, 80), False, {"ALL_PROXY": "http://p"}) is None


@pytest.mark.parametrize("host", ["localhost.example", "mylocalhost", "128.0.0.1", "10.0.0.1", "::2", "127.example"])
def test_others_are_not_the_machine_itself(host: str) -> None:
    assert not is_here(host)


NO_PROXY: list[tuple[str, str, int, bool]] = [
    # NO_PROXY, the host, its port, whether it is meant
    ("example.com", "example.com", 80, True),
    ("example.com", "EXAMPLE.com.", 80, True),
    ("Example.COM.", "example.com", 80, True),
    ("example.com", "a.b.example.com", 80, True),
    (".example.com", "a.example.com", 80, True),
    (".example.com", "example.com", 80, True),
    ("*.example.com", "a.example.com", 80, True),
    ("example.com", "notexample.com", 80, False),
    (".example.com", "notexample.com", 80, False),
    ("example.com", "example.com.evil.test", 80, False),
    ("example.com", "com", 80, False),
    ("com", "example.com", 80, True),
    ("a.example.com", "example.com", 80, False),
    ("example.com:443", "example.com", 443, True),
    ("example.com:443", "example.com", 80, False),
    ("example.com:", "example.com", 80, True),
    ("example.com:http", "example.com", 80, False),
    ("*", "example.com", 80, True),
    ("*", "10.0.0.1", 80, True),
    ("a,b, example.com ,c", "example.com", 80, True),
    ("a b\texample.com", "example.com", 80, True),
    ("", "example.com", 80, False),
    (",,", "example.com", 80, False),
    (".", "example.com", 80, False),
    ("*.", "example.com", 80, False),
    ("exa*", "example.com", 80, False),
    ("prüfung.example", "xn--prfung-4ya.example", 80, True),
    ("10.0.0.1", "10.0.0.1", 80, True),
    ("10.0.0.1", "10.0.0.11", 80, False),
    ("0.0.1", "10.0.0.1", 80, False),
    ("10.0.0.0/8", "10.255.0.1", 80, True),
    ("10.0.0.9/8", "10.255.0.1", 80, True),
    ("10.0.0.0/8", "11.0.0.1", 80, False),
    ("10.0.0.0/8", "10.example.com", 80, False),
    ("10.0.0.0/8", "::ffff:10.0.0.1", 80, True),
    ("10.0.0.0/8", "167772161", 80, True),
    ("10.0.0.0/33", "10.0.0.1", 80, False),
    ("10.0.0.1:80", "10.0.0.1", 80, True),
    ("10.0.0.1:80", "10.0.0.1", 81, False),
    ("2001:db8::/32", "2001:db8::5", 80, True),
    ("2001:db8::/32", "2001:db9::5", 80, False),
    ("2001:db8:0::5", "2001:db8::5", 80, True),
    ("[2001:db8::5]", "2001:db8::5", 80, True),
    ("[2001:db8::5]:443", "2001:db8::5", 443, True),
    ("[2001:db8::5]:443", "2001:db8::5", 80, False),
    ("fe80::/10", "fe80::1%eth0", 80, True),
    ("10.0.0.0/8", "2001:db8::5", 80, False),
]


@pytest.mark.parametrize(("no_proxy", "host", "port", "meant"), NO_PROXY)
def test_no_proxy(no_proxy: str, host: str, port: int, meant: bool) -> None:
    assert is_excluded(Address(host, port), no_proxy) is meant
    environ = {"ALL_PROXY": "http://p", "NO_PROXY": no_proxy}
    assert (environment_proxy(Address(host, port), True, environ) is None) is meant


NAMES = st.from_regex(r"[a-z]{1,3}(\.[a-z]{1,3}){0,3}", fullmatch=True)


@given(st.lists(NAMES, max_size=3), NAMES)
def test_names_are_meant_as_the_standard_library_means_them(entries: list[str], host: str) -> None:
    no_proxy = ",".join(entries)
    theirs = bool(urllib.request.proxy_bypass_environment(host, {"no": no_proxy}))  # type: ignore[attr-defined]
    assert is_excluded(Address(host, 80), no_proxy) is theirs


@given(st.text(max_size=30), st.sampled_from(["example.com", "10.0.0.1", "::2"]))
def test_no_text_is_an_error(no_proxy: str, host: str) -> None:
    is_excluded(Address(host, 80), no_proxy)


# ---------------------------------------------------------------------- the argument


def test_the_argument_says_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES[False] + VARIABLES[True] + ("NO_PROXY",):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    far, unix = parse_url("wss://example.com/"), parse_url("wss+unix:///run/s:/")
    given_one = Proxy("http://given")
    assert choose_proxy(True, far) is None
    monkeypatch.setenv("HTTPS_PROXY", "http://environment")
    assert choose_proxy(True, far) == Proxy("http://environment")
    assert choose_proxy(None, far) is None
    assert choose_proxy("http://given", far) == given_one
    assert choose_proxy(given_one, far) is given_one
    monkeypatch.setenv("NO_PROXY", "*")
    assert choose_proxy(True, far) is None
    assert choose_proxy(given_one, far) is given_one, "NO_PROXY is for the environment's"
    assert choose_proxy(given_one, parse_url("ws://localhost/")) is given_one
    assert choose_proxy(given_one, unix) is None
    monkeypatch.delenv("NO_PROXY")
    assert choose_proxy(True, unix) is None


@pytest.mark.parametrize("wrong", [False, 5, b"http://p", ["http://p"]])
def test_an_argument_that_is_none_of_them(wrong: Any) -> None:
    with pytest.raises(TypeError, match="proxy must be a URL"):
        choose_proxy(wrong, parse_url("ws://example.com/"))
