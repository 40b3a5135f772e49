"""Pollers: which descriptors are ready, a bounded batch at a time.

A poller knows descriptors and masks, nothing else. The masks are numerically epoll's, so that the most used backend
needs no translation. Every poller is level-triggered: what a turn did not get to is reported again.

The batch is bounded for fairness: `selectors.EpollSelector` asks for as many events as there are registrations, so
that one turn could take seconds with tens of thousands of busy connections, and everything else (timers, accepts,
flushes) would wait for it.
"""

from __future__ import annotations

import errno
import math
import select
import selectors
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable

READ = 1
"""Bytes, a connection, or an end of file can be read (EPOLLIN)."""
WRITE = 4
"""Bytes can be written, or a connection attempt has ended (EPOLLOUT)."""
ERROR = 8 | 16
"""Reported without being asked for (EPOLLERR, EPOLLHUP). Only epoll tells; elsewhere the next read or write does."""

Events = list[tuple[int, int]]

_SELECT_LIMIT = 1024  # FD_SETSIZE: select(2) cannot watch a higher descriptor, and fails as a whole when asked to


class Poller(ABC):
    """Watches descriptors. Not thread-safe: only the loop's thread calls it."""

    name: str

    @abstractmethod
    def register(self, fd: int, mask: int) -> None:
        """Begin to watch `fd` for `mask` (READ, WRITE or both). Raises OSError when the kernel cannot watch it."""

    def register_shared(self, fd: int) -> None:
        """Begin to watch `fd` for READ, where other processes watch it, too. At least one of those that sleep is told;
        a process that was told and does not read leaves the event to nobody."""
        self.register(fd, READ)

    @abstractmethod
    def modify(self, fd: int, mask: int) -> None:
        """Watch a registered `fd` for another mask; never 0."""

    @abstractmethod
    def unregister(self, fd: int) -> None:
        """Stop watching a registered `fd`. Call it before the descriptor is closed: a copy in a forked child would
        keep an epoll registration alive, and its events would be taken for those of the next owner of the number
        (epoll(7), Q6)."""

    @abstractmethod
    def poll(self, timeout: float | None) -> Events:
        """Wait up to `timeout` seconds (None: for ever) and return at most `max_events` pairs (fd, mask).

        A timeout is rounded up to whole milliseconds: to wake up early would mean to poll again at once, over and
        over.
        """

    def fileno(self) -> int | None:
        """Return a descriptor that can be read when `poll` would report something; None if there is none."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Release the kernel object. Idempotent."""


class EpollPoller(Poller):
    """Uses epoll(7), with a bounded batch. The kernel keeps the ready list as a ring, so that small batches are
    fair."""

    name = "epoll"

    def __init__(self, max_events: int) -> None:
        self._epoll = select.epoll()
        self._max_events = max_events

    def register(self, fd: int, mask: int) -> None:
        self._epoll.register(fd, mask)

    def register_shared(self, fd: int) -> None:
        self._epoll.register(fd, READ | select.EPOLLEXCLUSIVE)  # whoever registered first of those who sleep

    def modify(self, fd: int, mask: int) -> None:
        self._epoll.modify(fd, mask)

    def unregister(self, fd: int) -> None:
        self._epoll.unregister(fd)

    def fileno(self) -> int | None:
        return self._epoll.fileno()

    def close(self) -> None:
        self._epoll.close()

    def poll(self, timeout: float | None) -> Events:
        return self._epoll.poll(timeout, self._max_events)  # select.epoll rounds up by itself


class SelectorPoller(Poller):
    """Uses any class of `selectors`: kqueue, poll, select, /dev/poll.

    They report everything that is ready, always in the same order; the batch therefore begins after the last
    descriptor of the batch before, so that each gets its turn.
    """

    def __init__(self, name: str, selector: selectors.BaseSelector, max_events: int) -> None:
        self.name = name
        self._selector = selector
        self._max_events = max_events
        self._last = -1

    def register(self, fd: int, mask: int) -> None:
        if fd >= _SELECT_LIMIT and self.name == "select":
            raise OSError(errno.EMFILE, f"select() cannot watch descriptor {fd}: {_SELECT_LIMIT} is its limit")
        self._selector.register(fd, _to_selectors(mask))

    def modify(self, fd: int, mask: int) -> None:
        self._selector.modify(fd, _to_selectors(mask))

    def unregister(self, fd: int) -> None:
        self._selector.unregister(fd)

    def poll(self, timeout: float | None) -> Events:
        if timeout is not None:
            timeout = math.ceil(timeout * 1000) / 1000
        ready = [(key.fd, _from_selectors(events)) for key, events in self._selector.select(timeout)]
        if len(ready) > self._max_events:
            ready.sort()
            last = self._last
            ready = [event for event in ready if event[0] > last] + [event for event in ready if event[0] <= last]
            del ready[self._max_events :]
            self._last = ready[-1][0]
        return ready

    def fileno(self) -> int | None:
        find: Callable[[], int] | None = getattr(self._selector, "fileno", None)  # kqueue and /dev/poll have one
        return None if find is None else find()

    def close(self) -> None:
        self._selector.close()


def _to_selectors(mask: int) -> int:
    return (mask & READ) | (mask & WRITE) >> 1  # selectors: EVENT_READ = 1, EVENT_WRITE = 2


def _from_selectors(events: int) -> int:
    return (events & selectors.EVENT_READ) | (events & selectors.EVENT_WRITE) << 1


_SELECTORS = {
    "kqueue": "KqueueSelector",
    "devpoll": "DevpollSelector",
    "poll": "PollSelector",
    "select": "SelectSelector",
}


def available_pollers() -> list[str]:
    """Return the names that `make_poller` takes on this platform, best first."""
    names = ["epoll"] if hasattr(select, "epoll") else []
    return names + [name for name, selector in _SELECTORS.items() if hasattr(selectors, selector)]


def make_poller(name: str | None = None, max_events: int = 512) -> Poller:
    """Return the poller called `name`, or the platform's best, which reports at most `max_events` events at a time.

    Raises ValueError for a name that this platform does not have.
    """
    available = available_pollers()
    if name is None:
        name = available[0]
    if name not in available:
        raise ValueError(f"no selector {name!r} on {sys.platform}: choose from {', '.join(available)}")
    if max_events < 1:
        raise ValueError(f"max_events must be 1 or more, not {max_events}")
    if name == "epoll":
        return EpollPoller(max_events)
    selector: selectors.BaseSelector = getattr(selectors, _SELECTORS[name])()
    return SelectorPoller(name, selector, max_events)
