"""Proxies: whom a request came from, behind proxies that are believed, and behind those that are not."""

from __future__ import annotations

from typing import Any

import pytest

from gows.errors import HttpError
from gows.http.proxies import MAX_HOPS, Client, Proxies
from gows.http1.headers import Headers

NEAR, FAR = ("10.0.0.5", 40000), "10.0.0.6"
X = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")


def client(peer: Any, *pairs: tuple[str, str], fields: Any = X, networks: Any = ("10.0.0.0/24", "unix")) -> Client:
    return Proxies(networks, fields).client(peer, Headers(list(pairs)))


def test_nobody_else_is_believed() -> None:
    forged = [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil.test")]
    for peer in (("10.0.1.5", 1), ("2001:db8::1", 1), None):
        assert client(peer, *forged) == Client(peer)
    assert client("", *forged, networks=["10.0.0.0/24"]) == Client("")
    assert client(("192.0.2.9", 1), ("Forwarded", 'for="'), fields=["forwarded"]).address == ("192.0.2.9", 1)


@pytest.mark.parametrize("peer", [NEAR, "", "/run/proxy.sock"])
def test_the_first_that_is_no_proxy_of_ours_from_the_right(peer: Any) -> None:
    def seen(value: str) -> Any:
        return client(peer, ("X-Forwarded-For", value)).address

    assert seen("192.0.2.1") == ("192.0.2.1", 0)
    assert seen("192.0.2.1:4000") == ("192.0.2.1", 4000)
    assert seen("203.0.113.66, 192.0.2.1") == ("192.0.2.1", 0), "what the client made up stands before it"
    assert seen(f"203.0.113.66, 192.0.2.1, {FAR}") == ("192.0.2.1", 0)
    assert seen(f"203.0.113.66, 192.0.2.1, {FAR}, unix:") == ("192.0.2.1", 0)
    assert seen(f"{FAR}, 192.0.2.1, {FAR}") == ("192.0.2.1", 0), "a forged proxy of ours changes nothing"
    assert seen("nonsense\\, 192.0.2.1") == ("192.0.2.1", 0)
    assert seen(f"unknown, {FAR}") == (FAR, 0)
    assert seen(FAR) == (FAR, 0), "all are proxies of ours: the farthest"
    assert seen("unknown") == peer
    assert seen("") == peer
    assert client(peer).address == peer


def test_a_proxy_that_passes_on_nonsense_gets_400() -> None:
    for value in ("nonsense", "192.0.2.1, <script>"):
        with pytest.raises(HttpError) as caught:
            client(NEAR, ("X-Forwarded-For", value))
        assert caught.value.status == 400
    for pairs in ([("X-Forwarded-Proto", "gopher")], [("X-Forwarded-Host", "a b")], [("X-Forwarded-Host", "a/b")]):
        with pytest.raises(HttpError):
            client(NEAR, *pairs)


def test_a_chain_has_an_end() -> None:
    """Who may pass on what he likes could have us read thousands of addresses."""
    assert client(NEAR, ("X-Forwarded-For", ",".join([FAR] * MAX_HOPS))).address == (FAR, 0)
    for field, value in (("X-Forwarded-For", FAR), ("Forwarded", f"for={FAR}")):
        with pytest.raises(HttpError) as caught:
            client(NEAR, (field, ",".join([value] * (MAX_HOPS + 1))), fields=[field])
        assert caught.value.status == 400
    assert client(NEAR, ("X-Forwarded-For", ",".join([FAR] * 1000 + ["192.0.2.1"]))).address == ("192.0.2.1", 0)


def test_several_fields_are_one_list() -> None:
    pairs = [("X-Forwarded-For", "203.0.113.66"), ("X-Forwarded-For", "192.0.2.1")]
    assert client(NEAR, *pairs).address == ("192.0.2.1", 0)


def test_scheme_and_host() -> None:
    pairs = [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "a.example:8443")]
    assert client(NEAR, *pairs) == Client(("192.0.2.1", 0), "https", "a.example:8443")
    assert client(NEAR, *pairs, fields=X[:1]) == Client(("192.0.2.1", 0))
    assert client(NEAR, *pairs, fields=X[1:]) == Client(NEAR, "https", "a.example:8443")
    assert client(NEAR, *pairs, fields=["forwarded"]) == Client(NEAR), "the other fields may be the client's"


def test_forwarded() -> None:
    def seen(value: str, *more: tuple[str, str]) -> Client:
        return client(NEAR, ("Forwarded", value), *more, fields=["Forwarded"])

    assert seen("for=192.0.2.1;proto=https;host=a.example") == Client(("192.0.2.1", 0), "https", "a.example")
    assert seen('for="[2001:db8::1]:7"') == Client(("2001:db8::1", 7))
    assert seen("for=192.0.2.1", ("X-Forwarded-For", "203.0.113.66")).address == ("192.0.2.1", 0)
    assert seen("for=203.0.113.66;proto=http, for=192.0.2.1;proto=https") == Client(("192.0.2.1", 0), "https")
    assert seen(f"for=192.0.2.1;proto=https;host=a.example, for={FAR};proto=http;host=b") == Client(
        ("192.0.2.1", 0), "https", "a.example"
    )
    assert seen(f"for=192.0.2.1, for={FAR};proto=https;host=b.example") == Client(
        ("192.0.2.1", 0), "https", "b.example"
    ), "as near to the client as anybody told"
    assert seen("for=_hidden;proto=https") == Client(NEAR, "https")
    assert seen("for=unknown") == Client(NEAR)
    for malformed in ('for="203.0.113.66, for=192.0.2.1', "for=192.0.2.1;host=a/b", "for=nonsense"):
        with pytest.raises(HttpError):
            seen(malformed)


@pytest.mark.parametrize(
    ("networks", "fields", "error", "said"),
    [
        (["0.0.0.0/0"], X, ValueError, "everybody"),
        (["10.0.0.0/8", "::/0"], X, ValueError, "everybody"),
        (["proxy.example"], X, ValueError, "no network"),
        ("10.0.0.0/8", X, TypeError, "sequence"),
        (["unix"], "X-Forwarded-For", TypeError, "sequence"),
        (["unix"], ["X-Real-IP"], ValueError, "forwarded_fields must be of"),
        (["unix"], ["Forwarded", "X-Forwarded-For"], ValueError, "goes with no other"),
    ],
)
def test_what_cannot_be_meant(networks: Any, fields: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Proxies(networks, fields)
