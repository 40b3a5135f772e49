"""Overflow: the policies for peers that do not take what is written, the budget of all, and the counters."""

from __future__ import annotations

import json
import math
import queue
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gows import AcceptOptions, ByteBuffer, Handler, Opcode, QueueFullError, Request, Server, WebSocket, accept
from gows.options import OVERFLOW_POLICIES
from gows.protocol.prepared import PreparedMessage
from gows.reactor import Loop
from gows.reactor.waits import never_wait, thread_may_wait
from gows.session.backlog import Backlog
from gows.session.overflow import OUTCOMES, Overflow
from gows.session.policy import POLICIES
from tests.support import wire
from tests.support.addresses import tcp
from tests.support.stage import Guest, Stage
from tests.support.waiting import wait_until
from tests.support.wire import DEFLATE

MakeStage = Callable[..., Stage]

SLOW: dict[str, Any] = {"high_water": 1000, "low_water": 200, "network": {"buffer_size": 500}}


@pytest.fixture(params=[True, False], ids=["inline", "pool"])
def make_stage(request: pytest.FixtureRequest) -> Iterator[MakeStage]:
    made: list[Stage] = []

    def make(**settings: Any) -> Stage:
        made.append(Stage(**{"inline": request.param, **settings}))
        return made[-1]

    yield make
    for stage in made:
        assert not stage.server.overflow.backlogs or stage.guests
        stage.close()


def counts(stage: Stage) -> dict[str, int]:
    """The counters that are not 0."""
    return {cause: number for cause, number in stage.server.overflow.counts.items() if number}


def fill(stage: Stage, ws: WebSocket) -> None:
    """Have the kernel take no more; 1500 bytes wait."""
    ws.write_binary(b"a" * 2000)
    stage.run_for(0)
    assert ws.stream.blocked


def rest(stage: Stage, guest: Guest) -> list[str]:
    """What follows the first message."""
    assert guest.read().payload == b"a" * 2000
    found: list[str] = []
    stage.run_for(1)
    while frames := guest.pending():
        found += [frame.payload.decode() for frame in frames]
        stage.run_for(1)
    return found


def test_each_name_of_a_policy_has_its_class() -> None:
    assert tuple(POLICIES) == OVERFLOW_POLICIES
    assert len(set(POLICIES.values())) == len(POLICIES)


# ---------------------------------------------------------------------- what is kept back


def test_latest_puts_a_message_in_the_place_of_one_with_its_key(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="latest", **SLOW)
    guest, handler = stage.guest()
    ws = handler.ws
    fill(stage, ws)
    for price in range(50):
        ws.write_string(f"A {price}", key="A")
        ws.write_text(f"B {price}".encode(), key="B")
        ws.write_json(price, key=3)
        ws.write_message(Opcode.BINARY, b"%d" % price, key=4)
    ws.write_string("no key")
    ws.write_string("no key")
    assert ws.buffered == ws.stream.queued + sum(map(len, ("A 49", "B 49", "49", "49", "no key", "no key")))
    assert rest(stage, guest) == ["A 49", "B 49", "49", "49", "no key", "no key"]
    assert counts(stage) == {"replaced": 4 * 49}
    assert not stage.server.overflow.backlogs
    assert ws.buffered == 0


def test_drop_oldest_keeps_the_newest_in_order(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="drop_oldest", **SLOW)
    guest, handler = stage.guest()
    fill(stage, handler.ws)
    for number in range(500):
        handler.ws.write_string(f"{number:05}", key="keys are for another policy")
    assert rest(stage, guest) == [f"{number:05}" for number in range(300, 500)]
    assert counts(stage) == {"dropped_oldest": 300}


def test_one_message_is_kept_however_large_it_is(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="drop_oldest", **SLOW)
    guest, handler = stage.guest()
    fill(stage, handler.ws)
    handler.ws.write_string("small")
    handler.ws.write_string("b" * 5000)
    assert guest.read().payload == b"a" * 2000
    assert guest.text() == "b" * 5000


@pytest.mark.parametrize("overflow", ["drop_oldest", "latest"])
def test_who_takes_what_is_sent_loses_nothing(make_stage: MakeStage, overflow: str) -> None:
    stage = make_stage(overflow=overflow, high_water=1000, low_water=200)
    guest, handler = stage.guest()
    for number in range(200):
        handler.ws.write_string(str(number), key="the same")
    assert [guest.text() for _ in range(200)] == [str(number) for number in range(200)]
    assert counts(stage) == {}


def test_nothing_overtakes_what_is_kept_back(make_stage: MakeStage) -> None:
    """The peer reads a little at a time, and writing goes on all the while."""
    stage = make_stage(
        overflow="drop_oldest", high_water=100_000, low_water=200, ping_interval=None, network={"buffer_size": 500}
    )
    guest, handler = stage.guest()
    seen: list[str] = []
    for number in range(2000):
        handler.ws.write_string(str(number))
        if number % 7 == 0:
            seen += [frame.payload.decode() for frame in guest.pending()]
    stage.run_for(1)
    while frames := guest.pending():
        seen += [frame.payload.decode() for frame in frames]
        stage.run_for(1)
    assert seen == [str(number) for number in range(2000)]
    assert counts(stage) == {}


def test_a_window_between_messages_is_not_harmed(make_stage: MakeStage) -> None:
    """What is dropped was not compressed: the next message must not refer to it."""
    stage = make_stage(overflow="latest", compression=True, server_context_takeover=True, min_compress_size=0, **SLOW)
    guest, handler = stage.guest(DEFLATE)
    handler.ws.write_binary(zlib.compress(bytes(range(256)) * 3) * 30, compress=False)
    stage.run_for(0)
    assert handler.ws.stream.blocked
    for price in range(20):
        handler.ws.write_string(f"the price is {price}", key="price")
    handler.ws.write_string("the price is the end")
    inflater = zlib.decompressobj(-15)
    guest.read()
    stage.run_for(1)
    found = [inflater.decompress(frame.payload + b"\0\0\xff\xff") for frame in guest.pending()]
    assert found == [b"the price is 19", b"the price is the end"]


def test_the_close_frame_comes_behind_what_was_kept_back(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="latest", **SLOW)
    guest, handler = stage.guest()
    fill(stage, handler.ws)
    handler.ws.write_string("last words", key=1)
    handler.ws.close_handshake(1000)
    assert guest.read().payload == b"a" * 2000
    assert guest.text() == "last words"
    assert guest.close_frame() == (1000, "")
    guest.send(wire.close(1000))
    assert guest.wait_end() == "FIN"


def test_a_message_in_pieces_comes_behind_what_was_kept_back(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="drop_oldest", high_water=10_000, low_water=200, network={"buffer_size": 500})
    guest, handler = stage.guest()
    fill(stage, handler.ws)
    handler.ws.write_string("before")
    with handler.ws.next_writer() as writer:
        writer.write_string("in pieces")
    handler.ws.write_string("after")
    assert rest(stage, guest) == ["before", "in pieces", "after"]


def test_what_is_no_text_is_said_at_once(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="latest", **SLOW)
    _, handler = stage.guest()
    fill(stage, handler.ws)
    with pytest.raises(UnicodeDecodeError):
        handler.ws.write_text(b"\xff", key=1)
    with pytest.raises(UnicodeDecodeError):
        handler.ws.write_text(bytearray(b"\xff"), key=1)
    assert not stage.server.overflow.backlogs.get(handler.ws)


def test_a_lost_connection_leaves_nothing_behind(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="latest", **SLOW)
    guest, handler = stage.guest()
    fill(stage, handler.ws)
    handler.ws.write_string("lost", key=1)
    assert len(stage.server.overflow.backlogs) == 1
    guest.reset()
    stage.run_until(lambda: handler.close_code)
    assert not stage.server.overflow.backlogs


def test_a_broadcast_has_a_key(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="latest", **SLOW)
    guest, handler = stage.guest()
    fill(stage, handler.ws)
    for price in range(10):
        stage.server.broadcast(f"price {price}", key="price")
        stage.run_for(0.1)
    assert rest(stage, guest) == ["price 9"]
    assert counts(stage) == {"replaced": 9}


# ---------------------------------------------------------------------- what is counted


@pytest.mark.parametrize(
    ("overflow", "cause"), [("refuse", "refused"), ("drop", "dropped"), ("close", "closed"), ("block", "refused")]
)
def test_each_policy_is_counted(make_stage: MakeStage, overflow: str, cause: str) -> None:
    """A callback in the loop's thread cannot wait for room: there "block" refuses."""
    stage = make_stage(overflow=overflow, **SLOW)
    _, handler = stage.guest()
    fill(stage, handler.ws)
    stage.server.broadcast("to all")  # the loop sends it
    stage.run_for(0.1)
    assert counts(stage) == {cause: 1}


def test_the_causes_are_the_keys() -> None:
    loop = Loop()
    assert tuple(Overflow(loop).counts) == OUTCOMES
    loop.close()


# ---------------------------------------------------------------------- the budget


def test_all_connections_together_have_a_budget(make_stage: MakeStage) -> None:
    stage = make_stage(
        server={"max_queued": 20_000}, overflow="drop", high_water=1 << 20, low_water=0, network={"buffer_size": 500}
    )
    guests = [stage.guest() for _ in range(40)]
    overflow = stage.server.overflow
    most = 0
    for _ in range(50):
        for _, handler in guests:
            handler.ws.write_binary(b"x" * 100)
        stage.run_for(0.05)
        most = max(most, overflow.total_queued())
    assert 19_000 < most < 20_000 + 20_000 / 16
    assert counts(stage)["dropped"] == counts(stage)["over_budget"] > 500
    for guest, _ in guests:
        guest.pending()
    stage.run_for(1)
    for guest, _ in guests:
        while guest.pending():
            stage.run_for(0.1)
    assert overflow.total_queued() == 0
    guests[0][1].ws.write_string("there is room again")
    assert guests[0][0].text() == "there is room again"


def test_over_the_budget_nothing_more_is_kept_back(make_stage: MakeStage) -> None:
    stage = make_stage(
        server={"max_queued": 3000},
        overflow="drop_oldest",
        high_water=1 << 20,
        low_water=0,
        network={"buffer_size": 500},
    )
    guest, handler = stage.guest()
    fill(stage, handler.ws)
    for number in range(1000):
        handler.ws.write_string(f"{number:05}")
        stage.run_for(0.02)
    assert stage.server.overflow.total_queued() < 3200
    newest = rest(stage, guest)
    assert newest[-1] == "00999"
    assert newest == [f"{number:05}" for number in range(1000 - len(newest), 1000)]


@pytest.mark.parametrize("overflow", ["refuse", "drop"])
def test_who_is_over_the_budget_is_told_when_its_queue_is_empty(make_stage: MakeStage, overflow: str) -> None:
    """However far below its own mark that is."""
    stage = make_stage(
        server={"max_queued": 3000}, overflow=overflow, high_water=1 << 20, low_water=0, network={"buffer_size": 500}
    )
    guest, handler = stage.guest()
    _other, other_handler = stage.guest()
    fill(stage, handler.ws)
    fill(stage, other_handler.ws)
    if overflow == "refuse":
        with pytest.raises(QueueFullError):
            handler.ws.write_binary(bytes(2000))
    else:
        handler.ws.write_binary(bytes(2000))
    guest.wait(lambda: "on_drain" in handler.calls, limit=5)
    assert "on_drain" not in other_handler.calls


def test_within_the_budget_nothing_is_lost(make_stage: MakeStage) -> None:
    stage = make_stage(server={"max_queued": 1 << 20}, overflow="drop", high_water=1000, low_water=0)
    guest, handler = stage.guest()
    for number in range(100):
        handler.ws.write_string(str(number))
    assert [guest.text() for _ in range(100)] == [str(number) for number in range(100)]
    assert counts(stage) == {}


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_budgets_that_cannot_be(value: Any, error: type[Exception]) -> None:
    loop = Loop()
    with pytest.raises(error, match="max_queued"):
        Server(loop=loop, max_queued=value)
    loop.close()


# ---------------------------------------------------------------------- block, with real threads


class Talker(Handler):
    """Writes when it is asked, on a worker, until an error."""

    def __init__(self) -> None:
        self.ws: WebSocket
        self.written = 0
        self.error: Exception | None = None

    def on_open(self, ws: WebSocket) -> None:
        self.ws = ws

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        if buff.get_string() != "talk":
            ws.write_message(opcode, buff)
            return
        try:
            while self.written < 400:
                ws.write_binary(bytes(65536))
                self.written += 1
        except Exception as error:
            self.error = error


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[tuple[Server, list[Talker]]]:
    handlers: list[Talker] = []
    server = Server(workers=1, options=AcceptOptions(overflow="block", **getattr(request, "param", {})))

    @server.route("/")
    def talk(request: Request) -> None:
        handlers.append(Talker())
        accept(request).serve(handlers[-1])

    server.start("127.0.0.1:0")
    yield server, handlers
    server.stop(1.0)


def buffered(server: Server) -> list[int]:
    """Return the bytes that wait for each connection."""
    return [ws.buffered for ws in server.connections if isinstance(ws, WebSocket)]


def visit(server: Server) -> socket.socket:
    """A peer that has asked for a talk, and reads nothing."""
    sock = socket.create_connection(tcp(server.addresses[0]), timeout=20)
    sock.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
    return sock


@pytest.mark.slow
def test_block_waits_until_the_peer_reads_and_holds_up_nobody(site: tuple[Server, list[Talker]]) -> None:
    server, handlers = site
    with visit(server) as slow, visit(server) as other:
        slow.sendall(wire.frame(wire.TEXT, "talk"))
        wait_until(lambda: server.overflow.counts["blocked"] == 1)
        written = handlers[0].written
        assert written < 400
        assert handlers[0].ws.buffered < 262144 + 2 * 65536
        other.sendall(wire.frame(wire.TEXT, "the only worker waits, and yet"))
        assert other.recv(100)[2:] == b"the only worker waits, and yet"
        assert handlers[0].written == written, "still waiting"
        left = 400 * (65536 + 10)
        while left:
            data = slow.recv(min(left, 1 << 20))
            assert data
            left -= len(data)
        wait_until(lambda: handlers[0].written == 400)
    assert handlers[0].error is None
    assert server.overflow.counts["refused"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("site", [{"write_timeout": 0.3}], indirect=True)
def test_block_ends_with_the_write_timeout(site: tuple[Server, list[Talker]]) -> None:
    server, handlers = site
    with visit(server) as slow:
        slow.sendall(wire.frame(wire.TEXT, "talk"))
        wait_until(lambda: handlers[0].error is not None)
    # whichever of the two looks first: the blocked writer, or the loop, which drops the connection
    assert type(handlers[0].error).__name__ in {"QueueFullError", "ConnectionClosedError"}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["close", "close_handshake"])
def test_block_ends_with_the_connection(site: tuple[Server, list[Talker]], ending: str) -> None:
    server, handlers = site
    with visit(server) as slow:
        slow.sendall(wire.frame(wire.TEXT, "talk"))
        wait_until(lambda: server.overflow.counts["blocked"] == 1)
        getattr(handlers[0].ws, ending)()
        wait_until(lambda: handlers[0].error is not None)
    assert type(handlers[0].error).__name__ == "ConnectionClosedError"


@pytest.mark.slow
def test_a_thread_of_the_users_own_may_wait_too(site: tuple[Server, list[Talker]]) -> None:
    server, handlers = site
    with visit(server) as slow:
        wait_until(lambda: handlers and hasattr(handlers[0], "ws"))
        ws = handlers[0].ws
        done = threading.Event()

        def write() -> None:
            for _ in range(100):
                ws.write_binary(bytes(65536))
            done.set()

        thread = threading.Thread(target=write)
        thread.start()
        wait_until(lambda: server.overflow.counts["blocked"] >= 1)
        assert not done.is_set()
        left = 100 * (65536 + 10)
        while left:
            left -= len(slow.recv(min(left, 1 << 20)))
        thread.join(20)
        assert done.is_set()


def full(server: Server, handlers: list[Talker], slow: socket.socket) -> WebSocket:
    """A connection over its mark, for which a worker waits."""
    slow.sendall(wire.frame(wire.TEXT, "talk"))
    wait_until(lambda: server.overflow.counts["blocked"] == 1)
    return handlers[0].ws


def test_what_is_not_the_users_does_not_wait(site: tuple[Server, list[Talker]]) -> None:
    """Messages to many, of other processes, and answers of gows.v1, in threads that anybody may need."""
    server, handlers = site
    with visit(server) as slow:
        ws = full(server, handlers, slow)
        assert not ws.send_prepared(PreparedMessage(Opcode.TEXT, b"to many"))
        with pytest.raises(QueueFullError):
            ws.send_text("an answer")
        with pytest.raises(QueueFullError):
            ws.send_text("")
        assert server.overflow.counts["blocked"] == 1
        assert server.overflow.counts["refused"] == 3
        ws.write_ping(b"is never refused")
        slow.recv(100_000)


@pytest.mark.parametrize("lock", ["its own", "another's", "another loop's", "the publish lock"])
def test_nobody_waits_with_a_lock(
    site: tuple[Server, list[Talker]], monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    """A finaliser, which runs amid anything, or a signal handler may write."""
    monkeypatch.setattr("gows.debug.check_order", lambda lock: None)  # which they do not observe
    server, handlers = site
    other = Loop()
    with visit(server) as slow:
        ws = full(server, handlers, slow)
        held: Any = {
            "its own": ws.stream.lock,
            "another's": server.loop.next_lock(),
            "another loop's": other.next_lock(),
            "the publish lock": server.publishing.lock,
        }[lock]
        with held, pytest.raises(QueueFullError, match="must not wait"):
            ws.write_string("amid something")
        assert server.overflow.counts["blocked"] == 1
    other.close()


def test_no_thread_of_ours_waits(site: tuple[Server, list[Talker]]) -> None:
    server, handlers = site
    outcome: queue.SimpleQueue[Exception] = queue.SimpleQueue()

    def write(ws: WebSocket) -> None:
        try:
            ws.write_string("of a callback in another loop's thread, or the broker's")
        except QueueFullError as error:
            outcome.put(error)

    with visit(server) as slow, Loop(workers=0) as other:
        ws = full(server, handlers, slow)
        other.start()
        other.call_soon(write, ws)
        assert "must not wait" in str(outcome.get(timeout=10))
        with never_wait():
            write(ws)
        assert "must not wait" in str(outcome.get(timeout=10))
        assert thread_may_wait()


def test_very_small_messages_take_room_too(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="drop_oldest", **SLOW)
    guest, handler = stage.guest()
    fill(stage, handler.ws)
    for _ in range(3000):
        handler.ws.write_string("")
    handler.ws.write_string("the last")
    found = rest(stage, guest)
    assert found == [""] * 1023 + ["the last"]
    assert counts(stage) == {"dropped_oldest": 3001 - 1024}


def test_very_small_messages_take_room_behind_a_message_in_pieces(make_stage: MakeStage) -> None:
    stage = make_stage(overflow="refuse", high_water=1000, low_water=200)
    _, handler = stage.guest()
    with handler.ws.next_writer() as writer:
        writer.write(b"x" * 20_000)
        for _ in range(63):
            handler.ws.write_string("")
        with pytest.raises(QueueFullError):
            handler.ws.write_string("")


@pytest.mark.slow
def test_a_reader_that_stops_costs_bounded_memory_and_delays_nobody() -> None:
    server = Server(options=AcceptOptions(overflow="drop_oldest", high_water=20_000, low_water=5_000))

    @server.route("/")
    def join(request: Request) -> None:
        accept(request).serve(Talker())

    server.start("127.0.0.1:0")
    try:
        stopped = visit(server)
        others = [visit(server) for _ in range(200)]
        wait_until(lambda: len(server.connections) == 201)
        for number in range(300):
            server.broadcast(f"{number:04}".ljust(20_000, "."))
            if number % 50 == 49:
                wait_until(lambda: server.fanout.waiting == 0)
            for other in others:
                left = 20_004
                while left:
                    left -= len(other.recv(left))
        assert max(buffered(server)) < 100_000
        # what was read may count for a moment
        wait_until(lambda: sum(size > 0 for size in buffered(server)) <= 1)
        assert server.overflow.counts["dropped_oldest"] > 0
        for sock in (stopped, *others):
            sock.close()
    finally:
        server.stop(2.0)


# ---------------------------------------------------------------------- the backlog by itself


@given(
    st.lists(
        st.one_of(
            st.tuples(st.one_of(st.none(), st.integers(0, 4)), st.binary(max_size=40), st.booleans()), st.just("take")
        )
    )
)
def test_a_backlog_knows_its_size_and_its_order(steps: list[Any]) -> None:
    backlog = Backlog(100)
    model: list[tuple[Any, bytes]] = []
    for step in steps:
        if step == "take":
            if model:
                assert backlog.take()[1] == model.pop(0)[1]
            else:
                with pytest.raises(KeyError):
                    backlog.take()
            continue
        key, data, grow = step
        most = 100 if grow else min(100, sum(len(data) for _, data in model))
        places = [place for place, (known, _) in enumerate(model) if key is not None and known == key]
        if places:
            model[places[0]] = (key, data)
        else:
            model.append((key, data))
        dropped = 0
        while sum(len(data) for _, data in model) > most and len(model) > 1:
            model.pop(0)
            dropped += 1
        assert backlog.put(key, (2, data, True, math.inf), grow=grow) == (len(places), dropped)
        assert (len(backlog), backlog.size) == (len(model), sum(len(data) for _, data in model))


# ---------------------------------------------------------------------- what the kernel holds


@pytest.fixture
def unread(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[WebSocket, socket.socket]]:
    """A WebSocket whose peer reads nothing, and the peer. The parameter: kind of address, and options."""
    kind, options = request.param
    found: list[WebSocket] = []
    server = Server(options=AcceptOptions(ping_interval=None, **options))

    class Keep(Handler):
        def on_open(self, ws: WebSocket) -> None:
            found.append(ws)

    server.add_route("/ws", lambda asked: accept(asked).serve(Keep()))
    address = server.listen(f"unix:{tmp_path}/socket" if kind == "unix" else "127.0.0.1:0")
    server.start()
    peer = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    if kind == "tcp":
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    peer.settimeout(10)
    peer.connect(address)
    try:
        peer.sendall(wire.request("/ws"))
        wait_until(lambda: found)
        yield found[0], peer
    finally:
        peer.close()
        server.stop()


def write_much(ws: WebSocket) -> int:
    """Write 6 MB, some at a time; how much of it waits in the kernel and in the queue."""
    for number in range(200):
        for _ in range(30):
            try:
                ws.write_json([number, "x" * 1000], key=number % 10)
            except QueueFullError:
                break
        done = threading.Event()
        ws.context.loop.call_soon(done.set)  # a turn
        assert done.wait(10)
    return ws.stream.untaken()


@pytest.mark.parametrize(
    "unread",
    [(kind, {"overflow": policy}) for kind in ("tcp", "unix") for policy in ("latest", "drop_oldest")],
    indirect=True,
)
def test_what_is_kept_back_is_fresh(unread: tuple[WebSocket, socket.socket]) -> None:
    """The kernel is not given megabytes that would be old before they are read."""
    ws, peer = unread
    assert write_much(ws) < 100_000
    reader = wire.FrameReader()
    peer.recv(len(b"HTTP/1.1 101"))
    received = b""
    while b"\r\n\r\n" not in received:
        received += peer.recv(1)
    numbers: list[int] = []
    while 199 not in numbers:
        numbers += [json.loads(found.payload)[0] for found in reader.feed(peer.recv(65536))]
    assert sum(1000 for number in numbers if number < 150) < 200_000


@pytest.mark.parametrize(
    "unread", [("tcp", {"send_buffer": 20_000}), ("unix", {"send_buffer": 20_000})], indirect=True, ids=["tcp", "unix"]
)
def test_the_kernels_buffer_can_be_made_small(unread: tuple[WebSocket, socket.socket]) -> None:
    ws, _ = unread
    assert write_much(ws) - ws.stream.queued < 100_000


@pytest.mark.parametrize("unread", [("tcp", {})], indirect=True)
def test_by_default_the_kernel_holds_what_it_likes(unread: tuple[WebSocket, socket.socket]) -> None:
    ws, _ = unread
    assert write_much(ws) - ws.stream.queued > 500_000
