"""Which topics a pattern stands for: one table for all who decide it, the server (`Patterns`, `stands_for`), the Python
client and gows.js. The rule is in docs/reference/topics.md.

`WRITTEN` was written by hand, `SMALL` has every pattern and every topic of at most three short words, with what a
regular expression says of them.
"""

from __future__ import annotations

import re
from itertools import product

Vector = tuple[str, str, bool]
"""A pattern, a topic, and whether the pattern stands for the topic."""

WRITTEN: list[Vector] = [
    # a name stands for itself
    ("a", "a", True),
    ("a", "b", False),
    ("a", "A", False),
    ("a", "a.b", False),
    ("a.b", "a", False),
    ("a.b", "a.b", True),
    ("a.b", "a.bb", False),
    ("a.b", "ab", False),
    ("a.b", "axb", False),
    # one word
    ("*", "a", True),
    ("*", "a.b", False),
    ("a.*", "a.b", True),
    ("a.*", "a", False),
    ("a.*", "a.b.c", False),
    ("a.*", "b.b", False),
    ("*.b", "a.b", True),
    ("*.b", "a.c", False),
    ("*.b", "b", False),
    ("a.*.c", "a.b.c", True),
    ("a.*.c", "a.c", False),
    ("a.*.c", "a.b.b.c", False),
    ("*.*", "a.b", True),
    ("*.*", "a", False),
    # the rest: one word or more
    (">", "a", True),
    (">", "a.b.c", True),
    ("a.>", "a", False),
    ("a.>", "a.b", True),
    ("a.>", "a.b.c", True),
    ("a.>", "b.c", False),
    ("a.>", "aa.b", False),
    ("*.>", "a", False),
    ("*.>", "a.b", True),
    ("a.*.>", "a.b", False),
    ("a.*.>", "a.b.c.d", True),
    ("*.b.>", "a.b.c", True),
    ("*.b.>", "a.c.b", False),
    # words that mean something elsewhere
    ("a.+", "a.b", False),
    ("a.#", "a.b", False),
    ("a.[b]", "a.b", False),
    ("a.b$", "a.b", False),
    ("a.?", "a.b", False),
    ("constructor.*", "constructor.a", True),
    ("__proto__.>", "__proto__.a", True),
    ("*.toString", "a.toString", True),
    ("toString", "a", False),
    # letters of other alphabets, one of two UTF-16 units, one letter and its composition
    ("größe.*", "größe.ß", True),
    ("*.\U0001f600", "a.\U0001f600", True),
    ("\U0001f600.>", "\U0001f601.a", False),
    ("é", "e\u0301", False),
    # the longest names
    (".".join("*" * 16), ".".join("abcdefghijklmnop"), True),
    (".".join([*("*" * 15), ">"]), ".".join("abcdefghijklmnop"), True),
    (".".join([*("*" * 15), ">"]), ".".join("abcdefghijklmno"), False),
]


def _expression(pattern: str) -> str:
    """Return a pattern as a regular expression."""
    words = {"*": r"[^.]+", ">": r".+"}
    return r"\.".join(words.get(word, re.escape(word)) for word in pattern.split("."))


def _small() -> list[Vector]:
    """Return all pairs of small patterns and topics."""
    topics = [".".join(words) for size in (1, 2, 3) for words in product("ab", repeat=size)]
    heads = [words for size in (0, 1, 2, 3) for words in product("ab*", repeat=size)]
    patterns = [".".join(words) for words in heads if words]
    patterns += [".".join([*words, ">"]) for words in heads if len(words) < 3]
    return [
        (pattern, topic, re.fullmatch(_expression(pattern), topic) is not None)
        for pattern in patterns
        for topic in topics
    ]


SMALL = _small()
VECTORS = WRITTEN + SMALL
