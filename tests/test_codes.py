from __future__ import annotations

import pytest

from gows.codes import CloseCode, Opcode, may_travel


def test_opcodes_are_those_of_the_rfc() -> None:
    assert {code.name: code.value for code in Opcode} == {
        "CONTINUE": 0x0,
        "TEXT": 0x1,
        "BINARY": 0x2,
        "CLOSE": 0x8,
        "PING": 0x9,
        "PONG": 0xA,
    }


def test_all_sixteen_close_codes() -> None:
    assert {code.name: code.value for code in CloseCode} == {
        "NORMAL_CLOSURE": 1000,
        "GOING_AWAY": 1001,
        "PROTOCOL_ERROR": 1002,
        "UNSUPPORTED_DATA": 1003,
        "RESERVED": 1004,
        "NO_CLOSE_RCVD": 1005,
        "ABNORMAL_CLOSURE": 1006,
        "INVALID_PAYLOAD": 1007,
        "POLICY_VIOLATION": 1008,
        "MESSAGE_TOO_BIG": 1009,
        "MANDATORY_EXTENSION": 1010,
        "INTERNAL_ERROR": 1011,
        "SERVICE_RESTART": 1012,
        "TRY_AGAIN_LATER": 1013,
        "BAD_GATEWAY": 1014,
        "TLS_HANDSHAKE": 1015,
    }


def test_both_are_plain_numbers_to_users() -> None:
    assert CloseCode(1000) == 1000
    one: int = 1  # to a type checker a literal is no member of an enum
    assert one == Opcode.TEXT
    with pytest.raises(ValueError, match="11"):
        Opcode(11)


def test_which_codes_may_travel() -> None:
    allowed = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
    assert {code for code in range(-10, 70_000) if may_travel(code)} == allowed
