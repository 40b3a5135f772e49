"""ProxyPreface: the PROXY header in front of everything else that a connection carries, TLS included."""

from __future__ import annotations

from collections.abc import Callable

from gows.http.connection import HttpConnection
from gows.http1.proxy_protocol import ProxyError, parse_proxy
from gows.reactor.interfaces import Observer
from gows.reactor.stream import Stream
from gows.reactor.tls import TLSStream


class ProxyPreface(Observer):
    """The first observer of a stream from a proxy. It names the stream's peer, and makes way for the HttpConnection.

    The time it takes is part of `head_timeout`, for that began when `http` was made.
    """

    __slots__ = ("_buffer", "_faulty", "_known", "_versions", "http", "stream")

    def __init__(
        self,
        stream: Stream,
        http: HttpConnection,
        versions: frozenset[int],
        known: Callable[[Stream], bool],
        faulty: Callable[[Stream, ProxyError], object],
    ) -> None:
        """`known` is told that the peer has its name, and says whether the connection goes on; `faulty`, that there was
        no header: such a connection is aborted (§2 of the protocol) without a word, for it may speak anything."""
        self.stream = stream
        self.http = http
        self._versions = versions
        self._known = known
        self._faulty = faulty
        self._buffer = bytearray()

    def data_received(self, buf: bytearray, n: int, /) -> None:
        """Take a part of the header, and perhaps of what follows."""
        stream = self.stream
        data = self._buffer
        data += memoryview(buf)[:n]
        try:
            header = parse_proxy(data, self._versions)
        except ProxyError as error:
            self._faulty(stream, error)
            stream.abort(error)
            return
        if header is None:
            return
        if header.source is not None:
            stream.name_peer(header.source)
        if header.secure:
            self.http.secure = True
        if not self._known(stream):
            return
        stream.observer = self.http
        del data[: header.size]
        if isinstance(stream, TLSStream):
            stream.start_tls(bytes(data))
        elif data:
            self.http.data_received(data, len(data))

    def eof_received(self) -> None:
        """Close: nothing useful came, as with some health checks."""
        self.stream.close()

    def deadline_reached(self) -> None:
        """Abort: the time for the header is over."""
        self.stream.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Do nothing: no request had begun."""
