"""Listener: takes new connections, a bounded number a turn, and keeps its head when there are no descriptors left."""

from __future__ import annotations

import errno
import logging
import os
import ssl
from collections.abc import Callable

from gows.debug import DEBUG, check_unlocked
from gows.errors import UsageError
from gows.reactor.address import Address, SocketAddress, socket_address
from gows.reactor.interfaces import Endpoint, Sock
from gows.reactor.loop import BaseLoop
from gows.reactor.poller import READ
from gows.reactor.stream import NO_OBSERVER, Stream
from gows.reactor.timers import Timer
from gows.reactor.tls import TLSStream

logger = logging.getLogger("gows")

ACCEPTS_PER_TURN = 128
SHARED_ACCEPTS_PER_TURN = 8
"""… where other processes accept, too: who is first should not get everybody."""
QUEUE_BATCHES = 32
"""Batches that `take_queued` takes at most: 4,096 connections, a whole queue of the default length."""
FIRST_BACK_OFF = 0.1
LONGEST_BACK_OFF = 1.0

_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """Accepts connections for a loop. Made by `Loop.listen`.

    `address` is where it is bound: (host, port) with the real port, or the path of a Unix-domain socket; `addresses`
    has all of them, for a name may stand for several.

    When the process or the system has no descriptor left, connections would wait in the kernel's queue, and the poller
    would report them over and over. The listener therefore keeps one descriptor in reserve: it gives that up, accepts
    and closes what waits, so that those peers are told at once, and then does not accept for 0.1 s, doubling to 1 s as
    long as there is none.
    """

    def __init__(
        self,
        loop: BaseLoop,
        socks: list[Sock],
        on_accept: Callable[[Stream], object],
        address: Address,
        ssl_context: ssl.SSLContext | None = None,
        accepts_per_turn: int | None = None,
        *,
        defer_tls: bool = False,
        shared: bool = False,
    ) -> None:
        """`shared`: other processes may accept from the same sockets."""
        self.loop = loop
        self.on_accept = on_accept
        self.ssl_context = ssl_context
        self.defer_tls = defer_tls
        self.shared = shared
        self.accepts_per_turn = accepts_per_turn or (SHARED_ACCEPTS_PER_TURN if shared else ACCEPTS_PER_TURN)
        self.addresses: list[SocketAddress] = [socket_address(sock.getsockname()) or "" for sock in socks]
        self.address = self.addresses[0]
        self.closed = False
        self._path = address.path
        self._inode = _inode(address.path)
        self._acceptors = [_Acceptor(self, sock) for sock in socks]
        self._reserve = loop.sockets.take_reserve()
        self._paused = False
        self._back_off = 0.0
        self._timer: Timer | None = None

    # ------------------------------------------------------------------ any thread

    def pause(self) -> None:
        """Accept no more for now; connections wait in the kernel's queue. Any thread; idempotent."""
        self._paused = True
        self.loop.run_soon(self._watch)

    @property
    def paused(self) -> bool:
        """Return whether `pause` was called last. Any thread."""
        return self._paused

    def resume(self) -> None:
        """Accept again. Any thread; idempotent."""
        self._paused = False
        self.loop.run_soon(self._watch)

    def close(self) -> None:
        """Stop listening, and remove the file of a Unix-domain socket. Connections that were accepted live on. Any
        thread; idempotent."""
        if not self.closed:
            self.closed = True
            self.loop.run_soon(self._close)

    # ------------------------------------------------------------------ loop thread

    def open(self) -> None:
        """Begin to accept."""
        if DEBUG:
            self.loop.check_thread()
        for acceptor in self._acceptors:
            self.loop.place(acceptor.fd, acceptor)
        self._watch()

    def _watch(self) -> None:
        """Watch for connections, unless the listener is paused, closed or backing off."""
        wanted = not (self._paused or self._timer is not None or self.closed)
        for acceptor in self._acceptors:
            acceptor.watch(wanted)

    def disown(self) -> None:
        """Release the descriptors in a forked child."""
        self.closed = True
        for acceptor in self._acceptors:
            acceptor.disown()
        self.loop.sockets.drop_reserve(self._reserve)
        self._reserve = -1

    def _close(self) -> None:
        if DEBUG:
            self.loop.check_thread()
        for acceptor in self._acceptors:
            acceptor.watch(False)
            if self.shared:  # the poller may have told us, and nobody else, of somebody who waits
                self.accept(acceptor.sock)
            else:
                self.loop.sockets.stop_listening(acceptor.sock)
            self.loop.displace(acceptor.fd)
            acceptor.disown()
        self._acceptors = []
        if self._timer is not None:
            self._timer.cancel()
        self.loop.sockets.drop_reserve(self._reserve)
        self._reserve = -1
        self.loop.listener_closed(self)
        self.remove_file()

    def remove_file(self) -> None:
        """Remove the file of a Unix-domain socket."""
        if self._path is not None and self._inode is not None and _inode(self._path) == self._inode:
            os.unlink(self._path)  # only our own file: another process may have replaced it

    def accept(self, sock: Sock) -> bool:
        """Accept waiting connections, up to the budget of a turn. Returns whether more may wait."""
        if DEBUG:
            self.loop.check_thread()
        loop, accept = self.loop, self.loop.sockets.accept
        for _ in range(self.accepts_per_turn):
            if self._paused or not self._acceptors:  # on_accept may have found that it is enough
                return False
            try:
                connection = accept(sock)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._no_room(sock, error)
                    return False
                # that connection died in the queue: ECONNABORTED, and on Linux any error of its network (accept(2))
                continue
            self._back_off = 0.0
            stream: Stream
            if self.ssl_context is None:
                stream = Stream(loop, connection)
            else:
                stream = TLSStream(loop, connection, self.ssl_context, server_side=True, deferred=self.defer_tls)
            self._admit(stream)
        return True

    def _admit(self, stream: Stream) -> None:
        """Hand a new connection to `on_accept`, and watch it."""
        if DEBUG:
            check_unlocked("call on_accept")
        try:
            self.on_accept(stream)
            if stream.observer is NO_OBSERVER and not stream.closed:
                raise UsageError("on_accept must set stream.observer, or close the stream")
        except Exception as error:
            logger.exception("on_accept raised; aborting the connection")
            stream.abort(error)
        self.loop.take_in(stream)

    def _no_room(self, sock: Sock, error: OSError) -> None:
        """Turn away the connections that wait, for no descriptor is left; then do not accept for a while."""
        loop = self.loop
        refused = self._turn_away(sock)
        first = not self._back_off
        self._back_off = min(self._back_off * 2, LONGEST_BACK_OFF) or FIRST_BACK_OFF
        if first:
            logger.warning(
                "%s: %d connections turned away at %s; raise the limit of open files (ulimit -n)",
                error.strerror,
                refused,
                self.address,
            )
        self._timer = loop.call_later(self._back_off, self._retry)
        self._watch()

    def hold_off(self) -> None:
        """Do not accept for FIRST_BACK_OFF seconds."""
        if self._timer is None and not self.closed:
            self._timer = self.loop.call_later(FIRST_BACK_OFF, self._retry)
            self._watch()

    def _turn_away(self, sock: Sock) -> int:
        sockets = self.loop.sockets
        if self._reserve < 0:
            return 0
        sockets.drop_reserve(self._reserve)
        refused = 0
        try:
            for _ in range(self.accepts_per_turn):
                sockets.accept(sock).close()
                refused += 1
        except OSError:  # nobody else waits, or the descriptor was taken by another thread
            pass
        self._reserve = sockets.take_reserve()
        return refused

    def take_queued(self) -> None:
        """Accept what waits in the kernel's queue, which `close` would reset. Loop thread."""
        for acceptor in self._acceptors:
            for _ in range(QUEUE_BATCHES):
                if not self.accept(acceptor.sock):
                    break

    def _retry(self) -> None:
        self._timer = None
        if self._reserve < 0:
            self._reserve = self.loop.sockets.take_reserve()
        self._watch()


_listening: set[Sock] = set()
"""Sockets that are not closed. Held here, none is in a cycle of garbage with a loop that was never run: CPython may end
the socket first, with a ResourceWarning, before the loop closes it."""


class _Acceptor(Endpoint):
    """Owns one listening socket."""

    __slots__ = ("_watched", "fd", "listener", "sock")

    def __init__(self, listener: Listener, sock: Sock) -> None:
        self.listener = listener
        self.sock = sock
        self.fd = sock.fileno()
        self._watched = False
        _listening.add(sock)

    def watch(self, wanted: bool) -> None:
        poller = self.listener.loop.poller
        if wanted and not self._watched:
            if self.listener.shared:
                poller.register_shared(self.fd)
            else:
                poller.register(self.fd, READ)
        elif self._watched and not wanted:
            poller.unregister(self.fd)
        self._watched = wanted

    def on_readable(self, scratch: bytearray, ticks: int) -> None:
        self.listener.accept(self.sock)
        if self.listener.shared and self._watched:
            # Of those who sleep the kernel wakes the one that registered first: go to the end of the row. Else, of four
            # processes one got 70 % of the connections that came one by one.
            self.watch(False)
            self.watch(True)

    def on_event(self, mask: int, scratch: bytearray, ticks: int) -> None:
        self.on_readable(scratch, ticks)

    def disown(self) -> None:
        """Release the descriptor: at the end, or in a forked child."""
        _listening.discard(self.sock)
        self.sock.close()

    def fail(self, error: Exception) -> None:
        """Back off after an error, which was logged: the next connection may do better, and this one may still be in
        the queue."""
        self.listener.hold_off()


def _inode(path: str | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
