"""EncipheredSocket: a socket whose bytes travel in a TLS session, for a TLSStream that runs inside of it.

A proxy that is spoken to by TLS carries the TLS of the server behind it: each byte is enciphered twice. Few connections
need that, so the outer session is hidden behind the methods of a socket, and the stream knows nothing of it.

For the stream two rules of a kernel's socket must hold. What can be read is reported by the poller: so each read takes
all that can be deciphered, for no event would tell of the rest. What `send` has taken is under way: so as long as the
kernel has not taken all that was enciphered, `send` answers for one byte less than it has taken, and the stream comes
again when there is room.

A signal handler or a finaliser may write to the connection amid a read or a send of the same thread: it is told that
there is no room, and the stream comes again.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gows.reactor.interfaces import Sock
from gows.reactor.waits import inner_lock

RECORD = 17408
"""Bytes of the largest TLS record, its head included, and some more (RFC 5246 §6.2.3: 2^14 + 2048 + 5)."""
LEAST_BUFFER = 2 * RECORD
"""Bytes that a buffer to read into has at least."""
READ = 65536
"""Bytes taken from the kernel in one read at most."""
PIECE = 8192
"""Bytes that lie in a memory BIO at most: it keeps for ever what it has grown to."""
PORTION = 131072
"""Plain bytes enciphered for one send at most."""
MOST_USELESS = 65536
"""Bytes of records without data that are taken. A key update (RFC 8446 §4.6.3) costs ten times the CPU time of what it
weighs, and none is needed more than now and then."""
WORTH = 100
"""Bytes of records that a byte of data may take: the longest record of one byte is 85 (RFC 5246 §6.2.3.2)."""
MOST_OWED = 65536
"""Bytes that the TLS layer itself wants to send, to a peer that does not read."""


class EncipheredSocket:
    """A Sock over another one and the TLS session that was begun there. Any thread: the session has a lock of its own,
    under which nothing waits."""

    __slots__ = ("_busy", "_cipher", "_lock", "_owed", "_produced", "_received", "_session", "_sock", "_useless")

    def __init__(self, sock: Sock, session: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self._sock = sock
        self._session = session
        self._received = incoming
        self._produced = outgoing
        self._cipher = memoryview(b"")  # enciphered and not yet taken by the kernel
        self._owed = 0  # 1: the next byte that `send` gets is in `_cipher` already
        self._lock = inner_lock("enciphered")
        self._busy = False  # amid one of the methods below
        self._useless = 0  # bytes of records that brought no data, about

    @contextmanager
    def _session_alone(self) -> Iterator[None]:
        """Keep others from the session. Raises BlockingIOError in a thread that is amid it already."""
        with self._lock:
            if self._busy:
                raise BlockingIOError("called amid another call")
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    # ------------------------------------------------------------------ reading

    def recv_into(self, buffer: bytearray | memoryview, /) -> int:
        """Read what has come into `buffer`, of LEAST_BUFFER bytes or more. Returns how many bytes; 0 at the end.

        Raises BlockingIOError when there is nothing, OSError (ssl.SSLError) when the session is broken.
        """
        with self._session_alone(), memoryview(buffer) as view:
            cipher = bytearray(min(READ, len(view) - RECORD))
            n = self._sock.recv_into(cipher)
            if not n:
                self._received.write_eof()
            filled, ended = self._decipher(view, memoryview(cipher)[:n])
            if self._produced.pending:  # of the TLS layer itself: a key update (RFC 8446 §4.6.3)
                self._cipher = memoryview(bytes(self._cipher) + self._produced.read())
                self._try_to_send()
                if len(self._cipher) > 2 * PORTION + MOST_OWED:
                    raise ssl.SSLError("the peer has keys updated, and does not read")
        if not filled and not ended:
            raise BlockingIOError("a part of a record")
        return filled

    def _decipher(self, view: memoryview, cipher: memoryview) -> tuple[int, bool]:
        """Decipher all of `cipher` into `view`, which has room for it. Returns how many bytes it was, and whether the
        session has ended behind them: then the next read finds that again."""
        filled = 0
        while True:
            if cipher and not self._received.pending:
                fed = self._received.write(cipher[:PIECE])
                self._useless += fed
                cipher = cipher[PIECE:]
            try:
                n: int = self._session.read(len(view) - filled, view[filled:])  # type: ignore[assignment]
            except ssl.SSLWantReadError:
                if self._useless > MOST_USELESS:
                    raise ssl.SSLError("too many records without data") from None
                if not cipher:
                    return filled, False
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # what is carried tells a truncated message by itself
                return filled, True
            if not n:
                return filled, True
            filled += n
            self._useless = max(0, self._useless - WORTH * n)

    # ------------------------------------------------------------------ sending

    def send(self, data: bytes | memoryview, /) -> int:
        """Encipher a portion of `data` and send it. Returns how many bytes were taken; what was not must come again
        first. Raises BlockingIOError when the kernel takes nothing."""
        with self._session_alone():
            self._send()
            taken = self._owed
            self._owed = 0
            plain = memoryview(data)[taken:PORTION]
            pieces = []
            while plain:
                written = self._session.write(plain[:PIECE])
                plain = plain[written:]
                pieces.append(self._produced.read())
                taken += written
            self._cipher = memoryview(b"".join(pieces))
            try:
                self._send()
            except BlockingIOError:
                self._owed = 1
                if taken == 1:
                    raise
            return taken - self._owed

    def sendmsg(self, buffers: Sequence[bytes | memoryview], /) -> int:
        """Send several pieces, as `send` does."""
        return self.send(b"".join(buffers))

    def _send(self) -> None:
        """Send what is enciphered. Raises BlockingIOError when the kernel does not take all of it."""
        while self._cipher:
            self._cipher = self._cipher[self._sock.send(self._cipher) :]

    def _try_to_send(self) -> None:
        """Send what is enciphered, as far as the kernel takes it."""
        try:
            self._send()
        except BlockingIOError:
            pass

    def shutdown(self, how: int, /) -> None:
        """End the session (close_notify, RFC 8446 §6.1), then the connection."""
        if how != socket.SHUT_RD:
            with self._session_alone():
                try:
                    self._session.unwrap()
                except ssl.SSLError:  # want-read: it is queued, and the peer's own is not awaited
                    pass
                self._cipher = memoryview(bytes(self._cipher) + self._produced.read())
                self._try_to_send()
        self._sock.shutdown(how)

    # ------------------------------------------------------------------ of the socket beneath

    @property
    def family(self) -> int:
        """The address family."""
        return self._sock.family

    def fileno(self) -> int:
        """Return the descriptor; -1 once closed."""
        return self._sock.fileno()

    def getsockname(self) -> Any:
        """Return our end."""
        return self._sock.getsockname()

    def getpeername(self) -> Any:
        """Return the other end: the proxy."""
        return self._sock.getpeername()

    def getsockopt(self, *arguments: int) -> Any:
        """As of the socket beneath."""
        return self._sock.getsockopt(*arguments)

    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None:
        """As of the socket beneath."""
        self._sock.setsockopt(level, option, value)

    def close(self) -> None:
        """Close the descriptor."""
        self._sock.close()
