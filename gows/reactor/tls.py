"""TLSStream: a Stream whose bytes are enciphered on the way, over `ssl.SSLObject` and two memory BIOs.

The handshake is a phase of the stream's life (CONNECTING): what is written waits for its end, and it knows no
deadline of its own, so that the observer's, set when the connection was accepted, bounds it together with what follows.

The SSLObject is not safe for two threads, so it is touched under `lock` only. Enciphering happens when the queue is
flushed, a bounded portion at a time and only when the kernel has taken the portion before: a slow peer's queue is not
kept twice. `queued` counts plain and enciphered bytes alike.

OpenSSL gives its record buffers back when a connection is idle, for Python asks it to (SSL_MODE_RELEASE_BUFFERS), but a
memory BIO keeps for ever what it has grown to. So neither ever holds more than a piece: a connection that once had a
message of 300 kB kept 300 kB, and keeps 20 now.

A record costs CPU time also when there is nothing in it; a key update costs most (RFC 8446 §4.6.3). So a read takes
twice as much as the last one at most, and little if that was hardly any data; and a peer that sends no data at all is
not put up with.
"""

from __future__ import annotations

import ssl

from gows.debug import DEBUG, check_owned
from gows.reactor.enciphered import LEAST_BUFFER, MOST_OWED, MOST_USELESS, WORTH, EncipheredSocket
from gows.reactor.interfaces import Observer, Sock
from gows.reactor.loop import BaseLoop
from gows.reactor.poller import READ
from gows.reactor.states import (
    ABORTED,
    BLOCKED,
    CLOSE_NOTIFY_SENT,
    CLOSING,
    CONNECTING,
    DRAIN_OWED,
    EOF_RECEIVED,
    FIN_QUEUED,
    FIN_SENT,
    LOST_REPORTED,
    PAUSED,
    TLS_DEFERRED,
    WATCHED,
)
from gows.reactor.stream import NO_OBSERVER, SMALL_PIECE, Stream, drop_sent, join_small

PORTION = 131072
"""Plain bytes enciphered for one send at most."""

PIECE = 8192
"""Bytes that lie in a BIO at most, but for those of a handshake, and of a read that the observer did not want whole."""

LEAST_SHARE = 0.25
"""Data in a read, below which the next one takes a piece only."""

NOTHING = memoryview(b"")

NO_CIPHER = TLS_DEFERRED | EOF_RECEIVED | CLOSING | ABORTED | LOST_REPORTED  # what comes is not to be deciphered


class TLSStream(Stream):
    """A connection under TLS. For observers it is a Stream; `ssl_object` has the session.

    When it is `deferred`, something else comes first, such as the header of a proxy: the observer gets that as it is,
    until it calls `start_tls`.
    """

    __slots__ = ("_cipher", "_incoming", "_outgoing", "_room", "_useless", "ssl_object")

    def __init__(
        self,
        loop: BaseLoop,
        sock: Sock | None,
        context: ssl.SSLContext,
        observer: Observer = NO_OBSERVER,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        deferred: bool = False,
    ) -> None:
        super().__init__(loop, sock, observer)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._cipher: bytes | memoryview | None = None  # enciphered and not yet taken by the kernel
        self._useless = 0  # bytes of records that brought no data, about
        self._room = PIECE  # bytes that the next read takes at most
        self.ssl_object = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        bits = CONNECTING | (TLS_DEFERRED if deferred else 0)
        self._state |= bits

    # ------------------------------------------------------------------ handshake; loop thread

    def establish(self, sock: Sock) -> None:
        """Take `sock`, which the connection attempt has connected. The handshake comes next. Loop thread."""
        if DEBUG:
            self.loop.check_thread()
        self.sock = sock
        self.loop.take_in(self)

    def attach(self) -> None:
        """Begin to watch the descriptor, even when paused: the handshake has to be read."""
        super().attach()
        with self.lock:
            if not self._state & (ABORTED | LOST_REPORTED):
                self._watch_locked(self._state & WATCHED | READ)
        if not self._state & TLS_DEFERRED:
            self._handshake()

    def start_tls(self, data: bytes) -> None:
        """Begin the handshake of a deferred stream, of which `data` came already. Once; loop thread."""
        if DEBUG:
            self.loop.check_thread()
        with self.lock:
            self._state &= ~TLS_DEFERRED
            self._incoming.write(data)
        if self._handshake():
            self._deliver(self.loop.scratch, NOTHING)

    def _handshake(self) -> bool:
        """Take the next step of the handshake. Returns whether it has succeeded."""
        with self.lock:
            if self._state & (CLOSING | ABORTED | LOST_REPORTED):
                return False
            try:
                self.ssl_object.do_handshake()
            except ssl.SSLWantReadError:
                self.flush_locked()
                return False
            except ssl.SSLError as error:
                self.flush_locked()  # the alert that tells the peer why
                self._abort_locked(error, 0)
                return False
            self._state &= ~CONNECTING
        self.established()
        return True

    def hand_over(self) -> Sock:
        """As of a Stream. The socket goes on with the TLS session."""
        return EncipheredSocket(super().hand_over(), self.ssl_object, self._incoming, self._outgoing)

    # ------------------------------------------------------------------ reading; loop thread

    def on_readable(self, scratch: bytearray, ticks: int) -> None:
        """Read enciphered bytes once; then hand over everything that can be deciphered, for no event would tell of the
        rest."""
        if DEBUG:
            self.loop.check_thread()
        state = self._state
        if state & NO_CIPHER or state & (PAUSED | CONNECTING) == PAUSED:
            if state & NO_CIPHER == TLS_DEFERRED:
                self._read_plain(scratch, ticks)
            else:
                self._on_unwanted(scratch)
            return
        cipher: bytearray | memoryview | None = self.loop.shared.get(TLSStream)
        if cipher is None:
            cipher = self.loop.shared[TLSStream] = bytearray(len(scratch))
        if self._room < len(cipher):
            room = max(self._room, LEAST_BUFFER) if isinstance(self.sock, EncipheredSocket) else self._room
            cipher = memoryview(cipher)[:room]
        try:
            n = self.sock.recv_into(cipher)  # type: ignore[union-attr]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.abort(error)
            return
        self.seen = ticks
        if state & CONNECTING or not n:
            with self.lock:
                if n:
                    self._incoming.write(memoryview(cipher)[:n])
                else:
                    self._incoming.write_eof()
            if not state & CONNECTING or self._handshake():
                self._deliver(scratch, NOTHING)
        else:
            filled = self._deliver(scratch, memoryview(cipher)[:n])
            self._room = max(PIECE, 2 * n) if filled >= LEAST_SHARE * n else PIECE

    def _read_plain(self, scratch: bytearray, ticks: int) -> None:
        """Read once what comes before TLS."""
        try:
            n = self.sock.recv_into(scratch)  # type: ignore[union-attr]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.abort(error)
            return
        if n:
            self.seen = ticks
            self.observer.data_received(scratch, n)
        else:
            self._on_eof()

    def _deliver(self, scratch: bytearray, cipher: memoryview) -> int:
        """Hand over what can be deciphered, `cipher` last, a scratch buffer full at a time, as long as the observer
        wants it. Returns how many bytes that was."""
        more, total = True, 0
        while more and not self._state & (PAUSED | EOF_RECEIVED | CLOSING | ABORTED | LOST_REPORTED):
            with self.lock:
                filled, cipher, more = self._decipher_locked(scratch, cipher)
            total += filled
            if filled:
                self.observer.data_received(scratch, filled)
        if cipher:
            with self.lock:
                kept: int = self._incoming.write(cipher)
                self._useless += kept  # until it turns out to be data
        if self._outgoing.pending:  # of the TLS layer itself: the end of the handshake, a key update (RFC 8446 §4.6.3)
            self.flush()
            if self._outgoing.pending > MOST_OWED:
                self.abort(ssl.SSLError("the peer has keys updated, and does not read"))
        return total

    def _decipher_locked(self, scratch: bytearray, cipher: memoryview) -> tuple[int, memoryview, bool]:
        """Decipher into the scratch buffer. Returns how many bytes are in it, what of `cipher` was not needed for them,
        and whether there may be more."""
        if DEBUG:
            check_owned(self.lock)
        filled, size = 0, len(scratch)
        incoming = self._incoming
        with memoryview(scratch) as view:
            try:
                while filled < size:
                    if cipher and not incoming.pending:
                        fed: int = incoming.write(cipher[:PIECE])
                        self._useless += fed
                        cipher = cipher[PIECE:]
                    try:
                        n: int = self.ssl_object.read(size - filled, view[filled:])  # type: ignore[assignment]
                    except ssl.SSLWantReadError:
                        if self._useless > MOST_USELESS:
                            raise ssl.SSLError("too many records without data") from None
                        if cipher:
                            continue
                        return filled, cipher, False
                    if not n:
                        raise ssl.SSLZeroReturnError
                    filled += n
                    self._useless = max(0, self._useless - WORTH * n)
                    if not cipher and not (incoming.pending or self.ssl_object.pending()):
                        return filled, cipher, False  # what one more read would say, which makes an error of it
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                # The peer's close_notify, or its FIN without one. What is carried has to tell a truncated message
                # by itself.
                self.loop.call_soon(self._on_eof)
                return filled, NOTHING, False
            except ssl.SSLError as error:
                self.flush_locked()  # the alert
                self._abort_locked(error, 0)
                return filled, NOTHING, False
        return filled, cipher, True

    def resume_reading(self) -> None:
        """Call `data_received` again, first with what was deciphered but not handed over. Any thread; idempotent."""
        paused = self._state & PAUSED
        super().resume_reading()
        if paused:
            self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if DEBUG:
            self.loop.check_thread()
        if not self._state & (CONNECTING | LOST_REPORTED):
            self._deliver(self.loop.scratch, NOTHING)

    # ------------------------------------------------------------------ sending; lock held

    def flush_locked(self) -> None:
        """Encipher a portion of the queue and send it; during the handshake, send what that produced."""
        if DEBUG:
            check_owned(self.lock)
        if self._state & (BLOCKED | ABORTED | LOST_REPORTED | FIN_SENT):
            return
        try:
            if self._cipher is None:
                pieces = self._encipher_locked() if self._out is not None and not self._state & CONNECTING else []
                if self._outgoing.pending:
                    pieces.append(self._outgoing.read())
                if pieces:
                    self._cipher = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                    size = len(self._cipher)
                    self.queued += size
            if self._cipher is not None:
                self._send_locked()
        except (BlockingIOError, InterruptedError):
            self._block_locked(0)
        except OSError as error:  # an SSLError is one too
            self._send_failed_locked(error)

    def _encipher_locked(self) -> list[bytes]:
        """Encipher a portion of the queue, and remove it there. Returns the records."""
        if DEBUG:
            check_owned(self.lock)
        out = self._out
        assert out is not None
        if len(out) > 1 and len(out[0]) < SMALL_PIECE:
            join_small(out)
        plain = memoryview(out[0])[:PORTION]
        length = len(plain)
        written, pieces = 0, []
        try:
            while written < length:
                written += self.ssl_object.write(plain[written : written + PIECE])
                pieces.append(self._outgoing.read())
        except ssl.SSLWantReadError:  # a renegotiation of TLS 1.2: goes on when the peer's part has come
            pass
        self.queued -= written
        drop_sent(out, written)
        if not out:
            self._out = None
        return pieces

    def _send_locked(self) -> None:
        """Send enciphered bytes once."""
        if DEBUG:
            check_owned(self.lock)
        assert self._cipher is not None
        assert self.sock is not None
        sent = self.sock.send(self._cipher)
        queued, self.queued = self.queued, self.queued - sent
        self._cipher = memoryview(self._cipher)[sent:] if sent < len(self._cipher) else None
        if self._cipher is not None or (self._out is not None and not self._state & CONNECTING):
            if queued >= self.observer.high_water:
                self._state |= DRAIN_OWED
            self._block_locked(sent)  # also when only our portion was small: the next one goes with the next turn
        if self._state & DRAIN_OWED and self.queued <= self.observer.low_water:
            self._schedule_drained_locked()
        if not self.queued and self._state & FIN_QUEUED:
            self._queue_sent_locked()

    def _queue_sent_locked(self) -> None:
        if DEBUG:
            check_owned(self.lock)
        if self._cipher is None and not self._outgoing.pending:
            super()._queue_sent_locked()

    def _clear_queue_locked(self) -> None:
        if DEBUG:
            check_owned(self.lock)
        super()._clear_queue_locked()
        self._cipher = None

    def _send_fin_locked(self) -> None:
        """Send close_notify (RFC 8446 §6.1), then FIN."""
        if DEBUG:
            check_owned(self.lock)
        if not self._state & CLOSE_NOTIFY_SENT:
            self._state |= CLOSE_NOTIFY_SENT
            try:
                self.ssl_object.unwrap()
            except ssl.SSLError:  # want-read: it is queued, and the peer's own is not awaited
                pass
            if self._outgoing.pending:
                self.flush_locked()
                return
        super()._send_fin_locked()
