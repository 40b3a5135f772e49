"""examples/client.py, each of its three ways."""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

import gows
from gows.reactor import shared_loop
from tests.support.processes import ROOT
from tests.support.servers import running_server, serving
from tests.support.warming import start_all_workers

PROGRAM = ROOT / "examples" / "client.py"


class Echo(gows.Handler):
    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        ws.write_message(opcode, buff)


@pytest.fixture
def server() -> Iterator[gows.Server]:
    with running_server({"/": serving(Echo)}, workers=1) as server:
        start_all_workers(server.loop, 1)
        yield server


def run(command: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), command, url],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        timeout=30,
    )


def url_of(server: gows.Server) -> str:
    return f"ws://127.0.0.1:{server.addresses[0][1]}/"


def test_ask_and_many(server: gows.Server, capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(PROGRAM))
    try:
        example["ask"](url_of(server))
        example["many"](url_of(server))
        example["many"](url_of(server) + "nowhere", 1)
    finally:
        shared_loop().close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["hello", "b'\\x00\\x01\\x02'", "100 of 100 were answered"]
    assert lines[3].startswith("member 0: 1006 404 ")
    assert lines[4] == "0 of 1 were answered"


@pytest.mark.slow
def test_as_a_program(server: gows.Server) -> None:
    done = run("ask", url_of(server))
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\nb'\\x00\\x01\\x02'\n", "")
    done = run("ask", url_of(server) + "nowhere")
    assert done.returncode == 1
    assert "404" in done.stderr
    assert "Three ways to be a client" in run("sing", url_of(server)).stderr


@pytest.mark.slow
def test_watch_comes_back(server: gows.Server) -> None:
    program = subprocess.Popen(
        [sys.executable, str(PROGRAM), "watch", url_of(server)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert program.stdout is not None
    with program, program.stdout as output:
        for _ in range(2):
            assert output.readline() == "connected\n"
            assert output.readline() == "heard here I am\n"
            server.connections[0].close_handshake(1001, "for a moment")
            assert output.readline() == "lost: 1001 for a moment\n"
        assert output.readline() == "connected\n"
        assert output.readline() == "heard here I am\n"
        program.send_signal(signal.SIGINT)
        assert output.read() == "lost: 1000 \n"
        assert program.wait(10) == 0
