"""Contexts: what connections with equal options share, found by the values of those options."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import fields
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from gows.options import AcceptOptions

Context = TypeVar("Context")

KEPT = 32
"""Contexts that are kept without a connection that uses them, and as many of those used before them."""

NAMES = tuple(field.name for field in fields(AcceptOptions) if field.name != "check_origin")
"""The options that make a difference to a connection. The handshake is over by then: a function that is made for each
request (`check_origin=lambda …`) is no reason for a context of its own."""

values_of: Callable[[AcceptOptions], tuple[Any, ...]] = eval(
    f"lambda options: ({', '.join(map('options.{}'.format, NAMES))})"
)
"""Returns the values of options, in the order of `NAMES`. This is done for each connection, and written out: CPython
reads a slot in a twentieth of the time that it takes `operator.attrgetter`."""


class Contexts(Generic[Context]):
    """The contexts of one loop. Any thread; without a lock, since a finaliser may come here amid anything: two threads
    may each make a context at the same moment, and the next find one of them.

    A context is found as long as a connection uses it, whatever others do. Those that were used last are kept in
    addition, for the connections to come: two generations of `KEPT`, and what is used moves to the younger. The one
    found last of each kind is found again by a comparison alone, which is what a server with one set of options needs.
    """

    __slots__ = ("_known", "_last", "_old", "_recent")

    def __init__(self) -> None:
        self._known: WeakValueDictionary[Hashable, Context] = WeakValueDictionary()
        self._last: dict[Hashable, tuple[tuple[Any, ...], Context]] = {}  # with the values, by kind
        self._recent: dict[Hashable, Context] = {}
        self._old: dict[Hashable, Context] = {}

    def find(self, kind: Hashable, options: AcceptOptions, make: Callable[..., Context], *args: object) -> Context:
        """Return the context of one `kind` for options with these values. If there is none, `make(options, *args)`
        makes it from a copy: who changes theirs later changes nobody's connections. Raises what AcceptOptions raises
        for values that were changed to wrong ones."""
        values = values_of(options)  # each time: the object may be the same, and changed
        last = self._last.get(kind)
        if last is not None and last[0] == values:
            return last[1]
        key = (kind, values)
        try:
            context = self._recent.get(key)
        except TypeError:  # a list, perhaps: options may be changed as long as they are not used
            key = (kind, tuple(map(_hashable, values)))
            context = self._recent.get(key)
        if context is None:
            context = self._old.get(key)
            if context is None:
                context = self._known.get(key)
                if context is None:
                    context = make(AcceptOptions(**dict(zip(NAMES, values, strict=True))), *args)
                    context = self._known.setdefault(key, context)
            if len(self._recent) >= KEPT:
                self._old, self._recent = self._recent, {}
            self._recent[key] = context
        if len(self._last) >= KEPT:
            self._last = {}
        self._last[kind] = key[1], context
        return context

    def derive(self, key: Hashable, make: Callable[[], Context]) -> Context:
        """Return the context for `key`, made with `make()` if no connection uses one. It holds what the key's ids stand
        for."""
        context = self._known.get(key)
        return self._known.setdefault(key, make()) if context is None else context

    def __len__(self) -> int:
        """How many there are, used or kept."""
        return len(self._known)


class _Same:
    """A value that cannot be hashed: equal to itself only."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def _hashable(value: Any) -> Hashable:
    if isinstance(value, (list, tuple)):
        return tuple(map(_hashable, value))
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return value  # type: ignore[no-any-return]
