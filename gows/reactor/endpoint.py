"""Endpoint: whatever owns a descriptor that the loop watches; Sock: what it asks of the socket under it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, overload

if TYPE_CHECKING:
    from collections.abc import Sequence


class Endpoint:
    """Base of streams, listeners, connection attempts and the wake-up: the loop calls these, in its thread."""

    __slots__ = ()

    def on_readable(self, scratch: bytearray, ticks: int) -> None:
        """READ alone was reported, which is nearly always so: read once into `scratch`. `ticks` is the loop's coarse
        time."""
        raise NotImplementedError

    def on_event(self, mask: int, scratch: bytearray, ticks: int) -> None:
        """Anything else was reported."""
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """A call above raised `error`, which the loop has logged."""
        raise NotImplementedError

    def disown(self) -> None:
        """Close this process's copy of the descriptor, in a forked child, and change nothing else: it is the
        parent's. No lock is taken, since a thread that did not come along may have held it."""
        raise NotImplementedError


class Sock(Protocol):
    """The part of a non-blocking `socket.SocketType` that the reactor uses; a stand-in must behave alike."""

    @property
    def family(self) -> int: ...
    def fileno(self) -> int: ...
    def recv_into(self, buffer: bytearray, /) -> int: ...
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
