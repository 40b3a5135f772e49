"""Loops over every selector of this platform, turned by the test itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gows.reactor import Loop, available_pollers
from tests.support.fakes import World
from tests.support.reactor_bench import Bench, MemoryBench, RealBench


@pytest.fixture(params=available_pollers())
def poller_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def loop(poller_name: str) -> Iterator[Loop]:
    """A loop over real sockets, without threads: turn it with `turn_until`."""
    with Loop(poller=poller_name, workers=0) as loop:
        yield loop


@pytest.fixture
def world() -> Iterator[World]:
    """Loops, sockets and time of a world of their own; nothing may be open in the end."""
    world = World()
    yield world
    world.close()


@pytest.fixture(params=[*available_pollers(), "memory"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A loop with peers, real or not."""
    bench = MemoryBench() if request.param == "memory" else RealBench(request.param)
    yield bench
    bench.close()


@pytest.fixture
def real_bench(poller_name: str) -> Iterator[Bench]:
    """The same for tests with threads, which a world in memory has none of."""
    bench = RealBench(poller_name)
    yield bench
    bench.close()
