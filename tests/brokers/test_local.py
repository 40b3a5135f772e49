"""LocalBroker in worker processes that are killed and stopped amid publishing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.nodes import ProcessNodes
from tests.support.processes import Children

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

TOPICS = [f"kept.{number}" for number in range(6)]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[ProcessNodes]:
    with Children() as children:
        made = ProcessNodes(children, tmp_path, 3)
        yield made
        made.close()


@pytest.mark.parametrize("hangs", [False, True], ids=["killed", "hung"])
def test_the_death_of_a_process_loses_nothing_and_counts_nothing_twice(nodes: ProcessNodes, hangs: bool) -> None:
    """Each of the processes is the home of some topic. One of them dies."""
    subscriber, publisher = nodes.client(1), nodes.client(2)
    for topic in TOPICS:
        subscriber.subscribe(topic)
    pid = next(iter(nodes._found))
    asked: dict[int, tuple[str, int]] = {}
    for number in range(60):
        for topic in TOPICS:
            asked[publisher.send(type="publish", topic=topic, data=number)] = topic, number
        if hangs and number == 20:
            os.kill(pid, signal.SIGSTOP)
        if number == 30:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    acknowledged: set[tuple[str, int]] = set()
    while len(acknowledged) < len(asked):
        answer = publisher.next()
        assert answer["type"] == "published", answer
        acknowledged.add(asked[answer["id"]])
    heard: dict[str, list[Any]] = {topic: [] for topic in TOPICS}
    for _ in asked:
        message = subscriber.next()
        assert message["type"] == "message", message
        heard[message["topic"]].append((message["data"], message["epoch"], message["offset"]))
    for topic, messages in heard.items():
        assert [data for data, _, _ in messages] == list(range(60)), f"in order and once, {topic}"
        assert len({epoch for _, epoch, _ in messages}) == 1
        assert [offset for _, _, offset in messages] == list(range(1, 61))
    for node in (1, 2):
        for topic in TOPICS:
            late = nodes.client(node)
            assert late.subscribe(topic, history=100)["offset"] == 0
            assert late.data(60) == list(range(60))
            late.close()
