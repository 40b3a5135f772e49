"""Tunnels: what is said to a proxy until its connection leads to the server, without I/O.

A Tunnel returns the bytes to send first from `begin`, takes what comes with `feed`, which returns the next bytes to
send, and is `done` when the proxy's last word has come. What is not understood raises ProxyError. Behind its last word
a proxy must say nothing: the server, that is asked next, cannot have said anything yet, so that such bytes would be the
proxy's own.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from ipaddress import ip_address
from typing import Protocol

from gows.client.proxy import Proxy
from gows.errors import HandshakeError, ProxyError
from gows.http1.head import ResponseParser
from gows.printable import printable
from gows.protocol.handshake import status_phrase

MAX_HEAD = 8192
"""Bytes of the head of a proxy's answer, and …"""
MAX_HEADERS = 64
"""… its fields."""

_TEMPORARY = frozenset({408, 425, 429})

NO_AUTHENTICATION, USER_PASSWORD, NO_METHOD = 0, 2, 0xFF
"""Methods of SOCKS5 (RFC 1928 §3)."""
SOCKS_REPLIES = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "it does not know CONNECT",
    8: "it does not know this type of address",
}
"""The field REP (RFC 1928 §6)."""
_SOCKS_FINAL = frozenset({2, 7, 8})


class Tunnel(Protocol):
    """See the head of the module."""

    done: bool

    def begin(self) -> bytes: ...
    def feed(self, data: bytes) -> bytes: ...


class HttpTunnel:
    """CONNECT of HTTP/1.1 (RFC 9110 §9.3.6), with Basic credentials (RFC 7617)."""

    __slots__ = ("_parser", "_proxy", "_target", "done")

    def __init__(self, proxy: Proxy, host: str, port: int) -> None:
        """`host`: a name, or an IP address."""
        self._proxy = proxy
        self._target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._parser = ResponseParser(MAX_HEAD, MAX_HEADERS)
        self.done = False

    def begin(self) -> bytes:
        """Return the request."""
        lines = [f"CONNECT {self._target} HTTP/1.1", f"Host: {self._target}"]
        if self._proxy.credentials is not None:
            lines.append(f"Proxy-Authorization: Basic {b64encode(b':'.join(self._proxy.credentials)).decode()}")
        return "\r\n".join([*lines, "\r\n"]).encode("ascii")

    def feed(self, data: bytes) -> bytes:
        """Take a piece of the answer."""
        try:
            self._parser.feed(data)
        except HandshakeError as error:
            why = error.reason.rpartition(": ")[2]
            raise ProxyError(f"the proxy {self._proxy} gave an answer that is no HTTP/1.1 answer: {why}") from None
        head = self._parser.head
        if head is None:
            return b""
        if not 200 <= head.status < 300:
            reason = printable(head.reason or status_phrase(head.status))
            message = f"the proxy {self._proxy} refused to connect to {self._target}: {head.status} {reason}".rstrip()
            temporary = head.status >= 500 or head.status in _TEMPORARY
            raise ProxyError(message, head.status, temporary=temporary)
        if self._parser.trailing:  # a body it cannot be: with 2xx there is none, whatever the fields say
            raise too_much(self._proxy)
        self.done = True
        return b""


class SocksTunnel:
    """CONNECT of SOCKS5 (RFC 1928), with user name and password (RFC 1929).

    greeting -> (method) -> [credentials -> (their status)] -> request -> (reply) -> done
    """

    __slots__ = ("_buffer", "_host", "_port", "_proxy", "_step", "done")

    def __init__(self, proxy: Proxy, host: str, port: int) -> None:
        """`host`: a name that the proxy looks up, or an IP address."""
        self._proxy = proxy
        self._host = host
        self._port = port
        self._buffer = bytearray()
        self._step = self._read_method
        self.done = False

    def begin(self) -> bytes:
        """Return the greeting."""
        methods = self._methods()
        return bytes((5, len(methods), *methods))

    def _methods(self) -> tuple[int, ...]:
        return (NO_AUTHENTICATION,) if self._proxy.credentials is None else (NO_AUTHENTICATION, USER_PASSWORD)

    def feed(self, data: bytes) -> bytes:
        """Take a piece of an answer."""
        self._buffer += data
        answer = self._step()
        if self._buffer and (answer or self.done):
            raise too_much(self._proxy)
        return answer

    def _read_method(self) -> bytes:
        buffer = self._buffer
        if buffer and buffer[0] != 5:
            raise self._malformed("it does not speak SOCKS5")
        if len(buffer) < 2:
            return b""
        method = buffer[1]
        del buffer[:2]
        if method == NO_METHOD:
            wanted = "user name and password" if self._proxy.credentials is None else "something else than a password"
            raise ProxyError(f"the proxy {self._proxy} refused to serve us: it wants {wanted}", method, temporary=False)
        if method not in self._methods():
            raise self._malformed(f"it chose the method {method}, which was not offered")
        if method == NO_AUTHENTICATION:
            return self._request()
        assert self._proxy.credentials is not None
        user, password = self._proxy.credentials
        self._step = self._read_status
        return b"".join((b"\x01", bytes((len(user),)), user, bytes((len(password),)), password))

    def _read_status(self) -> bytes:
        buffer = self._buffer
        if buffer and buffer[0] != 1:
            raise self._malformed("its answer to the password is not that of RFC 1929")
        if len(buffer) < 2:
            return b""
        status = buffer[1]
        del buffer[:2]
        if status:
            raise ProxyError(f"the proxy {self._proxy} refused the user name or the password", status, temporary=False)
        return self._request()

    def _request(self) -> bytes:
        self._step = self._read_reply
        try:
            number = ip_address(self._host)
        except ValueError:
            name = self._host.encode("ascii")  # up to 253 bytes: the URL was checked
            where = bytes((3, len(name))) + name
        else:
            where = bytes((1 if number.version == 4 else 4,)) + number.packed
        return b"\x05\x01\x00" + where + struct.pack("!H", self._port)

    def _read_reply(self) -> bytes:
        buffer = self._buffer
        if buffer and buffer[0] != 5:
            raise self._malformed("its reply is not that of SOCKS5")
        if len(buffer) >= 2 and buffer[1]:  # some end the connection right behind this
            reply = buffer[1]
            why = SOCKS_REPLIES.get(reply, f"reply {reply}")
            temporary = reply not in _SOCKS_FINAL
            raise ProxyError(
                f"the proxy {self._proxy} refused to connect to {self._host}: {why}", reply, temporary=temporary
            )
        if len(buffer) < 5:
            return b""
        length = {1: 4, 3: 1 + buffer[4], 4: 16}.get(buffer[3])
        if length is None:
            raise self._malformed(f"its reply has an address of the type {buffer[3]}")
        if len(buffer) >= 4 + length + 2:
            del buffer[: 4 + length + 2]
            self.done = True
        return b""

    def _malformed(self, what: str) -> ProxyError:
        return ProxyError(f"the proxy {self._proxy} gave an answer that is none: {what}")


def too_much(proxy: Proxy) -> ProxyError:
    """Return the error for bytes behind an answer."""
    return ProxyError(f"the proxy {proxy} said more than its answer, before anything was asked of the server")


def make_tunnel(proxy: Proxy, host: str, port: int) -> Tunnel:
    """Return what asks `proxy` for a connection to a host, a name or an IP address (of which a zone means something on
    this machine only)."""
    host = host.partition("%")[0]
    return SocksTunnel(proxy, host, port) if proxy.scheme.startswith("socks") else HttpTunnel(proxy, host, port)
