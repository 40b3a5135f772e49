"""LocalBroker: between the processes of one server, over their bus; in a process of its own, with nobody.

Topics of which a history is kept are numbered by one process each, their *home*: all processes find the same one by
hashing, as long as they see each other. It gives every message its position and sends it to all; each process keeps
what it hears, so that whoever missed something is told by the process it has come to. A home that dies takes its
numbering with it: the next one begins another epoch, and clients hear that they may have missed something.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from gows.brokers import Broker, Done, Envelope
from gows.bus import Bus
from gows.topics import Publication, Since
from gows.websocket import WebSocket


class LocalBroker(Broker):
    """See `Broker`. Nothing is acknowledged: what is accepted is with all processes that read what is sent to them."""

    def __init__(self) -> None:
        self._bus: Bus | None = None

    def join(self, bus: Bus) -> None:
        self._bus = bus
        bus.handle("publish", self._published)
        bus.handle("record", self._record)
        bus.handle("tell", self._told)
        bus.on_up.append(self.hub.peer_up)
        bus.on_down.append(self.hub.peer_down)

    def start(self) -> None:
        """The bus is started by who made it."""

    def close(self) -> None:
        """… and closed."""

    @property
    def peers(self) -> list[str]:
        return [] if self._bus is None else self._bus.peers

    def publish(self, envelope: Envelope, own: WebSocket | None, done: Done) -> bool:
        bus = self._bus
        if envelope.keep is not None and bus is not None:
            home = home_of(envelope.publication.topic, [bus.name, *bus.peers])
            if home != bus.name:
                if own is not None:
                    envelope = envelope._replace(left_out=self.hub.leave_out(own))
                bus.send("record", envelope.pack(), to=home)
                return True
        self._spread(envelope, own)
        return True

    def _spread(self, envelope: Envelope, own: WebSocket | None = None) -> None:
        """Send it from here to all. Lock held."""
        publication = envelope.publication
        if envelope.keep is not None:
            publication.position = self.hub.history.number(publication.topic)
        if self._bus is not None:
            self._bus.send("publish", envelope.pack())
        self.hub.deliver(envelope, own)

    def follow(
        self,
        topic: str,
        since: Since,
        then: Callable[[list[Publication] | None], object],
        *,
        owner: WebSocket | None = None,
        room: int | None = None,
    ) -> None:
        hub = self.hub
        with hub.lock:
            then(hub.history.find(topic, since, hub.now()))

    def listen(self, topic: str) -> None:
        """All is heard always."""

    def unlisten(self, topic: str) -> None:
        """All is heard always."""

    def tell(self, data: bytes, to: str | None = None) -> None:
        if self._bus is not None:
            self._bus.send("tell", data, to)

    # ------------------------------------------------------------------ bus thread

    def _published(self, sender: str, packet: bytes) -> None:
        self.hub.receive(Envelope.unpack(packet, self.hub.now()))

    def _record(self, sender: str, packet: bytes) -> None:
        """We are the home of a topic."""
        hub = self.hub
        envelope = Envelope.unpack(packet, hub.now())
        hub.receive(envelope, self._spread)

    def _told(self, sender: str, packet: bytes) -> None:
        self.hub.heard(sender, packet)


def home_of(topic: str, names: Iterable[str]) -> str:
    """The process that numbers a topic: the one of `names` that hashes highest with it (rendezvous hashing), so that
    few topics move when one comes or goes."""
    return max(names, key=lambda name: (hashlib.blake2b(f"{name}\n{topic}".encode(), digest_size=8).digest(), name))
