"""The coverage gate lets nothing through that it is there to stop."""

from __future__ import annotations

from typing import Any

from tests.support.coverage_gate import judge


def file(covered: int, total: int, branches: list[tuple[int, int]] | None = None) -> dict[str, Any]:
    missing = branches or []
    return {
        "summary": {
            "num_statements": total,
            "covered_lines": covered,
            "num_branches": len(missing),
            "covered_branches": 0,
        },
        "missing_lines": list(range(covered + 1, total + 1)),
        "missing_branches": missing,
    }


WHOLE = {
    "gows/protocol/frames.py": file(10, 10),
    "gows/bufferpool.py": file(10, 10),
    "gows/bytebuffer.py": file(10, 10),
    "gows/codes.py": file(10, 10),
    "gows/errors.py": file(10, 10),
}
REST = {"gows/session/session.py": file(95, 100)}


def test_all_and_enough_pass() -> None:
    assert judge(WHOLE | REST)[0]


def test_one_missing_line_in_the_protocol_fails_and_is_named() -> None:
    good, told = judge(WHOLE | REST | {"gows/protocol/frames.py": file(9, 10)})
    assert not good
    assert "  gows/protocol/frames.py: 10" in told


def test_one_missing_branch_in_the_protocol_fails_and_is_named() -> None:
    good, told = judge(WHOLE | REST | {"gows/bytebuffer.py": file(10, 10, [(4, -1), (7, 9)])})
    assert not good
    assert "  gows/bytebuffer.py: 4->exit, 7->9" in told


def test_too_little_of_the_rest_fails() -> None:
    assert not judge(WHOLE | {"gows/session/session.py": file(94, 100)})[0]
    assert judge(WHOLE | {"gows/session/session.py": file(94, 100), "gows/server/server.py": file(100, 100)})[0]


def test_what_was_not_measured_fails() -> None:
    assert not judge(REST)[0]
    assert not judge({path: seen for path, seen in WHOLE.items() if path != "gows/codes.py"} | REST)[0]
    assert not judge(WHOLE)[0]
