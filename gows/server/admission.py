"""Admission: who may connect. Caps per client, a rate for new connections, the proxies that are believed.

A connection is admitted once its client is known, and once only: when it was accepted; behind a proxy that speaks the
PROXY protocol, when that header has come; behind a trusted proxy that forwards requests, when one of them is to become
a WebSocket, for the connection itself may carry requests of many clients.

A client that is counted costs an entry in a table, and each of its connections a number in a list by descriptor: no
object. The number leads back to the entry when the stream ends, by which time the kernel may have forgotten the peer
(getpeername(2) after a reset: ENOTCONN).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

from gows.debug import DEBUG, check_owned
from gows.errors import ConnectionClosedError, HandshakeError
from gows.http.proxies import Proxies
from gows.http1.proxy_protocol import VERSIONS
from gows.options import check_rate
from gows.protocol.rates import Rate
from gows.reactor import Loop, Stream
from gows.reactor.networks import NetworkLike, Networks, PeerAddress, ip_number, subnet
from gows.reactor.waits import inner_lock

DESCRIPTOR_RESERVE = 64
"""Descriptors kept free for files, pipes and databases of the user's own: the server stops accepting before they
are needed."""


class Refusal(NamedTuple):
    """Why a connection was not admitted."""

    cause: str
    """A key of `Admission.counts`."""
    status: int
    reason: str


MAX_CONNECTIONS = Refusal("max_connections", 503, "too many connections")
PER_IP = Refusal("per_ip", 429, "too many connections from this address")
PER_SUBNET = Refusal("per_subnet", 429, "too many connections from this network")
HANDSHAKE_RATE = Refusal("handshake_rate", 503, "too many new connections")

REFUSAL_CAUSES = ("max_connections", "per_ip", "per_subnet", "handshake_rate", "descriptors", "proxy_protocol")
"""The keys of `Admission.counts`; what made a connection end that was admitted is a `CloseCause`."""


class Admission:
    """Who may connect to a Server: `Server(admission=Admission(…))`, each for one server. By default everybody.

    - `per_ip`, `per_subnet`: open connections, HTTP and WebSocket, from one address and from one network of
      `ipv4_prefix` or `ipv6_prefix` bits; more get 429.
    - `handshake_rate`: new connections a second on the long run, and `handshake_burst` at once (None: those of a
      second); more get 503.
    - `retry_after`: the seconds between which a refusal's Retry-After is chosen at random.
    - `exempt`: networks ("10.0.0.0/8", "::1", "unix" for Unix-domain sockets) for which caps and rate do not count.
    - `trusted_proxies`: networks of proxies that are believed when they name their client in `forwarded_fields`:
      X-Forwarded-For, -Proto and -Host, or Forwarded alone. Name those that the proxies set themselves, no others.
    - `proxy_protocol`: connections begin with a PROXY header of version "v1", "v2" or either (True), and come from
      `trusted_proxies`; others are cut off. `Server.listen(proxy_protocol=…)` has it otherwise for one address.
    - `descriptor_reserve`: descriptors of the process that connections may not take; near them, the server stops
      accepting until some are free.

    All of it is for one process. Raises ValueError or TypeError for what cannot be meant.
    """

    def __init__(
        self,
        *,
        per_ip: int | None = None,
        per_subnet: int | None = None,
        ipv4_prefix: int = 24,
        ipv6_prefix: int = 64,
        handshake_rate: float | None = None,
        handshake_burst: int | None = None,
        retry_after: tuple[int, int] = (5, 30),
        exempt: Iterable[NetworkLike] = (),
        trusted_proxies: Iterable[NetworkLike] = (),
        forwarded_fields: Iterable[str] = ("X-Forwarded-For", "X-Forwarded-Proto"),
        proxy_protocol: bool | str = False,
        descriptor_reserve: int = DESCRIPTOR_RESERVE,
    ) -> None:
        self.per_ip = per_ip
        self.per_subnet = per_subnet
        self.ipv4_prefix = ipv4_prefix
        self.ipv6_prefix = ipv6_prefix
        self.handshake_rate = handshake_rate
        self.handshake_burst = handshake_burst
        self.retry_after = retry_after
        self.descriptor_reserve = descriptor_reserve
        self._check()
        proxies = Proxies(trusted_proxies, forwarded_fields)
        self.proxies = proxies if proxies.networks else None
        """The proxies that are believed; None: none are."""
        self.exempt = Networks(exempt)
        self.proxy_versions(proxy_protocol)
        self.proxy_protocol = proxy_protocol
        self.counts = dict.fromkeys(REFUSAL_CAUSES, 0)
        """Connections that were not admitted, by cause; `descriptors`: how often accepting was paused."""
        self._capped = per_ip is not None or per_subnet is not None
        self.limited = self._capped or handshake_rate is not None
        """Whether anybody may be refused for anything but `max_connections`."""
        self._rate: Rate | None = None
        if handshake_rate is not None:
            self._rate = Rate(handshake_rate, handshake_burst or max(1.0, handshake_rate))
        self._full_at = 0.0
        self._lock = inner_lock("admission")  # a signal handler may come amid it, and end connections
        self._loop: Loop | None = None
        self._clients: list[int | None] = []  # by descriptor: the number of the client that it counts for
        self._by_ip: dict[int, int] = {}
        self._by_subnet: dict[int, int] = {}

    def _check(self) -> None:
        for name, low, high in (
            ("per_ip", 1, None),
            ("per_subnet", 1, None),
            ("ipv4_prefix", 1, 32),
            ("ipv6_prefix", 1, 128),
            ("descriptor_reserve", 0, None),
        ):
            value = getattr(self, name)
            if value is None and name.startswith("per_"):
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an int, not {type(value).__name__}")
            if value < low or (high is not None and value > high):
                raise ValueError(f"{name} must be {low} or more{f', up to {high}' if high else ''}, not {value}")
        check_rate(self, "handshake_rate", "handshake_burst")
        if not isinstance(self.retry_after, (tuple, list)) or len(self.retry_after) != 2:
            raise TypeError(f"retry_after must be (least, most) seconds, not {self.retry_after!r}")
        low, high = self.retry_after
        if not isinstance(low, int) or not isinstance(high, int):
            raise TypeError("retry_after must be two whole numbers of seconds")
        if not 0 <= low <= high:
            raise ValueError(f"retry_after must be (least, most) seconds, not {self.retry_after!r}")

    def proxy_versions(self, proxy_protocol: bool | str) -> frozenset[int]:
        """Return the versions of the PROXY protocol that `proxy_protocol` allows; none: there is no such header. Raises
        ValueError."""
        if proxy_protocol is False:
            return frozenset()
        versions = VERSIONS.get(proxy_protocol)
        if versions is None:
            raise ValueError(f'proxy_protocol must be "v1", "v2", True or False, not {proxy_protocol!r}')
        if self.proxies is None:
            raise ValueError("proxy_protocol needs trusted_proxies: anybody could claim any address")
        return versions

    # ------------------------------------------------------------------ for the server

    @property
    def attached(self) -> bool:
        """Whether it counts for a server, or did."""
        return self._loop is not None

    def attach(self, loop: Loop) -> None:
        """Begin to count for a server on `loop`."""
        self._loop = loop
        if self._capped:
            loop.on_end.append(self._ended)

    def detach(self) -> None:
        """End counting: the server has ended."""
        if self._loop is not None and self._ended in self._loop.on_end:
            self._loop.on_end.remove(self._ended)

    def enter(self, stream: Stream, address: PeerAddress) -> Refusal | None:
        """Admit a connection of the client `address`, and count it until the stream ends; or say why not. Any thread.

        Raises ConnectionClosedError when the stream ends already, so that nothing would end the counting.
        """
        if not self.limited or address in self.exempt:
            return None
        number = None if self.proxies is not None and self.proxies.trusts(address) else ip_number(address)
        with stream.lock, self._lock:
            if stream.closed or stream.sock is None:
                raise ConnectionClosedError("the connection is gone")
            refusal = self._look_locked(number)
            if refusal is not None:
                self.counts[refusal.cause] += 1
            elif number is not None and self._capped:
                self._count_locked(stream.sock.fileno(), number)
            return refusal

    def leave(self, stream: Stream) -> None:
        """Count a connection no more that is not what it was admitted for, and goes on. Any thread."""
        with stream.lock:
            if not stream.closed:  # else its end is near, or was, and the descriptor may be another's
                self._ended(stream)

    def _ended(self, stream: Stream) -> None:
        """Count a stream no more that ends; its descriptor is still open."""
        assert stream.sock is not None
        fd = stream.sock.fileno()
        with self._lock:
            number = self._clients[fd] if fd < len(self._clients) else None
            if number is None:
                return
            self._clients[fd] = None
            if self.per_ip is not None:
                _decrease(self._by_ip, number)
            if self.per_subnet is not None:
                _decrease(self._by_subnet, subnet(number, self.ipv4_prefix, self.ipv6_prefix))

    def count(self, cause: str) -> None:
        """Add one to `counts`. Any thread."""
        with self._lock:
            self.counts[cause] += 1

    def error(self, refusal: Refusal) -> HandshakeError:
        """Return the answer to a client that was refused. Its Retry-After is random, or those that came together would
        come back together."""
        return HandshakeError(
            refusal.status, refusal.reason, (("Retry-After", str(random.randint(*self.retry_after))),)
        )

    @property
    def clients(self) -> int:
        """How many addresses are counted now, with `per_ip`. Any thread."""
        return len(self._by_ip)

    # ------------------------------------------------------------------ counting; lock held

    def _look_locked(self, number: int | None) -> Refusal | None:
        """Return why one more connection of this client may not come in; None: it may, and takes from the rate's
        bucket."""
        if DEBUG:
            check_owned(self._lock)
        if number is not None:
            if self.per_ip is not None and self._by_ip.get(number, 0) >= self.per_ip:
                return PER_IP
            network = subnet(number, self.ipv4_prefix, self.ipv6_prefix)
            if self.per_subnet is not None and self._by_subnet.get(network, 0) >= self.per_subnet:
                return PER_SUBNET
        if self._rate is not None:
            assert self._loop is not None
            now = self._loop.time()
            if self._rate.room(self._full_at, now) < 1:
                return HANDSHAKE_RATE
            self._full_at = self._rate.take(self._full_at, now, 1)
        return None

    def _count_locked(self, fd: int, number: int) -> None:
        if DEBUG:
            check_owned(self._lock)
        clients = self._clients
        if fd >= len(clients):
            clients.extend([None] * (fd + 64 - len(clients)))
        clients[fd] = number
        if self.per_ip is not None:
            _increase(self._by_ip, number)
        if self.per_subnet is not None:
            network = subnet(number, self.ipv4_prefix, self.ipv6_prefix)
            _increase(self._by_subnet, network)


def _increase(counts: dict[int, int], number: int) -> None:
    counts.setdefault(number, 0)
    counts[number] += 1


def _decrease(counts: dict[int, int], number: int) -> None:
    left = counts[number] - 1
    if left:
        counts[number] = left
    else:
        del counts[number]
