"""One direction of a connection: bytes that are under way, and bytes that have arrived."""

from __future__ import annotations

from collections import deque

from tests.support.fakes.clock import VirtualClock

FIN = b""


class Pipe:
    """What one end sends and the other receives, `capacity` bytes at most between them.

    A chunk arrives `latency` seconds after it was sent, at once for 0; never while `cut`.
    """

    def __init__(self, clock: VirtualClock, capacity: int, latency: float) -> None:
        self._clock = clock
        self._capacity = capacity
        self._latency = latency
        self._travelling: deque[tuple[float, bytes]] = deque()
        self._arrived = bytearray()
        self._size = 0
        self.taken = 0  # bytes, in all
        self.finished = False  # FIN has arrived
        self.cut = False

    @property
    def room(self) -> int:
        """Bytes that can be sent now."""
        return self._capacity - self._size

    @property
    def readable(self) -> bool:
        self._arrive()
        return bool(self._arrived) or self.finished

    @property
    def unread(self) -> bool:
        """Whether bytes (not FIN) wait for the receiver."""
        self._arrive()
        return bool(self._arrived)

    def send(self, data: bytes) -> None:
        """`data` sets out; FIN for the last of all."""
        self._travelling.append((self._clock() + self._latency, data))
        self._size += len(data)

    def take(self, most: int) -> bytes:
        """What has arrived, `most` bytes at most."""
        self._arrive()
        taken = bytes(self._arrived[:most])
        del self._arrived[:most]
        self._size -= len(taken)
        self.taken += len(taken)
        return taken

    def destroy(self) -> None:
        """The connection was reset: what is under way is lost. What has arrived can still be read, as on Linux."""
        self._arrive()
        self._size -= sum(len(data) for _, data in self._travelling)
        self._travelling.clear()

    def next_arrival(self) -> float | None:
        """When the next chunk will have arrived."""
        self._arrive()
        return self._travelling[0][0] if self._travelling and not self.cut else None

    def _arrive(self) -> None:
        while self._travelling and not self.cut and self._travelling[0][0] <= self._clock():
            _, data = self._travelling.popleft()
            self._arrived += data
            self.finished |= data == FIN
