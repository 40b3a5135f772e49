"""Supervisor: keeps one worker process in each slot. It has no loop and no thread, and never runs the application.

A slot is a place among the N, with sockets of its own; those who fill it one after the other are its generations. In a
rolling restart, when worker 1.4 is ready, 1.3 retires: it is among those who leave, and is killed at its deadline.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gows.processes.channel import Channel
from gows.processes.listening import Listening
from gows.processes.worker import SIGNALS, Job, flush_output, run_worker
from gows.reactor.address import SocketAddress
from gows.server.signals import SECOND_SIGNAL

logger = logging.getLogger("gows")

STABLE = 10.0
"""Seconds that a worker must have served for its end not to count as another one of a row."""
FIRST_BACK_OFF = 0.5
LONGEST_BACK_OFF = 30.0


def back_off(failures: int) -> float:
    """Return the seconds until a worker is started again after so many failures in a row: at once, then 0.5 s, doubling
    to 30."""
    return 0.0 if failures == 0 else min(FIRST_BACK_OFF * 2.0 ** (min(failures, 32) - 1), LONGEST_BACK_OFF)


class Child:
    """A worker process, as its supervisor sees it. `deadline`: when it is killed if it has not become ready, or has not
    ended."""

    def __init__(self, name: str, pid: int, channel: Channel, deadline: float) -> None:
        self.name = name
        self.pid = pid
        self.channel = channel
        self.deadline: float | None = deadline
        self.ready_at: float | None = None
        self.failure = ""  # the traceback it sent

    def kill(self, number: signal.Signals) -> None:
        """Send a signal. It was not reaped yet, so the number is still its own."""
        os.kill(self.pid, number)

    def __str__(self) -> str:
        return f"worker {self.name} (process {self.pid})"


class Slot:
    """A place for one worker. `due`: when it is to be filled again."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.generation = 0
        self.failures = 0
        self.due: float | None = 0.0
        self.worker: Child | None = None
        self.successor: Child | None = None
        self.lent_to: list[Child] = []

    @property
    def served(self) -> bool:
        """Whether somebody accepts from its sockets."""
        return self.worker is not None and self.worker.ready_at is not None


class StartFailed(Exception):
    """No worker has ever become ready; it was logged."""


class Supervisor:
    """Made and run in the main thread."""

    def __init__(self, job: Job, listening: Listening, ready: Callable[[list[SocketAddress]], object] | None) -> None:
        self._job = job
        self._listening = listening
        self._ready = ready
        self._slots = [Slot(number) for number in range(len(listening.slots))]
        self._leaving: list[Child] = []
        self._rolling: deque[Slot] | None = None  # those that are still to be replaced
        self._signals: deque[int] = deque()
        self._stopping_since: float | None = None
        self._ever_ready = False
        self._failed = False

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, and then until all workers have ended. Raises StartFailed; KeyboardInterrupt
        after a second signal."""
        with self._signal_handlers():
            try:
                while True:
                    self._heed_signals()
                    self._roll()
                    self._fill_slots()
                    self._kill_overdue()
                    self._announce()
                    if self._stopping_since is not None and not self._children():
                        break
                    self._sleep()
                    for child in self._children():
                        self._read_reports(child)
                        self._reap(child)
            finally:
                self._kill_all()
        if self._failed:
            raise StartFailed

    def _children(self) -> list[Child]:
        """Return all processes that were not reaped yet."""
        found = [child for slot in self._slots for child in (slot.worker, slot.successor) if child is not None]
        return found + self._leaving

    # ------------------------------------------------------------------ waiting

    @contextmanager
    def _signal_handlers(self) -> Iterator[None]:
        """Let signals end the sleep, whichever thread the kernel gives them to; `_heed_signals` follows it."""
        self._woken, self._wake = socket.socketpair()
        before = {}
        wakeup = -1
        try:
            for sock in (self._woken, self._wake):
                sock.setblocking(False)
            wakeup = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
            for number in SIGNALS:
                before[number] = signal.signal(number, lambda number, frame: self._signals.append(number))
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            signal.set_wakeup_fd(wakeup)
            self._woken.close()
            self._wake.close()

    def _sleep(self) -> None:
        """Sleep until something happens or is due."""
        times = [child.deadline for child in self._children()] + [slot.due for slot in self._slots]
        due = min((when for when in times if when is not None), default=None)
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        for child in self._children():
            if not child.channel.ended:
                poll.register(child.channel.sock, select.POLLIN)
        poll.poll(None if due is None else max(0.0, due - time.monotonic()) * 1000 + 1)
        try:
            while self._woken.recv(4096):
                pass
        except BlockingIOError:
            pass

    # ------------------------------------------------------------------ what is asked of us

    def _heed_signals(self) -> None:
        while self._signals:
            number = self._signals.popleft()
            if number in (signal.SIGTERM, signal.SIGINT):
                self._end_signal()
            elif number == signal.SIGHUP and self._stopping_since is None:
                logger.info("SIGHUP: the workers are replaced, one after the other")
                self._rolling = deque(self._slots)

    def _end_signal(self) -> None:
        if self._stopping_since is None:
            self._stop()
        elif time.monotonic() - self._stopping_since > SECOND_SIGNAL:
            raise KeyboardInterrupt  # at once, then

    def _stop(self) -> None:
        """Accept no more, and have everybody end."""
        self._stopping_since = time.monotonic()
        self._rolling = None
        self._listening.close()  # first: the last who holds a socket takes what waits there
        logger.info("the workers end")
        for slot in self._slots:
            slot.due = None
        for child in self._children():
            child.kill(signal.SIGTERM)
            child.deadline = time.monotonic() + self._job.longest_end

    def _kill_all(self) -> None:
        for child in self._children():
            child.kill(signal.SIGKILL)
            os.waitpid(child.pid, 0)
            child.channel.close()

    # ------------------------------------------------------------------ slots

    def _fill_slots(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if slot.due is not None and slot.due <= now:
                slot.due = None
                slot.worker = self._start(slot)
                if slot.worker is None:
                    self._vacate(slot)

    def _vacate(self, slot: Slot) -> None:
        """Have an empty slot filled, later each time that this fails again, and have other workers accept for it
        meanwhile. Stop instead if no worker was ever ready: the next one would fail as well."""
        if not self._ever_ready:
            self._failed = True
            self._stop()
            return
        slot.due = time.monotonic() + back_off(slot.failures)
        slot.failures += 1
        for other in self._slots:
            if other.served:
                self._lend(slot, other)

    def _roll(self) -> None:
        """Take the next step of a rolling restart, if there is one: a slot begins when the one before is through."""
        if self._rolling is None or self._leaving or any(slot.successor for slot in self._slots):
            return
        if not self._rolling:
            logger.info("all workers were replaced")
            self._rolling = None
            return
        slot = self._rolling[0]
        if slot.worker is None:
            self._rolling.popleft()
            slot.failures = 0
            slot.due = time.monotonic()  # at once: the new program may be better
        elif slot.worker.ready_at is not None:
            self._rolling.popleft()
            slot.successor = self._start(slot)
            if slot.successor is None:
                self._give_up_rolling()

    def _give_up_rolling(self) -> None:
        logger.error("the rolling restart is given up; the workers that were not replaced go on")
        self._rolling = None

    def _start(self, slot: Slot) -> Child | None:
        """Fork a worker; None when the system does not allow it now."""
        name = f"{slot.number}.{slot.generation}"
        slot.generation += 1
        try:
            return self._fork(slot, name)
        except OSError as error:
            logger.error("worker %s cannot be started: %s", name, error)
            return None

    def _fork(self, slot: Slot, name: str) -> Child:
        ours, theirs = Channel.pair()
        flush_output()  # what is buffered would come out twice
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the worker has handlers of its own
        try:
            pid = os.fork()
            if pid == 0:
                run_worker(self._job, name, theirs, lambda: self._disinherit(slot, ours))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        logger.debug("worker %s is process %d", name, pid)
        return Child(name, pid, ours, time.monotonic() + self._job.start_timeout)

    def _disinherit(self, slot: Slot, ours: Channel) -> list[Any]:
        """Close, in a worker, all that is the supervisor's, and return the sockets of the slot. If a copy of the
        supervisor's end of a channel stayed open here, its death would not show."""
        signal.set_wakeup_fd(-1)
        ours.close()
        for child in self._children():
            child.channel.close()
        self._woken.close()
        self._wake.close()
        return self._listening.keep(slot.number)

    # ------------------------------------------------------------------ workers

    def _read_reports(self, child: Child) -> None:
        """Read what a worker reports."""
        for line, _ in child.channel.receive():
            word, _, text = line.partition(" ")
            if word == "ready":
                self._became_ready(child)
            elif word == "failed":
                child.failure = json.loads(text)

    def _became_ready(self, child: Child) -> None:
        if child in self._leaving or self._stopping_since is not None:
            return
        child.ready_at = time.monotonic()
        child.deadline = None
        self._ever_ready = True
        slot = self._slot_of(child)
        logger.info("%s is ready", child)
        if child is slot.successor:
            slot.successor = None
            before, slot.worker = slot.worker, child
            if before is not None:
                self._retire(before)
        for borrower in slot.lent_to:
            borrower.channel.send(f"return {slot.number}")
        slot.lent_to = []
        for other in self._slots:
            if other.failures and not other.served:
                self._lend(other, slot)

    def _retire(self, child: Child) -> None:
        """Have a worker end, for its successor accepts now."""
        child.channel.send("retire")
        child.deadline = time.monotonic() + self._job.longest_end
        self._leaving.append(child)

    def _lend(self, slot: Slot, other: Slot) -> None:
        """Have the worker of `other` accept for `slot`, too, while that is empty and its clients would wait."""
        socks = self._listening.own(slot.number)
        if socks and other.worker is not None and other.worker not in slot.lent_to:
            other.worker.channel.send(f"lend {slot.number}", [sock.fileno() for sock in socks])
            slot.lent_to.append(other.worker)

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for child in self._children():
            if child.deadline is not None and child.deadline <= now:
                starting = child.ready_at is None and self._stopping_since is None
                logger.error("%s did not %s in time, and is killed", child, "become ready" if starting else "end")
                child.deadline = None
                child.kill(signal.SIGKILL)

    def _reap(self, child: Child) -> None:
        """See whether it has ended, and what follows from that."""
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if not pid:
            return
        self._read_reports(child)  # its last words
        child.channel.close()
        self._log_end(child, os.waitstatus_to_exitcode(status))
        if child in self._leaving:
            self._leaving.remove(child)
            return
        slot = self._slot_of(child)
        if child is slot.successor:
            slot.successor = None
            if self._stopping_since is None:
                self._give_up_rolling()
            return
        slot.worker, slot.successor = slot.successor, None
        if self._stopping_since is not None:
            return
        if child.ready_at is not None and time.monotonic() - child.ready_at >= STABLE:
            slot.failures = 0
        if slot.worker is None:
            self._vacate(slot)

    def _slot_of(self, child: Child) -> Slot:
        (slot,) = (slot for slot in self._slots if child in (slot.worker, slot.successor))
        return slot

    def _log_end(self, child: Child, code: int) -> None:
        if self._failed:  # why was told once, of the first
            return
        if child.failure:
            logger.error("%s failed\n%s", child, child.failure.rstrip())
            return
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        logger.log(logging.ERROR if code else logging.INFO, "%s ended %s", child, how)

    def _announce(self) -> None:
        """Once, when the port is served by all."""
        if self._ready is not None and all(slot.served for slot in self._slots):
            ready, self._ready = self._ready, None
            ready(self._listening.addresses)
