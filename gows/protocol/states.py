"""The states of a WebSocket connection after the handshake, and every step between them (RFC 6455 §5.4, §5.5.1, §7).

A connection is two machines. The *receiving half* is moved by what the peer sends, in the thread that reads; the
*sending half* by what we send, under the lock of whoever writes. Neither thread ever stores into the other's half, so
the two may move at the same time; whatever depends on both looks at the pair.

    receiving half                                      sending half

    READING ──close frame──► GOT_CLOSE ──┐              READY ◄──fin── MESSAGE, DEFLATED
       ├──a broken rule────► FAULT ──────┤                │ └──first fragment──►┘ │
       └──the stream is gone──► ENDED ◄──┘                └──close──► SENT_CLOSE ◄┘

Nothing is parsed outside READING. Control frames may go out between the fragments of a message (§5.4), a second
data message may not. A close frame is the last frame a side sends (§5.5.1). What was received before the peer's
close frame, or before its fault, may still be answered before our close frame goes out; once the stream is gone
nothing can be sent. In SENT_CLOSE the peer's data is read past, up to its close frame (§1.4, §7.1.1).

                    READY, MESSAGE or DEFLATED      SENT_CLOSE
    READING         OPEN                            CLOSING
    GOT_CLOSE       CLOSE_RECEIVED                  CLOSED
    FAULT           FAILED                          CLOSED
    ENDED           CLOSED                          CLOSED

A pair is the index `receiving | sending` into the tables below.
"""

from __future__ import annotations

from enum import Enum, IntEnum

from gows.errors import ConnectionClosedError, UsageError, WriterBusyError


class Role(Enum):
    """Which end of the connection we are: a client masks what it sends, a server must not (RFC 6455 §5.1)."""

    SERVER = "server"
    CLIENT = "client"


class ConnectionState(IntEnum):
    """What the pair of halves means to a user."""

    OPEN = 1
    CLOSING = 2
    """We sent a close frame and wait for the peer's."""
    CLOSE_RECEIVED = 3
    """The peer sent a close frame; ours is due, after what is still to be answered."""
    FAILED = 4
    """The peer broke a rule; our close frame is due, after what is still to be answered."""
    CLOSED = 5


# the kinds of events; those of whole frames are the opcodes
CHUNK = 0
TEXT = 1
BINARY = 2
CLOSE = 8
PING = 9
PONG = 10
FAIL = 11

# the sending half
READY = 0
MESSAGE = 1
DEFLATED = 2
SENT_CLOSE = 3

# the receiving half
READING = 0
GOT_CLOSE = 4
FAULT = 8
ENDED = 12

STATES: tuple[ConnectionState, ...] = (
    *(ConnectionState.OPEN,) * 3,
    ConnectionState.CLOSING,
    *(ConnectionState.CLOSE_RECEIVED,) * 3,
    ConnectionState.CLOSED,
    *(ConnectionState.FAILED,) * 3,
    ConnectionState.CLOSED,
    *(ConnectionState.CLOSED,) * 4,
)

Refusal = tuple[type[UsageError], str]

_BUSY: Refusal = (WriterBusyError, "another message is still being written")
_NO_MESSAGE: Refusal = (UsageError, "no message is being written: its first fragment comes first")
_CLOSING: Refusal = (ConnectionClosedError, "the close frame was sent: nothing may follow it")
_ENDED: Refusal = (ConnectionClosedError, "the connection has ended")


def _sending(ready: Refusal | None, message: Refusal | None) -> tuple[Refusal | None, ...]:
    return (ready, message, message, _CLOSING) * 3 + (_ENDED,) * 4


# what may be sent in which pair: None, or the error that refuses it
SEND_MESSAGE = _sending(ready=None, message=_BUSY)
"""A whole message, or the first fragment of one."""
SEND_NEXT = _sending(ready=_NO_MESSAGE, message=None)
"""The next fragment of the message that was begun."""
SEND_CONTROL = _sending(ready=None, message=None)
"""A ping, a pong, or the close frame."""
