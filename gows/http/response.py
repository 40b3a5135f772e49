"""Response: what a route answers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from typing import Any
from urllib.parse import quote

from gows.errors import HttpError, InvalidHeaderError
from gows.http.files import PIECE, FileBody, path_below
from gows.http1.dates import format_date
from gows.http1.head import RequestHead
from gows.http1.headers import HeaderSource, check_field, header_pairs
from gows.jsontext import to_json_text
from gows.protocol.handshake import status_phrase
from gows.reactor.address import ascii_host

_OWNED = frozenset({"connection", "content-length", "date", "keep-alive", "trailer", "transfer-encoding", "upgrade"})
_HTML = "text/html; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
_BYTES = "application/octet-stream"

BODILESS = (204, 304)
"""Statuses whose answers have no body (RFC 9110 §6.4.1)."""

_URI = "%:/?#[]@!$&'()*+,;=-._~"  # what may stand in a URI as it is, beside letters and digits (RFC 3986 §2)
_split_host = re.compile(
    r"((?:[A-Za-z][A-Za-z0-9+.\-]*:)?//(?:[^/?#@]*@)?)([^/?#@:\[\]]{1,253})((?:[:/?#].*)?)", re.DOTALL
).fullmatch

_date: tuple[int, str] = (0, "")


class Response:
    """A status, headers and a body: bytes, or an iterable of bytes that is sent as fast as the peer takes it.

    Content-Length, Transfer-Encoding, Connection and Date are written by the server; to give them, like any header that
    may not be sent, raises InvalidHeaderError. `length` tells the size of an iterable, if it is known.

    An iterable is asked for its pieces by one worker at a time, but not always by the same: between two pieces a slow
    peer holds no thread. Set `one_thread` when that must not be, for what is bound to its thread (a database cursor).
    """

    __slots__ = ("_headers", "body", "chunks", "length", "one_thread", "status")

    def __init__(
        self,
        body: bytes | str | Iterable[bytes] = b"",
        status: int = 200,
        headers: HeaderSource | None = None,
        content_type: str | None = None,
        length: int | None = None,
    ) -> None:
        if not isinstance(status, int):
            raise TypeError(f"status must be an int, not {type(status).__name__}")
        if not 200 <= status <= 999:
            raise ValueError(f"{status} is no final HTTP status")
        self.status = status
        self._headers: list[tuple[str, str]] = []
        for name, value in header_pairs(headers or ()):
            self.add_header(name, value)
        self.body = b""
        self.chunks: Iterable[bytes] | None = None
        self.length = length
        self.one_thread = False
        if isinstance(body, str):
            self.body = body.encode()
            content_type = content_type or _HTML
        elif isinstance(body, (bytes, bytearray, memoryview)):
            self.body = bytes(body)
            content_type = content_type or (_BYTES if self.body else None)
        elif isinstance(body, Mapping) or not hasattr(type(body), "__iter__"):
            raise TypeError(
                f"a body is a str, bytes or an iterable of bytes, not {type(body).__name__}; for JSON, Response.json(…)"
            )
        else:
            self.chunks = body
            content_type = content_type or (None if status in BODILESS else _BYTES)
        if content_type is not None and not any(name.lower() == "content-type" for name, _ in self._headers):
            self.add_header("Content-Type", content_type)

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The fields so far; `add_header` adds one."""
        return tuple(self._headers)

    def add_header(self, name: str, value: str) -> None:
        """Add one more field; raises InvalidHeaderError."""
        check_field(name, value)
        if name.lower() in _OWNED:
            raise InvalidHeaderError(f"{name} is written by the server itself")
        self._headers.append((name, value))

    def take_headers(self, headers: list[tuple[str, str]]) -> None:
        """Take these fields instead of those so far; values may be Latin-1, as in WSGI. Raises InvalidHeaderError."""
        for name, value in headers:
            check_field(name, value, latin_1=True)
        self._headers = headers

    @classmethod
    def html(cls, body: str, status: int = 200, headers: HeaderSource | None = None) -> Response:
        """Return a page, in UTF-8."""
        return cls(body, status, headers, _HTML)

    @classmethod
    def text(cls, body: str, status: int = 200, headers: HeaderSource | None = None) -> Response:
        """Return plain text, in UTF-8."""
        return cls(body, status, headers, _TEXT)

    @classmethod
    def json(cls, value: object, status: int = 200, headers: HeaderSource | None = None) -> Response:
        """Return `value` as JSON; TypeError or ValueError when it cannot be written."""
        return cls(to_json_text(value), status, headers, _JSON)

    @classmethod
    def redirect(cls, location: str, status: int = 303) -> Response:
        """See there instead: 303 (with GET), 301 or 308 (for good), 302 or 307 (for now).

        What a URI has no place for is percent-encoded as UTF-8, so `location` may be made of a `request.path`; a "%" is
        left as it is. A host that is not ASCII is written by IDNA.
        """
        if status not in (301, 302, 303, 307, 308):
            raise ValueError(f"{status} is no redirect")
        return cls(b"", status, (("Location", _to_uri(location)),))

    @classmethod
    def file(
        cls,
        path: str | PathLike[str],
        root: str | PathLike[str] | None = None,
        headers: HeaderSource | None = None,
        content_type: str | None = None,
    ) -> Response:
        """Return a file, sent in pieces; conditional and range requests are met. HttpError: 404 when it is not there,
        503 when descriptors are used up.

        With `root`, `path` is relative to it, and what lies outside, by ".." or by a symbolic link, is not there.
        Give it whenever any part of `path` came from a client.
        """
        name = fspath(path) if root is None else path_below(fspath(root), fspath(path))
        body = FileBody(name)
        try:
            response = cls(body, 200, headers, content_type or body.content_type, body.length)
        except BaseException:
            body.close()
            raise
        response._headers += body.headers()
        return response

    def match(self, head: RequestHead) -> None:
        """Make of a file's answer what the request's conditions ask for: 304, or 206 or 416 for a range."""
        body = self.chunks
        if not isinstance(body, FileBody) or self.status != 200 or head.method not in ("GET", "HEAD"):
            return
        if body.unchanged(head.headers):
            self.status = 304
            self._drop_body()
            return
        try:
            content_range = body.select(head.headers)
        except HttpError as error:
            self.status = error.status
            self._headers = list(error.headers)
            self._drop_body()
            return
        if content_range is not None:
            self.status = 206
            self.add_header("Content-Range", content_range)
            self.length = body.length
        if body.length <= PIECE:
            self.body = b"".join(body)
            self.length = None
            self._close_chunks()

    def _drop_body(self) -> None:
        self.length = None
        self._close_chunks()

    def _close_chunks(self) -> None:
        self.close()
        self.chunks = None

    def close(self) -> None:
        """Let go of what the body holds, as PEP 3333 asks: its `close`, if it has one."""
        close = getattr(self.chunks, "close", None)
        if close is not None:
            close()

    def head_bytes(self, *, keep_alive: bool, chunked: bool, version: str = "HTTP/1.1") -> bytes:
        """Return the status line and fields; `chunked`: the length is not known, and the peer understands the coding.
        `version`: the request's."""
        lines = [f"HTTP/1.1 {self.status} {status_phrase(self.status)}", f"Date: {http_date()}"]
        lines += [f"{name}: {value}" for name, value in self._headers]
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        elif self.chunks is None and self.status not in BODILESS:
            lines.append(f"Content-Length: {len(self.body)}")
        elif self.length is not None and self.status != 204:  # RFC 9110 §8.6
            lines.append(f"Content-Length: {self.length}")
        if not keep_alive:
            lines.append("Connection: close")
        elif version == "HTTP/1.0":
            lines.append("Connection: keep-alive")  # what it takes for an exception (RFC 9112 appendix C.2.2)
        lines.append("\r\n")
        return "\r\n".join(lines).encode("latin-1")


def _to_uri(location: str) -> str:
    """Return an IRI (RFC 3987), or whatever else, as a URI reference (RFC 3986)."""
    if not location.isascii():
        found = _split_host(location)
        if found is not None and not found[2].isascii():
            try:
                location = found[1] + ascii_host(found[2]) + found[3]
            except ValueError:  # no name at all: it leads nowhere, whatever is written
                pass
    return quote(location, safe=_URI, errors="surrogatepass")


def as_response(result: Any) -> Response:
    """Return what a view returned, as a Response: str is HTML, bytes are bytes, dict and list are JSON; else
    TypeError."""
    if isinstance(result, Response):
        return result
    if isinstance(result, str):
        return Response.html(result)
    if isinstance(result, (bytes, bytearray, memoryview)):
        return Response(bytes(result))
    if isinstance(result, (dict, list)):
        return Response.json(result)
    raise TypeError(f"a view returns a Response, str, bytes, dict or list, not {type(result).__name__}")


def error_response(error: HttpError) -> Response:
    """Return the plain-text answer of a refusal."""
    return Response(f"{error.reason}\n", error.status, error.headers, _TEXT)


def http_date() -> str:
    """Now, for the Date field; made once a second."""
    global _date  # one assignment of a whole pair: threads may race, and all of them are right
    now = int(time.time())
    second, text = _date
    if second != now:
        text = format_date(now)
        _date = (now, text)
    return text
