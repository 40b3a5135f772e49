"""JSON is sent as text that UTF-8 can carry, by whatever writes it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from gows import Response
from gows.jsontext import to_json_text
from gows.topics.publication import to_json
from tests.support import wire
from tests.support.stage import Stage

HALVES = ["\ud83d", "\ude00", {"cut \ud83d": ["ä\udfff"]}, ["\ud83d", "🎉"]]


@pytest.mark.parametrize("value", [1, "ä€🎉", {"a": [1, None, True]}, "\u2028"])
def test_text_stands_as_it_is(value: Any) -> None:
    assert to_json_text(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize("value", HALVES)
def test_half_of_a_pair_is_escaped(value: Any) -> None:
    text = to_json_text(value)

    assert text.isascii()
    assert json.loads(text.encode()) == value


def test_numbers_that_are_none_are_written_where_they_may_be() -> None:
    assert to_json_text(math.inf) == "Infinity"
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json_text(math.inf, allow_nan=False)
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json_text(["\ud83d", math.nan], allow_nan=False)
    with pytest.raises(TypeError):
        to_json_text({1, 2})


@pytest.mark.parametrize("value", HALVES)
def test_a_connection_carries_it(make_stage: Callable[..., Stage], value: Any) -> None:
    guest, actor = make_stage().guest()

    actor.ws.write_json(value)

    frame = guest.read()
    assert frame.opcode == wire.TEXT
    assert json.loads(frame.payload.decode()) == value


@pytest.mark.parametrize("value", HALVES)
def test_an_answer_and_a_publication_carry_it(value: Any) -> None:
    assert json.loads(Response.json(value).body.decode()) == value
    assert json.loads(to_json(value).decode()) == value
