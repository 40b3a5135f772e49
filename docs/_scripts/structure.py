"""Draw which folder of gows imports which: `python docs/_scripts/structure.py [--check]`.

Writes docs/explanation/imports.svg and the table in docs/explanation/structure.md, from the import statements of the
code and the layers in the table of docs/explanation/design.md. `--check` changes nothing, and ends with status 1 when
one of them is not current.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "gows"
EXPLANATION = ROOT / "docs" / "explanation"

WORDS = "words"
"""The box of the modules that lie in gows/ itself, but for the facade and `__main__`."""

WIDTH, HEIGHT, MARGIN, BETWEEN, GAP = 900, 40, 16, 30, 52
_TABLE = re.compile(r"(<!-- generated: imports -->\n).*?(<!-- end -->\n)", re.DOTALL)

Edges = set[tuple[str, str]]


def box_of(module: str) -> str:
    """Return the box that `module` ("gows.http.router") is in."""
    parts = module.split(".")
    if len(parts) == 1:
        return "gows"
    if parts[1] == "__main__":
        return "commands"
    return parts[1] if (PACKAGE / parts[1]).is_dir() else WORDS


def modules() -> dict[str, Path]:
    """Return all modules of the package by their names."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from _statements(node)


def imports() -> Edges:
    """Return from which box import statements lead to which. Those under TYPE_CHECKING do not count: nothing runs."""
    known = modules()
    edges: Edges = set()
    for module, path in known.items():
        for node in _statements(ast.parse(path.read_text("utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                names = sorted({name if name in known else node.module for name in inner})
            for name in names:
                if name.partition(".")[0] == "gows" and box_of(name) != box_of(module):
                    edges.add((box_of(module), box_of(name)))
    return edges


def layers() -> list[list[str]]:
    """Return the boxes of each layer, from the ground up, by the table in design.md."""
    rows: dict[int, list[str]] = {}
    text = (EXPLANATION / "design.md").read_text("utf-8")
    for number, cell in re.findall(r"^\| (\d) \|([^|]*)\|", text, re.MULTILINE):
        for name in re.findall(r"`([\w/]+)`", cell):
            box = box_of("gows" if name == "gows" else f"gows.{name.rstrip('/')}")
            if box not in rows.setdefault(int(number), []):
                rows[int(number)].append(box)
    return [rows[number] for number in sorted(rows)]


def needed(edges: Edges) -> list[tuple[str, str]]:
    """Return the edges without those that only shorten a way over others. Raises CycleError for a circle."""
    below: dict[str, set[str]] = {}
    for upper, lower in edges:
        below.setdefault(upper, set()).add(lower)
    TopologicalSorter(below).prepare()

    def reach(box: str) -> set[str]:
        return {lower for each in below.get(box, ()) for lower in {each} | reach(each)}

    return sorted(
        (upper, lower)
        for upper, lowers in below.items()
        for lower in lowers
        if not any(lower in reach(other) for other in lowers - {lower})
    )


def picture(edges: Edges) -> str:
    """Return the SVG: a row for each layer, the upper ones first; an arrow from each box to what it imports."""
    places: dict[str, tuple[float, float, float, float]] = {}
    shapes: list[str] = []
    top = float(MARGIN)
    for row in reversed(layers()):
        width = min((WIDTH - 2 * MARGIN - BETWEEN * (len(row) - 1)) / len(row), WIDTH / 3)
        left = (WIDTH - width * len(row) - BETWEEN * (len(row) - 1)) / 2
        for box in row:
            places[box] = (left, top, width, HEIGHT)
            name = {"gows": "gows (the facade)", WORDS: "words that everybody uses"}.get(box, f"{box}/")
            shapes.append(
                f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{HEIGHT}" rx="6"/>'
                f'<text x="{left + width / 2:.0f}" y="{top + 25:.0f}">{escape(name)}</text>'
            )
            left += width + BETWEEN
        top += HEIGHT + GAP
    arrows = []
    drawn = needed(edges)
    for upper, lower in drawn:
        x, y, width, height = places[upper]
        into = [each for each, target in drawn if target == lower]
        out = [target for each, target in drawn if each == upper]
        out.sort(key=lambda box: places[box][0])
        into.sort(key=lambda box: places[box][0])
        x1 = x + width * (out.index(lower) + 1) / (len(out) + 1)
        left, y2, wide, _ = places[lower]
        x2 = left + wide * (into.index(upper) + 1) / (len(into) + 1)
        if y2 == y:  # the one sideways import
            side = x + width if left > x else x
            other = left if left > x else left + wide
            arrows.append(f'<path d="M{side:.0f},{y + 15:.0f} L{other:.0f},{y + 15:.0f}"/>')
            continue
        y1 = y + height
        bend = min(GAP, (y2 - y1) / 2)
        arrows.append(
            f'<path d="M{x1:.0f},{y1:.0f} C{x1:.0f},{y1 + bend:.0f} {x2:.0f},{y2 - bend:.0f} {x2:.0f},{y2:.0f}"/>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top - GAP + MARGIN:.0f}">\n'
        "<style>rect{fill:#eef3fb;stroke:#5b7db1}text{font:bold 14px sans-serif;fill:#333;text-anchor:middle}"
        "path{fill:none;stroke:#888;marker-end:url(#tip)}</style>\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" style="fill:#888;stroke:none;marker-end:none"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{top - GAP + MARGIN:.0f}" style="fill:#fff;stroke:none"/>\n'
        + "\n".join(arrows + shapes)
        + "\n</svg>\n"
    )


def table(edges: Edges) -> str:
    """Return the table: each box, and what it imports."""
    lines = ["| folder | imports from |\n|---|---|\n"]
    order = [box for row in reversed(layers()) for box in row]
    for box in order:
        found = [f"`{lower}`" for lower in order if (box, lower) in edges]
        lines.append(f"| `{box}` | {', '.join(found) or 'nothing'} |\n")
    return "".join(lines)


def main(arguments: list[str]) -> int:
    """Write, or check, the picture and the table; return the exit status."""
    edges = imports()
    page = EXPLANATION / "structure.md"
    made = {
        EXPLANATION / "imports.svg": picture(edges),
        page: _TABLE.sub(lambda match: match[1] + table(edges) + match[2], page.read_text("utf-8")),
    }
    status = 0
    for path, text in made.items():
        if not path.exists() or path.read_text("utf-8") != text:
            check = "--check" in arguments
            print(f"{path.name}: {'not current; run docs/_scripts/structure.py' if check else 'written'}")
            status = int(check) or status
            if not check:
                path.write_text(text, "utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
