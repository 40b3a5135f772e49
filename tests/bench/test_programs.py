"""The benchmarks work: each with few connections, and what it prints has figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.needs import need
from tests.support.processes import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")

PROGRAMS = sorted(
    path.stem for path in (ROOT / "bench").glob("*.py") if "def main(" in path.read_text() and path.stem != "__init__"
)


def bench(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"bench.{program}", *words],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_help_helps(program: str) -> None:
    done = bench(program, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python -m bench.{program}".removesuffix(".__main__") in done.stdout


def test_what_there_is_not_is_said_with_what_there_is() -> None:
    done = bench("__main__", "ecko")
    assert done.returncode == 1
    assert done.stderr.startswith("bench: there is no scenario 'ecko'; there are: echo, ")


@pytest.mark.slow
def test_a_scenario_over_a_server_leaves_a_table_and_figures(tmp_path: Path) -> None:
    need("cc", "gcc", "clang")
    need("taskset")
    words = ["echo", "--servers", "gows", "--rounds", "1", "--seconds", "0.5", "--output", str(tmp_path)]
    done = bench("__main__", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["results"]["echo"]["gows"][0]["messages_per_s"] > 0
    assert "### 1,000 connections echo 32 B" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
def test_many_processes_hold_connections_ping_them_and_broadcast(tmp_path: Path) -> None:
    need("cc", "gcc", "clang")
    file = tmp_path / "found.json"
    words = ["--connections", "300", "--processes", "2", "--interval", "1", "--seconds", "2", "--json", str(file)]
    done = bench("million", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert (found["connections"], found["failed"], found["lost"]) == (300, 0, 0)
    assert found["pings"] >= 600, "at least two rounds"
    assert 0 < found["broadcast_seconds"] < 60
    assert "300 connections in 2 processes, 0 failed, 0 lost" in done.stdout


@pytest.mark.slow
def test_more_than_the_machine_can_hold_is_said_before(tmp_path: Path) -> None:
    done = bench("million", "--connections", "1000000000")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("bench.million: needs about 1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        ("idle", ["--connections", "200", "--only", "gows, workers=0"], "gows, workers=0"),
        (
            "flat",
            ["--idle", "200", "--active", "5", "--rounds", "1", "--seconds", "1"],
            "pauses of full collections, ms: ",
        ),
        (
            "slow_reader",
            ["--connections", "100", "--slow", "2", "--messages", "2"],
            "100 connections get 1 KiB each, 0 lost",
        ),
        ("metrics", ["--connections", "10", "--rounds", "1", "--seconds", "1"], "with over without: "),
        ("storm", ["--connections", "300", "--active", "5"], "300 of 300 clients connected"),
        ("heartbeat", ["--connections", "50", "--interval", "1", "--seconds", "2", "--busy"], ": 0 lost"),
        (
            "async_client",
            ["--connections", "5", "--messages", "50", "--idle", "60", "--rounds", "1"],
            "bytes, idle",
        ),
    ],
    ids=["idle", "flat", "slow_reader", "metrics", "storm", "heartbeat", "async_client"],
)
def test_a_small_run(program: str, words: list[str], said: str) -> None:
    need("cc", "gcc", "clang")
    need("taskset")
    done = bench(program, *words)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
