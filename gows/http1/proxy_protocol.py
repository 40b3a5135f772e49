"""The PROXY protocol, versions 1 and 2: how a proxy that moves bytes tells the address of who talks to it, in front of
them (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, the numbers of whose sections are given here).

Nothing is guessed: a connection on which the header is expected begins with it, or is malformed (§2: "must not try to
guess whether the header is present or not").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from gows.errors import PeerError
from gows.http1.forwarded import Address, canonical

VERSIONS = {"v1": frozenset({1}), "v2": frozenset({2}), True: frozenset({1, 2})}
"""What may be asked for: which versions."""
MAX_LINE = 107
"""Bytes of a header of version 1, its CRLF included (§2.1)."""
MAX_HEADER = 16384
"""Bytes of a header of version 2 that are accepted; certificates of clients make the longest ones."""

_LINE_START = b"PROXY "
_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED = 16  # bytes before the addresses of version 2
_CRC32C = 0x03  # PP2_TYPE_CRC32C
_SSL = 0x20  # PP2_TYPE_SSL
_CLIENT_SSL = 0x01  # PP2_CLIENT_SSL, a bit of its first byte
_ADDRESSES = {0: 0, 1: 12, 2: 36, 3: 216}  # by family: bytes of both addresses and both ports
_PROTOCOLS = 3  # UNSPEC, STREAM, DGRAM
_port = re.compile(r"0|[1-9][0-9]{0,4}").fullmatch
_HOSTS: dict[str, type[IPv4Address] | type[IPv6Address]] = {"TCP4": IPv4Address, "TCP6": IPv6Address}


class ProxyError(PeerError):
    """The connection does not begin with a PROXY header as it must."""


class ProxyHeader(NamedTuple):
    """A header."""

    size: int
    """Its bytes: what the connection carries begins behind them."""
    source: Address | None
    """Who talks to the proxy: (host, port) or the path of a Unix-domain socket; None: the proxy speaks for itself, or
    does not know, and the connection's own address counts."""
    secure: bool = False
    """Whether the proxy says that it is talked to over TLS (§2.2.6); version 1 cannot tell."""


def parse_proxy(data: bytes | bytearray, versions: frozenset[int]) -> ProxyHeader | None:
    """Return the header at the beginning of `data`; None: more of it has to come. Raises ProxyError, as soon as it is
    sure."""
    if 1 in versions and data[:6] == _LINE_START[: len(data)]:
        return _parse_line(data)
    if 2 in versions and data[:12] == _SIGNATURE[: len(data)]:
        return _parse_binary(data)
    raise ProxyError("the connection does not begin with a PROXY header")


def _parse_line(data: bytes | bytearray) -> ProxyHeader | None:
    """Parse a header of version 1, for people to read (§2.1)."""
    end = data.find(b"\r\n", 0, MAX_LINE)
    if end < 0:
        if len(data) >= MAX_LINE:
            raise ProxyError(f"a PROXY line over {MAX_LINE} bytes")
        return None
    words = data[:end].decode("latin-1").split(" ")
    if words[1] == "UNKNOWN":  # whatever follows is to be ignored
        return ProxyHeader(end + 2, None)
    kind = _HOSTS.get(words[1])
    if kind is None or len(words) != 6:
        raise ProxyError("a malformed PROXY line")
    try:
        source, _ = (_read_host(kind, word) for word in words[2:4])
        port, _ = (_read_port(word) for word in words[4:6])
    except ValueError:
        raise ProxyError("a malformed PROXY line") from None
    return ProxyHeader(end + 2, (source, port))


def _read_host(kind: type[IPv4Address] | type[IPv6Address], text: str) -> str:
    if "%" in text:  # a zone, which only its host understands
        raise ValueError
    return canonical(kind(text))


def _read_port(text: str) -> int:
    if _port(text) is None or int(text) > 65535:
        raise ValueError
    return int(text)


def _parse_binary(data: bytes | bytearray) -> ProxyHeader | None:
    """Parse a header of version 2 (§2.2)."""
    if len(data) < _FIXED:
        return None
    version, command = data[12] >> 4, data[12] & 15
    if version != 2 or command > 1:
        raise ProxyError("an unknown version or command in a PROXY header")
    length = int.from_bytes(data[14:16], "big")
    size = _FIXED + length
    if size > MAX_HEADER:
        raise ProxyError(f"a PROXY header over {MAX_HEADER} bytes")
    if command == 0:  # LOCAL: the proxy's own, a health check for instance; the rest is to be skipped
        return ProxyHeader(size, None) if len(data) >= size else None
    family, protocol = data[13] >> 4, data[13] & 15
    if family not in _ADDRESSES or protocol >= _PROTOCOLS:
        raise ProxyError("an unknown address family or protocol in a PROXY header")
    if length < _ADDRESSES[family]:
        raise ProxyError("a PROXY header too short for its addresses")
    if len(data) < size:
        return None
    header = bytes(data[:size])
    if family and protocol:  # else unspecified, and what stands there has no known form
        return ProxyHeader(size, _source(header, family), _read_fields(header, _FIXED + _ADDRESSES[family]))
    return ProxyHeader(size, None)


def _source(header: bytes, family: int) -> Address:
    if family == 1:
        return str(IPv4Address(header[16:20])), int.from_bytes(header[24:26], "big")
    if family == 2:
        return canonical(IPv6Address(header[16:32])), int.from_bytes(header[48:50], "big")
    return header[16:124].partition(b"\0")[0].decode("utf-8", "surrogateescape")  # as os.fsdecode


def _read_fields(header: bytes, start: int) -> bool:
    """Look through the additional fields (§2.2.7): a CRC32c has to be right (§2.2.8). Whether one says that the client
    came over TLS (§2.2.6)."""
    secure = summed = False
    for kind, at, length in _fields(header, start):
        if kind == _CRC32C:
            if length != 4 or summed:  # each costs a look at all bytes
                raise ProxyError("a malformed checksum in a PROXY header")
            if crc32c(header[:at] + bytes(4) + header[at + 4 :]) != int.from_bytes(header[at : at + 4], "big"):
                raise ProxyError("the checksum of a PROXY header is wrong")
            summed = True
        elif kind == _SSL:
            if length < 5:  # what it is about, and whether a certificate was verified; then fields of its own
                raise ProxyError("a malformed TLS field in a PROXY header")
            secure = header[at] & _CLIENT_SSL != 0
    return secure


def _fields(header: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    """Yield each field: its type, where its value begins, how long that is."""
    while start < len(header):
        at = start + 3
        length = int.from_bytes(header[start + 1 : at], "big")
        if at + length > len(header):
            raise ProxyError("a field of a PROXY header is cut short")
        yield header[start], at, length
        start = at + length


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # Castagnoli's polynomial, reflected (RFC 9260 app. A)
        table.append(byte)
    return table


_CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the CRC32c of `data` (RFC 9260 appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF
