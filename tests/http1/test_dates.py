from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gows.http1.dates import format_date, parse_date


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("Sun Nov  6 08:49:37 1994", 784111777),
        ("Mon, 06 nov 1994 08:49:37 GMT", 784111777),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Tuesday, 01-Jan-69 00:00:00 GMT", 3124224000),
        ("Thursday, 01-Jan-70 00:00:00 GMT", 0),
        ("Sat, 01 Jan 0001 00:00:00 GMT", -62135596800),
    ],
)
def test_the_three_forms(text: str, seconds: int) -> None:
    assert parse_date(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "784111777",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 +0100",
        "Sun, 06 Nox 1994 08:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 32 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT ",
        "Sun, ٠٦ Nov 1994 08:49:37 GMT",
    ],
)
def test_what_is_no_date(text: str) -> None:
    assert parse_date(text) is None


@given(st.integers(0, 253402300799))
def test_what_is_written_can_be_read(seconds: int) -> None:
    assert parse_date(format_date(seconds)) == seconds


@pytest.mark.parametrize("text", ["(" * 100_000, "Sun, " + "0" * 100_000, " " * 100_000, "Sun Nov " * 20_000])
def test_a_long_one_takes_no_time(text: str) -> None:
    start = time.process_time()
    assert parse_date(text) is None
    assert time.process_time() - start < 0.1
