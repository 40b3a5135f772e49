"""How many processes "auto" means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gows.processes.cpus import usable_cpus


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the process's control group, two below the root, on a machine with eight CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    (tmp_path / "membership").write_text("1:cpu:/old\n0::/above/ours\n")
    (tmp_path / "above" / "ours").mkdir(parents=True)
    return tmp_path / "above" / "ours"


def cpus(group: Path) -> int:
    return usable_cpus(group.parent.parent / "membership", group.parent.parent)


@pytest.mark.parametrize(
    ("ours", "above", "expected"),
    [
        (None, None, 8),
        ("max 100000", "max 100000", 8),
        ("200000 100000", None, 2),
        ("250000 100000", None, 3),
        ("10000 100000", None, 1),
        ("max 100000", "300000 100000", 3),
        ("400000 100000", "300000 100000", 3),
        ("9900000 100000", None, 8),
        ("", None, 8),
        ("what", None, 8),
    ],
)
def test_the_least_limit_counts(group: Path, ours: str | None, above: str | None, expected: int) -> None:
    for folder, text in ((group, ours), (group.parent, above)):
        if text is not None:
            (folder / "cpu.max").write_text(text + "\n")
    assert cpus(group) == expected


def test_without_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cpus(tmp_path / "nothing", tmp_path) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus(tmp_path / "nothing", tmp_path) == 1


def test_here() -> None:
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)
