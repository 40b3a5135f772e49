"""Traffic: no count is lost, whoever counts at the same time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from gows.session.traffic import Traffic
from tests.support.stage import Actor, Stage


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads have their turn as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(count: Callable[..., object], *arguments: object, times: int = 20_000) -> int:
    """Call it in four threads at once; how often in all."""

    def work() -> None:
        for _ in range(times):
            count(*arguments)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return 4 * times


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
def test_endings_and_refusals_of_many_threads_are_all_counted() -> None:
    traffic = Traffic()
    total = in_threads(traffic.ended, 1000, "peer")
    assert traffic.endings == {(1000, "peer"): total}
    total = in_threads(traffic.refused, 503)
    assert traffic.refusals == {503: total}


class Interrupted(bytes):
    """Bytes during whose len() another thread has its turn."""

    other: Callable[[], object]

    def __len__(self) -> int:
        self.other()
        return super().__len__()


def test_another_thread_may_count_while_a_size_is_found() -> None:
    stage = Stage(make_handler=Actor)
    _, handler = stage.guest()
    traffic = handler.ws.context.traffic
    before = traffic.sent_bytes
    frame = Interrupted(b"12345")

    def other() -> None:
        traffic.sent_bytes += 100

    frame.other = other
    handler.ws.count_sent(frame)
    assert traffic.sent_bytes - before == 105
    stage.close()
