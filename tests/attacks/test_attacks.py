"""The suite of attacks finds what it is there to find."""

from __future__ import annotations

import sys

import pytest

from tests.attacks import __main__ as program
from tests.attacks.crowd import Crowd
from tests.attacks.kinds import ATTACKS, Attack
from tests.attacks.run import MAX_THREADS, judge, run
from tests.attacks.victim import Cost
from tests.support import wire

FINE = Cost(memory=0, cpu=1.0, threads=0, echo=0.01, echo_median=0.01, page=0.01, sent=1)


def harmless(crowd: Crowd) -> None:
    """Messages that are large and allowed."""
    peer = crowd.websocket("/echo")
    assert peer is not None
    message = wire.frame(wire.BINARY, bytes(1 << 20))
    for _ in range(20):
        peer.send(message)
        assert len(peer.read().payload) == 1 << 20
    crowd.victim.sent += 20 * len(message)


@pytest.mark.slow
def test_what_a_server_takes_is_measured() -> None:
    cost = run(Attack("harmless", harmless, memory=50), 1.0, 1.0)

    assert cost.sent > 20 << 20
    assert 1 << 20 < cost.memory < 50 << 20
    assert 0.0 < cost.echo < 10.0
    assert 0.0 < cost.page < 10.0
    assert cost.serves
    assert not judge(Attack("harmless", harmless, memory=50, wait=10.0), cost)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"memory": 101_000_000}, "took 101 MB, 100 are allowed"),
        ({"echo": 1.5}, "others waited 1.50 s for an echo, 1 are allowed"),
        ({"threads": MAX_THREADS + 1}, f"made {MAX_THREADS + 1} threads, {MAX_THREADS} are allowed"),
        ({"serves": False}, "the server did not serve any more"),
    ],
)
def test_what_is_too_much_is_a_fault(changed: dict[str, float], fault: str) -> None:
    assert judge(Attack("any", harmless, memory=100), Cost(**{**vars(FINE), **changed})) == [fault]


def test_nothing_is_wrong_with_what_is_fine() -> None:
    assert judge(Attack("any", harmless, memory=100), FINE) == []


def test_attacks_have_names_and_say_what_they_are() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names)) > 30
    assert all(attack.run.__doc__ for attack in ATTACKS)


def test_failed_attacks_are_named_again_in_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = {"first": FINE, "second": Cost(**{**vars(FINE), "echo": 9.0}), "third": FINE}
    monkeypatch.setattr(program, "ATTACKS", [Attack(name, harmless, memory=100) for name in costs])
    monkeypatch.setattr(program, "run", lambda attack, seconds, size: costs[attack.name])
    monkeypatch.setattr(sys, "argv", ["attacks"])

    assert program.main() == 1

    last = capsys.readouterr().out.splitlines()[-2:]
    assert last == ["failed: second: others waited 9.00 s for an echo, 1 are allowed", "2 passed, 1 failed"]
