"""Worker: one of several processes. It makes its server, says that it is ready, and serves until it is told to end."""

from __future__ import annotations

import importlib
import json
import logging
import math
import multiprocessing
import os
import resource
import select
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from gows.bus.bus import Bus
from gows.errors import UsageError
from gows.options import check_plain_function
from gows.processes.channel import Channel
from gows.processes.interpreter import begin_anew, dedicate, leave
from gows.reactor import Listener, live_loops
from gows.reactor.loop import SIGNAL_INTERVAL
from gows.server.server import Server

logger = logging.getLogger("gows")

AppFactory = Callable[[], Server]

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
"""Those that the supervisor handles, and blocks while it forks."""

GRACE = 5.0
"""Seconds beyond what was asked for until a worker that starts or ends is killed."""
RETIREMENT = 1.0
"""Seconds over which a worker that has a successor lets go of its clients, when nothing longer was asked for. Requests
that came just before are answered in that time."""
MOST_TRACEBACK = 32768
"""Characters of a failure that are passed on: less than the channel takes at once."""


class Job(NamedTuple):
    """What all workers of a run are told. Times are seconds."""

    app_factory: AppFactory | str
    folder: str
    timeout: float
    drain: float | None
    start_timeout: float
    not_ready: float | None = None

    @property
    def longest_end(self) -> float:
        """Seconds from the order to end until a worker is killed."""
        return (self.not_ready or 0.0) + max(self.drain or 0.0, RETIREMENT) + self.timeout + GRACE


class _Ended(BaseException):
    """SIGTERM came before there was anything to end in order."""


def run_worker(job: Job, name: str, channel: Channel, disinherit: Callable[[], Sequence[socket.socket]]) -> NoReturn:
    """Be the worker `name` (slot.generation), in a process that was just forked, with its signals blocked. `disinherit`
    closes what is not the worker's, and returns the sockets to accept from.

    Never returns, nor raises: nothing in here may go on in the program that called `run`. It ends as Python does, see
    `leave`; of the program's `atexit` functions only those run that were registered in this process.
    """
    status = 1
    try:
        begin_anew()
        socks = disinherit()
        status = Worker(job, name, channel).run(socks)
    except _Ended:
        status = 0
    except BaseException as error:
        text = "".join(traceback.format_exception(error))[-MOST_TRACEBACK:]
        channel.send("failed " + json.dumps(text))
    finally:
        try:
            leave(time_to_leave())
            flush_output()
        finally:
            os._exit(status)


class Worker:
    """The process's main thread: it waits for the supervisor's word, for signals, and for the server's end."""

    def __init__(self, job: Job, name: str, channel: Channel) -> None:
        self.job = job
        self.name = name
        self.channel = channel
        self._drain = job.drain
        self._not_ready = job.not_ready
        self._must_end = False
        self._interruptible = False
        self._lent: dict[str, list[Listener]] = {}  # by slot
        self._listeners: list[Listener] = []
        self._woken, wake = socket.socketpair()
        self._wake = wake  # kept open
        for sock in (self._woken, wake):
            sock.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        # Ctrl-C and a terminal's hang-up go to the whole group; what follows from them is the supervisor's to say.
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, self._sigterm)
        os.register_at_fork(after_in_child=self._disown_signals)
        self._limit(job.start_timeout + GRACE)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        multiprocessing.current_process().name = f"gows-{name}"  # what logging's %(processName)s says
        _raise_descriptor_limit()

    def run(self, socks: Sequence[socket.socket]) -> int:
        """Serve; the exit status."""
        try:
            self._interruptible = True  # from here on SIGTERM ends even an import that takes for ever, and no longer
            if self._must_end:
                return 0
            server = make_server(self.job.app_factory)
            bus = Bus(self.job.folder, self.name)
            server.join(bus)
            server.health = True
            self._listeners = [server.add_listener(sock) for sock in socks]
        finally:
            self._interruptible = False
        dedicate()
        server.start()
        signal.alarm(0)
        self.channel.send("ready")
        while not (self._must_end or server.draining):
            self._wait()
            self._obey(server)
            if not server.loop.running and not server.draining:
                raise RuntimeError("the loop has ended by itself")
        self._end(server, bus)
        return 0

    def _wait(self) -> None:
        """Wait until the supervisor says something or a signal comes, 0.5 s at most, for nothing tells us that the
        server was stopped."""
        poll = select.poll()
        poll.register(self.channel.sock, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        poll.poll(SIGNAL_INTERVAL * 1000)
        try:
            self._woken.recv(4096)
        except BlockingIOError:
            pass

    def _obey(self, server: Server) -> None:
        """Do what the supervisor says."""
        for line, descriptors in self.channel.receive():
            order, _, slot = line.partition(" ")
            if order == "lend":  # nobody serves that slot: its clients wait
                socks = [socket.socket(fileno=descriptor) for descriptor in descriptors]
                if server.draining:
                    for sock in socks:
                        sock.close()
                else:
                    self._lent[slot] = [server.add_listener(sock) for sock in socks]
            elif order == "return":
                for listener in self._lent.pop(slot, ()):
                    server.drop_listener(listener)
            elif order == "retire":  # whoever follows us accepts already, and takes what waits in the queue
                for listener in self._listeners:
                    server.drop_listener(listener)
                self._drain = max(self._drain or 0.0, RETIREMENT)
                self._not_ready = None
                self._must_end = True
        if self.channel.ended:  # the supervisor was killed
            logger.error("worker %s has lost its supervisor, and ends", self.name)
            self._must_end = True

    def _end(self, server: Server, bus: Bus) -> None:
        self._limit(self.job.longest_end)
        for listeners in self._lent.values():
            for listener in listeners:
                server.drop_listener(listener)
        server.stop(self.job.timeout, drain=self._drain, not_ready=self._not_ready)
        bus.close()
        self.channel.receive()
        if self.channel.ended:
            shutil.rmtree(self.job.folder, ignore_errors=True)

    def _sigterm(self, number: int, frame: object) -> None:
        self._must_end = True
        if self._interruptible:
            self._interruptible = False  # once: a second one would end how the first is dealt with
            raise _Ended

    def _disown_signals(self) -> None:
        """Give up our signal handlers in a process that this one has forked: SIGTERM is to end it (multiprocessing's
        `terminate`, which waits for that when we leave)."""
        if signal.getsignal(signal.SIGTERM) == self._sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        ours = self._wake.fileno()
        if (found := signal.set_wakeup_fd(-1)) not in (-1, ours):
            signal.set_wakeup_fd(found)

    def _limit(self, seconds: float) -> None:
        """Let the kernel end this process after `seconds`. The supervisor does that, too, if it is still there."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(math.ceil(seconds) + 1)


def time_to_leave() -> float:
    """Return the seconds that the threads of this process may take to end: all but the last three until it is
    killed."""
    left = signal.getitimer(signal.ITIMER_REAL)[0]  # what alarm(2) has set
    return max(0.5, left - 3.0) if left else GRACE


def make_server(app_factory: AppFactory | str) -> Server:
    """Call the factory, or import it first. Raises whatever that raises; UsageError for what is no Server, or a Server
    that was made before the fork: its loop would be that of all workers."""
    older = live_loops()
    if isinstance(app_factory, str):
        importlib.invalidate_caches()
        module, _, name = app_factory.partition(":")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        if isinstance(found, Server):
            server = found
        else:
            check_plain_function("app_factory", found)
            server = found()
    else:
        server = app_factory()
    if not isinstance(server, Server):
        raise UsageError(f"app_factory returned {server!r}, and no gows.Server")
    if server.loop in older:
        raise UsageError("this Server was made before the worker was forked: app_factory must make one")
    return server


def _raise_descriptor_limit() -> None:
    """Allow as many descriptors as the hard limit does: a program with several processes means to have many
    connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS does not take "unlimited"
            pass


def flush_output() -> None:
    """Write out what this process has printed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass
