"""examples/line_echo.py: in memory, and as a program."""

from __future__ import annotations

import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from gows.reactor import Target
from tests.support.fakes import World
from tests.support.processes import ROOT
from tests.support.reactor_bench import Peer

PROGRAM = ROOT / "examples" / "line_echo.py"
EXAMPLE: dict[str, Any] = runpy.run_path(str(PROGRAM))


@pytest.fixture
def world() -> Iterator[World]:
    world = World(buffer_size=65536)
    world.loop().listen("10.0.0.1:7000", EXAMPLE["accept"])
    yield world
    world.close()


def connect(world: World) -> Peer:
    client, _ = world.network.dial(Target(socket.AF_INET, ("10.0.0.1", 7000)))
    world.network.peers.append(client)
    world.run_for(0)
    return Peer(client)


def test_lines_come_back_when_they_are_whole(world: World) -> None:
    client = connect(world)
    client.send(b"one\ntw")
    world.run_until(client.got(b"one\n"))
    client.send(b"o\r\nthree")
    world.run_until(client.got(b"one\ntwo\r\n"))
    client.end()
    world.run_until(client.finished)
    assert client.data == b"one\ntwo\r\nthree"


def test_a_line_may_not_be_endless(world: World) -> None:
    client = connect(world)
    sent = 0
    while not client.finished():
        sent += client.send(b"x" * 10_000)
        world.run_for(0.1)
        assert sent < 1_000_000
    assert client.data == b"line too long\n"


def test_who_does_not_read_is_not_read_from(world: World) -> None:
    client = connect(world)
    line = b"x" * 999 + b"\n"
    sent = 0
    for _ in range(1000):
        sent += client.send(line * 10)
        world.run_for(0)
    assert sent < 1_000_000, "the client cannot send any more"
    world.run_until(lambda: (client.read() or True) and len(client.data) >= sent - len(line))
    client.send(b"\n")
    client.end()
    world.run_until(client.finished)


def test_the_silent_are_sent_away_and_the_talkative_are_not(world: World) -> None:
    silent, talkative = connect(world), connect(world)
    for _ in range(7):
        talkative.send(b"x\n")
        world.run_for(60)
    assert silent.finished()
    assert silent.data == b"goodbye\n"
    world.run_until(talkative.got(b"x\n" * 7))
    assert not talkative.eof


@pytest.mark.slow
def test_as_a_program() -> None:
    program = subprocess.Popen(
        [sys.executable, str(PROGRAM), "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
    )
    try:
        assert program.stdout is not None
        port = int(program.stdout.readline().rpartition(" ")[2].rstrip(")\n"))
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"
            program.send_signal(signal.SIGINT)
            assert program.wait(10) == 0
    finally:
        program.kill()
        program.communicate()
