"""What a type checker says of programs that use gows: every public name has its types, and mistakes are seen."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gows
from tests.support.needs import need_module
from tests.support.processes import ROOT

HERE = Path(__file__).parent
NO_ANY = ["--disallow-any-expr", "--disallow-any-explicit", "--disallow-any-decorated"]


def check(program: str, *flags: str) -> list[str]:
    """The messages of mypy, without the modules of gows themselves."""
    need_module("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary"]
    cache = f"--cache-dir={ROOT / '.mypy_cache' / 'programs'}"
    done = subprocess.run(
        [*command, cache, *flags, str(HERE / program)], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert not done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_program_that_uses_all_of_it_has_types_everywhere() -> None:
    assert check("user_program.py", *NO_ANY) == []


@pytest.mark.slow
def test_mistakes_are_seen() -> None:
    lines = (HERE / "wrong_program.py").read_text("utf-8").splitlines()
    first = lines.index("class Chat(gows.Handler):")
    wrong = {number for number, line in enumerate(lines, 1) if number > first + 2 and line and "def" not in line}
    found = {int(match[1]) for line in check("wrong_program.py") if (match := re.search(r":(\d+): error", line))}
    assert found == wrong


def test_the_program_uses_every_public_name() -> None:
    tree = ast.parse((HERE / "user_program.py").read_text("utf-8"))
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {f"gows.{name}" for name in gows.__all__} - used == set()
