"""Networks: who is in, and what is refused; addresses as numbers."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gows.reactor.networks import Networks, ip_number, subnet


def test_who_is_in() -> None:
    networks = Networks(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1", IPv4Network("198.51.100.0/24")])
    for host in ("10.255.0.1", "192.0.2.1", "2001:db8:1::", "::1", "198.51.100.255"):
        assert (host, 80) in networks, host
    for host in ("11.0.0.1", "192.0.2.2", "2001:db9::", "::2", "0.0.0.1", "198.51.101.0", "::a00:1", "no address"):
        assert (host, 80) not in networks, host
    assert "" not in networks
    assert None not in networks


def test_unix() -> None:
    assert "" in Networks(["unix"])
    assert "/run/app.sock" in Networks(["unix"])
    assert ("127.0.0.1", 1) not in Networks(["unix"])


def test_whether_there_are_any() -> None:
    assert not Networks([])
    assert Networks(["unix"])
    assert Networks([IPv6Address("::1")])
    assert ("127.0.0.1", 1) not in Networks([])


@pytest.mark.parametrize("everybody", ["0.0.0.0/0", "::/0"])
def test_everybody(everybody: str) -> None:
    assert Networks([everybody]).everybody
    assert not Networks(["128.0.0.0/1", "unix", "::/1"]).everybody


@pytest.mark.parametrize("wrong", ["10.0.0.1/8", "host.example", "10.0.0.0/33", ""])
def test_what_is_no_network(wrong: str) -> None:
    with pytest.raises(ValueError, match="is no network"):
        Networks([wrong])


def test_one_string_is_a_mistake() -> None:
    with pytest.raises(TypeError):
        Networks("10.0.0.0/8")


@pytest.mark.parametrize("address", [None, "", "/run/sock", ("no address", 1), ("1.2.3", 1), ("::g", 1)])
def test_what_has_no_number(address: Any) -> None:
    assert ip_number(address) is None


def test_an_address_with_a_zone_has_the_number_of_the_address() -> None:
    assert ip_number(("fe80::1%eth0", 1)) == ip_number(("fe80::1", 2)) != ip_number(("0.0.0.1", 1))


@given(st.ip_addresses(), st.integers(1, 32), st.integers(1, 128))
def test_the_number_of_a_subnet_is_that_of_its_addresses(address: Any, four: int, six: int) -> None:
    number = ip_number((str(address), 1))
    assert number is not None
    prefix = four if address.version == 4 else six
    network = ip_network((address, prefix), strict=False)
    first, last = (ip_number((str(network[at]), 1)) for at in (0, -1))
    assert first is not None
    assert last is not None
    assert subnet(first, four, six) == subnet(number, four, six) == subnet(last, four, six)
    if prefix > 0 and int(network[-1]) + 1 < 1 << address.max_prefixlen:
        beyond = ip_number((str(ip_address(int(network[-1]) + 1)), 1)) if address.version == 4 else None
        if beyond is not None:
            assert subnet(beyond, four, six) != subnet(number, four, six)
    assert (str(address), 1) in Networks([str(network)])
