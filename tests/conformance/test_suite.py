"""Choosing Autobahn's cases and judging its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import suite
from tests.support.processes import Children

KNOWN = ["1.1.1", "1.1.10", "6.4.1", "9.1.1", "10.1.1", "12.1.1", "12.1.2", "12.1.11", "12.10.1", "13.7.5", "13.7.15"]


def choose(*patterns: str, quick: bool = False) -> list[str]:
    return suite.choose(KNOWN, list(patterns), quick)


def test_no_pattern_means_all() -> None:
    assert choose() == KNOWN


def test_a_number_means_all_under_it_and_nothing_beside_it() -> None:
    assert choose("1") == ["1.1.1", "1.1.10"]
    assert choose("12.1") == ["12.1.1", "12.1.2", "12.1.11"]
    assert choose("1.1.1", "6.4") == ["1.1.1", "6.4.1"]


def test_an_unknown_case_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"no such case: 6\.5"):
        choose("1", "6.5")


def test_the_quick_set_thins_out_compression_alone() -> None:
    assert choose(quick=True) == [
        "1.1.1",
        "1.1.10",
        "6.4.1",
        "9.1.1",
        "10.1.1",
        "12.1.1",
        "12.1.11",
        "12.10.1",
        "13.7.5",
    ]


def test_batches_hold_every_case_once_the_slow_ones_first() -> None:
    groups = suite.batches(KNOWN)
    assert list(groups) == ["12.1", "12.10", "13.7", "9", "1", "6", "10"]
    assert sorted(case for members in groups.values() for case in members) == sorted(KNOWN)


def report(folder: Path, **outcomes: tuple[str, str]) -> list[str]:
    """Write what wstest would, for cases named c1_1_1; their numbers."""
    results: dict[str, dict[str, Any]] = {}
    for name, (behavior, close) in outcomes.items():
        case = name[1:].replace("_", ".")
        results[case] = {
            "behavior": behavior,
            "behaviorClose": close,
            "remoteCloseCode": 1000,
            "duration": 7,
            "reportfile": f"{case}.json",
        }
        (folder / f"{case}.json").write_text(json.dumps({"result": "what happened", "resultClose": "how it closed"}))
    (folder / "index.json").write_text(json.dumps({suite.AGENT: results}))
    return list(results)


def test_ok_and_informational_pass(tmp_path: Path) -> None:
    cases = report(tmp_path, c1_1_1=("OK", "OK"), c1_1_2=("INFORMATIONAL", "INFORMATIONAL"))
    verdict = suite.judge(tmp_path, cases)
    assert (verdict.passed, verdict.failures) == (2, [])
    assert verdict.milliseconds == {"1.1.1": 7, "1.1.2": 7}


@pytest.mark.parametrize("outcome", ["NON-STRICT", "UNIMPLEMENTED", "FAILED", "WRONG CODE", "UNCLEAN", "anything new"])
def test_every_other_outcome_fails(tmp_path: Path, outcome: str) -> None:
    cases = report(tmp_path, c1_1_1=(outcome, "OK"), c1_1_2=("OK", outcome))
    verdict = suite.judge(tmp_path, cases)
    assert verdict.passed == 0
    assert len(verdict.failures) == 2
    assert "what happened" in verdict.failures[0]


def test_a_case_that_did_not_run_fails(tmp_path: Path) -> None:
    report(tmp_path, c1_1_1=("OK", "OK"))
    verdict = suite.judge(tmp_path, ["1.1.1", "1.1.2"])
    assert (verdict.passed, verdict.failures) == (1, ["1.1.2    did not run"])


def test_no_report_fails_every_case(tmp_path: Path) -> None:
    verdict = suite.judge(tmp_path, ["1.1.1", "1.1.2"])
    assert (verdict.passed, len(verdict.failures)) == (0, 2)


def test_a_run_prints_its_failures_and_says_so_by_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "REPORTS", tmp_path)

    def run_batch(outdir: Path, members: list[str]) -> None:
        report(
            outdir, **{"c" + case.replace(".", "_"): ("FAILED" if case == "2.1" else "OK", "OK") for case in members}
        )

    assert suite.run("server", ["1.1", "2.1"], 2, Children(), run_batch) == 1
    printed = capsys.readouterr().out
    assert "2.1      FAILED, close OK (1000): what happened" in printed
    assert printed.endswith("server: 1 passed, 1 failed\n")
    assert suite.run("server", ["1.1"], 2, Children(), run_batch) == 0
