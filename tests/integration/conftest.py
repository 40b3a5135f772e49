"""A server with workers and one without, and the check that whatever a test does, others are served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import wire
from tests.support.needs import need, need_module
from tests.support.serving import Recorder, Serving
from tests.support.warming import start_all_workers

MakeServing = Callable[..., Serving]

WAIT = 15_000  # milliseconds for something that is due at once, or after the first back-off

CHROMIUM_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    chromium = need("chromium", "chromium-browser", "google-chrome")
    sync_api = need_module("playwright.sync_api")
    sync_api.expect.set_options(timeout=WAIT)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=[0, 4], ids=["inline", "workers"])
def workers(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


@pytest.fixture(scope="module")
def module_server(workers: int) -> Iterator[Serving]:
    serving = Serving(workers)
    start_all_workers(serving.loop, workers)
    yield serving
    serving.stop()


@pytest.fixture
def server(module_server: Serving) -> Iterator[Serving]:
    """A server that other tests use too. Whatever the test does to it, it goes on serving those who are there and
    those who come, keeps nothing, calls on_close once for each connection, and has nothing to log."""
    try:
        with module_server.connect() as bystander:
            bystander.upgrade("/echo")
            yield module_server
            bystander.send(wire.frame(wire.TEXT, "all well"))
            assert bystander.read_text() == "all well"
            module_server.assert_serves()
            bystander.send(wire.close(1000))
            bystander.expect_close(1000)
        _settled(module_server)
    finally:
        module_server.forget()


@pytest.fixture
def make_serving(workers: int) -> Iterator[MakeServing]:
    """Makes servers with settings of their own; the same holds for them."""
    made: list[Serving] = []

    def make(**settings: Any) -> Serving:
        made.append(Serving(workers, **settings))
        return made[-1]

    yield make
    for serving in made:
        try:
            if not serving.stopped:
                serving.assert_serves()
                _settled(serving)
        finally:
            serving.stop()


def _settled(serving: Serving) -> None:
    faults = serving.faults.take()
    assert not faults, faults
    serving.wait_gone()
    for handler in serving.handlers:
        if isinstance(handler, Recorder):
            serving.wait_closed(handler)
            assert handler.closes == 1
            assert handler.calls[-1] == "on_close"
    assert serving.loop.buffers.lent == 0
