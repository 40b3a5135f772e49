"""MemoryFolder: the folder of a bus whose processes live in one MemoryNetwork."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gows.bus.folder import SocketFolder
from tests.support.fakes.network import MemoryNetwork


class MemoryFolder(SocketFolder):
    """The sockets that somebody listens at, and the files that dead processes left (`stale`)."""

    def __init__(self, network: MemoryNetwork, path: str = "/bus") -> None:
        super().__init__(path)
        self.stale: set[str] = set()
        self._network = network
        self._locked = False

    def prepare(self) -> None:
        """It is there."""

    def names(self) -> list[str]:
        listening = (
            path.removeprefix(f"{self.path}/").removesuffix(".sock")
            for path in self._network.listening
            if isinstance(path, str) and path.startswith(f"{self.path}/")
        )
        return sorted({*listening, *self.stale})

    def holds(self, name: str) -> bool:
        return name in self.names()

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        if self._locked:  # one thread: who has it would never go on
            assert not wait, "waiting for a lock in the only thread"
            raise BlockingIOError
        self._locked = True
        try:
            yield
        finally:
            self._locked = False

    def remove_stale(self, name: str) -> None:
        if self._file(name) not in self._network.listening:
            self.stale.discard(name)
