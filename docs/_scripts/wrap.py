"""Wrap the prose of Markdown pages at 120 columns: `python docs/_scripts/wrap.py [--check] PAGE...`.

Paragraphs and list items are filled. Tables, code, headings, comments and quotes stay as they are. `--check` changes
nothing, and ends with status 1 when a page is not wrapped.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

WIDTH = 120

# What begins a line that is no prose: a heading, a table, a comment or a tag, a quote, a rule, an mkdocstrings block.
_FIXED = re.compile(r"#{1,6} |\||<|>|---|:::|!!!|\?\?\?|={3} ")
_ITEM = re.compile(r"( *)([-*]|\d+\.) +")
_FENCE = re.compile(r" *```")
# Parts that stay on one line: code and links.
_TIED = re.compile(r"`[^`]*`|\[[^\]]*\]\([^)]*\)")


def wrap(text: str) -> str:
    """Return `text` with its paragraphs and list items filled."""
    out: list[str] = []
    paragraph: list[str] = []
    first = rest = ""
    fenced = False
    head = text.startswith("---\n")

    def end() -> None:
        if paragraph:
            out.extend(_fill(" ".join(paragraph), first, rest))
            paragraph.clear()

    for number, line in enumerate(text.splitlines()):
        if head or fenced or _FENCE.match(line) or not line.strip() or _FIXED.match(line.lstrip()):
            end()
            out.append(line.rstrip())
            if head:
                head = number == 0 or line != "---"
            elif _FENCE.match(line):
                fenced = not fenced
            rest = "" if not line.strip() else rest
            continue
        item = _ITEM.match(line)
        if item is not None:
            end()
            first, rest = item[0], " " * len(item[0])
            paragraph.append(line[len(first) :].strip())
        elif paragraph:
            paragraph.append(line.strip())
        else:
            indent = " " * (len(line) - len(line.lstrip()))
            if len(indent) >= 4 and not rest:  # code by indentation
                out.append(line.rstrip())
                continue
            first = rest = indent
            paragraph.append(line.strip())
    end()
    return "\n".join(out) + "\n"


def _fill(text: str, first: str, rest: str) -> list[str]:
    # A space within code or a link is no place to break; nor is one before what would begin an item there.
    tied = _TIED.sub(lambda code: code[0].replace(" ", "\0"), text)
    lines, line = [], first
    empty = True
    for word in tied.split():
        if not empty and len(line) + 1 + len(word) > WIDTH and not re.fullmatch(r"[-+*|]|#+|\d+\.|[|<>:].*", word):
            lines.append(line)
            line, empty = rest, True
        line += word if empty else " " + word
        empty = False
    lines.append(line)
    return [each.replace("\0", " ") for each in lines]


def main(arguments: list[str]) -> int:
    """Wrap the pages that `arguments` name; return the exit status."""
    check = "--check" in arguments
    status = 0
    for name in arguments:
        if name.startswith("--"):
            continue
        page = Path(name)
        text = page.read_text("utf-8")
        wrapped = wrap(text)
        if wrapped != text:
            status = int(check)
            print(f"{name}: {'not wrapped; run docs/_scripts/wrap.py' if check else 'wrapped'}")
            if not check:
                page.write_text(wrapped, "utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
