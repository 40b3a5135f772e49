"""Which files were changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gows.commands.serving import changes
from gows.commands.serving.changes import NotifyWatcher, StatWatcher, Watched, Watcher, make_watcher
from tests.support.needs import need_module


@pytest.fixture(params=["told", "looking"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[Watched], Watcher]]:
    made: list[Watcher] = []

    def watch(watched: Watched) -> Watcher:
        if request.param == "told":
            need_module("watchfiles")
            made.append(NotifyWatcher(watched))
        else:
            made.append(StatWatcher(watched, interval=0.01))
        return made[-1]

    yield watch
    for watcher in made:
        watcher.close()


def seen(watcher: Watcher) -> set[str]:
    """The names of the next files that were changed."""
    end = time.monotonic() + 10.0
    while not (found := watcher.wait()):
        assert time.monotonic() < end, "nothing was seen"
    return {each.name for each in found}


@pytest.mark.slow
def test_made_changed_removed(make: Callable[[Watched], Watcher], tmp_path: Path) -> None:
    (tmp_path / "there.py").write_text("1")
    watcher = make(Watched([str(tmp_path)]))
    (tmp_path / "made.py").write_text("")
    assert seen(watcher) == {"made.py"}
    (tmp_path / "there.py").write_text("other")
    assert seen(watcher) == {"there.py"}
    (tmp_path / "swap").write_text("other")
    os.replace(tmp_path / "swap", tmp_path / "there.py")  # as editors save
    assert seen(watcher) == {"there.py"}
    (tmp_path / "there.py").unlink()
    assert seen(watcher) == {"there.py"}
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "deep.py").write_text("")
    assert seen(watcher) == {"deep.py"}
    assert watcher.wait() == set()


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("a.py", True),
        ("inner/a.py", True),
        ("a.txt", False),
        ("a.pyc", False),
        (".a.py", False),
        (".venv/a.py", False),
        ("inner/.git/a.py", False),
        ("__pycache__/a.py", False),
        ("node_modules/a.py", False),
        ("~a.py", False),
        ("page.html", True),
        ("test_a.py", False),
        ("skipped/a.py", False),
        ("inner/skipped/a.py", True),
        ("../a.py", False),
    ],
)
def test_what_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, counts: bool) -> None:
    (tmp_path / "site" / "skipped").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "site")
    watched = Watched(["."], ["*.html"], ["test_*", "skipped"])
    path = Path(os.path.normpath(tmp_path / "site" / name))
    assert watched.counts(path) is counts
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    assert (path in set(watched.files())) is counts


def test_what_is_included_by_the_same_pattern_is_not_excluded(tmp_path: Path) -> None:
    assert Watched([str(tmp_path)], [".*"]).counts(tmp_path / ".env")


def test_a_folder_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is no folder"):
        Watched([str(tmp_path / "nowhere")])


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError])
def test_without_the_system_we_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def fail(watched: Watched) -> Watcher:
        raise error("no")

    monkeypatch.setattr(changes, "NotifyWatcher", fail)
    assert isinstance(make_watcher(Watched([str(tmp_path)])), StatWatcher)


@pytest.mark.slow
def test_with_the_system_we_are_told(tmp_path: Path) -> None:
    need_module("watchfiles")
    watcher = make_watcher(Watched([str(tmp_path)]))
    assert isinstance(watcher, NotifyWatcher)
    watcher.close()
