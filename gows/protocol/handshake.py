"""The opening handshake (RFC 6455 §4), both roles.

A server refuses, in this order: a method other than GET (405), HTTP/1.0 (505), no `Upgrade: websocket` or no
`Connection: upgrade` (426), a Sec-WebSocket-Version other than 13 (426, naming 13), a key that is not 16 bytes of
base64 (400).
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from binascii import b2a_base64
from collections.abc import Sequence
from hashlib import sha1
from http import HTTPStatus

from gows.errors import HandshakeError, HttpError, InvalidHeaderError
from gows.http1.head import RequestHead, ResponseHead, is_host
from gows.http1.headers import Headers, HeaderSource, header_pairs, is_token
from gows.protocol.deflate import DeflateOptions, DeflateParams, accept_answer
from gows.protocol.extensions import parse_extensions

VERSION = "13"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
# 16 bytes are 21 characters, one that carries two bits, and the padding; other spellings decode alike, and are refused.
_is_key = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==").fullmatch
_is_target = re.compile(r"/[!\"$-~]*").fullmatch
_split_origin = re.compile(r"(https?|wss?)://(\[[0-9a-f:.]+\]|[0-9a-z\-._~%!$&'()*+,;=]+)(?::([0-9]{1,5}))?").fullmatch
_split_host = re.compile(r"(\[[0-9a-f:.]+\]|[^:]+)(?::([0-9]*))?").fullmatch
_DEFAULT_PORTS = {"http": "80", "ws": "80", "https": "443", "wss": "443"}

_OWNED = frozenset({"upgrade", "connection", "content-length", "transfer-encoding", "trailer", "te", "host"})

_OF_ITS_BODY = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
    }
)

_UPGRADE_HEADERS = (("Upgrade", "websocket"),)
_ANSWER_START = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)


def check_request(head: RequestHead) -> str:
    """Return the Sec-WebSocket-Key of a valid upgrade (RFC 6455 §4.2.1); raises HandshakeError otherwise."""
    if head.method != "GET":
        raise HandshakeError(405, "a WebSocket upgrade is a GET request", (("Allow", "GET"),))
    if head.version != "HTTP/1.1":
        raise HandshakeError(505, "a WebSocket upgrade needs HTTP/1.1")
    headers = head.headers
    if not head.upgrade or not headers.has_token("connection", "upgrade"):
        raise HandshakeError(426, "this address speaks WebSocket; send an upgrade", _UPGRADE_HEADERS)
    if headers.get("sec-websocket-version") != VERSION:
        version = (*_UPGRADE_HEADERS, ("Sec-WebSocket-Version", VERSION))
        raise HandshakeError(426, "WebSocket version 13 is spoken here", version)
    key = headers.get("sec-websocket-key")
    if key is None or _is_key(key) is None:
        raise HandshakeError(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    return key


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept that answers `key` (RFC 6455 §4.2.2, step 5.4)."""
    return b2a_base64(sha1(key.encode() + _GUID).digest(), newline=False).decode()


def asked_subprotocols(head: RequestHead) -> list[str]:
    """Return the subprotocols that a client asks for, best first.

    Raises HandshakeError (400) when its list is not made of tokens, or names one twice (RFC 6455 §4.1).
    """
    value = head.headers.joined("sec-websocket-protocol")
    if value is None:
        return []
    asked = [name for name in (element.strip(" \t") for element in value.split(",")) if name]
    if len(set(asked)) != len(asked) or not all(map(is_token, asked)):
        raise HandshakeError(400, "malformed Sec-WebSocket-Protocol")
    return asked


def choose_subprotocol(head: RequestHead, offered: Sequence[str]) -> str | None:
    """Return the first of `offered` (ours, best first) that the client asked for; None when there is none. Raises as
    `asked_subprotocols`."""
    asked = asked_subprotocols(head)
    for name in offered:
        if name in asked:
            return name
    return None


def check_headers(headers: HeaderSource) -> list[tuple[str, str]]:
    """Return the `headers` of a user as pairs.

    Raises InvalidHeaderError for CR, LF, control or non-ASCII characters, a name that is no token, and a name that the
    handshake itself writes: Sec-WebSocket-*, Upgrade, Connection, Content-Length, Host and the like.
    """
    pairs = header_pairs(headers)
    for name, _ in pairs:
        lower = name.lower()
        if lower in _OWNED or lower.startswith("sec-websocket-"):
            raise InvalidHeaderError(f"{name} is written by the handshake itself")
    return pairs


def response_101(
    key: str, *, subprotocol: str | None = None, extensions: str | None = None, headers: HeaderSource = ()
) -> bytes:
    """Return the answer that ends a handshake (RFC 6455 §4.2.2); InvalidHeaderError for `headers` that may not be
    sent."""
    answer = _ANSWER_START + b2a_base64(sha1(key.encode() + _GUID).digest(), newline=False)
    if subprotocol is None and extensions is None and not headers:
        return answer + b"\r\n\r\n"
    lines = [""]
    if subprotocol is not None:
        if not is_token(subprotocol):
            raise InvalidHeaderError(f"{subprotocol!r} is no subprotocol name")
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    if extensions is not None:
        lines.append(f"Sec-WebSocket-Extensions: {extensions}")
    lines += [f"{name}: {value}" for name, value in check_headers(headers)]
    lines.append("\r\n")
    return answer + "\r\n".join(lines).encode("ascii")


def response_error(error: HttpError) -> bytes:
    """Return the HTTP answer to a request that was refused: plain text, `Connection: close`.

    The error may be what another server answered to a client of ours, in a view that lets it pass. Its fields are sent,
    with bytes above 0x7F as they came, but not those that speak of its own body and connection; and what is no refusal
    there (a 101 that is not valid, a redirect) is 502.
    """
    status = error.status if 400 <= error.status <= 599 else 502
    body = error.reason.encode() + b"\n"
    pairs = [pair for pair in header_pairs(error.headers, latin_1=True) if pair[0].lower() not in _OF_ITS_BODY]
    upgrade = any(name.lower() == "upgrade" for name, _ in pairs)
    lines = [
        f"HTTP/1.1 {status} {status_phrase(status)}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        f"Connection: {'close, Upgrade' if upgrade else 'close'}",  # RFC 9110 §7.8: Upgrade goes with its option
        *(f"{name}: {value}" for name, value in pairs),
        "\r\n",
    ]
    return "\r\n".join(lines).encode("latin-1") + body


def status_phrase(status: int) -> str:
    """Return the reason phrase of a status, empty for an unknown one (RFC 9112 §4: it may be)."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def same_origin(origin: str | None, host: str | None, secure: bool) -> bool:
    """Return whether a page of `origin` may open a WebSocket to `host` (the Host field): host and port must be equal.

    No Origin passes: the client is no browser (RFC 6455 §10.2). "null" and malformed ones do not. A port that is not
    given is its scheme's; when Host gives none and we are not `secure` ourselves, Origin's scheme counts, for TLS may
    have ended at a proxy in front of us.
    """
    if origin is None:
        return True
    theirs = _split_origin(origin.lower())
    ours = None if host is None else _split_host(host.lower())
    if theirs is None or ours is None or theirs[2] != ours[1]:
        return False
    default = _DEFAULT_PORTS[theirs[1]]
    return (theirs[3] or default) == (ours[2] or ("443" if secure else default))


def new_key() -> str:
    """Return a fresh Sec-WebSocket-Key: 16 random bytes in base64 (RFC 6455 §4.1 point 7)."""
    return b64encode(os.urandom(16)).decode()


def request_bytes(
    host: str,
    target: str,
    key: str,
    *,
    subprotocols: Sequence[str] = (),
    extensions: str | None = None,
    origin: str | None = None,
    headers: HeaderSource = (),
) -> bytes:
    """Return the client's request (RFC 6455 §4.1); raises InvalidHeaderError before anything could be sent.

    `host` is "name" or "name:port"; `target` begins with "/" and is percent-encoded.
    """
    if not is_host(host):
        raise InvalidHeaderError(f"{host!r} is no host")
    if not _is_target(target):
        raise InvalidHeaderError(f"{target!r} is no request target")
    pairs = check_headers(headers)
    if subprotocols:
        if len(set(subprotocols)) != len(subprotocols) or not all(map(is_token, subprotocols)):
            raise InvalidHeaderError(f"subprotocols must be different tokens, not {list(subprotocols)!r}")
        pairs.insert(0, ("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
    if extensions is not None:
        pairs.insert(0, ("Sec-WebSocket-Extensions", extensions))
    if origin is not None:
        pairs.insert(0, ("Origin", origin))
    lines = [
        f"GET {target} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Version: {VERSION}",
        *(f"{name}: {value}" for name, value in header_pairs(pairs)),
        "\r\n",
    ]
    return "\r\n".join(lines).encode("ascii")


def check_response(
    head: ResponseHead, key: str, *, subprotocols: Sequence[str] = (), deflate_options: DeflateOptions | None = None
) -> tuple[str | None, DeflateParams | None]:
    """Return the subprotocol and the compression the server chose (RFC 6455 §4.1).

    Raises HandshakeError: for a status other than 101 it carries that status, the server's reason and headers (so
    Location of a redirect, WWW-Authenticate of a 401); for a 101 that is not valid its status is 101. `subprotocols`
    and `deflate_options` are what was offered.
    """
    headers = head.headers
    if head.status != 101:
        raise HandshakeError(head.status, head.reason or status_phrase(head.status), headers.items())
    if head.version != "HTTP/1.1":
        raise HandshakeError(101, "the server switches protocols in HTTP/1.0")
    if not headers.has_token("upgrade", "websocket"):
        raise HandshakeError(101, "the server's Upgrade is not websocket")
    if not headers.has_token("connection", "upgrade"):
        raise HandshakeError(101, "the server's Connection does not name upgrade")
    if _single(headers, "sec-websocket-accept") != accept_key(key):
        raise HandshakeError(101, "the server's Sec-WebSocket-Accept does not answer our key")
    subprotocol = _single(headers, "sec-websocket-protocol")
    if subprotocol is not None and subprotocol not in subprotocols:
        raise HandshakeError(101, f"the server chose a subprotocol that was not offered: {subprotocol!r}")
    try:
        extensions = parse_extensions(headers.joined("sec-websocket-extensions") or "")
    except HandshakeError as error:
        raise HandshakeError(101, error.reason) from None
    return subprotocol, accept_answer(extensions, deflate_options)


def _single(headers: Headers, name: str) -> str | None:
    values = headers.get_all(name)
    if len(values) > 1:
        raise HandshakeError(101, f"the server sent more than one {name}")
    return values[0] if values else None
