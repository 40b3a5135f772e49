"""Brokers: how what is published in one process of a server gets to the others, and to those of other machines.

LocalBroker, the default, takes the local bus between the processes of `gows.run`. RedisBroker, of
`gows.brokers.redis.broker`, takes a Redis, and so reaches all servers that use the same one.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from gows.brokers.lock import PublishLock
from gows.bus.bus import Bus
from gows.options import Keep
from gows.session.websocket import WebSocket
from gows.topics.history import History
from gows.topics.publication import Position, Publication, Since

Done = Callable[["Exception | None"], object]
"""Called with None once the broker has a message for good, or with the error why it does not, or may not."""
ConnectionId = tuple[str, int]
"""A connection in another process: the name of the process, and a number that it knows the connection by."""


class Envelope(NamedTuple):
    """A publication on its way to all processes, and what each of them needs to know of it."""

    publication: Publication
    keep: Keep | None = None
    ttl: float | None = None
    exclude: ConnectionId | None = None
    """The connection that does not get it."""
    origin: Any = None
    """What the broker of this process notes about it; it does not travel."""

    def pack(self) -> bytes:
        """Return it as it travels: a header of JSON, a line feed, and the data."""
        publication = self.publication
        message = publication.bare
        header: dict[str, Any] = {
            "topic": publication.topic,
            "opcode": message.opcode,
            "compress": message.compress,
            "json": publication.is_json,
        }
        if publication.key is not None:
            header["key"] = publication.key
        if self.ttl is not None:
            header["ttl"] = self.ttl
        if self.keep is not None:
            header["keep"] = [self.keep.messages, self.keep.seconds]
        if publication.position is not None:
            header["position"] = publication.position
        if self.exclude is not None:
            header["left_out"] = self.exclude  # the name since 0.1: servers of two releases may use one Redis
        return json.dumps(header, separators=(",", ":")).encode() + b"\n" + message.data

    @classmethod
    def unpack(cls, packet: bytes, now: float, age: float = 0.0) -> Envelope:
        """Return the envelope that `pack` packed. `now`: by the loop's clock, by which a `ttl` ends; `age`: seconds of
        the `ttl` that are over."""
        first, _, data = packet.partition(b"\n")
        header = json.loads(first)
        ttl = header.get("ttl")
        position = header.get("position")
        publication = Publication(
            header["topic"],
            data,
            header["opcode"],
            compress=header["compress"],
            key=header.get("key"),
            expires=math.inf if ttl is None else now + ttl - age,
            is_json=header["json"],
            position=None if position is None else Position(*position),
        )
        keep = Keep(*header["keep"]) if "keep" in header else None
        exclude = tuple(header["left_out"]) if "left_out" in header else None
        return cls(publication, keep, ttl, exclude)


class BrokerEvents(Protocol):
    """What a broker calls: the subscribers of its process, and the history that it keeps. Under `lock`, the publish
    lock, everything that a process publishes and receives has one order."""

    lock: PublishLock
    history: History

    @property
    def name(self) -> str:
        """Return the name of this process on the bus; "" without one."""

    def now(self) -> float:
        """Return the time by the loop's clock, in seconds."""

    def has_subscribers(self, topic: str) -> bool:
        """Return whether any connection here gets what is published to `topic`. Takes the lock of the subscriptions
        only."""

    def exclude_id_locked(self, ws: WebSocket) -> ConnectionId:
        """Return an id by which a publication that comes back to this process excludes `ws`."""

    def deliver_locked(self, envelope: Envelope, exclude: WebSocket | None = None) -> None:
        """Keep a publication if it has a position, and send it to the subscribers here, but not to `exclude`, nor to
        the connection that the envelope excludes. Raises QueueFullError and LoopClosedError."""

    def receive(self, envelope: Envelope, deliver: Callable[[Envelope], object] | None = None) -> None:
        """Take the lock, and call `deliver`, or `deliver_locked`, for a publication that another process sent. Logs
        what that raises."""

    def report_lost_locked(self, topic: str, position: Position | None) -> None:
        """Tell the subscribers of a topic that some of it, up to `position`, may be missing."""

    def on_peer_up(self, name: str) -> None:
        """Note that another process is there: what is sent to it arrives from now on."""

    def on_peer_down(self, name: str) -> None:
        """Note that another process is gone."""

    def on_peer_message(self, name: str, data: bytes) -> None:
        """Take what another process sent with `Broker.send_to_peers`."""


class Broker(ABC):
    """Carries publications from one process to all others. It belongs to one server.

    The server calls its methods, from any thread unless they say otherwise. Only `start` and `close` may block.
    """

    events: BrokerEvents

    def attach(self, events: BrokerEvents) -> None:
        """Belong to a server, which is to hear of `events`. Called once."""
        self.events = events

    @abstractmethod
    def join(self, bus: Bus) -> None:
        """Use the bus of the server's processes. Called before `start`, if there are several."""

    @abstractmethod
    def start(self) -> None:
        """Connect to the other processes."""

    @abstractmethod
    def close(self) -> None:
        """Wait until what was accepted is sent, for a bounded time, and end. Idempotent."""

    @abstractmethod
    def publish(self, envelope: Envelope, exclude: WebSocket | None, done: Done) -> bool:
        """Send to all processes, this one included, in the order of the calls; what is kept gets a position. The
        publish lock is held. Returns True if all is done, and `done` will not be called; False if `done` will be called
        in another thread. Raises QueueFullError, BrokerError if nothing can be accepted now, ValueError for a message
        that is too large, and what `BrokerEvents.deliver_locked` raises."""

    @abstractmethod
    def follow(
        self,
        topic: str,
        since: Since,
        then: Callable[[list[Publication] | None], object],
        *,
        owner: WebSocket | None = None,
        room: int | None = None,
    ) -> None:
        """Call `then(missed)` with the publish lock held, once this process receives what is published from now on.
        `missed`: what came after the position `since`, or the latest if `since` is a number; None: not known. It may be
        called before this returns. `owner`: the connection that asks; connections take turns. `room`: bytes that the
        connection can take at most. Raises QueueFullError if too many requests wait already."""

    def after_pending(self, call: Callable[[], object], *, owner: WebSocket | None = None) -> None:
        """Call `call` after the requests of the same connection that were made before; perhaps at once. Raises
        QueueFullError as `follow`."""
        call()

    @abstractmethod
    def subscribe(self, topic: str) -> None:
        """Receive a topic or pattern: the first connection here has subscribed to it. The subscriptions' lock is
        held."""

    @abstractmethod
    def unsubscribe(self, topic: str) -> None:
        """Receive a topic or pattern no longer: its last subscriber here is gone. The subscriptions' lock is held."""

    @property
    @abstractmethod
    def peers(self) -> list[str]:
        """Return the names of the other processes that are known to be there."""

    @abstractmethod
    def send_to_peers(self, data: bytes, to: str | None = None) -> None:
        """Have `BrokerEvents.on_peer_message` called in all other processes, or in the process `to`. Raises ValueError
        for what is too large."""

    @property
    def connected(self) -> bool:
        """Return whether other processes can be reached."""
        return True

    @property
    def waiting(self) -> int:
        """Return the bytes of publications that were accepted and are not acknowledged."""
        return 0

    def counters(self) -> dict[str, int]:
        """Return how often something went wrong, by its name."""
        return {}
