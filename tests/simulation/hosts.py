"""The processes of a simulation: servers, and clients of theirs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gows
from gows.bus.bus import Bus
from gows.reactor import Loop
from gows.reactor import loop as loop_module
from tests.simulation.machine import Host, SimpleQueue
from tests.simulation.network import HostLayer, SimulatedPoller

if TYPE_CHECKING:
    from tests.simulation.run import Simulation

ADDRESS = ("10.0.0.1", 80)
URL = "ws://10.0.0.1:80"

Data = dict[str, Any]


class Process(Host):
    """A process whose main thread does what it is told, one thing after the other."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        super().__init__(simulation.machine, name)
        self.simulation = simulation
        self.layer = HostLayer(simulation.network, self)
        self.loops: list[Loop] = []
        self.orders = SimpleQueue()

    def start(self) -> None:
        """Have its main thread begin."""
        self.thread("main", self._main)

    def tell(self, order: Callable[[], object]) -> None:
        """Have its main thread do something, when it comes to that."""
        self.orders.put(order)

    def make_loop(self, workers: int, **settings: Any) -> Loop:
        loop = Loop(
            poller=SimulatedPoller(self.simulation.network),
            clock=self.machine.clock,
            sockets=self.layer,
            workers=workers,
            **settings,
        )
        self.loops.append(loop)
        return loop

    def kill(self) -> None:
        """SIGKILL."""
        self.machine.bury(self)
        self.simulation.leave_files(self.layer.die())
        self._forget_loops()

    def _forget_loops(self) -> None:
        for loop in self.loops:
            loop._closed = True  # the kernel has closed what it had
            loop_module._live.discard(loop)

    def _begin(self) -> None:
        raise NotImplementedError

    def _main(self) -> None:
        self._begin()
        while not self.dead:
            self.orders.get()()


class ServerProcess(Process):
    """A worker of `gows.run`, as far as topics are concerned."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        super().__init__(simulation, name)
        self.server: gows.Server
        self.bus: Bus
        self.ready = False
        self.stopping = False
        self.met: set[str] = set()  # the others that hear it, and that it hears
        self._numbers = itertools.count(1)

    def _begin(self) -> None:
        simulation, scenario = self.simulation, self.simulation.scenario
        self.loop = self.make_loop(2)
        bus_loop = self.make_loop(0)
        self.server = gows.Server(
            loop=self.loop,
            keep=scenario.keep,
            may_subscribe=lambda ws, topic: True,
            may_publish=lambda ws, topic: True,
            presence=lambda ws, topic: {"in": topic} if topic.startswith("room.") else None,
        )
        options = gows.AcceptOptions(
            check_origin=lambda request: True,
            high_water=scenario.high_water,
            low_water=scenario.high_water // 4,
            overflow=scenario.overflow,
            write_timeout=5.0,
            compression=scenario.compression,
            min_compress_size=64,
            **PINGS,
        )
        gows.serve_topics(self.server, "/live", options=options, make_handler=lambda request: _Stamps(self))
        for policy in ("drop", "latest"):
            self.server.add_route(f"/{policy}", self._bare_route(policy))
        self.bus = Bus(simulation.folder, self.name, loop=bus_loop)
        self.server.join(self.bus)
        self.bus.on_up.append(self._meet)
        self.bus.on_down.append(self._part)
        self.server.listen(ADDRESS)
        bus_loop.start("gows-bus")
        self.server.start()
        self.loop.start("gows-loop")
        self.ready = True
        simulation.count_serving()
        simulation.note(f"{self.name} serves")

    def _meet(self, name: str) -> None:
        self.met.add(name)
        self.simulation.note(f"{self.name} has met {name}")
        self.simulation.count_serving()

    def _part(self, name: str) -> None:
        self.met.discard(name)
        self.simulation.note(f"{self.name} hears {name} no more")
        self.simulation.count_serving()

    def _bare_route(self, policy: str) -> Callable[[gows.Request], None]:
        options = gows.AcceptOptions(
            check_origin=lambda request: True,
            high_water=self.simulation.scenario.high_water,
            low_water=self.simulation.scenario.high_water // 4,
            overflow=policy,
            **PINGS,
        )

        def view(request: gows.Request) -> None:
            gows.accept(request, options).serve(_Bare(self))

        return view

    def stamp(self) -> int:
        """A number for a connection."""
        return next(self._numbers)

    def publish(self, topic: str, **settings: Any) -> None:
        """Publish a message of the program's own."""
        log = self.simulation.log
        message = log.publish(f"{self.name}/main", topic)

        def done(error: Exception | None) -> None:
            if error is None:
                log.acknowledge(message)
            else:
                log.refuse(message, error)

        if self.stopping:
            return
        try:
            self.server.publish(topic, message.data, done=done, key=message.key, **settings)
        except gows.GowsError as error:
            log.refuse(message, error)

    def terminate(self, drain: float | None) -> None:
        """SIGTERM: as a worker of `gows.run` ends."""
        self.stopping = True
        self.server.stop(2.0, drain=drain)
        self.bus.close()
        for loop in self.loops:
            loop.close()
        self.simulation.leave_files(self.layer.die())
        self.simulation.gone(self)
        self._forget_loops()


class _Stamps(gows.TopicHandler):
    """Says of each message which connection it came by, and as which."""

    __slots__ = ("_host", "_name", "_seq")

    def __init__(self, host: ServerProcess) -> None:
        self._host = host
        self._name = f"{host.name}/{host.stamp()}"
        self._seq = 0

    def on_publish(self, ws: gows.WebSocket, topic: str, data: Any) -> Any:
        self._seq += 1
        return {**data, "via": self._name, "seq": self._seq}


class _Bare(gows.Handler):
    """Subscribes to what a client says, in plain words."""

    __slots__ = ("_host",)

    def __init__(self, host: ServerProcess) -> None:
        self._host = host

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        topic = buff.get_string()
        try:
            ws.subscribe(topic)
        except gows.ConnectionClosedError:
            return
        ws.write_json({"host": self._host.name, "subscribed": topic})


PINGS: dict[str, Any] = {"ping_interval": 5.0, "ping_timeout": 2.0, "close_timeout": 2.0}


class ClientProcess(Process):
    """A program with a TopicClient."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        super().__init__(simulation, name)
        self.topics: gows.TopicClient | None = None
        self.subscriptions: list[tuple[Any, Any]] = []  # ours, and what it was told
        self.futures: list[tuple[str, Any]] = []
        self.closed = False

    def _begin(self) -> None:
        self.loop = self.make_loop(1, read_buffer_size=self.simulation.scenario.client_reads)
        self.loop.start("gows-loop")
        options = gows.AcceptOptions(compression=self.simulation.scenario.compression, **PINGS)
        while self.topics is None:
            try:
                self.topics = gows.TopicClient(
                    URL + "/live",
                    reconnect=gows.Reconnect(initial=0.2, maximum=2.0),
                    proxy=None,
                    options=options,
                    timeout=3.0,
                    loop=self.loop,
                )
            except gows.GowsError as error:
                self.simulation.note(f"{self.name}: {error}")
                self.machine.wait(0.5)
        self.simulation.note(f"{self.name} is connected")

    def subscribe(self, pattern: str, history: int | None, present: bool) -> None:
        if self.topics is None or self.closed:
            return
        told = self.simulation.log.subscription(self.name, pattern)
        told.wants_members = present
        subscription = self.topics.subscribe(
            pattern,
            lambda data, topic: told.message(topic, data),
            lambda topic: told.lost(topic),
            history=history,
            present=told.present if present else None,
        )
        subscription.ready.add_done_callback(told.is_ready)
        self.futures.append((f"ready of {pattern}", subscription.ready))
        self.subscriptions.append((subscription, told))

    def unsubscribe(self, number: int) -> None:
        if self.subscriptions and not self.closed:
            subscription, told = self.subscriptions.pop(number % len(self.subscriptions))
            told.end(asked=self._asks(subscription))
            if told.asked:
                self.simulation.note(f"{told} ends, and has not been told what it missed")
            subscription.end()

    def _asks(self, subscription: gows.TopicSubscription) -> bool:
        """Return whether the server, or the next one, is still to answer that a subscription goes on."""
        assert self.topics is not None
        cursors = self.topics._cursors.get(subscription.pattern, ())
        return self.topics._ws is None or any(
            cursor.asking for cursor in cursors if subscription in cursor.subscriptions
        )

    def publish(self, topic: str) -> None:
        if self.topics is None or self.closed:
            return
        log = self.simulation.log
        message = log.publish(self.name, topic, own=self.name)
        future = self.topics.publish(topic, message.data)
        self.futures.append((f"publish {message.id}", future))

        def answered(answer: Any) -> None:
            if answer.cancelled() or answer.exception() is not None:
                log.refuse(message, answer.exception())
            else:
                log.acknowledge(message)

        future.add_done_callback(answered)

    def close(self) -> None:
        if self.topics is not None:
            self.closed = True
            for _, told in self.subscriptions:
                told.end()
            self.topics.close()


class BareProcess(Process):
    """A program with a plain WebSocket, on whose behalf the server subscribes. It comes back, too."""

    def __init__(self, simulation: Simulation, name: str, policy: str, topics: list[str]) -> None:
        super().__init__(simulation, name)
        self.policy = policy
        self.wanted = topics
        self.connections = 0
        self.client: Any = None

    def _begin(self) -> None:
        self.loop = self.make_loop(1, read_buffer_size=self.simulation.scenario.client_reads)
        self.loop.start("gows-loop")
        self.client = gows.connect(
            f"{URL}/{self.policy}",
            _Listens(self),
            options=gows.AcceptOptions(**PINGS),
            reconnect=gows.Reconnect(initial=0.2, maximum=2.0),
            proxy=None,
            wait=False,
            timeout=3.0,
            loop=self.loop,
        )

    def close(self) -> None:
        if self.client is not None:
            self.client.stop()


class _Listens(gows.Handler):
    """One connection after the other of a BareProcess."""

    def __init__(self, process: BareProcess) -> None:
        self._process = process
        self._told: Any = None

    def on_open(self, ws: gows.WebSocket) -> None:
        process = self._process
        process.connections += 1
        self._told = process.simulation.log.connection(f"{process.name}/{process.connections}", process.policy)
        for topic in process.wanted:
            ws.write_string(topic)

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        data = json.loads(buff.get_string())
        if "host" in data:
            self._told.host = data["host"]
            self._told.since[data["subscribed"]] = self._process.simulation.log.now()
        else:
            self._told.message(data["topic"], data)

    def on_close(self, ws: gows.WebSocket) -> None:
        if self._told is not None:
            self._told.end()
