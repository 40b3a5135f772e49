"""Listeners: bounded accepts, no descriptors left, pause and resume, the file of a Unix-domain socket."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gows.reactor import Loop, Observer, Stream, Target
from tests.support.fakes import MemorySocket, World
from tests.support.recorder import Acceptor, Recorder, echo
from tests.support.waiting import turn_until, wait_until


def dial(world: World, port: int = 80) -> MemorySocket:
    """A client that the test plays."""
    client, _ = world.network.dial(Target(socket.AF_INET, ("10.0.0.1", port)))
    assert isinstance(client, MemorySocket)
    world.network.peers.append(client)
    return client


def test_a_whole_conversation(loop: Loop) -> None:
    acceptor = Acceptor(echo)
    listener = loop.listen("127.0.0.1:0", acceptor)
    assert isinstance(listener.address, tuple)
    assert listener.addresses == [listener.address]
    client = Recorder()
    stream = client.stream = loop.connect(listener.address, client)
    stream.write(b"early ")
    client.on("connected", lambda: stream.write(b"late"))
    turn_until(loop, lambda: client.data == b"early late")
    assert stream.peer_address == listener.address
    assert acceptor.one.stream is not None
    assert acceptor.one.stream.peer_address == stream.local_address
    client.on("eof_received", stream.close)
    stream.shutdown_write()
    turn_until(loop, lambda: client.lost and acceptor.one.lost)
    assert client.calls == ["connected", "data_received", "eof_received", "connection_lost"]
    assert acceptor.one.calls == ["data_received", "eof_received", "connection_lost"]
    assert client.error is None
    assert acceptor.one.error is None


def test_accepts_of_one_turn_are_bounded(world: World) -> None:
    loop = world.loop()
    acceptor = Acceptor()
    listener = loop.listen("10.0.0.1:80", acceptor)
    listener.accepts_per_turn = 10
    world.run_for(0)
    for _ in range(25):
        dial(world)
    counts = []
    for _ in range(4):
        loop.run_once(0)
        counts.append(len(acceptor.recorders))
    assert counts == [10, 20, 25, 25]


def test_what_is_queued_can_be_taken_before_the_end(world: World) -> None:
    loop = world.loop()
    acceptor = Acceptor()
    listener = loop.listen("10.0.0.1:80", acceptor)
    listener.accepts_per_turn = 10
    world.run_for(0)
    clients = [dial(world) for _ in range(35)]
    listener.take_queued()
    listener.close()
    assert len(acceptor.recorders) == 35
    world.run_for(1)
    assert all(client.send(b"x") == 1 for client in clients)
    world.run_for(1)
    assert all(recorder.data == b"x" for recorder in acceptor.recorders)


def test_paused_and_resumed(world: World) -> None:
    loop = world.loop()
    acceptor = Acceptor()
    listener = loop.listen("10.0.0.1:80", acceptor)
    listener.pause()
    listener.pause()
    dial(world)
    world.run_for(1)
    assert acceptor.recorders == []
    listener.resume()
    listener.resume()
    world.run_for(0)
    assert len(acceptor.recorders) == 1


def test_paused_by_the_connection_that_was_one_enough(world: World) -> None:
    loop = world.loop()
    acceptor = Acceptor(lambda _: listener.pause() if len(acceptor.recorders) == 3 else None)
    listener = loop.listen("10.0.0.1:80", acceptor)
    for _ in range(5):
        dial(world)
    world.run_for(1)
    assert len(acceptor.recorders) == 3
    listener.resume()
    world.run_for(1)
    assert len(acceptor.recorders) == 5


def test_closed_while_connections_live_on(loop: Loop) -> None:
    acceptor = Acceptor(echo)
    listener = loop.listen("127.0.0.1:0", acceptor)
    assert isinstance(listener.address, tuple)
    with socket.create_connection(listener.address) as client:
        turn_until(loop, lambda: acceptor.recorders)
        listener.close()
        listener.close()
        listener.resume()
        assert listener.closed
        loop.run_once(0)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(listener.address)
        client.sendall(b"still here")
        turn_until(loop, lambda: acceptor.one.calls)
        loop.run_once(0)
        assert client.recv(100) == b"still here"


def test_closed_by_a_connection_of_the_same_batch(world: World) -> None:
    loop = world.loop()
    acceptor = Acceptor(lambda _: listener.close())
    listener = loop.listen("10.0.0.1:80", acceptor)
    dial(world)
    dial(world)
    world.run_for(1)
    assert len(acceptor.recorders) == 1


def test_on_accept_that_raises(world: World, caplog: pytest.LogCaptureFixture) -> None:
    loop = world.loop()
    acceptor = Acceptor(lambda _: 1 / 0 if len(acceptor.recorders) == 1 else None)
    loop.listen("10.0.0.1:80", acceptor)
    first, _ = dial(world), dial(world)
    world.run_for(1)
    assert "ZeroDivisionError" in caplog.text
    assert isinstance(acceptor.recorders[0].error, ZeroDivisionError)
    with pytest.raises(ConnectionResetError):
        first.recv(1)
    assert acceptor.recorders[1].calls == []


def test_where_others_accept_too_it_goes_to_the_end_of_the_row(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[int] = []
    register = loop.poller.register_shared

    def spy(fd: int) -> Any:
        registered.append(fd)
        return register(fd)

    monkeypatch.setattr(loop.poller, "register_shared", spy)
    acceptor = Acceptor(echo)
    shared = socket.create_server(("127.0.0.1", 0))
    address = shared.getsockname()
    descriptor = shared.fileno()
    loop.listen(shared, acceptor)
    turn_until(loop, lambda: registered)
    for count in (1, 2, 3):
        with socket.create_connection(address):
            turn_until(loop, lambda count=count: len(acceptor.recorders) == count)  # type: ignore[misc]
            assert registered == [descriptor] * (count + 1)


def test_a_fault_of_ours_does_not_make_the_loop_spin(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in the queue stays there, and would be reported over and over."""
    loop = world.loop()
    acceptor = Acceptor()
    loop.listen("10.0.0.1:80", acceptor)
    tried: list[float] = []
    accept = world.network.accept

    def failing(sock: object) -> object:
        tried.append(world.clock())
        if len(tried) <= 3:
            raise RuntimeError("a fault")
        return accept(sock)

    monkeypatch.setattr(world.network, "accept", failing)
    dial(world)
    world.run_for(1.0)
    assert len(acceptor.recorders) == 1
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(tried[:4]))


def test_on_accept_that_sets_no_observer(world: World, caplog: pytest.LogCaptureFixture) -> None:
    loop = world.loop()
    loop.listen("10.0.0.1:80", lambda stream: None)
    client = dial(world)
    world.run_for(1)
    assert "observer" in caplog.text
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert loop.live_streams == 0


def test_on_accept_that_refuses(world: World) -> None:
    loop = world.loop()

    def refuse(stream: Stream) -> None:
        stream.write(b"no")
        stream.close()

    loop.listen("10.0.0.1:80", refuse)
    client = dial(world)
    world.run_for(0)
    assert client.recv(10) == b"no"
    assert client.recv(10) == b""
    world.run_for(3)
    assert loop.live_streams == 0


def test_a_connection_that_died_in_the_queue_is_skipped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = world.loop()
    acceptor = Acceptor()
    loop.listen("10.0.0.1:80", acceptor)
    accept = world.network.accept
    errors = [errno.ECONNABORTED, errno.EPROTO]

    def failing(listener: object) -> object:
        if errors:
            raise OSError(errors.pop(), "died")
        return accept(listener)

    monkeypatch.setattr(world.network, "accept", failing)
    dial(world)
    world.run_for(0)
    assert len(acceptor.recorders) == 1


# ---------------------------------------------------------------------- no descriptors left


def test_with_no_descriptor_left_peers_are_told_and_the_loop_rests(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    loop = world.loop()
    acceptor = Acceptor()
    loop.listen("10.0.0.1:80", acceptor)
    world.run_for(0)
    clients = [dial(world) for _ in range(10)]
    world.network.descriptors = len(world.network.open) + 4
    world.run_for(0)
    assert len(acceptor.recorders) == 4
    for client in clients[4:]:
        assert client.recv(10) == b"", "told at once"
    assert caplog.text.count("6 connections turned away") == 1
    late = dial_outside(world)
    turns = count_turns(world, 0.09)
    assert turns <= 3, "it rests"
    world.network.descriptors += 10
    world.run_for(0.2)
    assert len(acceptor.recorders) == 5, "and accepts again as soon as it can"
    del late


def dial_outside(world: World) -> MemorySocket:
    """A client in another process: it takes no descriptor of this one."""
    world.network.descriptors += 1
    return dial(world)


def count_turns(world: World, seconds: float) -> int:
    turns = 0
    end = world.clock() + seconds
    while world.clock() < end:
        turns += 1
        if not world.turn():
            world.clock.advance_to(min(world._next_wake(), end))
    return turns


def test_the_rest_grows_to_a_second(world: World, caplog: pytest.LogCaptureFixture) -> None:
    loop = world.loop()
    acceptor = Acceptor()
    loop.listen("10.0.0.1:80", acceptor)
    world.run_for(0)
    dial(world)
    world.network.descriptors = len(world.network.open)
    tries: list[float] = []
    accept = world.network.accept

    def counting(listener: object) -> object:
        tries.append(world.clock())
        return accept(listener)

    world.network.accept = counting  # type: ignore[method-assign]
    for _ in range(20):
        world.run_for(0.5)
        dial_outside(world)
    moments = sorted({round(time, 1) for time in tries})
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert 0.9 <= max(gaps) <= 1.3
    assert len(moments) < 20
    assert caplog.text.count("turned away") == 1, "said once"
    assert acceptor.recorders == []


def test_a_reserve_that_another_thread_took_is_got_back(world: World) -> None:
    loop = world.loop()
    acceptor = Acceptor()
    loop.listen("10.0.0.1:80", acceptor)
    world.run_for(0)
    dial(world)
    world.network.descriptors = len(world.network.open)
    reserve = world.network.take_reserve
    stolen: list[int] = []

    def steal() -> int:
        stolen.append(reserve())
        return -1

    world.network.take_reserve = steal  # type: ignore[method-assign]
    world.run_for(0.05)
    dial_outside(world)
    world.run_for(1)
    world.network.take_reserve = reserve  # type: ignore[method-assign]
    world.network.descriptors += 5
    dial(world)
    world.run_for(2)
    assert len(acceptor.recorders) == 2
    for fd in stolen:
        world.network.drop_reserve(fd)


def test_closed_while_it_rests(world: World) -> None:
    loop = world.loop()
    listener = loop.listen("10.0.0.1:80", Acceptor())
    world.run_for(0)
    dial(world)
    world.network.descriptors = len(world.network.open)
    world.run_for(0.05)
    assert loop.active_timers == 1
    listener.close()
    world.run_for(5)
    assert loop.active_timers == 0


EMFILE_PROGRAM = """
import resource, socket, sys, time
from gows.reactor import Loop, Observer

class Hold(Observer):
    def data_received(self, buf, n): pass

streams = []
def accept(stream):
    stream.observer = Hold()
    streams.append(stream)

loop = Loop(poller=sys.argv[1], workers=0)
listener = loop.listen("127.0.0.1:0", accept)
print(listener.address[1], flush=True)
sys.stdin.readline()
resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
turns, end = 0, time.monotonic() + 0.5
while time.monotonic() < end:
    loop.run_once(0.1)
    turns += 1
print(len(streams), turns, flush=True)
sys.stdin.readline()
for stream in streams[:5]:
    stream.abort()
loop.run_once(0)
before = len(streams)
print("freed", flush=True)
end = time.monotonic() + 5
while len(streams) == before and time.monotonic() < end:
    loop.run_once(0.1)
print(len(streams) > before, flush=True)
sys.stdin.readline()
loop.close()
"""


@pytest.mark.slow
def test_the_real_limit_of_open_files(poller_name: str) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", EMFILE_PROGRAM, poller_name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    clients = []
    try:
        assert program.stdin is not None
        assert program.stdout is not None
        port = int(program.stdout.readline())
        clients = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(60)]
        program.stdin.write("\n")
        program.stdin.flush()
        accepted, turns = map(int, program.stdout.readline().split())
        assert 10 <= accepted < 30
        assert turns < 100, "no busy loop"
        told = 0
        for client in clients:
            client.settimeout(0.001)
            try:
                told += client.recv(1) == b""
            except TimeoutError:
                pass
        assert told == 60 - accepted, "everybody knows"
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == "freed\n"
        clients.append(socket.create_connection(("127.0.0.1", port), timeout=5))
        assert program.stdout.readline() == "True\n", "it accepts again"
        _, errors = program.communicate(timeout=10)
        assert program.returncode == 0, errors
    finally:
        program.kill()
        program.communicate()
        for client in clients:
            client.close()


# ---------------------------------------------------------------------- Unix-domain sockets


def test_unix(loop: Loop, tmp_path: Path) -> None:
    acceptor = Acceptor(echo)
    listener = loop.listen(f"unix:{tmp_path}/app.sock", acceptor, mode=0o600)
    assert listener.address == f"{tmp_path}/app.sock"
    client = Recorder()
    stream = loop.connect(f"unix:{tmp_path}/app.sock", client)
    stream.write(b"hello")
    turn_until(loop, lambda: client.data == b"hello")
    assert stream.peer_address == listener.address
    assert acceptor.one.stream is not None
    assert acceptor.one.stream.peer_address == ""
    stream.close()
    turn_until(loop, lambda: client.lost and acceptor.one.lost)
    listener.close()
    loop.run_once(0)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_replaced_is_left(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    first = loop.listen(f"unix:{path}", Acceptor())
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as second:
        second.bind(str(path))
        first.close()
        loop.run_once(0)
        assert path.exists()
        os.unlink(path)


def test_a_file_that_is_gone_is_no_trouble(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    listener = loop.listen(f"unix:{path}", Acceptor())
    os.unlink(path)
    listener.close()
    loop.run_once(0)


def test_observers_may_inherit_the_defaults(world: World) -> None:
    class Silent(Observer):
        def data_received(self, buf: bytearray, n: int, /) -> None:
            raise NotImplementedError

    loop = world.loop()
    streams: list[Stream] = []

    def accept(stream: Stream) -> None:
        stream.observer = Silent()
        streams.append(stream)

    loop.listen("10.0.0.1:80", accept)
    outgoing = loop.connect("10.0.0.1:80", Silent())
    world.run_until(lambda: streams)
    streams[0].write(bytes(1 << 20))
    streams[0].set_deadline(1)
    outgoing.pause_reading()
    world.run_for(2)
    outgoing.shutdown_write()
    world.run_for(1)
    assert not streams[0].closed
    assert streams[0].queued > streams[0].observer.high_water > streams[0].observer.low_water
    streams[0].abort()
    world.run_for(1)


# ---------------------------------------------------------------------- sockets that listen already


def listening() -> tuple[socket.socket, tuple[str, int]]:
    sock = socket.create_server(("127.0.0.1", 0))
    return sock, sock.getsockname()


def test_a_socket_that_listens_already_is_taken_over(loop: Loop) -> None:
    sock, address = listening()
    acceptor = Acceptor()
    with socket.create_connection(address) as client:
        listener = loop.listen(sock, acceptor)
        assert sock.fileno() == -1
        assert listener.address == address
        client.sendall(b"hello")
        turn_until(loop, lambda: acceptor.recorders and acceptor.one.data == b"hello")
    listener.close()
    loop.run_once(0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_a_socket_that_does_not_listen_stays_with_its_owner(loop: Loop) -> None:
    with socket.socket() as sock:
        with pytest.raises(ValueError, match="does not listen"):
            loop.listen(sock, Acceptor())
        assert sock.fileno() >= 0


def test_the_file_of_a_socket_that_was_taken_over_stays(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        listener = loop.listen(sock, Acceptor())
    assert listener.address == str(path)
    loop.run_once(0)
    listener.close()
    loop.run_once(0)
    assert path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere whoever is first gets the connection")
def test_those_who_share_a_socket_take_turns() -> None:
    sock, address = listening()
    loops = [Loop(workers=0) for _ in range(3)]
    acceptors = [Acceptor() for _ in loops]
    for loop, acceptor in zip(loops, acceptors, strict=True):
        loop.listen(sock.dup(), acceptor)
        loop.start()
    sock.close()
    clients = []
    for number in range(30):
        clients.append(socket.create_connection(address))
        wait_until(lambda number=number: sum(len(each.recorders) for each in acceptors) == number + 1)  # type: ignore[misc]
    for client in clients:
        client.close()
    for loop in loops:
        loop.close()
    assert min(len(acceptor.recorders) for acceptor in acceptors) >= 5


def test_who_shares_a_socket_and_may_have_been_told_of_a_connection_takes_it_along() -> None:
    sock, address = listening()
    with Loop(workers=0) as loop:
        acceptor = Acceptor()
        listener = loop.listen(sock, acceptor)
        loop.run_once(0)
        clients: list[socket.socket] = []
        loop.call_soon(lambda: clients.append(socket.create_connection(address)))  # when the poller was asked already
        loop.call_soon(listener.close)
        loop.run_once(0)
        assert len(acceptor.recorders) == 1
        clients[0].close()
