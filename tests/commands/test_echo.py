"""`gows echo` as a program: the target of the conformance and load runs."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support import processes
from tests.support.needs import need_module
from tests.support.processes import ROOT, Children, start_echo

Start = Callable[..., int]


@pytest.fixture
def start(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts the program with flags; its port. Nothing may be on its standard error at the end."""
    monkeypatch.setattr(processes, "ARTIFACTS", tmp_path)
    with Children() as children:
        yield lambda *flags: start_echo(children, *flags)
    assert (tmp_path / "echo.log").read_text() == ""


def connect(port: int, path: str = "/", **options: Any) -> Any:
    need_module("websockets")
    client = need_module("websockets.sync.client")
    return client.connect(f"ws://127.0.0.1:{port}{path}", max_size=None, **options)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "4"])
def test_every_data_message_comes_back_with_its_type_on_every_path(start: Start, workers: str) -> None:
    port = start("--workers", workers)
    for path in ("/", "/chat", "/a/b?c=d"):
        with connect(port, path, origin="http://elsewhere.example") as ws:
            assert ws.protocol.extensions == []
            for message in ("", "ä", b"", b"\xff\x00", "x" * 70_000):
                ws.send(message)
                assert ws.recv(10) == message


@pytest.mark.slow
def test_over_tls(start: Start, tmp_path: Any) -> None:
    authority = need_module("trustme").CA()
    pem = tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    port = start("--certificate", str(pem))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    websocket = need_module("websocket")
    ws = websocket.create_connection(f"wss://127.0.0.1:{port}/", timeout=10, sslopt={"context": context})
    ws.send("hello")
    assert ws.recv() == "hello"
    ws.close()


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--certificate", "/nowhere.pem"], "cannot use the certificate and key in /nowhere.pem: No such file"),
        (["--certificate", "README.md"], "cannot use the certificate and key in README.md: "),
        (["--certificate", "/nowhere.pem", "--processes", "2"], "cannot use the certificate and key in /nowhere.pem: "),
        (["--key", "/nowhere.pem"], "--key needs --certificate"),
    ],
)
def test_a_certificate_that_cannot_be_had_is_said_in_one_line(flags: list[str], fault: str) -> None:
    command = [sys.executable, "-m", "gows", "echo", "--port", "0", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"gows echo: {fault}")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_compression_is_off_until_it_is_asked_for(start: Start) -> None:
    port = start("--compression", "--min-compress-size", "10")
    with connect(port) as ws:
        assert len(ws.protocol.extensions) == 1
        for message in ("short", "long enough " * 1000):
            ws.send(message)
            assert ws.recv(10) == message


@pytest.mark.slow
def test_sixteen_mebibytes_come_back_in_however_many_fragments(start: Start) -> None:
    with connect(start(), compression=None) as ws:
        ws.send(bytes(1 << 8) for _ in range(1 << 16))
        assert len(ws.recv(30)) == 1 << 24


@pytest.mark.slow
def test_the_size_of_a_message_is_limited(start: Start) -> None:
    with connect(start("--max-message-size", "100"), compression=None) as ws:
        ws.send("x" * 100)
        assert len(ws.recv(10)) == 100
        ws.send("x" * 101)
        with pytest.raises(need_module("websockets").exceptions.ConnectionClosedError) as closed:
            ws.recv(10)
    assert closed.value.rcvd.code == 1009


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--processes", "2"]])
def test_a_taken_port_is_said_in_one_line(flags: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "gows", "echo", "--port", str(taken.getsockname()[1]), *flags]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("gows echo: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "gows", "echo", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        line = program.stdout.readline()
        assert line.startswith("listening on 127.0.0.1:")
        with connect(int(line.rpartition(":")[2])) as ws:
            program.send_signal(number)
            with pytest.raises(need_module("websockets").exceptions.ConnectionClosed) as closed:
                ws.recv(10)
        _, errors = program.communicate(timeout=30)
    assert closed.value.rcvd.code == 1001
    assert (program.returncode, errors) == (0, "")


@pytest.mark.slow
def test_several_processes(start: Start) -> None:
    port = start("--processes", "2")
    with connect(port) as ws:
        ws.send("hello")
        assert ws.recv(10) == "hello"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=10) as answer:
        assert answer.read() == b"ready\n", "only under gows.run"


@pytest.mark.slow
@pytest.mark.parametrize("count", ["0", "-1", "many", "1.5"])
def test_a_number_of_processes_that_cannot_be(count: str) -> None:
    command = [sys.executable, "-m", "gows", "echo", "--port", "0", "--processes", count]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert f"a number from 1, or 'auto', not '{count}'" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--processes", "2"]])
def test_one_path_goes_to_everybody_there(start: Start, flags: list[str]) -> None:
    port = start("--broadcast-path", "/all", *flags)
    with ExitStack() as stack:
        here = [stack.enter_context(connect(port, "/all")) for _ in range(6)]
        elsewhere = stack.enter_context(connect(port, "/"))
        for number, message in enumerate(("one", b"two")):
            here[number].send(message)
            for ws in here:
                assert ws.recv(10) == message
        elsewhere.send("echo")
        assert elsewhere.recv(10) == "echo", "and nothing before"


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--processes", "2"]])
def test_drained_connections_are_told_to_come_back(flags: list[str]) -> None:
    command = [sys.executable, "-m", "gows", "echo", "--port", "0", "--drain", "0.2", *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        port = int(program.stdout.readline().rpartition(":")[2])
        with connect(port) as ws:
            program.terminate()
            with pytest.raises(need_module("websockets").exceptions.ConnectionClosed) as closed:
                ws.recv(10)
        assert program.wait(30) == 0
    assert closed.value.rcvd.code == 1012


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "fault"), [(["--broadcast-path", "all"], "all"), (["--drain", "-1"], "drain")])
def test_what_cannot_be_is_said_in_one_line(flags: list[str], fault: str) -> None:
    command = [sys.executable, "-m", "gows", "echo", "--port", "0", *flags]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("gows echo: ")
    assert fault in ended.stderr
    assert ended.stderr.count("\n") == 1
