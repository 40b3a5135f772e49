"""The pages say what is: their tables are those of the code, their links lead somewhere, and nothing public is missing.

tests/test_readme.py runs the programs; `make docs` builds the site, and checks all links and the spelling once more.
"""

from __future__ import annotations

import ast
import inspect
import posixpath
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gows
from gows import errors
from gows.__main__ import COMMANDS
from gows.codes import may_travel
from tests.support.processes import ROOT

DOCS = ROOT / "docs"
TOP = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*TOP, *sorted(DOCS.rglob("*.md"))]
REFERENCE = DOCS / "reference"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def script(name: str, *arguments: str) -> str:
    """What is wrong by `docs/_scripts/NAME`."""
    command = [sys.executable, str(DOCS / "_scripts" / name), "--check", *arguments]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return found.stdout + found.stderr


# ---------------------------------------------------------------------- made from the code


@pytest.mark.slow
def test_the_generated_tables_are_the_code() -> None:
    assert script("tables.py") == ""


@pytest.mark.slow
def test_the_picture_of_the_imports_is_current() -> None:
    assert script("structure.py") == ""


def test_every_public_name_is_in_the_reference() -> None:
    found = [
        name
        for page in sorted((REFERENCE / "api").glob("*.md"))
        for name in re.findall(r"^::: (.+)$", page.read_text(), re.M)
    ]
    assert len(found) == len(set(found)), "a name is there twice"
    assert {name.removeprefix("gows.") for name in found if name.count(".") == 1} == set(gows.__all__)
    index = (REFERENCE / "index.md").read_text("utf-8")
    named = set(re.findall(r"`(\w+)`", index))
    classes = {name for name in gows.__all__ if not issubclass_of_error(name) and not name.startswith(("set_", "use_"))}
    assert classes - named <= {"default_options"}


def issubclass_of_error(name: str) -> bool:
    each = getattr(gows, name)
    return inspect.isclass(each) and issubclass(each, gows.GowsError)


# ---------------------------------------------------------------------- tables by hand, compared with the code


def rows(page: str, name: str) -> list[list[str]]:
    """The cells of the table behind the marker, without their code marks."""
    text = (REFERENCE / page).read_text("utf-8")
    table = text.partition(f"<!-- table: {name} -->\n")[2].partition("\n\n")[0]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_table_of_admission_is_the_code() -> None:
    parameters = list(inspect.signature(gows.Admission).parameters.values())
    assert [row[:2] for row in rows("options.md", "Admission")] == [
        [each.name, repr(each.default)] for each in parameters
    ]


def test_the_table_of_close_codes_is_the_code() -> None:
    table = rows("close-codes.md", "CloseCode")
    assert [row[:2] for row in table] == [[str(code.value), code.name] for code in gows.CloseCode]
    marked = {int(code) for code, _, text in table if "may not travel" in text}
    assert marked == {code for code in gows.CloseCode if not may_travel(code)}


def test_all_errors_are_public() -> None:
    there = {name for name, each in vars(errors).items() if inspect.isclass(each) and issubclass(each, Exception)}
    assert there <= set(gows.__all__)


def test_the_commands_are_the_code() -> None:
    page = (REFERENCE / "command-line.md").read_text("utf-8")
    assert set(re.findall(r"^\| `gows (\w+)", page, re.MULTILINE)) == COMMANDS.keys()


def test_make_knows_what_is_promised() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for page in PAGES:
        for target in set(re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE)):
            assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), (name_of(page), target)


# ---------------------------------------------------------------------- the text


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def headings(text: str) -> set[str]:
    """The anchors of a page."""
    without_code = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = re.findall(r"^#+ (.*)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-") for each in found}


def broken_links(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere."""
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        path, _, anchor = target.partition("#")
        if path.startswith(("http:", "https:")):
            continue
        goal = ROOT / posixpath.normpath(posixpath.join(page.relative_to(ROOT).parent, path)) if path else page
        if not goal.exists() or (anchor and anchor not in headings(text if goal == page else goal.read_text("utf-8"))):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text("utf-8")) == []


def test_a_broken_link_is_seen() -> None:
    page = DOCS / "how-to" / "index.md"
    text = "# A head\n[a](nothing.md) [b](#a-head) [c](#none) [d](flask.md#none) [e](../../README.md#figures) [f](https://x)"
    assert broken_links(page, text) == ["nothing.md", "#none", "flask.md#none"]


@pytest.mark.slow
def test_lines_are_wrapped_by_the_tool() -> None:
    assert script("wrap.py", *map(str, PAGES)) == ""


def test_pages_are_found_from_the_index_of_their_part() -> None:
    for part in ("how-to", "explanation", "reference"):
        index = (DOCS / part / "index.md").read_text("utf-8")
        linked = set(re.findall(r"\]\(([\w/-]+\.md)\)", index))
        there = {str(page.relative_to(DOCS / part)) for page in (DOCS / part).rglob("*.md")} - {"index.md"}
        assert there <= linked, part


SOURCES = {
    path: path.read_text("utf-8")
    for folder in ("gows", "tests", "bench")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".pyx", ".pxd", ".lua", ".js") and path != Path(__file__)
}
WORDS = (
    {word for text in SOURCES.values() for word in re.findall(r"\w+", text)}
    | {path.name for path in SOURCES}
    | {"setup.py"}
)


def unknown_names(text: str) -> set[str]:
    """The names of `text`, in code marks, of which nothing in the sources has heard: those with an underscore or two
    capitals in them, and files."""
    found = set()
    for code in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        for name in re.findall(r"[A-Za-z_]\w*(?:\.py)?", code):
            if re.search(r"_|^[A-Z][a-z]+[A-Z]|\.py$", name) and name not in WORDS:
                found.add(name)
    return found


def classes() -> dict[str, set[str]]:
    """By class of gows: the names of its methods and attributes, inherited ones included."""
    bases: dict[str, set[str]] = {}
    own: dict[str, set[str]] = {}
    for path in (ROOT / "gows").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = own.setdefault(node.name, set())
                for each in ast.walk(node):
                    if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                        names.add(each.name)
                    elif isinstance(each, ast.AnnAssign | ast.Assign):
                        targets = [each.target] if isinstance(each, ast.AnnAssign) else each.targets
                        names |= {ast.unparse(target).removeprefix("self.") for target in targets}
                bases.setdefault(node.name, set()).update(ast.unparse(base).split("[")[0] for base in node.bases)

    def all_names(name: str) -> set[str]:
        return own.get(name, set()).union(*(all_names(base) for base in bases.get(name, ()) if base != name))

    return {name: all_names(name) for name in own}


def unknown_members(text: str) -> set[str]:
    """The names `Class.member` of `text`, in code marks, whose class is one of gows and has no such member."""
    known = classes()
    named = re.findall(r"`([A-Z]\w+)\.(\w+)[`( ]", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return {f"{name}.{member}" for name, member in named if name in known and member not in known[name]}


def test_the_design_names_methods_of_the_right_classes() -> None:
    assert unknown_members("`Fanout.send`, `Fanout.sent`, `WebSocket.arm`, `Stream.run()`, `Nobody.knows`") == {
        "Fanout.sent",
        "Stream.run",
    }
    assert unknown_members((DOCS / "explanation" / "design.md").read_text("utf-8")) == set()


def test_the_design_names_nothing_that_is_not_there() -> None:
    assert unknown_names("`Hubb_lock` and `OldName` in `older.py`, `HEAD`, `PublishLock`, `write_string`") == {
        "Hubb_lock",
        "OldName",
        "older.py",
    }
    assert unknown_names((DOCS / "explanation" / "design.md").read_text("utf-8")) == set()
