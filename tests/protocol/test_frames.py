from __future__ import annotations

import random
from typing import Any

import pytest

from gows.codes import CloseCode, may_travel
from gows.errors import InvalidCloseCodeError, ProtocolError
from gows.protocol.frames import encode_close_body, encode_frame, frame_header, parse_close_body, parse_header
from tests.support.feeding import KEY, frame

SIZES = [0, 1, 124, 125, 126, 127, 65535, 65536, 65537]


# RFC 6455 §5.7
@pytest.mark.parametrize(
    ("args", "wire"),
    [
        ((1, b"Hello", {}), "81 05 48 65 6c 6c 6f"),
        ((1, b"Hello", {"key": bytes.fromhex("37fa213d")}), "81 85 37 fa 21 3d 7f 9f 4d 51 58"),
        ((1, b"Hel", {"fin": False}), "01 03 48 65 6c"),
        ((0, b"lo", {}), "80 02 6c 6f"),
        ((9, b"Hello", {}), "89 05 48 65 6c 6c 6f"),
        ((10, b"Hello", {"key": bytes.fromhex("37fa213d")}), "8a 85 37 fa 21 3d 7f 9f 4d 51 58"),
        ((1, bytes.fromhex("f248cdc9c90700"), {"rsv1": True}), "c1 07 f2 48 cd c9 c9 07 00"),  # RFC 7692 §7.2.3.1
    ],
)
def test_the_examples_of_the_rfc(args: tuple[int, bytes, dict[str, Any]], wire: str) -> None:
    opcode, payload, how = args
    assert encode_frame(opcode, payload, **how) == bytes.fromhex(wire)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", [None, KEY])
def test_lengths_take_the_shortest_form(size: int, key: bytes | None) -> None:
    payload = random.Random(size).randbytes(size)
    assert encode_frame(2, payload, key=key) == frame(2, payload, key=key)
    assert frame_header(2, size, key=key) == frame(2, key=key, length=size)


def test_a_header_may_announce_what_no_memory_holds() -> None:
    assert frame_header(2, (1 << 63) - 1) == b"\x82\x7f\x7f" + b"\xff" * 7


@pytest.mark.parametrize("size", [*SIZES, (1 << 63) - 1])
@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("first", [0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x41, 0x42, 0xC1, 0xC2, 0x88, 0x89, 0x8A])
def test_headers_are_read_back_wherever_they_stand(first: int, key: bytes | None, size: int) -> None:
    if first & 8 and size > 125:
        return
    head = frame(first & 15, fin=first >= 0x80, rsv=first >> 4 & 7, key=key, length=size)
    for before in (b"", b"\xff" * 9):
        for after in (b"", b"\xff" * 20):
            buf = before + head + after
            start, end = len(before), len(before) + len(head)
            for kind in (bytes, bytearray):
                assert parse_header(kind(buf), start, len(buf), key is not None) == (first, size, key, end)
                for short in range(start, end):  # what lies beyond `end` is not looked at
                    assert parse_header(kind(buf), start, short, key is not None) is None


WELL_FORMED = {0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x41, 0x42, 0xC1, 0xC2, 0x88, 0x89, 0x8A}


@pytest.mark.parametrize("first", sorted(set(range(256)) - WELL_FORMED))
def test_every_other_first_byte_is_refused_with_the_second(first: int) -> None:
    """Reserved opcodes, reserved bits (CVE-2022-21676), RSV1 beside TEXT and BINARY, fragmented control frames."""
    assert parse_header(bytes([first]), 0, 1, True) is None
    with pytest.raises(ProtocolError) as caught:
        parse_header(bytes([first, 0x80]), 0, 2, True)
    assert caught.value.close_code == 1002


@pytest.mark.parametrize(
    ("head", "masked", "text"),
    [
        (b"\x81\x05", True, "without a mask"),
        (b"\x81\x7f", True, "without a mask"),
        (b"\x81\x85", False, "with a mask"),
        (b"\x89\xfe", True, "over 125"),
        (b"\x88\xff", True, "over 125"),
        (b"\x8a\x7e", False, "over 125"),
        (b"\x82\xfe\x00\x7d", True, "shortest"),
        (b"\x82\x7e\x00\x00", False, "shortest"),
        (b"\x82\xff" + (65535).to_bytes(8, "big"), True, "shortest"),
        (b"\x82\x7f" + (1).to_bytes(8, "big"), False, "shortest"),
        (b"\x82\xff" + (1 << 63).to_bytes(8, "big"), True, "top bit"),  # CVE-2020-27813, CVE-2020-13935
        (b"\x82\x7f" + b"\xff" * 8, False, "top bit"),
    ],
)
def test_bad_headers_are_refused_as_soon_as_they_show_it(head: bytes, masked: bool, text: str) -> None:
    with pytest.raises(ProtocolError, match=text) as caught:
        parse_header(head, 0, len(head), masked)
    assert caught.value.close_code == 1002
    assert parse_header(head, 0, len(head) - 1, masked) is None


# close frames


def test_close_bodies_are_read_back() -> None:
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999):
        for reason in ("", "bye", "ü" * 61 + "x"):
            assert parse_close_body(encode_close_body(code, reason)) == (code, reason)


def test_no_code_is_an_empty_body() -> None:
    assert encode_close_body(1005) == b""
    assert parse_close_body(b"") == (1005, "")


def test_a_close_code_enum_goes_out_as_its_number() -> None:
    assert encode_close_body(CloseCode.GOING_AWAY, "x") == b"\x03\xe9x"


@pytest.mark.parametrize(
    ("code", "reason", "text"),
    [
        (1004, "", "may not travel"),
        (1006, "", "may not travel"),
        (1015, "", "may not travel"),
        (999, "", "may not travel"),
        (1016, "", "may not travel"),
        (2999, "", "may not travel"),
        (5000, "", "may not travel"),
        (0, "", "may not travel"),
        (-1, "", "may not travel"),
        (70000, "", "may not travel"),
        (1005, "why", "needs a close code"),
        (1000, "x" * 124, "124"),
        (1000, "ü" * 62, "124"),
        (1000, "\ud800", "Unicode"),
    ],
)
def test_what_may_not_be_sent_is_refused(code: int, reason: str, text: str) -> None:
    with pytest.raises(InvalidCloseCodeError, match=text):
        encode_close_body(code, reason)
    with pytest.raises(ValueError, match=text):
        encode_close_body(code, reason)


def test_one_byte_is_no_close_body() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_close_body(b"\x03")
    assert caught.value.close_code == 1002


def test_every_code_that_may_not_travel_is_refused_when_received() -> None:
    for code in range(0x10000):
        body = code.to_bytes(2, "big")
        if may_travel(code):
            assert parse_close_body(body) == (code, "")
        else:
            with pytest.raises(ProtocolError) as caught:
                parse_close_body(body)
            assert caught.value.close_code == 1002


@pytest.mark.parametrize("reason", [b"\xff", b"abc\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"])
def test_a_reason_must_be_utf8(reason: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_close_body(b"\x03\xe8" + reason)
    assert caught.value.close_code == 1007
