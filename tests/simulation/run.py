"""Simulation: one run, which a seed decides: what is published, what fails and when, and whose turn it is."""

from __future__ import annotations

import faulthandler
import gc
import hashlib
import heapq
import itertools
import logging
import math
import random
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import Any
from unittest import mock

import gows
import gows.brokers.local.sync
import gows.bus.links
import gows.protocol.prepared
import gows.session.fanout
import gows.topics.presence
from gows.protocol.frames import encode_frame
from tests.simulation.checks import AT_REST, AT_THE_END, Fault, check
from tests.simulation.hosts import BareProcess, ClientProcess, Process, ServerProcess
from tests.simulation.log import Log
from tests.simulation.machine import Machine, Thread, installed
from tests.simulation.network import SimulatedFolder, SimulatedNetwork, SimulatedSocket

ROOMS = ("room.a", "room.b")
"""Kept, and with presence."""
TOPICS = (*ROOMS, "kept.c", "news.d", "news.e", "price.f")
PATTERNS = (*ROOMS, *ROOMS, "kept.c", "news.d", "room.*", "*.c", "news.>", ">")

FAULTS = ("kill", "terminate", "freeze", "freeze client", "stall", "reset", "cut", "burst", "race")
"""What runs have some of. There is also "bus": the connection between two living processes is lost, which the kernel
does to no Unix-domain socket; two of them may then number a topic at once, and give up what one of them did."""
SETTLING = 18.0
"""Seconds after the last fault until all has to be well again."""
AFTERWARDS = 8.0
"""Seconds that the last messages have."""
INTERRUPTED = (
    *("/gows/",) * 2,
    *("/gows/topics/subscriptions.py",) * 4,
    *("/gows/server/publisher.py",) * 2,
    *("/gows/topics/presence.py",) * 2,
    *("/gows/brokers/",) * 3,
    *("/gows/bus",) * 2,
    "/gows/session/fanout.py",
    "/gows/topics/history.py",
    "/gows/topics/subprotocol.py",
    "/gows/session/session.py",
    "/gows/server/server.py",
    *("/gows/client/",) * 2,
)
"""Where threads are interrupted; each run has one of these."""
NEWCOMER = 3.0
"""Seconds that a process which has come needs to be one of several."""
LONGEST = 60.0
"""Seconds of real time that a run may take."""
MOST_STEPS = 60_000
"""Of one run; more means that some threads go round and round."""


@dataclass
class Scenario:
    """What one run is like."""

    servers: int
    clients: int
    bare: int
    seconds: float
    actions: int
    faults: tuple[str, ...]
    kept_messages: int
    high_water: int
    overflow: str
    compression: bool
    buffer_size: int
    bus_buffer_size: int
    max_queued: int
    deliveries: int
    lag: float
    preemption: float
    interrupted: str
    client_reads: int
    large: int
    function: str | None = None

    @classmethod
    def draw(cls, rng: random.Random) -> Scenario:
        """Of all kinds of runs; each has some kinds of faults, and is calm otherwise."""
        small = rng.random() < 0.4  # queues are short, and filled
        faults = {fault for fault in FAULTS if rng.random() < 0.35}
        if rng.random() < 0.5:
            faults.add("race")
        if small and rng.random() < 0.7:
            faults |= {"burst", "freeze client"}
        return cls(
            servers=rng.choice((1, 2, 2, 3, 3, 3)),
            clients=rng.choice((2, 3, 3, 4)),
            bare=rng.choice((0, 0, 1, 2)),
            seconds=rng.uniform(4.0, 16.0),
            actions=rng.randint(15, 50),
            faults=tuple(fault for fault in FAULTS if fault in faults),
            kept_messages=rng.choice((1000, 1000, 1000, 4)),
            high_water=rng.choice((3000, 8000)) if small else 262144,
            overflow=rng.choice(("refuse", "refuse", "close", "drop", "drop_oldest", "latest", "block")),
            compression=rng.random() < 0.2,
            buffer_size=rng.choice((1500, 4000)) if small else 65536,
            bus_buffer_size=rng.choice((2000, 65536)),
            max_queued=rng.choice((20_000, 32 << 20)) if small else 32 << 20,
            deliveries=rng.choice((4, 256)),
            lag=rng.choice((0.0, 0.0, 0.01, 0.3)),
            preemption=rng.choice((0.0, 0.3, 1.0)),
            interrupted=rng.choice(INTERRUPTED),
            client_reads=rng.choice((600, 65536)),
            large=rng.choice((400, 1500)) if small else rng.choice((0, 600)),
        )

    def keep(self, topic: str) -> int | None:
        """For `Server(keep=…)`."""
        return None if topic.startswith(("news.", "price.")) else self.kept_messages


@dataclass
class Outcome:
    """What came of a run."""

    seed: int
    scenario: Scenario
    faults: list[Fault]
    digest: str
    """Of the whole trace."""
    steps: int
    seconds: float
    """Of virtual time."""
    trace: list[str]
    """Line by line, if that was asked for."""


class Simulation:
    """One run."""

    def __init__(self, seed: int, *, trace: bool = False, **changes: Any) -> None:
        """`trace`: keep what happens. `changes`: of the scenario that the seed draws."""
        self.seed = seed
        self.plan = random.Random(f"plan {seed}")  # what happens
        self.machine = Machine(random.Random(f"order {seed}"))  # and whose turn it is
        self.scenario = replace(Scenario.draw(self.plan), **changes)
        self._lags = random.Random(f"lag {seed}")
        self._lag = self.scenario.lag
        self.network = SimulatedNetwork(
            self.machine,
            buffer_size=self.scenario.buffer_size,
            bus_buffer_size=self.scenario.bus_buffer_size,
            delay=lambda: self._lag * self._lags.random(),
        )
        self.folder = SimulatedFolder(self.network)
        self.rooms = ROOMS
        self.kept_topics = [topic for topic in TOPICS if self.scenario.keep(topic) is not None]
        self.deaths: list[tuple[float, str]] = []  # of servers, and when
        self._numbers: list[tuple[float, int]] = []  # of servers that serve, and since when
        self._apart: list[tuple[float, bool]] = []  # whether two of them do not hear each other, and since when
        self.log = Log(self.machine.clock, self.note, lambda topic: self.scenario.keep(topic) is not None)
        self.log.pad = lambda: "x" * self.plan.randint(0, self.scenario.large)
        self.servers: dict[int, ServerProcess | None] = {}  # by slot
        self.clients: list[ClientProcess] = []
        self.bare: list[BareProcess] = []
        self.turn_faults: list[str] = []
        self.encoding_faults: list[str] = []
        self.raised: list[str] = []
        self.healing = False
        self._trace = trace
        self._lines: list[str] = []
        self._digest = hashlib.blake2b(digest_size=16)
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._after_steps: list[tuple[int, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._generations = itertools.count(1)
        self._established: list[tuple[SimulatedSocket, SimulatedSocket]] = []
        self._encoded: dict[tuple[str, int, bool], bytes] = {}
        self._delivered: dict[str, int] = {}
        self.machine.on_failure = self._thread_failed
        self.machine.on_step = self._on_step
        self.machine.after_step = self._after_step
        self.machine.on_preempted = self._on_preempted
        self.network.on_connected = lambda client, server: self._established.append((client, server))

    # ------------------------------------------------------------------ trace

    def note(self, text: str) -> None:
        """Write down what happens."""
        line = f"{self.machine.clock():.5f} {text}"
        self._digest.update(line.encode())
        if self._trace:
            self._lines.append(line)

    def _thread_failed(self, thread: Thread, error: BaseException) -> None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        self.raised.append(f"{thread.name} has ended: {error!r} at {last.filename}:{last.lineno}")
        self.note(self.raised[-1])

    def _on_step(self, thread: Thread) -> None:
        self.note(thread.name)

    def _after_step(self, thread: Thread) -> None:
        """A loop takes one turn a step, or a part of one."""
        process = thread.host
        if not isinstance(process, ServerProcess) or not process.ready:
            return
        fanout = process.server.fanout
        put = fanout.delivered + fanout.missed
        before, self._delivered[process.name] = self._delivered.get(process.name, 0), put
        if put - before > self.scenario.deliveries and thread.name.endswith(":loop"):  # `close` takes several turns
            self.turn_faults.append(f"{process.name} put {put - before} messages on queues in one turn")

    def _on_preempted(self, thread: Thread, frame: FrameType) -> None:
        code = frame.f_code
        self.note(f"{thread.name} is interrupted at {code.co_filename.rpartition('/gows/')[2]}:{frame.f_lineno}")
        if "race" in self.scenario.faults and not self.healing and self.plan.random() < 0.5:
            self._in_steps(0, lambda: self._lose_all(thread.host))

    # ------------------------------------------------------------------ running

    def run(self) -> Outcome:
        """From the start to the end, and look at what came of it."""
        faults: list[Fault] = []
        with self._installed():
            try:
                self._run(faults)
            except _RoundAndRound:
                faults.append(Fault("comes_to_rest", f"more than {MOST_STEPS} steps: some threads go round and round"))
            for host in list(self.machine.hosts):
                if isinstance(host, Process) and not host.dead:
                    host.kill()
        return Outcome(
            self.seed,
            self.scenario,
            faults,
            self._digest.hexdigest(),
            self.machine.steps,
            self.machine.clock() - 1000.0,
            self._lines,
        )

    def _run(self, faults: list[Fault]) -> None:
        for slot in range(self.scenario.servers):
            self._start_server(slot)
        for number in range(self.scenario.clients):
            self._start_client(number)
        for number in range(self.scenario.bare):
            policy = self.plan.choice(("drop", "latest"))
            client = BareProcess(self, f"bare{number}", policy, ["price.f", self.plan.choice(TOPICS)])
            self.bare.append(client)
            client.start()
        self.machine.preemption = self.scenario.preemption
        self.machine.files = self.scenario.interrupted
        self.machine.function = self.scenario.function
        self._advance(self.plan.uniform(0.0, 2.0))
        for _ in range(self.scenario.actions):
            at = self.machine.clock() + self.plan.random() * self.scenario.seconds
            self._at(at, self._act)
        self._advance(self.scenario.seconds)
        self._heal()
        self._advance(SETTLING)
        self._last_messages()
        self._advance(AFTERWARDS)
        self.note("all should be well")
        faults += check(self, AT_REST)
        for topic_client in self.clients:
            topic_client.tell(topic_client.close)
        for client in self.bare:
            client.tell(client.close)
        self._advance(5.0)
        faults += check(self, AT_THE_END)
        for process in self.serving.values():
            process.tell(partial(process.terminate, None))
        self._advance(4.0)

    def _advance(self, seconds: float) -> None:
        """Let time go by."""
        machine, clock = self.machine, self.machine.clock
        end = clock() + seconds
        while True:
            now = clock()
            while self._events and self._events[0][0] <= now:
                heapq.heappop(self._events)[2]()
            while self._after_steps and self._after_steps[0][0] <= machine.steps:
                heapq.heappop(self._after_steps)[2]()
            if now >= end:
                return
            self.network.arrive()
            if machine.step():
                if machine.steps > MOST_STEPS:
                    raise _RoundAndRound
                continue
            arrival = self.network.next_event()
            until = min(
                machine.next_deadline(),
                math.inf if arrival is None else arrival,
                self._events[0][0] if self._events else math.inf,
                end,
            )
            if self._after_steps:  # nobody takes a step: so it happens now
                heapq.heappop(self._after_steps)[2]()
                continue
            clock.advance_to(until)

    def _at(self, time: float, call: Callable[[], object]) -> None:
        heapq.heappush(self._events, (time, next(self._order), call))

    def _in_steps(self, steps: int, call: Callable[[], object]) -> None:
        heapq.heappush(self._after_steps, (self.machine.steps + steps, next(self._order), call))

    # ------------------------------------------------------------------ processes

    @property
    def serving(self) -> dict[str, ServerProcess]:
        """The servers that are up, by name."""
        return {
            process.name: process
            for process in self.servers.values()
            if process is not None and process.ready and not process.stopping
        }

    def count_serving(self) -> None:
        """A process serves, or does not any more; or it hears another one, or does not any more."""
        now, serving = self.machine.clock(), self.serving
        self._numbers.append((now, len(serving)))
        self._apart.append((now, any(serving.keys() - process.met - {name} for name, process in serving.items())))

    def others_at(self, time: float) -> bool:
        """Whether more than one process served at a time, and for a while before."""
        since = time - NEWCOMER
        before = [number for at, number in self._numbers if at <= since][-1:]
        return min(before + [number for at, number in self._numbers if since < at <= time], default=0) > 1

    def apart_between(self, since: float, until: float) -> bool:
        """Whether two processes served, at some moment of that time, that did not hear each other."""
        before = [apart for at, apart in self._apart if at <= since][-1:]
        return any(before + [apart for at, apart in self._apart if since < at <= until])

    def _start_server(self, slot: int) -> None:
        process = self.servers[slot] = ServerProcess(self, f"{slot}.{next(self._generations)}")
        self.note(f"{process.name} starts")
        process.start()

    def _start_client(self, number: int) -> None:
        client = ClientProcess(self, f"client{number}")
        self.clients.append(client)
        client.start()
        for _ in range(self.plan.choice((1, 2, 2, 3))):
            self._subscribe(client)

    def _subscribe(self, client: ClientProcess) -> None:
        pattern = self.plan.choice(PATTERNS)
        history = self.plan.choice((None, None, 3))
        present = pattern in ROOMS and self.plan.random() < 0.5
        client.tell(lambda: client.subscribe(pattern, history, present))

    def leave_files(self, paths: list[str]) -> None:
        """The sockets of a process that was killed."""
        self.folder.stale.update(path.removeprefix("/bus/").removesuffix(".sock") for path in paths)

    def gone(self, process: ServerProcess) -> None:
        """A process has ended by itself."""
        self.note(f"{process.name} has ended")
        for slot, current in self.servers.items():
            if current is process:
                self.servers[slot] = None

    # ------------------------------------------------------------------ what happens

    def _act(self) -> None:
        """One thing that somebody does, or that goes wrong."""
        plan = self.plan
        chance = plan.random()
        if self.scenario.faults and chance < 0.25:
            self._in_steps(plan.choice((0, plan.randint(0, 60))), lambda: self._fail(plan.choice(self.scenario.faults)))
        elif chance < 0.6:
            client = plan.choice(self.clients)
            topic = plan.choice(TOPICS)
            client.tell(lambda: client.publish(topic))
        elif chance < 0.85:
            self._server_publishes(1)
        elif chance < 0.95:
            self._subscribe(plan.choice(self.clients))
        else:
            client = plan.choice(self.clients)
            number = plan.randrange(8)
            client.tell(lambda: client.unsubscribe(number))

    def _server_publishes(self, count: int) -> None:
        serving = list(self.serving.values())
        if serving:
            process = self.plan.choice(serving)
            for _ in range(count):
                topic = self.plan.choice(TOPICS)
                process.tell(partial(process.publish, topic))

    def _fail(self, fault: str) -> None:
        plan = self.plan
        serving = list(self.serving.values())
        if self.healing or fault == "race":
            return
        if fault == "kill" and serving:
            self._kill(plan.choice(serving))
        elif fault == "terminate" and serving:
            self._terminate(plan.choice(serving), plan.choice((None, 0.5, 2.0)))
        elif fault == "freeze" and serving:
            self._freeze(plan.choice(serving), plan.choice((0.05, 1.0, 4.0, 8.0)))
        elif fault == "freeze client":
            self._freeze(plan.choice((*self.clients, *self.bare)), plan.choice((0.3, 2.0, 6.0)))
        elif fault == "stall":
            thread = plan.choice(self.machine.threads)
            seconds = plan.choice((0.01, 0.3, 1.5))
            self.note(f"{thread.name} does not go on for {seconds} s")
            thread.held_until = self.machine.clock() + seconds
        elif fault == "burst":
            self._server_publishes(plan.randint(5, 15))
        else:
            self._lose_one(fault)

    def _kill(self, process: ServerProcess) -> None:
        slot = next(slot for slot, current in self.servers.items() if current is process)
        self.note(f"{process.name} is killed")
        process.kill()
        self.servers[slot] = None
        self._died(process)
        self._at(self.machine.clock() + self.plan.choice((0.0, 0.2, 3.0)), lambda: self._start_again(slot))

    def _terminate(self, process: ServerProcess, drain: float | None) -> None:
        slot = next(slot for slot, current in self.servers.items() if current is process)
        self.note(f"{process.name} is terminated")
        process.stopping = True
        self._died(process)
        process.tell(lambda: process.terminate(drain))
        self._at(self.machine.clock() + self.plan.choice((0.0, 1.0, 6.0)), lambda: self._start_again(slot))

    def _died(self, process: ServerProcess) -> None:
        self.deaths.append((self.machine.clock(), process.name))
        self.count_serving()

    def _start_again(self, slot: int) -> None:
        current = self.servers[slot]
        if current is None or current.stopping:
            self._start_server(slot)

    def _freeze(self, process: Process, seconds: float) -> None:
        """SIGSTOP, and later SIGCONT."""
        if not process.dead and not process.frozen:
            self.note(f"{process.name} is frozen for {seconds} s")
            process.frozen = True
            self._at(self.machine.clock() + seconds, lambda: self._thaw(process))

    def _thaw(self, process: Process) -> None:
        if process.frozen:
            process.frozen = False
            self.note(f"{process.name} goes on")

    def _open_connections(self, *, bus: bool) -> list[SimulatedSocket]:
        self._established = [pair for pair in self._established if pair[0].established]
        return [client for client, _ in self._established if self.network.is_local(client.family) is bus]

    def _lose_one(self, fault: str) -> None:
        """A connection is lost: with a reset for both ends ("reset", "bus"), or without a word ("cut")."""
        found = self._open_connections(bus=fault == "bus")
        if found:
            client = self.plan.choice(found)
            self.note(f"the connection {client.fileno()} is lost ({fault})")
            if fault == "cut":
                client.partition()
            else:
                self._reset(client)

    def _reset(self, client: SimulatedSocket) -> None:
        assert client._peer is not None
        client._peer.reset_by_peer()
        client.reset_by_peer()

    def _lose_all(self, host: object) -> None:
        """All connections of a process but those of the bus are lost."""
        layer = getattr(host, "layer", None)
        for client in self._open_connections(bus=False):
            if layer is not None and any(sock in layer.owned.values() for sock in (client, client._peer)):
                self.note(f"the connection {client.fileno()} is lost (race)")
                self._reset(client)

    # ------------------------------------------------------------------ the end

    def _heal(self) -> None:
        """From now on nothing goes wrong."""
        self.note("all is mended")
        self.healing = True
        self.machine.preemption = 0.0
        self._lag = 0.0
        for host in self.machine.hosts:
            host.frozen = False
        for thread in self.machine.threads:
            thread.held_until = 0.0
        for slot in self.servers:
            self._start_again(slot)

    def _last_messages(self) -> None:
        """One to each topic from each process: who has missed something before must know it now."""
        for process in self.serving.values():
            for topic in TOPICS:
                process.tell(partial(process.publish, topic))

    # ------------------------------------------------------------------ what is looked at all the time

    @contextmanager
    def _installed(self) -> Iterator[None]:
        scenario = self.scenario
        logger = logging.getLogger("gows")
        handler = _LogHandler(self)
        propagates, level = logger.propagate, logger.level

        def counted(opcode: int, data: Any, *, rsv1: bool = False) -> bytes:
            thread = self.machine.current
            place = (thread.host.name if thread else "", id(data), rsv1)
            before = self._encoded.get(place)
            if before is not None and before is data:
                self.encoding_faults.append(f"{place[0]} encoded the same message twice: {bytes(data)[:80]!r}")
            self._encoded[place] = data  # kept, so that its id is no other's
            return encode_frame(opcode, data, rsv1=rsv1)

        with ExitStack() as stack:
            for module, name, value in (
                (gows.bus.links, "MAX_QUEUED", scenario.max_queued),
                (gows.brokers.local.sync, "CHUNK", min(256 << 10, scenario.max_queued // 10)),
                (gows.topics.presence, "PART_SIZE", min(256 << 10, scenario.max_queued // 10)),
                (gows.session.fanout, "DELIVERIES_PER_TURN", scenario.deliveries),
                (gows.session.fanout, "MAX_JOINED", min(32, scenario.deliveries // 2)),
                (gows.protocol.prepared, "encode_frame", counted),
            ):
                stack.enter_context(mock.patch.object(module, name, value))
            collecting = gc.isenabled()
            gc.disable()  # it would run finalizers at any moment
            logger.addHandler(handler)
            logger.propagate = False
            logger.setLevel(logging.INFO)
            try:
                with installed(self.machine):
                    yield
            finally:
                logger.removeHandler(handler)
                logger.propagate, level_before = propagates, level
                logger.setLevel(level_before)
                if collecting:
                    gc.enable()


class _RoundAndRound(Exception):
    """A run does not come to an end."""


class _LogHandler(logging.Handler):
    """What gows logs."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__(logging.INFO)
        self._simulation = simulation

    def emit(self, record: logging.LogRecord) -> None:
        simulation = self._simulation
        if simulation.machine.ended:
            return
        thread = simulation.machine.current
        text = re.sub(r"0x[0-9a-f]+", "0x…", record.getMessage())  # an address is another one in each process
        if record.exc_info:
            error = record.exc_info[1]
            last = traceback.extract_tb(record.exc_info[2])[-1]
            text += f": {error!r} at {last.filename.rpartition('/gows/')[2]}:{last.lineno}"
            simulation.raised.append(f"{thread.name if thread else '-'}: {text}")
        simulation.note(f"{thread.name if thread else '-'} logs: {text}")


def simulate(seed: int, *, trace: bool = False, **changes: Any) -> Outcome:
    """Run a seed; see Simulation."""
    return Simulation(seed, trace=trace, **changes).run()


def simulate_bounded(seed: int) -> Outcome:
    """Run a seed in a process made for that. One that hangs ends the process, and says where."""
    assert sys.__stderr__ is not None
    faulthandler.dump_traceback_later(LONGEST, exit=True, file=sys.__stderr__)
    try:
        return simulate(seed)
    except Exception as error:
        raise RuntimeError(f"seed {seed} failed") from error
    finally:
        faulthandler.cancel_dump_traceback_later()
        # None runs within a simulation, and too few would run between two: each leaves some megabytes of cycles.
        gc.collect()
