from __future__ import annotations

import pytest

from gows.commands.screen import Screen, columns


def test_a_message_is_put_above_the_line_being_typed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    screen = Screen(True)
    screen.show("before")
    screen.prompt()
    screen.show("short")
    screen.note("x" * 41)
    screen.entered()
    screen.show("after")
    screen.prompt()
    screen.end_prompt()
    screen.end_prompt()
    assert capsys.readouterr().out == (
        "before\n"
        "> "
        "\x1b7\n\x1b[1A\x1b[1L\rshort\x1b8\x1b[1B"
        "\x1b7\n\n\n\x1b[3A\x1b[3L\r" + "x" * 41 + "\x1b8\x1b[3B"
        "after\n"
        "> \n"
    )


@pytest.mark.parametrize(("text", "width"), [("", 0), ("abc", 3), ("äöü", 3), ("e\u0301", 1), ("漢字", 4), ("🙂", 2)])
def test_columns(text: str, width: int) -> None:
    assert columns(text) == width
