"""A missing tool skips a test here and fails it in CI."""

from __future__ import annotations

import sys

import pytest

from tests.support import needs


def test_the_first_program_found_is_returned() -> None:
    assert needs.need("no-such-program-anywhere", "sh").endswith("/sh")


def test_a_module_that_is_there_is_imported() -> None:
    assert needs.need_module("sys") is sys


def test_a_missing_program_skips_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "IN_CI", False)
    with pytest.raises(pytest.skip.Exception, match="no-such-program-anywhere is missing"):
        needs.need("no-such-program-anywhere")


def test_a_missing_module_skips_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "IN_CI", False)
    with pytest.raises(pytest.skip.Exception, match="no_such_module_anywhere"):
        needs.need_module("no_such_module_anywhere")


def test_in_ci_a_missing_tool_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "IN_CI", True)
    with pytest.raises(pytest.fail.Exception, match="no-such-program-anywhere is missing"):
        needs.need("no-such-program-anywhere")
    with pytest.raises(pytest.fail.Exception, match="no_such_module_anywhere"):
        needs.need_module("no_such_module_anywhere")
