"""Recovery: what a client of gows.v1 that subscribes gets of the past of a topic, and how much of it.

A client counts offsets, so each of the messages that it gets follows the one before it: where one has expired
meanwhile, a `position` stands in its place. What is sent at once is bounded by what may wait for the connection; the
rest is told as `lost` when that has gone out, and the client asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from weakref import ref

from gows.codes import Opcode
from gows.protocol.frames import MAX_HEADER
from gows.protocol.prepared import PreparedMessage
from gows.protocol.rates import Meter
from gows.reactor.waits import inner_lock
from gows.session.websocket import WebSocket
from gows.topics.publication import Position, Publication, position_event

ANSWER_ROOM = 2048
"""Bytes for the answer itself: a topic, an id, an epoch, all in UTF-8."""
ANSWER_RATE = 1 << 20
"""Bytes of histories, lists of members and news of them that one connection may cause a second, on the long run."""
ANSWER_BURST = 8 << 20
"""… and at once."""
DELIVERY_RATE = 20_000
"""Messages to all that what one connection publishes may cause a second, on the long run, while more wait than …"""
DELIVERY_BURST = 20_000
"""… and at once."""
MANY_DELIVERIES = 50_000
"""… so many, which is a fraction of a second for a loop."""
LEAST_LEFT = 1 << 16
"""Bytes of its budget with which a connection is given anything of a history: what it gets is worth the search."""
MESSAGE_COST = 512
"""Bytes that each message counts beside its own: it takes some microseconds, however small it is."""


class Budget:
    """Limits what each connection of a server gets of something, by a rate and a burst. Any thread."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._meter = Meter(rate, burst, clock)
        self._lock = inner_lock("recovery budget")

    def left(self, ws: WebSocket) -> int:
        """Return how much a connection may have now."""
        with self._lock:
            return self._meter.room(ref(ws))

    def take(self, ws: WebSocket, amount: int) -> bool:
        """Take `amount`, or all there is. Returns False if there was less."""
        if not amount:
            return True
        with self._lock:
            return self._meter.take(ref(ws), amount) >= amount


class Recovery(NamedTuple):
    """What a client gets that subscribes."""

    fields: dict[str, Any]
    """Fields of the answer, `subscribed`."""
    messages: list[PreparedMessage]
    cut: bool
    """Whether there is more, for which there is no room now."""


def recover(
    topic: str,
    stands: Position | None,
    since: Position | None,
    missed: list[Publication] | None,
    latest: list[Publication],
    room: int,
    left: int,
) -> Recovery:
    """Return what a client gets that has seen everything up to `since`. `stands`: where the topic stands. `missed`:
    what came since then; None: that is not known. `latest`: what it gets in that case, or if it named no position.
    `room`: bytes that may wait for it."""
    fields: dict[str, Any] = {}
    begins = ends = stands
    cut = False
    if since is not None:
        fields["recovered"] = missed is not None
    if since is not None and missed is not None:
        fitting = _oldest_fitting(missed, room, left)
        cut = len(fitting) < len(missed)
        begins = since
        if cut:
            ends = fitting[-1].position if fitting else since
        shown = ends
    else:
        fitting = _latest_fitting(latest, room, left)
        if fitting and fitting[0].position is not None:
            epoch, offset = fitting[0].position
            begins = Position(epoch, offset - 1)
        shown = begins
    if shown is not None:
        fields["epoch"], fields["offset"] = shown
    return Recovery(fields, list(_in_row(topic, begins, fitting, ends)), cut)


def cost(messages: list[PreparedMessage]) -> int:
    """Return what messages count for a Budget of answers."""
    return sum(len(message.data) + MESSAGE_COST for message in messages)


def _in_row(
    topic: str, begins: Position | None, publications: list[Publication], ends: Position | None
) -> Iterator[PreparedMessage]:
    """Yield the messages, and a position for each hole between them, after `begins` and up to `ends`."""
    last = begins
    for publication in publications:
        position = publication.position
        if position is not None:
            if last is not None and position.epoch == last.epoch and position.offset > last.offset + 1:
                yield _to(topic, Position(position.epoch, position.offset - 1), last.offset)
            last = position
        yield publication.enclosed
    if last is not None and ends is not None and last.epoch == ends.epoch and last.offset < ends.offset:
        yield _to(topic, ends, last.offset)


def _to(topic: str, position: Position, after: int) -> PreparedMessage:
    return PreparedMessage(Opcode.TEXT, position_event(topic, position, after))


def _oldest_fitting(publications: list[Publication], room: int, left: int) -> list[Publication]:
    """Return the oldest publications that may wait for a connection; at least one, if any may, so that the client gets
    on."""
    if room < 0:
        return []
    room -= ANSWER_ROOM
    for at, publication in enumerate(publications):
        size = len(publication.enclosed.data)
        room -= size + MAX_HEADER
        left -= size + MESSAGE_COST
        if room < 0 or left < 0:
            return publications[: max(at, 1)]
    return publications


def _latest_fitting(publications: list[Publication], room: int, left: int) -> list[Publication]:
    """Return the latest publications that may wait for a connection, at least one, if any may; more would be dropped,
    or refused."""
    if room < 0:
        return []
    room -= ANSWER_ROOM
    for at in range(len(publications) - 1, -1, -1):
        size = len(publications[at].enclosed.data)
        room -= size + MAX_HEADER
        left -= size + MESSAGE_COST
        if room < 0 or left < 0:
            return publications[at + 1 :] or publications[-1:]
    return publications
