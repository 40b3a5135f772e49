"""A hook of MkDocs: pages of the site link to files of the repository as they do in the repository.

Pages link to each other, and to files outside of docs/, by relative paths, so that they can be read where they lie. The
site has only what is in docs/. So the files in `PUBLISHED` become pages of it, and a link to any other file of the
repository becomes its name. A link to a file that is not there is left alone: MkDocs then fails.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]

PUBLISHED = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
} | {f"examples/{path.name}": f"examples/{path.stem}.md" for path in sorted((ROOT / "examples").glob("*.py"))}
"""What becomes a page, by its path in the repository."""

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_CODE = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each file in `PUBLISHED`."""
    for source, page in PUBLISHED.items():
        text = (ROOT / source).read_text("utf-8")
        if source.endswith(".py"):
            text = f"# {Path(source).name}\n\n```python\n{text}```\n"
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links that leave docs/ to the pages made for them."""
    here = page.file.src_uri
    origin = {made: source for source, made in PUBLISHED.items()}.get(here, f"docs/{here}")

    def lead(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        path, hash_sign, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
        if wanted in PUBLISHED:
            goal = PUBLISHED[wanted]
        elif wanted.startswith("docs/"):
            goal = wanted.removeprefix("docs/")
        elif (ROOT / wanted).exists():
            return text
        else:
            return match[0]
        return f"{mark}[{text}]({posixpath.relpath(goal, posixpath.dirname(here))}{hash_sign}{anchor})"

    # Odd parts are blocks of code, and stay as they are.
    parts = _CODE.split(markdown)
    return "".join(part if number % 2 else _LINK.sub(lead, part) for number, part in enumerate(parts))
