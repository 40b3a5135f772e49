"""Write the tables of docs/ that come from the code: `python docs/_scripts/tables.py [--check]`.

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`. What it says is in the docstrings of the fields,
members and classes. `--check` changes nothing, and ends with status 1 when a page is not what the code says.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["GOWS_PURE"] = "1"  # the sources are read, and compiled modules may be older

import gows
from gows import errors
from gows.commands.serving import elsewhere
from gows.commands.serving.options import GROUPS, all_options, flag, shown_default, variable

DOCS = Path(__file__).resolve().parents[1]

_TABLE = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring behind each assignment in the body of `cls`, on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign):
            target: ast.expr = statement.target
        elif isinstance(statement, ast.Assign):
            target = statement.targets[0]
        else:
            continue
        if isinstance(target, ast.Name) and isinstance(following, ast.Expr):
            found[target.id] = " ".join(str(ast.literal_eval(following.value)).split())
    return found


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)


def options(cls: Any) -> str:
    """Return the table of a dataclass: field, default, docstring."""
    docs = field_docs(cls)
    rows = []
    for field in dataclasses.fields(cls):
        # the column has the default, so a sentence that only repeats it is left out
        text = re.sub(r" Default [^:;.]*\.$", "", docs[field.name])
        rows.append([f"`{field.name}`", f"`{_cell(repr(field.default))}`", _cell(text)])
    return _table(["option", "default", ""], rows)


def members(cls: type[enum.Enum]) -> str:
    """Return the table of an enum: member, docstring."""
    docs = field_docs(cls)
    return _table([f"`gows.{cls.__name__}`", ""], [[f"`{each.name}`", _cell(docs[each.name])] for each in cls])


def error_tree() -> str:
    """Return the table of all errors: name, bases, docstring."""
    rows = []
    for name, each in vars(errors).items():
        if inspect.isclass(each) and issubclass(each, errors.GowsError):
            text = " ".join((each.__doc__ or "").split())
            bases = ", ".join(f"`{base.__name__}`" for base in each.__bases__)
            rows.append([f"`{name}`", bases, _cell(text)])
    return _table(["error", "is also a", ""], rows)


def serve_options() -> str:
    """Return the table of the options of `gows serve`: option, environment variable, default, help."""
    rows = [["`MODULE:NAME`", "`GOWS_APP`", "", "the application: where `import MODULE` finds it as NAME"]]
    for group in GROUPS:
        rows.append([f"**{group}**", "", "", ""])
        for field, about in all_options():
            if about.group == group:
                names = f"`{flag(field.name)}`" + (f", `--no-{flag(field.name)[2:]}`" if about.switch else "")
                default = shown_default(field, about)
                choices = "" if about.choices is None else f" ({', '.join(about.choices)})"
                text = _cell(about.help + choices + ("; may be repeated" if about.many else ""))
                rows.append([names, f"`{variable(field.name)}`", f"`{default}`" if default else "", text])
    return _table(["option", "environment variable", "default", ""], rows)


def uvicorn_options() -> str:
    """Return the table of the options of uvicorn: option, what takes its place."""
    same = {name: f"`--{name}`: {text}" if text else "the same" for name, text in elsewhere.SAME.items()}
    rows = [[f"`--{name}`", _cell(_marked(text))] for name, text in sorted({**same, **elsewhere.ELSEWHERE}.items())]
    return _table(["uvicorn", "`gows serve`"], rows)


def _marked(text: str) -> str:
    """Mark what is typed or written as code."""
    code = r"(?:gows )?--[a-z][a-z-]*(?: N\b)?|\b(?:Server|AcceptOptions)\([^)]*\)|/-/[a-z]+"
    parts = re.split("(`[^`]*`)", text)
    return "".join(
        each if each.startswith("`") else re.sub(code, lambda match: f"`{match[0]}`", each) for each in parts
    )


TABLES: dict[str, Callable[[], str]] = {
    "AcceptOptions": lambda: options(gows.AcceptOptions),
    "ServerOptions": lambda: options(gows.ServerOptions),
    "CloseCause": lambda: members(gows.CloseCause),
    "errors": error_tree,
    "serve": serve_options,
    "uvicorn": uvicorn_options,
}


def current(text: str) -> str:
    """Return the page `text` with its generated tables made anew."""
    return _TABLE.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)


def main(arguments: list[str]) -> int:
    """Write, or check, all tables; return the exit status."""
    check = "--check" in arguments
    status = 0
    for page in sorted([*DOCS.glob("how-to/*.md"), *DOCS.glob("reference/*.md")]):
        text = page.read_text("utf-8")
        made = current(text)
        if made != text:
            print(f"{page.name}: {'not what the code says; run docs/_scripts/tables.py' if check else 'written'}")
            status = int(check)
            if not check:
                page.write_text(made, "utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
