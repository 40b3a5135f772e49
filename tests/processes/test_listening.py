"""Listening: the sockets of a run, in one process."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gows.processes import listening as module
from gows.processes.listening import Listening

Make = Callable[..., Listening]
balanced = pytest.mark.skipif(not module.BALANCED, reason="the kernel does not balance a port here")


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Listening] = []

    def begin(places: list[Any], slots: int, **settings: Any) -> Listening:
        made.append(Listening(places, slots, **settings))
        return made[-1]

    yield begin
    for each in made:
        each.close()


def connects(address: Any) -> bool:
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as sock:
        return sock.connect_ex(address) == 0


@balanced
@pytest.mark.parametrize("host", ["127.0.0.1", "", "localhost"])
def test_each_slot_has_a_socket_of_its_own_at_one_free_port(make: Make, host: str) -> None:
    found = make([f"{host}:0"], 3)
    ports = {sock.getsockname()[1] for socks in found.slots for sock in socks}
    assert ports == {found.addresses[0][1]}
    assert len({sock.fileno() for socks in found.slots for sock in socks}) == 3 * len(found.slots[0])
    assert found.own(1) == found.slots[1]
    assert connects(("127.0.0.1", ports.pop()))


def test_where_the_kernel_does_not_balance_they_share_one(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BALANCED", False)
    found = make([("127.0.0.1", 0)], 3)
    assert found.slots == [found.slots[0]] * 3
    assert found.own(1) == []
    assert connects(found.addresses[0])


def test_a_unix_domain_socket_is_shared_and_its_file_removed_once(make: Make, tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    found = make([f"unix:{path}"], 2, mode=0o600)
    assert (found.addresses, found.slots[0]) == ([path], found.slots[1])
    assert os.stat(path).st_mode & 0o777 == 0o600
    found.close()
    assert not os.path.exists(path)
    other = make([f"unix:{path}"], 1)
    found.close()
    assert connects(path), "the file is somebody else's now"
    os.unlink(path)
    other.close()


def test_sockets_that_listen_already(make: Make) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    address = sock.getsockname()
    found = make([sock, "127.0.0.1:0"], 2)
    assert sock.fileno() == -1, "it was taken over"
    assert found.addresses[0] == address
    assert len(found.addresses) == 2
    assert found.slots[0][0] is found.slots[1][0]
    found.close()
    assert not connects(address)
    with socket.socket() as deaf, pytest.raises(ValueError, match="does not listen"):
        make([deaf], 2)


@balanced
def test_what_fails_leaves_nothing_behind(make: Make, tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    first = make(["127.0.0.1:0"], 2)
    with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1:{first.addresses[0][1]}"):
        make([f"unix:{path}", first.addresses[0]], 2)
    assert not os.path.exists(path)


@balanced
def test_a_worker_keeps_what_is_its_own(make: Make, tmp_path: Path) -> None:
    found = make(["127.0.0.1:0", f"unix:{tmp_path / 'sock'}"], 3)
    kept = found.keep(1)
    assert kept == found.slots[1]
    assert all(sock.fileno() >= 0 for sock in kept)
    assert [sock.fileno() >= 0 for sock in found.slots[0]] == [False, True], "the shared one stays open"
