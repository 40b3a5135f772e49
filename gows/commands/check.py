"""`gows check`: what this machine allows, and what to raise for more connections."""

from __future__ import annotations

import argparse
import pkgutil
import platform
import resource
import socket
import ssl
import zlib
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import gows
from gows.protocol.deflate import LIBRARY
from gows.reactor.poller import make_poller
from gows.server.admission import DESCRIPTOR_RESERVE
from gows.variant import plain_wanted

BACKLOG = 4096
"""The listen queue that `Loop.listen` asks for; the kernel cuts it to somaxconn (listen(2))."""

PLENTY = 65536
"""Descriptors below which we say how to get more."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `gows check` takes no arguments."""


def run(args: argparse.Namespace) -> int:
    """Print the report; always 0."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    somaxconn = read_numbers("/proc/sys/net/core/somaxconn")
    ports = read_numbers("/proc/sys/net/ipv4/ip_local_port_range")
    rows = [
        ("gows", f"{gows_version()}, {engine()}"),
        ("python", python()),
        ("selector", selector()),
        ("tls", ssl.OPENSSL_VERSION),
        ("deflate", deflate()),
        ("descriptors", f"soft {limit(soft)}, hard {limit(hard)}"),
        ("listen queue", f"somaxconn {somaxconn[0]:,}" if somaxconn else f"up to {socket.SOMAXCONN:,}"),
        ("client ports", f"{ports[0]} to {ports[1]} ({ports[1] - ports[0] + 1:,})" if len(ports) == 2 else "unknown"),
        ("connections", f"about {connections(soft)} in one process started from here"),
    ]
    for name, value in rows:
        print(f"{name:<13} {value}")
    for number, line in enumerate(advice(soft, hard, somaxconn, ports)):
        print(line if number else f"\n{line}")
    return 0


def gows_version() -> str:
    """Return the version of the installed package."""
    try:
        return version("gows")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "not installed"


def python() -> str:
    """Return which Python this is, and where it runs."""
    return f"{platform.python_implementation()} {platform.python_version()} on {platform.system()}"


def engine() -> str:
    """Say whether the hot modules run compiled or as plain Python."""
    compiled = sum(is_compiled(module.name) for module in pkgutil.walk_packages(gows.__path__, "gows."))
    if compiled:
        return f"compiled ({compiled} modules)"
    return "plain Python (GOWS_PURE is set)" if plain_wanted() else "plain Python"


def is_compiled(name: str) -> bool:
    """Return whether the module `name` is found as a shared library; it is not imported."""
    spec = find_spec(name)
    return spec is not None and (spec.origin or "").endswith(tuple(EXTENSION_SUFFIXES))


def deflate() -> str:
    """Return the name of the library that compresses."""
    if LIBRARY is zlib:
        return f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
    return f"zlib-ng {LIBRARY.ZLIBNG_VERSION}"


def selector() -> str:
    """Return the name of the poller a loop takes here."""
    poller = make_poller()
    try:
        return poller.name
    finally:
        poller.close()


def read_numbers(path: str) -> list[int]:
    """Return the numbers in a file of /proc; none where there is no such file (not Linux, or hidden by a container)."""
    try:
        return [int(word) for word in Path(path).read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        return []


def limit(value: int) -> str:
    """Return a resource limit as people write it."""
    return "unlimited" if value == resource.RLIM_INFINITY else f"{value:,}"


def connections(soft: int) -> str:
    """Return how many connections the descriptor limit leaves room for: one descriptor each."""
    return "any number of" if soft == resource.RLIM_INFINITY else f"{max(0, soft - DESCRIPTOR_RESERVE):,}"


def advice(soft: int, hard: int, somaxconn: list[int], ports: list[int]) -> Iterator[str]:
    """Return which limits to raise, and how; one line each."""
    yield from _descriptor_advice(soft, hard)
    if somaxconn and somaxconn[0] < BACKLOG:
        yield f"Raise the listen queue, or a rush of new connections is cut off: sysctl -w net.core.somaxconn={BACKLOG}"
    if len(ports) == 2 and ports[1] - ports[0] + 1 < PLENTY - 1024:
        yield (
            "One client address (a load generator, a proxy) can hold as many connections to one port as it has client "
            "ports; on that machine: sysctl -w net.ipv4.ip_local_port_range='1024 65535'"
        )


def _descriptor_advice(soft: int, hard: int) -> Iterator[str]:
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= PLENTY:
        yield "Descriptors suffice; every connection takes one."
        return
    if hard == unlimited or hard > soft:
        allowed = PLENTY if hard == unlimited or hard > PLENTY else hard
        yield f"Raise the soft limit in the shell that starts the server: ulimit -n {allowed}"
    if hard != unlimited and hard < PLENTY:
        yield (
            f"Raise the hard limit: LimitNOFILE={PLENTY} in a systemd unit, --ulimit nofile={PLENTY} for a container, "
            f"or '* - nofile {PLENTY}' in /etc/security/limits.conf"
        )
