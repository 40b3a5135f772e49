"""permessage-deflate (RFC 7692): agreeing on it, in both roles, and doing it.

Without context takeover (the default) nothing of zlib belongs to a connection: messages of all connections go through the
compressors of one DeflatePool, each reset after every message, and an inflater lives as long as the one message it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gows.errors import HandshakeError
from gows.protocol.extensions import ExtensionOffer, format_extension

EXTENSION_NAME = "permessage-deflate"

_SERVER_NO_TAKEOVER = "server_no_context_takeover"
_CLIENT_NO_TAKEOVER = "client_no_context_takeover"
_SERVER_BITS = "server_max_window_bits"
_CLIENT_BITS = "client_max_window_bits"
_WINDOW_BITS = {str(bits): bits for bits in range(8, 16)}  # §7.1.2: decimal, no leading zeros


@dataclass(frozen=True)
class DeflateOptions:
    """What one side is willing to do. Of the four parameters (RFC 7692 §7.1) it asks what is set here, in either role."""

    level: int = 1
    """zlib level of our compressor, 1 (fast) to 9 (small)."""
    mem_level: int = 8
    """zlib memory level of our compressor, 1 to 9."""
    server_no_context_takeover: bool = True
    """The server's compressor forgets its window after each message."""
    client_no_context_takeover: bool = True
    """The client's compressor forgets its window after each message."""
    server_max_window_bits: int = 15
    """Largest LZ77 window of the server's compressor, as a power of two, 8 to 15."""
    client_max_window_bits: int = 15
    """Largest LZ77 window of the client's compressor, 8 to 15."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("level", 1, 9),
            ("mem_level", 1, 9),
            (_SERVER_BITS, 8, 15),
            (_CLIENT_BITS, 8, 15),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, not {getattr(self, name)}")


@dataclass(frozen=True)
class DeflateParams:
    """What both sides agreed on (RFC 7692 §7.1)."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = 15
    client_max_window_bits: int = 15


class _BadParams(Exception):
    """Parameters that RFC 7692 §7.1 does not allow; says why."""


@dataclass
class _Asked:
    """The parameters of one offer or answer, checked one by one. `client_bits` 0: named without a value."""

    server_no_takeover: bool = False
    client_no_takeover: bool = False
    server_bits: int | None = None
    client_bits: int | None = None


def _read_params(params: Sequence[tuple[str, str | None]]) -> _Asked:
    asked = _Asked()
    seen: set[str] = set()
    for name, value in params:
        if name in seen:
            raise _BadParams(f"{name} given twice")
        seen.add(name)
        if name in (_SERVER_NO_TAKEOVER, _CLIENT_NO_TAKEOVER):
            if value is not None:
                raise _BadParams(f"{name} takes no value")
            if name == _SERVER_NO_TAKEOVER:
                asked.server_no_takeover = True
            else:
                asked.client_no_takeover = True
        elif name == _SERVER_BITS:
            asked.server_bits = _read_bits(name, value)
        elif name == _CLIENT_BITS:
            asked.client_bits = 0 if value is None else _read_bits(name, value)
        else:
            raise _BadParams(f"unknown parameter {name}")
    return asked


def _read_bits(name: str, value: str | None) -> int:
    bits = _WINDOW_BITS.get(value or "")
    if bits is None:
        raise _BadParams(f"{name} must be from 8 to 15")
    return bits


def negotiate(offers: Sequence[ExtensionOffer], options: DeflateOptions) -> tuple[str, DeflateParams] | None:
    """The server's choice (RFC 7692 §5.1): the first offer that can be met, as the header value to answer with and its outcome.

    None when there is no such offer; the connection then goes on uncompressed (§7: an offer that breaks the rules is declined).
    """
    for offer in offers:
        if offer.name == EXTENSION_NAME:
            try:
                asked = _read_params(offer.params)
            except _BadParams:
                continue  # a fallback may follow
            return _answer(asked, options)
    return None


def _answer(asked: _Asked, options: DeflateOptions) -> tuple[str, DeflateParams]:
    """Every offer with valid parameters can be met; a parameter is answered when it was asked or when we want it (§7.1)."""
    server_bits = min(asked.server_bits or 15, options.server_max_window_bits)
    client_bits = 15  # §7.1.2.2: without the parameter in the offer the client may not be limited
    if asked.client_bits is not None:
        client_bits = min(asked.client_bits or 15, options.client_max_window_bits)
    outcome = DeflateParams(
        server_no_context_takeover=asked.server_no_takeover or options.server_no_context_takeover,
        client_no_context_takeover=asked.client_no_takeover or options.client_no_context_takeover,
        server_max_window_bits=server_bits,
        client_max_window_bits=client_bits,
    )
    params: list[tuple[str, int | None]] = []
    if outcome.server_no_context_takeover:
        params.append((_SERVER_NO_TAKEOVER, None))
    if outcome.client_no_context_takeover:
        params.append((_CLIENT_NO_TAKEOVER, None))
    if asked.server_bits is not None or server_bits < 15:
        params.append((_SERVER_BITS, server_bits))
    if client_bits < 15:
        params.append((_CLIENT_BITS, client_bits))
    return format_extension(EXTENSION_NAME, params), outcome


def make_offer(options: DeflateOptions) -> str:
    """The client's Sec-WebSocket-Extensions value.

    A limit on the server's window is offered first with it and then without, for servers that cannot limit theirs (§7.1.2.1).
    """
    params: list[tuple[str, int | None]] = []
    if options.server_no_context_takeover:
        params.append((_SERVER_NO_TAKEOVER, None))
    if options.client_no_context_takeover:
        params.append((_CLIENT_NO_TAKEOVER, None))
    # always named, so that the server may limit our window
    params.append((_CLIENT_BITS, options.client_max_window_bits if options.client_max_window_bits < 15 else None))
    offer = format_extension(EXTENSION_NAME, params)
    if options.server_max_window_bits < 15:
        limited = format_extension(EXTENSION_NAME, [*params, (_SERVER_BITS, options.server_max_window_bits)])
        return f"{limited}, {offer}"
    return offer


def accept_answer(extensions: Sequence[ExtensionOffer], options: DeflateOptions | None) -> DeflateParams | None:
    """The client's look at the server's Sec-WebSocket-Extensions; `options` is what was offered, None for nothing.

    None: no compression. Raises HandshakeError for an extension or a parameter that was not offered, or one that breaks
    the rules (RFC 6455 §4.1 point 5, RFC 7692 §7.1): the connection must then be failed.
    """
    if not extensions:
        return None
    name = extensions[0].name
    if options is None or name != EXTENSION_NAME:
        raise HandshakeError(101, f"the server chose an extension that was not offered: {name}")
    if len(extensions) > 1:
        raise HandshakeError(101, f"the server chose more than one extension: {name}, {extensions[1].name}")
    try:
        answer = _read_params(extensions[0].params)
        if options.server_no_context_takeover and not answer.server_no_takeover:
            raise _BadParams(f"{_SERVER_NO_TAKEOVER} was asked but not granted")  # §7.1.1.1
        if answer.client_bits == 0:
            raise _BadParams(f"{_CLIENT_BITS} needs a value in an answer")  # §7.1.2.2
        if answer.client_bits is not None and answer.client_bits > options.client_max_window_bits:
            raise _BadParams(f"{_CLIENT_BITS} is larger than offered")
    except _BadParams as error:
        raise HandshakeError(101, f"the server's {EXTENSION_NAME} answer is wrong: {error}") from None
    return DeflateParams(
        server_no_context_takeover=answer.server_no_takeover,
        client_no_context_takeover=answer.client_no_takeover or options.client_no_context_takeover,
        server_max_window_bits=answer.server_bits or 15,
        client_max_window_bits=answer.client_bits or options.client_max_window_bits,
    )
