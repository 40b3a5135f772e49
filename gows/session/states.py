"""The states of a session, and what each event does in each of them.

A session is three small machines; all change under `stream.lock`. `session.py` takes the steps, the tables say where
they lead, and tests/session/test_states.py drives a session through every cell.

*Delivery* is moved by events, which are dealt with in their order, one at a time (`DELIVERY`):

    UNSERVED ──serve()──► SERVED ──a callback raised──► MUTED
                            └───────────────┬─────────────┘
                              the connection has ended ──► FINISHED

*Inbox* says whether a task sees to the events that wait (`INBOX`). There is never more than one task:

    IDLE ──an event arrives──► TASK ──the outgoing queue is over the mark──► HELD
      ▲────nothing is left──────┘ ▲────────the queue has drained, or is gone────┘

*Reading* goes on until the inbox is full, or too much is held for all connections (INBOX_FULL), and again once the
inbox is empty and there is room.

Beside them stands the state of the connection itself (protocol/states.py), which says what may still be sent.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from gows.codes import Opcode
from gows.protocol.states import BINARY, CHUNK, CLOSE, FAIL, PING, PONG, TEXT, ConnectionState

Event = tuple[int, Any]
"""A kind and its value. The protocol's kinds are CHUNK to FAIL; these are the session's own:"""
OPENED = 16  # the handler was attached
HALF_CLOSED = 17  # the peer half-closed without a close frame
STREAM_LOST = 18  # the stream is gone
DRAINED = 19  # the outgoing queue fell to the low-water mark
DISMISS = 20  # we close, behind what came before
COROUTINE = 21  # what a callback returned in a worker, for the loop's thread to start
PINGED = 22  # a ping that was answered ahead of what waits, for a handler with an `on_ping`

OPCODES = (Opcode.CONTINUE, Opcode.TEXT, Opcode.BINARY)
"""What handlers are given for CHUNK (its value says which), TEXT and BINARY."""

# Bits of Session._flags; they change under stream.lock.
HELD = 1  # callbacks wait until the outgoing queue has drained
INBOX_FULL = 2  # reading is paused because the inbox is full
LEAVING = 4  # the deadline that is set is that of the close
MUTED = 8  # a callback raised: no more messages are delivered
FINISHED = 16  # on_close was called
LOST_EARLY = 32  # the stream was lost before a handler was attached
UNSERVED = 64  # no handler was attached yet
DISMISSED = 128  # a close waits in the inbox
COUNTED = 256  # `Receiving` counts what is held
AWAITING = 512  # a callback is a coroutine that has not ended: what comes meanwhile waits in the inbox
PONG_UNIT = 1024  # from here on: how many pongs were queued since the outgoing queue was last empty

SPECIAL = HELD | INBOX_FULL | MUTED | FINISHED | UNSERVED | AWAITING
"""With one of these a message may not simply be delivered."""

ENDING = (ConnectionState.CLOSING, ConnectionState.CLOSED)
"""Nothing may be written. In CLOSE_RECEIVED and FAILED, what came before may still be answered."""


class Delivery(IntEnum):
    """Where the delivery of events stands, once a handler was attached."""

    SERVED = 0
    MUTED = MUTED
    FINISHED = FINISHED


Cell = tuple["str | None", Delivery]
"""The callback that is called, and the state that follows if it returns. (If it raises: MUTED; FINISHED stays.)"""

_NOTHING: Cell = (None, Delivery.FINISHED)
_MUTED: Cell = (None, Delivery.MUTED)
_ENDS: Cell = ("on_close", Delivery.FINISHED)


def _calls(name: str) -> tuple[Cell, Cell, Cell]:
    return (name, Delivery.SERVED), _MUTED, _NOTHING


DELIVERY: dict[int, tuple[Cell, Cell, Cell]] = {
    # in SERVED, in MUTED, in FINISHED
    OPENED: _calls("on_open"),
    TEXT: _calls("on_message"),
    BINARY: _calls("on_message"),
    CHUNK: _calls("on_chunk"),
    PING: _calls("on_ping"),
    PINGED: _calls("on_ping"),
    PONG: _calls("on_pong"),
    DRAINED: _calls("on_drain"),
    DISMISS: ((None, Delivery.SERVED), _MUTED, _NOTHING),  # our close frame is sent; the peer's will end it
    CLOSE: (_ENDS, _ENDS, _NOTHING),  # answered first, unless it is the answer to ours
    FAIL: (_ENDS, _ENDS, _NOTHING),  # a close frame says so to the peer first
    HALF_CLOSED: (_ENDS, _ENDS, _NOTHING),
    STREAM_LOST: (_ENDS, _ENDS, _NOTHING),
}


class Inbox(IntEnum):
    """Who sees to the events that wait."""

    IDLE = 0
    """Nothing waits: the inbox is None."""
    TASK = 1
    """One task is submitted or runs: the inbox is a list."""
    HELD = 2
    """The task has ended, and is submitted again once the outgoing queue has drained: a list, and the flag HELD."""


class Step(IntEnum):
    """What moves an inbox."""

    ARRIVES = 0
    """An event arrives."""
    RUNS = 1
    """The task runs, and deals with all that waits."""
    STOPS = 2
    """The task runs, and stops: the outgoing queue is over the high-water mark."""
    DRAINS = 3
    """The outgoing queue falls to the low-water mark. (If the handler has an `on_drain`, that is an event, too.)"""
    ENDS = 4
    """The stream is lost, which is an event, too."""


INBOX: dict[Inbox, tuple[Inbox | None, ...]] = {
    # by Step: ARRIVES, RUNS, STOPS, DRAINS, ENDS; None: there is no task that could run
    Inbox.IDLE: (Inbox.TASK, None, None, Inbox.IDLE, Inbox.TASK),
    Inbox.TASK: (Inbox.TASK, Inbox.IDLE, Inbox.HELD, Inbox.TASK, Inbox.TASK),
    Inbox.HELD: (Inbox.HELD, None, None, Inbox.TASK, Inbox.TASK),
}
