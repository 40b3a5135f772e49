"""Judges coverage: 100 % of lines and branches where a mistake travels furthest, 95 % of the rest together.

    coverage json -o REPORT.json && python -m tests.support.coverage_gate REPORT.json

Prints every line and branch that is missing where all are wanted, and the ten least covered of the rest.
Exit status: 0 when both gates hold.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

WHOLE = ("gows/protocol/", "gows/bufferpool.py", "gows/bytebuffer.py", "gows/codes.py", "gows/errors.py")
REST = 95.0

Files = dict[str, dict[str, Any]]


def is_whole(path: str) -> bool:
    """Whether all of the file at `path` must be covered."""
    return path.startswith(WHOLE)


def share(files: Files) -> float:
    """Covered lines and branches of `files` together, in percent; 0 when there are none to cover."""
    summaries = [file["summary"] for file in files.values()]
    total = sum(summary["num_statements"] + summary["num_branches"] for summary in summaries)
    covered = sum(summary["covered_lines"] + summary["covered_branches"] for summary in summaries)
    return 100.0 * covered / total if total else 0.0


def gaps(file: dict[str, Any]) -> str:
    """The lines and branches of one file that no test reached."""
    lines = [str(line) for line in file["missing_lines"]]
    branches = [f"{start}->{'exit' if end <= 0 else end}" for start, end in file["missing_branches"]]
    return ", ".join(lines + branches)


def judge(files: Files) -> tuple[bool, list[str]]:
    """Whether both gates hold, and what to print about it."""
    whole = {path: file for path, file in files.items() if is_whole(path)}
    rest = {path: file for path, file in files.items() if not is_whole(path)}
    holes = {path: gaps(file) for path, file in sorted(whole.items()) if gaps(file)}
    unseen = [name for name in WHOLE if not any(path.startswith(name) for path in whole)]
    told = [f"coverage of {', '.join(WHOLE)}: {share(whole):.2f} % (wanted: 100)"]
    told += [f"  {path}: {missing}" for path, missing in holes.items()]
    told += [f"  {name}: not measured" for name in unseen]
    told.append(f"coverage of the rest: {share(rest):.2f} % (wanted: {REST:g})")
    least = sorted((path for path in rest if gaps(rest[path])), key=lambda path: share({path: rest[path]}))
    told += [f"  {share({path: rest[path]}):6.2f} %  {path}: {gaps(rest[path])}" for path in least[:10]]
    return not holes and not unseen and share(rest) >= REST, told


def main() -> int:
    good, told = judge(json.loads(Path(sys.argv[1]).read_text())["files"])
    print("\n".join(told))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
