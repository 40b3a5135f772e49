"""MeteredConnection: a connection that is held to rates."""

from __future__ import annotations

from gows.codes import CloseCause, CloseCode
from gows.errors import ProtocolError
from gows.protocol.connection import Connection, Event
from gows.protocol.rates import Meter
from gows.protocol.states import CHUNK, CLOSE, FAIL, ConnectionState


class RateError(ProtocolError):
    """The peer sent more than it may in a time."""

    cause = CloseCause.RATE

    def __init__(self, what: str) -> None:
        super().__init__(CloseCode.POLICY_VIOLATION, f"too many {what} a second")


class MeteredConnection(Connection):
    """A Connection whose config has `rates`. What came within them is received; the rest is the peer's fault (1008)."""

    __slots__ = ()

    def receive_one(self, buf: bytes | bytearray, pos: int, n: int) -> None:
        """Return None: `receive` counts what comes."""

    def receive(self, buf: bytes | bytearray, n: int, events: list[Event], pos: int = 0) -> None:
        """Parse and count; `pos` is 0, for `receive_one` takes nothing. Of a read that is too large, only what was
        allowed is parsed."""
        if self.state is not ConnectionState.OPEN:  # what was under way when we closed is read past
            super().receive(buf, n, events)
            return
        rates = self.config.rates
        assert rates is not None
        known = len(events)
        allowed = n if rates.bytes is None else rates.bytes.take(self, n)
        super().receive(buf, allowed, events)
        if rates.messages is not None and len(events) > known:
            self._count(rates.messages, events, known)
        if allowed < n and self.state is ConnectionState.OPEN:
            self.fail(RateError("bytes"), events)

    def _count(self, meter: Meter, events: list[Event], known: int) -> None:
        came = [index for index in range(known, len(events)) if _counts(events[index])]
        allowed = meter.take(self, len(came))
        if allowed < len(came):
            for kind, value in events[came[allowed] :]:
                if kind < CLOSE:
                    (value[2] if kind == CHUNK else value).release()
            del events[came[allowed] :]
            self.fail(RateError("messages"), events)

    def receive_eof(self) -> None:
        """Forget the connection: its stream is gone."""
        super().receive_eof()
        rates = self.config.rates
        assert rates is not None
        for meter in (rates.messages, rates.bytes):
            if meter is not None:
                meter.forget(self)


def _counts(event: Event) -> bool:
    """Return whether an event is a message or a control frame: of a message in pieces, the last one is."""
    kind, value = event
    return kind not in (CLOSE, FAIL) and (kind != CHUNK or value[1])
