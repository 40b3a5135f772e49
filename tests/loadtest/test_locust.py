"""The Locust suite, run for real against real servers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gows import ByteBuffer, CloseCode, Handler, Opcode, Request, Server, WebSocket, accept
from tests.support import processes
from tests.support.needs import missing
from tests.support.processes import ROOT, Children, start_echo

pytestmark = pytest.mark.slow


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of `gows echo` with its broadcast path."""
    monkeypatch.setattr(processes, "ARTIFACTS", tmp_path)
    with Children() as children:
        yield start_echo(children, "--broadcast-path", "/broadcast", "--processes", "2")


def locust(port: int, *words: str) -> tuple[int, dict[str, Any], str]:
    """A headless run; the exit status, the figures by name, and what it said."""
    if find_spec("locust") is None:  # not imported: it patches the standard library of whoever does
        missing("Locust")
    command = [sys.executable, "-W", "ignore", "-m", "locust", "-f", "loadtest/", "--headless", "--json"]
    done = subprocess.run(
        [*command, "--host", f"ws://127.0.0.1:{port}", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    rows = json.loads(done.stdout) if done.stdout.startswith("[") else []
    return done.returncode, {row["name"]: row for row in rows}, done.stderr


def test_all_kinds_of_users(echo: int) -> None:
    words = ["-u", "60", "-r", "60", "-t", "5s", "--chat-users", "8", "--echo-interval", "0.5"]
    words += ["--chat-interval", "0.5", "--reconnect-interval", "0.5", "--payload-size", "100"]
    status, found, said = locust(echo, *words)
    assert status == 0, said
    assert found.keys() == {"connect", "echo", "fan-out"}
    assert all(row["num_failures"] == 0 for row in found.values())
    assert found["connect"]["num_requests"] >= 60
    assert found["echo"]["total_content_length"] == 100 * found["echo"]["num_requests"]
    assert found["fan-out"]["num_requests"] >= 8 * 8, "each message is heard by all"


def test_users_are_chosen_by_class_and_by_tag(echo: int) -> None:
    status, found, said = locust(echo, "-u", "4", "-r", "10", "-t", "2s", "EchoUser", "--echo-interval", "0.2")
    assert (status, found.keys()) == (0, {"connect", "echo"}), said
    status, found, said = locust(echo, "-u", "50", "-r", "50", "-t", "2s", "IdleUser", "--tags", "idle")
    assert (status, found.keys()) == (0, {"connect"}), said


@pytest.mark.parametrize("shape", ["ramp", "storm"])
def test_shapes(echo: int, shape: str) -> None:
    status, found, said = locust(echo, "-u", "20", "-r", "20", "-t", "4s", "--shape", shape, "IdleUser")
    assert status == 0, said
    assert found["connect"]["num_requests"] >= 20
    assert f'"{shape.title()}"' in said or "shape" in said.lower()


class Hasty(Handler):
    """Ends every connection at its first message."""

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        ws.close_handshake(CloseCode.TRY_AGAIN_LATER, "too much")


def test_a_connection_that_the_server_ends_is_a_failure_with_its_code() -> None:
    server = Server()

    @server.route("/")
    def join(request: Request) -> None:
        accept(request).serve(Hasty())

    server.start("127.0.0.1:0")
    try:
        status, found, said = locust(server.addresses[0][1], "-u", "3", "-r", "3", "-t", "3s", "EchoUser")
    finally:
        server.stop()
    assert status == 1
    assert found["closed"]["num_failures"] == found["closed"]["num_requests"] >= 3
    assert "Closed('closed with 1013: too much')" in said


def test_nobody_there_is_a_failure() -> None:
    status, found, said = locust(1, "-u", "2", "-r", "2", "-t", "2s", "IdleUser")
    assert status == 1
    assert found["connect"]["num_failures"] >= 2
    assert "ConnectionRefusedError" in said


@pytest.mark.parametrize(
    ("words", "fault"),
    [(["--payload-size", "-1"], "a whole number"), (["--echo-interval", "soon"], "seconds"), (["--shape", "x"], "x")],
)
def test_options_that_cannot_be(words: list[str], fault: str) -> None:
    status, _, said = locust(1, *words)
    assert status == 2
    assert fault in said
