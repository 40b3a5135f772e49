"""Metrics: what `/-/metrics` says, of one process and of several, to whom, and that the documents name all of it."""

from __future__ import annotations

import http.client
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gows import Server
from gows.errors import UsageError
from gows.reactor import Loop
from gows.server.metrics import BOUNDS, METRICS, Histogram, Probes, add_up
from tests.support import processes, wire
from tests.support.fakes import World
from tests.support.needs import need_module
from tests.support.processes import ROOT, Children, start_echo
from tests.support.stage import Echo, Guest, Stage
from tests.support.wire import TEXT, frame

need_module("prometheus_client")


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage(make_handler=Echo, server={"metrics": True})
    yield made
    made.close()


def numbers(page: str) -> dict[str, float]:
    """The samples of a page."""
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    }


def read(stage: Stage) -> dict[str, float]:
    return numbers(fetch(stage)[1])


def fetch(stage: Stage, host: str = "10.0.0.9", method: str = "GET") -> tuple[int, str]:
    """Status and body, over a connection that is closed then."""
    guest: Guest = stage.connect(host)
    guest.send(f"{method} /-/metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    received = b""
    for _ in range(1000):
        stage.run_for(0.01)
        try:
            data = guest.sock.recv(1 << 20)
        except BlockingIOError:
            continue
        if not data:
            break
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def test_no_label_is_a_peers_choice(stage: Stage) -> None:
    for code in (1000, 3000, 3999, 4000, 4567, 4999):
        guest, _ = stage.guest()
        guest.send(wire.close(code))
        stage.run_for(0.1)
    ended = {name: count for name, count in read(stage).items() if name.startswith("gows_ended_total")}
    labels = {"1000": 1, "3000-3999": 2, "4000-4999": 3}
    assert ended == {f'gows_ended_total{{cause="peer",code="{label}"}}': count for label, count in labels.items()}
    assert len(stage.server.traffic.endings) == 3


def test_what_happens_is_counted(stage: Stage) -> None:
    before = read(stage)
    assert before["gows_accepted_total"] == 0
    assert before['gows_connections{state="http"}'] == 1, "who asks"
    one, _ = stage.guest()
    two, handler = stage.guest()
    sent = frame(TEXT, "hello")
    one.send(sent)
    assert one.text() == "hello"
    now = read(stage)
    assert now["gows_processes"] == 1
    assert now['gows_connections{state="open"}'] == 2
    assert now["gows_accepted_total"] == 2
    assert now["gows_received_total"] == now["gows_sent_total"] == 1
    assert now["gows_received_bytes_total"] == len(sent)
    assert now["gows_sent_bytes_total"] == 2 + len("hello")
    two.send(wire.close(1000))
    two.drain()
    stage.run_until(lambda: handler.close_code)
    stage.server.broadcast("to one")
    stage.run_for(1)
    now = read(stage)
    assert now['gows_ended_total{cause="peer",code="1000"}'] == 1
    assert now['gows_connections{state="open"}'] == 1
    assert now["gows_broadcast_deliveries_total"] == 1
    assert now["gows_sent_total"] == 2
    assert now["gows_loop_lag_seconds_count"] >= 3
    assert now["gows_worker_wait_seconds_count"] >= 3
    assert now["gows_turn_seconds_count"] > 10
    assert now["gows_queued_bytes"] == now["gows_blocked_connections"] == 0


def test_topics_are_counted(stage: Stage) -> None:
    for _ in range(2):
        _, handler = stage.guest()
        handler.ws.subscribe("news")
        handler.ws.subscribe("news.*")
    stage.server.publish("news", "x" * 100, history=5)
    stage.run_for(1)
    stage.server.publish("news", "late", ttl=1)
    stage.world.clock.advance(2)
    stage.run_for(1)
    now = read(stage)
    assert now["gows_published_total"] == 2
    assert now["gows_subscriptions"] == 4
    assert now["gows_broadcast_deliveries_total"] == 2
    assert now["gows_broadcast_expired_total"] == 1
    assert 100 < now["gows_history_bytes"] < 2000


def test_a_refused_upgrade_is_counted_by_its_status(stage: Stage) -> None:
    guest = stage.connect()
    assert guest.upgrade("Origin: http://elsewhere.example").status == 403
    assert read(stage)['gows_refused_total{status="403"}'] == 1


def test_every_metric_is_on_the_page_and_in_the_documents(stage: Stage) -> None:
    _, page = fetch(stage)
    rows = re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE)
    found = {(re.sub("_total$", "", name), kind) for name, kind in rows}
    assert found == {(metric.name, metric.kind) for metric in METRICS}
    table = re.findall(
        r"^\| `(gows_\w+)` \| (\w+) \| ?(.*?) ?\|",
        (ROOT / "docs" / "reference" / "metrics.md").read_text(),
        re.MULTILINE,
    )
    assert table == [
        (metric.name, metric.kind, ", ".join(f"`{label}`" for label in metric.labels)) for metric in METRICS
    ]


def test_strangers_see_nothing(stage: Stage) -> None:
    assert fetch(stage, "127.0.0.1")[0] == 200
    assert fetch(stage, "8.8.8.8")[0] == 404


def test_who_may_ask_can_be_said() -> None:
    stage = Stage(server={"metrics": True, "metrics_from": ["8.8.0.0/16"]})
    assert fetch(stage, "8.8.8.8")[0] == 200
    assert fetch(stage, "10.0.0.9")[0] == 404
    stage.close()


def test_other_methods(stage: Stage) -> None:
    assert fetch(stage, method="POST")[0] == 405
    assert fetch(stage, method="HEAD") == (200, "")


def test_they_are_off_by_default() -> None:
    stage = Stage()
    assert fetch(stage)[0] == 404
    stage.close()


def test_without_prometheus_client_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    loop = Loop()
    with pytest.raises(UsageError, match=r"pip install 'gows\[metrics\]'"):
        Server(loop=loop, metrics=True)
    loop.close()


def test_a_loop_that_is_held_up_has_a_lag() -> None:
    world = World()
    loop = world.loop()
    probes = Probes(loop)
    world.run_for(1.0)
    assert probes.longest_lag == 0.0
    assert probes.lag.counts[0] == sum(probes.lag.counts) >= 3
    loop.call_soon(world.clock.advance, 2.0)
    world.run_for(1.0)
    assert 1.5 <= probes.longest_lag <= 2.0
    assert sum(probes.turns.counts[-2:]) == 1, "a turn of two seconds"
    assert sum(probes.lag.counts[-2:]) == 1
    world.run_for(70.0)
    assert probes.longest_lag == 0.0, "it was more than a minute ago"
    probes.close()
    world.run_for(1.0)
    assert not loop.active_timers
    loop.close()


def test_a_histogram_counts_up_to_and_with_its_bounds() -> None:
    histogram = Histogram()
    for seconds in (0.0, BOUNDS[0], BOUNDS[1], BOUNDS[-1], 100.0):
        histogram.observe(seconds)
    found = histogram.snapshot()
    assert found.pop("sum") == pytest.approx(100.0 + BOUNDS[0] + BOUNDS[1] + BOUNDS[-1])
    assert {bound: count for bound, count in found.items() if count} == {
        str(BOUNDS[0]): 2,
        str(BOUNDS[1]): 1,
        str(BOUNDS[-1]): 1,
        "+Inf": 1,
    }


def test_processes_are_added_up_but_for_the_largest() -> None:
    one = {"gows_sent": {"": 1.0}, "gows_ended": {"1000,peer": 2.0}, "gows_loop_lag_max_seconds": {"": 0.5}}
    two = {"gows_sent": {"": 2.0}, "gows_ended": {"1006,lost": 1.0}, "gows_loop_lag_max_seconds": {"": 0.25}}
    assert add_up([one, two]) == {
        "gows_sent": {"": 3.0},
        "gows_ended": {"1000,peer": 2.0, "1006,lost": 1.0},
        "gows_loop_lag_max_seconds": {"": 0.5},
    }


@pytest.mark.slow
def test_several_processes_answer_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ARTIFACTS", tmp_path)
    connect: Callable[..., Any] = need_module("websockets.sync.client").connect
    with Children() as children, ExitStack() as stack:
        port = start_echo(children, "--processes", "2", "--metrics")
        peers = [stack.enter_context(connect(f"ws://127.0.0.1:{port}/")) for _ in range(12)]
        for peer in peers:
            peer.send("hello")
            assert peer.recv(10) == "hello"
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        client.request("GET", "/-/metrics")
        answer = client.getresponse()
        found = numbers(answer.read().decode())
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        client.close()
    assert found["gows_processes"] == 2
    assert found['gows_connections{state="open"}'] == found["gows_received_total"] == 12
