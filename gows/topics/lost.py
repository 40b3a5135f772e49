"""Lost: tells subscribers of gows.v1 that they missed something, as soon as there is room for that.

A message that a connection's overflow policy refused or dropped is gone for it. What is remembered of that are the
topics and the positions of the last that it missed; what is sent when its queue has drained is one `lost` for each. A
client then asks for what is kept. A connection that misses nothing costs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from gows.codes import TOPIC_SUBPROTOCOL, CloseCode, Opcode
from gows.debug import DEBUG, check_owned
from gows.protocol.prepared import PreparedMessage
from gows.reactor.waits import inner_lock
from gows.session.overflow import Overflow
from gows.session.websocket import WebSocket
from gows.topics.patterns import stands_for
from gows.topics.publication import Position, to_json
from gows.topics.subscriptions import Subscriptions

MAX_NOTED = 64
"""Topics that are remembered of one connection; with more, it is told of each of its subscriptions."""

_MESSAGE = re.compile(
    rb'\{"type":"(?:message|join|leave|lost|position)","topic":("(?:[^"\\]|\\.)*")(?:,"epoch":("(?:[^"\\]|\\.)*"),"offset":(\d+))?'
)
"""How a message of a topic begins, as `Publication.enclosed` and `lost_event` write it."""
_ANSWER = re.compile(rb'\{"type":"(?:subscribed|unsubscribed|published|presence|error|pong)"')

Noted = dict[str, Position | None]


def lost_event(topic: str, position: Position | None) -> bytes:
    """Return the message that says that some of a topic may be missing up to `position`."""
    event: dict[str, object] = {"type": "lost", "topic": topic}
    if position is not None:
        event["epoch"], event["offset"] = position
    return to_json(event)


class Lost:
    """Remembers what connections of one server have missed, and tells them. Any thread."""

    def __init__(self, subscriptions: Subscriptions, overflow: Overflow) -> None:
        self._subscriptions = subscriptions
        self._overflow = overflow
        self._lock = inner_lock("lost")  # a finaliser may publish amid it
        self._noted: dict[WebSocket, Noted] = {}
        self.missed = 0
        """Messages of topics that subscribers of gows.v1 did not get."""
        self.sent = 0
        """`lost` events that said so."""
        self.closed = 0
        """Connections that were closed since an answer had no room."""
        overflow.on_drop = self._on_dropped_locked

    def note(self, ws: WebSocket, topic: str, position: Position | None) -> None:
        """Remember that a connection missed a message, or more, of a topic, and tell it when there is room. `position`:
        of the last. Also with the lock of its stream held."""
        if ws.subprotocol != TOPIC_SUBPROTOCOL or ws.closed:
            return
        with self._lock:
            self.missed += 1
            noted = self._noted.get(ws)
            if noted is None:
                noted = self._noted[ws] = {}
            if topic in noted or len(noted) < MAX_NOTED:
                noted[topic] = position
            elif len(noted) == MAX_NOTED:
                noted[""] = None  # which is no topic: there were more
        if not self._overflow.when_room(ws, partial(self._tell, ws)):
            with self._lock:
                self._noted.pop(ws, None)

    def note_all(self, connections: Iterable[WebSocket], topic: str, position: Position | None) -> None:
        """Call `note` for many connections."""
        for ws in connections:
            self.note(ws, topic, position)

    def close(self, ws: WebSocket) -> None:
        """Close a connection that did not get an answer, and so would wait for it. Any thread, without a lock held."""
        if ws.closed:  # which is why the answer was not sent
            return
        with self._lock:
            self.closed += 1
        ws.close_handshake(CloseCode.TRY_AGAIN_LATER, "too slow")

    def __len__(self) -> int:
        """Return how many connections are to be told something."""
        return len(self._noted)

    def _on_dropped_locked(self, ws: Any, data: bytes) -> None:
        """Note that a message that waited for a connection was dropped. The lock is that of its stream."""
        if DEBUG:
            check_owned(ws.stream.lock)
        if isinstance(ws, WebSocket) and ws.subprotocol == TOPIC_SUBPROTOCOL:
            found = _MESSAGE.match(data)
            if found is not None:
                topic, epoch, offset = found.groups()
                position = None if epoch is None else Position(json.loads(epoch), int(offset))
                self.note(ws, json.loads(topic), position)
            elif _ANSWER.match(data):
                ws.context.loop.call_soon(self.close, ws)

    def _tell(self, ws: WebSocket) -> None:
        """Tell a connection what it missed: there is room, or the connection has ended."""
        with self._lock:
            noted = self._noted.pop(ws, {})
        if ws.closed:
            return
        mine = self._subscriptions.of(ws)
        if "" in noted:
            noted = dict.fromkeys(mine)
        else:
            words = [pattern.split(".") for pattern in mine]
            noted = {
                topic: position
                for topic, position in noted.items()
                if topic in mine or any(stands_for(pattern, topic.split(".")) for pattern in words)
            }
        for topic, position in noted.items():
            if ws.send_prepared(PreparedMessage(Opcode.TEXT, lost_event(topic, position))):
                self.sent += 1
            else:
                self.note(ws, topic, position)
