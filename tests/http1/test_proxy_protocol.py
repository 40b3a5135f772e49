"""The PROXY protocol: every header whole, byte by byte and followed by anything; what is none is refused as soon as it
is sure."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gows.http1.proxy_protocol import MAX_HEADER, VERSIONS, ProxyError, ProxyHeader, crc32c, parse_proxy

EITHER = VERSIONS[True]
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def binary(command: int, family: int, body: bytes, version: int = 2) -> bytes:
    return SIGNATURE + struct.pack("!BBH", version << 4 | command, family, len(body)) + body


def inet(source: str, port: int, destination: str = "192.0.2.9", to: int = 443) -> bytes:
    return socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", port, to)


def inet6(source: str, port: int) -> bytes:
    pack = socket.inet_pton
    return pack(socket.AF_INET6, source) + pack(socket.AF_INET6, "2001:db8::9") + struct.pack("!HH", port, 443)


def field(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def with_sum(family: int, addresses: bytes, before: bytes = b"", after: bytes = b"", wrong: int = 0) -> bytes:
    """A header with a CRC32c among its fields."""
    parts = [addresses + before, field(3, bytes(4)), after]
    value = crc32c(binary(1, family, b"".join(parts))) ^ wrong
    return binary(1, family, parts[0] + field(3, value.to_bytes(4, "big")) + after)


GOOD: dict[str, tuple[bytes, object]] = {
    "v1 TCP4": (b"PROXY TCP4 192.0.2.1 192.0.2.9 56324 443\r\n", ("192.0.2.1", 56324)),
    "v1 longest TCP4": (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535)),
    "v1 TCP6": (b"PROXY TCP6 2001:DB8::1 2001:db8::9 0 443\r\n", ("2001:db8::1", 0)),
    "v1 TCP6, IPv4 in it": (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", ("192.0.2.1", 1)),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", None),
    "v1 UNKNOWN, longest": (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", None),
    "v2 INET": (binary(1, 0x11, inet("192.0.2.1", 56324)), ("192.0.2.1", 56324)),
    "v2 INET, datagrams": (binary(1, 0x12, inet("192.0.2.1", 1)), ("192.0.2.1", 1)),
    "v2 INET6": (binary(1, 0x21, inet6("2001:db8::1", 7)), ("2001:db8::1", 7)),
    "v2 INET6, IPv4 in it": (binary(1, 0x21, inet6("::ffff:192.0.2.1", 7)), ("192.0.2.1", 7)),
    "v2 UNIX": (binary(1, 0x31, b"/run/client".ljust(108, b"\0") + b"/run/us".ljust(108, b"\0")), "/run/client"),
    "v2 UNIX, no name": (binary(1, 0x31, bytes(216)), ""),
    "v2 LOCAL": (binary(0, 0x00, b""), None),
    "v2 LOCAL, whatever it has": (binary(0, 0xEE, b"nonsense"), None),
    "v2 UNSPEC": (binary(1, 0x00, b"whatever"), None),
    "v2 INET, no protocol": (binary(1, 0x10, inet("192.0.2.1", 1)), None),
    "v2 fields": (binary(1, 0x11, inet("192.0.2.1", 1) + field(2, b"example.com") + field(4, b"")), ("192.0.2.1", 1)),
    "v2 TLS": (binary(1, 0x11, inet("192.0.2.1", 1) + field(0x20, b"\x01" + bytes(4))), ("192.0.2.1", 1)),
    "v2 TLS with fields of its own": (
        binary(1, 0x21, inet6("2001:db8::1", 7) + field(0x20, b"\x07" + bytes(4) + field(0x21, b"TLSv1.3"))),
        ("2001:db8::1", 7),
    ),
    "v2 TLS behind a name": (
        binary(1, 0x11, inet("192.0.2.1", 1) + field(2, b"a") + field(0x20, b"\x01" + bytes(4)) + field(4, b"")),
        ("192.0.2.1", 1),
    ),
    "v2 no TLS": (binary(1, 0x11, inet("192.0.2.1", 1) + field(0x20, b"\x06\0\0\0\1")), ("192.0.2.1", 1)),
    "v2 LOCAL with TLS": (binary(0, 0x11, inet("192.0.2.1", 1) + field(0x20, b"\x01" + bytes(4))), None),
    "v2 largest": (
        binary(1, 0x11, inet("192.0.2.1", 1) + field(4, bytes(MAX_HEADER - 16 - 12 - 3))),
        ("192.0.2.1", 1),
    ),
    "v2 checksum": (with_sum(0x11, inet("192.0.2.1", 1)), ("192.0.2.1", 1)),
    "v2 checksum among fields": (
        with_sum(0x21, inet6("2001:db8::1", 1), field(1, b"h2"), field(5, bytes(40))),
        ("2001:db8::1", 1),
    ),
}

SECURE = {GOOD[name][0] for name in ("v2 TLS", "v2 TLS with fields of its own", "v2 TLS behind a name")}

BAD: dict[str, bytes] = {
    "HTTP": b"GET / HTTP/1.1\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
    "v1 in lower case": b"proxy TCP4",
    "v1 without a family": b"PROXY \r\n",
    "v1 unknown family": b"PROXY UDP4 192.0.2.1 192.0.2.9 1 2\r\n",
    "v1 too few words": b"PROXY TCP4 192.0.2.1 192.0.2.9 1\r\n",
    "v1 too many words": b"PROXY TCP4 192.0.2.1 192.0.2.9 1 2 3\r\n",
    "v1 two spaces": b"PROXY TCP4  192.0.2.1 192.0.2.9 1 2\r\n",
    "v1 wrong family": b"PROXY TCP6 192.0.2.1 192.0.2.9 1 2\r\n",
    "v1 malformed destination": b"PROXY TCP4 192.0.2.1 192.0.2 1 2\r\n",
    "v1 leading zero in an address": b"PROXY TCP4 192.0.2.01 192.0.2.9 1 2\r\n",
    "v1 zone": b"PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n",
    "v1 leading zero in a port": b"PROXY TCP4 192.0.2.1 192.0.2.9 01 2\r\n",
    "v1 large port": b"PROXY TCP4 192.0.2.1 192.0.2.9 65536 2\r\n",
    "v1 signed port": b"PROXY TCP4 192.0.2.1 192.0.2.9 1 +2\r\n",
    "v1 no CR": b"PROXY TCP4 192.0.2.1 192.0.2.9 1 2\nGET / HTTP/1.1\r\n",
    "v1 no end": b"PROXY UNKNOWN " + b"f" * 93,
    "v1 end too late": b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
    "v2 version 1": binary(1, 0x11, inet("192.0.2.1", 1), version=1),
    "v2 command 2": binary(2, 0x11, inet("192.0.2.1", 1)),
    "v2 family 4": binary(1, 0x41, bytes(216)),
    "v2 protocol 3": binary(1, 0x13, inet("192.0.2.1", 1)),
    "v2 too short for INET": binary(1, 0x11, bytes(11)),
    "v2 too short for INET6": binary(1, 0x21, bytes(35)),
    "v2 too short for UNIX": binary(1, 0x31, bytes(215)),
    "v2 too large": binary(1, 0x00, bytes(MAX_HEADER - 15)),
    "v2 field cut short": binary(1, 0x11, inet("192.0.2.1", 1) + b"\x04\x00\x05abcd"),
    "v2 field without length": binary(1, 0x11, inet("192.0.2.1", 1) + b"\x04\x00"),
    "v2 wrong checksum": with_sum(0x11, inet("192.0.2.1", 1), wrong=1),
    "v2 TLS field of 4 bytes": binary(1, 0x11, inet("192.0.2.1", 1) + field(0x20, b"\x01" + bytes(3))),
    "v2 two checksums": with_sum(0x11, inet("192.0.2.1", 1), after=field(3, bytes(4))),
    "v2 checksum of 3 bytes": binary(1, 0x11, inet("192.0.2.1", 1) + field(3, bytes(3))),
}

good = pytest.mark.parametrize(("header", "source"), GOOD.values(), ids=GOOD.keys())


@good
def test_a_header_whole_and_followed(header: bytes, source: object) -> None:
    expected = ProxyHeader(len(header), source, header in SECURE)  # type: ignore[arg-type]
    assert parse_proxy(header, EITHER) == expected
    assert parse_proxy(bytearray(header + b"\r\nGET"), EITHER) == expected


@good
def test_a_header_byte_by_byte(header: bytes, source: object) -> None:
    for size in range(0, len(header), 1 if len(header) < 1000 else 977):
        assert parse_proxy(header[:size], EITHER) is None, size


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(ProxyError):
        parse_proxy(data, EITHER)
    told = False
    for size in range(len(data)):  # once it was refused, it stays refused
        try:
            assert parse_proxy(data[:size], EITHER) is None
            assert not told
        except ProxyError:
            told = True


@pytest.mark.parametrize(("asked", "other"), [("v1", "v2 INET"), ("v2", "v1 TCP4")])
def test_only_the_version_that_was_asked_for(asked: str, other: str) -> None:
    for name, (header, source) in GOOD.items():
        if name.startswith(asked):
            assert parse_proxy(header, VERSIONS[asked])[:2] == (len(header), source)  # type: ignore[index]
    with pytest.raises(ProxyError):
        parse_proxy(GOOD[other][0][:1], VERSIONS[asked])


def test_the_first_wrong_byte_is_enough() -> None:
    for start in (b"PROXY ", SIGNATURE):
        for place in range(len(start)):
            with pytest.raises(ProxyError):
                parse_proxy(start[:place] + b"x", EITHER)


def test_crc32c() -> None:
    assert crc32c(b"") == 0
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the catalogue of CRCs
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720 B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


@given(st.binary(max_size=300))
def test_anything_after_a_beginning_is_a_header_or_refused_or_unfinished(data: bytes) -> None:
    for start in (b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21", SIGNATURE + b"\x21\x11\x00\x20"):
        try:
            header = parse_proxy(start + data, EITHER)
        except ProxyError:
            continue
        assert header is None or 0 < header.size <= len(start) + len(data)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_any_address_in_either_version(address: object, port: int) -> None:
    text = str(address)
    is_ipv6 = ":" in text
    line = f"PROXY TCP{6 if is_ipv6 else 4} {text} {text} {port} 1\r\n".encode()
    body = inet6(text, port) if is_ipv6 else inet(text, port)
    first = parse_proxy(line, EITHER)
    second = parse_proxy(binary(1, 0x21 if is_ipv6 else 0x11, body), EITHER)
    assert first is not None
    assert second is not None
    assert first.source == second.source
    assert isinstance(first.source, tuple)
    assert first.source[1] == port
