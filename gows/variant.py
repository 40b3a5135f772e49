"""Which variant of the hot modules runs: compiled, where extension modules stand beside the sources, or plain Python.

An extension module comes before a source of the same name when Python imports (importlib.machinery), so a compiled
build is used without a word. `GOWS_PURE=1` turns that round, for all modules together and once for a process: the
choice is made before the first module of the package is imported, since compiled modules know each other's C
structures and do not mix with plain ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from types import ModuleType

PACKAGE = __name__.partition(".")[0]


class PlainFinder:
    """Finds the modules of this package as sources only."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the source of a module of ours; None for others, and for what has no source."""
        if not name.startswith(PACKAGE + "."):
            return None
        for folder in path or ():
            spec = FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(name)
            if spec is not None:
                return spec
        return None


def plain_wanted() -> bool:
    """Return whether the environment asks for plain Python: GOWS_PURE is set, and not to 0."""
    return os.environ.get("GOWS_PURE", "0") not in ("", "0")


def choose() -> None:
    """Make the choice; `gows/__init__.py` calls it before it imports anything else."""
    if plain_wanted() and PlainFinder not in sys.meta_path:
        sys.meta_path.insert(0, PlainFinder)
