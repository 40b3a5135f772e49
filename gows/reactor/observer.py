"""Observer: what a stream tells its owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gows.reactor.stream import Stream


class Observer(Protocol):
    """The owner of a stream. All methods are called in the loop's thread, never two at once, and none after
    `connection_lost`.

    They must not block. What they raise is logged, and the stream is aborted with it.
    Once the owner has called `close` or `abort`, only `connection_lost` follows.
    A class may inherit from this one: everything but `data_received` has a default.
    """

    __slots__ = ()

    @property
    def high_water(self) -> int:
        """Bytes queued from which on `drained` is owed."""
        return 262144

    @property
    def low_water(self) -> int:
        """Bytes queued at which the owed `drained` is called."""
        return 65536

    def connected(self, stream: Stream) -> None:
        """Outgoing streams only: the connection is made, its TLS handshake included. What was written before goes out
        now."""
        return

    def data_received(self, buf: bytearray, n: int, /) -> None:
        """`buf[:n]` came in. `buf` is the loop's scratch buffer: valid until this returns, not to be resized."""
        raise NotImplementedError

    def eof_received(self) -> None:
        """The peer sends nothing more. Writing is still possible; by default the stream is left as it is."""
        return

    def blocked(self) -> None:
        """The kernel took only a part of the queue; `stalled_for` counts from now on."""
        return

    def drained(self) -> None:
        """The queue fell to `low_water` after it had reached `high_water`."""
        return

    def deadline_reached(self) -> None:
        """The deadline set with `set_deadline` has come. It is off now; set the next one here."""
        return

    def connection_lost(self, error: Exception | None) -> None:
        """The stream is over: exactly once, and last. `error` is None after an orderly close. The descriptor closes
        after it."""
        return
