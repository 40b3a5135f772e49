"""Every error gows raises, split by whose fault it is.

GowsError
├── PeerError                    the other side broke a rule; the answer travels with the error
│   ├── ProtocolError            … of RFC 6455 or 7692, after the upgrade: `close_code`, `reason`
│   └── HttpError                … of RFC 9112, before it: `status`, `reason`, `headers`
│       └── HandshakeError       … of RFC 6455 §4: the upgrade is refused
├── UsageError                   our user broke a rule; raised before any side effect
│   ├── NotAllowedError          a client may not subscribe, or publish (also a PermissionError)
│   ├── ConnectionClosedError    a write after the close began
│   │   └── DisconnectedError    … by an ASGI application (also a ConnectionError, so an OSError)
│   ├── BufferReleasedError      a ByteBuffer used after it was given back
│   ├── WriterBusyError          a second data writer while one is open
│   ├── InvalidHeaderError       a header that may not be sent (also a ValueError)
│   ├── InvalidCloseCodeError    a close code or reason that may not travel (also a ValueError)
│   ├── LoopClosedError          work for a loop that was closed
│   └── StartupError             an ASGI application could not start
├── QueueFullError               the outgoing queue is over its high-water mark (policy "refuse")
├── BrokerError                  the broker of topics does not take a message now, or it is not known whether it has
├── TopicError                   a server of gows.v1 refused what a TopicClient asked for (`code`)
├── ReceiveTimeoutError          nothing came in time (blocking client; also a TimeoutError)
└── ConnectError                 the client could not connect (also a ConnectionError)
    ├── ConnectTimeoutError      … in time (also a TimeoutError)
    └── ProxyError               … because of the proxy (`status`)

Our own faults are not here: they are bugs, and surface as whatever Python raises.
"""

from __future__ import annotations

from collections.abc import Sequence

from gows.codes import CloseCause
from gows.printable import printable


class GowsError(Exception):
    """Base of all errors of this package."""


class PeerError(GowsError):
    """The other side broke a rule."""


class ProtocolError(PeerError):
    """The peer broke RFC 6455 or RFC 7692 after the upgrade.

    `close_code` and `reason` (at most 123 bytes of UTF-8) are what our close frame says, `cause` is what `close_cause`
    becomes.
    """

    cause = CloseCause.PROTOCOL_ERROR

    def __init__(self, close_code: int, reason: str) -> None:
        super().__init__(close_code, reason)
        self.close_code = close_code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.close_code} {self.reason}"


class HttpError(PeerError):
    """An HTTP request that cannot be served: `status`, `reason` (plain text for the body), extra `headers`."""

    def __init__(self, status: int, reason: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.headers = tuple(headers)

    def __str__(self) -> str:
        return f"{self.status} {printable(self.reason)}"  # which may be a server's


class HandshakeError(HttpError):
    """An upgrade that was refused (RFC 6455 §4.2.2), or, in a client, an answer that is not a valid 101 (§4.1).

    In a client `body` is what the server said beside the status: the first bytes of the body of its answer.
    """

    body: bytes = b""


class UsageError(GowsError):
    """The caller broke a rule of this library; nothing was done."""


class ConnectionClosedError(UsageError):
    """The connection is closed or closing, so nothing can be written any more, nor received from it.

    `code` and `reason` say how it ended, where that was known (RFC 6455 §7.1.5, §7.1.6).
    """

    def __init__(self, message: str = "", code: int | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class DisconnectedError(ConnectionClosedError, ConnectionError):
    """An ASGI application sends to a client that has gone. Applications let it pass, or catch it as an OSError."""


class NotAllowedError(UsageError, PermissionError):
    """`may_subscribe` or `may_publish` said no to a client."""


class BufferReleasedError(UsageError):
    """A ByteBuffer was used after it was given back."""


class WriterBusyError(UsageError):
    """A data message was begun while another one is still being written with `next_writer`."""


class InvalidHeaderError(UsageError, ValueError):
    """A header that may not be sent: CR, LF or control bytes, a name that is no token, or one the handshake owns."""


class InvalidCloseCodeError(UsageError, ValueError):
    """A close code that may not travel, or a close reason over 123 bytes."""


class LoopClosedError(UsageError):
    """The loop was closed and takes no more work."""


class StartupError(UsageError):
    """The ASGI application of a server could not start; the message is the application's."""


class QueueFullError(GowsError):
    """The connection's outgoing queue is over its high-water mark; the message was not queued."""


class BrokerError(GowsError):
    """The broker does not take a message now, or it is not known whether it has taken it."""


class TopicError(GowsError):
    """A server of gows.v1 refused what a client asked for; `code` is one of the table in docs/reference/topics.md."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class ReceiveTimeoutError(GowsError, TimeoutError):
    """No message came within the timeout."""


class ConnectError(GowsError, ConnectionError):
    """A client connection could not be made."""


class ConnectTimeoutError(ConnectError, TimeoutError):
    """A client connection, its TLS and its opening handshake together, took longer than the timeout."""


class ProxyError(ConnectError):
    """The proxy cannot be reached, refuses, or answers what nobody understands.

    `status` is what it answered: the HTTP status of its answer to CONNECT (407: it wants other credentials), or the
    status or reply of SOCKS5 (RFC 1928 §6, RFC 1929 §2); None when there was no answer, or none that is valid.
    `temporary`: whether trying again may help.
    """

    def __init__(self, message: str = "", status: int | None = None, *, temporary: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.temporary = temporary
