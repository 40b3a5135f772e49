"""Victim: the server under attack, and what it costs."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.support import wire
from tests.support.processes import ROOT
from tests.support.raw import RawPeer

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
MEGABYTE = 1_000_000
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Cost:
    """What an attack has cost."""

    memory: int
    """Bytes by which the resident memory was larger at its peak than before."""
    cpu: float
    """Seconds of the server's CPU time."""
    threads: int
    """Threads more than before, at the end."""
    echo: float
    """Seconds that the bystander's echo waited, at the 90th percentile."""
    echo_median: float
    page: float
    """Seconds that a page waited, the median."""
    sent: int
    """Bytes that the attackers sent."""
    serves: bool = True
    """Whether it served somebody new afterwards."""

    def __str__(self) -> str:
        return (
            f"sent {self.sent / MEGABYTE:7.1f} MB, memory +{self.memory / MEGABYTE:4.0f} MB, CPU {self.cpu:5.1f} s, "
            f"echo p50 {self.echo_median * 1000:5.0f} p90 {self.echo * 1000:5.0f} ms, page {self.page * 1000:5.0f} ms, "
            f"threads +{self.threads}"
        )


class Victim:
    """A server process of one kind, and a bystander. A context; `attacked` measures what happens within it."""

    def __init__(self, kind: str = "plain") -> None:
        self._server = self._run("tests.attacks.server", kind)
        assert self._server.stdout is not None
        self.port = int(self._server.stdout.readline())
        self.address = ("127.0.0.1", self.port)
        self.sent = 0
        self._memory = self._threads = 0
        self._cpu = 0.0
        self._bystander: subprocess.Popen[str] | None = None

    @staticmethod
    def _run(module: str, argument: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )

    def begin(self) -> None:
        """Start the bystander; what is measured counts from here."""
        self._bystander = self._run("tests.attacks.bystander", str(self.port))
        assert self._bystander.stdout is not None
        assert self._bystander.stdout.readline() == "ready\n"
        self._forget_peak()
        self._memory, self._cpu, self._threads = self.memory, self.cpu, self.threads
        self.sent = 0

    def end(self) -> Cost:
        """Stop the bystander; what it all has cost."""
        peak, cpu, threads = self.peak, self.cpu, self.threads
        assert self._bystander is not None
        printed, _ = self._bystander.communicate(timeout=30)
        waits = json.loads(printed)
        return Cost(
            memory=max(0, peak - self._memory),
            cpu=cpu - self._cpu,
            threads=threads - self._threads,
            echo=statistics.quantiles(waits["echo"], n=10)[-1] if len(waits["echo"]) > 1 else waits["echo"][0],
            echo_median=statistics.median(waits["echo"]),
            page=statistics.median(waits["page"]),
            sent=self.sent,
        )

    @property
    def memory(self) -> int:
        """Bytes resident now."""
        return int(self._read("statm").split()[1]) * PAGE_SIZE

    @property
    def peak(self) -> int:
        """The most bytes that were resident since `begin`."""
        (line,) = [line for line in self._read("status").splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024

    def _forget_peak(self) -> None:
        Path(f"/proc/{self._server.pid}/clear_refs").write_text("5")  # proc(5): resets VmHWM

    @property
    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        fields = self._read("stat").rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    @property
    def threads(self) -> int:
        """How many it has."""
        return len(os.listdir(f"/proc/{self._server.pid}/task"))

    def _read(self, name: str) -> str:
        return Path(f"/proc/{self._server.pid}/{name}").read_text()

    def serves(self) -> bool:
        """Whether it lives, and echoes to somebody new."""
        try:
            with RawPeer(self.address) as peer:
                peer.upgrade("/echo")
                peer.send(wire.frame(wire.TEXT, "still"))
                return peer.read_text() == "still"
        except (OSError, AssertionError):
            return False

    def __enter__(self) -> Victim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in (self._bystander, self._server):
            if process is not None:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()
