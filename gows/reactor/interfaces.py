"""Interfaces: what the parts of the reactor ask of each other, so that a lower one need not know a higher one.

Sock        a socket, for whoever reads and writes
Observer    the owner of a stream, for the stream
Endpoint    whatever owns a descriptor, for the loop
Transport   an Endpoint that is a connection: a stream, for the loop
Attempt     a connection that is being made, for the loop
Accepting   where connections are accepted, for the loop
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, overload


class Sock(Protocol):
    """A non-blocking `socket.SocketType`, as far as the reactor uses one; a stand-in must behave alike."""

    @property
    def family(self) -> int: ...
    def fileno(self) -> int: ...
    def recv_into(self, buffer: bytearray | memoryview, /) -> int: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
    def sendmsg(self, buffers: Sequence[bytes | memoryview], /) -> int: ...
    def shutdown(self, how: int, /) -> None: ...
    def getsockname(self) -> Any: ...
    def getpeername(self) -> Any: ...
    @overload
    def getsockopt(self, level: int, option: int, /) -> int: ...
    @overload
    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...
    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...
    def close(self) -> None: ...


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
        """Return the bytes queued from which on `drained` is to be called."""
        return 262144

    @property
    def low_water(self) -> int:
        """Return the bytes queued at which `drained` is called."""
        return 65536

    def connected(self, stream: Any) -> None:
        """Take note that the connection is made, its TLS handshake included. Outgoing streams only; `stream` is the
        Stream. What was written before goes out now."""
        return

    def data_received(self, buf: bytearray, n: int, /) -> None:
        """Take `buf[:n]`, which came in. `buf` is the loop's scratch buffer: it is valid until this returns, and must
        not be resized."""
        raise NotImplementedError

    def eof_received(self) -> None:
        """Take note that the peer sends nothing more. Writing is still possible; by default the stream is left as it
        is."""
        return

    def blocked(self) -> None:
        """Take note that the kernel took only a part of the queue; `stalled_for` counts from now on."""
        return

    def drained(self) -> None:
        """Take note that the queue fell to `low_water` after it had reached `high_water`."""
        return

    def deadline_reached(self) -> None:
        """Act on the deadline that was set with `set_deadline`. It is off now; set the next one here."""
        return

    def connection_lost(self, error: Exception | None) -> None:
        """Take note that the stream is over: called exactly once, and last. `error` is None after an orderly close. The
        descriptor closes after it."""
        return


class Endpoint:
    """Base of whatever owns a descriptor: streams, listeners, connection attempts and the wake-up. Loop thread."""

    __slots__ = ()

    def on_readable(self, scratch: bytearray, ticks: int) -> None:
        """Read once into `scratch`: the poller reported READ alone, as it nearly always does. `ticks` is the loop's
        coarse time."""
        raise NotImplementedError

    def on_event(self, mask: int, scratch: bytearray, ticks: int) -> None:
        """Act on any other report of the poller."""
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """Act on an `error` that one of the methods above raised, and that the loop has logged."""
        raise NotImplementedError

    def disown(self) -> None:
        """Close this process's copy of the descriptor, in a forked child, and change nothing else: it is the
        parent's. No lock is taken, since a thread that did not come along may have held it."""
        raise NotImplementedError


class Transport(Endpoint):
    """Base of streams: an endpoint that sends, and that comes to an end. Loop thread, unless a method says otherwise.

    `sock`: None until the connection is made. `observer`: the owner. `deadline`: the tick at which `on_deadline` is
    due, 0 for none.
    """

    __slots__ = ("deadline", "observer", "sock")

    def __init__(self, sock: Sock | None, observer: Observer) -> None:
        self.sock = sock
        self.observer = observer
        self.deadline = 0

    @property
    def blocked(self) -> bool:
        """Return whether the kernel takes no more for now. Any thread."""
        raise NotImplementedError

    def untaken(self) -> int:
        """Return how many bytes the peer's host has not taken. Any thread."""
        raise NotImplementedError

    def attach(self) -> None:
        """Begin to watch the descriptor, which has its place in the loop."""
        raise NotImplementedError

    def flush_dirty(self) -> None:
        """Send what is queued, at the end of a turn."""
        raise NotImplementedError

    def on_deadline(self) -> None:
        """Act on the deadline, which has come."""
        raise NotImplementedError

    def settle(self, error: Exception | None) -> None:
        """Take the next step towards the end, at the end of a turn."""
        raise NotImplementedError

    def abort(self, error: Exception | None = None) -> None:
        """End at once, because of `error`. Any thread."""
        raise NotImplementedError


class Attempt(Protocol):
    """A connection that is being made. Loop thread."""

    def finish(self, error: Exception | None, /) -> Exception | None:
        """Release everything: the stream is connected, or it is lost because of `error`. Returns what to tell its
        observer."""


class Accepting(Protocol):
    """Where connections are accepted."""

    def close(self) -> None:
        """Stop accepting. Any thread."""

    def remove_file(self) -> None:
        """Remove the file of a Unix-domain socket."""

    def disown(self) -> None:
        """Release the descriptors in a forked child."""
