"""What an idle connection keeps: the figures of docs/explanation/design.md, "Memory of a connection"."""

from __future__ import annotations

import gc
import re
import socket
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

import gows
from gows import AcceptOptions, Handler, Server, WebSocket
from gows.commands.check import is_compiled
from gows.reactor import Stream
from tests.support import wire
from tests.support.servers import running_server, serving
from tests.support.waiting import wait_until

DESIGN = Path(gows.__file__).parent.parent / "docs" / "explanation" / "design.md"
NUMBER = 100
"""Connections whose memory is looked at, after as many that were there before."""
TOLERANCE = 0 if sys.version_info[:2] == (3, 11) else 24
"""Bytes that an object may differ by: in other versions of CPython, headers and integers do."""
HANDLER = 32
"""Bytes of a handler with empty `__slots__`."""


def figures() -> dict[str, int]:
    """The table, for the variant that runs, by the beginnings of its rows."""
    section = DESIGN.read_text("utf-8").partition("\n## Memory of a connection\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \| (\d+) \| (\d+) \|$", section, re.MULTILINE)
    column = 1 if is_compiled("gows.session.session") else 2
    return {re.split(r"[:,]| with", row[0])[0].strip("`"): int(row[column]) for row in rows}


class Quiet(Handler):
    """Keeps nothing."""

    __slots__ = ()


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server({"/ws": serving(Quiet)}, workers=0, options=AcceptOptions(ping_interval=300)) as server:
        yield server


def connect(server: Server, guests: list[socket.socket]) -> None:
    for guest in guests:
        guest.connect(server.addresses[0])
        guest.sendall(wire.request("/ws"))
        assert guest.recv(4096).startswith(b"HTTP/1.1 101")


def served(server: Server) -> list[WebSocket]:
    streams = [stream for stream in list(server.loop.streams) if isinstance(stream, Stream)]
    return [stream.observer for stream in streams if isinstance(stream.observer, WebSocket)]


def settled(server: Server, count: int) -> None:
    """Every connection is open, and its request let go."""
    wait_until(lambda: len(served(server)) == count and not any(ws.request for ws in served(server)))
    gc.collect()


def test_the_table_adds_up() -> None:
    *parts, together = figures().values()
    assert sum(parts) == together


def test_each_object_is_of_its_size(server: Server) -> None:
    with socket.socket() as guest:
        connect(server, [guest])
        settled(server, 1)
        [ws] = served(server)
        sock = ws.stream.sock
        found = {
            "WebSocket": sys.getsizeof(ws),
            "Connection": sys.getsizeof(ws.connection),
            "Stream": sys.getsizeof(ws.stream),
            # `socket.socket` in Python counts what its subclass adds; an instance of the C type has no more than this
            "the socket": type(sock).__basicsize__,
        }
    expected = figures()
    assert {name: pytest.approx(expected[name], abs=TOLERANCE) for name in found} == found


@pytest.mark.slow
def test_an_idle_connection_keeps_nothing_else(server: Server) -> None:
    guests = [socket.socket() for _ in range(2 * NUMBER)]
    try:
        connect(server, guests[:NUMBER])
        settled(server, NUMBER)
        tracemalloc.start()
        before = tracemalloc.take_snapshot()
        connect(server, guests[NUMBER:])
        settled(server, 2 * NUMBER)
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
        for guest in guests:
            guest.close()
    # what is kept by one connection alone; tables that grow for many are one object for all
    kept = [line for line in after.compare_to(before, "lineno") if line.count_diff >= NUMBER // 2]
    objects = sum(line.count_diff for line in kept) / NUMBER
    size = sum(line.size_diff for line in kept) / NUMBER
    expected = figures()
    entries = expected["its entries in `loop.streams` and the wheel"]
    integers = expected["integers"]
    most = expected["together"] - entries + HANDLER
    assert objects <= 5 + integers / 32 + 0.2, kept
    assert most - integers - 5 * TOLERANCE - 5 <= size <= most + 5 * TOLERANCE + 5, kept
