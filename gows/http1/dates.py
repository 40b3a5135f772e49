"""Dates as HTTP writes them (RFC 9110 §5.6.7).

The parser of the standard library is made for mail: it takes far more, and never was meant for what peers make up.
"""

from __future__ import annotations

import re
from calendar import timegm
from email.utils import formatdate

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_TIME = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_matches = [
    re.compile(pattern).fullmatch
    for pattern in (
        rf"[A-Za-z]{{3}}, (?P<day>[0-9]{{2}}) (?P<month>[A-Za-z]{{3}}) (?P<year>[0-9]{{4}}) {_TIME} GMT",
        rf"[A-Za-z]{{6,9}}, (?P<day>[0-9]{{2}})-(?P<month>[A-Za-z]{{3}})-(?P<year>[0-9]{{2}}) {_TIME} GMT",
        rf"[A-Za-z]{{3}} (?P<month>[A-Za-z]{{3}}) (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})",
    )
]


def parse_date(text: str) -> int | None:
    """Return the seconds since 1970 of a date in one of HTTP's three forms; None when it is none.

    The name of the day is not looked at. A year of two digits is of 1970 to 2069.
    """
    for match in _matches:
        found = match(text)
        if found is None:
            continue
        month = found["month"].lower()
        year, day, hour, minute, second = (int(found[name]) for name in ("year", "day", "hour", "minute", "second"))
        if len(found["year"]) == 2:
            year += 2000 if year < 70 else 1900
        if month not in _MONTHS or year < 1 or not 1 <= day <= 31 or hour > 23 or minute > 59 or second > 60:
            return None
        return timegm((year, _MONTHS.index(month) + 1, day, hour, minute, second))
    return None


def format_date(seconds: float) -> str:
    """Return a date in HTTP's preferred form."""
    return formatdate(seconds, usegmt=True)
