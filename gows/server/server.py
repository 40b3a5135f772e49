"""Server: pages and WebSockets on one port, in a process of its own or inside one that exists already.

All that a user calls is in this one class, with its documentation, so the file is longer than others; what it does is
in the files that it imports.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import timedelta
from functools import partial
from queue import Empty, SimpleQueue
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeVar

from gows.brokers.base import Done
from gows.brokers.local.broker import LocalBroker
from gows.brokers.lock import PublishLock
from gows.bus.bus import Bus
from gows.codes import Opcode
from gows.debug import DEBUG, check_owned
from gows.errors import HandshakeError, HttpError, LoopClosedError, UsageError
from gows.http.exchange import Exchange
from gows.http.proxies import Proxies
from gows.http.request import Request
from gows.http.router import Router
from gows.http.static import StaticFolder
from gows.http.wsgi import WsgiApp
from gows.options import AcceptOptions, Keep, check_plain_function, check_seconds, default_options
from gows.protocol.connection import to_bytes
from gows.protocol.prepared import PreparedMessage
from gows.reactor import Listener, Loop
from gows.reactor.address import AddressLike, SocketAddress
from gows.reactor.hosting import ASYNCIO_LOOP
from gows.reactor.loop import SIGNAL_INTERVAL
from gows.reactor.networks import Networks
from gows.server.admission import Admission
from gows.server.drain import Drain
from gows.server.gate import Gate
from gows.server.gateway import gateway_of
from gows.server.health import HEALTH_PATHS, health_answer
from gows.server.metrics import PATH as METRICS_PATH
from gows.server.metrics import Metrics
from gows.server.publisher import Publisher
from gows.server.remote import Remote, RemoteConnection
from gows.server.settings import ServerKeywords, server_options, with_server_signature
from gows.server.signals import EndSignals
from gows.session.fanout import Audience, Fanout
from gows.session.overflow import Overflow
from gows.session.receiving import Receiving
from gows.session.traffic import Traffic
from gows.session.websocket import Data, WebSocket
from gows.topics.history import History
from gows.topics.lost import Lost
from gows.topics.names import check_topic
from gows.topics.presence import Member
from gows.topics.publication import Publication
from gows.topics.subscriptions import Subscriptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger("gows")

View = Callable[..., Any]
V = TypeVar("V", bound=View)

NEWS_SHARE = 0.25
"""How much of a turn's deliveries who joins and leaves topics may take: a hall of thousands that fills is millions of
them, and publications do not wait for those."""


MAX_BODY_SIZE = 1 << 20
"""Bytes of a request body that is held whole, unless something else is said."""


class Server:
    """An HTTP and WebSocket server on one loop.

    `listen_and_serve(address)` runs it in the calling thread; `start(address)` in a thread of its own, until `stop()`.
    Addresses: ":8080", "127.0.0.1:8080", "[::1]:8080", "unix:/path/to/socket"; port 0 takes a free one, see
    `addresses`.

    Arguments are the fields of `ServerOptions`, by keyword: `Server(workers=8, max_connections=10_000)`; or one
    ServerOptions, `Server(options=ServerOptions(…))`. `Server(options=AcceptOptions(…))` sets what `accept` goes by.
    Raises TypeError and ValueError for values that cannot be meant, UsageError for an Admission of another server, and
    for `metrics` without prometheus-client.
    """

    @with_server_signature
    def __init__(self, **keywords: Unpack[ServerKeywords]) -> None:
        settings = server_options(keywords)
        self.settings = settings
        self._options = settings.options
        self.ssl_context = settings.ssl_context
        self.max_body_size = MAX_BODY_SIZE if settings.max_body_size is None else settings.max_body_size
        self.max_streamed_size = settings.max_body_size
        self.root_path = settings.root_path
        self.lifespan = settings.lifespan
        self.max_head_size = settings.max_head_size
        self.max_headers = settings.max_headers
        self.head_timeout = settings.head_timeout
        self.body_timeout = settings.body_timeout
        self.keep_alive_timeout = settings.keep_alive_timeout
        self.max_connections = settings.max_connections
        self.admission = settings.admission or Admission()
        if self.admission.attached:
            raise UsageError("an Admission counts for one server; make another")
        self.health = settings.health
        self.router = Router()
        self._wsgi = None if settings.wsgi is None else WsgiApp(settings.wsgi)
        self._own_loop = settings.loop is None
        self.loop = settings.loop or Loop(
            workers=settings.workers, read_buffer_size=self.options.frame_read_buffer_size
        )
        if settings.asyncio_loop != "asyncio":
            self.loop.shared[ASYNCIO_LOOP] = settings.asyncio_loop
        self.admission.attach(self.loop)
        self.overflow = Overflow(self.loop, settings.max_queued)
        """Counts what slow peers did not take; see Overflow."""
        self.receiving = Receiving.of(self.loop)
        """Counts what is held of what peers sent; see Receiving."""
        self.receiving.limit(settings.max_received)
        self._listeners: list[Listener] = []
        self.fanout = Fanout(self.loop)
        self.news = Fanout(self.loop, NEWS_SHARE)
        self.subscriptions = Subscriptions(
            self.loop,
            most=settings.max_topics,
            longest=settings.max_topic_length,
            may_subscribe=settings.may_subscribe,
            may_publish=settings.may_publish,
        )
        self.traffic = Traffic()
        """Counts what its WebSockets receive and send, and how they end; see Traffic."""
        self._metrics = Metrics(self) if settings.metrics else None
        self._metrics_from = Networks(settings.metrics_from)
        self._remote: Remote | None = None
        self._broadcasting = PublishLock()  # so that the order is the same in all processes
        self._broadcasting.guards.append(self.loop.holds_lock)
        self.loop.guard(self._broadcasting.held)
        self.broker = settings.broker or LocalBroker()
        self.publishing = Publisher(
            self.loop,
            self.fanout,
            self.news,
            self.subscriptions,
            History(settings.max_history),
            settings.keep,
            self._broadcasting,
            self.broker,
            settings.presence,
            Lost(self.subscriptions, self.overflow),
        )
        self._asgi = None if settings.asgi is None else gateway_of(settings.asgi, self)
        self._started = self._asgi is None  # before its application has, nothing is accepted
        self._gate = Gate(self, self._listeners)
        self._stop_lock = threading.Lock()  # of who starts or stops
        self._stopper: int | None = None  # the thread that has it
        self._leaving = False  # whoever sends work here is to look elsewhere
        self._stopping = False
        self._ended: SimpleQueue[None] = SimpleQueue()  # its put may be called in a signal handler, an Event's set not
        self._stopped = False

    @property
    def options(self) -> AcceptOptions:
        """What `accept` goes by when it is given no options: the server's own, else `gows.default_options()`."""
        return self._options or default_options()

    # ------------------------------------------------------------------ what is served

    def route(self, pattern: str, methods: Iterable[str] = ("GET",)) -> Callable[[V], V]:
        """Decorate a view: it answers requests for `pattern` ("/", "/room/{name}", "/files/{rest:path}").

        A view takes the Request and, by name, the pattern's parameters. It returns a Response, or a str (HTML), bytes,
        dict or list (JSON); or it upgrades the connection with `gows.accept(request)` and returns nothing.

        Views run on the worker pool. One that is an `async def` runs in the loop's thread, and must not block; it is
        not cancelled when the client goes away, only by a stop after its timeout. Where a body of pieces is asked for
        its pieces does not change: on the pool.
        """

        def register(view: V) -> V:
            self.add_route(pattern, view, methods)
            return view

        return register

    def add_route(self, pattern: str, view: View, methods: Iterable[str] = ("GET",)) -> None:
        """`route` without the decorator. Raises ValueError when the pattern is malformed or taken."""
        self.router.add(pattern, view, methods)

    def static(self, prefix: str, folder: str) -> None:
        """Serve the files below `folder` under the path `prefix`. Raises ValueError when it is no folder."""
        StaticFolder(prefix, folder).register(self.router)

    @property
    def proxies(self) -> Proxies | None:
        """The proxies that are believed; None: none are."""
        return self.admission.proxies

    def handle(self, request: Request) -> Any:
        """Answer one request: its route, else the WSGI application, else 404 or 405. None: it became a WebSocket.
        Worker thread, or the loop's if it `answers_at_once`."""
        if self._asks_for_health(request):
            return health_answer(request, ready=not self._leaving)
        if self._metrics is not None and self._asks_for_metrics(request):
            return self._metrics.answer(request)
        view: View
        try:
            view, request.path_params = self.router.match(request.method, request.path)
        except HttpError as error:
            if self._wsgi is None or error.status != 404:
                raise
            view = self._wsgi
        try:
            result = view(request, **request.path_params)
        except HandshakeError as error:
            self.traffic.refused(error.status)
            raise
        return self._awaited(result) if isinstance(result, (CoroutineType, Coroutine)) else result

    async def _awaited(self, view: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await view
        except HandshakeError as error:
            self.traffic.refused(error.status)
            raise

    def _asks_for_metrics(self, request: Request) -> bool:
        return request.path == METRICS_PATH and request.remote_addr in self._metrics_from

    @property
    def streams(self) -> bool:
        """Whether there is an ASGI application, which answers a request while its body comes."""
        return self._asgi is not None

    def exchange(self, request: Request) -> Exchange | None:
        """Return what answers a request with the ASGI application; None: `handle` does, for the path has a route, or
        is one of our own. Raises HttpError. Loop thread."""
        if self._asgi is None or self._asks_for_health(request):
            return None
        if self._metrics is not None and self._asks_for_metrics(request):
            return None
        if self.router.empty or not self.router.knows(request.method, request.path):
            return self._asgi.exchange(request)
        return None

    def answers_at_once(self, request: Request) -> bool:
        """Return whether the loop calls `handle` itself: for a coroutine, and for our health, so that workers that are
        all busy do not make the process look dead. Loop thread."""
        return self._asks_for_health(request) or self.router.is_coroutine(request.method, request.path)

    def _asks_for_health(self, request: Request) -> bool:
        return self.health and request.path in HEALTH_PATHS

    # ------------------------------------------------------------------ running

    @property
    def addresses(self) -> list[SocketAddress]:
        """The bound addresses, with the real port where 0 was asked."""
        return [listener.address for listener in self._listeners]

    @property
    def connections(self) -> list[WebSocket | RemoteConnection]:
        """The open WebSockets of this server, as of now: first this process's own, then, when there are others, theirs,
        as RemoteConnections. Those are asked for them, which takes some milliseconds, and a second at most; so with
        `workers=0` not in a callback. Any thread."""
        own: list[WebSocket | RemoteConnection] = [*Audience(self.loop, self).members()]
        return own if self._remote is None else [*own, *self._remote.connections()]

    def connection_count(self) -> int:
        """Return how many open WebSockets there are, in all processes. Asks the others as `connections`, for a number
        only."""
        own = len(Audience(self.loop, self).members())
        return own if self._remote is None else own + self._remote.count()

    @property
    def bus(self) -> Bus | None:
        """What joins this server's processes; None in a process of its own."""
        return None if self._remote is None else self._remote.bus

    def join(self, bus: Bus) -> None:
        """Be one of several processes: `broadcast`, `publish`, `topics`, `connections` and the counts reach all of
        them. Before `start()`, which starts the bus if that was not done; the server does not close it. UsageError for
        a second bus.
        """
        if self._remote is not None:
            raise UsageError("this server is on a bus already")
        self._remote = Remote(bus, self.loop, self, self.fanout, self.subscriptions, self.publishing)
        self.broker.join(bus)
        if self._metrics is not None:
            self._metrics.join(bus)

    def broadcast(
        self,
        data: str | Data,
        opcode: Opcode | int | None = None,
        *,
        group: str | None = None,
        exclude: WebSocket | RemoteConnection | None = None,
        compress: bool = True,
        key: Hashable = None,
    ) -> None:
        """Send one message to every open WebSocket of this server, in all its processes. Any thread; never blocks.

        `data`: a str goes as TEXT, bytes as BINARY unless `opcode` says TEXT (ValueError when they are not UTF-8).
        `group`: only to connections accepted with `AcceptOptions(group=…)`. `exclude`: not to this one. `key`: as for
        `ws.write_string`; with other processes a str, a number, bytes, or a tuple of these (else TypeError). What a
        process broadcasts reaches everybody in that order, some turns of the loop later; what is written to a single
        connection may overtake it. A connection over its high-water mark is treated by its overflow policy; with
        "refuse" it misses the message. Raises ValueError for more than 16 MiB when there are other processes,
        QueueFullError (and sends nothing) when 64 MiB of broadcasts wait for their turn, LoopClosedError once stopped.
        """
        if opcode is None:
            opcode = Opcode.TEXT if isinstance(data, str) else Opcode.BINARY
        message = PreparedMessage(opcode, data.encode() if isinstance(data, str) else to_bytes(data), compress, key)
        if self._broadcasting.held():  # this call came amid another one, by a finaliser or a signal handler
            self.fanout.check(message)
            self._broadcasting.before_release(self._broadcast_locked, message, group, exclude)
        elif self._broadcasting.enter(self._broadcast_locked, message, group, exclude):
            try:
                self._broadcast_locked(message, group, exclude)
            finally:
                self._broadcasting.__exit__()

    def _broadcast_locked(
        self, message: PreparedMessage, group: str | None, exclude: WebSocket | RemoteConnection | None
    ) -> None:
        """Send a message to the connections of all processes."""
        if DEBUG:
            check_owned(self._broadcasting)
        self.fanout.check(message)
        if self._remote is not None:
            self._remote.broadcast(message, group, exclude)
        own = exclude if isinstance(exclude, WebSocket) else None
        self.fanout.send(message, Audience(self.loop, self, group), own)

    def publish(
        self,
        topic: str,
        data: object,
        opcode: Opcode | int | None = None,
        *,
        exclude: WebSocket | RemoteConnection | None = None,
        key: str | int | None = None,
        ttl: float | None = None,
        history: Keep | int | timedelta | None = None,
        compress: bool = True,
        done: Done | None = None,
    ) -> None:
        """Send one message to every WebSocket of this server that has subscribed to `topic` (`ws.subscribe`), in all
        its processes. Any thread; never blocks.

        Each gets it once, however many of its subscriptions match. What one process publishes arrives in that order,
        but what is kept may overtake messages of other topics. `data`: text (str), bytes, or what JSON can write.
        `opcode`, `exclude`, `key`: as for `broadcast`, and so is what happens to connections that do not read. `ttl`:
        seconds after which it is put on no connection's queue any more. `history`: keep it, and so many of the topic
        (an int), those of so long (a timedelta), or both (a Keep), for clients of gows.v1 that come back; None: as
        `Server(keep=…)` says; 0: not at all. Who has agreed on gows.v1 gets it as a message of that. Raises ValueError
        for what is no topic, and as `broadcast`.
        """
        check_topic(topic, self.subscriptions.longest)
        if done is not None:
            check_plain_function("done", done)
        if ttl is not None:
            check_seconds("ttl", ttl)
        expires = math.inf if ttl is None else self.loop.time() + ttl
        publication = Publication(topic, data, opcode, compress=compress, key=key, expires=expires)
        excluded = (exclude.process, exclude.number) if isinstance(exclude, RemoteConnection) else exclude
        self.publishing.publish(publication, ttl, history, excluded, done)

    def recheck(self, ws: WebSocket | None = None) -> int:
        """Ask `may_subscribe` again for all that `ws` is subscribed to, or all connections of this process, after
        rights have changed. What is not allowed any more ends, and clients of gows.v1 are told that. Returns how many
        subscriptions ended. Any thread, which calls `may_subscribe`."""
        connections = self.subscriptions.connections() if ws is None else [ws]
        return sum(map(self.publishing.recheck, connections))

    def members(self, topic: str) -> list[Member]:
        """Return who has subscribed to `topic`, in all processes, of those whom `presence` describes: `id` and `info`
        of each. What other processes tell of theirs is here already: nobody is asked. Any thread."""
        check_topic(topic, self.subscriptions.longest)
        return self.publishing.members(topic)

    def topics(self) -> dict[str, int]:
        """Return what connections of this server have subscribed to, patterns too, and how many to just that; in all
        its processes, the others of which have a second to answer. Any thread but the bus's."""
        counts = Counter(self.subscriptions.counts())
        if self._remote is not None:
            counts.update(self._remote.topics())
        return dict(counts)

    def subscriber_count(self, topic: str) -> int:
        """Return how many connections, in all processes, would get a message that is published to `topic` now. Asks the
        others as `topics` does."""
        check_topic(topic, self.subscriptions.longest)
        others = 0 if self._remote is None else self._remote.subscribers(topic)
        return self.subscriptions.count(topic) + others

    def listen(
        self,
        address: AddressLike | socket.SocketType,
        *,
        proxy_protocol: bool | str | None = None,
        backlog: int = 4096,
        reuse_port: bool = False,
        mode: int | None = None,
    ) -> SocketAddress:
        """Bind and listen; accepting begins when the server runs. Returns the bound address. Raises OSError, saying
        which address.

        `address` may be a socket that listens already, which is taken over: of systemd, say, or of `gows.run`.
        `proxy_protocol`: as in Admission, for this address alone. `backlog`, `reuse_port`, `mode`: as of
        `Loop.listen`."""
        return self.add_listener(
            address, proxy_protocol=proxy_protocol, backlog=backlog, reuse_port=reuse_port, mode=mode
        ).address

    def add_listener(
        self,
        address: AddressLike | socket.SocketType,
        *,
        proxy_protocol: bool | str | None = None,
        backlog: int = 4096,
        reuse_port: bool = False,
        mode: int | None = None,
    ) -> Listener:
        """Listen, as `listen` does. Returns what `drop_listener` takes."""
        if self._stopping:
            raise UsageError("this server was stopped")
        admission = self.admission
        versions = admission.proxy_versions(admission.proxy_protocol if proxy_protocol is None else proxy_protocol)
        accepted = partial(self._gate.admit_from_proxy, versions) if versions else self._gate.admit
        listener = self.loop.listen(
            address,
            accepted,
            backlog=backlog,
            ssl_context=self.ssl_context,
            defer_tls=bool(versions),
            reuse_port=reuse_port,
            mode=mode,
        )
        self._listeners.append(listener)
        if not self._started:
            listener.pause()
        return listener

    def drop_listener(self, listener: Listener) -> None:
        """Accept no more there. What waits in the kernel's queue is for others who hold the socket, if there are any.
        Connections live on. Any thread."""
        listener.close()
        self.loop.run_soon(self._listeners.remove, listener)

    def start(self, address: AddressLike | socket.SocketType | None = None) -> None:
        """Serve in a thread of its own; returns when the port is open. Any thread. Raises OSError when the address
        cannot be had, LoopClosedError once the server was stopped.

        An ASGI application starts up before the port is opened. StartupError if it cannot; the server is stopped then,
        and it is, too, if the address cannot be had."""
        if address is not None and self._started:
            self.listen(address)
            address = None
        with self._starting_or_stopping():
            if self._stopping:
                raise LoopClosedError("this server was stopped")
            if self._remote is not None:
                self._remote.bus.start()
            self.broker.start()
            if self._own_loop and not self.loop.running:
                self.loop.start()
        if self._stopping and self._stopper is None:  # a signal handler amid that called stop()
            self.stop()
        elif not self._started:
            try:
                self._start_application(address)
            except BaseException:
                self.stop(0.0)
                raise

    def _start_application(self, address: AddressLike | socket.SocketType | None) -> None:
        """Start the ASGI application, and accept from then on."""
        assert self._asgi is not None
        with self._starting_or_stopping():
            self._asgi.start_up(lambda: self._leaving)
            self._started = True
        if address is not None:
            self.listen(address)
        for listener in self._listeners:
            listener.resume()

    def listen_and_serve(
        self,
        address: AddressLike | socket.SocketType | None = None,
        *,
        ready: Callable[[], object] | None = None,
        timeout: float = 5.0,
        drain: float | None = None,
        not_ready: float | None = None,
    ) -> None:
        """Serve in this thread until `stop()` is called, or, in the main thread, SIGINT or SIGTERM comes.

        A signal ends it as `stop(timeout, drain=drain, not_ready=not_ready)` does, a second one at once. `ready()` is
        called once connections are accepted and a signal would end it in order: the place to print the address. Raises
        OSError when the address cannot be had.
        """
        check_seconds("timeout", timeout, optional=False)
        check_seconds("drain", drain)
        check_seconds("not_ready", not_ready)
        if ready is not None:
            check_plain_function("ready", ready)
        with EndSignals(self._signalled) as signals:
            try:
                self.start(address)
            except LoopClosedError:
                if self._stopping:  # another thread was faster
                    return
                raise
            if ready is not None:
                ready()
            while not (signals.came or self._stopping):
                try:  # not for ever: the kernel may give a signal to another thread, which does not wake this one
                    self._ended.get(timeout=SIGNAL_INTERVAL)
                except Empty:
                    pass
            self.stop(timeout, drain=drain, not_ready=not_ready)

    def serve(
        self,
        address: AddressLike | socket.SocketType | None = None,
        *,
        timeout: float = 5.0,
        drain: float | None = None,
        not_ready: float | None = None,
    ) -> AbstractAsyncContextManager[Server]:
        """Serve inside the running asyncio loop, as long as a block lasts: `async with server.serve(":8080"): …`. There
        is no second thread but the workers: the asyncio loop, its own or uvloop, turns the server's loop.

        Leaving the block stops the server as `stop(timeout, drain=drain, not_ready=not_ready)` does, also when the task
        is cancelled. Coroutines of callbacks that have not ended then are cancelled. Entering it raises OSError when
        the address cannot be had, UsageError when the server runs already, or has a poller that asyncio cannot watch.
        """
        from gows.server.serving import Serving  # imports asyncio, which not every program has

        check_seconds("drain", drain)
        check_seconds("not_ready", not_ready)
        listen: Callable[[], object] = bool
        start = partial(self.start, address)
        if address is not None and self._started:  # here and now, where it can be had or not
            listen, start = partial(self.listen, address), partial(self.start)
        return Serving(self, listen, start, partial(self.stop, timeout, drain=drain, not_ready=not_ready))

    @property
    def draining(self) -> bool:
        """Whether the end has begun: true from the first moment of `stop()`, or the end of its `not_ready`. Each HTTP
        answer says `Connection: close` from then on. Any thread."""
        return self._stopping

    def stop(self, timeout: float = 5.0, *, drain: float | None = None, not_ready: float | None = None) -> None:
        """Stop listening, close every WebSocket with 1001, wait up to `timeout` seconds for that, then end the loop.

        With `drain`, WebSockets are closed with 1012 at an even pace over so many seconds, in random order, so that
        clients do not come back all at once. What they had sent is handled and answered before. HTTP connections end
        with their next answer, idle ones last. The `timeout` begins after that. It ends earlier when nothing is left.

        With `not_ready`, `/-/ready` answers 503 for so many seconds before all that, and nothing else changes: time for
        load balancers to notice, and send new connections elsewhere. Another `stop()` cuts it short.

        Any thread but the loop's and its workers' (UsageError), signal handlers too; idempotent. When it returns,
        `on_close` of every handler has been called, unless a callback was still blocking after the timeout. With
        `workers=0` such a callback blocks the loop itself: TimeoutError, and stop() may be called again.
        """
        if self.loop.in_loop() or self.loop.pool.in_worker():
            raise UsageError("stop() would wait for the thread it is called in; call it in another")
        check_seconds("drain", drain)
        check_seconds("not_ready", not_ready)
        self._leaving = True
        until = time.monotonic() + (not_ready or 0.0)
        while not self._stopping and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))
        self._end()
        if self._stopper == threading.get_ident():  # a signal handler amid start() or stop(), which goes on with it
            return
        with self._starting_or_stopping():
            if self._stopped:
                return
            if self._metrics is not None:
                self._metrics.close()
            deadline = time.monotonic() + (drain or 0.0) + timeout
            if self.loop.running:
                self._drain(Drain(self.loop, self, self._listeners, drain, timeout), deadline)
                if self._asgi is not None:
                    self._asgi.shut_down(max(1.0, deadline - time.monotonic()))
            self.broker.close()
            if self._own_loop:
                self.loop.close(max(1.0, deadline - time.monotonic()))
            self.admission.detach()
            self._stopped = True

    @contextmanager
    def _starting_or_stopping(self) -> Iterator[None]:
        """Let one thread at a time start or stop, and only once: a signal handler may come amid it and call
        `stop()`."""
        with self._stop_lock:
            self._stopper = threading.get_ident()
            try:
                yield
            finally:
                self._stopper = None

    def _drain(self, drain: Drain, deadline: float) -> None:
        """Close what is open, in order, and wait for the end of it."""
        self.loop.call_soon(drain.begin)
        while not drain.finished.wait(0.1) and self.loop.running and time.monotonic() < deadline + 1.0:
            pass  # a loop that was told to end by an earlier stop() does not call us any more

    def _signalled(self) -> None:
        """Stop, for SIGINT or SIGTERM came. Called in a signal handler."""
        self._leaving = True
        self._ended.put(None)

    def _end(self) -> None:
        """`listen_and_serve` is to return."""
        self._leaving = self._stopping = True
        self._ended.put(None)
