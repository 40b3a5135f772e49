"""Exchange: one request that is answered in the loop's thread, while its body comes and its answer goes.

A view gets a request whose body is whole, in a worker. An ASGI application gets it when its head is complete, reads the
body as it comes, and answers in pieces, perhaps at the same time. This is the half of it that knows HTTP; a subclass
knows who reads and answers. All of it belongs to the loop's thread.

The body: what has come waits here until it is taken, MAX_UNREAD bytes and one read more; then the connection is not
read from. The answer, in this order; each step raises AnswerError if it is not its turn:

    start_answer ──> write … write(more=False) ──> write_trailers, if they were announced
                └──> refuse, as long as nothing was sent

Nothing is sent before the first piece, so an answer in one piece has a Content-Length, and an application that fails
after `start_answer` can still be answered for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from gows.errors import GowsError, HttpError
from gows.http.request import Carrier, Request
from gows.http.response import BODILESS, http_date
from gows.http1.answer import AnswerFields, Fields, field_block
from gows.protocol.handshake import status_phrase

MAX_UNREAD = 65536
"""Bytes of a body that wait to be taken, from which on no more is read."""
HIGH_WATER = 262144
"""Bytes queued above which the next piece of an answer waits; until LOW_WATER of `Observer`."""
SMALL_PIECE = 65536
"""Bytes of a piece that is copied, to go out in one piece with what stands before and behind it."""
DISCARDED = 262144
"""Bytes of a body that are still read once the answer is complete, so that the connection may go on."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NOT_STARTED, _STARTED, _BODY, _TRAILERS, _COMPLETE = range(5)


_status_lines: dict[int, bytes] = {}
_date: tuple[str, bytes] = ("", b"")


class AnswerError(GowsError, RuntimeError):
    """An answer was made in a wrong order, or its body has not the length that was announced."""


class ExchangeCarrier(Carrier, Protocol):
    """The connection of an exchange, an HttpConnection."""

    @property
    def draining(self) -> bool:
        """Return whether this answer is to be the last."""

    def taken(self, size: int) -> None:
        """Read on, for `size` bytes of the body were taken."""

    def refuse(self, error: HttpError) -> None:
        """Answer with an error, and end."""

    def end_exchange(self, status: int, size: int, keep_alive: bool) -> None:
        """Go on after a complete answer of so many bytes."""


class Exchange:
    """One request and its answer. Loop thread."""

    __slots__ = (
        "_chunked",
        "_empty",
        "_fields",
        "_keep_alive",
        "_left",
        "_phase",
        "_pieces",
        "_sent",
        "_status",
        "_trailer_block",
        "_trailers",
        "body_complete",
        "body_size",
        "carrier",
        "gone",
        "peer_ended",
        "request",
        "waiting",
    )

    def __init__(self, request: Request, carrier: ExchangeCarrier) -> None:
        self.request = request
        self.carrier = carrier
        self.body_complete = False
        """Whether all of the body has come."""
        self.body_size = 0
        """Bytes of the body that have come."""
        self.waiting = 0
        """Bytes of the body that have come and were not taken."""
        self.gone = False
        """Whether nobody waits for the answer any more: what is sent is dropped."""
        self.peer_ended = False
        """Whether the client has closed its side: it may wait for the answer still, but most do not."""
        self._pieces: list[bytes] = []
        self._phase = _NOT_STARTED
        self._status = 0
        self._fields: AnswerFields | None = None  # of an answer of which nothing was sent
        self._trailers = False  # they come behind the body
        self._trailer_block = b""
        self._left: int | None = None  # bytes of the body that are missing; None: not announced
        self._chunked = False
        self._empty = False  # the answer has no body, whatever is written
        self._keep_alive = False
        self._sent = 0

    # ------------------------------------------------------------------ for a subclass

    def begin(self) -> None:
        """Begin to answer. What it raises ends the connection."""
        raise NotImplementedError

    def changed(self) -> None:
        """Look again: something of the body has come or its end, there is room for more of the answer, or the client
        has gone."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what the connection tells

    def deliver(self, piece: bytes, complete: bool) -> None:
        """Take what has come of the body."""
        size = len(piece)
        self.body_size += size
        self.body_complete = complete
        if self._phase != _COMPLETE:
            if piece:
                self._pieces.append(piece)
                self.waiting += size
            self.changed()

    def lose(self) -> None:
        """Note that the client has gone. Idempotent."""
        if not self.gone:
            self.gone = True
            self._pieces.clear()
            self.waiting = 0
            self.changed()

    def end_of_peer(self) -> None:
        """Note that the client sends nothing more."""
        self.peer_ended = True
        self.changed()

    # ------------------------------------------------------------------ the request

    def take_body(self) -> bytes:
        """Return what waits of the body."""
        pieces = self._pieces
        if not pieces:
            return b""
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.waiting = 0
        self.carrier.taken(len(body))
        return body

    def send_continue(self) -> None:
        """Tell a client that waits for it to send the body (RFC 9110 §10.1.1). Idempotent."""
        if self.waits_to_continue and self._phase < _BODY and not self.gone:
            self.request.head.expect_continue = False
            self.carrier.stream.write(_CONTINUE)

    @property
    def waits_to_continue(self) -> bool:
        """Return whether the client waits to be told to send the body."""
        return self.request.head.expect_continue and not self.body_size and not self.body_complete

    # ------------------------------------------------------------------ the answer

    @property
    def begun(self) -> bool:
        """Return whether something of the answer was sent: it cannot be another any more."""
        return self._phase >= _BODY

    @property
    def answered(self) -> bool:
        """Return whether the answer is complete."""
        return self._phase == _COMPLETE

    @property
    def full(self) -> bool:
        """Return whether the next piece has to wait. If so, `changed` is called when there is room."""
        stream = self.carrier.stream
        if stream.queued <= HIGH_WATER:
            return False
        with stream.lock:
            stream.flush_locked()
            if stream.queued <= HIGH_WATER or stream.closed:
                return False
            stream.owe_drained_locked()
            return True

    def send_hint(self, links: Iterable[bytes]) -> None:
        """Send a 103 with these values of Link (RFC 8297)."""
        if self._phase >= _BODY:
            raise AnswerError("an early hint comes before the answer, which was begun")
        block = field_block([(b"link", link) for link in links])
        if self.request.head.version == "HTTP/1.1" and not self.gone:
            self.carrier.stream.write(b"HTTP/1.1 103 Early Hints\r\n" + block + b"\r\n")

    def start_answer(self, status: int, headers: Fields, trailers: bool = False) -> None:
        """Set the status and the fields; they are sent with the first piece. `trailers`: some will follow the body.
        Raises ValueError and InvalidHeaderError for what may not be sent."""
        if self._phase != _NOT_STARTED:
            raise AnswerError("the answer was started already")
        if type(status) is not int or not 200 <= status <= 999:
            raise ValueError(f"{status!r} is no final HTTP status: it must be an int from 200 to 999")
        self._fields = AnswerFields(headers)
        self._status = status
        self._trailers = trailers
        self._phase = _STARTED

    def write(self, data: bytes, more: bool) -> None:
        """Send a piece of the body; not `more`: the last. Raises AnswerError for more than was announced, or less."""
        phase = self._phase
        if phase != _BODY:
            if phase != _STARTED:
                raise AnswerError("the answer was not started" if phase == _NOT_STARTED else "the body is complete")
            start = self._start(len(data), more)
        else:
            start = b""
        if self._left is not None:
            self._count(len(data), more)
        self._fields = None
        if self._empty:
            data = b""
        size = len(data)
        self._sent += size
        self._send(start, data, not more and not self._trailers)
        if more:
            self._phase = _BODY
        elif self._trailers:
            self._phase = _TRAILERS
        else:
            self._complete()

    def write_trailers(self, headers: Fields, more: bool) -> None:
        """Add fields behind the body (RFC 9110 §6.5), which are sent when there are no `more`. They are dropped where
        there is no place for them: the answer is not chunked, or the client did not ask for them."""
        if self._phase != _TRAILERS:
            raise AnswerError("trailers follow the body, if the answer was started with trailers")
        block = field_block(headers)
        if self._chunked and self.request.head.headers.has_token("te", "trailers"):
            self._trailer_block += block
        if not more:
            if self._chunked:
                self.carrier.stream.write(b"0\r\n" + self._trailer_block + b"\r\n")
            self._complete()

    def refuse(self, error: HttpError) -> None:
        """Answer with an error, or cut the connection off if something was sent already: with RST, so that nobody takes
        what came for the whole. Nothing happens if it is answered, or nobody is there."""
        if self.gone or self.answered:
            return
        carrier = self.carrier
        if self.begun:
            carrier.stream.abort()
        else:
            carrier.refuse(error)
        self.lose()

    def _start(self, size: int, more: bool) -> bytes:
        """Return the head of an answer whose first piece has `size` bytes."""
        fields = self._fields
        assert fields is not None
        head = self.request.head
        status = self._status
        alive = head.keep_alive and not fields.close and not self.carrier.draining and not self.waits_to_continue
        length = fields.length
        self._empty = head.method == "HEAD" or status in BODILESS
        if length is None and not more and not self._trailers and (size or not self._empty):
            length = size
        lines = [_status_lines.get(status) or _status_line(status), fields.block]
        if not fields.date:
            lines.append(_date_line())
        if length is not None:
            if status != 204:  # RFC 9110 §8.6
                lines.append(b"content-length: %d\r\n" % length)
        elif status not in BODILESS:
            if head.version == "HTTP/1.1":
                self._chunked = not self._empty
                lines.append(b"transfer-encoding: chunked\r\n")
            elif not self._empty:
                alive = False  # the end of the connection is the end of the body
        if not alive:
            lines.append(b"connection: close\r\n")
        elif head.version == "HTTP/1.0":
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        self._left = None if self._empty else fields.length
        self._keep_alive = alive
        return b"".join(lines)

    def _count(self, size: int, more: bool) -> None:
        """Count a piece of a body whose length was announced."""
        assert self._left is not None
        left = self._left - size
        if left < 0:
            raise AnswerError(f"the body is longer than the Content-Length that was announced, by {-left} bytes")
        if left and not more:
            raise AnswerError(f"the body is shorter than the Content-Length that was announced, by {left} bytes")
        self._left = left

    def _send(self, start: bytes, data: bytes, last: bool) -> None:
        """Queue a piece of the body behind `start`, and the end of a chunked body if it is the last."""
        end = b""
        if self._chunked:
            if data:
                start += b"%x\r\n" % len(data)
                end = b"\r\n"
            if last:
                end += b"0\r\n\r\n"
        stream = self.carrier.stream
        if len(data) < SMALL_PIECE:
            stream.write(b"".join((start, data, end)))
        else:
            for piece in (start, data, end):
                stream.write(piece)

    def _complete(self) -> None:
        self._phase = _COMPLETE
        self._pieces.clear()
        self.waiting = 0
        self.carrier.end_exchange(self._status, self._sent, self._keep_alive)
        self.changed()


def _status_line(status: int) -> bytes:
    """Return a status line, which is remembered: there are 800."""
    line = _status_lines[status] = b"HTTP/1.1 %d %b\r\n" % (status, status_phrase(status).encode())
    return line


def _date_line() -> bytes:
    """Return the Date field of now; made once a second."""
    global _date  # one assignment of a whole pair: threads may race, and all of them are right
    now = http_date()
    text, line = _date
    if text is not now:
        line = f"date: {now}\r\n".encode()
        _date = now, line
    return line
