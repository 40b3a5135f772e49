"""A program that calls `gows.run`, in a folder of its own, and what a test asks of it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support import wire
from tests.support.processes import Children
from tests.support.raw import RawPeer
from tests.support.waiting import wait_until
from tests.support.wire import TEXT, frame

SECONDS = 20.0
"""Nothing here waits longer."""

APP = """
import gc, os, resource, threading, time
import gows

VERSION = 1

class Member(gows.Handler):
    def on_message(self, ws, opcode, buff):
        text = buff.get_string()
        if text == "block":
            threading.Event().wait(60)
        elif text == "stop":
            threading.Thread(target=server.stop).start()
        elif text.startswith("all "):
            server.broadcast(text)
        else:
            ws.write_string(text)

server = gows.Server()

@server.route("/who")
def who(request):
    return f"{os.getpid()} {server.bus.name} {VERSION}"

@server.route("/ws")
def ws(request):
    gows.accept(request, headers={"X-Who": server.bus.name}).serve(Member())

@server.route("/count")
def count(request):
    return str(server.connection_count())

@server.route("/descriptors")
def descriptors(request):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"{soft} {hard}"

@server.route("/aside")
def aside(request):
    return str(gc.get_freeze_count())

@server.route("/{any:path}")
def catch_all(request, any):
    return "caught"
"""

MAIN = """
import logging, sys
sys.dont_write_bytecode = True  # a file that is changed twice within a second is read anew
import gows
logging.basicConfig(level="DEBUG", format="%(processName)s %(levelname)s %(message)s")
logging.getLogger("gows.access").setLevel("WARNING")
{before}
gows.run({arguments}, ready=lambda addresses: print(repr(addresses[0]), flush=True))
print("over")
"""


class Who:
    """What `/who` answers."""

    def __init__(self, text: str) -> None:
        pid, self.name, self.version = text.split()
        self.pid = int(pid)
        self.slot, self.generation = map(int, self.name.split("."))


class Program:
    """The program. `arguments` are those of `gows.run` after the application, `before` runs before it is called."""

    def __init__(
        self,
        children: Children,
        folder: Path,
        arguments: str = '"127.0.0.1:0", processes=2',
        *,
        app: str = APP,
        factory: str = '"app:server"',
        before: str = "",
        wait: bool = True,
    ) -> None:
        self.folder = folder
        self.children = children
        self.address: Any = None
        self._peers: list[RawPeer] = []
        (folder / "app.py").write_text(app)
        main = folder / "main.py"
        main.write_text(MAIN.format(before=before, arguments=f"{factory}, {arguments}"))
        temporary = folder / "tmp"
        temporary.mkdir(exist_ok=True)
        self._log = folder / "log"
        with self._log.open("ab") as log:
            self.process = children.start(
                [sys.executable, str(main)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"TMPDIR": str(temporary)},
                start_new_session=True,  # so that a test can signal the group, as a terminal does
            )
        if wait:
            assert self.process.stdout is not None
            overdue = threading.Timer(SECONDS, self.process.kill)
            overdue.start()
            line = self.process.stdout.readline()
            overdue.cancel()
            assert line, self.log
            self.address = eval(line)

    @property
    def log(self) -> str:
        """What the processes have logged."""
        return self._log.read_text()

    def wait_log(self, pattern: str, count: int = 1) -> None:
        """Until it was logged so often."""
        wait_until(lambda: len(re.findall(pattern, self.log)) >= count, SECONDS, lambda: f"{pattern!r} in {self.log}")

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals | None = signal.SIGTERM) -> int:
        """Send a signal and wait for the program's end; the exit status. None of its workers is left then. Clients that
        are still there leave before, since they would not answer."""
        for peer in self._peers:
            peer.close()
        workers = self.worker_pids()
        if number is not None:
            self.send_signal(number)
        status = self.process.wait(SECONDS)
        assert not [pid for pid in workers if alive(pid)], self.log
        assert os.listdir(self.folder / "tmp") == [], "the bus's folder is left"
        return status

    def worker_pids(self) -> list[int]:
        """The processes that it has forked and not reaped."""
        tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(word) for word in tasks.read_text().split()]

    def close(self) -> None:
        """After the test: whatever it left behind, were it by failing."""
        for peer in self._peers:
            peer.close()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()

    # ------------------------------------------------------------------ clients

    def get(self, path: str) -> str:
        """The body of the answer, which must be 200."""
        status, body = self.ask(path)
        assert status == 200, (status, body)
        return body

    def ask(self, path: str) -> tuple[int, str]:
        """The status and the body of the answer."""
        with RawPeer(self.address) as peer:
            peer.send(f"GET {path} HTTP/1.1\r\nHost: gows.test\r\nConnection: close\r\n\r\n".encode())
            answer, body = peer.read_answer()
            return answer.status, body.decode()

    def wait_refused(self) -> None:
        """Until nobody listens any more."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            try:
                RawPeer(self.address).close()
            except (ConnectionRefusedError, FileNotFoundError):
                return
            except ConnectionResetError:  # it was in the queue when that was closed
                pass
        raise AssertionError(self.log)

    def who(self) -> Who:
        """Who answers now."""
        return Who(self.get("/who"))

    def everybody(self, slots: int = 2, generation: int = 0) -> dict[int, Who]:
        """Ask until somebody of each slot has answered, of this generation or a later one."""
        found: dict[int, Who] = {}
        end = time.monotonic() + SECONDS
        while len(found) < slots:
            assert time.monotonic() < end, (found, self.log)
            who = self.who()
            if who.generation >= generation:
                found[who.slot] = who
        return found

    def peers(self, each: int, slots: int = 2) -> dict[int, list[RawPeer]]:
        """WebSockets, at least so many in each slot."""
        found: dict[int, list[RawPeer]] = {slot: [] for slot in range(slots)}
        for _ in range(1000):
            peer = RawPeer(self.address)
            self._peers.append(peer)
            answer = peer.upgrade("/ws")
            found[int(answer.headers["x-who"].partition(".")[0])].append(peer)
            if all(len(peers) >= each for peers in found.values()):
                return found
        raise AssertionError({slot: len(peers) for slot, peers in found.items()})


class Visitors:
    """Threads that connect, ask and leave, over and over. A context; at its end `faults` says what went wrong."""

    def __init__(self, address: Any, threads: int = 2) -> None:
        self.address = address
        self.visits = 0
        self.faults: Counter[str] = Counter()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                with socket.create_connection(self.address, timeout=SECONDS) as sock:
                    sock.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    if sock.recv(4096).startswith(b"HTTP/1.1 200 "):
                        self.visits += 1
                    else:
                        self.faults["no answer"] += 1
            except OSError as error:
                self.faults[type(error).__name__] += 1

    def wait(self, visits: int) -> None:
        """Until there were so many more."""
        before = self.visits
        wait_until(lambda: self.visits >= before + visits, SECONDS)

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(SECONDS)


def echoes(peer: RawPeer, text: str = "hello") -> bool:
    """The WebSocket is served."""
    peer.send(frame(TEXT, text))
    return peer.read_text() == text


def farewell(peer: RawPeer, code: int) -> None:
    """The server closes the WebSocket with this code, and in order."""
    found = peer.read()
    assert (found.opcode, found.close_code) == (wire.CLOSE, code), found
    peer.send(wire.close(code))
    assert peer.read_end() == "FIN"
    peer.close()


def state(stat: Path) -> str:
    """The letter for what a process or thread does, proc_pid_stat(5)."""
    return stat.read_text().rpartition(")")[2].split()[0]


def alive(pid: int) -> bool:
    """Whether the process is there, and is no zombie."""
    try:
        return state(Path(f"/proc/{pid}/stat")) != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def freeze(pid: int) -> None:
    """SIGSTOP, and wait until no thread of the process runs."""
    os.kill(pid, signal.SIGSTOP)
    threads = list(Path(f"/proc/{pid}/task").glob("*/stat"))
    wait_until(lambda: all(state(thread) == "T" for thread in threads), SECONDS)
