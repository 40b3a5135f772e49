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

from gows.brokers.hublock import HubLock
from gows.bus.bus import Bus
from gows.session.websocket import WebSocket
from gows.topics.history import History, Keep
from gows.topics.subscriptions import Position, Publication, Since

Done = Callable[["Exception | None"], object]
"""Called once the broker has a message for good, or with the reason why that is not so, or not known."""
LeftOut = tuple[str, int]
"""A process, and a number by which it knows the connection that does not get a message."""


class Envelope(NamedTuple):
    """A publication on its way, and what every process does with it."""

    publication: Publication
    keep: Keep | None = None
    ttl: float | None = None
    left_out: LeftOut | None = None
    origin: Any = None
    """What the broker wants to know of it later; it does not travel."""

    def pack(self) -> bytes:
        """As it travels: a header of JSON, a line feed, and the data."""
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
        if self.left_out is not None:
            header["left_out"] = self.left_out
        return json.dumps(header, separators=(",", ":")).encode() + b"\n" + message.data

    @classmethod
    def unpack(cls, packet: bytes, now: float, age: float = 0.0) -> Envelope:
        """The reverse. `now`: by the loop's clock, by which a `ttl` ends; `age`: seconds of it that are over."""
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
        left_out = tuple(header["left_out"]) if "left_out" in header else None
        return cls(publication, keep, ttl, left_out)


class Hub(Protocol):
    """A process's side of its broker: its subscribers, and what it has heard. Guarded by `lock`, under which it hears
    and tells everything in one order."""

    lock: HubLock
    history: History

    @property
    def name(self) -> str:
        """What this process is called on the bus; "" without one."""

    def now(self) -> float:
        """By the loop's clock."""

    def wanted(self, topic: str) -> bool:
        """Whether anybody here gets what is published to `topic`. Takes the lock of the subscriptions only."""

    def leave_out(self, ws: WebSocket) -> LeftOut:
        """A number for a connection of ours that a message is to leave out. Lock held."""

    def deliver(self, envelope: Envelope, own: WebSocket | None = None) -> None:
        """Keep it if it has a position, and send it to the subscribers here but `own`, or whom the envelope leaves out.
        Lock held. Raises QueueFullError and LoopClosedError."""

    def receive(self, envelope: Envelope, deliver: Callable[[Envelope], object] | None = None) -> None:
        """What has come from elsewhere: `deliver`, or what stands for it here, with the lock; what goes wrong is
        logged."""

    def lost(self, topic: str, position: Position | None) -> None:
        """Tell the subscribers of a topic that some of it may be missing. Lock held."""

    def peer_up(self, name: str) -> None:
        """Another process has come: what is told to it arrives from now on."""

    def peer_down(self, name: str) -> None:
        """It has gone."""

    def heard(self, name: str, data: bytes) -> None:
        """What another process told us."""


class Broker(ABC):
    """One process's way to the others. It belongs to one server.

    Its methods are for the server to call, from any thread but where they say otherwise, and never block but in `start`
    and `close`.
    """

    hub: Hub

    def attach(self, hub: Hub) -> None:
        """Belong to a server; once."""
        self.hub = hub

    @abstractmethod
    def join(self, bus: Bus) -> None:
        """The server is one of several processes, before `start`."""

    @abstractmethod
    def start(self) -> None:
        """Begin."""

    @abstractmethod
    def close(self) -> None:
        """End, when what was accepted is sent, or a bounded time is over. Idempotent."""

    @abstractmethod
    def publish(self, envelope: Envelope, own: WebSocket | None, done: Done) -> bool:
        """Send to all processes, this one too, in the order of the calls; a position is given to what is kept. The
        hub's lock is held. True: that was it, and `done` is not called; else it will be, in another thread. Raises
        QueueFullError, BrokerError when nothing can be accepted now, ValueError for what is too large, and as
        `Hub.deliver`."""

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
        """Call `then` with what came after `since`, or so many of the latest (None: that is not known), with the hub's
        lock held, when what is published from now on is heard here. It may be called before this returns. `owner`: the
        connection that asks; connections take turns. `room`: more bytes than that are of no use to it. Raises
        QueueFullError when too much is asked for already."""

    def in_turn(self, call: Callable[[], object], *, owner: WebSocket | None = None) -> None:
        """Call it after everything that was asked for the same connection before; perhaps at once. Raises
        QueueFullError as `follow`."""
        call()

    @abstractmethod
    def listen(self, topic: str) -> None:
        """The first connection here has subscribed to a topic or pattern. The subscriptions' lock is held."""

    @abstractmethod
    def unlisten(self, topic: str) -> None:
        """The last has left."""

    @property
    @abstractmethod
    def peers(self) -> list[str]:
        """The other processes that are known to be there."""

    @abstractmethod
    def tell(self, data: bytes, to: str | None = None) -> None:
        """Have `heard` called in all other processes, or in one. Raises ValueError for what is too large."""

    @property
    def connected(self) -> bool:
        """Whether others can be reached."""
        return True

    @property
    def waiting(self) -> int:
        """Bytes of publications that were accepted, and are not acknowledged."""
        return 0

    def counters(self) -> dict[str, int]:
        """What has gone wrong, and how often."""
        return {}
