"""HTTP/1.1 heads and bodies, received (RFC 9112), for both roles, over httptools.

Strict before it is fast: what two readers could read differently is refused.

What a request gets that is not served (the first fault in the order of arrival decides, however the bytes are cut):

| fault | status |
|---|---|
| control byte, bare CR or LF, line folding anywhere in the head; byte above 0x7F but in a field's value | 400 |
| head larger than `max_head` (its final empty line included), more than `max_headers` fields | 431 |
| … while still in the request line and behind the method | 414 |
| malformed request line, target or field line | 400 |
| unknown method (httptools knows those of IANA's registry) | 501 |
| HTTP version other than 1.0 and 1.1 | 505 |
| Content-Length, Host, Origin, Sec-WebSocket-Key or -Version twice | 400 |
| HTTP/1.1 without Host, malformed Host | 400 |
| Upgrade: websocket together with a body (Content-Length above 0, any Transfer-Encoding) | 400 |
| Transfer-Encoding with Content-Length, in HTTP/1.0, or with chunked not last and once | 400 |
| any transfer coding but chunked | 501 |
| malformed Content-Length or chunk | 400 |
| body larger than `max_body`, declared or while it comes | 413 |
| an expectation other than 100-continue | 417 |

One empty line before the request line is skipped (RFC 9112 §2.2). httptools sees a head when it is whole and clean,
and no body but chunks; a head is searched and checked once, whatever the pieces it comes in.

A byte above 0x7F in a field's value, or in a reason phrase, is opaque (RFC 9110 §5.5, RFC 9112 §4), and comes as the
character of Latin-1, as WSGI has it: a cookie of another application of the domain may have any.

A parser that raised is not fed again: after a fault nobody knows where the next request begins.

The file is longer than others, for the table above is in it, and the checks that are its rows.
"""

from __future__ import annotations

import re

import httptools

from gows.errors import HandshakeError, HttpError
from gows.http1.chunked import ChunkedDecoder
from gows.http1.headers import TOKEN, Headers

_is_clean = re.compile(rb"(?:[!-~][\t -~\x80-\xff]*\r\n)+").fullmatch  # unambiguous, so linear
_find_fault = re.compile(rb"[^\t\r\n -~\x80-\xff]|\r(?!\n)|(?<!\r)\n|(?<=\n)[\t ]").search
_request_line = re.compile(rf"({TOKEN}) ([!-~]+) ([!-~]+)").fullmatch
_is_version = re.compile(r"HTTP/[0-9]\.[0-9]").fullmatch
_absolute_target = re.compile(r"(?i:https?|wss?)://([^/?]*)(.*)").fullmatch
_is_host = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z\-._~%!$&'()*+,;=]+)(?::[0-9]{0,5})?").fullmatch

EMPTY_LINES = 256
"""Empty lines in a chunked body that one `feed` goes through; each takes a microsecond, and a read may have 65,536."""

_SINGLETONS = ("host", "content-length", "origin", "sec-websocket-key", "sec-websocket-version")


class RequestHead:
    """A request line and its fields, checked."""

    __slots__ = (
        "chunked",
        "content_length",
        "expect_continue",
        "headers",
        "keep_alive",
        "method",
        "path",
        "query",
        "target",
        "upgrade",
        "version",
    )

    method: str
    target: str
    """As it was sent."""
    path: str
    """The part before "?", still percent-encoded; "*" for `OPTIONS *`."""
    query: str
    """The part behind "?", still percent-encoded."""
    version: str
    """`HTTP/1.1` or `HTTP/1.0`."""
    headers: Headers
    keep_alive: bool
    """Whether the connection may carry another request: HTTP/1.1 without `Connection: close`, HTTP/1.0 with
    `Connection: keep-alive`."""
    upgrade: bool
    """Whether Upgrade names websocket."""
    content_length: int | None
    chunked: bool
    expect_continue: bool
    """The client waits for a 100 before it sends the body."""


class ResponseHead:
    """A status line and its fields, checked."""

    __slots__ = ("headers", "reason", "status", "version")

    def __init__(self, version: str, status: int, reason: str, headers: Headers) -> None:
        self.version = version
        self.status = status
        self.reason = reason
        self.headers = headers


class _Fields:
    """What httptools calls back: collects the fields of a head."""

    __slots__ = ("fields", "reason")

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] = []
        self.reason = ""

    def on_header(self, name: bytes, value: bytes) -> None:
        # "latin-1" is looked up each time, UTF-8 is not; httptools takes no name that is not ASCII
        self.fields.append((name.decode(), value.decode() if value.isascii() else value.decode("latin-1")))

    def on_status(self, reason: bytes) -> None:
        self.reason = reason.decode("latin-1")


class _HeadReader:
    """Collects bytes until a head is whole, and lets nothing through that is not plain lines of printable bytes."""

    __slots__ = ("_buffer", "_checked", "_lines", "_max_head", "_max_headers")

    def __init__(self, max_head: int, max_headers: int) -> None:
        self._max_head = max_head
        self._max_headers = max_headers
        self._buffer = bytearray()
        self._checked = 0  # so many bytes were found without fault
        self._lines = 0  # line ends among them

    def _take_head(self) -> bytes | None:
        """Return the head with the empty line at its end; None while it is not whole."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", max(0, self._checked - 3), self._max_head)
        if end < 0:
            self._check_start(min(len(buffer), self._max_head))
            if len(buffer) >= self._max_head:
                raise self._too_large()
            return None
        start = 2 if buffer.startswith(b"\r\n") else 0
        lines = bytes(buffer[start : end + 2])
        if _is_clean(lines) is None or buffer.count(b"\n", 0, end + 2) > self._max_headers + 1:
            self._check_start(end + 2)
            raise self._fault(400, "malformed head")
        del buffer[: end + 4]
        return lines + b"\r\n"

    def _check_start(self, end: int) -> None:
        """Look for what makes a head bad before it is whole, in the bytes up to `end` that were not looked at yet."""
        buffer = self._buffer
        start = self._checked
        if end > start and buffer[end - 1] == 13:
            end -= 1  # whether it is a bare CR shows with the next byte
        fault = _find_fault(buffer, start, end)
        stop = end if fault is None else fault.start()
        self._lines += buffer.count(b"\n", start, stop)
        self._checked = end
        if self._lines > self._max_headers + 1:
            raise self._fault(431, f"more than {self._max_headers} header fields")
        if fault is not None:
            raise self._fault(400, "control byte, bare CR or LF, or folded line in the head")

    def _fault(self, status: int, reason: str) -> HttpError:
        return HttpError(status, reason)

    def _too_large(self) -> HttpError:
        if self._lines == 0 and self._buffer.find(b" ", 0, self._max_head) >= 0:
            return self._fault(414, f"request line larger than {self._max_head} bytes")
        return self._fault(431, f"head larger than {self._max_head} bytes")


class RequestParser(_HeadReader):
    """Reads one request after another. Not thread-safe; raises HttpError, see the table at the head of the module.

    `head` is set once the head is complete, `body` and `complete` once the body is. What comes behind it is kept in
    `trailing` until `reset`. The caller bounds how much it feeds behind a complete request.

    With `asks` set, it stops behind the head of a request that has a body, and is `undecided`: then the caller calls
    `read_whole`, or `begin_pieces` and from then on `read_piece` in the place of `feed`.
    """

    __slots__ = ("_chunks", "_left", "_max_body", "asks", "body", "complete", "head", "undecided")

    def __init__(self, max_head: int = 16384, max_headers: int = 100, max_body: int = 1 << 20) -> None:
        super().__init__(max_head, max_headers)
        self._max_body = max_body
        self.asks = False
        self.head: RequestHead | None = None
        self.body = b""
        self.complete = False
        self.undecided = False
        self._chunks: ChunkedDecoder | None = None
        self._left = 0  # of a body in pieces whose length is known

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        self._buffer += data
        if self.complete:
            return
        head = self.head
        if head is None:
            raw = self._take_head()
            if raw is None:
                return
            self.head = head = _request_head(raw)
            if self.asks and (head.chunked or head.content_length):
                self.undecided = True
            else:
                self._begin_body(head, self._max_body)
        if not self.undecided:
            self._read_body(head)

    def read_whole(self) -> None:
        """Read the body whole: `body` has it once it is complete."""
        self.undecided = False
        assert self.head is not None
        self._begin_body(self.head, self._max_body)
        self._read_body(self.head)

    def begin_pieces(self, max_body: int | None) -> None:
        """Read the body in pieces, of `max_body` bytes together at most; None: of any size."""
        self.undecided = False
        assert self.head is not None
        self._begin_body(self.head, max_body)
        self._left = self.head.content_length or 0

    def read_piece(self, data: bytes) -> bytes:
        """Take the next bytes of a body in pieces. Return what they, and others before them, have of the body."""
        buffer = self._buffer
        chunks = self._chunks
        if chunks is not None:
            buffer += data
            if chunks.decode(buffer, EMPTY_LINES):
                self._chunks = None
                self.complete = True
            return chunks.take()
        if buffer or len(data) > self._left:
            buffer += data
            data = bytes(buffer[: self._left])
            del buffer[: self._left]
        self._left -= len(data)
        self.complete = not self._left
        return data

    def _begin_body(self, head: RequestHead, max_body: int | None) -> None:
        if max_body is not None and head.content_length is not None and head.content_length > max_body:
            raise HttpError(413, f"the body is larger than {max_body} bytes")
        if head.chunked:
            self._chunks = ChunkedDecoder(max_body)

    def _read_body(self, head: RequestHead) -> None:
        buffer = self._buffer
        chunks = self._chunks
        if chunks is not None:
            if chunks.decode(buffer, EMPTY_LINES):
                self.body = bytes(chunks.body)
                self._chunks = None
                self.complete = True
            return
        length = head.content_length
        if not length:
            self.complete = True
        elif len(buffer) >= length:
            self.body = bytes(buffer[:length])
            del buffer[:length]
            self.complete = True

    @property
    def more(self) -> bool:
        """Whether `feed` left off, so that others may have their turn: `feed(b"")` goes on."""
        return self._chunks is not None and self._chunks.more

    @property
    def held(self) -> int:
        """Bytes of requests that are held, the present one's body among them."""
        return len(self._buffer) + len(self.body) + (0 if self._chunks is None else len(self._chunks.body))

    @property
    def started(self) -> bool:
        """Whether a byte of a request has come that is not complete yet."""
        return not self.complete and (self.head is not None or len(self._buffer) > 0)

    @property
    def expect_continue(self) -> bool:
        """Whether the client still waits for `100 Continue` (RFC 9110 §10.1.1): nothing of the body came."""
        head = self.head
        if head is None or not head.expect_continue or self.complete or self._buffer:
            return False
        return self._chunks is None or not self._chunks.started

    @property
    def trailing(self) -> bytes:
        """What came behind the complete request: a pipelined request, or frames sent before the 101."""
        return bytes(self._buffer) if self.complete else b""

    def reset(self) -> None:
        """Make ready for the next request. What came behind this one is kept as its start; `feed(b"")` looks at it."""
        self._checked = self._lines = self._left = 0
        self._chunks = None
        self.head = None
        self.body = b""
        self.complete = self.undecided = False


class ResponseParser(_HeadReader):
    """Reads the head of the answer to an upgrade. Raises HandshakeError (502) when it is malformed or too large.

    Interim answers (RFC 9110 §15.2: 100, 103) are skipped, the final one is in `head`, what follows it in `trailing`.
    """

    __slots__ = ("head",)

    def __init__(self, max_head: int = 16384, max_headers: int = 100) -> None:
        super().__init__(max_head, max_headers)
        self.head: ResponseHead | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        self._buffer += data
        while self.head is None:
            raw = self._take_head()
            if raw is None:
                return
            head = self._response_head(raw)
            if head.status >= 200 or head.status == 101:
                self.head = head
            self._checked = self._lines = 0

    def _response_head(self, raw: bytes) -> ResponseHead:
        collected = _Fields()
        parser = httptools.HttpResponseParser(collected)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            # a 101 without Upgrade stops it behind the last field: check_response says what is wrong with that
            if parser.get_status_code() != 101 or len(collected.fields) != raw.count(b"\n") - 2:
                raise self._fault(400, "malformed head") from None
        version = parser.get_http_version()
        status = parser.get_status_code()
        if version not in ("1.1", "1.0") or status < 100:
            raise self._fault(400, "malformed status line")
        return ResponseHead(f"HTTP/{version}", status, collected.reason, Headers(collected.fields))

    def _fault(self, status: int, reason: str) -> HttpError:
        return HandshakeError(502, f"the server's answer is no HTTP/1.1 answer: {reason}")

    @property
    def trailing(self) -> bytes:
        """What came behind the head: the first frames."""
        return bytes(self._buffer) if self.head is not None else b""


def _request_head(raw: bytes) -> RequestHead:
    line = _request_line(raw[: raw.index(b"\r")].decode("latin-1"))
    if line is None:
        raise HttpError(400, "malformed request line")
    head = RequestHead()
    head.method, target, version = line.groups()
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        if _is_version(version):
            raise HttpError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        raise HttpError(400, "malformed request line")
    head.version = version
    head.target = target
    fields, refused = _parse_fields(raw)
    if target[0] != "/":
        target, fields = _other_target(head.method, target, fields)
    elif "#" in target:
        raise HttpError(400, "a request target has no fragment")
    head.path, _, head.query = target.partition("?")
    head.headers = headers = Headers(fields)
    if headers.repeated:
        for name in _SINGLETONS:
            if len(headers.get_all(name)) > 1:
                raise HttpError(400, f"more than one {name} field")
    first = headers.first
    _check_host(first.get("host"), version)
    head.upgrade = "upgrade" in first and headers.has_token("upgrade", "websocket")
    head.keep_alive = version == "HTTP/1.1"
    if "connection" in first:  # RFC 9112 §9.3
        kept = head.keep_alive or headers.has_token("connection", "keep-alive")
        head.keep_alive = kept and not headers.has_token("connection", "close")
    head.chunked = head.expect_continue = False
    head.content_length = None
    if "transfer-encoding" in first or "content-length" in first:
        _set_framing(head, headers)
    if "expect" in first and version == "HTTP/1.1":  # RFC 9110 §10.1.1: ignored in HTTP/1.0
        _set_expectation(head, headers)
    if refused:
        raise HttpError(400, "malformed head")
    return head


def _parse_fields(raw: bytes) -> tuple[list[tuple[str, str]], bool]:
    """Return the fields, and whether httptools refused the head behind the last one.

    It does so for a Transfer-Encoding that it does not know, for which `_set_framing` then has the right status.
    """
    collected = _Fields()
    try:
        httptools.HttpRequestParser(collected).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserInvalidMethodError:
        raise HttpError(501, "unknown method") from None
    except httptools.HttpParserError:
        if len(collected.fields) != raw.count(b"\n") - 2:
            raise HttpError(400, "malformed head") from None
        return collected.fields, True
    return collected.fields, False


def _other_target(method: str, target: str, fields: list[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
    """Return a target that is not a path: absolute, whose host replaces the Host field (RFC 9112 §3.2.2), or `OPTIONS
    *`."""
    absolute = _absolute_target(target)
    if absolute is not None and "#" not in target:
        host, path = absolute.groups()
        fields = [(name, host if name.lower() == "host" else value) for name, value in fields]
        return (path if path.startswith("/") else "/" + path), fields
    if target == "*" and method == "OPTIONS":
        return target, fields
    raise HttpError(400, "malformed request target")


def is_host(text: str) -> bool:
    """Return whether `text` is a host with an optional port (RFC 9110 §7.2)."""
    return _is_host(text) is not None


def _check_host(host: str | None, version: str) -> None:
    if host is None:
        if version == "HTTP/1.1":
            raise HttpError(400, "HTTP/1.1 requires a Host field")
    elif not is_host(host):
        raise HttpError(400, "malformed Host field")


def _set_framing(head: RequestHead, headers: Headers) -> None:
    """Find out where the body ends (RFC 9112 §6); every doubt is refused, since a proxy in front may have decided
    otherwise."""
    coding = headers.joined("transfer-encoding")
    if coding is None:
        head.content_length = int(headers["content-length"])  # digits of a 64-bit number: httptools refused others
        if head.upgrade and head.content_length:
            raise HttpError(400, "an upgrade to websocket has no body")
        return
    if head.upgrade:
        raise HttpError(400, "an upgrade to websocket has no body")
    if "content-length" in headers or head.version == "HTTP/1.0":
        raise HttpError(400, "Transfer-Encoding with Content-Length or in HTTP/1.0")
    if coding.lower() != "chunked":
        raise HttpError(501, "no transfer coding but chunked is spoken here")
    head.chunked = True


def _set_expectation(head: RequestHead, headers: Headers) -> None:
    if [value.lower() for value in headers.get_all("expect")] != ["100-continue"]:
        raise HttpError(417, "no expectation but 100-continue is met here")
    head.expect_continue = head.chunked or bool(head.content_length)


__all__ = ["Headers", "RequestHead", "RequestParser", "ResponseHead", "ResponseParser", "is_host"]
