"""The operating system's sockets: what a listener binds to, and what is said when it cannot."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gows.reactor import SocketLayer, Target, parse_address, sockets
from gows.reactor.kernel import Socket
from tests.support.waiting import wait_until


@pytest.fixture
def layer() -> SocketLayer:
    return SocketLayer()


class Open:
    """Closes what it is given."""

    def __init__(self) -> None:
        self._socks: list[Any] = []

    def __call__(self, *socks: Any) -> Any:
        self._socks.extend(socks)
        return socks[0]

    def close(self) -> None:
        for sock in self._socks:
            sock.close()


@pytest.fixture
def opened() -> Iterator[Open]:
    opened = Open()
    yield opened
    opened.close()


def names(socks: list[Any]) -> list[Any]:
    return [sock.getsockname()[:2] for sock in socks]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")


@needs_ipv6
def test_every_interface_is_one_dual_stack_socket(layer: SocketLayer, opened: Open) -> None:
    listener = opened(*layer.listen(parse_address(":0")))
    assert listener.family == socket.AF_INET6
    for host in ("127.0.0.1", "::1"):
        opened(socket.create_connection((host, listener.getsockname()[1])))


@pytest.mark.parametrize("missing", ["no dual stack", errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_without_ipv6_every_interface_is_ipv4(
    layer: SocketLayer, opened: Open, monkeypatch: pytest.MonkeyPatch, missing: str | int
) -> None:
    if isinstance(missing, str):
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    else:
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
        monkeypatch.setattr("gows.reactor.sockets._new_socket", refuse_ipv6(missing))
    listener = opened(*layer.listen(parse_address(":0")))
    assert listener.family == socket.AF_INET
    opened(socket.create_connection(("127.0.0.1", listener.getsockname()[1])))


def refuse_ipv6(code: int) -> Any:
    """A `_new_socket` on a machine where IPv6 is compiled in and switched off."""
    from gows.reactor import sockets

    new_socket = sockets._new_socket

    def refusing(family: int) -> Any:
        if family == socket.AF_INET6:
            raise OSError(code, os.strerror(code))
        return new_socket(family)

    return refusing


def fake_lookup(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Every name stands for these addresses."""
    found = [
        (socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in hosts
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_a_name_is_all_its_addresses_on_one_port(
    layer: SocketLayer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_lookup(monkeypatch, "127.0.0.1", "127.0.0.2")
    socks = layer.listen(parse_address("name:0"))
    opened(*socks)
    (one, port), (two, other_port) = names(socks)
    assert (one, two, port) == ("127.0.0.1", "127.0.0.2", other_port)
    assert port > 0


def test_an_address_that_is_not_ours_is_left_out(
    layer: SocketLayer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hosts in (("192.0.2.1", "127.0.0.1"), ("127.0.0.1", "192.0.2.1")):
        fake_lookup(monkeypatch, *hosts)
        socks = layer.listen(parse_address("name:0"))
        opened(*socks)
        assert [host for host, _ in names(socks)] == ["127.0.0.1"]


def test_a_name_of_others_is_refused(layer: SocketLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_lookup(monkeypatch, "192.0.2.1")
    with pytest.raises(OSError, match="cannot listen at name:80:") as caught:
        layer.listen(parse_address("name:80"))
    assert caught.value.errno == errno.EADDRNOTAVAIL
    fake_lookup(monkeypatch)
    with pytest.raises(OSError, match="no address"):
        layer.listen(parse_address("name:80"))


def test_one_address_taken_is_all_refused(layer: SocketLayer, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a listener would look like a whole one."""
    taken = opened(*layer.listen(parse_address("127.9.8.2:0")))  # addresses that no other test uses
    port = taken.getsockname()[1]
    fake_lookup(monkeypatch, "127.9.8.1", "127.9.8.2")
    with pytest.raises(OSError, match=f"cannot listen at name:{port}: Address already in use"):
        layer.listen(parse_address(f"name:{port}"))
    monkeypatch.undo()
    opened(*layer.listen(parse_address(f"127.9.8.1:{port}")))


def test_in_use_says_where(layer: SocketLayer, opened: Open) -> None:
    listener = opened(*layer.listen(parse_address("127.0.0.1:0")))
    port = listener.getsockname()[1]
    with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1:{port}: Address already in use") as caught:
        layer.listen(parse_address(f"127.0.0.1:{port}"))
    assert caught.value.errno == errno.EADDRINUSE
    free = opened(*layer.listen(parse_address(":0")))
    port = free.getsockname()[1]
    with pytest.raises(OSError, match=f"cannot listen at :{port}"):
        layer.listen(parse_address(f":{port}"))


def test_a_name_that_does_not_exist(layer: SocketLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(OSError, match="cannot listen at nowhere:80: Name or service not known"):
        layer.listen(parse_address("nowhere:80"))


def test_several_may_share_a_port_when_all_agree(layer: SocketLayer, opened: Open) -> None:
    first = opened(*layer.listen(parse_address("127.0.0.1:0"), reuse_port=True))
    address = parse_address(f"127.0.0.1:{first.getsockname()[1]}")
    opened(*layer.listen(address, reuse_port=True))
    with pytest.raises(OSError, match="in use"):
        layer.listen(address)


def test_accepted_and_dialled_sockets_do_not_block_and_do_not_delay(layer: SocketLayer, opened: Open) -> None:
    listener = opened(*layer.listen(parse_address("127.0.0.1:0")))
    with pytest.raises(BlockingIOError):
        layer.accept(listener)
    client, _ = layer.dial(Target(socket.AF_INET, listener.getsockname()))
    opened(client)
    server = opened(layer.accept(listener))
    for sock in (client, server):
        assert type(sock) is Socket, "the light one"
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        with pytest.raises(BlockingIOError):
            sock.recv_into(bytearray(1))


def test_adopting_detaches(layer: SocketLayer, opened: Open) -> None:
    one, other = socket.socketpair()
    number = one.fileno()
    sock = opened(layer.adopt(one), other)
    assert (one.fileno(), sock.fileno()) == (-1, number)
    with pytest.raises(BlockingIOError):
        sock.recv_into(bytearray(1))


def test_dialling_nonsense_leaves_nothing_open(layer: SocketLayer) -> None:
    with pytest.raises((OSError, TypeError)):
        layer.dial(Target(socket.AF_INET, "no pair"))
    with pytest.raises(OSError, match="family"):
        layer.dial(Target(999, ("127.0.0.1", 1)))


def test_numeric_or_not(layer: SocketLayer) -> None:
    assert layer.is_numeric(parse_address("127.0.0.1:80"))
    assert layer.is_numeric(parse_address("[::1]:80"))
    assert layer.is_numeric(parse_address("unix:/x"))
    assert not layer.is_numeric(parse_address("localhost:80"))


def test_resolving(layer: SocketLayer) -> None:
    assert layer.resolve(parse_address("unix:/x")) == [Target(socket.AF_UNIX, "/x")]
    assert Target(socket.AF_INET, ("127.0.0.1", 80)) in layer.resolve(parse_address("127.0.0.1:80"))
    assert any(target.sockaddr[0] in ("127.0.0.1", "::1") for target in layer.resolve(parse_address(":80")))


def test_the_reserve_is_a_descriptor(layer: SocketLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = layer.take_reserve()
    os.fstat(fd)
    layer.drop_reserve(fd)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    layer.drop_reserve(-1)

    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, "none left")

    monkeypatch.setattr(os, "open", fail)
    assert layer.take_reserve() == -1


# ---------------------------------------------------------------------- Unix-domain sockets


def test_unix_and_its_mode(layer: SocketLayer, opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    opened(*layer.listen(parse_address(f"unix:{path}"), mode=0o600))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    client, code = layer.dial(Target(socket.AF_UNIX, str(path)))
    opened(client)
    assert code == 0


def test_the_file_of_a_dead_process_is_replaced(layer: SocketLayer, opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    opened(*layer.listen(parse_address(f"unix:{path}")))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_the_file_of_a_living_process_is_not(layer: SocketLayer, opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    opened(*layer.listen(parse_address(f"unix:{path}")))
    with pytest.raises(OSError, match=f"cannot listen at unix:{path}: Address already in use"):
        layer.listen(parse_address(f"unix:{path}"))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_file_that_is_no_socket_is_left_alone(layer: SocketLayer, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("precious")
    with pytest.raises(OSError, match="already in use"):
        layer.listen(parse_address(f"unix:{path}"))
    assert path.read_text() == "precious"


def test_a_path_that_cannot_be(layer: SocketLayer, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        layer.listen(parse_address(f"unix:{tmp_path}/no/such/folder"))
    with pytest.raises(OSError, match="too long"):
        layer.listen(parse_address(f"unix:{tmp_path}/{'x' * 200}"))


def test_a_mode_that_cannot_be_set_leaves_no_file(
    layer: SocketLayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not allowed")

    monkeypatch.setattr(os, "chmod", fail)
    with pytest.raises(PermissionError, match="not allowed"):
        layer.listen(parse_address(f"unix:{tmp_path}/app.sock"), mode=0o600)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_what_the_kernel_holds_of_what_was_sent(layer: SocketLayer, family: int) -> None:
    """It falls, and what was acknowledged grows, as the peer reads."""
    if family == socket.AF_UNIX:
        ours, peer = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            peer, _ = listener.accept()
    sock = layer.adopt(ours)
    with peer:
        assert layer.held(sock) == 0
        size = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                size += sock.send(bytes(65536))
        held, count = layer.held(sock), layer.acknowledged(sock)
        assert held > 65536
        peer.settimeout(5)
        while size:
            size -= len(peer.recv(65536))
        wait_until(lambda: layer.held(sock) == 0)
        assert layer.acknowledged(sock) - count >= 65536
        sock.close()
        assert layer.held(sock) == 0
        assert layer.acknowledged(sock) == 0


def test_a_system_that_does_not_tell_what_it_holds(layer: SocketLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_OUTQ", None)
    monkeypatch.setattr(sockets, "_BYTES_ACKED", None)
    ours, peer = socket.socketpair()
    sock = layer.adopt(ours)
    with peer:
        sock.send(b"something")
        assert (layer.held(sock), layer.acknowledged(sock)) == (0, 0)
        sock.close()
