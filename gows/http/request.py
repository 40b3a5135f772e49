"""Request: what a route gets."""

from __future__ import annotations

import json
from typing import Any, Protocol
from urllib.parse import unquote

from gows.errors import HttpError
from gows.http.forms import UploadedFile, Values, parse_cookies, parse_multipart, parse_query
from gows.http.proxies import Client, Proxies
from gows.http1.head import RequestHead
from gows.http1.headers import Headers
from gows.printable import show_path
from gows.reactor.address import SocketAddress
from gows.reactor.interfaces import Observer
from gows.reactor.networks import PeerAddress
from gows.reactor.stream import Stream

_NOT_FORWARDED = Client(None)
_NOTHING: tuple[Values[str], Values[UploadedFile]] = (Values([]), Values([]))


class Carrier(Protocol):
    """The connection that a request came by, an HttpConnection, as far as a request and its answer need it."""

    stream: Stream
    secure: bool

    @property
    def proxies(self) -> Proxies | None:
        """Return the proxies that are believed; None: none are."""

    @property
    def ends(self) -> tuple[PeerAddress, PeerAddress]:
        """Return the peer's end and ours."""

    @property
    def upgraded(self) -> bool:
        """Return whether it has become a WebSocket."""

    def upgrade(self, answer: bytes, observer: Observer) -> None:
        """Send the 101 and hand the stream to `observer`."""


class Request:
    """One HTTP request, its body read. Any thread, one at a time.

    `head`: the checked request line and fields. `body`: bytes. `path_params`: the parameters of the route's pattern.
    `connection`: what it came by, None when it came from outside a `gows.Server`.
    What is malformed raises HttpError (400) when it is looked at; that becomes the answer if the route lets it pass.
    """

    __slots__ = ("_client", "_form", "_query", "body", "connection", "head", "path", "path_params")

    def __init__(self, head: RequestHead, body: bytes = b"", connection: Carrier | None = None) -> None:
        if not isinstance(head, RequestHead):
            raise TypeError(f"a Request is made of a RequestHead, not of {type(head).__name__}; a Server makes them")
        self.head = head
        self.body = body
        self.connection = connection
        raw = head.path
        self.path = unquote(raw, errors="replace") if "%" in raw else raw
        """The path, percent-decoded once as UTF-8; routes are matched against it."""
        self.path_params: dict[str, str] = {}
        self._query: Values[str] | None = None
        self._form: tuple[Values[str], Values[UploadedFile]] | None = None
        self._client: Client | None = None

    @property
    def method(self) -> str:
        """As it was sent, so in upper case for all known methods."""
        return self.head.method

    @property
    def raw_path(self) -> str:
        """The path as it was sent, percent-encoded."""
        return self.head.path

    @property
    def query_string(self) -> str:
        """What stands behind "?", percent-encoded."""
        return self.head.query

    @property
    def headers(self) -> Headers:
        """The header fields, case-insensitive. A byte above 0x7F in a value is a character of Latin-1, as in WSGI."""
        return self.head.headers

    @property
    def host(self) -> str:
        """The Host field, with the port if it names one; empty when HTTP/1.0 sent none. From a trusted proxy, what it
        forwards in its place."""
        return self._forwarded().host or self.head.headers.get("host") or ""

    @property
    def scheme(self) -> str:
        """ "https" when the connection itself is TLS, or a PROXY header says so of the client's, else "http". From a
        trusted proxy, what it forwards."""
        secure = self.connection is not None and self.connection.secure
        return self._forwarded().scheme or ("https" if secure else "http")

    @property
    def remote_addr(self) -> SocketAddress | None:
        """The peer: (host, port), or the path of a Unix-domain socket; None once it has gone. From a trusted proxy,
        whom it names; the port is 0 where it does not tell that."""
        forwarded = self._forwarded()
        if forwarded is _NOT_FORWARDED:
            return None if self.connection is None else self.connection.stream.peer_address
        return forwarded.address

    def _forwarded(self) -> Client:
        """Return what a trusted proxy says of the client; `_NOT_FORWARDED` if there is none."""
        if self._client is None:
            connection = self.connection
            proxies = None if connection is None else connection.proxies
            if connection is None or proxies is None:
                self._client = _NOT_FORWARDED
            else:
                self._client = proxies.client(connection.stream.peer_address, self.head.headers)
        return self._client

    @property
    def query(self) -> Values[str]:
        """The fields of the query string, at most 1,000."""
        if self._query is None:
            self._query = parse_query(self.head.query)
        return self._query

    @property
    def form(self) -> Values[str]:
        """The fields of a form in the body (urlencoded or multipart/form-data), at most 1,000; empty for others."""
        return self._parsed_form()[0]

    @property
    def files(self) -> Values[UploadedFile]:
        """The files of a multipart/form-data body; they are closed when the request is answered."""
        return self._parsed_form()[1]

    def form_value(self, name: str, default: str = "") -> str:
        """Return the first value of `name` in the body's form, else in the query string, else `default`.

        A form in the body comes first, as in Go's Request.FormValue.
        """
        value = self._parsed_form()[0].get(name)
        return self.query.get(name, default) if value is None else value

    def json(self) -> Any:
        """Return the body as JSON; HttpError (400) when it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise HttpError(400, "the body is not JSON") from None

    @property
    def cookies(self) -> dict[str, str]:
        """Name to value, the first of each name; a byte above 0x7F is a character of Latin-1."""
        return parse_cookies("; ".join(self.head.headers.get_all("cookie")))

    def close(self) -> None:
        """Close the files of its form. The server does so once the request is answered."""
        if self._form is not None:
            for _, file in self._form[1].items():
                file.close()

    def _parsed_form(self) -> tuple[Values[str], Values[UploadedFile]]:
        if self._form is None:
            content_type = self.head.headers.get("content-type") or ""
            kind = content_type.partition(";")[0].strip(" \t").lower()
            if kind == "application/x-www-form-urlencoded":
                self._form = parse_query(self.body.decode("latin-1")), _NOTHING[1]
            elif kind == "multipart/form-data":
                self._form = parse_multipart(content_type, self.body)
            else:
                self._form = _NOTHING
        return self._form

    def __repr__(self) -> str:
        return f"<Request {self.head.method} {show_path(self.head.path)}>"
