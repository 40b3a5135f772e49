"""KeptNet: the kept topics of several processes in one thread and virtual time, on links that a seed delays, cuts and
fills; and what is checked of it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from gows.brokers.base import Envelope
from gows.brokers.local.broker import home_of
from gows.brokers.local.topics import KeptTopics
from gows.brokers.lock import PublishLock
from gows.errors import BrokerError, QueueFullError
from gows.options import Keep
from gows.topics.history import History
from gows.topics.publication import Position, Publication


class RecordedEvents:
    """The BrokerEvents of one process: writes down what its subscribers would be told."""

    def __init__(self, net: KeptNet, name: str) -> None:
        self.net = net
        self.name = name
        self.lock = PublishLock()
        self.history = History()
        self.told: dict[str, list[tuple[Position | None, str | None]]] = {}
        self.lost_at: dict[str, float] = {}
        """By topic: when they were told last that some are lost."""

    def now(self) -> float:
        return self.net.now

    def has_subscribers(self, topic: str) -> bool:
        return True

    def receive(self, envelope: Envelope) -> None:
        publication = envelope.publication
        assert envelope.keep is not None
        self.history.add(publication, envelope.keep, self.net.now, envelope.origin)
        self.told.setdefault(publication.topic, []).append((publication.position, publication.bare.data.decode()))

    def report_lost_locked(self, topic: str, position: Position | None) -> None:
        self.told.setdefault(topic, []).append((position, None))
        self.lost_at[topic] = self.net.now


class Process:
    """One, with what it has of the bus."""

    def __init__(self, net: KeptNet, name: str) -> None:
        self.net = net
        self.name = name
        self.stopped = False
        self.alive = True
        self.soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.born = net.now
        self.synced = False
        self.events = RecordedEvents(net, name)
        events: Any = self.events
        self.kept = KeptTopics(self, events, home_of)

    def send(self, kind: str, data: bytes, to: str | None = None) -> bool:
        assert kind == "kept"
        whole = True
        for name in [to] if to is not None else [name for name in self.net.processes if name != self.name]:
            link = self.net.links.get((self.name, name))
            if link is None:
                continue
            if len(link) > self.net.longest:
                whole = False
                self.net.missed.add((self.name, name))
            else:
                link.append(("data", data, self.net.now))
        return whole

    def now(self) -> float:
        return self.net.now

    def call_soon(self, call: Callable[..., object], *arguments: Any) -> None:
        self.soon.append((call, arguments))

    def call_later(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        self.net.count += 1
        heappush(self.net.timers, (self.net.now + seconds, self.net.count, self, call, arguments))

    def do(self, call: Callable[..., object], *arguments: Any) -> None:
        with self.events.lock:
            call(*arguments)


class KeptNet:
    """Some processes."""

    def __init__(self, seed: int, *, topics: int = 2, keep: int = 1000) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.longest = self.rng.choice([60, 1000])
        """Messages that wait for a process; more are lost."""
        self.count = 0
        self.processes: dict[str, Process] = {}
        self.dead: list[Process] = []
        self.links: dict[tuple[str, str], deque[tuple[str, bytes, float]]] = {}
        self.apart: dict[tuple[str, str], deque[tuple[str, bytes, float]]] = {}
        self.missed: set[tuple[str, str]] = set()
        self.timers: list[Any] = []
        self.topics = [f"t{number}" for number in range(topics)]
        self.keep = Keep(keep)
        self.published: dict[str, tuple[str, str, float]] = {}  # data: topic, by whom, when
        self.results: dict[str, list[Exception | None]] = {}
        self.deaths = 0
        self.were_apart = False
        self.number = 0

    # ------------------------------------------------------------------ what happens

    def start(self) -> Process:
        """One more process."""
        self.number += 1
        process = Process(self, f"p{self.number}")
        for other in self.processes.values():
            self.links[process.name, other.name] = deque([("up", b"", self.now)])
            self.links[other.name, process.name] = deque([("up", b"", self.now)])
        self.processes[process.name] = process
        process.call_later(1.0, process.do, process.kept.open)
        if len(self.processes) == 1:
            process.do(process.kept.open)
        return process

    def keep_apart(self, process: Process) -> None:
        """It and the others do not hear each other until `meet`."""
        self.were_apart = True
        self.apart.update({pair: link for pair, link in self.links.items() if process.name in pair})
        self.links = {pair: link for pair, link in self.links.items() if pair not in self.apart}

    def meet(self) -> None:
        """Those that were kept apart and live hear each other from now on."""
        self.links.update({pair: link for pair, link in self.apart.items() if self.processes.keys() >= {*pair}})
        self.apart.clear()

    def publish(self, process: Process, topic: str, data: str = "") -> str:
        """A message from there; what it says."""
        self.count += 1
        data = data or f"{process.name}:{self.count}"
        self.published[data] = topic, process.name, self.now
        results = self.results[data] = []

        def publish() -> None:
            try:
                if process.kept.publish(Envelope(Publication(topic, data), self.keep), results.append):
                    results.append(None)
            except (BrokerError, QueueFullError) as error:
                results.append(error)

        process.do(publish)
        return data

    def kill(self, process: Process) -> None:
        """SIGKILL: what the kernel has of its messages still arrives."""
        self.deaths += 1
        self._end(process, cut=True)

    def leave(self, process: Process) -> None:
        """It ends in order: gives the others time to acknowledge, then says so."""
        until = self.now + 2.0
        while not process.kept.settled.is_set() and self.now < until:
            self.step()
        process.do(process.kept.give_up)
        process.do(process.kept.leave)
        self._end(process, cut=False)

    def _end(self, process: Process, *, cut: bool) -> None:
        process.alive = False
        del self.processes[process.name]
        self.dead.append(process)
        for (one, other), link in list(self.links.items()):
            if one == process.name:
                kernel_has = sum(at < self.now - 0.05 for _, _, at in link)  # as far as its buffer goes
                kernel_has = min(kernel_has, self.rng.randrange(1, 50))
                size = self.rng.randint(kernel_has, len(link)) if cut else len(link)
                while len(link) > size:
                    link.pop()
                # the other direction may be seen to end before all of this one is read
                at = self.rng.randrange(len(link) + 1) if self.rng.random() < 0.3 else len(link)
                if any(kind == "up" for kind, _, _ in link):
                    at = len(link)
                link.insert(at, ("down", b"", self.now))
            elif other == process.name:
                del self.links[one, other]

    def step(self) -> bool:
        """Something happens; False: nothing is left but timers."""
        choices: list[Any] = [key for key, link in self.links.items() if link and not self.processes[key[1]].stopped]
        choices += [process for process in self.processes.values() if process.soon and not process.stopped]
        if not choices:
            return self._next_timer()
        self.now += 1e-4
        found = self.rng.choice(choices)
        if isinstance(found, Process):
            call, arguments = found.soon.popleft()
            call(*arguments)
        else:
            self._deliver(found)
        return True

    def _deliver(self, key: tuple[str, str]) -> None:
        sender, name = key
        process = self.processes[name]
        link = self.links[key]
        kind, data, _ = link.popleft()
        if kind == "up":
            process.do(process.kept.on_peer_up, sender)
            if process.kept.up >= self.processes.keys() - {name}:
                process.do(process.kept.open)
        elif kind == "down":
            process.do(process.kept.on_peer_down, sender)
            if not link:
                del self.links[key]
        else:
            process.do(process.kept.on_packet, sender, data)
        if key in self.missed and len(link) < self.longest // 4 and sender in self.processes:
            self.missed.discard(key)
            other = self.processes[sender]
            other.call_soon(other.do, other.kept.on_peer_missed, name)

    def _next_timer(self) -> bool:
        if not self.timers:
            return False
        at, _, process, call, arguments = heappop(self.timers)
        self.now = max(self.now, at)
        if process.alive:
            process.soon.append((call, arguments))
        return True

    def run(self, seconds: float) -> None:
        """Let time go by."""
        until = self.now + seconds
        while self.now < until:
            busy = any(link and not self.processes[key[1]].stopped for key, link in self.links.items()) or any(
                process.soon and not process.stopped for process in self.processes.values()
            )
            if not busy and (not self.timers or self.timers[0][0] > until):
                self.now = until
                break
            self.step()

    def settle(self) -> None:
        """Everybody goes on, and all that is under way comes to its end."""
        for process in self.processes.values():
            process.stopped = False
        self.run(15.0)

    # ------------------------------------------------------------------ what must hold

    def check(self) -> None:
        """After `settle`."""
        for data, results in self.results.items():
            if self.published[data][1] in self.processes:
                assert len(results) == 1, f"{data} was answered {results}"
        places: dict[tuple[str, Position], str] = {}
        for process in [*self.processes.values(), *self.dead]:
            for topic, told in process.events.told.items():
                self._check_told(process, topic, told, places)
        for topic in self.topics:
            standing = {
                (
                    process.events.history.position(topic),
                    tuple(each.bare.data for each in process.events.history.latest(topic, 10_000, self.now)),
                )
                for process in self.processes.values()
            }
            assert len(standing) <= 1, (
                f"they do not agree about {topic}: {[(each[0], len(each[1])) for each in standing]}"
            )
        acknowledged = {data for data, results in self.results.items() if None in results}
        if self.were_apart:  # what processes have that die before they meet the others is lost
            acknowledged &= {
                data
                for process in self.processes.values()
                for told in process.events.told.values()
                for _, data in told
                if data is not None
            }
        for process in self.processes.values():
            for topic in self.topics:
                told = process.events.told.get(topic, [])
                got = {data for _, data in told}
                lost_at = process.events.lost_at.get(topic, 0.0)
                held = {each.bare.data.decode() for each in process.events.history.latest(topic, 10_000, self.now)}
                missing = {
                    data
                    for data in acknowledged - got - held
                    if self.published[data][0] == topic and self.published[data][2] > max(process.born + 1.0, lost_at)
                }
                assert not missing, f"{process.name} never got {sorted(missing)} of {topic}, and was told nothing since"

    def _check_told(
        self, process: Process, topic: str, told: list[tuple[Position | None, str | None]], places: Any
    ) -> None:
        last: Position | None = None
        begun = False
        numbers: dict[str, int] = {}
        seen: set[str] = set()
        for position, data in told:
            if data is None:
                last, begun = position, True
                seen.clear()  # two homes that did not know of each other may both have it
                numbers.clear()
                continue
            assert position is not None
            assert data not in seen, f"{process.name} got {data} twice"
            seen.add(data)
            if begun and last is not None:
                assert position == (last.epoch, last.offset + 1), f"{process.name}: {position} after {last}, not told"
            last, begun = position, True
            publisher, number = data.split(":")
            assert numbers.get(publisher, 0) < int(number), f"{process.name}: {data} is out of order"
            numbers[publisher] = int(number)
            assert places.setdefault((topic, position), data) == data, f"{position} of {topic} is two messages"
