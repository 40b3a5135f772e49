"""Networks: sets of IP networks, and IP addresses as numbers, which are quick to look up and small to keep."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

NetworkLike = str | IPv4Network | IPv6Network | IPv4Address | IPv6Address
PeerAddress = tuple[str, int] | str | None
"""What `Stream.peer_address` is."""

UNIX = "unix"
"""In a set of networks: whoever comes by a Unix-domain socket."""

_IPV6 = 1 << 128  # so that the number of an IPv6 address is none of an IPv4 address


def ip_number(address: PeerAddress) -> int | None:
    """Return the IP address of a peer as a number; None for a Unix-domain socket, and for a peer that is gone."""
    if not isinstance(address, tuple):
        return None
    host = address[0]
    try:
        if ":" not in host:
            return int.from_bytes(socket.inet_pton(socket.AF_INET, host), "big")
        return _IPV6 | int.from_bytes(socket.inet_pton(socket.AF_INET6, host.partition("%")[0]), "big")
    except OSError:
        return None


def subnet(number: int, ipv4_prefix: int, ipv6_prefix: int) -> int:
    """Return the number of the network in which the address `number` lies."""
    return number >> (128 - ipv6_prefix) if number & _IPV6 else number >> (32 - ipv4_prefix)


class Networks:
    """A set of IP networks. Any thread."""

    __slots__ = ("_by_shift", "_unix")

    def __init__(self, networks: Iterable[NetworkLike]) -> None:
        """`networks`: each is "10.0.0.0/8", "::1" or the like, or "unix" for Unix-domain sockets. Raises ValueError,
        TypeError."""
        if isinstance(networks, str):
            raise TypeError("networks must be a sequence of strings, not one string")
        self._unix = False
        self._by_shift: dict[tuple[bool, int], set[int]] = {}  # (whether IPv6, bits of hosts): numbers of networks
        for each in networks:
            if each == UNIX:
                self._unix = True
                continue
            try:
                network = ip_network(each)
            except ValueError as error:
                raise ValueError(f'{each!r} is no network: {error}; write e.g. "10.0.0.0/8", "::1" or "unix"') from None
            is_ipv6 = network.version == 6
            shift = network.max_prefixlen - network.prefixlen
            number = int(network.network_address) | (_IPV6 if is_ipv6 else 0)
            self._by_shift.setdefault((is_ipv6, shift), set()).add(number >> shift)

    def __contains__(self, address: PeerAddress) -> bool:
        if isinstance(address, str):
            return self._unix
        number = ip_number(address) if self._by_shift else None
        if number is None:
            return False
        is_ipv6 = number & _IPV6 != 0
        return any(
            kind == is_ipv6 and number >> shift in networks for (kind, shift), networks in self._by_shift.items()
        )

    def __bool__(self) -> bool:
        return self._unix or bool(self._by_shift)

    @property
    def everybody(self) -> bool:
        """Return whether all of IPv4, or all of IPv6, is in it."""
        return (False, 32) in self._by_shift or (True, 128) in self._by_shift
