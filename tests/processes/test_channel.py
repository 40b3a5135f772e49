"""Channel: lines and descriptors between two processes; here, between two ends."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from gows.processes.channel import Channel


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = Channel.pair()
    yield one, other
    one.close()
    other.close()


def test_lines_both_ways(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    assert one.receive() == []
    one.send("first")
    one.send("ä second")
    other.send("back")
    assert other.receive() == [("first", []), ("ä second", [])]
    assert one.receive() == [("back", [])]


def test_a_line_in_pieces(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    long = "x" * 100_000
    one.send(long)
    one.send("next")
    lines = other.receive()
    assert lines == [(long, []), ("next", [])]


def test_descriptors_come_with_their_line(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    read, write = os.pipe()
    one.send("before")
    one.send("reading", [read])
    one.send("both", [read, write])
    one.send("after")
    lines = other.receive()
    assert [(line, len(descriptors)) for line, descriptors in lines] == [
        ("before", 0), ("reading", 1), ("both", 2), ("after", 0),
    ]  # fmt: skip
    os.close(write)
    os.write(lines[2][1][1], b"x")
    assert os.read(lines[1][1][0], 10) == b"x"
    for descriptor in [read, *lines[1][1], *lines[2][1]]:
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)


def test_the_end_of_the_other_process(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.send("last")
    one.close()
    assert other.receive() == [("last", [])]
    assert other.ended
    other.send("to nobody")
    assert other.receive() == []


def test_who_left_with_something_unread(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    other.send("unread")
    one.close()  # a reset, for the other end
    assert other.receive() == []
    assert other.ended


def test_nobody_waits_for_who_does_not_read(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    for _ in range(100):
        one.send("x" * 10_000)
    assert 0 < len(other.receive()) < 100
