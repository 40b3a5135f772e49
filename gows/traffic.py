"""Traffic: what the connections of one server, or of one loop's clients, have received and sent, and how they ended."""

from __future__ import annotations

import threading


class Traffic:
    """Numbers since the beginning. An increment of a number is a step that no other thread can come between: in the
    compiled variant it is C, and CPython switches threads at calls and backward jumps only, of which it has none. One
    that has a call in it takes the lock.
    """

    __slots__ = ("_lock", "accepted", "endings", "received", "received_bytes", "refusals", "sent", "sent_bytes")

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finaliser may come amid it, and end a connection
        self.received = 0
        """Messages (or pieces, for handlers with `on_chunk`) and control frames."""
        self.received_bytes = 0
        """As they were on the wire, under TLS."""
        self.sent = 0
        """Messages, control frames not counted."""
        self.sent_bytes = 0
        """Of these, with their frames, as they were queued."""
        self.accepted = 0
        """WebSockets."""
        self.endings: dict[tuple[int, str], int] = {}
        """WebSockets that ended, by close code and cause (CloseCause). Codes from 3000 count as 3000 or 4000: there are
        2,000 of them, and a peer may send any."""
        self.refusals: dict[int, int] = {}
        """Upgrades that were refused, by HTTP status."""

    def ended(self, code: int, cause: str) -> None:
        """One more connection has ended."""
        if code >= 3000:
            code -= code % 1000
        with self._lock:
            self.endings[code, cause] = self.endings.get((code, cause), 0) + 1

    def refused(self, status: int) -> None:
        """One more upgrade was refused."""
        with self._lock:
            self.refusals[status] = self.refusals.get(status, 0) + 1
