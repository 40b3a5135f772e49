"""One round of the torture (torture.py) for each overflow policy, in order and rough."""

from __future__ import annotations

import pytest

from gows.options import OVERFLOW_POLICIES
from tests.session.torture import Settings, Torture


@pytest.mark.slow
@pytest.mark.parametrize("rough", [False, True], ids=["in order", "rough"])
@pytest.mark.parametrize("policy", OVERFLOW_POLICIES)
def test_every_message_is_accounted_for(policy: str, rough: bool) -> None:
    found = Torture(Settings(policy, rough, seed=len(policy), streams=rough, deflate=rough)).run()
    assert found["written"] > 100
