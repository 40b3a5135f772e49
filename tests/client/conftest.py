from __future__ import annotations

from collections.abc import Iterator

import pytest

from gows.reactor.transports import Loop
from tests.support.waiting import wait_until


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A running loop of two workers. In the end no connection, no timer and no lent buffer may be left."""
    loop = Loop(workers=2)
    loop.start()
    yield loop
    wait_until(lambda: loop.live_streams == 0)
    loop.close()
    assert loop.buffers.lent == 0
