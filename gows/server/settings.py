"""ServerOptions: what may be set of a server, with the defaults, checked when it is set."""

from __future__ import annotations

import inspect
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any, TypedDict, TypeVar

from gows.brokers.base import Broker
from gows.errors import UsageError
from gows.http.wsgi import check_wsgi
from gows.options import AcceptOptions, check_function, check_plain_function, check_seconds
from gows.reactor import Loop
from gows.reactor.networks import NetworkLike, Networks
from gows.server.admission import Admission
from gows.server.gateway import AsgiCallable, check_asgi
from gows.server.metrics import NEIGHBOURS
from gows.server.publisher import KeepRule
from gows.session.receiving import MAX_RECEIVED
from gows.topics.history import MAX_HISTORY
from gows.topics.names import MAX_LENGTH
from gows.topics.presence import Describe
from gows.topics.subscriptions import MAX_TOPICS, May

ASYNCIO_LOOPS = ("asyncio", "uvloop")

LIFESPANS = ("auto", "on", "off")

Init = TypeVar("Init", bound=Callable[..., None])


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The settings of a `gows.Server`: `Server(options=ServerOptions(workers=8))` is `Server(workers=8)`.

    Sizes are bytes, times are seconds. Raises TypeError and ValueError for values that cannot be meant. An `admission`,
    a `broker` and a `loop` belong to one server, so options that hold one of them make one server.
    """

    workers: int = 4
    """Threads that run routes and callbacks; 0 runs them in the loop's thread, where they must not block. Default 4."""
    options: AcceptOptions | None = None
    """What `accept` goes by in routes of this server if it is given none. Default None: `gows.default_options()`."""
    wsgi: Callable[..., Iterable[bytes]] | None = None
    """The WSGI application that answers what no route does. Default None: there is none, and the answer is 404."""
    asgi: AsgiCallable | None = None
    """The ASGI 3 application that answers what no route does, in the loop's thread; not beside `wsgi`. Default None:
    there is none."""
    root_path: str = ""
    """The path under which clients see the ASGI application, if a proxy in front removes it: "/api". It is put before
    `path`, and is the scope's `root_path`. Default "": there is none."""
    lifespan: str = "auto"
    """Whether the ASGI application is told of the start and the end of the server. "auto": unless it raises when it is
    called for that; "on": that is a StartupError; "off": it is not. Default "auto"."""
    ssl_context: ssl.SSLContext | None = None
    """A server-side context: everything is served over TLS. Default None: nothing is."""
    max_body_size: int | None = None
    """Bytes of a request body; larger ones get 413. Default None: 1 MiB, and any size for an ASGI application, which
    reads a body while it comes."""
    max_head_size: int = 16384
    """Bytes of a request line with its header fields; larger ones get 431. Default 16 KiB."""
    max_headers: int = 100
    """Header fields of a request; more get 431. Default 100."""
    head_timeout: float = 10.0
    """Seconds in which a request head must be complete, TLS handshake included; 408 after that. Default 10."""
    body_timeout: float = 60.0
    """Seconds in which a request body must be complete; 408 after that. One that an ASGI application reads may take
    longer: the next 64 KiB of it must come in that time. Default 60."""
    keep_alive_timeout: float = 75.0
    """Seconds in which the next request must begin on a connection that is kept open. Default 75."""
    max_connections: int | None = None
    """Open connections; more get 503. Default None: as many as there are descriptors; near that limit, new ones
    wait."""
    max_queued: int | None = None
    """Bytes that may wait for slow peers, of all connections together; more meets `AcceptOptions.overflow`. Default
    None: no limit."""
    max_received: int | None = MAX_RECEIVED
    """Bytes that may be held of what clients sent, unfinished or waiting, of all connections of the loop together. Over
    it, the connections that hold the most are not read from. None: no limit. Default 64 MiB."""
    admission: Admission | None = None
    """Who may connect: caps per client, a rate, trusted proxies, the descriptor reserve. Default None: everybody."""
    health: bool = False
    """Whether `/-/live` and `/-/ready` are answered before any route. Default False; `gows.run` sets it."""
    metrics: bool = False
    """Whether `/-/metrics` is answered before any route, for Prometheus; needs `gows[metrics]`. Default False."""
    metrics_from: Iterable[NetworkLike] = NEIGHBOURS
    """The networks whose hosts may ask for metrics; others get 404. Default: this machine and private networks."""
    max_topics: int = MAX_TOPICS
    """Subscriptions of one connection. Default 128."""
    max_topic_length: int = MAX_LENGTH
    """Characters of a topic's name. Default 255."""
    may_subscribe: May | None = None
    """`may_subscribe(ws, topic)`: return whether a client may subscribe, True or False; anything else is a no, and is
    logged. Called in the thread that asks; see `Server.recheck` for rights that change. It may be an `async def`, for
    which requests of gows.v1 wait; `ws.subscribe` and `recheck` raise UsageError then. Default None: everybody may."""
    may_publish: May | None = None
    """`may_publish(ws, topic)`: the same for `ws.publish`. It may be an `async def`, too. Default None: everybody
    may."""
    keep: KeepRule | None = None
    """`keep(topic)`: return how much of a topic is kept for clients that come back, as `publish(history=…)` takes it.
    Default None: nothing is."""
    max_history: int = MAX_HISTORY
    """Bytes that a process keeps of all topics. Default 64 MiB."""
    presence: Describe | None = None
    """`presence(ws, topic)`: return what others in a topic learn of a connection that subscribes to it, something that
    JSON can write; None: it is not listed. See `Server.members`. It may be an `async def`, as `may_subscribe`. Default
    None: nobody is listed."""
    broker: Broker | None = None
    """How publications reach other processes and machines, such as a `gows.brokers.redis.RedisBroker`. Default None:
    they reach the processes of `gows.run`."""
    loop: Loop | None = None
    """A loop made by the caller, with a selector, clock or sockets of its own; the server does not close it. Default
    None: the server makes one."""
    asyncio_loop: str = "asyncio"
    """Whose asyncio loop runs coroutines in the server's thread, "asyncio" or "uvloop", which needs `gows[uvloop]`.
    `Server.serve` is run by the loop that it is called in, whatever this says. Default asyncio."""

    def __post_init__(self) -> None:
        _check_instance("options", self.options, AcceptOptions)
        _check_instance("ssl_context", self.ssl_context, ssl.SSLContext)
        _check_instance("admission", self.admission, Admission)
        _check_instance("broker", self.broker, Broker)
        for name in ("may_subscribe", "may_publish", "presence"):
            function = getattr(self, name)
            if function is not None:
                check_function(name, function)
        if self.keep is not None:
            check_plain_function("keep", self.keep)
        if self.wsgi is not None:
            check_wsgi(self.wsgi)
        if self.asgi is not None:
            check_asgi(self.asgi)
            if self.wsgi is not None:
                raise ValueError("asgi and wsgi are two applications for the same requests; give one of them")
        _check_root_path(self.root_path)
        if self.lifespan not in LIFESPANS:
            raise ValueError(f"lifespan must be one of {', '.join(LIFESPANS)}, not {self.lifespan!r}")
        for name in ("head_timeout", "body_timeout", "keep_alive_timeout"):
            check_seconds(name, getattr(self, name), optional=False)
        for name, least in (("workers", 0), ("max_head_size", 1), ("max_headers", 0)):
            _check_int(name, getattr(self, name), least)
        for name, least in (("max_body_size", 0), ("max_connections", 0), ("max_queued", 1), ("max_received", 1)):
            _check_int(name, getattr(self, name), least, optional=True)
        for name, least in (("max_topics", 1), ("max_topic_length", 1), ("max_history", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be an int of {least} or more, not {value!r}")
        if not isinstance(self.metrics_from, str):  # which Networks refuses
            object.__setattr__(self, "metrics_from", tuple(self.metrics_from))
        Networks(self.metrics_from)
        if self.asyncio_loop not in ASYNCIO_LOOPS:
            raise ValueError(f"asyncio_loop must be one of {', '.join(ASYNCIO_LOOPS)}, not {self.asyncio_loop!r}")
        if self.asyncio_loop == "uvloop" and find_spec("uvloop") is None:
            raise UsageError('asyncio_loop="uvloop" needs uvloop: pip install "gows[uvloop]"')


class ServerKeywords(TypedDict, total=False):
    """The keyword arguments of `gows.Server`: the fields of ServerOptions, or all of them together as `options`."""

    workers: int
    options: ServerOptions | AcceptOptions | None
    wsgi: Callable[..., Iterable[bytes]] | None
    asgi: AsgiCallable | None
    root_path: str
    lifespan: str
    ssl_context: ssl.SSLContext | None
    max_body_size: int | None
    max_head_size: int
    max_headers: int
    head_timeout: float
    body_timeout: float
    keep_alive_timeout: float
    max_connections: int | None
    max_queued: int | None
    max_received: int | None
    admission: Admission | None
    health: bool
    metrics: bool
    metrics_from: Iterable[NetworkLike]
    max_topics: int
    max_topic_length: int
    may_subscribe: May | None
    may_publish: May | None
    keep: KeepRule | None
    max_history: int
    presence: Describe | None
    broker: Broker | None
    loop: Loop | None
    asyncio_loop: str


NAMES = frozenset(field.name for field in fields(ServerOptions))


def server_options(keywords: ServerKeywords) -> ServerOptions:
    """Return the options that the keyword arguments of a Server mean. Raises TypeError for a keyword that is none, and
    for one beside a ServerOptions; and as ServerOptions."""
    for name in keywords:
        if name not in NAMES:
            raise TypeError(f"Server() got an unexpected keyword argument {name!r}")
    options = keywords.get("options")
    if not isinstance(options, ServerOptions):
        return ServerOptions(**keywords)  # type: ignore[arg-type]  # the union was narrowed
    if len(keywords) > 1:
        others = ", ".join(name for name in keywords if name != "options")
        raise TypeError(f"Server(options=ServerOptions(…)) takes no further arguments; set {others} in the options")
    return options


def with_server_signature(init: Init) -> Init:
    """Give `__init__(self, **keywords)` the signature that it stands for, with the defaults, for help() and editors."""
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    others = inspect.signature(ServerOptions).parameters.values()
    vars(init)["__signature__"] = inspect.Signature([first, *others], return_annotation=None)
    return init


def _check_root_path(value: object) -> None:
    """Raise TypeError or ValueError unless `value` may be a `root_path`."""
    if not isinstance(value, str):
        raise TypeError(f"root_path must be a str, not {type(value).__name__}")
    if value and (not value.startswith("/") or value.endswith("/") or not value.isascii() or not value.isprintable()):
        raise ValueError(f'root_path must begin with "/" and not end with it, not {value!r}')


def _check_instance(name: str, value: object, kind: type[Any]) -> None:
    if value is not None and not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIO" else "a"
        raise TypeError(f"{name} must be {article} {kind.__name__} or None, not {type(value).__name__}")


def _check_int(name: str, value: object, least: int, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int{' or None' if optional else ''}, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
