"""Fanout and `Server.broadcast`: one message to many, in virtual time."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

import gows.session.fanout
from gows import AcceptOptions, Opcode, QueueFullError, Request, WebSocket, accept
from gows.errors import LoopClosedError
from gows.protocol.prepared import PreparedMessage
from gows.session.fanout import Audience, Fanout, Item
from tests.support import wire
from tests.support.fakes.network import MemorySocket
from tests.support.stage import Actor, Guest, MakeStage, Stage


def texts(guest: Guest) -> list[str]:
    return [frame.payload.decode() for frame in guest.pending()]


def guests(stage: Stage, count: int) -> list[Guest]:
    return [stage.guest()[0] for _ in range(count)]


def sockets(stage: Stage) -> list[WebSocket]:
    return [handler.ws for handler in stage.handlers]


# ---------------------------------------------------------------------- broadcast


def test_everybody_gets_a_broadcast(make_stage: MakeStage) -> None:
    stage = make_stage()
    three = guests(stage, 3)
    stage.connect()  # HTTP, and nothing said
    stage.server.broadcast("κόσμε")
    stage.server.broadcast(b"\xff")
    stage.server.broadcast(bytearray(b"text"), Opcode.TEXT)
    stage.run_for(1)
    for guest in three:
        assert [(f.opcode, f.payload) for f in guest.pending()] == [
            (wire.TEXT, "κόσμε".encode()),
            (wire.BINARY, b"\xff"),
            (wire.TEXT, b"text"),
        ]


def test_what_is_no_message_is_told_at_once(make_stage: MakeStage) -> None:
    server = make_stage().server
    for data, opcode in ((b"\xff", Opcode.TEXT), (b"", Opcode.CLOSE), (b"", Opcode.PING)):
        with pytest.raises(ValueError, match=r"utf-8|TEXT or BINARY"):
            server.broadcast(data, opcode)
    with pytest.raises(TypeError):
        server.broadcast(5)  # type: ignore[arg-type]


def test_one_may_be_left_out(make_stage: MakeStage) -> None:
    stage = make_stage()
    one, two = guests(stage, 2)
    stage.server.broadcast("for the other", exclude=stage.handlers[0].ws)
    stage.run_for(1)
    assert (texts(one), texts(two)) == ([], ["for the other"])


def accepting(options: AcceptOptions) -> Callable[[Request], None]:
    return lambda request: accept(request, options).serve(Actor())


def test_a_group_is_who_was_accepted_with_its_options(make_stage: MakeStage) -> None:
    stage = make_stage()
    red, blue = AcceptOptions(group="red"), AcceptOptions(group="blue")
    found: list[Guest] = []
    for options in (red, blue, red, stage.options):
        stage.view = accepting(options)
        found.append(stage.connect())
        assert found[-1].upgrade().status == 101
    stage.run_for(1)
    assert [ws.group for ws in stage.server.connections] == ["red", "blue", "red", ""]
    stage.server.broadcast("red", group="red")
    stage.server.broadcast("nameless", group="")
    stage.server.broadcast("nobody", group="green")
    stage.server.broadcast("all")
    stage.run_for(1)
    assert [texts(guest) for guest in found] == [["red", "all"], ["all"], ["red", "all"], ["nameless", "all"]]


def test_a_timeout_of_its_own_keeps_one_in_its_group(make_stage: MakeStage) -> None:
    stage = make_stage(group="red")
    guest, handler = stage.guest()
    handler.ws.set_read_timeout(60)
    stage.server.broadcast("red", group="red")
    assert guest.text() == "red"


def test_other_servers_of_the_loop_have_their_own(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, _ = stage.guest()
    other = gows.Server(loop=stage.loop)
    other.broadcast("not for you")
    stage.server.broadcast("for you")
    assert guest.text() == "for you"
    assert other.connection_count() == 0
    assert stage.server.connection_count() == 1


def test_who_has_closed_is_passed_over(make_stage: MakeStage) -> None:
    stage = make_stage()
    ours, theirs, other = guests(stage, 3)
    stage.handlers[0].ws.close_handshake(1000)
    theirs.send(wire.close(1000))
    stage.server.broadcast("late")
    assert other.text() == "late"
    assert ours.close_frame()[0] == 1000
    assert theirs.close_frame()[0] == 1000


def test_a_broadcast_from_a_callback(make_stage: MakeStage) -> None:
    stage = make_stage()
    one, two = guests(stage, 2)
    for handler in stage.handlers:
        handler.do["on_message"] = lambda ws, opcode, buff: stage.server.broadcast(buff.get_string(), exclude=ws)
    one.send(wire.frame(wire.TEXT, "hi"))
    assert two.text() == "hi"
    stage.run_for(1)
    assert not texts(one)


@pytest.mark.parametrize("takeover", [False, True])
def test_compressed_and_plain_peers_read_the_same(make_stage: MakeStage, takeover: bool) -> None:
    stage = make_stage(compression=True, server_context_takeover=takeover, min_compress_size=10)
    plain, _ = stage.guest()
    ones = [stage.guest(wire.DEFLATE)[0] for _ in range(2)]
    inflaters = [zlib.decompressobj(-15) for _ in ones]
    long = "the same words again and again, " * 50
    for text in (long, "short", long):
        stage.server.broadcast(text)
    stage.server.broadcast(long, compress=False)
    assert [plain.text() for _ in range(4)] == [long, "short", long, long]
    for guest, inflater in zip(ones, inflaters, strict=True):
        for text in (long, "short", long):
            found = guest.read()
            if text == "short":
                assert (found.rsv, found.payload) == (0, b"short")
                continue
            assert found.rsv == 4
            if not takeover:
                inflater = zlib.decompressobj(-15)
            assert inflater.decompress(found.payload + wire.DEFLATE_TAIL).decode() == text
        assert guest.text() == long


def test_a_message_in_pieces_comes_first(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    with handler.ws.next_writer() as writer:
        writer.write_string("x" * 20_000)
        stage.server.broadcast("behind")
        stage.run_for(1)
    pieces = [guest.read(), guest.read()]
    assert [piece.fin for piece in pieces] == [False, True]
    assert guest.text() == "behind"


# ---------------------------------------------------------------------- who does not read


@pytest.mark.parametrize("overflow", ["refuse", "drop", "close"])
def test_a_slow_reader_meets_its_policy_and_others_meet_nothing(make_stage: MakeStage, overflow: str) -> None:
    stage = make_stage(network={"buffer_size": 1000}, high_water=2000, low_water=1000, overflow=overflow)
    slow, quick = guests(stage, 2)
    for number in range(20):
        stage.server.broadcast(f"{number:03}" * 100)
        assert quick.text() == f"{number:03}" * 100
    ws = stage.handlers[0].ws
    assert ws.buffered <= 2000 + 400
    frames = slow.pending()
    while not slow.end and len(frames) < 6:
        stage.run_for(0.1)
        frames += slow.pending()
    assert [frame.payload[:3] for frame in frames[:4]] == [b"000", b"001", b"002", b"003"]
    assert ws.closed is (overflow == "close")
    if overflow == "close":
        slow.drain()
        assert stage.handlers[0].close_code in (1006, 1013)
    assert stage.server.fanout.missed > 0


# ---------------------------------------------------------------------- slices and order


def test_a_turn_s_share_is_bounded_and_order_is_kept(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gows.session.fanout, "DELIVERIES_PER_TURN", 8)
    stage = make_stage()
    many = guests(stage, 30)
    delivered = [0]
    for number in range(5):
        stage.server.broadcast(str(number))
    while delivered[-1] < 150:
        stage.loop.run_once(0)
        delivered.append(stage.server.fanout.delivered)
    assert max(after - before for before, after in pairwise(delivered)) <= 8
    for guest in many:
        assert texts(guest) == ["0", "1", "2", "3", "4"]
    stage.run_for(1)
    assert stage.server.fanout.waiting == 0


def test_what_begins_within_a_turn_keeps_to_its_share(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gows.session.fanout, "DELIVERIES_PER_TURN", 8)
    stage = make_stage()
    many = guests(stage, 6)
    fanout = Fanout(stage.loop)
    all_, some = sockets(stage), sockets(stage)[:2]
    fanout.send(PreparedMessage(wire.TEXT, b"all"), all_)
    for number in range(5):
        fanout.send(PreparedMessage(wire.TEXT, b"%d" % number), some)
    counts = []
    while fanout._rounds:
        stage.loop.run_once(0)
        counts.append(fanout.delivered)
    assert counts[:3] == [6, 11, 16]
    assert texts(many[0]) == ["all", "0", "1", "2", "3", "4"]


def test_what_comes_while_others_are_under_way_reaches_everybody(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gows.session.fanout, "DELIVERIES_PER_TURN", 8)
    stage = make_stage()
    many = guests(stage, 30)
    for number in range(6):
        stage.server.broadcast(str(number))
        stage.loop.run_once(0)
    stage.run_for(1)
    for guest in many:
        assert texts(guest) == [str(number) for number in range(6)]


def test_messages_to_the_same_targets_go_out_together(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage()
    many = guests(stage, 3)
    targets = sockets(stage)
    fanout = Fanout(stage.loop)
    sent: list[MemorySocket] = []
    send = MemorySocket.send

    def spy(sock: MemorySocket, data: bytes | memoryview) -> int:
        sent.append(sock)
        return send(sock, data)

    monkeypatch.setattr(MemorySocket, "send", spy)
    for number in range(10):
        fanout.send(PreparedMessage(wire.TEXT, b"%d" % number), targets, targets[0] if number == 5 else None)
    assert len(fanout._rounds) == 1
    fanout.send(PreparedMessage(wire.TEXT, b"10"), list(targets))  # the same, but who knows
    assert len(fanout._rounds) == 2
    stage.run_for(1)
    assert texts(many[0]) == [str(number) for number in range(11) if number != 5]
    assert texts(many[1]) == [str(number) for number in range(11)]
    assert (fanout.delivered, fanout.missed, fanout.waiting) == (32, 0, 0)
    assert Counter(sent) == Counter(ws.stream.sock for ws in targets), "one send for each"


def numbered(count: int, size: int = 1) -> list[Item]:
    return [(PreparedMessage(wire.TEXT, b"%d" % number * size), None, number) for number in range(count)]


def test_messages_sent_together_count_as_one_for_each_8_kib(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gows.session.fanout, "DELIVERIES_PER_TURN", 4)
    monkeypatch.setattr(gows.session.fanout, "JOINED_SIZE", 10)
    stage = make_stage()
    many = guests(stage, 6)
    targets = tuple(sockets(stage))
    fanout = Fanout(stage.loop)
    fanout.send_together(numbered(15), targets, {})  # 20 bytes: two pieces, of 10 and of 5 messages
    assert (fanout.waiting, fanout.owed, fanout.busy) == (20, 15 * 6, True)
    counts = []
    while fanout.busy:
        stage.loop.run_once(0)
        counts.append(fanout.delivered)
    assert counts == [4 * 10, 6 * 10 + 2 * 5, 6 * 15, 6 * 15]
    assert [texts(guest) for guest in many] == [[str(number) for number in range(15)]] * 6
    assert (fanout.waiting, fanout.owed) == (0, 0)


@pytest.mark.parametrize("joined_size", [1, 4, 10, 1000])
def test_each_gets_those_of_what_was_sent_together_that_are_for_it(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch, joined_size: int
) -> None:
    monkeypatch.setattr(gows.session.fanout, "JOINED_SIZE", joined_size)
    stage = make_stage()
    many = guests(stage, 5)
    targets = tuple(sockets(stage))
    fanout = Fanout(stage.loop)
    left_out: list[tuple[WebSocket, object]] = []
    fanout.on_excluded = lambda ws, about: left_out.append((ws, about))
    items = numbered(10)
    items[7] = (items[7][0], targets[1], 7)
    targets[4].close()
    missed: list[object] = []
    fanout.on_missed = lambda ws, about: missed.append(about)

    fanout.send_together(items, targets, {targets[2]: 4, targets[3]: 10})
    fanout.send_together(items, (), {})
    stage.run_for(1)

    everything = [str(number) for number in range(10)]
    assert texts(many[0]) == everything
    assert texts(many[1]) == everything[:7] + everything[8:]
    assert texts(many[2]) == everything[4:]
    assert texts(many[3]) == []
    assert missed == list(range(10))
    assert left_out == [(targets[1], 7)]
    assert (fanout.delivered, fanout.missed) == (10 + 9 + 6, 10)
    assert stage.server.traffic.sent == 10 + 9 + 6


def test_large_messages_sent_together_are_not_copied(make_stage: MakeStage) -> None:
    stage = make_stage()
    one, two = guests(stage, 2)
    fanout = Fanout(stage.loop)
    fanout.send_together(numbered(3, 9000), tuple(sockets(stage)), {})
    assert [len(round_.messages) for round_ in fanout._rounds] == [1, 1, 1]
    assert all(round_.series()[0] is None for round_ in fanout._rounds)
    stage.run_for(1)
    assert texts(one) == texts(two) == [str(number) * 9000 for number in range(3)]


def test_what_is_written_in_pieces_comes_before_what_is_sent_together(make_stage: MakeStage) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    fanout = Fanout(stage.loop)
    with handler.ws.next_writer() as writer:
        writer.write_string("x" * 20_000)
        fanout.send_together(numbered(3), (handler.ws,), {})
        stage.run_for(1)
    assert [guest.read().fin for _ in range(2)] == [False, True]
    assert texts(guest) == ["0", "1", "2"]


def test_nothing_is_sent_together_when_the_loop_has_closed(make_stage: MakeStage) -> None:
    stage = make_stage()
    guests(stage, 1)
    fanout, targets = Fanout(stage.loop), tuple(sockets(stage))
    stage.loop.close()
    with pytest.raises(LoopClosedError):
        fanout.send_together(numbered(3), targets, {})
    assert (fanout.waiting, fanout.owed, fanout.busy) == (0, 0, False)


def test_a_newcomer_hears_of_later_broadcasts(make_stage: MakeStage) -> None:
    stage = make_stage()
    (one,) = guests(stage, 1)
    stage.server.broadcast("before")
    assert one.text() == "before"
    (two,) = guests(stage, 1)
    stage.server.broadcast("after")
    assert two.text() == "after"


def test_nobody_at_all_is_soon_done(make_stage: MakeStage) -> None:
    stage = make_stage()
    for _ in range(100):
        stage.server.broadcast("hello?")
    stage.run_for(1)
    stage.run_for(1)
    assert stage.server.fanout.waiting == 0
    assert not stage.server.fanout._rounds


def test_targets_that_fail_midway_do_not_stop_the_others(make_stage: MakeStage) -> None:
    stage = make_stage()
    (guest,) = guests(stage, 1)
    fanout = Fanout(stage.loop)

    def broken() -> Iterator[WebSocket]:
        yield from sockets(stage)
        raise RuntimeError("theirs")

    fanout.send(PreparedMessage(wire.TEXT, b"one"), broken())
    fanout.send(PreparedMessage(wire.TEXT, b"two"), sockets(stage))
    assert [guest.text(), guest.text()] == ["one", "two"]
    assert stage.log.take() == ["sending to many connections failed midway"]


def test_what_may_wait_is_bounded(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gows.session.fanout, "MAX_WAITING", 1000)
    stage = make_stage()
    (guest,) = guests(stage, 1)
    stage.server.broadcast("x" * 5000)  # more than may wait, but alone
    with pytest.raises(QueueFullError):
        stage.server.broadcast("y")
    assert guest.text() == "x" * 5000
    stage.server.broadcast("z")
    assert guest.text() == "z"


def test_a_server_that_has_stopped_says_so(make_stage: MakeStage) -> None:
    server = gows.Server(workers=0)
    server.stop()
    for _ in range(2):
        with pytest.raises(LoopClosedError):
            server.broadcast("too late")
    assert server.fanout.waiting == 0


def test_audiences_are_equal_when_they_mean_the_same(make_stage: MakeStage) -> None:
    stage = make_stage()
    guests(stage, 2)
    everybody = Audience(stage.loop, stage.server)
    assert everybody == Audience(stage.loop, stage.server)
    assert everybody != Audience(stage.loop, stage.server, "red")
    assert everybody.members() == sockets(stage)
