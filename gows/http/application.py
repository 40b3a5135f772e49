"""Application: what answers the requests of a connection."""

from __future__ import annotations

from typing import Any, Protocol

from gows.http.exchange import Exchange
from gows.http.proxies import Proxies
from gows.http.request import Request
from gows.session.receiving import Receiving


class Application(Protocol):
    """What answers requests, and the limits. Sizes are bytes, times are seconds."""

    max_head_size: int
    max_headers: int
    max_body_size: int
    max_streamed_size: int | None
    """Of a body that an exchange reads; None: any size."""
    head_timeout: float
    body_timeout: float
    keep_alive_timeout: float

    receiving: Receiving
    """Counts what is held of what came."""

    @property
    def draining(self) -> bool:
        """Whether the end has begun: each answer is the last of its connection."""

    @property
    def proxies(self) -> Proxies | None:
        """The proxies that are believed; None: none are."""

    @property
    def streams(self) -> bool:
        """Whether `exchange` is to be asked."""

    def exchange(self, request: Request) -> Exchange | None:
        """Return what answers a request while its body comes, of which the head is complete; None: `handle` does, once
        the body is there. Raises HttpError. Loop thread."""

    def handle(self, request: Request) -> Any:
        """Return the answer: whatever `as_response` takes, or None when it upgraded the connection; or a coroutine that
        returns that. Worker thread, unless it `answers_at_once`."""

    def answers_at_once(self, request: Request) -> bool:
        """Return whether the loop is to call `handle` itself, where it must not block. Loop thread."""
