"""Locks: a finaliser, a signal handler or a logging handler may come amid anything, in the same thread, and call us."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import gows
from gows.reactor import Loop, WorkerPool
from gows.reactor.workers import _Worker
from tests.support.recorder import Recorder

ONE_AT_A_TIME = {
    "bus/bus.py": 1,  # start and close, which are not called amid themselves
    "client/reconnect.py": 2,
    "server/server.py": 1,  # stop, the same
    "commands/screen.py": 1,  # of the command line
}
"""Plain locks, by file: who takes one again in the same thread waits for itself."""


def test_a_thread_may_come_back() -> None:
    """Every other lock is re-entrant."""
    found = {}
    package = Path(gows.__file__).parent
    for path in sorted(package.rglob("*.py")):
        number = len(re.findall(r"threading\.Lock\(\)", path.read_text()))
        if number:
            found[path.relative_to(package).as_posix()] = number
    assert found == ONE_AT_A_TIME


class Listening(logging.Handler):
    """Notes what is logged, and which of these locks its thread has then."""

    def __init__(self, *locks: object) -> None:
        super().__init__()
        self.locks = locks
        self.held: list[bool] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.held.append(any(lock._is_owned() for lock in self.locks))  # type: ignore[attr-defined]


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop(workers=0) as loop:
        yield loop


def test_a_descriptor_that_is_gone_is_logged_with_no_lock(loop: Loop) -> None:
    if loop.poller.name == "select":
        pytest.skip("select(2) fails as a whole then")
    handler = Listening(*loop._locks)
    logger = logging.getLogger("gows")
    logger.addHandler(handler)
    try:
        one, other = socket.socketpair()
        stream = loop.adopt(one, Recorder())
        loop.run_once(0)
        assert stream.sock is not None
        os.close(stream.sock.fileno())
        stream.abort()
        for _ in range(3):
            loop.run_once(0)
        other.close()
    finally:
        logger.removeHandler(handler)
    assert handler.held
    assert not any(handler.held)


def test_a_thread_that_is_not_to_be_had_is_logged_with_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Idle:
        def run(self) -> None:
            """Nothing."""

        def stalled(self) -> None:
            """Nothing."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = WorkerPool(lambda: None, 1)
    handler = Listening(pool._lock)
    logger = logging.getLogger("gows")
    logger.addHandler(handler)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            pool.submit(Idle())
            pool.kick()
            pool.kick()
        assert handler.held == [False]
        pool.kick()
    finally:
        logger.removeHandler(handler)
        pool.stop(5.0)
    assert all(isinstance(worker, _Worker) for worker in pool.workers)
