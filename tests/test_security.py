"""SECURITY.md names tests that exist, and every attack."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from tests.attacks.kinds import ATTACKS

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "SECURITY.md").read_text()


@cache
def functions_of(path: Path) -> frozenset[str]:
    """The names of the test functions in a file."""
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def promises() -> list[str]:
    """The rows of the tables of promises."""
    tables = re.findall(r"<!-- promises -->\n\|.*\n\|.*\n((?:\|.*\n)+)", PAGE)
    return [row for table in tables for row in table.splitlines()]


def test_every_promise_names_what_shows_it() -> None:
    rows = promises()

    assert len(rows) > 20
    for row in rows:
        shown = row.split("|")[3]
        assert re.search(r"attack `\w+`|`tests/\S+::test_\w+`", shown), row


def test_what_is_named_exists() -> None:
    attacks = {attack.name for attack in ATTACKS}
    for name in re.findall(r"attack `(\w+)`", PAGE):
        assert name in attacks, name
    for path, name in re.findall(r"`(tests/\S+\.py)::(\w+)`", PAGE):
        assert name in functions_of(ROOT / path), f"{path}::{name}"


def test_every_attack_is_of_a_promise() -> None:
    named = set(re.findall(r"attack `(\w+)`", PAGE))

    assert {attack.name for attack in ATTACKS} <= named
