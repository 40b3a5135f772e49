"""Compiled or plain Python: the choice at run time, and what is compiled at build time."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from gows.variant import PlainFinder, plain_wanted
from tests.support.needs import need_module

ROOT = Path(__file__).resolve().parent.parent


def compiled_list() -> list[str]:
    """The list in setup.py, without running it."""
    for statement in ast.parse((ROOT / "setup.py").read_text("utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "COMPILED":
            return list(ast.literal_eval(statement.value))
    raise AssertionError("setup.py has no list COMPILED")


def names(pattern: str) -> list[str]:
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "gows").rglob(pattern))


def test_what_has_declarations_is_compiled() -> None:
    assert compiled_list() == names("*.pxd")


def test_what_is_written_in_cython_has_a_plain_twin_and_declarations() -> None:
    for name in names("*.pyx"):
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").exists()
        assert path.with_suffix(".pxd").exists()


Declared = dict[str, tuple[str, list[str]]]
"""Classes: the base's name, and the fields."""


def declared_classes(pxd: str) -> Declared:
    """The `cdef class`es of a declaration file."""
    found: Declared = {}
    fields: list[str] = []
    for line in pxd.splitlines():
        if head := re.match(r"cdef class (\w+)(?:\((\w+)\))?:", line):
            fields = []
            found[head[1]] = head[2] or "", fields
        elif found and re.match(r"\S", line):
            fields = []  # of nothing: the class is over
        elif field := re.match(r"    cdef (?:public |readonly )?[\w ]+?(\w+(?:, \w+)*)(?: *#.*)?$", line):
            fields += field[1].split(", ")
    return found


def python_classes(source: str) -> Declared:
    """The classes of a module, with their `__slots__`."""
    found: Declared = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            slots = ["no __slots__"]
            for statement in node.body:
                if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__slots__":
                    value = ast.literal_eval(statement.value)
                    slots = [value] if isinstance(value, str) else list(value)
            found[node.name] = ast.unparse(node.bases[0]) if node.bases else "", slots
    return found


def from_python() -> list[str]:
    """The compiled modules whose source is Python."""
    return [name for name in names("*.pxd") if not ROOT.joinpath(*name.split(".")).with_suffix(".pyx").exists()]


@pytest.mark.parametrize("name", from_python())
def test_slots_and_declared_fields_are_the_same(name: str) -> None:
    """So both variants have the same attributes, and refuse the same others."""
    path = ROOT.joinpath(*name.split("."))
    declared = declared_classes(path.with_suffix(".pxd").read_text("utf-8"))
    written = python_classes(path.with_suffix(".py").read_text("utf-8"))
    assert {kind: (base, sorted(fields)) for kind, (base, fields) in declared.items()} == {
        kind: (written[kind][0], sorted(written[kind][1])) for kind in declared
    }


@pytest.mark.parametrize("name", from_python())
def test_declared_constants_are_given_a_value(name: str) -> None:
    """One that is not would be 0 in the compiled variant, without a word."""
    path = ROOT.joinpath(*name.split("."))
    declared = re.findall(r"^cdef \w+ ([A-Z_, ]+)(?:#.*)?$", path.with_suffix(".pxd").read_text("utf-8"), re.MULTILINE)
    given = set()
    for node in ast.walk(ast.parse(path.with_suffix(".py").read_text("utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            given.add(node.id)
        elif isinstance(node, ast.alias):
            given.add(node.asname or node.name)
    assert {constant for line in declared for constant in line.strip().split(", ")} <= given


def test_what_is_declared_is_found() -> None:
    pxd = "cdef class A(B):\n    cdef public int x, y\n    cdef object __weakref__\n    cdef long long z  # why\n"
    assert declared_classes(pxd + "    cdef f(self)\n    cpdef g(self)\n\ncdef h()\n    cdef int no\n") == {
        "A": ("B", ["x", "y", "__weakref__", "z"])
    }
    assert python_classes("class A(B):\n    __slots__ = ('x', 'y')\nclass C: pass") == {
        "A": ("B", ["x", "y"]),
        "C": ("", ["no __slots__"]),
    }


@pytest.mark.parametrize(("value", "wanted"), [(None, False), ("", False), ("0", False), ("1", True), ("yes", True)])
def test_what_counts_as_set(monkeypatch: pytest.MonkeyPatch, value: str | None, wanted: bool) -> None:
    if value is None:
        monkeypatch.delenv("GOWS_PURE", raising=False)
    else:
        monkeypatch.setenv("GOWS_PURE", value)
    assert plain_wanted() is wanted


def test_sources_are_found_though_extensions_stand_beside_them(tmp_path: Path) -> None:
    (tmp_path / "hot.py").write_text("")
    (tmp_path / "hot.so").write_text("")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "__init__.py").write_text("")
    spec = PlainFinder.find_spec("gows.hot", [str(tmp_path)])
    assert spec is not None
    assert spec.origin == str(tmp_path / "hot.py")
    package = PlainFinder.find_spec("gows.sub", ["/nowhere", str(tmp_path)])
    assert package is not None
    assert package.submodule_search_locations == [str(tmp_path / "sub")]
    assert PlainFinder.find_spec("gows.other", [str(tmp_path)]) is None
    assert PlainFinder.find_spec("gows.hot") is None
    assert PlainFinder.find_spec("json", [str(tmp_path)]) is None
    assert PlainFinder.find_spec("gowsers.hot", [str(tmp_path)]) is None


SHOW = """
import sys, gows
from importlib.machinery import SourceFileLoader
mine = [module for name, module in sys.modules.items() if name.startswith("gows.")]
print(sorted(module.__name__ for module in mine if not isinstance(module.__loader__, SourceFileLoader)))
"""


def loaded_compiled(pure: str) -> list[str]:
    environment = {**os.environ, "GOWS_PURE": pure}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW], env=environment, cwd=ROOT, check=True, capture_output=True, text=True, timeout=30
    )
    return list(ast.literal_eval(shown.stdout))


@pytest.mark.slow
def test_a_process_runs_one_variant_as_a_whole() -> None:
    assert loaded_compiled("1") == []
    compiled = loaded_compiled("0")
    assert compiled == compiled_list() or (compiled == [] and not os.environ.get("GOWS_REQUIRE_COMPILED"))


def test_what_is_compiled_is_not_older_than_its_source() -> None:
    """`make` sees to it, but who runs pytest by hand has to compile first."""
    stale = []
    for name in compiled_list():
        path = ROOT.joinpath(*name.split("."))
        twin = path.with_suffix(".pyx")
        sources = [twin if twin.exists() else path.with_suffix(".py"), path.with_suffix(".pxd")]
        newest = max(source.stat().st_mtime for source in sources)
        stale += [
            str(built.relative_to(ROOT))
            for suffix in EXTENSION_SUFFIXES[:1]
            if (built := path.with_name(path.name + suffix)).exists() and built.stat().st_mtime < newest
        ]
    assert stale == [], "compile again: make test"


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`setup.py build_ext`, with an environment in which nothing can be compiled unless it says otherwise."""
    need_module("Cython")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GOWS_")}
    places = ["--build-lib", str(folder), "--build-temp", str(folder)]
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", *places],
        env={**plain, "CC": "/no/compiler", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.mark.slow
def test_without_a_compiler_it_is_plain_python_and_one_line(tmp_path: Path) -> None:
    done = build(tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.startswith("gows: ")]
    assert done.returncode == 0, done.stderr
    assert len(lines) == 1
    assert "plain Python, no compiled modules: no working C compiler" in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_build_that_is_required_and_fails_is_an_error(tmp_path: Path) -> None:
    done = build(tmp_path, GOWS_REQUIRE_COMPILED="1")
    assert done.returncode != 0
    assert "GOWS_REQUIRE_COMPILED is set: no working C compiler" in done.stderr
    both = build(tmp_path, GOWS_REQUIRE_COMPILED="1", GOWS_PURE="1")
    assert both.returncode != 0
    assert "opposite" in both.stderr


@pytest.mark.slow
def test_plain_python_can_be_asked_for(tmp_path: Path) -> None:
    done = build(tmp_path, GOWS_PURE="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
