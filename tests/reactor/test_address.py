"""How addresses are written, and what is said of those that are not."""

from __future__ import annotations

import os

import pytest

from gows.reactor import Address, parse_address
from gows.reactor.address import socket_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8080", Address("", 8080)),
        ("localhost:80", Address("localhost", 80)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("[::1]:65535", Address("::1", 65535)),
        ("[]:1", Address("", 1)),
        (("::1", 80), Address("::1", 80)),
        (Address("a", 1), Address("a", 1)),
        ("unix:/run/app.sock", Address("", 0, "/run/app.sock")),
    ],
)
def test_good(text: str | tuple[str, int], address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("address", [Address("a", 1), Address("::1", 80), Address("", 0, "/run/x"), Address("", 80)])
def test_what_is_shown_can_be_read(address: Address) -> None:
    assert parse_address(str(address)) == address


def test_a_relative_path_is_of_this_directory() -> None:
    assert parse_address("unix:app.sock").path == os.path.abspath("app.sock")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("localhost", "needs a port.*'localhost:8080'"),
        ("8080", "needs a port.*':8080'"),
        (":http", "'http' is not a port number"),
        (":-1", "between 0 and 65535"),
        (":65536", "between 0 and 65535"),
        ("::1:80", r"in brackets: '\[::1\]:80'"),
        ("unix:", "needs a path"),
        (("host", "x"), "not a port number"),
    ],
)
def test_bad(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_address(text)


def test_of_the_wrong_type() -> None:
    with pytest.raises(TypeError, match="not int"):
        parse_address(8080)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (("127.0.0.1", 5), ("127.0.0.1", 5)),
        (("::1", 5, 0, 0), ("::1", 5)),
        (("::ffff:192.0.2.1", 5, 0, 0), ("192.0.2.1", 5)),
        ("/run/x", "/run/x"),
        ("", ""),
        (b"\0name", "\0name"),
        (None, None),
    ],
)
def test_names_of_the_kernel(name: object, shown: object) -> None:
    assert socket_address(name) == shown
