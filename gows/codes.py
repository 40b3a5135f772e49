"""The numbers of RFC 6455, opcodes (§5.2, §11.8) and close codes (§7.4, §11.7), and what made a connection end.

Kept out of every compiled module, so that the plain and the compiled engine share one set of enums.
"""

from __future__ import annotations

from enum import Enum, IntEnum


class Opcode(IntEnum):
    """What a frame carries (RFC 6455 §5.2)."""

    CONTINUE = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(IntEnum):
    """Why a connection ended (RFC 6455 §7.4.1 and the IANA registry).

    1004 to 1006 and 1015 never travel: they are what an endpoint tells its own user.
    """

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    RESERVED = 1004
    NO_CLOSE_RCVD = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015


class CloseCause(Enum):
    """What made a connection end, as the engine saw it: two ends with the same code are told apart by it."""

    PEER = "peer"
    """The peer's close frame."""
    LOST = "lost"
    """The TCP connection ended without one."""
    LOCAL = "local"
    """`close_handshake()` or `close()` of the user's."""
    HANDLER_ERROR = "handler_error"
    """A callback raised (1011)."""
    PROTOCOL_ERROR = "protocol_error"
    """The peer broke the protocol."""
    IDLE = "idle"
    """Too little came: no answer to a ping, nothing within the read timeout, no end of a message within its timeout."""
    SLOW = "slow"
    """The peer did not take what was sent: the write timeout, or the overflow policy "close" (1013)."""
    RATE = "rate"
    """The peer sent more than it may (1008), or held the most of what was received when too much was held (1013)."""
    SHUTDOWN = "shutdown"
    """The server stopped (1001, 1012)."""
    UNSERVED = "unserved"
    """It was accepted, but `serve` did not follow in time (1011)."""


_LOCAL_ONLY = frozenset({1004, 1005, 1006, 1015})


def may_travel(code: int) -> bool:
    """Return whether `code` may stand in a close frame, sent or received (RFC 6455 §7.4.2)."""
    return (1000 <= code <= 1014 and code not in _LOCAL_ONLY) or 3000 <= code <= 4999


TOPIC_SUBPROTOCOL = "gows.v1"
"""By which a client uses a server's topics; docs/reference/topics.md."""
