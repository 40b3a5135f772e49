"""The comparison of fan-outs: what it makes of figures, of servers that fail, and a small run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import topics
from bench.servers import FLOOR
from tests.support.needs import need
from tests.support.processes import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")


def figures(cpu: float, burst: float) -> dict[str, float]:
    return {
        "cpu_us": cpu,
        "last_ms": 1.0,
        "last_most_ms": 2.0,
        "burst_cpu_us": burst,
        "burst_last_ms": 3.0,
        "echo_ms": 4.0,
    }


def test_a_budget_is_kept_up_to_its_limit_and_not_over_it() -> None:
    rounds = {
        topics.PUBLISH: [figures(9.0, 1.5), figures(6.0, 1.6), figures(3.0, 1.6)],
        topics.PICOWS: [figures(10.0, 8.0)],
        FLOOR: [figures(4.0, 1.0)],
    }
    lines = topics.budgets({1000: rounds})
    assert [line for line in lines if "1,000" in line] == [
        f"| over {topics.PICOWS} | 1,000, one after the other | 0.6 | 0.60 | kept |",
        f"| over {topics.PICOWS} | 1,000, 16 at once | 0.6 | 0.20 | kept |",
        f"| over {FLOOR} | 1,000, one after the other | 1.5 | 1.50 | kept |",
        f"| over {FLOOR} | 1,000, 16 at once | 1.5 | 1.60 | **not kept** |",
    ]


def test_without_what_it_is_compared_with_there_is_no_budget_and_no_ratio() -> None:
    rounds = {topics.PUBLISH: [figures(6.0, 1.5)]}
    assert topics.budgets({10: rounds}) == []
    row = next(line for line in topics.table(rounds, {}, 10) if topics.PUBLISH in line)
    single, burst = "6.00 | 6.00 to 6.00 |  |  |", "1.50 | 1.50 to 1.50 |  |  |"
    assert row == f"| {topics.PUBLISH} | {single} {burst} 1.00 | 1.00 to 1.00 | 3.00 | 4.00 |"


@pytest.mark.slow
def test_a_server_that_cannot_be_measured_is_said_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need("cc", "gcc", "clang")
    need("taskset")
    broken = topics.Way(lambda mode, port: [sys.executable, "-c", "raise SystemExit('not today')"])
    monkeypatch.setattr(topics, "WAYS", {"broken": broken, FLOOR: topics.WAYS[FLOOR]})
    monkeypatch.setattr(topics, "check_descriptors", lambda connections: None)
    words = ["--connections", "3", "--rounds", "2", "--messages", "1", "--output", str(tmp_path)]
    assert topics.main(words) == 0
    told = capsys.readouterr()
    assert "| broken | not measured: not today |" in told.out
    assert told.err.count("not measured: not today") == 1, "it is not tried again"
    assert len(json.loads((tmp_path / "topics.json").read_text())["results"]["3"][FLOOR]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--deflate"]], ids=["plain", "deflate"])
def test_a_small_run_leaves_a_table_and_figures(more: list[str], tmp_path: Path) -> None:
    need("cc", "gcc", "clang")
    need("taskset")
    ways = [way for way in topics.WAYS if way.startswith("gows")]
    words = ["--connections", "30", "5", "--rounds", "1", "--messages", "2", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.topics", *words, "--servers", *ways, *more],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "topics.json").read_text())
    assert found["not_measured"] == {"30": {}, "5": {}}
    assert set(found["results"]["30"]) == set(ways)
    for rounds in found["results"].values():
        for (figures,) in rounds.values():
            assert 0 < figures["last_ms"] <= figures["last_most_ms"] < 5000
            assert 0 < figures["echo_ms"] < 5000
    assert "### 30 subscribers" in done.stdout
    assert "### 5 subscribers" in (tmp_path / "topics.md").read_text()


def test_more_subscribers_than_descriptors_are_refused_before() -> None:
    with pytest.raises(SystemExit, match="1,000,000,000 subscribers need more than"):
        topics.main(["--connections", "1000000000"])
