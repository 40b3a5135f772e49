"""Tunnelling: an attempt's way through a proxy.

    connecting -> (TCP, and TLS to the proxy, are up) -> [looking up the server] -> asking -> (it leads to the server)
        -> [TLS with the server] -> the attempt observes the stream, as if it had connected by itself

Only the last step leads out of here: whatever the proxy says, TLS with the server comes before anything of the request
if the URL is wss.
"""

from __future__ import annotations

import logging
from typing import Protocol

from gows.client.proxy import Proxy
from gows.client.request import ClientRequest, default_ssl_context
from gows.client.tunnel import Tunnel, make_tunnel
from gows.errors import ConnectError, ConnectTimeoutError, GowsError, ProxyError
from gows.reactor.interfaces import Observer
from gows.reactor.resolver import resolve
from gows.reactor.sockets import Target
from gows.reactor.stream import Stream
from gows.reactor.transports import Loop

logger = logging.getLogger("gows")


class Attempt(Observer, Protocol):
    """What an attempt is to its way through a proxy. Loop thread."""

    def follow(self, stream: Stream) -> None:
        """Take note that this is its stream from now on."""

    def fail(self, error: GowsError, cause: BaseException | None = None) -> None:
        """End, and close its stream."""

    def remaining(self) -> float:
        """Return the seconds that are left."""


class Tunnelling(Observer):
    """Observes the stream until it leads to the server. Loop thread."""

    __slots__ = ("_attempt", "_inside", "_proxy", "_request", "_stream", "_tunnel")

    _stream: Stream

    def __init__(self, request: ClientRequest, proxy: Proxy, attempt: Attempt) -> None:
        self._request = request
        self._proxy = proxy
        self._attempt = attempt
        self._tunnel: Tunnel | None = None  # None: the proxy is not connected
        self._inside = False  # the proxy leads to the server

    def start(self) -> Stream:
        """Begin to connect to the proxy; returns the stream."""
        proxy = self._proxy
        secure = proxy.scheme == "https"
        self._stream = self._loop.connect(
            proxy.address,
            self,
            ssl_context=(proxy.ssl_context or default_ssl_context()) if secure else None,
            server_hostname=proxy.hostname if secure else None,
            timeout=max(self._attempt.remaining(), 0.0),
        )
        return self._stream

    @property
    def _loop(self) -> Loop:
        return self._request.context.loop

    # ------------------------------------------------------------------ observer of the stream

    def connected(self, stream: Stream) -> None:
        """Ask the proxy; or, after TLS with the server, leave the stream to the attempt."""
        self._stream = stream
        self._attempt.follow(stream)
        if self._inside:
            self._leave()
            return
        stream.set_deadline(max(self._attempt.remaining(), 0.0))
        address = self._request.url.address
        if self._proxy.scheme == "socks5":
            resolve(self._loop, address, self._resolved)
        else:
            self._ask(address.host)

    def _resolved(self, targets: list[Target], error: Exception | None) -> None:
        if self._stream.closed:
            return
        if error is not None:
            self._attempt.fail(ConnectError(f"cannot look up {self._request.url.address.host}: {error}"), error)
            return
        hosts = [str(target.sockaddr[0]) for target in targets]
        self._ask(min(hosts, key=lambda host: ":" in host))  # IPv4 first: not each proxy has IPv6

    def _ask(self, host: str) -> None:
        self._tunnel = make_tunnel(self._proxy, host, self._request.url.address.port)
        self._stream.write(self._tunnel.begin())

    def data_received(self, buf: bytearray, n: int, /) -> None:
        """Take a piece of an answer of the proxy's."""
        try:
            if self._tunnel is None:
                raise ProxyError(f"the proxy {self._proxy} spoke before it was asked")
            self._stream.write(self._tunnel.feed(bytes(memoryview(buf)[:n])))
            if self._tunnel.done:
                self._enter()
        except GowsError as error:
            self._attempt.fail(error)
        except Exception as error:
            logger.exception("the answer of the proxy %s could not be dealt with", self._proxy)
            self._attempt.fail(ConnectError(f"the answer of the proxy {self._proxy} failed: {error}"), error)

    def _enter(self) -> None:
        """Begin TLS with the server, if there is to be any."""
        self._inside = True
        request = self._request
        if request.ssl_context is None:
            self._leave()
            return
        try:
            stream = self._loop.start_tls(
                self._stream, self, ssl_context=request.ssl_context, server_hostname=request.url.server_hostname
            )
        except ConnectionError:
            raise ProxyError(f"the proxy {self._proxy} answered before it was asked") from None
        self._stream = stream
        self._attempt.follow(stream)
        if not stream.closed and stream.observer is self:
            stream.set_deadline(max(self._attempt.remaining(), 0.0))

    def _leave(self) -> None:
        """Leave the stream to the attempt."""
        self._stream.observer = self._attempt
        self._attempt.connected(self._stream)

    def eof_received(self) -> None:
        """End the attempt: the proxy says nothing more."""
        self._attempt.fail(ProxyError(f"the proxy {self._proxy} closed the connection without an answer"))

    def deadline_reached(self) -> None:
        """End the attempt: its time is up."""
        who = f"the proxy {self._proxy}"
        if self._inside:
            who = f"{self._request.url.address} behind {who}"
        self._attempt.fail(self._late(who))

    def _late(self, who: str) -> ConnectTimeoutError:
        return ConnectTimeoutError(f"{who} did not answer within {self._request.timeout:g} s")

    def connection_lost(self, error: Exception | None) -> None:
        """End the attempt: the proxy cannot be reached, or the connection broke."""
        cause = error.__cause__ if isinstance(error, ConnectError) else error
        failure: GowsError
        if self._inside:
            failure = ConnectError(f"cannot connect to {self._request.url.address}: {error}")
        elif self._tunnel is not None:
            failure = ProxyError(f"the proxy {self._proxy} broke the connection: {error}")
        elif isinstance(cause, TimeoutError):
            failure = self._late(f"the proxy {self._proxy}")
        else:
            failure = ProxyError(f"cannot connect to the proxy {self._proxy}: {cause or error}")
        self._attempt.fail(failure, cause)
