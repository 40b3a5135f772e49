"""LocalBroker: between the processes of one server, over their bus; in a server of one process, with nobody.

What is not kept goes to all processes at once. Topics of which a history is kept are numbered by one process each, see
`gows.brokers.local.topics`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from gows.brokers.base import Broker, Done, Envelope
from gows.brokers.local.topics import KeptTopics
from gows.bus.bus import Bus
from gows.debug import DEBUG, check_owned
from gows.session.websocket import WebSocket
from gows.topics.publication import Publication, Since

SYNC_TIMEOUT = 5.0
"""Seconds that `start` gives the others to tell us the history of topics."""
CLOSE_TIMEOUT = 2.0
"""Seconds that `close` gives the others to acknowledge what was published."""


class LocalBroker(Broker):
    """See `Broker`. What is kept is acknowledged when a second process has it, as long as there is one. What is not
    kept is not acknowledged: all processes that read what is sent to them get it."""

    def __init__(self) -> None:
        self._bus: Bus | None = None
        self._kept: KeptTopics | None = None

    def join(self, bus: Bus) -> None:
        self._bus = bus
        self._kept = KeptTopics(bus, self.events, home_of)
        bus.handle("publish", self._on_publication)
        bus.handle("kept", self._on_packet)
        bus.handle("tell", self._on_peer_message)
        bus.on_up.append(self._on_peer_up)
        bus.on_down.append(self._on_peer_down)
        bus.on_missed.append(self._on_peer_missed)
        bus.on_leave.append(self._on_leave)

    def start(self) -> None:
        """Learn what the other processes keep. The caller has started the bus."""
        if self._bus is not None and self._kept is not None:
            with self.events.lock:
                self._kept.open()
            self._bus.wait(self._kept.synced, SYNC_TIMEOUT)

    def close(self) -> None:
        """Wait until what was published is acknowledged, two seconds at most. The caller closes the bus; until then
        other processes may need this one."""
        if self._bus is not None and self._kept is not None:
            self._bus.wait(self._kept.settled, CLOSE_TIMEOUT)
            with self.events.lock:
                self._kept.give_up()

    @property
    def peers(self) -> list[str]:
        return [] if self._bus is None else self._bus.peers

    @property
    def waiting(self) -> int:
        return 0 if self._kept is None else self._kept.waiting

    def publish(self, envelope: Envelope, exclude: WebSocket | None, done: Done) -> bool:
        if DEBUG:
            check_owned(self.events.lock)
        if envelope.keep is not None and self._kept is not None:
            if exclude is not None:
                envelope = envelope._replace(exclude=self.events.exclude_id_locked(exclude))
            return self._kept.publish(envelope, done)
        if envelope.keep is not None:
            envelope.publication.position = self.events.history.number(envelope.publication.topic)
        if self._bus is not None:
            self._bus.send("publish", envelope.pack())
        self.events.deliver_locked(envelope, exclude)
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
        events = self.events
        with events.lock:
            if self._kept is not None:
                self._kept.follow(topic, since, then, owner)
            else:
                then(events.history.find(topic, since, events.now()))

    def after_pending(self, call: Callable[[], object], *, owner: WebSocket | None = None) -> None:
        if self._kept is None:
            call()
        else:
            with self.events.lock:
                self._kept.after_pending(call, owner)

    def subscribe(self, topic: str) -> None:
        """Do nothing: each process receives all topics."""

    def unsubscribe(self, topic: str) -> None:
        """Do nothing: each process receives all topics."""

    def send_to_peers(self, data: bytes, to: str | None = None) -> None:
        if self._bus is not None:
            self._bus.send("tell", data, to)

    # ------------------------------------------------------------------ bus thread

    def _on_publication(self, sender: str, packet: bytes) -> None:
        self.events.receive(Envelope.unpack(packet, self.events.now()))

    def _on_packet(self, sender: str, packet: bytes) -> None:
        assert self._kept is not None
        with self.events.lock:
            self._kept.on_packet(sender, packet)

    def _on_peer_message(self, sender: str, packet: bytes) -> None:
        self.events.on_peer_message(sender, packet)

    def _on_peer_up(self, name: str) -> None:
        assert self._kept is not None
        self.events.on_peer_up(name)
        with self.events.lock:
            self._kept.on_peer_up(name)

    def _on_peer_down(self, name: str) -> None:
        assert self._kept is not None
        self.events.on_peer_down(name)
        with self.events.lock:
            self._kept.on_peer_down(name)

    def _on_peer_missed(self, name: str) -> None:
        assert self._kept is not None
        self.events.on_peer_up(name)  # tell it who is here once more
        with self.events.lock:
            self._kept.on_peer_missed(name)

    def _on_leave(self) -> None:
        assert self._kept is not None
        with self.events.lock:
            self._kept.leave()


def home_of(topic: str, names: Iterable[str]) -> str:
    """Return the process that numbers a topic: that of `names` which hashes highest with it (rendezvous hashing), so
    that few topics move when a process comes or goes."""
    return max(names, key=lambda name: (hashlib.blake2b(f"{name}\n{topic}".encode(), digest_size=8).digest(), name))
