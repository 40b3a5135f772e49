"""tcp: the host and port of an address that a server listens at."""

from __future__ import annotations

from gows.reactor.address import SocketAddress


def tcp(address: SocketAddress) -> tuple[str, int]:
    """Return the host and port that `address` is; it must not be the path of a Unix-domain socket."""
    assert isinstance(address, tuple), address
    return address
