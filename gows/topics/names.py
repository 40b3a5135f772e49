"""Names of topics and patterns: which are allowed, and which word stands for others.

A topic is a name of words with dots between them: "prices.eu.gold". What is subscribed to is a topic, or a pattern, in
which the word `*` stands for any one word, and `>` as the last one for one or more: "prices.*.gold", "prices.>".
"""

from __future__ import annotations

ONE, REST = "*", ">"
"""Words that stand for others: any one word, and, at the end of a pattern, one or more."""
MAX_LENGTH = 255
"""Characters of a topic's name."""
MAX_WORDS = 16
"""Words of a topic's name."""


def is_pattern(words: list[str]) -> bool:
    """Return whether a name of these words stands for more than one topic."""
    return ONE in words or words[-1] == REST


def check_topic(topic: str, longest: int = MAX_LENGTH) -> None:
    """Raise ValueError, or TypeError, for what cannot be published to."""
    if any(word in (ONE, REST) for word in _words(topic, longest)):
        raise ValueError(f"{topic!r} is a pattern: a message has one topic")


def check_pattern(pattern: str, longest: int | None = MAX_LENGTH) -> list[str]:
    """Return the words of what may be subscribed to. Raises ValueError, or TypeError, for what may not. `longest`: None
    for what may have been subscribed to under other limits."""
    words = _words(pattern, longest)
    if REST in words[:-1]:
        raise ValueError(f"{REST!r} stands at the end of a pattern, not within {pattern!r}")
    return words


def _words(name: str, longest: int | None) -> list[str]:
    if not isinstance(name, str):
        raise TypeError(f"a topic is a str, not {type(name).__name__}")
    if not name or (longest is not None and len(name) > longest):
        raise ValueError(f"a topic has 1 to {longest or MAX_LENGTH} characters, not {len(name)}")
    shown = repr(name if len(name) <= 300 else f"{name[:300]}…")
    if " " in name or not name.isprintable():
        raise ValueError(f"a topic has no spaces and no control characters: {shown}")
    words = name.split(".")
    if longest is not None and len(words) > MAX_WORDS:
        raise ValueError(f"a topic has at most {MAX_WORDS} words, not {len(words)}: {shown}")
    for word in words:
        if not word:
            raise ValueError(f"a topic has words with a dot between them, and none is empty: {shown}")
        if len(word) > 1 and (ONE in word or REST in word):
            raise ValueError(f"{ONE!r} and {REST!r} are words of their own: {shown}")
    return words


def is_text(text: str) -> bool:
    """Return whether `text` can be sent: half of a surrogate pair, which JSON may have, is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
