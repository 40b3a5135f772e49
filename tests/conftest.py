"""After every test nothing may be left: no live stream, timer, lent buffer, open loop or thread of ours."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import settings

os.environ.setdefault("GOWS_DEBUG", "1")  # before gows is imported, which reads it then

from gows import Server
from gows.reactor import Loop, live_loops
from gows.reactor.loop import BaseLoop
from tests.support.servers import MakeServer, View, running_server
from tests.support.stage import MakeStage, Stage
from tests.support.waiting import wait_until

for name in list(os.environ):  # a proxy of this machine's leads to no server of a test's
    if name.lower().endswith("_proxy"):
        del os.environ[name]

# How long an example takes says nothing on a busy machine.
settings.register_profile("gows", deadline=None)
settings.load_profile("gows")

# What a script without job control starts in the background ignores SIGINT, and hands that down (POSIX shell, 2.11):
# the programs that the tests interrupt would never hear of it. CI is such a script.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have most slow tests: what comes last is short, so all test processes end together."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    """Let no garbage collection walk what was collected: thousands of tests and all their modules stay to the end."""
    gc.collect()
    gc.freeze()


def _our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("gows-")]


@pytest.fixture(autouse=True)
def punctual_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings go out exactly at their interval, and not up to a quarter earlier."""
    monkeypatch.setattr("gows.session.heartbeat.random", lambda: 0.0)


@pytest.fixture(autouse=True)
def nothing_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The check; a loop that was there before the test, such as a module's shared server, is its maker's business."""
    loops_before = set(map(id, live_loops()))
    threads_before = len(_our_threads())
    found: list[str] = []
    close = Loop.close

    def checked_close(loop: Loop, timeout: float = 5.0) -> None:
        close(loop, timeout)
        if loop.live_streams or loop.active_timers or loop.buffers.lent:
            found.append("after close(): " + _census(loop))

    monkeypatch.setattr(Loop, "close", checked_close)
    yield
    for loop in live_loops():
        if id(loop) not in loops_before:
            found.append("not closed: " + _census(loop))
            loop.close()
    assert not found, found
    wait_until(lambda: len(_our_threads()) <= threads_before, what=lambda: f"threads ended: {_our_threads()}")


@pytest.fixture
def make_server() -> Iterator[MakeServer]:
    """Makes servers on real sockets; see `running_server`."""
    with ExitStack() as stack:

        def make(routes: Mapping[str, View] | None = None, *, start: bool = True, **settings: Any) -> Server:
            return stack.enter_context(running_server(routes, start=start, **settings))

        yield make


@pytest.fixture(params=[True, False], ids=["inline", "workers"])
def make_stage(request: pytest.FixtureRequest) -> Iterator[MakeStage]:
    """Stages whose callbacks run in the loop, and stages with a pool."""
    made: list[Stage] = []

    def make(**settings: Any) -> Stage:
        made.append(Stage(inline=request.param, **settings))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


def _census(loop: BaseLoop) -> str:
    return f"{loop.live_streams} streams, {loop.active_timers} timers, {loop.buffers.lent} lent buffers"
