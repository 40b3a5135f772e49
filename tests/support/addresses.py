"""Addresses that a server listens at: the host and port of one, and a port for one."""

from __future__ import annotations

import random
import socket

from gows.reactor.address import SocketAddress

_random = random.SystemRandom()
"""Not one that a test has seeded: several processes ask at once."""


def tcp(address: SocketAddress) -> tuple[str, int]:
    """Return the host and port that `address` is; it must not be the path of a Unix-domain socket."""
    assert isinstance(address, tuple), address
    return address


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody has now, below those that the kernel gives to whoever asks for any."""
    while True:
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", _random.randrange(20_000, 32_000)))
            except OSError:
                continue
            port: int = sock.getsockname()[1]
            return port
