"""Loop: the loop of `loop`, with the three ways in which it gets connections."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

from gows.reactor.address import Address, AddressLike, ascii_host, parse_address
from gows.reactor.connector import Connector, Upgrade
from gows.reactor.enciphered import LEAST_BUFFER
from gows.reactor.interfaces import Observer
from gows.reactor.listener import Listener
from gows.reactor.loop import BaseLoop
from gows.reactor.stream import Stream
from gows.reactor.tls import TLSStream


class Loop(BaseLoop):
    """An event loop. Make it, `listen`, `connect` or `adopt`, then `run()` it here or `start()` it in a thread of its
    own.

    - `poller`: a Poller, or a name for `make_poller`; `clock`: seconds, never going back; `sockets`: a SocketLayer.
    - `workers`: threads for tasks; 0 runs them in the loop's thread.
    - `read_buffer_size`: bytes read from one connection in one turn at most.

    Every method may be called from any thread unless it says otherwise. Call `close()` in the end, or use it as a
    context manager.
    """

    __slots__ = ()

    def listen(
        self,
        address: AddressLike | socket.SocketType,
        on_accept: Callable[[Stream], object],
        *,
        backlog: int = 4096,
        ssl_context: ssl.SSLContext | None = None,
        defer_tls: bool = False,
        reuse_port: bool = False,
        mode: int | None = None,
    ) -> Listener:
        """Accept connections at `address`: ":8080" (every interface, IPv6 and IPv4), "host:port", "[::1]:80",
        "unix:/path", (host, port).

        `on_accept(stream)` is called in the loop's thread for each and must set `stream.observer`. With `ssl_context`
        the stream speaks TLS; the handshake goes on after `on_accept`, under the deadline that the observer sets
        there. With `defer_tls` it waits for `TLSStream.start_tls`. `mode`: permission bits for the file of a
        Unix-domain socket. `reuse_port`: SO_REUSEPORT, several processes share the port.

        A socket that listens already, in the place of an address, is taken over: the caller's object is detached. Other
        processes may accept from it, too, and take turns with this one; a file that it is bound to stays.

        Bound and listening when this returns. Raises OSError naming the address, ValueError for one that cannot be
        read, and for a socket that does not listen.
        """
        self.check_open()
        if isinstance(address, socket.SocketType):
            socks, place, shared = [self.sockets.adopt_listener(address)], Address("", 0), True
        else:
            place, shared = parse_address(address), False
            socks = self.sockets.listen(place, backlog=backlog, reuse_port=reuse_port, mode=mode)
        listener = Listener(self, socks, on_accept, place, ssl_context, defer_tls=defer_tls, shared=shared)
        self._listeners.append(listener)
        self.run_soon(listener.open)
        return listener

    def connect(
        self,
        address: AddressLike,
        observer: Observer,
        *,
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        timeout: float = 10.0,
    ) -> Stream:
        """Begin to connect; returns at once. `observer.connected(stream)` follows, or `connection_lost` with a
        ConnectError.

        Every address of the name is tried. `timeout` seconds bound everything, the TLS handshake included, but not a
        name server that does not answer. `server_hostname` (default: the host of `address`) is what the peer's
        certificate must be for. What is written before goes out when the connection is made. Raises ValueError for an
        address that cannot be read.
        """
        self.check_open()
        place = parse_address(address)
        if not place.host.isascii():
            place = place._replace(host=ascii_host(place.host))
        stream: Stream
        if ssl_context is None:
            stream = Stream(self, None, observer)
        else:
            stream = TLSStream(self, None, ssl_context, observer, server_hostname=server_hostname or place.host or None)
        connector = self._attempts[stream] = Connector(self, stream, place, timeout)
        self.run_soon(connector.start)
        return stream

    def start_tls(
        self, stream: Stream, observer: Observer, *, ssl_context: ssl.SSLContext, server_hostname: str
    ) -> Stream:
        """Begin TLS on a connection that is made, as its client: what a proxy carries begins now. A `stream` under TLS
        then has two sessions, one in the other.

        Returns the stream that takes the place of `stream`, which is over without a word to its observer.
        `observer.connected(stream)` follows, or `connection_lost`; the observer sets the deadline. Raises
        ConnectionError when something that was written to `stream` is still queued, or it is closed, ValueError for a
        context that cannot be used. Loop thread.
        """
        if isinstance(stream, TLSStream) and len(self.scratch) < LEAST_BUFFER:
            raise ValueError(f"TLS within TLS needs a loop with a read_buffer_size of {LEAST_BUFFER} or more")
        inner = TLSStream(self, None, ssl_context, observer, server_hostname=server_hostname)
        sock = stream.hand_over()
        self._attempts[inner] = Upgrade()
        inner.establish(sock)
        return inner

    def adopt(
        self,
        sock: socket.socket,
        observer: Observer,
        *,
        ssl_context: ssl.SSLContext | None = None,
        server_side: bool = True,
        server_hostname: str | None = None,
    ) -> Stream:
        """Make a connected socket a stream of this loop. `sock` is detached: it is of no more use to the caller.

        With `ssl_context` a TLS handshake comes first. Raises TypeError for an `ssl.SSLSocket`: its TLS state cannot
        be taken over.
        """
        self.check_open()
        if isinstance(sock, ssl.SSLSocket):
            raise TypeError("an SSLSocket cannot be adopted: give the plain socket, and ssl_context=")
        connection = self.sockets.adopt(sock)
        stream: Stream
        if ssl_context is None:
            stream = Stream(self, connection, observer)
        else:
            stream = TLSStream(
                self, connection, ssl_context, observer, server_side=server_side, server_hostname=server_hostname
            )
        self.run_soon(self.take_in, stream)
        return stream
