"""Wakeup: one system call a sleep, and none for a loop that is awake."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from gows.reactor import Wakeup


@pytest.fixture(params=["eventfd", "socketpair"])
def wakeup(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wakeup]:
    if request.param == "socketpair":
        monkeypatch.delattr(os, "eventfd", raising=False)
    elif not hasattr(os, "eventfd"):
        pytest.skip("this platform has no eventfd")
    wakeup = Wakeup()
    yield wakeup
    wakeup.close()


def readable(wakeup: Wakeup) -> bool:
    return bool(select.select([wakeup.fd], [], [], 0)[0])


def test_wakes_a_loop_that_is_about_to_sleep(wakeup: Wakeup) -> None:
    wakeup.arm()
    wakeup.wake()
    assert readable(wakeup)


def test_a_second_wake_costs_nothing(wakeup: Wakeup) -> None:
    wakeup.arm()
    wakeup.wake()
    assert not wakeup.armed
    wakeup.wake()
    wakeup.on_readable(bytearray(1), 0)  # one byte is all there is
    assert not readable(wakeup)


def test_a_loop_that_is_awake_is_left_alone(wakeup: Wakeup) -> None:
    wakeup.wake()
    wakeup.arm()
    wakeup.disarm()
    wakeup.wake()
    assert not readable(wakeup)


def test_it_can_be_used_again(wakeup: Wakeup) -> None:
    for _ in range(3):
        wakeup.arm()
        wakeup.wake()
        wakeup.on_event(8, bytearray(16), 0)
        assert not readable(wakeup)


def test_after_close_a_wake_touches_no_descriptor(wakeup: Wakeup) -> None:
    """Its number may belong to another file by then."""
    wakeup.arm()
    fd = wakeup.fd
    wakeup.close()
    successor = Wakeup()
    assert successor.fd == fd
    wakeup.wake()
    wakeup.close()
    assert not readable(successor)
    successor.close()
