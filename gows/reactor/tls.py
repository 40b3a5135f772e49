"""TLSStream: a Stream whose bytes are enciphered on the way."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from gows.reactor.endpoint import Sock
from gows.reactor.observer import Observer
from gows.reactor.stream import Stream

if TYPE_CHECKING:
    from gows.reactor.loop import Loop


class TLSStream(Stream):
    """A connection under TLS."""

    __slots__ = ()

    def __init__(
        self,
        loop: Loop,
        sock: Sock | None,
        context: ssl.SSLContext,
        observer: Observer | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        raise NotImplementedError
