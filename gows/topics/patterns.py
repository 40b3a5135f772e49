"""Patterns: finds the patterns that stand for a topic.

Patterns with wildcards in the same places have one *shape*, a number in which each `*` is a bit. A topic is looked for
in each shape: with wildcards put into the same places of its own words it is the pattern's text, and that is the key of
a dict that exists anyway. So a pattern costs no memory of its own, but for a few numbers, while a tree of words cost
some hundred bytes for each word. Shapes are grouped by their first word and their length: what patterns under one word
cost is paid by topics under that word alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from gows.topics.names import ONE, REST


def stands_for(pattern: list[str], words: list[str]) -> bool:
    """Return whether a pattern, or a name, of the words `pattern` stands for the topic of these words."""
    if pattern[-1] == REST:
        pattern = pattern[:-1]
        if len(words) <= len(pattern):
            return False
    elif len(words) != len(pattern):
        return False
    return all(word in (ONE, other) for word, other in zip(pattern, words, strict=False))


class Patterns:
    """The patterns of one server's subscriptions. The caller's lock guards every call."""

    __slots__ = ("_shapes",)

    def __init__(self) -> None:
        # by first word, number of words, and whether it ends with `>`: how many patterns each shape has
        self._shapes: dict[tuple[str, int, bool], dict[int, int]] = {}

    def add(self, words: list[str]) -> None:
        """Add a pattern that is not there yet."""
        shapes = self._shapes.setdefault(_group(words), {})
        shape = _shape(words)
        shapes.setdefault(shape, 0)
        shapes[shape] += 1

    def remove(self, words: list[str]) -> None:
        """Remove a pattern that is there."""
        group, shape = _group(words), _shape(words)
        shapes = self._shapes[group]
        shapes[shape] -= 1
        if not shapes[shape]:
            del shapes[shape]
            if not shapes:
                del self._shapes[group]

    def candidates(self, words: list[str]) -> Iterator[str]:
        """Yield each text that a pattern may have which stands for the topic of these words; most are no pattern that
        was added. None comes twice."""
        for length, rest in ((len(words), False), *((most, True) for most in range(1, len(words) + 1))):
            fixed = words[: length - 1] if rest else words
            for first in (REST,) if rest and length == 1 else (words[0], ONE):
                for shape in self._shapes.get((first, length, rest), ()):
                    named = [ONE if shape >> at & 1 else word for at, word in enumerate(fixed)]
                    yield ".".join((*named, REST) if rest else named)

    def __len__(self) -> int:
        return sum(sum(shapes.values()) for shapes in self._shapes.values())


def _group(words: list[str]) -> tuple[str, int, bool]:
    return words[0], len(words), words[-1] == REST


def _shape(words: list[str]) -> int:
    return sum(1 << at for at, word in enumerate(words) if word == ONE)
