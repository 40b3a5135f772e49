"""LocalBroker: between the processes of one server, over their bus; in a process of its own, with nobody.

What is not kept goes to all processes at once. Topics of which a history is kept are numbered by one process each, see
`local_topics`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from gows.brokers.base import Broker, Done, Envelope
from gows.brokers.local.topics import KeptTopics
from gows.bus.bus import Bus
from gows.session.websocket import WebSocket
from gows.topics.subscriptions import Publication, Since

SYNC_TIMEOUT = 5.0
"""Seconds that `start` gives the others to tell us the history of topics."""
CLOSE_TIMEOUT = 2.0
"""Seconds that `close` gives the others to acknowledge what was published."""


class LocalBroker(Broker):
    """See `Broker`. What is kept is acknowledged when a second process has it, as long as there is one. What is not is
    not acknowledged: it is with all processes that read what is sent to them."""

    def __init__(self) -> None:
        self._bus: Bus | None = None
        self._kept: KeptTopics | None = None

    def join(self, bus: Bus) -> None:
        self._bus = bus
        self._kept = KeptTopics(bus, self.hub, home_of)
        bus.handle("publish", self._published)
        bus.handle("kept", self._heard)
        bus.handle("tell", self._told)
        bus.on_up.append(self._up)
        bus.on_down.append(self._down)
        bus.on_missed.append(self._missed)
        bus.on_leave.append(self._leave)

    def start(self) -> None:
        """Get to know what the others keep. The bus is started by who made it."""
        if self._bus is not None and self._kept is not None:
            with self.hub.lock:
                self._kept.open()
            self._bus.wait(self._kept.synced, SYNC_TIMEOUT)

    def close(self) -> None:
        """Have acknowledged what was published, for two seconds at most. The bus is closed by who made it; until then
        other processes may need us."""
        if self._bus is not None and self._kept is not None:
            self._bus.wait(self._kept.settled, CLOSE_TIMEOUT)
            with self.hub.lock:
                self._kept.give_up()

    @property
    def peers(self) -> list[str]:
        return [] if self._bus is None else self._bus.peers

    @property
    def waiting(self) -> int:
        return 0 if self._kept is None else self._kept.waiting

    def publish(self, envelope: Envelope, own: WebSocket | None, done: Done) -> bool:
        if envelope.keep is not None and self._kept is not None:
            if own is not None:
                envelope = envelope._replace(left_out=self.hub.leave_out(own))
            return self._kept.publish(envelope, done)
        if envelope.keep is not None:
            envelope.publication.position = self.hub.history.number(envelope.publication.topic)
        if self._bus is not None:
            self._bus.send("publish", envelope.pack())
        self.hub.deliver(envelope, own)
        return True

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
            if self._kept is not None:
                self._kept.follow(topic, since, then, owner)
            else:
                then(hub.history.find(topic, since, hub.now()))

    def in_turn(self, call: Callable[[], object], *, owner: WebSocket | None = None) -> None:
        if self._kept is None:
            call()
        else:
            with self.hub.lock:
                self._kept.in_turn(call, owner)

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

    def _heard(self, sender: str, packet: bytes) -> None:
        assert self._kept is not None
        with self.hub.lock:
            self._kept.heard(sender, packet)

    def _told(self, sender: str, packet: bytes) -> None:
        self.hub.heard(sender, packet)

    def _up(self, name: str) -> None:
        assert self._kept is not None
        self.hub.peer_up(name)
        with self.hub.lock:
            self._kept.peer_up(name)

    def _down(self, name: str) -> None:
        assert self._kept is not None
        self.hub.peer_down(name)
        with self.hub.lock:
            self._kept.peer_down(name)

    def _missed(self, name: str) -> None:
        assert self._kept is not None
        self.hub.peer_up(name)  # tell it who is here once more
        with self.hub.lock:
            self._kept.missed(name)

    def _leave(self) -> None:
        assert self._kept is not None
        with self.hub.lock:
            self._kept.leave()


def home_of(topic: str, names: Iterable[str]) -> str:
    """The process that numbers a topic: the one of `names` that hashes highest with it (rendezvous hashing), so that
    few topics move when one comes or goes."""
    return max(names, key=lambda name: (hashlib.blake2b(f"{name}\n{topic}".encode(), digest_size=8).digest(), name))
