"""Running a coroutine in asyncio and in uvloop, and what may not be left afterwards."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any

import pytest

from gows.aio import shared

try:
    import uvloop
except ImportError:  # tests.test_needs says where it has to be
    uvloop = None  # type: ignore[assignment]

Main = Coroutine[Any, Any, Any]
Run = Callable[[Main], None]


def run_in_asyncio(main: Main) -> None:
    """Run `main` in asyncio's own loop, in its debug mode."""
    asyncio.run(main, debug=True)


def run_in_uvloop(main: Main) -> None:
    """Run `main` in uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop, debug=True) as runner:
        runner.run(main)


RUNS: dict[str, Run] = {"asyncio": run_in_asyncio}
if uvloop is not None and sys.version_info >= (3, 11):
    RUNS["uvloop"] = run_in_uvloop


@pytest.fixture(params=[*RUNS.values()], ids=[*RUNS])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine; afterwards no task and no gows loop is left of it."""
    start: Run = request.param

    def run_clean(main: Main) -> None:
        async def checked() -> None:
            await main
            await until(lambda: asyncio.get_running_loop() not in shared._loops)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        start(checked())

    return run_clean


async def until(condition: Callable[[], object]) -> None:
    """Wait for something, ten seconds at most."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come")


class CancelledAt(Awaitable[bool]):
    """Awaits a coroutine, and has its task cancelled when that waits for the `number`th time: at once, or at the moment
    at which what it waits for has come. The result is whether it waited so often."""

    def __init__(self, coro: Coroutine[Any, Any, object], number: int, *, late: bool) -> None:
        self._coro = coro
        self._number = number
        self._late = late

    def __await__(self) -> Generator[Any, Any, bool]:
        task = asyncio.current_task()
        assert task is not None
        steps = self._coro.__await__()
        count = 0
        cancelled = False
        resume: Callable[[], Any] = steps.__next__
        while True:
            try:
                future = resume()
            except StopIteration:
                return cancelled
            except asyncio.CancelledError:
                assert cancelled
                return True
            if count == self._number:
                cancelled = True
                if self._late and future is not None:
                    future.add_done_callback(lambda _: task.cancel())
                else:
                    task.cancel()
            count += 1
            try:
                yield future
            except BaseException as error:
                resume = partial(steps.throw, error)
            else:
                resume = steps.__next__
