"""Traffic: what the connections of one server, or of one loop's clients, have received and sent, and how they ended."""

from __future__ import annotations


class Traffic:
    """Counts since the beginning. Any thread changes the numbers, without a lock.

    `+= 1` is a step that no other thread can come between, nor a signal handler: in the compiled variant it is C, and
    CPython from 3.10 on does something else at calls, jumps and beginnings of functions only, of which it has none.
    There must be no call on its right side: `+= len(frame)` loses counts in 3.10, `x[y] = x.get(y, 0) + 1` in all.
    tests/test_counters.py looks for such steps everywhere. Without the interpreter lock none of this holds.
    """

    __slots__ = ("accepted", "endings", "received", "received_bytes", "refusals", "sent", "sent_bytes")

    def __init__(self) -> None:
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
        """Count a connection that has ended."""
        if code >= 3000:
            code -= code % 1000
        ending = code, cause
        self.endings.setdefault(ending, 0)
        self.endings[ending] += 1

    def refused(self, status: int) -> None:
        """Count an upgrade that was refused."""
        self.refusals.setdefault(status, 0)
        self.refusals[status] += 1
