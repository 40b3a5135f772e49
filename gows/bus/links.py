"""The connections between two processes: Outbound, by which this one sends, and Inbound, by which it receives.

What waits for a process that does not read is bounded (`MAX_QUEUED`). What goes beyond is lost for that process,
counted in `Bus.dropped`, and the log says so. The connection stays: to cut it would lose what waits as well, and bring
the same state back after the next attempt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from gows.bus.folder import is_name
from gows.bus.wire import HELLO, Frame, FrameReader
from gows.reactor import Observer, Stream

logger = logging.getLogger("gows")

MAX_QUEUED = 32 << 20
"""Bytes that may wait for one process that does not read."""


class LinkEvents(Protocol):
    """What connections call. In the bus's thread, but for `count_dropped` and `call_soon`."""

    def on_connected(self, link: Outbound) -> None:
        """Note that a connection of ours is made."""

    def on_outbound_lost(self, link: Outbound, error: Exception | None) -> None:
        """Note that a connection of ours is lost, or could not be made."""

    def on_reads_again(self, name: str) -> None:
        """Note that a process that lost messages has taken what waited for it."""

    def on_hello(self, inbound: Inbound, number: int) -> bool:
        """Note who is at the other end of a connection to us. `number`: when it was made, in nanoseconds. Returns
        whether it counts: there may be a later one of the same name."""

    def on_inbound_lost(self, inbound: Inbound) -> None:
        """Note that a connection to us is lost."""

    def on_frame(self, sender: str, frame: Frame) -> None:
        """Handle a frame that the process `sender` sent."""

    def count_dropped(self) -> None:
        """Count a message that was lost. Any thread."""

    def call_soon(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call it in the bus's thread. Any thread."""


class Outbound(Observer):
    """Our connection to one other process: it only sends."""

    __slots__ = ("_missed", "bus", "is_connected", "name", "stream")

    stream: Stream

    def __init__(self, bus: LinkEvents, name: str) -> None:
        self.bus = bus
        self.name = name
        self.is_connected = False
        self._missed = 0  # messages, since it last read

    @property
    def high_water(self) -> int:
        return MAX_QUEUED // 2

    @property
    def low_water(self) -> int:
        return MAX_QUEUED // 4

    def write(self, frame: bytes) -> bool:
        """Queue a frame. Returns False if it is lost, since too much waits. Any thread."""
        if self.stream.queued + len(frame) > MAX_QUEUED:
            self._missed += 1
            self.bus.count_dropped()
            if self._missed == 1:  # in the bus's thread, for the caller holds a lock, and a logging handler may publish
                self.bus.call_soon(logger.error, "process %s does not read: messages to it are lost", self.name)
            return False
        self.stream.write(frame)
        return True

    def drained(self) -> None:
        if self._missed:
            missed, self._missed = self._missed, 0
            logger.error("process %s reads again; it missed %d messages", self.name, missed)
            self.bus.on_reads_again(self.name)

    def connected(self, stream: Stream) -> None:
        self.stream = stream  # `connect` may get here before it returns
        self.is_connected = True
        self.bus.on_connected(self)

    def data_received(self, buf: bytearray, n: int, /) -> None:
        self.stream.abort(ValueError("the other end of a one-way connection spoke"))

    def eof_received(self) -> None:
        self.stream.close(linger=False)

    def connection_lost(self, error: Exception | None) -> None:
        self.bus.on_outbound_lost(self, error)


class Inbound(Observer):
    """A connection that another process made to us: it only receives."""

    __slots__ = ("_reader", "bus", "is_alone", "name", "number", "stream")

    def __init__(self, bus: LinkEvents, stream: Stream) -> None:
        self.bus = bus
        self.stream = stream
        self.name = ""
        self.number = 0
        self.is_alone = False  # our connection to that process was lost
        self._reader = FrameReader()

    def data_received(self, buf: bytearray, n: int, /) -> None:
        try:
            for frame in self._reader.feed(memoryview(buf)[:n]):
                if self.name:
                    self.bus.on_frame(self.name, frame)
                elif not self._read_hello(frame):
                    return
        except ValueError as error:
            logger.error("the bus: %s; cut off", error)
            self.stream.abort()

    def _read_hello(self, frame: Frame) -> bool:
        """Read who is at the other end from the first frame. Returns whether this connection counts."""
        name = frame.data.decode()
        if frame.type != HELLO or not is_name(name):
            raise ValueError("the first frame does not name its process")
        self.name = name
        if self.bus.on_hello(self, frame.number):
            return True
        self.stream.abort()
        return False

    def eof_received(self) -> None:
        self.stream.close(linger=False)

    def connection_lost(self, error: Exception | None) -> None:
        self.bus.on_inbound_lost(self)
