"""Gate: what becomes of a connection that was accepted: it is let in, refused, or cut off."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from gows.http.application import Application
from gows.http.connection import HttpConnection, access_logger
from gows.http.preface import ProxyPreface
from gows.http1.proxy_protocol import ProxyError
from gows.printable import show_address
from gows.protocol.handshake import response_error
from gows.reactor import Listener, Loop, Observer, Stream
from gows.reactor.reserve import Reserve
from gows.server.admission import MAX_CONNECTIONS, Admission, Refusal

logger = logging.getLogger("gows")

MAX_REFUSED = 512
"""Refused connections that are left time to read their answer; more are cut off, for each takes a descriptor."""


class Gated(Application, Protocol):
    """The parts of a `gows.Server` that its gate needs."""

    loop: Loop
    admission: Admission
    max_connections: int | None


class _Refused(Observer):
    """The observer of all connections that were refused, which counts them."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def data_received(self, buf: bytearray, n: int, /) -> None:
        """Do nothing: what a refused peer sends is of no interest."""

    def connection_lost(self, error: Exception | None) -> None:
        """Count one less."""
        self.count -= 1


class Gate:
    """The gate of one server. Loop thread."""

    def __init__(self, app: Gated, listeners: Sequence[Listener]) -> None:
        """Make the gate of a server. `listeners`: those that pause while the process has no descriptors left to
        give."""
        self._app = app
        self._admission = admission = app.admission
        self._refused = _Refused()
        self._reserve = Reserve(
            app.loop, listeners, admission.descriptor_reserve, partial(admission.count, "descriptors")
        )

    @property
    def refused(self) -> int:
        """How many refused connections have not ended yet."""
        return self._refused.count

    def admit(self, stream: Stream) -> None:
        """Let a connection in, or refuse it."""
        if self._has_room(stream) and self._known(stream):
            stream.observer = HttpConnection(stream, self._app)

    def admit_from_proxy(self, versions: frozenset[int], stream: Stream) -> None:
        """Let a connection in that begins with a PROXY header of one of these versions, or refuse it."""
        if not self._has_room(stream):
            return
        admission = self._admission
        if admission.proxies is not None and admission.proxies.trusts(stream.peer_address):
            http = HttpConnection(stream, self._app)
            stream.observer = ProxyPreface(stream, http, versions, self._known, self._no_proxy)
        else:
            self._no_proxy(stream, ProxyError("the peer is none of trusted_proxies"))
            stream.abort()

    def _has_room(self, stream: Stream) -> bool:
        assert stream.sock is not None
        self._reserve.accepted(stream.sock.fileno())
        most = self._app.max_connections
        if most is None or self._app.loop.live_streams - self._refused.count < most:
            return True
        self._admission.count(MAX_CONNECTIONS.cause)
        self._refuse(stream, MAX_CONNECTIONS)
        return False

    def _known(self, stream: Stream) -> bool:
        """Admit a connection of which it is known by now whose it is: the peer's, or that of the client which a PROXY
        header names. Return whether it goes on."""
        admission = self._admission
        if not admission.limited:
            return True
        address = stream.peer_address
        if admission.proxies is not None and admission.proxies.trusts(address):
            return True  # each upgrade will tell
        refusal = admission.enter(stream, address)
        if refusal is not None:
            self._refuse(stream, refusal)
        return refusal is None

    def _refuse(self, stream: Stream, refusal: Refusal) -> None:
        """Answer before anything was asked, and close in order, so that the answer arrives. Over TLS there is none: a
        handshake would cost more than a connection that is admitted."""
        refused = stream.observer = self._refused
        refused.count += 1
        if access_logger.isEnabledFor(logging.INFO):
            access_logger.info('%s "-" %d 0', show_address(stream.peer_address), refusal.status)
        if refused.count <= MAX_REFUSED:
            stream.write(response_error(self._admission.error(refusal)))
            stream.close()
        else:
            stream.abort()

    def _no_proxy(self, stream: Stream, error: ProxyError) -> None:
        """Count a connection that should begin with a PROXY header and does not."""
        if not self._admission.counts["proxy_protocol"]:
            address = show_address(stream.peer_address)
            logger.warning("%s was cut off: %s; further ones are only counted", address, error)
        self._admission.count("proxy_protocol")
