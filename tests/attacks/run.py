"""Runs one attack and judges what it has cost."""

from __future__ import annotations

from tests.attacks.crowd import Crowd
from tests.attacks.kinds import Attack
from tests.attacks.victim import MEGABYTE, Cost, Victim

MAX_THREADS = 160
"""Threads that an attack may cause: the pool's, some of which step aside for slow answers."""


def run(attack: Attack, seconds: float, size: float) -> Cost:
    """What `attack` costs a fresh server."""
    with Victim(attack.kind) as victim:
        victim.begin()
        with Crowd(victim, seconds, size) as crowd:
            attack.run(crowd)
            cost = victim.end()
        cost.serves = attack.kind == "stuck" or victim.serves()
    return cost


def judge(attack: Attack, cost: Cost) -> list[str]:
    """What was too much."""
    faults = []
    if cost.memory > attack.memory * MEGABYTE:
        faults.append(f"took {cost.memory / MEGABYTE:.0f} MB, {attack.memory} are allowed")
    if cost.echo > attack.wait:
        faults.append(f"others waited {cost.echo:.2f} s for an echo, {attack.wait:g} are allowed")
    if cost.threads > MAX_THREADS:
        faults.append(f"made {cost.threads} threads, {MAX_THREADS} are allowed")
    if not cost.serves:
        faults.append("the server did not serve any more")
    return faults
