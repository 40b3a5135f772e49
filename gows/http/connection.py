"""HttpConnection: HTTP/1.1 on one stream, until it ends or becomes a WebSocket.

One machine, `_phase`. What is not of the loop's thread alone changes under `stream.lock`:

    HEAD ──> BODY ──> BUSY ──> ANSWERING ──> IDLE ──> HEAD …        a request, its answer, the next request
               │        │        ↑    ↓  ↓     ↑
               │        │        WAITING ANSWERED                   the peer is slow: no thread waits for it
               │        └──> UPGRADED                               the stream has another observer
               └──> CLOSED                                          (from EXCHANGING, too)

    HEAD ──> STREAMING ──> EXCHANGING ──> IDLE                      an Exchange answers: while the body comes, and after
                  └──> DISCARDING ─────────┘                        it has answered before the body was complete

- The loop's thread reads and parses, in HEAD, BODY and IDLE; in the other phases bytes are only put aside.
- The task (`run`, on a worker) calls the application and writes the answer, in BUSY and ANSWERING. A view that is a
  coroutine runs in the loop's thread, in BUSY; a body in pieces is a worker's all the same, for it may block.
- An `Exchange` answers in the loop's thread, an ASGI application's for instance. In STREAMING and DISCARDING bytes are
  read on, as far as what came before is taken.
- So pipelined requests are answered in order, one at a time. The next one is looked at when no more than HIGH_WATER
  bytes of answers are queued, whoever made them: until then the connection is in ANSWERED.

Deadlines: a head must be whole `head_timeout` after the connection was made, or after the first byte of a later
request; a body `body_timeout` after its head. Bytes that trickle in extend neither. A body that an exchange reads may
take longer if STREAMED_BYTES come in each such time; one in which nothing is read does not count.

The file is longer than others, for each method here is a step of this one machine.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Coroutine, Iterator
from types import CoroutineType
from typing import Any

from gows.errors import ConnectionClosedError, HandshakeError, HttpError
from gows.http.application import Application
from gows.http.exchange import DISCARDED, MAX_UNREAD, Exchange
from gows.http.outlet import Outlet
from gows.http.proxies import Proxies
from gows.http.request import Request
from gows.http.response import BODILESS, Response, as_response, error_response
from gows.http1.head import RequestParser
from gows.printable import show_address, show_path
from gows.protocol.handshake import response_error
from gows.reactor.hosting import coroutines_of
from gows.reactor.interfaces import Observer
from gows.reactor.networks import PeerAddress
from gows.reactor.progress import CHECKS_PER_TIMEOUT
from gows.reactor.stream import Stream
from gows.reactor.timers import TICKS_PER_SECOND
from gows.reactor.tls import TLSStream
from gows.reactor.workers import WorkerPool
from gows.session.receiving import SMALL, ReceiveError

logger = logging.getLogger("gows")
access_logger = logging.getLogger("gows.access")

MAX_STASH = 65536
"""Bytes put aside while a request is answered; then the connection is not read from."""
WRITE_TIMEOUT = 30.0
"""Seconds in which the peer must take something of an answer that waits for it, be it from the kernel; and MIN_RATE
on the average."""
HIGH_WATER = 262144
"""Bytes queued above which a body in pieces waits, and the next pipelined request."""
RETRY_AFTER = (1, 5)
"""Seconds, chosen at random between these, after which a client whose upgrade met the end of the server tries again:
it then finds the server's successor."""
PIECES_PER_RUN = 16
"""Pieces of a body sent before other tasks have their turn."""
STREAMED_BYTES = 65536
"""Bytes of a body that an exchange reads that must come within each `body_timeout`."""
SMALL_BODY = 65536
"""Bytes of a body that is copied behind its head, to go out in one piece."""

Ends = tuple[PeerAddress, PeerAddress]

_HEAD, _BODY, _BUSY, _ANSWERING, _WAITING, _ANSWERED, _IDLE, _UPGRADED, _CLOSED = range(9)
_STREAMING, _EXCHANGING, _DISCARDING = range(9, 12)
_PEER_ENDED, _STOPPED = 1, 2  # bits of HttpConnection._eof
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_AT_WORK = (_BUSY, _ANSWERING, _WAITING, _ANSWERED, _EXCHANGING)
_IN_PIECES = (_STREAMING, _DISCARDING)  # the body is read in pieces
_READING = (_HEAD, _BODY, _IDLE)


class _Sending:
    """An answer whose body goes out in pieces."""

    __slots__ = ("chunked", "closed", "keep_alive", "left", "outlet", "pieces", "response", "sent")

    def __init__(
        self, response: Response, pieces: Iterator[bytes], chunked: bool, keep_alive: bool, outlet: Outlet | None
    ) -> None:
        self.response = response
        self.outlet = outlet  # where the pieces go, if one thread must make them all
        self.pieces = pieces
        self.chunked = chunked
        self.keep_alive = keep_alive
        self.left = response.length  # None: not known
        self.sent = 0
        self.closed = False  # the body


class _Awaited:
    """A view that is a coroutine, and what it returns."""

    __slots__ = ("coro", "result")

    def __init__(self, coro: Coroutine[Any, Any, Any]) -> None:
        self.coro = coro
        self.result: Any = _CANCELLED

    async def run(self) -> None:
        """Run it."""
        self.result = await self.coro


_CANCELLED = object()
"""What a view returns that was cancelled at the end of its loop."""


def _raise(error: BaseException) -> None:
    raise error


class HttpConnection(Observer):
    """The observer of a stream that speaks HTTP, and the worker pool's task for its requests."""

    __slots__ = (
        "_began",
        "_body_due",
        "_body_size",
        "_ends",
        "_eof",
        "_exchange",
        "_parser",
        "_phase",
        "_request",
        "_sending",
        "_stash",
        "app",
        "secure",
        "stream",
    )

    def __init__(self, stream: Stream, app: Application) -> None:
        """Loop thread, when the connection was accepted."""
        self.stream = stream
        self.app = app
        self.secure = isinstance(stream, TLSStream)
        """Whether the client talks over TLS: to us, or to the proxy that says so in front of all (ProxyPreface)."""
        self._parser = self._new_parser()
        self._phase = _HEAD
        self._stash = bytearray()
        self._eof = 0  # why no further request is to be taken, as bits
        self._request: Request | None = None
        self._began: float | None = None  # when the request had come, or its head, for an exchange
        self._sending: _Sending | None = None
        self._exchange: Exchange | None = None
        self._body_due = 0  # the tick at which it is looked what has come of a body in pieces
        self._body_size = 0  # of that, at the last look
        self._ends: Ends | None = None
        stream.set_deadline(app.head_timeout)

    def _new_parser(self) -> RequestParser:
        app = self.app
        parser = RequestParser(app.max_head_size, app.max_headers, app.max_body_size)
        parser.asks = app.streams
        return parser

    @property
    def upgraded(self) -> bool:
        """Whether it has become a WebSocket. Any thread."""
        return self._phase == _UPGRADED

    @property
    def proxies(self) -> Proxies | None:
        """The proxies that the application believes; None: none are. Any thread."""
        return self.app.proxies

    @property
    def ends(self) -> Ends:
        """Both ends of the connection, the peer's and ours, which are looked up once. Loop thread."""
        if self._ends is None:
            self._ends = self.stream.peer_address, self.stream.local_address
        return self._ends

    @property
    def draining(self) -> bool:
        """Whether each answer is to be the last of its connection. Any thread."""
        return self.app.draining

    # ------------------------------------------------------------------ observer of the stream (loop thread)
    # Another thread may upgrade the connection while the loop is on its way to one of these: then they pass it on.

    def data_received(self, buf: bytearray, n: int, /) -> None:
        """Parse, or put aside while a request is answered."""
        stream = self.stream
        data = bytes(memoryview(buf)[:n])
        with stream.lock:
            observer = stream.observer
            answering = self._phase in _AT_WORK
            if answering:
                self._stash += data
        if observer is not self:
            observer.data_received(buf, n)
        elif not answering:
            self._feed(data)
            self._count_held()
        else:
            self._count_held()
            if len(self._stash) >= MAX_STASH:
                stream.pause_reading()

    def eof_received(self) -> None:
        """Note that the peer has sent all it has to send; a request that is complete is still answered."""
        with self.stream.lock:
            observer = self.stream.observer
            self._eof |= _PEER_ENDED
        if observer is not self:
            observer.eof_received()
        elif self._phase == _EXCHANGING:
            if self._exchange is not None:
                self._exchange.end_of_peer()
        else:
            self._end_at_eof()

    def _end_at_eof(self) -> None:
        """End if the peer sends nothing more and no request is complete."""
        reading = self._phase in _READING or (self._phase in _IN_PIECES and self._eof & _PEER_ENDED)
        if reading and self._eof and not self._parser.more:
            self._end()

    def blocked(self) -> None:
        """Watch a peer that does not take what is queued as fast as it comes."""
        if self.upgraded:
            self.stream.observer.blocked()
        elif self._phase in _IN_PIECES:
            self.stream.loop.progress.begin_answer(self.stream)
            self._watch_body()
        elif self._phase in _AT_WORK:
            self.stream.loop.progress.begin_answer(self.stream)
            self.stream.set_deadline(WRITE_TIMEOUT / CHECKS_PER_TIMEOUT)

    def drained(self) -> None:
        """Go on with the body: there is room for more of it."""
        if self.upgraded:
            self.stream.observer.drained()
        else:
            self._go_on()

    def deadline_reached(self) -> None:
        """Deal with a head, a body, a next request or a peer's reading that took too long."""
        if self.upgraded:
            self.stream.observer.deadline_reached()
        elif self._phase in _IN_PIECES:
            self._check_body()
        elif self._phase in _AT_WORK or self.stream.queued:
            self._check_progress()
        elif self._phase == _IDLE or not self._parser.started:
            self._end()
        else:
            part = "head" if self._phase == _HEAD else "body"
            self.refuse(HttpError(408, f"the request {part} did not come in time"))

    def connection_lost(self, error: Exception | None) -> None:
        """Let go what was waiting: a request for a worker, since nobody hears the answer, and peers could leave any
        number of them behind; an answer for the stream. A worker does the latter, for that may run user code."""
        self.app.receiving.forget(self)
        self._drop_exchange()
        if self._phase == _BUSY and self.stream.loop.pool.withdraw(self):
            self._let_go(None)
            self._phase = _CLOSED
        self._go_on()

    # ------------------------------------------------------------------ what is held of what came (loop thread)

    def _count_held(self) -> None:
        """Have it counted, unless it is little."""
        receiving = self.app.receiving
        if self._phase == _IDLE and not receiving.total:
            return
        held = self._parser.held + len(self._stash)
        if self._exchange is not None:
            held += self._exchange.waiting
        if held >= SMALL or (receiving.total and receiving.counts_for(self)):
            at_work = self._phase not in _READING
            receiving.set(self, 0 if at_work else held, held if at_work else 0)

    def hold_off(self) -> None:
        """Read no more until `read_on`: too much is held of all that came."""
        self.stream.pause_reading()

    def read_on(self) -> None:
        """Read on, for there is room."""
        if len(self._stash) < MAX_STASH and not self._parser.more and not self._unread:
            self.stream.resume_reading()

    def give_way(self, error: ReceiveError) -> None:
        """Throw away the request that is unfinished, and end."""
        if self._phase in _READING:
            self.refuse(HttpError(503, error.reason, (("Retry-After", "5"),)))
            self._parser = self._new_parser()
            self._count_held()

    # ------------------------------------------------------------------ reading (loop thread)

    def _feed(self, data: bytes | bytearray) -> None:
        parser, stream = self._parser, self.stream
        if self._phase in _IN_PIECES:
            self._feed_piece(bytes(data))
            return
        try:
            parser.feed(data)
            if self.app.streams and (parser.undecided or (parser.complete and not parser.body)):
                assert parser.head is not None
                request = Request(parser.head, b"", self)
                exchange = self.app.exchange(request)
                if exchange is not None:
                    self._begin_exchange(exchange)
                    return
                if parser.undecided:
                    parser.read_whole()
        except HttpError as error:
            self.refuse(error)
            return
        if parser.complete:
            assert parser.head is not None
            self._phase = _BUSY
            self._request = Request(parser.head, parser.body, self)
            self._began = stream.loop.time()
            # what is queued of earlier answers goes on being timed: `blocked` is not called for it again
            stream.set_deadline(WRITE_TIMEOUT / CHECKS_PER_TIMEOUT if stream.queued else None)
            if self.app.answers_at_once(self._request):
                stream.loop.call_soon(self.run)  # not here: of many that are pipelined, each would call the next
            else:
                stream.loop.pool.submit(self)
        elif parser.head is None:
            if self._phase == _IDLE and parser.started:
                self._phase = _HEAD
                stream.set_deadline(self.app.head_timeout)
        else:
            if self._phase != _BODY:
                self._phase = _BODY
                stream.set_deadline(self.app.body_timeout)
                if parser.expect_continue:
                    stream.write(_CONTINUE)
            if parser.more:
                stream.pause_reading()
                stream.loop.call_soon(self._feed_rest)

    def _feed_rest(self) -> None:
        """Go on with a body of which the parser left something for a later turn."""
        if self._phase == _BODY or self._phase in _IN_PIECES:
            self._feed(b"")
            if not self._parser.more:
                self.read_on()
                self._read_on()

    def _next(self) -> None:
        """Go on to the request behind the one that is answered, or wait for it, once the peer takes the answers."""
        stream = self.stream
        with stream.lock:
            if stream.closed:
                return
            full = stream.queued > HIGH_WATER
            if full:
                stream.owe_drained_locked()
            self._phase = _ANSWERED if full else _IDLE
        if full:
            stream.set_deadline(WRITE_TIMEOUT / CHECKS_PER_TIMEOUT)
            return
        self._await_request()
        self._feed(b"")
        self._read_on()

    def _await_request(self) -> None:
        self.stream.set_deadline(self.app.keep_alive_timeout)
        self._parser.reset()
        self._began = None

    def _read_on(self) -> None:
        """Parse what was put aside, if the parser needs it: it may have a further request, or have refused one."""
        stream = self.stream
        if self._phase in _READING and not self._parser.more:
            with stream.lock:
                stash, self._stash = self._stash, bytearray()
            if stash:
                stream.resume_reading()
                self._feed(stash)
        self._count_held()
        self._end_at_eof()

    def refuse(self, error: HttpError) -> None:
        """Answer the peer's fault, and close: nobody knows where its next request would begin."""
        self._log(error.status, 0)
        self.stream.write(response_error(error))
        self._end()

    def end_when_idle(self, *, patient: bool = False) -> None:
        """Close now, or once the request that came is answered: the server stops. Loop thread.

        `patient`: only if nothing of a request has come. One that is coming in is still taken, an upgrade too.
        """
        if patient:
            if self.idle:
                self._end()
            return
        with self.stream.lock:
            self._eof |= _STOPPED
        if self._phase in _READING or self._phase == _DISCARDING:
            self._end()

    @property
    def idle(self) -> bool:
        """Whether nothing of a request, or of a further one, has come. Loop thread."""
        return self._phase == _IDLE or (self._phase == _HEAD and not self._parser.started)

    def _end(self) -> None:
        self._phase = _CLOSED
        self.stream.close()
        self._drop_exchange()

    def _check_progress(self) -> None:
        stream = self.stream
        stream.loop.progress.look(stream)
        stalled = stream.stalled_for()
        if stalled >= WRITE_TIMEOUT or (stream.queued and stream.loop.progress.too_slow(stream, WRITE_TIMEOUT)):
            stream.abort(TimeoutError("the peer did not take the answer"))
        elif stream.queued:
            stream.set_deadline(min(WRITE_TIMEOUT - stalled, WRITE_TIMEOUT / CHECKS_PER_TIMEOUT))

    # ------------------------------------------------------------------ exchanges (loop thread)

    @property
    def _unread(self) -> bool:
        """Whether so much of a body waits for the exchange that no more is read."""
        return self._exchange is not None and self._exchange.waiting >= MAX_UNREAD

    def _begin_exchange(self, exchange: Exchange) -> None:
        """Have an exchange answer the request whose head is complete. Raises HttpError if its body is too large."""
        parser, stream = self._parser, self.stream
        piece = b""
        if parser.undecided:
            parser.begin_pieces(self.app.max_streamed_size)
            piece = parser.read_piece(b"")
        self._exchange = exchange
        self._request = exchange.request
        self._began = stream.loop.time()
        if parser.complete:
            self._phase = _EXCHANGING
            if stream.queued:  # as for other answers: what is queued of earlier ones goes on being timed
                stream.set_deadline(WRITE_TIMEOUT / CHECKS_PER_TIMEOUT)
        else:
            self._phase = _STREAMING
            self._begin_body_time()
        if piece or self._phase == _STREAMING:
            self._take_piece(piece)
        else:
            exchange.body_complete = True
            exchange.peer_ended = self._eof & _PEER_ENDED != 0
        exchange.begin()

    def _feed_piece(self, data: bytes) -> None:
        """Take more of a body that is read in pieces."""
        try:
            piece = self._parser.read_piece(data)
        except HttpError as error:
            self._fail_exchange(error)
            return
        self._take_piece(piece)

    def _take_piece(self, piece: bytes) -> None:
        parser, stream = self._parser, self.stream
        if parser.more:
            stream.pause_reading()
            stream.loop.call_soon(self._feed_rest)
        exchange = self._exchange
        if exchange is None:
            self._discard(piece)
            return
        if parser.complete and self._phase == _STREAMING:
            self._phase = _EXCHANGING  # the deadline of the body finds nothing to do then, or an answer to look at
        exchange.deliver(piece, parser.complete)
        if self._unread and not parser.complete:
            stream.pause_reading()
        if self._eof & _PEER_ENDED and self._phase == _EXCHANGING:
            exchange.end_of_peer()

    def _discard(self, piece: bytes) -> None:
        """Drop what comes of a body behind its answer."""
        size = len(piece)
        self._body_size += size
        if self._parser.complete:
            self._phase = _EXCHANGING
            self.stream.loop.call_soon(self._next)
        elif self._body_size > DISCARDED:
            self._end()

    def taken(self, size: int) -> None:
        """Read on, for the exchange has taken `size` bytes of the body."""
        if size >= MAX_UNREAD:
            if not self.app.receiving.holds_off(self):
                self.read_on()
            if self._phase == _STREAMING:
                self._begin_body_time()
        if size >= SMALL:
            self._count_held()

    def end_exchange(self, status: int, size: int, keep_alive: bool) -> None:
        """Go on after the answer of the exchange, which is complete."""
        self._log(status, size)
        paused = self._unread
        self._exchange = self._request = None
        if paused and not self.app.receiving.holds_off(self):
            self.read_on()
        if not keep_alive:
            self._end()
        elif self._parser.complete:
            if self._stash or self._parser.held or self._eof or self.stream.queued > HIGH_WATER:
                self.stream.loop.call_soon(self._next)  # not here: of many that are pipelined, each would call the next
            else:
                self._phase = _IDLE
                self._await_request()
        else:
            self._phase = _DISCARDING
            self._body_size = 0
            self.stream.resume_reading()

    def _fail_exchange(self, error: HttpError) -> None:
        """Answer the peer's fault amid its body if nothing was answered, else cut it off."""
        if self._exchange is not None:
            self._exchange.refuse(error)
        else:
            self._end()

    def _drop_exchange(self) -> None:
        """Tell the exchange that nobody waits for its answer."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._request = None
            exchange.lose()

    def _begin_body_time(self) -> None:
        """Begin the time in which STREAMED_BYTES must come."""
        assert self._exchange is not None
        self._body_size = self._exchange.body_size
        self._body_due = self.stream.loop.due(self.app.body_timeout)
        self._watch_body()

    def _watch_body(self) -> None:
        """Set the deadline: of the body, and of the answer if something of one is queued."""
        stream = self.stream
        seconds = max(0, self._body_due - stream.loop.now()) / TICKS_PER_SECOND
        stream.set_deadline(min(seconds, WRITE_TIMEOUT / CHECKS_PER_TIMEOUT) if stream.queued else seconds)

    def _check_body(self) -> None:
        """Look how a body that is read in pieces gets on, and what is queued."""
        stream, exchange = self.stream, self._exchange
        if stream.queued:
            self._check_progress()
            if stream.closed:
                return
        if stream.loop.now() >= self._body_due:
            if exchange is None:
                self._end()
                return
            held = exchange.waiting or self.app.receiving.holds_off(self)  # the peer is not to blame
            if not held and exchange.body_size - self._body_size < STREAMED_BYTES:
                exchange.refuse(HttpError(408, "the request body did not come in time"))
                return
            self._begin_body_time()
        self._watch_body()

    # ------------------------------------------------------------------ answering (worker, or the loop)

    def run(self) -> None:
        """Make or continue the answer, as a task. Never two at once: it is submitted in BUSY, and again after it went
        to WAITING or ended a run."""
        stream = self.stream
        inline = stream.loop.pool.inline or stream.loop.in_loop()
        if not inline:
            stream.cork()
        try:
            if self._sending is None:
                self._answer()
            else:
                self._send_body(self._sending)
        except Exception:
            logger.exception("%r: answering failed", self._request)
            stream.abort()
            self._let_go(None if self._sending is None else self._sending.response)
        finally:
            if not inline:
                stream.uncork()

    def stalled(self) -> None:
        """Send what the task wrote. The pool found it still running at its second look, and that must not wait for its
        end."""
        self.stream.uncork()

    def upgrade(self, answer: bytes, observer: Observer) -> None:
        """Send the 101 and hand the stream to `observer`. Any thread, while the request is being handled; once.

        Raises HandshakeError (400) when the peer sent anything behind its request, for it may send no frame before the
        101 (RFC 6455 §4.1), HandshakeError (503) when the server has come to its end meanwhile, and
        ConnectionClosedError when the peer has gone or was answered already.
        """
        stream = self.stream
        with stream.lock:
            if self._phase not in (_BUSY, _EXCHANGING) or stream.closed or self._eof & _PEER_ENDED:
                raise ConnectionClosedError("the connection is gone, or its request was answered already")
            if self._eof:
                seconds = str(random.randint(*RETRY_AFTER))
                raise HandshakeError(503, "the server is stopping", (("Retry-After", seconds),))
            if self._stash or self._parser.trailing:
                raise HandshakeError(400, "data came before the handshake was answered")
            self._phase = _UPGRADED
            exchange, self._exchange = self._exchange, None
            stream.observer = observer
            stream.write_locked(answer)
        self._log(101, 0)
        if exchange is not None:
            self._request = None
            self.app.receiving.forget(self)

    def _answer(self) -> None:
        request = self._request
        assert request is not None
        result: Any = None
        failed: BaseException | None = None
        try:
            result = self.app.handle(request)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            failed = error
        if isinstance(result, (CoroutineType, Coroutine)):
            self._await(_Awaited(result))
            return
        try:
            self._conclude(request, result, failed)
        finally:
            failed = None  # whose traceback holds this frame

    def _await(self, view: _Awaited) -> None:
        """Have a view run in the loop's thread."""
        loop = self.stream.loop
        if loop.in_loop():
            self._start_view(view)
            return
        try:
            loop.call_soon(self._start_view, view)
        except BaseException:
            view.coro.close()
            raise

    def _start_view(self, view: _Awaited) -> None:
        run = view.run()
        try:
            ended = coroutines_of(self.stream.loop).start(run, self, "view", view)
        except BaseException as error:
            run.close()
            view.coro.close()
            self.coroutine_ended("view", view, error)
        else:
            if ended:
                self.coroutine_ended("view", view, None)

    def coroutine_ended(self, name: str, value: _Awaited, error: BaseException | None) -> None:
        """Go on with the answer of a view that was a coroutine. Loop thread."""
        request = self._request
        if request is None:
            return
        try:
            if error is None and value.result is _CANCELLED:
                self._cut_off(None)
            else:
                self._conclude(request, value.result, error)
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                self.stream.loop.call_soon(_raise, error)  # Ctrl-C is meant for the program
        except Exception:
            logger.exception("%r: answering failed", request)
            self._cut_off(None)

    def _conclude(self, request: Request, result: Any, failed: BaseException | None) -> None:
        """Answer with what a view returned, or raised."""
        response: Response | None = None
        refusal: HttpError | None = None
        try:
            try:
                if failed is not None:
                    raise failed
                response = self._response(request, result)
            except HandshakeError as error:
                refusal = error.with_traceback(None)  # which holds this frame, which holds the error
            except HttpError as error:
                response = error_response(error)
        except BaseException as error:
            if isinstance(error, ConnectionClosedError) and (self._eof or self.stream.closed):
                refusal = HttpError(400, "the connection ended before it was upgraded")  # the peer's doing: no news
            else:
                logger.exception("%s %s: the view failed", request.method, show_path(request.head.path))
                refusal = HttpError(500, "internal server error")
        finally:
            failed = None
        with self.stream.lock:
            upgraded = self._phase == _UPGRADED
            if not upgraded:
                self._phase = _ANSWERING
        if upgraded:
            self.app.receiving.forget(self)
            self._let_go(response)
        elif refusal is not None:
            self._let_go(None)
            self.refuse(refusal)
        else:
            assert response is not None
            self._send(response, request)

    def _response(self, request: Request, result: Any) -> Response | None:
        if result is None:
            if self.upgraded:
                return None
            raise TypeError("the view returned nothing, and did not upgrade the connection")
        response = as_response(result)
        response.match(request.head)
        return response

    def _send(self, response: Response, request: Request) -> None:
        head = request.head
        keep_alive = head.keep_alive and not self.app.draining
        empty = head.method == "HEAD" or response.status in BODILESS
        pieces = response.chunks
        unknown = pieces is not None and response.length is None and response.status not in BODILESS
        chunked = unknown and head.version == "HTTP/1.1"
        if unknown and not chunked and not empty:
            keep_alive = False  # the end of the connection is the end of the body
        start = response.head_bytes(keep_alive=keep_alive, chunked=chunked, version=head.version)
        if pieces is None or empty:
            body = b"" if empty else response.body
            self.stream.write(start + body if len(body) < SMALL_BODY else start)
            if len(body) >= SMALL_BODY:
                self.stream.write(body)
            self._finish(response, len(body), keep_alive)
        else:
            self.stream.write(start)
            pool = self.stream.loop.pool
            outlet: Outlet | None = None
            if response.one_thread and isinstance(pool, WorkerPool):
                outlet = Outlet(self.stream, pool, HIGH_WATER)
            self._sending = sending = _Sending(response, iter(pieces), chunked, keep_alive, outlet)
            if isinstance(pool, WorkerPool) and self.stream.loop.in_loop():
                pool.submit(self)  # behind a coroutine: the pieces may block
            else:
                self._send_body(sending)

    def _send_body(self, sending: _Sending) -> None:
        if sending.outlet is None:
            self._send_pieces(sending)
        else:
            self._send_all_pieces(sending, sending.outlet)

    def _send_pieces(self, sending: _Sending) -> None:
        """Send some pieces of the body, each sent before the next is asked for (PEP 3333, "Buffering and
        Streaming")."""
        stream = self.stream
        for _ in range(PIECES_PER_RUN):
            if stream.closed:
                self._let_go(sending.response)
                return
            piece = self._next_piece(sending)
            if piece is None:
                return
            if piece:
                stream.write(piece)
                stream.flush()
                if stream.queued > HIGH_WATER and self._wait():
                    return
        stream.loop.pool.submit(self)

    def _send_all_pieces(self, sending: _Sending, outlet: Outlet) -> None:
        """Send all pieces, in this thread; what the peer does not take yet is left to the outlet."""
        while not self.stream.closed:
            piece = self._next_piece(sending)
            if piece is None:
                return
            if piece and not outlet.put(piece) and not outlet.wait():
                logger.warning("%r: too many threads wait, and this peer reads slowly: it is cut off", self._request)
                self._cut_off(sending)
                return
        self._let_go(sending.response)

    def _next_piece(self, sending: _Sending) -> bytes | None:
        """Ask for the next piece, as it goes over the wire. None: the body is over, or it failed, and is dealt with."""
        try:
            piece = next(sending.pieces, None)
            if piece is not None and not isinstance(piece, bytes):
                raise TypeError(f"a body is made of bytes, not {type(piece).__name__}")
        except Exception:
            logger.exception("%r: the body failed", self._request)
            self._cut_off(sending)
            return None
        if piece is None:
            self._end_pieces(sending)
            return None
        if sending.left is not None:
            piece = piece[: sending.left]
            sending.left -= len(piece)
        sending.sent += len(piece)
        return b"%x\r\n%b\r\n" % (len(piece), piece) if sending.chunked and piece else piece

    def _wait(self) -> bool:
        """Go to WAITING, unless there is room again."""
        stream = self.stream
        with stream.lock:
            if stream.closed or stream.queued <= HIGH_WATER:
                return False
            stream.owe_drained_locked()
            self._phase = _WAITING
            return True

    def _go_on(self) -> None:
        """Go on after a wait: there is room, or nobody to send to. Loop thread."""
        if self._exchange is not None:
            self._exchange.changed()
            return
        sending = self._sending
        if sending is not None and sending.outlet is not None:
            sending.outlet.drained()
            return
        with self.stream.lock:
            if self._phase == _WAITING:
                self._phase = _ANSWERING
            elif self._phase != _ANSWERED:
                return
        if self._phase == _ANSWERED:
            self._next()
        else:
            self.stream.loop.pool.submit(self)

    def _end_pieces(self, sending: _Sending) -> None:
        if sending.left:
            logger.error("%r: the body is %d bytes shorter than announced", self._request, sending.left)
            self._cut_off(sending)
            return
        outlet = sending.outlet
        if outlet is None:
            if sending.chunked:
                self.stream.write(b"0\r\n\r\n")
            self._finish(sending.response, sending.sent, sending.keep_alive)
            return
        if sending.chunked:
            outlet.put(b"0\r\n\r\n")
        sending.closed = True
        self._close_body(sending.response)  # in this thread; the rest is sent without it
        outlet.finish(lambda: self._finish_outlet(sending))

    def _finish_outlet(self, sending: _Sending) -> None:
        if self.stream.closed:
            self._let_go(sending.response)
        else:
            self._finish(sending.response, sending.sent, sending.keep_alive)

    def _cut_off(self, sending: _Sending | None) -> None:
        """End in the middle of a body, with RST, so that nobody takes what came for the whole."""
        self.stream.abort()
        self._let_go(None if sending is None else sending.response)

    def _finish(self, response: Response, size: int, keep_alive: bool) -> None:
        self._log(response.status, size)
        self._let_go(response)
        if keep_alive:
            self.stream.loop.run_soon(self._next)
        else:
            self._end()

    def _let_go(self, response: Response | None) -> None:
        """Close what the answer and the request hold."""
        request, sending = self._request, self._sending
        if response is not None and (sending is None or not sending.closed):
            self._close_body(response)
        if request is not None:
            request.close()
        if sending is not None and sending.outlet is not None:
            sending.outlet.close()
        self._request = self._sending = None  # it refers to us: nobody should have to wait for the garbage collector

    def _close_body(self, response: Response) -> None:
        try:
            response.close()
        except Exception:
            logger.exception("%r: closing the body failed", self._request)

    def _log(self, status: int, size: int) -> None:
        if access_logger.isEnabledFor(logging.INFO):
            head = self._parser.head
            line = "-" if head is None else f"{head.method} {show_path(head.path)} {head.version}"
            address = show_address(self._client_address())
            if self._began is None:
                access_logger.info('%s "%s" %d %d', address, line, status, size)
            else:
                took = (self.stream.loop.time() - self._began) * 1000.0
                access_logger.info('%s "%s" %d %d %.1fms', address, line, status, size, took)

    def _client_address(self) -> PeerAddress:
        if self._request is not None:
            try:
                return self._request.remote_addr
            except HttpError:  # it cannot be read, which may be what is being logged
                pass
        return self.stream.peer_address
