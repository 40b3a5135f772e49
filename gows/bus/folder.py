"""The folder in which each process of one machine has a Unix socket: who is there, and who may make or remove one."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from gows.reactor.sockets import remove_stale

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def is_name(name: str) -> bool:
    """Return whether a process may have this name: it is that of a file."""
    return _NAME.fullmatch(name) is not None


class SocketFolder:
    """The folder with the sockets of all processes. Tests have one in memory, with the same methods."""

    def __init__(self, path: str) -> None:
        self.path = path

    def prepare(self) -> None:
        """Make the folder, if it is not there. Raises PermissionError when others than this user may enter it."""
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        status = os.stat(self.path)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise PermissionError(f"the folder of the bus must be this user's alone, mode 0700: {self.path}")

    def address(self, name: str) -> str:
        """Return where the process `name` listens."""
        return f"unix:{self._file(name)}"

    def names(self) -> list[str]:
        """Return the names of the processes whose socket is there, sorted."""
        pairs = (file.rpartition(".sock") for file in os.listdir(self.path))
        return sorted(name for name, dot, _ in pairs if dot and is_name(name))

    def holds(self, name: str) -> bool:
        """Return whether the socket of `name` is there."""
        return os.path.exists(self._file(name))

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        """Keep other processes from making and removing sockets. Raises BlockingIOError if one is at it and `wait` is
        False."""
        fd = os.open(os.path.join(self.path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(fd)

    def remove_stale(self, name: str) -> None:
        """Remove the socket of `name` if nobody listens at it."""
        remove_stale(self._file(name))

    def _file(self, name: str) -> str:
        return os.path.join(self.path, f"{name}.sock")
