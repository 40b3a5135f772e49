"""Heartbeat: each verdict over an open connection, and when it is looked at next. (What a session does about it, in
virtual time, is in test_session.py.)"""

from __future__ import annotations

from typing import Any

import pytest

from gows import AcceptOptions
from gows.reactor.timers import TICKS_PER_SECOND
from gows.session.heartbeat import DEAD, SEND_PING, SILENT, STALLED, WAIT, Heartbeat
from tests.support.stage import Stage

PINGS: dict[str, Any] = {"ping_interval": 30, "ping_timeout": 20}
SILENCE: dict[str, Any] = {"ping_interval": None, "read_timeout": 50}

# options, seconds since the last byte came, seconds since the ping (None: there is none), verdict, seconds until the
# next look
CASES: dict[str, tuple[dict[str, Any], float, float | None, int, float | None]] = {
    "no limits": ({"ping_interval": None}, 1000, None, WAIT, None),
    "spoke just now": (PINGS, 1, None, WAIT, 29),
    "silent for the interval": (PINGS, 30, None, SEND_PING, 0),
    "silent, and pinged": (PINGS, 40, 10, WAIT, 10),
    "spoke after the ping": (PINGS, 5, 10, WAIT, 25),
    "no answer in time": (PINGS, 50, 20, DEAD, 0),
    "no answer, seen late": (PINGS, 60, 30, WAIT, 0),
    "no answer, and none is needed": ({"ping_interval": 30, "ping_timeout": None}, 60, 30, SEND_PING, 0),
    "silent, but not too long": (SILENCE, 49, None, WAIT, 1),
    "silent too long": (SILENCE, 50, None, SILENT, 0),
    "the read timeout comes first": ({**PINGS, "read_timeout": 40}, 40, 10, SILENT, 0),
    "the next ping comes before the timeout": ({"ping_interval": 5, "ping_timeout": 20}, 30, 4, WAIT, 5),
}


@pytest.mark.parametrize(("options", "silent", "since", "verdict", "due"), CASES.values(), ids=CASES.keys())
def test_a_verdict(
    options: dict[str, Any], silent: float, since: float | None, verdict: int, due: float | None
) -> None:
    stage = Stage()
    _, handler = stage.guest()
    stage.run_for(100)
    stream, ticks = handler.ws.stream, stage.loop.ticks
    stream.seen = ticks - round(silent * TICKS_PER_SECOND)
    pinged = 0 if since is None else ticks - round(since * TICKS_PER_SECOND)
    heartbeat = Heartbeat(AcceptOptions(**options))
    assert heartbeat.next_look(stream, pinged) == (due if due is None else pytest.approx(due))
    found, pinged_now = heartbeat.look(stream, pinged)
    assert found == verdict
    if verdict == SEND_PING:
        assert pinged_now == ticks
    elif silent < (since or 0):
        assert pinged_now == 0, "the ping is answered"
    stage.close()


@pytest.mark.parametrize(("stalled", "verdict"), [(9, WAIT), (10, STALLED)])
def test_a_peer_that_takes_nothing(stalled: float, verdict: int) -> None:
    stage = Stage(ping_interval=None, write_timeout=None, network={"buffer_size": 500})
    _, handler = stage.guest()
    heartbeat = Heartbeat(AcceptOptions(ping_interval=None, write_timeout=10))
    handler.ws.write_binary(bytes(2000))
    stage.run_for(0)
    stream = handler.ws.stream
    assert stream.blocked
    look = heartbeat.next_look(stream, 0)
    assert look is not None
    assert look <= 10
    stage.run_for(stalled)
    assert heartbeat.look(stream, 0) == (verdict, 0)
    stage.close()


def test_first_pings_are_spread_where_nothing_else_measures_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gows.session.heartbeat.random", lambda: 1.0)
    stage = Stage(ping_interval=None)
    _, handler = stage.guest()
    stream = handler.ws.stream
    for options, seconds in (({"ping_interval": 30}, 15), ({"ping_interval": None}, 0), ({"read_timeout": 9}, 0)):
        before = stream.seen
        Heartbeat(AcceptOptions(**options)).begin(stream)
        assert before - stream.seen == seconds * TICKS_PER_SECOND
    stage.close()
