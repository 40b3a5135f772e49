"""SimulatedNetwork: the sockets of several processes, which tell the pollers that watch them when something changes."""

from __future__ import annotations

import errno
import heapq
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gows.reactor import ERROR, Address, Poller, SocketLayer, Target, Wakeup
from gows.reactor.poller import Events
from tests.simulation.machine import Host, Machine, Thread
from tests.support.fakes import MemoryFolder, MemoryNetwork, MemorySocket
from tests.support.fakes.network import MemoryListener, MemoryWakeup
from tests.support.fakes.pipe import Pipe


class SimulatedPipe(Pipe):
    """One direction of a connection. A chunk takes as long as the network says, and overtakes none before it."""

    def __init__(self, network: SimulatedNetwork, capacity: int, *, local: bool) -> None:
        super().__init__(network.clock, capacity, 0.0)
        self._network = network
        self._local = local
        self.arrives = 0.0  # the last chunk

    def send(self, data: bytes) -> None:
        delay = 0.0 if self._local else self._network.delay()
        self.arrives = max(self.arrives, self._clock() + delay)
        self._travelling.append((self.arrives, data))
        self._size += len(data)


class SimulatedSocket(MemorySocket):
    """A socket of one process."""

    _network: SimulatedNetwork

    def begin_connect(self, name: Any, listener: MemoryListener | None) -> None:
        super().begin_connect(name, listener)
        if self._connected_at is not None:
            self._network.touch(self._fd, self._connected_at)
        if listener is not None:
            self._network.touch(listener.fileno())

    def join(self, client: MemorySocket, name: Any, peer_name: Any) -> None:
        super().join(client, name, peer_name)
        assert isinstance(self._outgoing, SimulatedPipe)
        assert isinstance(self._incoming, SimulatedPipe)
        self._network.touch(client.fileno(), self._outgoing.arrives)
        self._network.touch(self._fd, self._incoming.arrives)
        self._network.connected(client, self)

    def _pipe(self) -> Pipe:
        return SimulatedPipe(
            self._network, self._network.size_of(self.family), local=self._network.is_local(self.family)
        )

    def reset_by_peer(self) -> None:
        super().reset_by_peer()
        self._network.touch(self._fd)

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        taken = super().recv_into(buffer)
        if self._peer is not None:
            self._network.touch(self._peer._fd)
        return taken

    def send(self, data: bytes | memoryview) -> int:
        sent = super().send(data)
        self._tell_peer()
        return sent

    def shutdown(self, how: int) -> None:
        super().shutdown(how)
        self._tell_peer()
        self._network.touch(self._fd)

    def close(self) -> None:
        fd = self._fd
        super().close()
        if fd >= 0:
            self._tell_peer()

    def _tell_peer(self) -> None:
        if self._peer is not None:
            assert isinstance(self._outgoing, SimulatedPipe)
            self._network.touch(self._peer._fd, self._outgoing.arrives)

    @property
    def established(self) -> bool:
        """Whether both ends are there, and open."""
        return self._fd >= 0 and self._peer is not None and self._peer._fd >= 0


class SimulatedListener(MemoryListener):
    """A listening socket of one process; several may share an address."""

    def __init__(self, network: SimulatedNetwork, name: Any, host: Host) -> None:
        super().__init__(network, name, 128)
        self._key = name, host.name
        self.host = host

    def close(self) -> None:
        if self._fd < 0:
            return
        for client in self.waiting:
            client.reset_by_peer()
        self._network.forget_listener(self._key)
        self._network.release(self._fd)
        self._fd = -1


class SimulatedWakeup(MemoryWakeup):
    """What ends the sleep of a loop."""

    __slots__ = ()

    def wake(self) -> None:
        if self.armed:
            super().wake()
            self._network.touch(self.fd)  # type: ignore[attr-defined]


class SimulatedNetwork(MemoryNetwork):
    """All sockets. Processes have a `HostLayer` of it each."""

    def __init__(self, machine: Machine, *, buffer_size: int, bus_buffer_size: int, delay: Callable[[], float]) -> None:
        """`delay`: seconds that the next chunk takes, of connections that are no Unix-domain sockets."""
        super().__init__(machine.clock, buffer_size=buffer_size)
        self.machine = machine
        self.delay = delay
        self.on_connected: Callable[[SimulatedSocket, SimulatedSocket], object] = lambda client, server: None
        self._bus_buffer_size = bus_buffer_size
        self.pollers: dict[int, SimulatedPoller] = {}
        self._arrivals: list[tuple[float, int]] = []

    def touch(self, fd: int, at: float = 0.0) -> None:
        """Something changes at `fd`, now or at that time."""
        if at > self.clock():
            heapq.heappush(self._arrivals, (at, fd))
            return
        poller = self.pollers.get(fd)
        if poller is not None:
            poller.touch()

    def arrive(self) -> None:
        """Time has gone by."""
        now = self.clock()
        while self._arrivals and self._arrivals[0][0] <= now:
            self.touch(heapq.heappop(self._arrivals)[1])

    def next_event(self) -> float | None:
        return self._arrivals[0][0] if self._arrivals else None

    def connected(self, client: MemorySocket, server: SimulatedSocket) -> None:
        """A connection was accepted."""
        assert isinstance(client, SimulatedSocket)
        self.on_connected(client, server)

    def is_local(self, family: int) -> bool:
        return family == 1  # AF_UNIX

    def size_of(self, family: int) -> int:
        """Bytes that a connection of that kind has room for."""
        return self._bus_buffer_size if self.is_local(family) else self.buffer_size

    def listener(self, name: Any) -> SimulatedListener | None:
        """One of those that listen at an address, by chance."""
        found = [
            listener
            for (bound, _), listener in self._listeners.items()
            if bound == name and isinstance(listener, SimulatedListener)
        ]
        return found[int(self.machine.rng.random() * len(found))] if found else None

    @property
    def listening(self) -> list[Any]:
        return [name for name, _ in self._listeners]


class HostLayer(SocketLayer):
    """The sockets of one process."""

    def __init__(self, network: SimulatedNetwork, host: Host) -> None:
        self.network = network
        self.host = host
        self.owned: dict[int, Any] = {}
        self._reserves: set[int] = set()

    def _own(self, item: Any) -> Any:
        self.owned[item.fileno() if hasattr(item, "fileno") else item.fd] = item
        return item

    def make_wakeup(self) -> Wakeup:
        wakeup = SimulatedWakeup(self.network)
        self._own(wakeup)
        return wakeup

    def descriptor_limit(self) -> int:
        return self.network.descriptor_limit()

    def take_reserve(self) -> int:
        fd = self.network.take_reserve()
        self._reserves.add(fd)
        return fd

    def drop_reserve(self, fd: int) -> None:
        if fd >= 0:
            self._reserves.remove(fd)
            self.network.drop_reserve(fd)

    def is_numeric(self, address: Address) -> bool:
        return True

    def resolve(self, address: Address) -> list[Target]:
        return self.network.resolve(address)

    def adopt(self, sock: Any) -> Any:
        raise NotImplementedError("nobody has a socket of his own here")

    def dial(self, target: Target) -> tuple[Any, int]:
        client = self._own(SimulatedSocket(self.network, target.family))
        client.begin_connect(target.sockaddr, self.network.listener(target.sockaddr))
        return client, errno.EINPROGRESS

    def stop_listening(self, listener: Any) -> None:
        """It is closed next."""

    def held(self, sock: Any) -> int:
        return 0 if sock._outgoing is None else int(sock._outgoing._size)

    def acknowledged(self, sock: Any) -> int:
        return -self.held(sock)

    def limit_sending(self, sock: Any, size: int | None, *, fresh: bool) -> None:
        """Buffers are as the network has them."""

    def listen(
        self, address: Address, *, backlog: int = 4096, reuse_port: bool = False, mode: int | None = None
    ) -> list[Any]:
        name = address.path if address.path is not None else (address.host, address.port)
        listener = self._own(SimulatedListener(self.network, name, self.host))
        assert listener._key not in self.network._listeners
        self.network._listeners[listener._key] = listener
        return [listener]

    def accept(self, listener: Any) -> Any:
        waiting = listener.waiting
        if not waiting:
            raise BlockingIOError(errno.EAGAIN, "nobody waits")
        client = waiting.popleft()
        server = self._own(SimulatedSocket(self.network, listener.family))
        server.join(client, listener._name, client._names[0])
        return server

    def die(self) -> list[str]:
        """The kernel closes all. Returns the paths of sockets that were left."""
        left = []
        for item in self.owned.values():
            fd = item.fileno() if hasattr(item, "fileno") else item.fd
            if fd < 0 or self.network.open.get(fd) is not item:
                continue
            self.network.registered.discard(fd)
            self.network.pollers.pop(fd, None)
            if isinstance(item, SimulatedListener) and isinstance(item._name, str):
                left.append(item._name)
            item.close()
        self.owned.clear()
        for fd in sorted(self._reserves):
            self.network.drop_reserve(fd)
        self._reserves.clear()
        return left


class SimulatedPoller(Poller):
    """The poller of one loop: its thread waits here."""

    name = "simulated"

    def __init__(self, network: SimulatedNetwork) -> None:
        self._network = network
        self._machine = network.machine
        self._masks: dict[int, int] = {}
        self._thread: Thread | None = None  # that waits
        self._changed = True

    def touch(self) -> None:
        """Something may be ready."""
        self._changed = True
        if self._thread is not None:
            self._thread.wake()

    def register(self, fd: int, mask: int) -> None:
        assert fd not in self._masks, f"descriptor {fd} is watched already"
        assert fd in self._network.open, f"descriptor {fd} is not open"
        self._masks[fd] = mask
        self._network.registered.add(fd)
        self._network.pollers[fd] = self
        self.touch()

    def modify(self, fd: int, mask: int) -> None:
        assert mask, "watching for nothing"
        assert fd in self._masks
        self._masks[fd] = mask
        self.touch()

    def unregister(self, fd: int) -> None:
        del self._masks[fd]
        self._network.registered.discard(fd)
        del self._network.pollers[fd]

    def poll(self, timeout: float | None) -> Events:
        machine = self._machine
        end = math.inf if timeout is None else machine.clock() + math.ceil(timeout * 1000) / 1000
        if timeout == 0:
            machine.pause()  # a system call, at which others may go on
        elif self._changed:
            self._changed = False
            ready = self._ready()
            if ready:
                machine.pause()
                if not self._changed:  # it is as it was
                    self._changed = True
                    return ready
        while True:
            if self._changed:
                self._changed = False
                ready = self._ready()
                if ready:
                    self._changed = True  # until all was taken
                    return ready
            left = end - machine.clock()
            if left <= 0:
                return []
            self._thread = machine.current
            machine.wait(None if left == math.inf else left)
            self._thread = None

    def _ready(self) -> Events:
        network = self._network
        owners = network.open
        ready = []
        for fd, mask in self._masks.items():
            events = owners[fd].readiness() & (mask | ERROR)  # type: ignore[union-attr]
            if events:
                ready.append((fd, events))
        if len(ready) > 1:
            self._machine.rng.shuffle(ready)
        return ready

    def close(self) -> None:
        for fd in self._masks:
            self._network.registered.discard(fd)
            self._network.pollers.pop(fd, None)
        self._masks.clear()


class SimulatedFolder(MemoryFolder):
    """The folder of the bus; a process that dies lets go of its lock."""

    def __init__(self, network: SimulatedNetwork) -> None:
        super().__init__(network)
        self._machine = network.machine
        self._owner: Thread | None = None

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        machine = self._machine
        while self._owner is not None and not self._owner.host.dead:
            if not wait:
                raise BlockingIOError
            assert machine.current is not None
            machine.wait(0.01)
        self._owner = machine.current
        try:
            yield
        finally:
            if self._owner is machine.current:
                self._owner = None
