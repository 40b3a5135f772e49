"""Reserve: descriptors that are kept free, by not accepting connections while there are no others."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable

from gows.debug import DEBUG
from gows.reactor.listener import Listener
from gows.reactor.loop import BaseLoop

logger = logging.getLogger("gows")

LEAST_CONNECTIONS = 16
"""However low the limit, so many descriptors are not kept free."""
RETRY = 0.1
"""Seconds after which a pause is looked at again."""
QUIET = 60.0
"""Seconds in which further pauses are not logged."""


class Reserve:
    """Keeps `size` descriptors of the process free for what is no connection. Loop thread.

    accept(2) gives the lowest free number (POSIX), so a number at the brink means that all below it are taken, whoever
    has them: that costs nothing to see. Numbers alone would let the reserve be eaten up, by connections above the brink
    that stay while lower ones come and go; so what is taken is also counted, after half as many accepts as there were
    descriptors free. Descriptors that others opened above the lowest free one escape the count; they do not when it
    matters, for there is no lower one then.

    While it pauses, connections wait in the kernel's queue; every 0.1 s it looks whether a descriptor is free again.
    """

    def __init__(
        self, loop: BaseLoop, listeners: Iterable[Listener], size: int, on_pause: Callable[[], object]
    ) -> None:
        """Keep descriptors free. `listeners` are those that are paused; the caller may add to them. `on_pause` is
        called at each pause."""
        self._loop = loop
        self._listeners = listeners
        self._size = size
        self._brink = 0
        self._left = 0
        self._on_pause = on_pause
        self._paused: list[Listener] = []
        self._logged_at = -math.inf

    def accepted(self, fd: int) -> None:
        """Take note that a listener has accepted the connection `fd`."""
        if DEBUG:
            self._loop.check_thread()
        self._left -= 1
        if self._left < 0 or fd >= self._brink:
            self._look()

    def _free(self) -> int:
        """Return how many descriptors may still be taken; below 0 when some of the reserve are taken."""
        sockets, streams = self._loop.sockets, self._loop.streams
        self._brink = max(sockets.descriptor_limit() - self._size, LEAST_CONNECTIONS)  # it may be raised while we run
        lowest = sockets.take_reserve()
        sockets.drop_reserve(lowest)
        if lowest < 0:
            return -self._size
        above = streams[lowest:]
        return self._brink - lowest - (len(above) - above.count(None))

    def _look(self) -> None:
        free = self._free()
        self._left = free // 2
        if free > 0 or self._paused:
            return
        self._on_pause()
        for listener in self._listeners:
            if not listener.paused:
                self._paused.append(listener)
                listener.pause()
        now = self._loop.time()
        if now - self._logged_at >= QUIET:
            logger.warning(
                "%d descriptors are open, and %d kept free: new connections wait; raise the limit of open files "
                "(ulimit -n)",
                self._brink - free,
                self._size,
            )
        self._logged_at = now
        self._loop.call_later(RETRY, self._look_again)

    def _look_again(self) -> None:
        self._paused = [listener for listener in self._paused if not listener.closed]
        if not self._paused:
            return
        free = self._free()
        if free <= 0:
            self._loop.call_later(RETRY, self._look_again)
            return
        self._left = free // 2
        for listener in self._paused:
            listener.resume()
        self._paused = []
