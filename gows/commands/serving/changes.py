"""Changes: which files were changed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

INCLUDED = ("*.py",)
EXCLUDED = (".*", "*.py[cod]", "*~", "~*", "__pycache__", "node_modules")
"""Names of files and folders that are not watched."""

INTERVAL = 0.25
"""Seconds between two looks at all files."""
TOLD_WITHIN = 0.1
"""Seconds to wait for news of the system."""


class Watched:
    """The files that count."""

    def __init__(self, folders: Sequence[str], include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        """`include`: patterns of names besides INCLUDED. `exclude`: patterns of names, or folders, besides EXCLUDED;
        what is included by the same pattern is not excluded. Raises ValueError for a folder that there is not."""
        self.folders = [Path(each).resolve() for each in folders]
        for folder in self.folders:
            if not folder.is_dir():
                raise ValueError(f"{folder} is no folder")
        self._include = (*INCLUDED, *include)
        self._without = [Path(each).resolve() for each in exclude if Path(each).is_dir()]
        names = [each for each in exclude if not Path(each).is_dir()]
        self._exclude = (*(each for each in EXCLUDED if each not in include), *names)

    def counts(self, path: Path) -> bool:
        """Return whether a change of the file is to be told."""
        if not any(fnmatch(path.name, pattern) for pattern in self._include):
            return False
        folder = next((each for each in self.folders if path.is_relative_to(each)), None)
        if folder is None or any(path.is_relative_to(each) for each in self._without):
            return False
        return not any(self._excluded(part) for part in path.relative_to(folder).parts)

    def _excluded(self, name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in self._exclude)

    def files(self, *within: Path) -> Iterator[Path]:
        """Return all files that are there now, in some folders, or all."""
        for folder in within or self.folders:
            for place, folders, names in os.walk(folder):
                here = Path(place)
                folders[:] = [each for each in folders if not self._excluded(each) and here / each not in self._without]
                yield from filter(self.counts, (here / name for name in names))


class Watcher(Protocol):
    """Tells of changes."""

    def wait(self) -> set[Path]:
        """Return the files that were changed, made or removed since the last call; none after a quarter of a second."""

    def close(self) -> None:
        """Watch no more."""


class StatWatcher:
    """Looks at the times and sizes of all files again and again."""

    def __init__(self, watched: Watched, interval: float = INTERVAL) -> None:
        self._watched = watched
        self._interval = interval
        self._seen = self._look()

    def _look(self) -> dict[Path, tuple[int, int, int]]:
        found = {}
        for path in self._watched.files():
            try:
                status = path.stat()
            except OSError:  # removed meanwhile
                continue
            found[path] = (status.st_mtime_ns, status.st_size, status.st_ino)
        return found

    def wait(self) -> set[Path]:
        """See `Watcher`."""
        time.sleep(self._interval)
        before, self._seen = self._seen, self._look()
        return {path for path in before.keys() | self._seen.keys() if before.get(path) != self._seen.get(path)}

    def close(self) -> None:
        """Do nothing: there is nothing to let go."""


class NotifyWatcher:
    """Is told by the system (inotify(7) and the like), by means of watchfiles. Raises ImportError without that, OSError
    when the system allows no more."""

    def __init__(self, watched: Watched) -> None:
        from watchfiles import watch

        self._watched = watched
        self._changes = watch(
            *watched.folders,
            watch_filter=None,
            debounce=400,
            step=30,
            rust_timeout=int(TOLD_WITHIN * 1000),
            yield_on_timeout=True,
            raise_interrupt=False,
            ignore_permission_denied=True,
        )
        self._early = self._next()  # watching begins here, not with the first wait

    def _next(self) -> set[Path]:
        found: set[Path] = set()
        for _, name in next(self._changes, ()):
            path = Path(name)
            if self._watched.counts(path):
                found.add(path)
            elif path.is_dir():  # it is new, and files that came with it were perhaps there before it was watched
                found.update(self._watched.files(path))
        return found

    def wait(self) -> set[Path]:
        """See `Watcher`."""
        early, self._early = self._early, set()
        return early or self._next()

    def close(self) -> None:
        """See `Watcher`."""
        self._changes.close()


def make_watcher(watched: Watched) -> Watcher:
    """Return what watches here: the system, if watchfiles is installed, else we look ourselves."""
    try:
        return NotifyWatcher(watched)
    except (ImportError, OSError, RuntimeError):  # the last is watchfiles' own for what the system does not allow
        return StatWatcher(watched)
