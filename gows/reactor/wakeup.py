"""Wakeup: ends the sleep of a loop's poller from another thread, with one system call a sleep at most."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

from gows.debug import checked_lock
from gows.reactor.interfaces import Endpoint


class Wakeup(Endpoint):
    """Owns a descriptor that becomes readable by `wake()`: an eventfd(2), elsewhere a socket pair.

    The loop calls `arm()` before it looks at its queues for the last time and sleeps, and `disarm()` when it is awake.
    Another thread fills a queue first and then looks at `armed`: so either the loop sees the queue, or the thread sees
    `armed`. A loop that is awake costs the others no system call.

    `here`: what to call instead when the loop's own thread fills a queue, though the loop is not in a turn; for a host
    (`BaseLoop.hand_over`), whose thread does other things as well.
    """

    __slots__ = ("_lock", "_peer", "_socket", "armed", "fd", "here", "thread_id")

    def __init__(self) -> None:
        self.armed = False
        self.here: Callable[[], object] | None = None
        self.thread_id = 0
        # re-entrant, for a signal handler may wake a loop in the middle of wake()
        self._lock = checked_lock(threading.RLock, "wakeup")
        self._socket: socket.socket | None = None
        self._peer: socket.socket | None = None
        if hasattr(os, "eventfd"):
            self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._socket, self._peer = socket.socketpair()
            self._socket.setblocking(False)
            self._peer.setblocking(False)
            self.fd = self._socket.fileno()

    def call_here(self, here: Callable[[], object] | None) -> None:
        """Call `here()` in the calling thread, which is the loop's, instead of a wake-up; None: no more."""
        self.thread_id = threading.get_ident()
        self.here = here

    def arm(self) -> None:
        """Note that the loop is about to sleep."""
        self.armed = True

    def disarm(self) -> None:
        """Note that the loop is awake."""
        self.armed = False

    def wake(self) -> None:
        """End the loop's sleep, now or as it begins. Any thread, signal handlers too; harmless after `close`."""
        if not self.armed:
            return
        if self.here is not None and threading.get_ident() == self.thread_id:
            self.armed = False
            self.here()
            return
        with self._lock:  # against close(): the descriptor's number may belong to somebody else after it
            if not self.armed:
                return
            self.armed = False
            if self._peer is not None:
                self._peer.send(b"\0")
            else:
                os.eventfd_write(self.fd, 1)

    def on_readable(self, scratch: bytearray, ticks: int) -> None:
        """Read the descriptor, so that it is not readable any more."""
        if self._socket is not None:
            self._socket.recv_into(scratch)
        else:
            os.eventfd_read(self.fd)

    def on_event(self, mask: int, scratch: bytearray, ticks: int) -> None:
        self.on_readable(scratch, ticks)

    def disown(self) -> None:
        """Release the descriptor in a forked child."""
        self._lock = checked_lock(threading.RLock, "wakeup")
        self.close()

    def close(self) -> None:
        """Release the descriptor. Idempotent."""
        with self._lock:
            self.armed = False
            if self._socket is not None and self._peer is not None:
                self._socket.close()
                self._peer.close()
            elif self.fd >= 0:
                os.close(self.fd)
            self.fd = -1
