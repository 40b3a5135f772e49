"""The fields of an answer, given as bytes."""

from __future__ import annotations

from typing import Any

import pytest

from gows.errors import InvalidHeaderError
from gows.http1.answer import MAX_NAMES, AnswerFields, _names, field_block


def test_fields_as_they_are_given() -> None:
    fields = AnswerFields([(b"content-type", b"text/plain"), (b"Set-Cookie", b"a=\xe4\t1"), (b"set-cookie", b"")])
    assert fields.block == b"content-type: text/plain\r\nSet-Cookie: a=\xe4\t1\r\nset-cookie: \r\n"
    assert (fields.length, fields.close, fields.date) == (None, False, False)
    assert AnswerFields([]).block == b""


def test_pairs_may_be_lists_and_come_from_an_iterator() -> None:
    assert AnswerFields(iter([[b"a", b"b"]])).block == b"a: b\r\n"  # type: ignore[arg-type]


def test_what_is_the_servers_is_noted() -> None:
    fields = AnswerFields(
        [
            (b"Content-Length", b"12"),
            (b"connection", b"Keep-Alive, Close"),
            (b"Transfer-Encoding", b"chunked"),
            (b"keep-alive", b"timeout=5"),
            (b"upgrade", b"h2c"),
            (b"date", b"now"),
        ]
    )
    assert (fields.block, fields.length, fields.close, fields.date) == (b"date: now\r\n", 12, True, True)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"a", b"b\r\nc: d")],
        [(b"a", b"b\n")],
        [(b"a", b"\r")],
        [(b"a", b"\0")],
        [(b"a", b"b"), (b"c", b"x\r\n")],
        [(b"a b", b"c")],
        [(b"a:", b"c")],
        [(b"", b"c")],
        [(b"a\r\n", b"c")],
        [("a", b"c")],
        [(b"a", "c")],
        [(b"a",)],
        [b"a"],
        7,
        [(b"content-length", b"-1")],
        [(b"content-length", b"1.5")],
        [(b"content-length", b"")],
        [(b"content-length", b"1"), (b"content-length", b"1")],
    ],
)
def test_what_may_not_be_sent(headers: Any) -> None:
    with pytest.raises(InvalidHeaderError):
        AnswerFields(headers)


def test_a_block_beside_an_answer_has_no_length() -> None:
    assert field_block([(b"a", b"b")]) == b"a: b\r\n"
    with pytest.raises(InvalidHeaderError):
        field_block([(b"content-length", b"1")])


def test_no_more_than_some_names_are_remembered() -> None:
    for number in range(MAX_NAMES + 10):
        AnswerFields([(b"x-%d" % number, b"")])
    assert len(_names) <= MAX_NAMES
