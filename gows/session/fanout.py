"""Fanout: one message to very many connections, a bounded number a turn."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gows.errors import LoopClosedError, QueueFullError
from gows.protocol.prepared import PreparedMessage, PreparedSeries
from gows.reactor import Loop, Stream
from gows.reactor.waits import inner_lock
from gows.session.websocket import WebSocket

logger = logging.getLogger("gows")

DELIVERIES_PER_TURN = 256
"""Messages put on queues in one turn: some two milliseconds with their sends. Others wait no longer than that."""
MAX_JOINED = 32
"""Messages that go to the same connections in one go."""
JOINED_SIZE = 8192
"""Bytes of small messages that are queued for a connection in one piece; with their send they cost about as much as one
message."""
MAX_WAITING = 64 << 20
"""Bytes of messages that may wait for their turn."""

Item = tuple[PreparedMessage, "WebSocket | None", object]
"""A message, whom it is not for, and what it is about."""
_ALL: Mapping[WebSocket, int] = {}


def _ignore(ws: WebSocket, about: object) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Audience:
    """Finds the open WebSockets of `owner` on a loop; of one `group` of AcceptOptions, or of all (None).

    Iterating it goes through the loop's descriptors, one step each: None where there is no such connection. In the
    loop's thread it may go on over many turns; connections that were open all the time are among them.
    """

    loop: Loop
    owner: object
    group: str | None = None

    def __iter__(self) -> Iterator[WebSocket | None]:
        owner, group = self.owner, self.group
        for stream in self.loop.streams:  # a list that only grows
            if isinstance(stream, Stream):
                ws = stream.observer
                if isinstance(ws, WebSocket):
                    context = ws.context
                    if context.owner is owner and (group is None or context.options.group == group):
                        yield ws
                        continue
            yield None

    def members(self) -> list[WebSocket]:
        """Return those that are open now. Any thread."""
        return [ws for ws in self if ws is not None and not ws.closed]


class Fanout:
    """Sends messages to many connections of one loop. One message after the other, so everybody gets them in one order;
    each goes on over as many turns as it takes. What a turn has for one connection goes out in one system call.

    A message is encoded and compressed once for each variant of the connections, not for each connection.
    """

    __slots__ = (
        "_lock",
        "_loop",
        "_rounds",
        "_share",
        "delivered",
        "expired",
        "missed",
        "on_excluded",
        "on_missed",
        "owed",
        "waiting",
    )

    def __init__(self, loop: Loop, share: float = 1.0) -> None:
        """`share`: how much of `DELIVERIES_PER_TURN` it takes, for what may wait when others have much to send."""
        self._loop = loop
        self._share = share
        self._lock = inner_lock("fanout")  # a finaliser or a signal handler may come amid it, and publish
        self._rounds: deque[_Round] = deque()  # the first one is under way
        self.waiting = 0
        """Bytes of the messages that are not with everybody yet."""
        self.owed = 0
        """Messages times the connections that they go to, of those that are not with everybody yet; broadcasts do not
        count."""
        self.delivered = 0
        """Messages put on queues, over all."""
        self.missed = 0
        """… and not put there: the connection had just ended, or its overflow policy dropped it."""
        self.on_missed: Callable[[WebSocket, Any], object] = _ignore
        """Called in the loop's thread with a connection that missed a message, and with what was said to be `about`."""
        self.on_excluded: Callable[[WebSocket, Any], object] = _ignore
        """… and with one that was excluded, in the place of the message."""
        self.expired = 0
        """Messages that expired before every target had got them."""

    def send(
        self,
        message: PreparedMessage,
        targets: Iterable[WebSocket | None],
        exclude: WebSocket | None = None,
        about: object = None,
    ) -> None:
        """Queue `message` on every connection of `targets` but `exclude`. Any thread; never blocks.

        `targets` is gone through in the loop's thread, later, and must not change until then: give a copy. None in it
        is nobody. `about`: what `on_missed` and `on_excluded` are called with; None: they are not called. Messages that
        are sent to the very same object of targets, or an equal Audience, while earlier ones are under way, go out
        together. Raises QueueFullError when 64 MiB of messages wait, LoopClosedError."""
        size = len(message.data)  # no call within an increment: a signal handler may send amid it
        owed = len(targets) if isinstance(targets, tuple) else 0
        with self._lock:
            self.check(message)
            rounds = self._rounds
            last = rounds[-1] if rounds else None
            if last is None or last.begun or len(last.messages) >= MAX_JOINED or not _same(last.targets, targets):
                last = _Round(targets)
                rounds.append(last)
                if len(rounds) == 1:
                    try:
                        self._loop.call_soon(self._turn)
                    except LoopClosedError:
                        rounds.clear()
                        raise
            last.messages.append((message, exclude, about))
            last.expires = min(last.expires, message.expires)
            self.waiting += size
            self.owed += owed

    def send_together(
        self, items: Sequence[Item], targets: tuple[WebSocket, ...], first: Mapping[WebSocket, int]
    ) -> None:
        """Queue messages that came together on every connection of `targets`, in their order. `first`: for connections
        that do not get all, the place in `items` of the first one for them. 8 KiB of such messages count as one in a
        turn's share. Any thread; never blocks. Raises LoopClosedError; to `check` is left to the caller.
        """
        if not targets:
            return
        rounds: list[_Round] = []
        size, total = JOINED_SIZE, 0
        for number, item in enumerate(items):
            length = len(item[0].data)
            size += length
            total += length
            if size > JOINED_SIZE:
                size = length
                rounds.append(_Round(targets, first, number))
                rounds[-1].begun = rounds[-1].together = True
            rounds[-1].messages.append(item)
            rounds[-1].expires = min(rounds[-1].expires, item[0].expires)
        owed = len(targets) * len(items)
        with self._lock:
            if not self._rounds:
                self._loop.call_soon(self._turn)
            self._rounds.extend(rounds)
            self.waiting += total
            self.owed += owed

    @property
    def busy(self) -> bool:
        """Return whether there is a message that not every target has got yet. Any thread."""
        return bool(self._rounds)

    def check(self, message: PreparedMessage, more: int = 0) -> None:
        """Raise QueueFullError, as `send` does, unless there is room for a message. `more`: bytes of messages that wait
        to be sent here."""
        waiting = self.waiting + more
        if waiting and waiting + len(message.data) > MAX_WAITING:
            raise QueueFullError(f"{waiting} bytes of messages to many wait already")

    def _turn(self) -> None:
        """Put messages on queues, as many as belong in one turn. Loop thread."""
        most = budget = max(1, int(DELIVERIES_PER_TURN * self._share))
        while budget > 0:
            first = self._rounds[0]
            if not first.begun:
                with self._lock:  # from now on nothing joins it
                    first.begun = True
            if budget < first.cost and budget < most:
                break
            try:
                spent, ended = self._deliver(first, budget)
            except Exception:  # of iterating over targets that a user made
                logger.exception("sending to many connections failed midway")
                spent, ended = 0, True
            budget -= max(1, spent)
            if ended:
                with self._lock:
                    size = sum(len(message.data) for message, _, _ in first.messages)
                    owed = len(first.targets) * len(first.messages) if isinstance(first.targets, tuple) else 0
                    self.waiting -= size
                    self.owed -= owed
                    self._rounds.popleft()  # after the sum, in which a finaliser may send
                    if not self._rounds:
                        return
        self._loop.call_soon(self._turn)

    def _deliver(self, round_: _Round, budget: int) -> tuple[int, bool]:
        """Queue the messages of a round for its next targets. Return how much of the budget that took, and whether
        these were the last ones."""
        now = self._loop.time()
        if round_.expires <= now and not self._drop_expired(round_, now):
            return 0, True
        spent = delivered = missed = 0
        messages, cost, first, place = round_.messages, round_.cost, round_.first, round_.place
        series, apart = round_.series()
        ended = True
        for ws in round_.rest:
            spent += cost  # also for None: it costs time, too
            if ws is not None:
                left = messages
                if first and first.get(ws, 0) > place:
                    left = messages[first[ws] - place :]
                if series is not None and left is messages and ws not in apart and ws.send_series(series):
                    delivered += len(messages)
                else:
                    for message, exclude, about in left:
                        if ws is exclude:
                            if about is not None:
                                self.on_excluded(ws, about)
                        elif ws.send_prepared(message):
                            delivered += 1
                        else:
                            missed += 1
                            if about is not None:
                                self.on_missed(ws, about)
                    if round_.together:
                        spent += len(left)
            if spent + cost > budget:
                ended = False
                break
        self.delivered += delivered
        self.missed += missed
        return spent, ended

    def _drop_expired(self, round_: _Round, now: float) -> bool:
        """Remove the messages of a round that have expired. Return whether there are others."""
        kept = [item for item in round_.messages if item[0].expires > now]
        dropped = len(round_.messages) - len(kept)
        self.expired += dropped
        with self._lock:
            size = sum(len(message.data) for message, _, _ in round_.messages if message.expires <= now)
            owed = len(round_.targets) * dropped if isinstance(round_.targets, tuple) else 0
            self.waiting -= size
            self.owed -= owed
            round_.replace(kept)
        return bool(kept)


class _Round:
    """Messages that go to the same targets."""

    __slots__ = ("_series", "begun", "expires", "first", "messages", "place", "rest", "targets", "together")

    def __init__(
        self, targets: Iterable[WebSocket | None], first: Mapping[WebSocket, int] = _ALL, place: int = 0
    ) -> None:
        self.targets = targets
        self.rest = iter(targets)
        self.messages: list[Item] = []
        self.begun = False
        self.together = False
        """Whether they were sent together, and count as one message."""
        self.expires = math.inf  # of the first that does
        self.first = first
        """As for `send_together`."""
        self.place = place
        """The place of the round's first message there."""
        self._series: tuple[PreparedSeries | None, frozenset[WebSocket | None]] | None = None  # once it is needed

    @property
    def cost(self) -> int:
        """Return how many deliveries it counts to reach one target."""
        return 1 if self.together else len(self.messages)

    def series(self) -> tuple[PreparedSeries | None, frozenset[WebSocket | None]]:
        """Return the messages as a series, unless there is only one, or they are large; and who does not get all."""
        if self._series is None:
            messages = [message for message, _, _ in self.messages]
            small = len(messages) > 1 and sum(len(message.data) for message in messages) <= JOINED_SIZE
            excluded = frozenset(exclude for _, exclude, _ in self.messages)
            self._series = (PreparedSeries(messages) if small else None, excluded)
        return self._series

    def replace(self, messages: list[Item]) -> None:
        """Go on with a part of the messages."""
        self.messages = messages
        self.expires = min((message.expires for message, _, _ in messages), default=math.inf)
        self._series = None


def _same(one: object, other: object) -> bool:
    return one is other or (isinstance(one, Audience) and one == other)
