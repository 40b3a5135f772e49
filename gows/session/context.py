"""Context: what the sessions with equal options share, and where it is found by the values of those options."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import fields, replace
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from gows.options import AcceptOptions
from gows.protocol.connection import Connection, ConnectionConfig, Role
from gows.protocol.deflate import DeflateOptions, DeflateParams, DeflatePool
from gows.protocol.frames import MAX_HEADER
from gows.protocol.metered import MeteredConnection
from gows.protocol.rates import Meter, Rates
from gows.reactor import Loop
from gows.session.heartbeat import Heartbeat
from gows.session.overflow import Overflow
from gows.session.owner import Owner
from gows.session.policy import POLICIES
from gows.session.receiving import Receiving
from gows.session.traffic import Traffic

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

MAX_PORTION = 256
"""Frames of one connection that are dealt with in a turn: a read may hold 40,000, which take 100 ms."""
TIMEOUTS = ("read_timeout", "write_timeout")
"""The options that one connection may change for itself."""

_SERVER = Role.SERVER


class Contexts(Generic[Context]):
    """Finds the contexts of one loop. Any thread; without a lock, since a finaliser may come here amid anything: two
    threads may each make a context at the same moment, and the next find one of them.

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
        makes it from a copy: a change of the options afterwards changes no connection. Raises what AcceptOptions raises
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
        """Return how many contexts there are, used or kept."""
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


class SessionContext:
    """Holds what the sessions of one loop share that have the same options, role and owner."""

    __slots__ = (
        "__weakref__",
        "_base",
        "_other",
        "chunk_config",
        "config",
        "deflate_options",
        "deflate_pool",
        "heartbeat",
        "high_water",
        "inline",
        "loop",
        "mark",
        "options",
        "overflow",
        "owner",
        "policy",
        "portion",
        "receiving",
        "role",
        "traffic",
    )

    def __init__(self, loop: Loop, options: AcceptOptions, role: Role, owner: object = None) -> None:
        """`owner`: the server that accepted the connections, an Owner; None for those that a client made. Raises
        TypeError."""
        if owner is not None and not isinstance(owner, Owner):
            raise TypeError(f"the owner of a connection must be a gows.Server or the like, not {type(owner).__name__}")
        self.loop = loop
        self.options = options
        self.role = role
        self.owner: Owner[Any] | None = owner
        self.inline = loop.pool.inline  # whether the loop's thread runs the callbacks
        self._base: SessionContext | None = None  # what this one differs from in its timeouts only
        self._other: SessionContext | None = None  # the same, but for `inline`
        self.heartbeat = Heartbeat(options)
        self.high_water = options.high_water
        self.overflow: Overflow
        self.traffic: Traffic
        if owner is None:
            self.overflow = loop.shared.setdefault(Overflow, Overflow(loop))
            self.traffic = loop.shared.setdefault(Traffic, Traffic())
        else:
            self.overflow, self.traffic = owner.overflow, owner.traffic
        self.policy = POLICIES[options.overflow](loop, self.overflow, options)
        self.mark = self.policy.mark
        self.receiving = Receiving.of(loop)
        self.portion = min(
            options.inbox_messages, MAX_PORTION
        )  # frames that are dealt with before others have their turn
        rates = _rates(loop, options)
        self.config = _connection_config(loop, options, role, rates, chunked=False)
        self.chunk_config = _connection_config(loop, options, role, rates, chunked=True)
        self.deflate_pool: DeflatePool = loop.shared.setdefault(DeflatePool, DeflatePool())
        self.deflate_options = DeflateOptions(
            level=options.compression_level,
            server_no_context_takeover=not options.server_context_takeover,
            client_no_context_takeover=not options.client_context_takeover,
            server_max_window_bits=options.server_max_window_bits,
            client_max_window_bits=options.client_max_window_bits,
        )

    def connection(self, params: DeflateParams | None) -> Connection:
        """Make the protocol machine of a connection that negotiated `params` (None: no compression)."""
        kind = Connection if self.config.rates is None else MeteredConnection
        if params is None:
            return kind(self.config)
        server = self.role is Role.SERVER
        return kind(self.config, self.deflate_pool.codec(params, self.deflate_options, server=server))

    def with_timeouts(self, **timeouts: float | None) -> SessionContext:
        """Return a context that differs in its timeouts: one for all connections that set the same ones. Any thread."""
        base = self._base or self
        values = tuple(timeouts.get(name, getattr(self.options, name)) for name in TIMEOUTS)
        if values == tuple(getattr(base.options, name) for name in TIMEOUTS):
            return base

        def make() -> SessionContext:
            context = base._copy()
            context.options = replace(base.options, **dict(zip(TIMEOUTS, values, strict=True)))
            context.heartbeat = Heartbeat(context.options)
            context.policy = POLICIES[context.options.overflow](context.loop, context.overflow, context.options)
            context._base = base  # whose id cannot be another's thereby
            return context

        return _contexts(self.loop).derive((id(base), values), make)

    def inlined(self) -> SessionContext:
        """Return this context, or its like for connections whose callbacks run in the loop's thread. Any thread."""
        return self if self.inline else self._turned()

    def in_workers(self) -> SessionContext:
        """Return this context, or its like for connections whose callbacks run in workers. Any thread."""
        return self._turned() if self.inline else self

    def _turned(self) -> SessionContext:
        if self._other is None:
            context = self._copy()
            context.inline = not self.inline
            self._other = context
        return self._other

    def _copy(self) -> SessionContext:
        context = copy(self)
        context._base = context._other = None
        return context


def _rates(loop: Loop, options: AcceptOptions) -> Rates | None:
    messages = size = None
    if options.max_message_rate is not None:
        burst = options.message_burst or max(1.0, options.max_message_rate)
        messages = Meter(options.max_message_rate, burst, loop.time)
    if options.max_byte_rate is not None:
        most = options.max_message_size + MAX_HEADER
        size = Meter(options.max_byte_rate, options.byte_burst or max(most, options.max_byte_rate), loop.time)
    return None if messages is None and size is None else Rates(messages, size)


def _connection_config(
    loop: Loop, options: AcceptOptions, role: Role, rates: Rates | None, *, chunked: bool
) -> ConnectionConfig:
    return ConnectionConfig(
        role=role,
        max_message_size=options.max_message_size,
        max_fragments=options.max_fragments,
        max_empty_fragments=options.max_empty_fragments,
        chunked=chunked,
        message_buffer_size=options.message_buffer_size,
        min_compress_size=options.min_compress_size,
        pool=loop.buffers,
        rates=rates,
        portion=min(options.inbox_messages, MAX_PORTION),
    )


def context_for(loop: Loop, options: AcceptOptions, role: Role, owner: object = None) -> SessionContext:
    """Return the context that all connections of one owner on `loop` share whose options are equal. Any thread."""
    # a context holds its owner, so the id cannot be another's; to hash a Role, or look one up, takes Python long
    return _contexts(loop).find((role is _SERVER, id(owner)), options, _make_context, loop, role, owner)


def _make_context(options: AcceptOptions, loop: Loop, role: Role, owner: object) -> SessionContext:
    return SessionContext(loop, options, role, owner)


def _contexts(loop: Loop) -> Contexts[SessionContext]:
    found: Contexts[SessionContext] | None = loop.shared.get(Contexts)
    return loop.shared.setdefault(Contexts, Contexts()) if found is None else found
