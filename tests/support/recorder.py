"""Recorder: an observer that writes down what it is told, and does what a test asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gows.reactor import Stream


class Recorder:
    """`calls` has the names of the observer's methods in order (each `data_received` once in a row); `data` all
    the bytes."""

    def __init__(self, stream: Stream | None = None, *, high_water: int = 262144, low_water: int = 65536) -> None:
        self.stream = stream
        self.high_water = high_water
        self.low_water = low_water
        self.calls: list[str] = []
        self.data = bytearray()
        self.error: Exception | None = None
        self.actions: dict[str, Callable[[], Any]] = {}

    def on(self, call: str, action: Callable[[], Any]) -> Recorder:
        """Do `action` when the method `call` is called."""
        self.actions[call] = action
        return self

    @property
    def lost(self) -> bool:
        return "connection_lost" in self.calls

    def connected(self, stream: Stream) -> None:
        assert stream is self.stream or self.stream is None
        self.stream = stream
        self._called("connected")

    def data_received(self, buf: bytearray, n: int) -> None:
        self.data += buf[:n]
        if self.calls[-1:] == ["data_received"]:
            self.calls.pop()
        self._called("data_received")

    def eof_received(self) -> None:
        self._called("eof_received")

    def blocked(self) -> None:
        self._called("blocked")

    def drained(self) -> None:
        self._called("drained")

    def deadline_reached(self) -> None:
        self._called("deadline_reached")

    def connection_lost(self, error: Exception | None) -> None:
        self.error = error
        self._called("connection_lost")

    def _called(self, call: str) -> None:
        assert "connection_lost" not in self.calls, f"{call} after connection_lost"
        self.calls.append(call)
        if call in self.actions:
            self.actions[call]()


class Acceptor:
    """An `on_accept` that gives every stream a Recorder, and keeps both."""

    def __init__(self, setup: Callable[[Recorder], object] | None = None) -> None:
        self.recorders: list[Recorder] = []
        self._setup = setup

    def __call__(self, stream: Stream) -> None:
        recorder = Recorder(stream)
        stream.observer = recorder
        self.recorders.append(recorder)
        if self._setup is not None:
            self._setup(recorder)

    def has(self, count: int) -> bool:
        """Whether so many connections have come, or more."""
        return len(self.recorders) >= count

    @property
    def one(self) -> Recorder:
        """The only connection there was."""
        (recorder,) = self.recorders
        return recorder


def echo(recorder: Recorder) -> None:
    """A setup: send back what comes, and close after the peer."""
    stream = recorder.stream
    assert stream is not None

    def send_back() -> None:
        data = bytes(recorder.data)
        recorder.data.clear()
        stream.write(data)

    recorder.on("data_received", send_back).on("eof_received", stream.close)
