"""Programs that are ended with the test, and all their workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Children
from tests.support.worker_site import Program

Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `gows.run` in a program of its own."""
    programs: list[Program] = []
    with Children() as children:

        def begin(*arguments: Any, folder: Path = tmp_path, **settings: Any) -> Program:
            programs.append(Program(children, folder, *arguments, **settings))
            return programs[-1]

        yield begin
        for program in programs:
            program.close()
