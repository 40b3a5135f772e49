"""Forwarded and X-Forwarded-*: what they say, from the right to the left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gows.errors import HttpError
from gows.http1.forwarded import (
    forwarded,
    parse_node,
    parse_scheme,
    x_forwarded_for,
    x_forwarded_host,
    x_forwarded_proto,
)
from gows.http1.headers import Headers


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers(list(pairs))


NODES: dict[str, object] = {
    "192.0.2.43": ("192.0.2.43", 0),
    "192.0.2.43:47011": ("192.0.2.43", 47011),
    "192.0.2.43:_port": ("192.0.2.43", 0),
    "2001:db8:cafe::17": ("2001:db8:cafe::17", 0),
    "2001:DB8:CAFE:0::17": ("2001:db8:cafe::17", 0),
    "[2001:db8:cafe::17]": ("2001:db8:cafe::17", 0),
    "[2001:db8:cafe::17]:47011": ("2001:db8:cafe::17", 47011),
    "::ffff:192.0.2.43": ("192.0.2.43", 0),
    "[::ffff:192.0.2.43]:80": ("192.0.2.43", 80),
    "unix:": "",
    "unknown": None,
    "Unknown": None,
    "unknown:80": None,
    "_hidden": None,
    "_SEVKISEK": None,
    "_a.b-c_d:_e": None,
    "": None,
}


@pytest.mark.parametrize(("text", "address"), NODES.items(), ids=NODES.keys())
def test_a_node(text: str, address: object) -> None:
    assert parse_node(text) == address


@pytest.mark.parametrize(
    "text",
    ["host.example", "192.0.2", "192.0.2.256", "192.0.2.01", "192.0.2.1:", "192.0.2.1:65536", "192.0.2.1:1:2", "-"],
)
def test_no_address(text: str) -> None:
    refused(text)


@pytest.mark.parametrize("text", ["[192.0.2.1]", "[::1", "::1]", "[::1]x", "fe80::1%eth0", "[fe80::1%eth0]", "::g"])
def test_no_ipv6_address(text: str) -> None:
    refused(text)


@pytest.mark.parametrize("text", ["unknown-", "_", "_a/b", "_a b", "_ü", '"'])
def test_no_identifier(text: str) -> None:
    refused(text)


def refused(text: str) -> None:
    with pytest.raises(HttpError) as caught:
        parse_node(text)
    assert caught.value.status == 400


def test_x_forwarded_for_from_the_right_over_several_fields() -> None:
    found = x_forwarded_for(headers(("X-Forwarded-For", "nonsense, 192.0.2.1 ,,"), ("x-forwarded-for", "2001:db8::1,")))
    assert [next(found).address for _ in range(2)] == [("2001:db8::1", 0), ("192.0.2.1", 0)]
    last = next(found)
    with pytest.raises(HttpError, match="cannot be read"):
        _ = last.address
    assert (last.scheme, last.host) == (None, None)
    assert list(x_forwarded_for(headers())) == []
    assert list(x_forwarded_for(headers(("X-Forwarded-For", "")))) == []


def test_x_forwarded_proto_and_host_are_what_the_next_proxy_says() -> None:
    assert x_forwarded_proto(headers()) is None
    assert x_forwarded_proto(headers(("X-Forwarded-Proto", ""))) is None
    assert x_forwarded_proto(headers(("X-Forwarded-Proto", "http, HTTPS"))) == "https"
    assert x_forwarded_host(headers(("X-Forwarded-Host", "a.example, b.example"))) == "b.example"
    with pytest.raises(HttpError):
        x_forwarded_proto(headers(("X-Forwarded-Proto", "gopher")))


def test_schemes() -> None:
    assert [parse_scheme(text) for text in ("http", "ws", "https", "WSS", None)] == [
        "http",
        "http",
        "https",
        "https",
        None,
    ]


FORWARDED: dict[str, list[tuple[object, str | None, str | None]]] = {
    'for="_gazonk"': [(None, None, None)],
    'For="[2001:db8:cafe::17]:4711"': [(("2001:db8:cafe::17", 4711), None, None)],
    "for=192.0.2.60;proto=http;by=203.0.113.43": [(("192.0.2.60", 0), "http", None)],
    "for=192.0.2.43, for=198.51.100.17": [(("198.51.100.17", 0), None, None), (("192.0.2.43", 0), None, None)],
    'for=192.0.2.43,for="[::1]";host="a.example:8080"; proto=https': [
        (("::1", 0), "https", "a.example:8080"),
        (("192.0.2.43", 0), None, None),
    ],
    "proto=https": [(None, "https", None)],
    'for="192.0.2\\.43";ext="a, b; \\"c"': [(("192.0.2.43", 0), None, None)],
    'for=""': [(None, None, None)],
    " , ;, for=unknown ;; ,": [(None, None, None)],
    "": [],
}


@pytest.mark.parametrize(("value", "hops"), FORWARDED.items(), ids=FORWARDED.keys())
def test_forwarded(value: str, hops: object) -> None:
    assert [(hop.address, hop.scheme, hop.host) for hop in forwarded(headers(("Forwarded", value)))] == hops


def test_forwarded_over_several_fields() -> None:
    found = forwarded(headers(("Forwarded", "for=192.0.2.1"), ("Forwarded", "for=192.0.2.2")))
    assert [hop.address for hop in found] == [("192.0.2.2", 0), ("192.0.2.1", 0)]
    assert forwarded(headers()) == []


@pytest.mark.parametrize(
    "value",
    [
        'for="192.0.2.1, for=192.0.2.2',  # a client's open quote, and what our proxy wrote behind it
        "for=2001:db8::1",  # must be quoted
        "for",
        "for=",
        "=192.0.2.1",
        "for =192.0.2.1",
        "for=192.0.2.1 proto=http",
        "for=192.0.2.1;For=192.0.2.2",
        'for="a"b',
        "proto=gopher",
    ],
)
def test_malformed_forwarded(value: str) -> None:
    with pytest.raises(HttpError) as caught:
        forwarded(headers(("Forwarded", value)))
    assert caught.value.status == 400


@pytest.mark.parametrize("value", ['for="' + "\\a" * 200_000, " " * 200_000 + "x", "for=a" + " " * 200_000 + "x"])
def test_long_values_are_read_in_linear_time(value: str) -> None:
    with pytest.raises(HttpError):  # at once: in quadratic time the test would be ended for its length
        forwarded(headers(("Forwarded", value)))


@given(st.text(st.sampled_from('for=",;\\ _[]:.19afFORPTto'), max_size=60))
def test_any_value_is_read_or_refused(value: str) -> None:
    for name in ("Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"):
        fields = headers((name, value))
        try:
            for hop in [*forwarded(fields), *x_forwarded_for(fields)]:
                _ = hop.address
            x_forwarded_proto(fields)
        except HttpError:
            pass
