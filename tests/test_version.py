"""The version stands in one place, `gows.__version__`; what is built and installed has that."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys

import gows
from tests.support.needs import need_module
from tests.support.processes import ROOT


def test_it_stands_in_one_place() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert 'dynamic = ["version"]' in project
    assert not re.search(r"^version *= *[\"']", project, re.MULTILINE)


def test_what_is_installed_has_it() -> None:
    assert importlib.metadata.version("gows") == gows.__version__


def test_what_would_be_built_has_it() -> None:
    need_module("setuptools")
    command = [sys.executable, "setup.py", "--quiet", "--version"]
    environment = os.environ | {"GOWS_PURE": "1", "GOWS_REQUIRE_COMPILED": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50)
    assert done.stdout.split()[-1:] == [gows.__version__], done.stderr


def test_the_changelog_has_a_section_for_it() -> None:
    assert f"## [{gows.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
