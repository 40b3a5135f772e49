"""The Locust suite, run for real against real servers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gows import ByteBuffer, CloseCode, Handler, Opcode, Request, Server, WebSocket, accept
from tests.support import processes
from tests.support.addresses import tcp
from tests.support.needs import missing
from tests.support.processes import ROOT, Children, start_echo
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of `gows echo` with its broadcast path."""
    monkeypatch.setattr(processes, "ARTIFACTS", tmp_path)
    with Children() as children:
        yield start_echo(children, "--broadcast-path", "/broadcast", "--processes", "2")


def command(port: int, *words: str) -> list[str]:
    """A headless run."""
    if find_spec("locust") is None:  # not imported: it patches the standard library of whoever does
        missing("Locust")
    program = [sys.executable, "-W", "ignore", "-m", "locust", "-f", "loadtest/", "--headless"]
    return [*program, "--host", f"ws://127.0.0.1:{port}", *words]


def locust(port: int, *words: str) -> tuple[int, dict[str, Any], str]:
    """Run it to its end; the exit status, the figures by name, and what it said."""
    done = subprocess.run(
        command(port, "--json", *words), cwd=ROOT, capture_output=True, text=True, timeout=55, check=False
    )
    rows = json.loads(done.stdout) if done.stdout.startswith("[") else []
    return done.returncode, {row["name"]: row for row in rows}, done.stderr


def failures(port: int, *words: str, enough: Callable[[], bool] = lambda: False) -> tuple[int, dict[str, int]]:
    """Run it until there is `enough`, or to its end; the exit status, and how often each error of its report occurred.
    Without --json, with which older releases print no errors."""
    with Children() as children:
        running = children.start(command(port, *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_until(lambda: enough() or running.poll() is not None, 40.0)
        running.terminate()  # it ends the run, and reports
        said, _ = running.communicate(timeout=15)
    report = said[said.index("Error report") :]
    return running.returncode, {error: int(count) for count, error in re.findall(r"(?m)^(\d+) +(\S.*\S) *$", report)}


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
    assert (status, set(found)) == (0, {"connect", "echo"}), said
    status, found, said = locust(echo, "-u", "50", "-r", "50", "-t", "2s", "IdleUser", "--tags", "idle")
    assert (status, set(found)) == (0, {"connect"}), said


SLOW_TO_LOAD = """
import sys, time
from locust import events
end = time.perf_counter() + 3
while time.perf_counter() < end: pass
began = None

@events.test_start.add_listener
def begin(**_):
    global began
    began = time.perf_counter()

@events.test_stopping.add_listener
def stop(**_):
    print(f"ran for {time.perf_counter() - began} s", file=sys.stderr)
"""


def test_the_time_of_a_run_begins_when_all_is_loaded(tmp_path: Path) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text(SLOW_TO_LOAD)
    _, _, said = locust(1, "-f", f"loadtest/,{slow}", "-u", "1", "-t", "2s", "IdleUser")
    ran = re.search(r"ran for ([0-9.]+) s", said)
    assert ran, said
    assert float(ran[1]) > 1.9


@pytest.mark.parametrize("shape", ["ramp", "storm"])
def test_shapes(echo: int, shape: str) -> None:
    status, found, said = locust(echo, "-u", "20", "-r", "20", "-t", "4s", "--shape", shape, "IdleUser")
    assert status == 0, said
    assert found["connect"]["num_requests"] >= 20
    assert f'"{shape.title()}"' in said or "shape" in said.lower()


class Hasty(Handler):
    """Ends every connection at its first message."""

    ended = 0

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        ws.close_handshake(CloseCode.TRY_AGAIN_LATER, "too much")

    def on_close(self, ws: WebSocket) -> None:
        self.ended += 1


def test_a_connection_that_the_server_ends_is_a_failure_with_its_code() -> None:
    server = Server()
    hasty = Hasty()

    @server.route("/")
    def join(request: Request) -> None:
        accept(request).serve(hasty)

    server.start("127.0.0.1:0")
    try:
        port = tcp(server.addresses[0])[1]
        # each of the three users may be about to report one
        status, found = failures(port, "-u", "3", "-r", "3", "EchoUser", enough=lambda: hasty.ended >= 6)
    finally:
        server.stop()
    assert status == 1
    assert found.keys() == {"WS closed: Closed('closed with 1013: too much')"}
    assert sum(found.values()) >= 3


def test_nobody_there_is_a_failure() -> None:
    status, found = failures(1, "-u", "2", "-r", "2", "-t", "2s", "IdleUser")
    assert status == 1
    assert found.keys() == {"WS connect: ConnectionRefusedError(111, 'Connection refused')"}
    assert sum(found.values()) >= 2


@pytest.mark.parametrize(
    ("words", "fault"),
    [(["--payload-size", "-1"], "a whole number"), (["--echo-interval", "soon"], "seconds"), (["--shape", "x"], "x")],
)
def test_options_that_cannot_be(words: list[str], fault: str) -> None:
    status, _, said = locust(1, *words)
    assert status == 2
    assert fault in said
