"""Outgoing connections: every address, every failure, and the time it may take."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from gows.errors import ConnectError
from gows.reactor import Loop
from tests.support.addresses import free_port
from tests.support.fakes import World
from tests.support.recorder import Acceptor, Recorder, echo
from tests.support.waiting import turn_until


def test_refused(loop: Loop) -> None:
    client = Recorder()
    port = free_port()
    stream = loop.connect(f"127.0.0.1:{port}", client)
    stream.write(b"into the void")
    turn_until(loop, lambda: client.lost)
    assert client.calls == ["connection_lost"]
    assert isinstance(client.error, ConnectError)
    assert str(client.error) == f"cannot connect to 127.0.0.1:{port}: [Errno 111] Connection refused"
    assert isinstance(client.error.__cause__, ConnectionRefusedError)
    assert (stream.closed, stream.queued, stream.peer_address, stream.local_address) == (True, 0, None, None)


def test_by_name_in_a_thread_of_its_own(loop: Loop) -> None:
    acceptor = Acceptor(echo)
    listener = loop.listen("localhost:0", acceptor)
    assert isinstance(listener.address, tuple)
    client = Recorder()
    stream = loop.connect(("localhost", listener.address[1]), client)
    stream.write(b"x")
    turn_until(loop, lambda: client.data == b"x")


@pytest.mark.parametrize("failure", [socket.gaierror(socket.EAI_NONAME, "unknown"), UnicodeError("label too long")])
def test_a_name_that_cannot_be_resolved(loop: Loop, monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fail(*_: object) -> Any:
        raise failure

    monkeypatch.setattr(loop.sockets, "resolve", fail)
    client = Recorder()
    loop.connect("nowhere:80", client)
    turn_until(loop, lambda: client.lost)
    assert isinstance(client.error, ConnectError)
    assert client.error.__cause__ is failure


def test_no_thread_to_resolve_in(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    client = Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        loop.connect("localhost:1", client)
        turn_until(loop, lambda: client.lost)
    assert "can't start new thread" in str(client.error)


def test_a_name_server_that_does_not_answer(world: World) -> None:
    """The thread that asks is left behind; what it brings is of no use any more."""
    go_on = threading.Event()
    loop = world.loop()
    world.network.names["slow"] = ["10.0.0.1"]
    world.network.unreachable = {"10.0.0.1"}
    resolve = world.network.resolve

    def slow(address: Any) -> Any:
        go_on.wait(10)
        return resolve(address)

    world.network.resolve = slow  # type: ignore[method-assign]
    client = Recorder()
    loop.connect("slow:80", client, timeout=3)
    start = world.clock()
    world.run_until(lambda: client.lost)
    assert 3 <= world.clock() - start <= 3.3
    assert "no connection within 3 s" in str(client.error)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "gows-resolve"]
    go_on.set()
    thread.join(5)
    world.run_for(1)
    assert client.calls == ["connection_lost"]


def test_the_next_address_is_tried_when_one_refuses(world: World) -> None:
    loop = world.loop()
    acceptor = Acceptor()
    loop.listen("10.0.0.3:80", acceptor)
    world.network.is_numeric = lambda address: True  # type: ignore[method-assign]
    world.network.names["name"] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    client = Recorder()
    stream = loop.connect("name:80", client)
    world.run_until(lambda: client.calls)
    assert client.calls == ["connected"]
    assert stream.peer_address == ("10.0.0.3", 80)


def test_the_next_address_is_tried_when_one_does_not_answer(world: World) -> None:
    """Each has its share of the time."""
    loop = world.loop()
    loop.listen("10.0.0.3:80", Acceptor())
    world.network.is_numeric = lambda address: True  # type: ignore[method-assign]
    world.network.names["name"] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    world.network.unreachable = {"10.0.0.1", "10.0.0.2"}
    client = Recorder()
    loop.connect("name:80", client, timeout=9)
    start = world.clock()
    world.run_until(lambda: client.calls)
    assert client.calls == ["connected"]
    assert 5.9 <= world.clock() - start <= 6.5


def test_nobody_answers(world: World) -> None:
    loop = world.loop()
    world.network.unreachable = {"10.0.0.1"}
    client = Recorder()
    loop.connect("10.0.0.1:80", client, timeout=4)
    start = world.clock()
    world.run_until(lambda: client.lost)
    assert 4 <= world.clock() - start <= 4.3
    assert isinstance(client.error, ConnectError)
    assert isinstance(client.error.__cause__, TimeoutError)
    assert loop.active_timers == 0


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("when", ["at once", "under way"])
def test_given_up_by_its_owner(world: World, how: str, when: str) -> None:
    loop = world.loop()
    world.network.unreachable = {"10.0.0.1"}
    client = Recorder()
    stream = loop.connect("10.0.0.1:80", client)
    stream.write(b"x")
    if when == "under way":
        world.run_for(1)
    getattr(stream, how)()
    world.run_for(0)
    assert client.calls == ["connection_lost"]
    assert client.error is None
    world.run_for(20)
    assert loop.active_timers == 0


def test_given_up_while_the_name_is_resolved(loop: Loop) -> None:
    client = Recorder()
    loop.connect("localhost:1", client).abort()
    turn_until(loop, lambda: client.lost)
    turn_until(loop, lambda: not any(thread.name == "gows-resolve" for thread in threading.enumerate()))
    loop.run_once(0)
    assert client.calls == ["connection_lost"]


def test_half_closed_before_it_is_connected(world: World) -> None:
    loop = world.loop()
    acceptor = Acceptor(echo)
    loop.listen("10.0.0.1:80", acceptor)
    one, other = Recorder(), Recorder()
    stream = loop.connect("10.0.0.1:80", one)
    stream.write(b"question")
    stream.shutdown_write()
    loop.connect("10.0.0.1:80", other).shutdown_write()
    world.run_until(lambda: "eof_received" in one.calls and "eof_received" in other.calls)
    assert one.data == b"question"
    for recorder in (one, other):
        assert recorder.calls[0] == "connected"


def test_a_deadline_set_before_it_is_connected(world: World) -> None:
    loop = world.loop()
    loop.listen("10.0.0.1:80", Acceptor())
    client = Recorder()
    loop.connect("10.0.0.1:80", client).set_deadline(5)
    world.run_until(lambda: "deadline_reached" in client.calls)
    assert client.calls == ["connected", "deadline_reached"]


def test_latency_is_waited_for() -> None:
    world = World(latency=0.25)
    loop = world.loop()
    loop.listen("10.0.0.1:80", Acceptor(echo))
    client = Recorder()
    stream = loop.connect("10.0.0.1:80", client)
    stream.write(b"ping")
    start = world.clock()
    world.run_until(lambda: client.data == b"ping")
    assert 0.75 <= world.clock() - start <= 0.8
    world.close()


def test_a_connected_that_raises(world: World, caplog: pytest.LogCaptureFixture) -> None:
    loop = world.loop()
    loop.listen("10.0.0.1:80", Acceptor())
    client = Recorder().on("connected", lambda: 1 / 0)
    loop.connect("10.0.0.1:80", client)
    world.run_until(lambda: client.lost)
    assert isinstance(client.error, ZeroDivisionError)
    assert "ZeroDivisionError" in caplog.text


def test_no_descriptor_for_it(world: World) -> None:
    loop = world.loop()
    client = Recorder()
    world.network.descriptors = len(world.network.open)
    loop.connect("10.0.0.1:80", client)
    world.run_until(lambda: client.lost)
    assert isinstance(client.error, ConnectError)
    assert "Too many open files" in str(client.error)


def test_a_unix_listener_whose_queue_is_full_is_tried_again(loop: Loop, tmp_path: Path) -> None:
    """connect(2) says EAGAIN there, and no event would follow."""
    path = str(tmp_path / "app.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        first = socket.socket(socket.AF_UNIX)
        first.connect(path)
        client = Recorder()
        loop.connect(f"unix:{path}", client)
        loop.run_once(0)
        assert client.calls == []
        accepted, _ = listener.accept()
        turn_until(loop, lambda: client.calls)
        assert client.calls == ["connected"]
        accepted.close()
        first.close()


def test_a_unix_path_where_nobody_is(loop: Loop, tmp_path: Path) -> None:
    client = Recorder()
    loop.connect(f"unix:{tmp_path}/none", client)
    turn_until(loop, lambda: client.lost)
    assert "No such file" in str(client.error)


def test_other_errors_of_connect(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    dial = loop.sockets.dial

    def unreachable(target: Any) -> tuple[Any, int]:
        sock, _ = dial(target)
        return sock, errno.ENETUNREACH

    monkeypatch.setattr(loop.sockets, "dial", unreachable)
    client = Recorder()
    loop.connect("127.0.0.1:9", client)
    turn_until(loop, lambda: client.lost)
    assert os.strerror(errno.ENETUNREACH) in str(client.error)


def test_an_address_that_cannot_be_read(loop: Loop) -> None:
    with pytest.raises(ValueError, match="port"):
        loop.connect("localhost", Recorder())
