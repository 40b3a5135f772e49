"""Cursor: how far a client has come in a topic of gows.v1, by the rule of docs/reference/topics.md.

gows.js has the same."""

from __future__ import annotations

from enum import Enum

from gows.client.subscription import TopicSubscription
from gows.reactor.timers import Timer

Position = tuple[str, int]
"""Epoch and offset."""
SOON = 5.0
"""Seconds."""


class Take(Enum):
    """What is to be done with something that came."""

    DELIVER = 1
    DROP = 2
    """It was heard before, or will come again."""
    JUMP = 3
    """Something before it is missing."""


class Cursor:
    """The subscriptions of a client to one topic, or pattern, that stand at the same place. One that wants a history
    begins with a cursor of its own, and joins the others when it has come to where they are. The client's lock guards
    it."""

    __slots__ = (
        "asked_at",
        "asked_from",
        "asking",
        "before",
        "began",
        "is_pattern",
        "name",
        "position",
        "refusals",
        "subscriptions",
        "timer",
        "until",
        "words",
    )

    def __init__(self, name: str, subscription: TopicSubscription) -> None:
        self.name = name
        self.words = name.split(".")
        self.is_pattern = self.words[-1] == ">" or "*" in self.words
        self.subscriptions = [subscription]
        self.position: Position | None = None
        """What was heard last; None: nothing of the topic was kept when it began, or it is a pattern."""
        self.before: Position | None = None
        """What was heard last before a process answered that keeps nothing of the topic; another may know it."""
        self.until = 0
        """Up to this offset what is missing was not to be had: the server has answered with all that there is."""
        self.asking = False
        """A request for it is under way, so what comes of the topic comes again."""
        self.began = False
        """The server has said yes once."""
        self.timer: Timer | None = None
        """Until it is asked for again."""
        self.refusals = 0
        """Times in a row that the server could not say yes just then."""
        self.asked_from: Position | None = None
        self.asked_at = 0.0
        """Where it stood when it was last asked for, and when that was, by the loop's clock."""

    def take(self, position: Position | None) -> Take:
        """Note that a message came."""
        if not self.began:
            return Take.DROP
        if position is None:
            return Take.DELIVER
        if self.asking:
            return Take.DROP
        last = self._last(position)
        if position[0] != last[0] or position[1] > max(last[1], self.until) + 1:
            self._stand(last)
            return Take.JUMP
        if position[1] <= last[1]:
            return Take.DROP
        self.position = position
        return Take.DELIVER

    def move(self, position: Position, after: int = 0) -> Take:
        """Note that nothing is missing from the offset `after` up to `position`."""
        if not self.began or self.asking:
            return Take.DROP
        last = self._last(position)
        if last[0] != position[0] or after > max(last[1], self.until):
            self._stand(last)
            return Take.JUMP
        if self.position is None or last[1] < position[1]:
            self.position = position
        return Take.DROP

    def misses(self, position: Position | None) -> bool:
        """Return whether a `lost` tells what is not known, and can be asked for."""
        if position is None:
            return self.position is not None
        last = self._last(position)
        if position[0] == last[0] and position[1] <= last[1]:
            return False
        self._stand(last)
        return True

    def _last(self, position: Position) -> Position:
        """Return where the subscription stands: if no epoch is known, before the first message of the one that comes,
        or where it was in that epoch."""
        if self.position is not None:
            return self.position
        before = self.before
        return before if before is not None and before[0] == position[0] else (position[0], 0)

    def _stand(self, last: Position) -> None:
        """Stay at `last`, for something after it is missing. A position in another epoch stays, too, and is asked for
        from there: the server knows what of that epoch is in this one too."""
        if self.before is None or self.before[0] == last[0]:
            self.position = last

    @property
    def place(self) -> tuple[Position | None, Position | None]:
        """Where it stands, and, as long as that is nowhere, where it was."""
        return self.position, None if self.position else self.before

    @property
    def known(self) -> Position | None:
        """From where on it is asked for."""
        return self.position or self.before

    def makes_no_progress(self, now: float) -> bool:
        """Return whether it was asked for from where it still is, a moment ago."""
        return self.asked_from == self.known and now - self.asked_at < SOON

    def answered(self, position: Position | None, recovered: bool) -> bool:
        """Note that the server has said yes. Return whether something is lost."""
        again, self.began, self.asking, self.refusals = self.began, True, False, 0
        self.until = 0 if position is None else position[1]
        if recovered:
            self.position = self.known
        elif not self.is_pattern:
            if position is None:
                self.before = self.known
            self.position = position
        return again and not recovered

    def stop(self) -> None:
        """Ask for nothing again: the subscription is over. Any thread."""
        if self.timer is not None:
            self.timer.cancel()

    def joins(self, other: Cursor) -> bool:
        """Return whether both stand at the same place, and nothing is under way."""
        return self.began and other.began and not (self.asking or other.asking) and self.place == other.place
