"""A redis-server of a test's own, which it kills and starts again."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

from tests.support.addresses import free_port
from tests.support.needs import need
from tests.support.processes import Children
from tests.support.waiting import wait_until


class RedisServer:
    """`durable`: it writes every command to disk before it answers."""

    def __init__(self, children: Children, folder: Path, *, durable: bool) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._children = children
        self._folder = folder
        self._durable = durable
        self.start()

    def start(self) -> None:
        """Begin, or begin again, with what is on the disk."""
        keeping = ["--appendonly", "yes", "--appendfsync", "always"] if self._durable else ["--appendonly", "no"]
        command = [need("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *keeping]
        log = self._folder / "log"
        self.process: subprocess.Popen[bytes] = self._children.start(
            [*command, "--dir", str(self._folder), "--logfile", str(log)], stdout=subprocess.DEVNULL
        )
        wait_until(self._answers, 10.0, lambda: log.read_text() if log.exists() else "no log")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as sock:
                sock.sendall(b"PING\r\n")
                return sock.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def kill(self) -> None:
        """As a crash does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def freeze(self) -> None:
        """It neither answers nor goes."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self.process.send_signal(signal.SIGCONT)
