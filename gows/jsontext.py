"""JSON as it is sent: short, and as text that UTF-8 can carry."""

from __future__ import annotations

import json
from typing import Any


def to_json_text(value: Any, *, allow_nan: bool = True) -> str:
    """Return `value` as JSON without spaces. Raises TypeError or ValueError for what JSON cannot write.

    Characters stand as they are. Only a text with half of a surrogate pair, which UTF-8 cannot carry (a page may cut a
    string amid an emoji), is written with escapes, as `json.dumps` does by default. `allow_nan`: whether NaN and the
    infinities are written, which not every reader takes.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=allow_nan)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = json.dumps(value, separators=(",", ":"), allow_nan=allow_nan)
    return text
