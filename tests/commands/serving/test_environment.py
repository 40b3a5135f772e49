"""The file of --env-file."""

from __future__ import annotations

from pathlib import Path

import pytest

from gows.commands.serving.environment import load, parse


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NAME=value", "value"),
        ("  export NAME = a value  ", "a value"),
        ("NAME=", ""),
        ("NAME=a#b # a comment", "a#b"),
        ("NAME='as $it \\n stands # here' # a comment", "as $it \\n stands # here"),
        (r'NAME="two\nlines, \"said\" \\"', 'two\nlines, "said" \\'),
        ("NAME=https://user@host/?a=b", "https://user@host/?a=b"),
    ],
)
def test_a_line(line: str, value: str) -> None:
    assert list(parse(f"# first\n\n{line}\n")) == [("NAME", value)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A=1\nno variable\n", "line 2 is not NAME=value"),
        ("1A=1", "line 1 is not NAME=value"),
        ("A='open", "line 1 has a quotation mark without its end"),
        ('A="a" b', "line 1 has a quotation mark without its end"),
    ],
)
def test_what_cannot_be_read(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        list(parse(text))


def test_what_is_set_stays(tmp_path: Path) -> None:
    (tmp_path / "site.env").write_text("A=file\nB=file\nB=again\n")
    environ = {"A": "before"}
    load(str(tmp_path / "site.env"), environ)
    assert environ == {"A": "before", "B": "file"}
