"""Names are looked up without keeping the loop."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from gows.reactor import Address, Loop, Target
from gows.reactor.resolver import resolve
from tests.support.waiting import turn_until

Outcome = list[tuple[list[Target], Exception | None]]


def test_an_address_needs_no_thread(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", None)
    outcome: Outcome = []
    resolve(loop, Address("127.0.0.1", 80), lambda targets, error: outcome.append((targets, error)))
    turn_until(loop, lambda: outcome)
    assert outcome == [([Target(socket.AF_INET, ("127.0.0.1", 80))], None)]


def test_a_name_is_looked_up_in_a_thread_and_told_in_the_loops(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def look_up(address: Address) -> list[Target]:
        threads.append(threading.current_thread().name)
        return [Target(socket.AF_INET, ("192.0.2.1", address.port))]

    monkeypatch.setattr(loop.sockets, "resolve", look_up)
    outcome: Outcome = []
    resolve(loop, Address("name.example", 80), lambda targets, error: outcome.append((targets, error)))
    turn_until(loop, lambda: outcome)
    assert outcome == [([Target(socket.AF_INET, ("192.0.2.1", 80))], None)]
    assert threads == ["gows-resolve"]


@pytest.mark.parametrize("failure", [socket.gaierror(socket.EAI_NONAME, "unknown"), UnicodeError("label too long")])
def test_a_name_that_nobody_knows(loop: Loop, monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fail(*_: object) -> Any:
        raise failure

    monkeypatch.setattr(loop.sockets, "resolve", fail)
    outcome: Outcome = []
    resolve(loop, Address("name.example", 80), lambda targets, error: outcome.append((targets, error)))
    turn_until(loop, lambda: outcome)
    assert outcome == [([], failure)]
