"""The simulation: the same seed is the same run, and it finds what it is to find."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest

import gows.topics.lost
import gows.topics.subscriptions
from gows.brokers.local.topics import KeptTopics
from gows.reactor import SocketLayer
from gows.session.websocket import WebSocket
from tests.simulation import checks
from tests.simulation.__main__ import main
from tests.simulation.network import HostLayer
from tests.simulation.run import simulate
from tests.support.fakes import MemoryNetwork
from tests.support.processes import ROOT


def test_each_sentence_of_what_is_promised_has_a_check() -> None:
    page = (ROOT / "docs" / "reference" / "topics.md").read_text()
    section = re.sub(r"\s+", " ", page.partition("## What is promised")[2])
    found = [
        sentence
        for point in section.split("- ")[1:]
        for sentence in re.split(r"(?<=\.) (?=[A-Z(])|(?<=\.\)) ", point.strip())
    ]
    assert found == list(checks.PROMISES)
    looked_at = {*checks.AT_REST, *checks.AT_THE_END}
    assert all(look in looked_at for looks in checks.PROMISES.values() for look in looks)


def test_simulated_sockets_have_all_that_those_of_the_other_tests_have() -> None:
    methods = {name for name in vars(SocketLayer) if not name.startswith("_") and name in vars(MemoryNetwork)}
    assert methods <= {*vars(HostLayer)}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 7, 12])
def test_a_seed_is_the_same_run_each_time(seed: int) -> None:
    first = simulate(seed, trace=True)
    simulate(seed + 1)
    again = simulate(seed, trace=True)
    assert again.trace == first.trace
    assert again.digest == first.digest
    assert len(first.trace) > 300


@pytest.mark.slow
def test_a_seed_is_the_same_run_in_each_process() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", "1", "--steps"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=False,
            timeout=50,
        ).stdout
        for hash_seed in ("1", "77")
    ]
    assert b"digest" in runs[0]
    assert runs[0] == runs[1]


def _found(check: str, seeds: range, **changes: Any) -> int | None:
    """The first of these seeds with such a fault."""
    for seed in seeds:
        if any(fault.check == check for fault in simulate(seed, **changes).faults):
            return seed
    return None


@pytest.mark.slow
def test_it_finds_who_stays_when_its_connection_ends_while_it_subscribes(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_without_the_lock(subscriptions: gows.topics.subscriptions.Subscriptions, stream: Any) -> None:
        ws = stream.observer
        if isinstance(ws, WebSocket) and ws in subscriptions._of:
            with subscriptions._lock:
                patterns = subscriptions._of.pop(ws)
                for pattern in patterns:
                    subscriptions._remove_locked(ws, pattern, pattern.split("."))
            subscriptions.on_end(ws, patterns)

    changes: dict[str, Any] = {
        "interrupted": "/gows/topics/subscriptions.py",
        "function": "add",
        "preemption": 1.0,
        "faults": ("reset", "race"),
    }
    with monkeypatch.context() as taken_out:
        taken_out.setattr(gows.topics.subscriptions.Subscriptions, "_on_ended", look_without_the_lock)
        seed = _found("subscriptions_end", range(100), **changes)
    assert seed is not None
    assert _found("subscriptions_end", range(seed, seed + 1), **changes) is None


@pytest.mark.slow
def test_it_finds_what_is_lost_when_a_home_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    pass_on = KeptTopics._pass_on

    def acknowledge_at_once(topics: KeptTopics, topic: str, outbox: Any, post: Any) -> None:
        pass_on(topics, topic, outbox, post)
        if outbox.home is not None and not post.finished:
            topics._finish(topic, post.number, None)

    changes: dict[str, Any] = {"servers": 3, "preemption": 0.0, "faults": ("kill", "freeze")}
    with monkeypatch.context() as taken_out:
        taken_out.setattr(KeptTopics, "_pass_on", acknowledge_at_once)
        seed = _found("all_or_lost", range(60), **changes)
    assert seed is not None
    assert _found("all_or_lost", range(seed, seed + 1), **changes) is None


@pytest.mark.slow
def test_it_finds_a_slow_client_that_is_not_told_what_it_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Any] = {
        "servers": 1,
        "clients": 2,
        "high_water": 3000,
        "buffer_size": 1500,
        "large": 1500,
        "overflow": "drop",
        "faults": ("burst", "freeze client"),
    }
    with monkeypatch.context() as taken_out:
        taken_out.setattr(gows.topics.lost.Lost, "note", lambda *arguments: None)
        seed = _found("all_or_lost", range(20), **changes)
    assert seed is not None
    assert _found("all_or_lost", range(seed, seed + 1), **changes) is None


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--seed", "1", "--trace"])
    printed = capsys.readouterr().out
    assert "0.1 serves" in printed
    assert "seed 1: " in printed
    assert status == (1 if "seed 1: once" in printed else 0)
    main(["--seeds", "2", "--from", "1", "--jobs", "1"])
    assert "2 seeds from 1 on" in capsys.readouterr().out
