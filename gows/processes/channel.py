"""Channel: what a supervisor and one of its workers tell each other."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

MOST_DESCRIPTORS = 64
"""Descriptors that one line may carry; a name that is listened at has rarely more than two addresses."""


class Channel:
    """One end of a socket pair. Lines go both ways, and descriptors with them (SCM_RIGHTS, unix(7)). A line says how
    many are its own, for the kernel may hand over several lines at once.

    `ended` says that the other process is gone, killed or not: the kernel closes its end. So no end may be left open in
    any other process.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.ended = False
        self._rest = b""
        self._descriptors: list[int] = []  # those that have come, of lines that have not

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return both ends. Raises OSError."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(one), cls(other)

    def send(self, line: str, descriptors: Sequence[int] = ()) -> None:
        """Send one line. Never blocks: what the other process cannot take (it is gone, or stuck) is lost, as a whole,
        for the kernel divides nothing as short as our lines."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self.sock.sendmsg([f"{len(descriptors)} {line}\n".encode()], rights)
        except OSError:
            pass

    def receive(self) -> list[tuple[str, list[int]]]:
        """Return the lines that have come, each with its descriptors, which are the caller's now."""
        found: list[tuple[str, list[int]]] = []
        size = array.array("i").itemsize
        while not self.ended:
            try:
                data, rights, _, _ = self.sock.recvmsg(65536, socket.CMSG_SPACE(MOST_DESCRIPTORS * size))
            except BlockingIOError:
                break
            except OSError:
                data, rights = b"", []
            self.ended = not data
            for _, _, value in rights:
                self._descriptors += array.array("i", value[: len(value) // size * size])
            for descriptor in self._descriptors:
                os.set_inheritable(descriptor, False)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                count, _, text = line.decode().partition(" ")
                found.append((text, self._descriptors[: int(count)]))
                del self._descriptors[: int(count)]
        return found

    def close(self) -> None:
        """Close our end. Idempotent."""
        self.sock.close()
