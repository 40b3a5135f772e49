from __future__ import annotations

from typing import Any

import pytest

from gows import options
from gows.options import (
    AcceptOptions,
    default_options,
    set_frame_read_buffer_size,
    set_message_buffer_size,
    set_min_compress_size,
    set_origin_check_func,
    use_flate,
)


@pytest.fixture(autouse=True)
def defaults_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "_default", AcceptOptions())


def test_the_defaults_are_those_of_the_design() -> None:
    made = AcceptOptions()
    assert made.max_message_size == 1 << 20
    assert made.max_fragments == 16384
    assert made.max_empty_fragments == 128
    assert made.min_compress_size == 1024
    assert not made.compression
    assert not made.server_context_takeover
    assert not made.client_context_takeover
    assert made.close_timeout == 5
    assert made.ping_interval == 30
    assert made.ping_timeout == 20
    assert made.high_water == 256 * 1024
    assert made.check_origin is None
    assert made == default_options()


BAD_VALUES: list[tuple[str, Any, type[Exception]]] = [
    ("subprotocols", "chat", TypeError),
    ("check_origin", "yes", TypeError),
    ("compression_level", 0, ValueError),
    ("compression_level", 10, ValueError),
    ("compression_level", "1", TypeError),
    ("compression_level", True, TypeError),
    ("compression_level", 1.0, TypeError),
    ("min_compress_size", -1, ValueError),
    ("server_max_window_bits", 16, ValueError),
    ("server_max_window_bits", 7, ValueError),
    ("client_max_window_bits", 7, ValueError),
    ("client_max_window_bits", 16, ValueError),
    ("max_message_rate", 0, ValueError),
    ("max_message_rate", float("nan"), ValueError),
    ("max_message_rate", float("inf"), ValueError),
    ("max_message_rate", "10", TypeError),
    ("max_message_rate", True, TypeError),
    ("message_burst", 1, ValueError),  # of no rate
    ("max_byte_rate", -1.5, ValueError),
    ("byte_burst", 1.0, TypeError),
    ("byte_burst", 0, ValueError),
    ("max_message_size", 0, ValueError),
    ("max_message_size", None, TypeError),
    ("max_fragments", 0, ValueError),
    ("max_empty_fragments", -1, ValueError),
    ("frame_read_buffer_size", 511, ValueError),
    ("frame_read_buffer_size", (1 << 26) + 1, ValueError),
    ("message_buffer_size", 0, ValueError),  # a size of 0 made the seed spin for ever
    ("high_water", 0, ValueError),
    ("low_water", -1, ValueError),
    ("low_water", 262145, ValueError),
    ("inbox_messages", 0, ValueError),
    ("group", None, TypeError),
    ("group", b"chat", TypeError),
    ("overflow", "panic", ValueError),
    ("ping_interval", 0, ValueError),
    ("ping_timeout", -1.0, ValueError),
    ("read_timeout", "5", TypeError),
    ("write_timeout", True, TypeError),
    ("write_timeout", float("nan"), ValueError),
    ("close_timeout", None, TypeError),
    ("close_timeout", 0, ValueError),
]


@pytest.mark.parametrize(("name", "value", "error"), BAD_VALUES, ids=lambda value: str(value)[:30])
def test_a_wrong_value_is_refused_where_it_is_set(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        AcceptOptions(**{name: value})


GOOD_VALUES: list[tuple[str, Any]] = [
    ("min_compress_size", 0),
    ("max_empty_fragments", 0),
    ("client_max_window_bits", 8),
    ("compression_level", 9),
    ("frame_read_buffer_size", 512),
    ("overflow", "drop"),
    ("overflow", "close"),
    ("low_water", 0),
    ("low_water", 262144),
    ("ping_interval", None),
    ("ping_timeout", 0.5),
    ("read_timeout", 10),
    ("write_timeout", None),
    ("check_origin", lambda request: True),
]


@pytest.mark.parametrize(("name", "value"), GOOD_VALUES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_values_at_the_edge_are_taken(name: str, value: Any) -> None:
    assert getattr(AcceptOptions(**{name: value}), name) == value


def test_subprotocols_become_a_tuple() -> None:
    assert AcceptOptions(subprotocols=["a", "b"]).subprotocols == ("a", "b")


def test_the_module_level_functions_change_the_defaults() -> None:
    def check(request: object) -> bool:
        return True

    use_flate(3)
    set_min_compress_size(512)
    set_origin_check_func(check)
    set_frame_read_buffer_size(8192)
    set_message_buffer_size(100)
    made = default_options()
    assert made.compression
    assert made.compression_level == 3
    assert made.min_compress_size == 512
    assert made.check_origin is check
    assert made.frame_read_buffer_size == 8192
    assert made.message_buffer_size == 100
    set_origin_check_func(None)
    assert default_options().check_origin is None
    use_flate()
    assert default_options().compression_level == 1


def test_a_change_of_the_defaults_leaves_earlier_ones_alone() -> None:
    before = default_options()
    assert default_options() is before
    set_min_compress_size(5)
    assert default_options() is not before
    assert before.min_compress_size == 1024


@pytest.mark.parametrize(
    ("change", "value"),
    [(use_flate, 0), (set_min_compress_size, -1), (set_frame_read_buffer_size, 1), (set_message_buffer_size, 0)],
)
def test_a_refused_change_changes_nothing(change: Any, value: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        change(value)
    assert default_options() == AcceptOptions()
