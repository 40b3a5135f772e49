"""The Autobahn suite as both runs use it: which cases, in which batches, with wstest as a child, and the verdict.

A batch is what one wstest process does: the cases of one group (`12.3`, `6`), with a report folder of its own. Batches
are independent, so two run at a time; 12.* and 13.* alone are three quarters of the whole time.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import processes
from tests.support.processes import ROOT, Children

HERE = Path(__file__).resolve().parent
HOME = ROOT / ".conformance"
REPORTS = processes.ARTIFACTS / "autobahn"
AGENT = "gows"

PASS = ("OK", "INFORMATIONAL")
"""What a case may be, in its behavior and in its close. NON-STRICT (an answer overtaken by a close, a late refusal) and
UNIMPLEMENTED (compression that failed to negotiate) are failures here, though wstest is content with them."""

QUICK_DEFLATE = ("1", "5", "11")
"""The quick set's members of every group of 12.* and 13.*: 16 bytes, 4 KiB, and 8 KiB in fragments of 256 bytes."""

BATCH_SECONDS = 900
"""Longest time one wstest may take; the slowest group needs about a tenth of it."""


def group_of(case: str) -> str:
    """`6` for 6.4.1, but `12.3` for 12.3.18: the compression cases are many and slow."""
    parts = case.split(".")
    return ".".join(parts[:2]) if parts[0] in ("12", "13") else parts[0]


def matches(case: str, pattern: str) -> bool:
    """Whether `case` is meant by `pattern`: a case (6.4.1), or all that lies under a number (6, 6.4)."""
    return case == pattern or case.startswith(pattern + ".")


def choose(known: Iterable[str], patterns: list[str], quick: bool) -> list[str]:
    """The cases to run, in the suite's order; SystemExit when a pattern means none."""
    cases = list(known)
    for pattern in patterns:
        if not any(matches(case, pattern) for case in cases):
            raise SystemExit(f"conformance: no such case: {pattern}")
    if patterns:
        cases = [case for case in cases if any(matches(case, pattern) for pattern in patterns)]
    if quick:
        cases = [case for case in cases if "." not in group_of(case) or case.split(".")[2] in QUICK_DEFLATE]
    return cases


def batches(cases: list[str]) -> dict[str, list[str]]:
    """The cases by group, the slow groups first, so that nothing long is left for the end."""
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(group_of(case), []).append(case)
    return dict(sorted(groups.items(), key=lambda item: ("." not in item[0], item[0] != "9", item[0] == "10")))


@dataclass
class Verdict:
    """What became of the cases."""

    passed: int = 0
    failures: list[str] = field(default_factory=list)
    behavior: Counter[str] = field(default_factory=Counter)
    close: Counter[str] = field(default_factory=Counter)
    milliseconds: dict[str, int] = field(default_factory=dict)

    def add(self, other: Verdict) -> None:
        self.passed += other.passed
        self.failures += other.failures
        self.behavior += other.behavior
        self.close += other.close
        self.milliseconds |= other.milliseconds


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`; empty when there is none, for wstest that was stopped writes no report."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes().decode("utf-8", "replace"))
    except (OSError, ValueError):
        return {}
    return found


def judge(outdir: Path, cases: list[str]) -> Verdict:
    """Read wstest's report in `outdir`: every one of `cases` must be there, and pass in behavior and close."""
    results = read_json(outdir / "index.json").get(AGENT, {})
    verdict = Verdict()
    for case in cases:
        result = results.get(case)
        if result is None:
            verdict.failures.append(f"{case:8} did not run")
            continue
        verdict.behavior[result["behavior"]] += 1
        verdict.close[result["behaviorClose"]] += 1
        verdict.milliseconds[case] = result["duration"]
        if result["behavior"] in PASS and result["behaviorClose"] in PASS:
            verdict.passed += 1
            continue
        report = read_json(outdir / result["reportfile"])
        why = "; ".join(dict.fromkeys(filter(None, (report.get("result"), report.get("resultClose")))))
        verdict.failures.append(
            f"{case:8} {result['behavior']}, close {result['behaviorClose']} ({result['remoteCloseCode']}): {why}"
        )
    return verdict


def wstest_command(mode: str, spec: Path) -> list[str]:
    return [
        str(HOME / "venv" / "bin" / "python"),
        str(HERE / "wstest_local.py"),
        "-m",
        mode,
        "-u",
        "0",
        "-s",
        str(spec),
    ]


def fresh_folder(path: Path) -> Path:
    """An empty folder: results of an earlier run must not be read as this one's."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def installed_cases() -> list[str]:
    """All cases of the suite, installing it first if need be; SystemExit when it cannot be installed."""
    if subprocess.run(["bash", str(HERE / "install.sh")], stdin=subprocess.DEVNULL, check=False).returncode != 0:
        raise SystemExit("conformance: there is no working wstest")
    return (HOME / "cases.txt").read_text().split()


def run(
    title: str, cases: list[str], jobs: int, children: Children, run_batch: Callable[[Path, list[str]], None]
) -> int:
    """Run all batches, `jobs` at a time, print a line for each and the summary; 0 when every case passed, else 1."""
    home = fresh_folder(REPORTS / title)
    began = time.monotonic()
    total = Verdict()
    printing = threading.Lock()

    def one(group: str, members: list[str]) -> None:
        started = time.monotonic()
        outdir = fresh_folder(home / group)
        run_batch(outdir, members)
        verdict = judge(outdir, members)
        with printing:
            total.add(verdict)
            word = f"{len(verdict.failures)} FAILED" if verdict.failures else "ok"
            print(f"{title} {group:5} {len(members):4} cases {time.monotonic() - started:6.1f} s  {word}", flush=True)
            for failure in verdict.failures:
                print("   ", failure, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(one, group, members) for group, members in batches(cases).items()]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            children.end_all()  # or leaving the pool would wait for them
            raise
    print(f"{title} behavior: {told(total.behavior)}; close: {told(total.close)}; {time.monotonic() - began:.0f} s")
    (home / "milliseconds.json").write_text(json.dumps(total.milliseconds, indent=1))
    print(f"{title}: {total.passed} passed, {len(total.failures)} failed")
    return 1 if total.failures else 0


def told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
