"""Cursor: how far a client has come in a topic."""

from __future__ import annotations

from typing import Any

import pytest

from gows.client.cursor import Cursor, Take


@pytest.fixture
def cursor() -> Cursor:
    subscription: Any = None
    made = Cursor("room.a", subscription)
    made.answered(("old", 0), recovered=False)
    for offset in (1, 2):
        assert made.take(("old", offset)) is Take.DELIVER
    return made


def test_a_process_that_keeps_nothing_of_a_topic_does_not_make_it_forget_what_it_has_heard(cursor: Cursor) -> None:
    assert cursor.answered(None, recovered=False)
    assert cursor.answered(None, recovered=False)  # by another one
    assert not cursor.misses(("old", 2))
    assert cursor.take(("old", 1)) is Take.DROP
    assert cursor.take(("old", 2)) is Take.DROP
    assert cursor.take(("old", 3)) is Take.DELIVER


def test_what_came_meanwhile_is_asked_for_from_where_it_was(cursor: Cursor) -> None:
    cursor.answered(None, recovered=False)
    assert cursor.take(("old", 4)) is Take.JUMP
    assert cursor.position == ("old", 2)


def test_a_new_epoch_begins_at_its_first_message(cursor: Cursor) -> None:
    cursor.answered(None, recovered=False)
    assert cursor.take(("new", 1)) is Take.DELIVER
    assert cursor.take(("new", 1)) is Take.DROP
