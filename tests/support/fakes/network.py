"""MemoryNetwork: a socket layer without an operating system, for one thread.

It behaves like TCP on one host where the reactor can tell the difference: bounded buffers, partial sends, FIN and
RST, half-close, RST in answer to
unread bytes at close, descriptor numbers that are reused lowest first, a descriptor limit, connection attempts
that take time.
"""

from __future__ import annotations

import errno
import heapq
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

from gows.reactor import ERROR, READ, WRITE, Address, SocketLayer, Target, Wakeup
from tests.support.fakes.clock import VirtualClock
from tests.support.fakes.pipe import FIN, Pipe

FIRST_DESCRIPTOR = 3
ELSEWHERE = 1 << 24
"""From here on they are another process's."""


class MemoryNetwork(SocketLayer):
    """Sockets that live in this process only.

    - `latency`: seconds that bytes, and connection attempts, are under way.
    - `buffer_size`: bytes between a sender and a receiver that does not read.
    - `wakes_at`: the part of it that must be free for a poller to say that it is writable; on Linux a third.
    - `descriptors`: how many may be open at once; one more is EMFILE.
    - `names`: hosts that need to be resolved, with their addresses.
    """

    def __init__(
        self,
        clock: VirtualClock,
        *,
        latency: float = 0.0,
        buffer_size: int = 65536,
        wakes_at: float = 0.0,
        descriptors: int = 1 << 20,
    ) -> None:
        self.clock = clock
        self.wakes_at = wakes_at
        self.latency = latency
        self.buffer_size = buffer_size
        self.descriptors = descriptors
        self.host = "10.0.0.9"  # where connections come from
        self.elsewhere = False  # whether the next sockets are another process's, and take no descriptor of this one
        self.names: dict[str, list[str]] = {}
        self.unreachable: set[str] = set()  # hosts that never answer
        self.open: dict[int, MemorySocket | MemoryListener | MemoryWakeup | None] = {}
        self.registered: set[int] = set()  # descriptors that some poller watches
        self.peers: list[MemorySocket] = []
        self._free: list[int] = []
        self._next = FIRST_DESCRIPTOR
        self._last_elsewhere = ELSEWHERE
        self._listeners: dict[Any, MemoryListener] = {}
        self._next_port = 40000

    # ------------------------------------------------------------------ what a loop asks for

    def make_wakeup(self) -> Wakeup:
        return MemoryWakeup(self)

    def descriptor_limit(self) -> int:
        return FIRST_DESCRIPTOR + self.descriptors

    def take_reserve(self) -> int:
        try:
            return self._allocate(None)
        except OSError:
            return -1

    def drop_reserve(self, fd: int) -> None:
        if fd >= 0:
            self.release(fd)

    def is_numeric(self, address: Address) -> bool:
        return address.host not in self.names

    def resolve(self, address: Address) -> list[Target]:
        if address.path is not None:
            return [Target(socket.AF_UNIX, address.path)]
        return [Target(socket.AF_INET, (host, address.port)) for host in self.names.get(address.host, [address.host])]

    def dial(self, target: Target) -> tuple[Any, int]:
        client = MemorySocket(self, target.family)
        client.begin_connect(target.sockaddr, self._listeners.get(target.sockaddr))
        return client, errno.EINPROGRESS

    def adopt(self, sock: Any) -> Any:
        assert isinstance(sock, MemorySocket)
        return sock

    def accept(self, listener: Any) -> Any:
        return listener.accept()

    def listen(
        self, address: Address, *, backlog: int = 4096, reuse_port: bool = False, mode: int | None = None
    ) -> list[Any]:
        name = address.path if address.path is not None else (address.host, address.port or self._free_port())
        if name in self._listeners:
            raise OSError(errno.EADDRINUSE, f"cannot listen at {address}: {os.strerror(errno.EADDRINUSE)}")
        listener = self._listeners[name] = MemoryListener(self, name, backlog)
        return [listener]

    def stop_listening(self, listener: Any) -> None:
        assert isinstance(listener, MemoryListener)

    def held(self, sock: Any) -> int:
        outgoing = self._beneath(sock)._outgoing
        return 0 if outgoing is None else self.buffer_size - outgoing.room

    def acknowledged(self, sock: Any) -> int:
        outgoing = self._beneath(sock)._outgoing
        return 0 if outgoing is None else outgoing.taken + 1

    def _beneath(self, sock: Any) -> MemorySocket:
        """The socket, which may be wrapped in another; a kernel knows descriptors only."""
        found = sock if isinstance(sock, MemorySocket) else self.open[sock.fileno()]
        assert isinstance(found, MemorySocket)
        return found

    # ------------------------------------------------------------------ what tests and pollers ask for

    def pair(self) -> tuple[MemorySocket, MemorySocket]:
        """Two connected sockets; the second, which the test plays the peer with, is closed with the world."""
        one, other = MemorySocket(self, socket.AF_INET), MemorySocket(self, socket.AF_INET)
        one.join(other, ("10.0.0.1", self._free_port()), ("10.0.0.2", self._free_port()))
        self.peers.append(other)
        return one, other

    @property
    def listening(self) -> list[Any]:
        """Where somebody listens: (host, port), or a path."""
        return list(self._listeners)

    @property
    def taken(self) -> int:
        """How many descriptors of this process are open."""
        return self._next - FIRST_DESCRIPTOR - len(self._free)

    def readiness(self, fd: int) -> int:
        """The mask that a poller would report for an open descriptor."""
        owner = self.open[fd]
        assert owner is not None
        return owner.readiness()

    def next_event(self) -> float | None:
        """When something that is under way will have arrived."""
        times = [time for owner in self.open.values() if owner is not None for time in owner.pending_times()]
        return min(times, default=None)

    def release(self, fd: int) -> None:
        """Close a descriptor."""
        assert fd not in self.registered, f"descriptor {fd} is closed while a poller watches it"
        del self.open[fd]
        if fd < ELSEWHERE:
            heapq.heappush(self._free, fd)

    def forget_listener(self, name: Any) -> None:
        del self._listeners[name]

    def allocate(self, owner: MemorySocket | MemoryListener | MemoryWakeup) -> int:
        """The lowest free descriptor, as POSIX wants it. Raises EMFILE."""
        return self._allocate(owner)

    def _allocate(self, owner: MemorySocket | MemoryListener | MemoryWakeup | None) -> int:
        if self.elsewhere:
            self._last_elsewhere += 1
            self.open[self._last_elsewhere] = owner
            return self._last_elsewhere
        if self.taken >= self.descriptors:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if self._free:
            fd = heapq.heappop(self._free)
        else:
            fd = self._next
            self._next += 1
        self.open[fd] = owner
        return fd

    def _free_port(self) -> int:
        self._next_port += 1
        return self._next_port


class MemoryWakeup(Wakeup):
    """A wake-up that only the MemoryPoller of its network notices."""

    __slots__ = ("_network", "_woken", "wakes")

    def __init__(self, network: MemoryNetwork) -> None:
        self.armed = False
        self.here = None
        self.wakes = 0
        self._woken = False
        self._network = network
        self.fd = network.allocate(self)

    def wake(self) -> None:
        if self.armed:
            self.armed = False
            self._woken = True
            self.wakes += 1

    def on_readable(self, scratch: bytearray, ticks: int) -> None:
        self._woken = False

    def readiness(self) -> int:
        return READ if self._woken else 0

    def pending_times(self) -> list[float]:
        return []

    def close(self) -> None:
        if self.fd >= 0:
            self._network.registered.discard(self.fd)  # the poller is closed right after, as a whole
            self._network.release(self.fd)
            self.fd = -1


class MemoryListener:
    """A listening socket."""

    def __init__(self, network: MemoryNetwork, name: Any, backlog: int) -> None:
        self.family = socket.AF_INET if isinstance(name, tuple) else socket.AF_UNIX
        self.waiting: deque[MemorySocket] = deque()
        self.backlog = backlog
        self._network = network
        self._name = name
        self._fd = network.allocate(self)

    def accept(self) -> MemorySocket:
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        client = self.waiting[0]
        server = MemorySocket(self._network, self.family)  # may raise EMFILE; the client goes on waiting
        self.waiting.popleft()
        server.join(client, self._name, client._names[0])  # which may be closed by now
        return server

    def readiness(self) -> int:
        return READ if self.waiting else 0

    def pending_times(self) -> list[float]:
        return []

    def fileno(self) -> int:
        return self._fd

    def getsockname(self) -> Any:
        return self._name

    def close(self) -> None:
        for client in self.waiting:
            client.reset_by_peer()
        self._network.forget_listener(self._name)
        self._network.release(self._fd)
        self._fd = -1


class MemorySocket:
    """A connected socket, or one that is being connected."""

    def __init__(self, network: MemoryNetwork, family: int) -> None:
        self.family = family
        self._network = network
        self._fd = network.allocate(self)
        self._incoming: Pipe | None = None
        self._outgoing: Pipe | None = None
        self._peer: MemorySocket | None = None
        self._names: tuple[Any, Any] = ((network.host, 0), None)
        self._connected_at: float | None = None
        self._refused = False
        self._error = 0  # what SO_ERROR tells, once
        self._broken = False  # a reset was received
        self._ended = False  # our FIN is out
        self._linger: tuple[int, int] = (0, 0)

    # ------------------------------------------------------------------ connecting

    def begin_connect(self, name: Any, listener: MemoryListener | None) -> None:
        network = self._network
        self._names = (network.host, network._free_port()) if isinstance(name, tuple) else "", name
        if isinstance(name, tuple) and name[0] in network.unreachable:
            return
        self._connected_at = network.clock() + network.latency
        if listener is None or len(listener.waiting) >= listener.backlog:
            self._refused = True
            self._error = errno.ECONNREFUSED
        else:
            self._pipes(self._pipe(), self._pipe())
            listener.waiting.append(self)

    def join(self, client: MemorySocket, name: Any, peer_name: Any) -> None:
        """Become the other end of `client`."""
        if client._incoming is None:
            client._names = (peer_name, name)
            client._connected_at = self._network.clock()
            client._pipes(self._pipe(), self._pipe())
        self._names = (name, peer_name)
        self._connected_at = self._network.clock()
        self._incoming, self._outgoing = client._outgoing, client._incoming
        self._peer, client._peer = client, self

    def _pipe(self) -> Pipe:
        return Pipe(self._network.clock, self._network.buffer_size, self._network.latency)

    def _pipes(self, incoming: Pipe, outgoing: Pipe) -> None:
        self._incoming, self._outgoing = incoming, outgoing

    @property
    def accepted(self) -> bool:
        """Whether the other end is there."""
        return self._peer is not None

    def partition(self) -> None:
        """From now on nothing that either end sends arrives, and nobody is told."""
        assert self._incoming is not None
        assert self._outgoing is not None
        self._incoming.cut = self._outgoing.cut = True

    def reset_by_peer(self) -> None:
        """RST arrives."""
        self._broken = True
        self._error = errno.ECONNRESET
        if self._incoming is not None:
            self._incoming.destroy()

    # ------------------------------------------------------------------ what the poller sees

    def _is_connected(self) -> bool:
        return self._connected_at is not None and self._connected_at <= self._network.clock()

    def readiness(self) -> int:
        if not self._is_connected():
            return 0
        if self._refused or self._broken:
            return READ | WRITE | ERROR
        assert self._incoming is not None
        assert self._outgoing is not None
        mask = READ if self._incoming.readable else 0
        if self._outgoing.room > self._network.wakes_at * self._network.buffer_size:
            mask |= WRITE
        return mask | (16 if self._incoming.finished and self._ended else 0)

    def pending_times(self) -> list[float]:
        now = self._network.clock()
        times = [] if self._connected_at is None or self._connected_at <= now else [self._connected_at]
        arrival = None if self._incoming is None else self._incoming.next_arrival()
        return times if arrival is None else [*times, arrival]

    # ------------------------------------------------------------------ the socket interface

    def fileno(self) -> int:
        return self._fd

    def recv(self, size: int) -> bytes:
        """For tests that play the peer."""
        buffer = bytearray(size)
        return bytes(buffer[: self.recv_into(buffer)])

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        self._check_open()
        assert self._incoming is not None
        data = self._incoming.take(len(buffer))
        if data:
            buffer[: len(data)] = data
            return len(data)
        if self._error:
            raise self._take_error()
        if self._incoming.finished or self._broken:
            return 0
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def send(self, data: bytes | memoryview) -> int:
        self._check_open()
        if self._error:
            raise self._take_error()
        if self._ended or self._broken:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        assert self._outgoing is not None
        if self._peer is not None and self._peer.fileno() < 0 and not self._outgoing.cut:
            self.reset_by_peer()  # the peer's kernel answers RST: nobody is there any more
            return len(data)
        room = self._outgoing.room
        if room <= 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        part = bytes(data[:room])
        self._outgoing.send(part)
        return len(part)

    def sendmsg(self, buffers: Sequence[bytes | memoryview]) -> int:
        return self.send(b"".join(buffers))

    def shutdown(self, how: int) -> None:
        self._check_open()
        if self._broken:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        assert how == socket.SHUT_WR
        if not self._ended:
            self._ended = True
            assert self._outgoing is not None
            self._outgoing.send(FIN)

    def getsockname(self) -> Any:
        self._check_open()
        return self._names[0]

    def getpeername(self) -> Any:
        self._check_open()
        if self._broken:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._names[1]

    def getsockopt(self, level: int, option: int) -> int:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR)
        error, self._error = self._error, 0
        return error

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        self._check_open()
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            assert isinstance(value, bytes)
            on, seconds = struct.unpack("ii", value)
            self._linger = (on, seconds)

    def close(self) -> None:
        if self._fd < 0:
            return
        self._network.release(self._fd)
        self._fd = -1
        if self._incoming is None or self._outgoing is None or self._broken:
            return
        if self._linger == (1, 0) or self._incoming.unread:
            if self._peer is not None and not self._outgoing.cut:
                self._peer.reset_by_peer()
        elif not self._ended:
            self._ended = True
            self._outgoing.send(FIN)

    def _take_error(self) -> OSError:
        error, self._error = self._error, 0
        return OSError(error, os.strerror(error))

    def _check_open(self) -> None:
        if self._fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
