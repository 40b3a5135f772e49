"""Connector: makes one outgoing connection, trying every address of the name in turn; Upgrade: begins TLS on one."""

from __future__ import annotations

import errno
import os
import socket

from gows.debug import DEBUG
from gows.errors import ConnectError
from gows.reactor.address import Address
from gows.reactor.interfaces import Endpoint, Sock
from gows.reactor.loop import BaseLoop
from gows.reactor.poller import WRITE
from gows.reactor.resolver import resolve
from gows.reactor.sockets import Target
from gows.reactor.stream import Stream
from gows.reactor.timers import Timer

FULL_QUEUE_RETRY = 0.1
"""Seconds until a Unix-domain listener whose queue is full is tried again: connect(2) says EAGAIN there, and no event
follows."""


class Connector(Endpoint):
    """Makes the connection of one stream, its TLS handshake included. Lives until `finish`. Loop thread."""

    __slots__ = ("_address", "_attempt", "_deadline", "_fd", "_loop", "_sock", "_stream", "_targets", "error")

    def __init__(self, loop: BaseLoop, stream: Stream, address: Address, timeout: float) -> None:
        self._loop = loop
        self._stream = stream
        self._address = address
        self._targets: list[Target] = []
        self._sock: Sock | None = None
        self._fd = -1
        self._attempt: Timer | None = None
        self.error: Exception | None = None  # why the last address failed
        self._deadline = loop.call_later(timeout, self._timed_out, timeout)

    def start(self) -> None:
        """Resolve the name, in a thread of its own if that may block."""
        resolve(self._loop, self._address, self._resolved)

    def _resolved(self, targets: list[Target], error: Exception | None) -> None:
        if not self._stream.closed:
            self._targets = targets
            self.error = error
            self._next()

    def _next(self) -> None:
        """Try the next address; the attempt has its share of the time that is left."""
        if DEBUG:
            self._loop.check_thread()
        while self._targets:
            target = self._targets[0]
            try:
                sock, code = self._loop.sockets.dial(target)
            except (OSError, ValueError) as error:  # ValueError: a path that holds a NUL
                self.error = error
                del self._targets[0]
                continue
            if code == 0:
                self._stream.establish(sock)
                return
            if code == errno.EINPROGRESS:
                self._wait(sock)
                return
            sock.close()
            if code == errno.EAGAIN and target.family == socket.AF_UNIX:
                self._attempt = self._loop.call_later(FULL_QUEUE_RETRY, self._next)
                return
            self._failed(code)
        self._stream.abort(self.error)

    def _wait(self, sock: Sock) -> None:
        try:
            self._loop.poller.register(sock.fileno(), WRITE)
        except BaseException:
            sock.close()
            raise
        self._sock = sock
        self._fd = sock.fileno()
        self._loop.place(self._fd, self)
        left = (self._deadline.due - self._loop.now()) / 10
        self._attempt = self._loop.call_later(max(left, 0.1) / len(self._targets), self._give_up)

    def _failed(self, code: int) -> None:
        self.error = OSError(code, os.strerror(code))
        del self._targets[0]

    def _release(self) -> Sock | None:
        """Stop watching the socket of the running attempt."""
        if self._attempt is not None:
            self._attempt.cancel()
            self._attempt = None
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.poller.unregister(self._fd)
            self._loop.displace(self._fd)
        return sock

    def on_readable(self, scratch: bytearray, ticks: int) -> None:
        """Take an error, which some pollers report as READ."""
        self.on_event(WRITE, scratch, ticks)

    def on_event(self, mask: int, scratch: bytearray, ticks: int) -> None:
        """Take the result of the attempt (connect(2), EINPROGRESS)."""
        sock = self._release()
        assert sock is not None
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == 0:
            self._stream.establish(sock)
            return
        sock.close()
        self._failed(code)
        self._next()

    def _give_up(self) -> None:
        """Leave an address that does not answer for the next one."""
        sock = self._release()
        assert sock is not None
        sock.close()
        self._failed(errno.ETIMEDOUT)
        self._next()

    def _timed_out(self, timeout: float) -> None:
        self._stream.abort(TimeoutError(f"no connection within {timeout:g} s"))

    def disown(self) -> None:
        """Release the descriptor in a forked child."""
        if self._sock is not None:
            self._sock.close()

    def fail(self, error: Exception) -> None:
        self._stream.abort(error)

    def finish(self, error: Exception | None) -> ConnectError | None:
        """Release everything: the stream is connected, or it is lost because of `error`. Returns what to tell its
        observer."""
        if DEBUG:
            self._loop.check_thread()
        self._deadline.cancel()
        sock = self._release()
        if sock is not None:
            sock.close()
        if error is None:
            return None
        failure = ConnectError(f"cannot connect to {self._address}: {error}")
        failure.__cause__ = error
        return failure


class Upgrade:
    """The attempt to begin TLS on a connection that is made. Its time is its observer's deadline. Loop thread."""

    __slots__ = ()

    def finish(self, error: Exception | None) -> Exception | None:
        """Return `error` as it is: there is nothing to release."""
        return error
