"""A loop, and peers for its streams: over real TCP with any selector, or in memory. The same tests run on all."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any, Protocol

from gows.reactor import Loop, Observer, Stream
from tests.support.fakes import World
from tests.support.waiting import turn_until


class Peer:
    """The other end of a stream, played by the test. Never blocks."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.data = bytearray()
        self.eof = False
        self.reset = False

    def send(self, data: bytes) -> int:
        """As much of `data` as goes now."""
        try:
            return int(self.sock.send(data))
        except BlockingIOError:
            return 0

    def read(self, most: int = 1 << 30) -> bool:
        """Take what has come, up to `most` bytes. Whether anything did."""
        before = (len(self.data), self.eof, self.reset)
        while most > 0 and not self.eof and not self.reset:
            try:
                data = self.sock.recv(min(most, 65536))
            except BlockingIOError:
                break
            except ConnectionResetError:
                self.reset = True
                break
            self.data += data
            most -= len(data)
            self.eof = not data
        return before != (len(self.data), self.eof, self.reset)

    def got(self, data: bytes) -> Callable[[], bool]:
        """A condition: these bytes have come, in all."""
        return lambda: (self.read() or True) and bytes(self.data) == data

    def has(self, size: int) -> Callable[[], bool]:
        """A condition: so many bytes have come, in all."""
        return lambda: (self.read() or True) and len(self.data) == size

    def finished(self) -> bool:
        """A condition: end of file has come."""
        self.read()
        return self.eof

    def was_reset(self) -> bool:
        """A condition: RST has come."""
        self.read()
        return self.reset

    def end(self) -> None:
        """FIN."""
        self.sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


class Bench(Protocol):
    """What a test gets."""

    loop: Loop

    def connect(self, observer: Observer, **settings: Any) -> tuple[Stream, Peer]:
        """A stream of the loop, and its peer."""
        ...

    def until(self, condition: Callable[[], object]) -> None:
        """Turn the loop until the condition holds."""
        ...

    def settle(self) -> None:
        """Turn the loop until nothing is left to do now."""
        ...


def tcp_pair(buffer_size: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets on loopback; the first is blocking, the second is not."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if buffer_size is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_size)
        listener.listen()
        one = socket.socket()
        if buffer_size is not None:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_size)
        one.connect(listener.getsockname())
        other, _ = listener.accept()
    other.setblocking(False)
    return one, other


class RealBench:
    """Over the operating system's TCP."""

    def __init__(self, poller: str) -> None:
        self.loop = Loop(poller=poller, workers=0)
        self._peers: list[Peer] = []

    def connect(self, observer: Observer, **settings: Any) -> tuple[Stream, Peer]:
        one, other = tcp_pair(buffer_size=32768)
        self._peers.append(Peer(other))
        return self.loop.adopt(one, observer, **settings), self._peers[-1]

    def until(self, condition: Callable[[], object]) -> None:
        turn_until(self.loop, condition)

    def settle(self) -> None:
        for _ in range(3):  # what goes over loopback has arrived when send(2) returns
            while self.loop.run_once(0):
                pass

    def close(self) -> None:
        self.loop.close()
        for peer in self._peers:
            peer.close()


class MemoryBench:
    """In memory, in virtual time."""

    def __init__(self) -> None:
        self.world = World(buffer_size=32768)
        self.loop = self.world.loop()

    def connect(self, observer: Observer, **settings: Any) -> tuple[Stream, Peer]:
        one, other = self.world.network.pair()
        return self.loop.adopt(one, observer, **settings), Peer(other)  # type: ignore[arg-type]

    def until(self, condition: Callable[[], object]) -> None:
        self.world.run_until(condition)

    def settle(self) -> None:
        while self.world.turn():
            pass

    def close(self) -> None:
        self.world.close()
