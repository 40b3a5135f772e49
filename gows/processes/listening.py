"""Listening: the sockets that all workers of a run accept from."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence

from gows.reactor import Address, AddressLike, Sock, SocketLayer, parse_address
from gows.reactor.address import SocketAddress, socket_address

BALANCED = sys.platform == "linux"
"""Whether the kernel shares connections out among the sockets of one TCP port (SO_REUSEPORT, socket(7)). Elsewhere the
option lets several bind, and one gets them all."""

Place = AddressLike | socket.socket


class Listening:
    """Sockets that listen, for each slot its own, held by the supervisor for as long as it accepts at all.

    A worker accepts from the sockets of its slot. What waits in their queues outlives it, and is taken by its
    successor: to close a socket of an SO_REUSEPORT group would reset what waits there.

    Where the kernel does not balance, and for Unix-domain sockets, the slots share one socket.
    """

    def __init__(self, places: Sequence[Place], slots: int, *, backlog: int = 4096, mode: int | None = None) -> None:
        """Bind the sockets. Raises OSError naming the address, ValueError for one that cannot be read."""
        self.slots: list[list[Sock]] = [[] for _ in range(slots)]
        self.addresses: list[SocketAddress] = []
        self._files: list[tuple[str, os.stat_result]] = []
        try:
            for place in places:
                self._open(place, backlog, mode)
        except BaseException:
            self.close()
            raise

    def _open(self, place: Place, backlog: int, mode: int | None) -> None:
        layer = SocketLayer()
        if isinstance(place, socket.socket):
            self._share([layer.adopt_listener(place)])
            return
        address = parse_address(place)
        if address.path is not None or not BALANCED:
            self._share(layer.listen(address, backlog=backlog, mode=mode))
            if address.path is not None:
                self._files.append((address.path, os.stat(address.path)))
            return
        if address.port:
            # With SO_REUSEPORT the port may be bound by a server that runs already; without it, that is an error.
            for sock in layer.listen(address, backlog=backlog):
                sock.close()
        for number, slot in enumerate(self.slots):
            socks = layer.listen(address, backlog=backlog, reuse_port=True)
            slot += socks
            if number == 0:
                first = socket_address(socks[0].getsockname())
                assert isinstance(first, tuple)
                address = Address(address.host, first[1])  # port 0: all have the one that was free
                self.addresses.append(first)

    def _share(self, socks: list[Sock]) -> None:
        for slot in self.slots:
            slot += socks
        self.addresses.append(socket_address(socks[0].getsockname()) or "")

    def keep(self, slot: int) -> list[Sock]:
        """Return the sockets of a worker's slot, in that worker. All others are closed here, so that a queue is not
        kept by a process that does not accept from it."""
        kept = self.slots[slot]
        for socks in self.slots:
            for sock in socks:
                if sock not in kept:
                    sock.close()
        return kept

    def own(self, slot: int) -> list[Sock]:
        """Return the sockets that no other slot has."""
        return [sock for sock in self.slots[slot] if sum(sock in socks for socks in self.slots) == 1]

    def close(self) -> None:
        """Stop listening, as far as no worker does. The files of Unix-domain sockets go away. Idempotent."""
        for socks in self.slots:
            for sock in socks:
                sock.close()
        for path, status in self._files:
            try:
                if os.path.samestat(os.stat(path), status):  # only our own: another process may have replaced it
                    os.unlink(path)
            except OSError:
                pass
        self._files = []
