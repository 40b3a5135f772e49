"""Metrics: what a server, in all its processes, tells Prometheus. Needs prometheus-client (`gows[metrics]`).

Numbers are gathered when they are asked for: from counters that are kept anyway, and by a look at all connections. Each
process makes a snapshot, a flat dict of numbers; that of others comes over the bus, and they are added up, or, where
the name says so, the largest is taken.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from gows.brokers.base import Broker
from gows.bus.bus import Bus
from gows.errors import HttpError, UsageError
from gows.http.application import Application
from gows.http.connection import HttpConnection
from gows.http.request import Request
from gows.http.response import Response
from gows.protocol.states import ConnectionState
from gows.reactor import Loop, Stream, Timer
from gows.server.admission import Admission
from gows.server.publisher import Publisher
from gows.session.fanout import Fanout
from gows.session.overflow import Overflow
from gows.session.owner import Owner
from gows.session.traffic import Traffic
from gows.session.websocket import WebSocket
from gows.topics.subscriptions import Subscriptions

PATH = "/-/metrics"
"""Where they are served."""
NEIGHBOURS = ("127.0.0.0/8", "::1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "unix")
"""Who may ask, unless something else is said: this machine and private networks."""
PROBE_INTERVAL = 0.25
"""Seconds between two probes of the loop and of the workers."""
ASK_TIMEOUT = 1.0
"""Seconds that other processes have to answer."""
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds at which histograms are divided."""


class Metric(NamedTuple):
    """One family of numbers. `label` names are separated by commas."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...] = ()


METRICS = (
    Metric("gows_processes", "gauge", "processes that answered"),
    Metric("gows_connections", "gauge", "open connections", ("state",)),
    Metric("gows_accepted", "counter", "WebSockets that were accepted"),
    Metric("gows_refused", "counter", "upgrades that were refused, by HTTP status", ("status",)),
    Metric("gows_not_admitted", "counter", "connections that were not admitted, by cause", ("cause",)),
    Metric("gows_ended", "counter", "WebSockets that ended, by close code and cause", ("code", "cause")),
    Metric("gows_received", "counter", "messages and control frames received"),
    Metric("gows_received_bytes", "counter", "bytes received on WebSockets"),
    Metric("gows_sent", "counter", "messages sent"),
    Metric("gows_sent_bytes", "counter", "bytes of messages sent"),
    Metric("gows_queued_bytes", "gauge", "bytes that wait for peers to take them"),
    Metric("gows_blocked_connections", "gauge", "connections whose peer takes nothing at present"),
    Metric("gows_overflow", "counter", "messages to slow peers, by what became of them", ("fate",)),
    Metric("gows_held_bytes", "gauge", "bytes that are held of what peers sent, by a rough count"),
    Metric("gows_receiving", "counter", "connections held back or ended for what they sent, by cause", ("cause",)),
    Metric("gows_broadcast_deliveries", "counter", "messages of broadcasts put on queues"),
    Metric("gows_broadcast_missed", "counter", "messages of broadcasts that a connection did not get"),
    Metric("gows_broadcast_waiting_bytes", "gauge", "bytes of broadcasts that are not with everybody yet"),
    Metric("gows_broadcast_expired", "counter", "messages of broadcasts that came too late for some, or all"),
    Metric("gows_published", "counter", "messages to topics that began in a process"),
    Metric("gows_subscriptions", "gauge", "subscriptions to topics and patterns"),
    Metric("gows_history_bytes", "gauge", "bytes that are kept of topics, by a rough count"),
    Metric("gows_topic_gaps", "counter", "times that some of a topic was lost on its way to a process"),
    Metric("gows_topic_missed", "counter", "messages of topics that clients of gows.v1 were too slow for"),
    Metric("gows_topic_lost_told", "counter", "times that a client of gows.v1 was told that it missed some of a topic"),
    Metric("gows_topic_behind", "gauge", "clients of gows.v1 that are told that when they have room"),
    Metric("gows_topic_too_slow", "counter", "clients of gows.v1 that were closed since an answer had no room"),
    Metric("gows_broker_connected", "gauge", "processes that reach their broker"),
    Metric("gows_broker_waiting_bytes", "gauge", "bytes of publications that the broker has not acknowledged"),
    Metric("gows_broker_events", "counter", "publications that the broker did not take, by cause", ("event",)),
    Metric("gows_tasks_waiting", "gauge", "connections whose callbacks wait for a worker"),
    Metric("gows_buffers_lent", "gauge", "buffers of the pool in use"),
    Metric("gows_loop_lag_seconds", "histogram", "how late the loop comes to what is due"),
    Metric("gows_turn_seconds", "histogram", "how long the turns of the loop take"),
    Metric("gows_worker_wait_seconds", "histogram", "how long a task waits for a worker"),
    Metric("gows_loop_lag_max_seconds", "gauge", "the longest lag of the last minute, of all processes"),
)

Snapshot = dict[str, dict[str, float]]
"""By the metric's name; there by the values of its labels, separated by commas."""


class Histogram:
    """How often something took how long. For one thread at a time."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one more, and add its time."""
        self.sum += seconds
        self.counts[sum(seconds > bound for bound in BOUNDS)] += 1

    def snapshot(self) -> dict[str, float]:
        """Return the counts by upper bound, and the sum."""
        found: dict[str, float] = {str(bound): count for bound, count in zip(BOUNDS, self.counts, strict=False)}
        return found | {"+Inf": self.counts[-1], "sum": self.sum}


class Probes:
    """Measures each turn of the loop, and, four times a second, how late the loop is, and how long a task waits."""

    def __init__(self, loop: Loop) -> None:
        self.lag = Histogram()
        self.wait = Histogram()
        self.turns = Histogram()
        self._loop = loop
        loop.on_turn = self.turns.observe
        self._due = 0.0
        self._asked = 0.0
        self._running = False
        self._peaks: list[tuple[float, float]] = []  # (time, lag) of the last minute, each larger than those after it
        self._timer: Timer | None = None
        self._over = False
        loop.call_soon(self._begin)

    def close(self) -> None:
        """Measure no more. Any thread."""
        self._over = True
        self._loop.on_turn = None
        timer = self._timer
        if timer is not None:
            timer.cancel()

    def _begin(self) -> None:
        if not self._over:
            self._due = self._loop.time() + PROBE_INTERVAL
            self._timer = self._loop.call_later(PROBE_INTERVAL, self._probe)

    def _probe(self) -> None:
        now = self._loop.time()
        lag = max(0.0, now - self._due - 0.1)  # the wheel turns ten times a second
        self.lag.observe(lag)
        self._peaks = [(at, peak) for at, peak in self._peaks if peak > lag and now - at < 60.0]
        self._peaks.append((now, lag))
        if not self._running:  # else the workers have not come to the last one
            self._running = True
            self._asked = now
            self._loop.pool.submit(self)
        self._begin()

    def run(self) -> None:
        """Note how long the task has waited until now."""
        self.wait.observe(max(0.0, self._loop.time() - self._asked))
        self._running = False

    def stalled(self) -> None:
        """Do nothing: this task is never slow."""

    @property
    def longest_lag(self) -> float:
        """Of the last minute, seconds."""
        return self._peaks[0][1] if self._peaks else 0.0


class Measured(Application, Owner[WebSocket], Protocol):
    """The parts of a `gows.Server` that its metrics read."""

    loop: Loop
    admission: Admission
    broker: Broker
    fanout: Fanout
    news: Fanout
    overflow: Overflow
    publishing: Publisher
    subscriptions: Subscriptions
    traffic: Traffic

    @property
    def bus(self) -> Bus | None:
        """Return what joins the server's processes; None in a process of its own."""


class Metrics:
    """The metrics of one server."""

    def __init__(self, server: Measured) -> None:
        """Begin to measure. Raises UsageError when prometheus-client is missing."""
        self._render = _renderer()
        self._server = server
        self._probes = Probes(server.loop)

    def close(self) -> None:
        """Measure no more: the server ends. Any thread."""
        self._probes.close()

    def join(self, bus: Bus) -> None:
        """Answer other processes."""
        bus.handle("metrics", lambda sender, data: json.dumps(self.snapshot()).encode())

    def answer(self, request: Request) -> Response:
        """Return the page of all processes. Waits for the others, a second at most. Raises HttpError (405)."""
        if request.method not in ("GET", "HEAD"):
            raise HttpError(405, f"{request.method} is not allowed here", (("Allow", "GET, HEAD"),))
        snapshots = [self.snapshot()]
        bus = self._server.bus
        if bus is not None:
            snapshots += map(json.loads, bus.ask("metrics", timeout=ASK_TIMEOUT).values())
        body, kind = self._render(add_up(snapshots))
        return Response(body, 200, (("Content-Type", kind), ("Cache-Control", "no-store")))

    def snapshot(self) -> Snapshot:
        """Return the numbers of this process. Any thread."""
        server, loop = self._server, self._server.loop
        traffic, fanout, news, losses = server.traffic, server.fanout, server.news, server.publishing.losses
        states: Counter[str] = Counter()
        blocked = 0
        for stream in list(loop.streams):
            if not isinstance(stream, Stream):
                continue
            observer = stream.observer
            if isinstance(observer, WebSocket) and observer.context.owner is server:
                states["open" if observer.connection.state is ConnectionState.OPEN else "closing"] += 1
                blocked += stream.blocked
            elif isinstance(observer, HttpConnection) and observer.app is server:
                states["http"] += 1
        return {
            "gows_processes": {"": 1},
            "gows_connections": {"open": 0, "closing": 0, "http": 0, **states},
            "gows_accepted": {"": traffic.accepted},
            "gows_refused": {str(status): count for status, count in list(traffic.refusals.items())},
            "gows_not_admitted": dict(server.admission.counts),
            "gows_ended": {f"{_code(code)},{cause}": count for (code, cause), count in list(traffic.endings.items())},
            "gows_received": {"": traffic.received},
            "gows_received_bytes": {"": traffic.received_bytes},
            "gows_sent": {"": traffic.sent},
            "gows_sent_bytes": {"": traffic.sent_bytes},
            "gows_queued_bytes": {"": server.overflow.total_queued()},
            "gows_blocked_connections": {"": blocked},
            "gows_overflow": dict(server.overflow.counts),
            "gows_held_bytes": {"": server.receiving.total},
            "gows_receiving": dict(server.receiving.counts),
            "gows_broadcast_deliveries": {"": fanout.delivered + news.delivered},
            "gows_broadcast_missed": {"": fanout.missed + news.missed},
            "gows_broadcast_waiting_bytes": {"": fanout.waiting + news.waiting + server.publishing.notices.waiting},
            "gows_broadcast_expired": {"": fanout.expired},
            "gows_published": {"": server.publishing.published},
            "gows_subscriptions": {"": sum(server.subscriptions.counts().values())},
            "gows_history_bytes": {"": server.publishing.history.size},
            "gows_topic_gaps": {"": server.publishing.gaps},
            "gows_topic_missed": {"": losses.missed},
            "gows_topic_lost_told": {"": losses.sent},
            "gows_topic_behind": {"": len(losses)},
            "gows_topic_too_slow": {"": losses.closed},
            "gows_broker_connected": {"": int(server.broker.connected)},
            "gows_broker_waiting_bytes": {"": server.broker.waiting},
            "gows_broker_events": dict(server.broker.counters()),
            "gows_tasks_waiting": {"": len(loop.pool.tasks)},
            "gows_buffers_lent": {"": loop.buffers.lent},
            "gows_loop_lag_seconds": self._probes.lag.snapshot(),
            "gows_turn_seconds": self._probes.turns.snapshot(),
            "gows_worker_wait_seconds": self._probes.wait.snapshot(),
            "gows_loop_lag_max_seconds": {"": self._probes.longest_lag},
        }


def _code(code: int) -> str:
    """Return a label for a close code: one for a thousand of those that the peer may choose."""
    return f"{code}-{code + 999}" if code >= 3000 else str(code)


def add_up(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the sums of all; the largest where the name has `_max_`."""
    total: Snapshot = {}
    for snapshot in snapshots:
        for name, values in snapshot.items():
            mine = total.setdefault(name, {})
            for label, value in values.items():
                before = mine.get(label, 0)
                mine[label] = max(before, value) if "_max_" in name else before + value
    return total


def _renderer() -> Callable[[Snapshot], tuple[bytes, str]]:
    """Return what makes a page of a snapshot, in Prometheus' text format. Raises UsageError."""
    try:
        from prometheus_client import CollectorRegistry
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
        from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
    except ImportError as error:
        raise UsageError(f"metrics need prometheus-client: pip install 'gows[metrics]' ({error})") from None

    class Families:
        """A collector of one snapshot."""

        def __init__(self, snapshot: Snapshot) -> None:
            self._snapshot = snapshot

        def collect(self) -> Iterator[Any]:
            for metric in METRICS:
                values = self._snapshot.get(metric.name, {})
                if metric.kind == "histogram":
                    total = 0.0
                    buckets = []
                    for bound in (*map(str, BOUNDS), "+Inf"):
                        total += values.get(bound, 0)
                        buckets.append((bound, total))
                    histogram = HistogramMetricFamily(metric.name, metric.text)
                    histogram.add_metric([], buckets, values.get("sum", 0.0))
                    yield histogram
                    continue
                make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                family = make(metric.name, metric.text, labels=metric.labels)
                for label, value in sorted(values.items()):
                    family.add_metric(label.split(",") if metric.labels else [], value)
                yield family

    def render(snapshot: Snapshot) -> tuple[bytes, str]:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Families(snapshot))
        page: bytes = generate_latest(registry)
        return page, CONTENT_TYPE_PLAIN_0_0_4

    return render
