"""What a test needs beside the package: a program, a module, the Autobahn suite.

Missing, it skips the test with a plain reason on a developer's machine, and fails it in CI (`CI` or `GOWS_CI` set),
where a test that silently did not run would look like one that passed.
"""

from __future__ import annotations

import importlib
import os
import shutil
from types import ModuleType
from typing import NoReturn

import pytest

IN_CI = any(os.environ.get(name, "").lower() not in ("", "0", "false", "no") for name in ("CI", "GOWS_CI"))


def missing(what: str) -> NoReturn:
    """Skip the running test, or fail it in CI, because `what` is not there."""
    if IN_CI:
        pytest.fail(f"{what} is missing, and in CI nothing may be", pytrace=False)
    pytest.skip(f"{what} is missing")


def need(*programs: str) -> str:
    """The path of the first of `programs` that is installed, e.g. `need("chromium", "chromium-browser")`."""
    for program in programs:
        path = shutil.which(program)
        if path is not None:
            return path
    missing(" or ".join(programs))


def need_module(name: str) -> ModuleType:
    """The imported module `name`. What is missing is said by its top-level package."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing(f"the Python module {name} ({error})")
