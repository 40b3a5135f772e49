"""What a RedisBroker reads: nothing but what gows writes, and ValueError for all else."""

from __future__ import annotations

import ast
import inspect
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gows import Keep
from gows.brokers.base import Envelope
from gows.brokers.redis import broker, followers, jobs, recovery, worker
from gows.brokers.redis.wire import (
    COMPLAINT_INTERVAL,
    Complaints,
    read_entry,
    read_envelope,
    read_epoch,
    read_frame,
    read_greeting,
    read_heading,
    read_offset,
)
from gows.topics.publication import Position, Publication


def pack(data: bytes = b"1", **fields: Any) -> bytes:
    header = {"topic": "a", "opcode": 1, "compress": True, "json": True, **fields}
    return json.dumps({name: value for name, value in header.items() if value != "absent"}).encode() + b"\n" + data


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope(Publication("a", {"x": [1, 2.5, "é"]})),
        Envelope(Publication("a", "text", key="k")),
        Envelope(Publication("a", b"\xff\0", key=5), Keep(5)),
        Envelope(Publication("a", None), Keep(5, 2.5), 10.0, ("host:/tmp/x/n1", -5)),
    ],
    ids=["JSON", "text", "bytes", "all"],
)
def test_what_is_written_is_read(envelope: Envelope) -> None:
    read = read_envelope("a", envelope.pack(), 100.0, 1.0)
    assert read.pack() == envelope.pack()
    assert read.publication.bare.expires == (math.inf if envelope.ttl is None else 109.0)


FORGED: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"x\n1",
    "a list": b"[]\n1",
    "a number": b"5\n1",
    "null": b"null\n1",
    "deep": b"[" * 100_000 + b"\n1",
    "a deep header": b'{"topic":' + b"[" * 100_000 + b"\n1",
    "long digits": b'{"ttl":' + b"9" * 5000 + b"}\n1",
    "no UTF-8": b'{"topic":"\xff"}\n1',
    "another topic": pack(topic="b"),
    "topic number": pack(topic=5),
    "topic list": pack(topic=[]),
    "no topic": pack(topic="absent"),
    "opcode of a control frame": pack(opcode=8),
    "opcode list": pack(opcode=[]),
    "opcode bool": pack(opcode=True),
    "opcode float": pack(opcode=1.0),
    "compress number": pack(compress=1),
    "no flag": pack(json="absent"),
    "JSON that is none": pack(b'}"evil":{'),
    "JSON of binary": pack(opcode=2),
    "JSON NaN": pack(b"NaN"),
    "JSON Infinity": pack(b"[-Infinity]"),
    "JSON deep": pack(b"[" * 100_000),
    "text that is none": pack(b"\xff", json=False),
    "key list": pack(key=[1]),
    "key bool": pack(key=True),
    "key surrogate": pack(key="\ud800"),
    "ttl string": pack(ttl="x"),
    "ttl 0": pack(ttl=0),
    "ttl huge": pack(ttl=10**400),
    "ttl bool": pack(ttl=True),
    "ttl NaN": pack(ttl=math.nan),
    "keep number": pack(keep=5),
    "keep 0": pack(keep=[0, None]),
    "keep bool": pack(keep=[True, None]),
    "keep string": pack(keep=["x", {}]),
    "keep short": pack(keep=[5]),
    "keep 0 seconds": pack(keep=[5, 0]),
    "left_out number": pack(left_out=5),
    "left_out empty": pack(left_out=[]),
    "left_out numbers": pack(left_out=[5, 5]),
    "left_out string": pack(left_out=["a", "b"]),
}


@pytest.mark.parametrize("packet", FORGED.values(), ids=FORGED.keys())
def test_a_forged_message_is_refused(packet: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_envelope("a", packet, 0.0)


@given(st.binary(max_size=200))
def test_whatever_comes_nothing_but_a_value_error_is_raised(data: bytes) -> None:
    for read in (
        lambda: read_envelope("a", data, 0.0),
        lambda: read_frame(data),
        lambda: read_frame(b"\1" + data),
        lambda: read_heading(data.decode("latin-1")),
        lambda: read_greeting(data.decode("latin-1")),
        lambda: read_offset(data),
        lambda: read_epoch(data),
        lambda: read_entry([data, [b"ms", data, b"body", data]]),
    ):
        try:
            read()
        except ValueError:
            pass


@pytest.mark.parametrize(
    "value", [None, 5, [], {}, "a", b"a", [b"1-1"], [b"1-1", None], [b"1-2", [b"ms", b"1", b"body", b""]]]
)
def test_what_redis_may_answer_otherwise(value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_entry(value)
    with pytest.raises(ValueError):  # noqa: PT011
        read_frame(value)
    with pytest.raises(ValueError):  # noqa: PT011
        read_offset(value)


def test_headings() -> None:
    assert read_heading("a.b") == ("a.b", None)
    assert read_heading("a.b e1 5") == ("a.b", Position("e1", 5))
    for head in (
        "",
        " e 1",
        "a e",
        "a e 0",
        "a e -5",
        "a e 1 2",
        "a e " + "9" * 16,
        "a e x",
        "a.* e 1",
        "a..b",
        "a  1",
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            read_heading(head)


def test_greetings() -> None:
    assert read_greeting("tell x ") == ("tell", "x", "")
    assert read_greeting("tell x y") == ("tell", "x", "y")
    for head in ("", "hello", "hello x", "hello  ", "what x ", "tell x y z", "hello \x1b[2J ", f"hello {'x' * 256} "):
        with pytest.raises(ValueError):  # noqa: PT011
            read_greeting(head)


def test_what_is_foreign_is_in_the_log_once_a_minute() -> None:
    lines: list[str] = []
    now = 0.0
    complaints = Complaints(lambda text, *values, exc_info: lines.append(text % values), lambda: now)
    for number in range(5):
        complaints.add("a message", "channel\n", ValueError(f"fault {number}"))
    complaints.add("an entry", "topic", ValueError("x"))
    now = COMPLAINT_INTERVAL
    complaints.add("a message", "channel", ValueError("fault"))
    assert lines == [
        "a message was not understood, and is skipped: 'channel\\n': fault 0",
        "an entry was not understood, and is skipped: 'topic': x",
        "a message was not understood, and is skipped: 'channel': fault, and 4 more since the last line",
    ]


def test_nothing_is_awaited_with_a_lock_held() -> None:
    held = [
        node
        for module in (broker, followers, jobs, recovery, worker)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.With) and "lock" in ast.unparse(node.items[0])
    ]
    assert len(held) >= 5
    for node in held:
        assert not [inner for inner in ast.walk(node) if isinstance(inner, ast.Await | ast.AsyncWith | ast.AsyncFor)]
        called = ast.unparse(node)
        assert "logger." not in called, "a handler of the log is user code"
        assert ".done(" not in called
