"""Logs: reads where topics stand in Redis, and what their logs have."""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

from gows.brokers.base import BrokerEvents, Envelope
from gows.brokers.redis.connection import BATCH, READ, Command, Link
from gows.brokers.redis.shards import Shards
from gows.brokers.redis.wire import Complaints, read_entry, read_envelope, read_epoch, read_offset
from gows.topics.publication import Position

MOST_ENTRIES = 10_000
"""Entries of a topic's log that are read at once."""


class Found(NamedTuple):
    """A portion of a topic's log."""

    position: Position
    """Where the topic stands."""
    envelopes: list[Envelope]
    next: int | None
    """The offset at which it goes on."""


class Logs:
    """Reads the logs of topics in Redis. Of the broker's thread."""

    events: BrokerEvents
    link: Link

    def __init__(self, shards: Shards, complaints: Complaints) -> None:
        self.complaints = complaints
        self.site = ""
        """This machine's part of the server, as it stands in the id of an excluded connection."""
        self._shards = shards

    async def fetch(
        self, wanted: list[tuple[str, Position | None]], room: int, most: int = MOST_ENTRIES, *, back: bool = False
    ) -> list[Found | None]:
        """Read where topics stand in Redis, and a portion of what each has after a position, or, with `back`, until it,
        the latest first; None: it is not kept. `room`: bytes of each, about; 0: nothing but where it stands. `most`:
        entries."""
        commands: list[Command] = []
        for topic, position in wanted:
            keys = self._shards.topic_key(topic), self._shards.log_key(topic)
            commands.append(
                (
                    *("EVAL", READ, len(keys), *keys, self.link.incarnation),
                    *(secrets.token_hex(8), *(position or ("", 0)), room, most, int(back)),
                )
            )
        found: list[Found | None] = []
        for at in range(0, len(commands), BATCH):
            answers = await self.link.exchange(commands[at : at + BATCH])
            found += [self._read_found(topic, each) for (topic, _), each in zip(wanted[at:], answers, strict=False)]
        return found

    async def positions(self, topics: list[str]) -> dict[str, Position]:
        """Read where topics stand in Redis, without those that are not kept, or not ours."""
        commands: list[Command] = [("HMGET", self._shards.topic_key(topic), "epoch", "offset") for topic in topics]
        found: dict[str, Position] = {}
        for topic, answer in zip(topics, await self.link.exchange(commands), strict=True):
            try:
                epoch, offset = answer
                found[topic] = Position(read_epoch(epoch), read_offset(offset))
            except (TypeError, ValueError):
                pass
        return found

    def with_own_exclude(self, envelope: Envelope) -> Envelope:
        """Return the same with the connection that it excludes, if that is of our machine, as the bus names it."""
        if envelope.exclude is None:
            return envelope
        site, _, process = envelope.exclude[0].rpartition("/")
        exclude = (process, envelope.exclude[1]) if site == self.site else None
        return envelope._replace(exclude=exclude)

    def _read_found(self, topic: str, answer: Any) -> Found | None:
        """Read an answer about a topic."""
        if answer is None:
            return None
        try:
            if isinstance(answer, Exception):
                raise answer
            epoch, offset, now, entries, *rest = answer
            position = Position(read_epoch(epoch), read_offset(offset))
            after = None if not rest or rest[0] is None else read_offset(rest[0])
            written = read_offset(now)
        except Exception as error:
            self.complaints.add_foreign("a history that cannot be read", topic, error)
            return None
        return Found(position, self._envelopes(topic, position.epoch, written, entries), after)

    def _envelopes(self, topic: str, epoch: str, now: int, entries: list[Any]) -> list[Envelope]:
        """Read those entries of a stream that are ours, and not too old."""
        kept = []
        for raw in entries:
            try:
                entry = read_entry(raw)
                age = max(0, now - entry.written) / 1000
                envelope = read_envelope(topic, entry.body, self.events.now(), age)
            except ValueError as error:
                self.complaints.add_foreign("an entry of a history", topic, error)
                continue
            if envelope.keep is None or envelope.keep.seconds is None or age < envelope.keep.seconds:
                envelope.publication.position = Position(epoch, entry.offset)
                kept.append(self.with_own_exclude(envelope))
        return kept
