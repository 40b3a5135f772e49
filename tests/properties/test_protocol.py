"""Properties of the protocol core: a client and a server joined back to back, and input cut anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gows.bufferpool import BufferPool
from gows.bytebuffer import ByteBuffer
from gows.codes import may_travel
from gows.errors import BufferReleasedError, ConnectionClosedError, HandshakeError, WriterBusyError
from gows.protocol.connection import (
    BINARY,
    CHUNK,
    CLOSE,
    FAIL,
    PING,
    PONG,
    TEXT,
    Connection,
    ConnectionConfig,
    ConnectionState,
    Role,
)
from gows.protocol.deflate import DeflateOptions, DeflateParams, DeflatePool, accept_answer, make_offer, negotiate
from gows.protocol.extensions import format_extension, parse_extensions
from gows.protocol.frames import encode_close_body, frame_header, parse_close_body, parse_header
from gows.protocol.masking import mask, rotate
from gows.protocol.utf8 import Utf8Validator
from tests.support.feeding import feed, frame, take

bounded = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
stateful = settings(bounded, max_examples=25, stateful_step_count=30)

PARAMS = st.one_of(
    st.none(),
    st.builds(
        DeflateParams,
        st.booleans(),
        st.booleans(),
        st.integers(8, 15),
        st.integers(8, 15),
    ),
)
SIZES = st.one_of(st.integers(0, 200), st.sampled_from([125, 126, 1000, 5000, 65535, 65536]))


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """Bytes that are quick to draw, whatever their size."""
    pattern = draw(st.binary(max_size=20))
    size = draw(SIZES)
    return (pattern * (size // len(pattern) + 1))[:size] if pattern else bytes(size)


TEXTS = st.builds(lambda text, times: text * times, st.text(max_size=20), st.sampled_from([1, 1, 7, 400]))


@dataclass
class Side:
    """One end, and what is on its way to it."""

    connection: Connection
    wire: bytearray = field(default_factory=bytearray)
    received: list[Any] = field(default_factory=list)
    expected: list[tuple[int, Any]] = field(default_factory=list)
    """(where in the stream of its input it is complete, event)."""
    sent: int = 0
    """How many bytes of input were put on the wire."""
    consumed: int = 0
    closed: bool = False
    """It sent its close frame."""
    writing: tuple[int, bytes] | None = None
    """The fragmented message that it has begun."""

    def coming(self, wire: bytes, event: Any = None) -> None:
        """The other end sent `wire`, which completes `event`."""
        self.wire += wire
        self.sent += len(wire)
        if event is not None:
            self.expected.append((self.sent, event))

    def close(self) -> None:
        """From now on only the peer's close frame is looked at."""
        self.closed = True
        self.expected = [(at, event) for at, event in self.expected if at <= self.consumed or event[0] == CLOSE]

    def due(self) -> list[Any]:
        return [event for at, event in self.expected if at <= self.consumed]


class BackToBack(RuleBasedStateMachine):
    """Each end does anything it may, at any time, while bytes trickle in both directions."""

    @initialize(params=PARAMS, level=st.sampled_from([1, 6]), threshold=st.sampled_from([0, 10, 1024]))
    def connect(self, params: DeflateParams | None, level: int, threshold: int) -> None:
        pool, options = DeflatePool(), DeflateOptions(level=level)
        self.sides = []
        for role in (Role.SERVER, Role.CLIENT):
            codec = None if params is None else pool.codec(params, options, server=role is Role.SERVER)
            config = ConnectionConfig(role, min_compress_size=threshold)
            self.sides.append(Side(Connection(config, codec)))

    def ends(self, which: bool) -> tuple[Side, Side]:
        return self.sides[which], self.sides[not which]

    def emit(self, us: Side, them: Side, wire: bytes, event: Any) -> None:
        them.coming(wire, None if them.closed and event is not None and event[0] != CLOSE else event)

    @rule(which=st.booleans(), data=payloads(), compress=st.booleans())
    def send_binary(self, which: bool, data: bytes, compress: bool) -> None:
        us, them = self.ends(which)
        if us.closed or us.writing is not None:
            with pytest.raises(ConnectionClosedError if us.closed else WriterBusyError):
                us.connection.encode_message(BINARY, data, compress)
            return
        self.emit(us, them, us.connection.encode_message(BINARY, data, compress), (BINARY, data))

    @rule(which=st.booleans(), text=TEXTS, compress=st.booleans())
    def send_text(self, which: bool, text: str, compress: bool) -> None:
        us, them = self.ends(which)
        if us.closed or us.writing is not None:
            with pytest.raises(ConnectionClosedError if us.closed else WriterBusyError):
                us.connection.encode_text(text, compress)
            return
        self.emit(us, them, us.connection.encode_text(text, compress), (TEXT, text.encode()))

    @rule(which=st.booleans(), data=payloads(), fin=st.booleans(), compress=st.booleans())
    def send_fragment(self, which: bool, data: bytes, fin: bool, compress: bool) -> None:
        us, them = self.ends(which)
        first = us.writing is None
        if us.closed:
            with pytest.raises(ConnectionClosedError):
                us.connection.encode_fragment(BINARY, data, first, fin, compress)
            return
        whole = data if us.writing is None else us.writing[1] + data
        if len(whole) > 1 << 19:
            return
        wire = us.connection.encode_fragment(BINARY, data, first, fin, compress)
        us.writing = None if fin else (BINARY, whole)
        self.emit(us, them, wire, (BINARY, whole) if fin else None)

    @rule(which=st.booleans(), data=st.binary(max_size=125), pong=st.booleans())
    def send_control(self, which: bool, data: bytes, pong: bool) -> None:
        us, them = self.ends(which)
        encode = us.connection.encode_pong if pong else us.connection.encode_ping
        if us.closed:
            with pytest.raises(ConnectionClosedError):
                encode(data)
            return
        self.emit(us, them, encode(data), (PONG if pong else PING, data))

    @precondition(lambda self: any(len(side.expected) > 3 for side in self.sides))
    @rule(
        which=st.booleans(),
        close=st.one_of(
            st.just((1005, "")),
            st.tuples(st.sampled_from([1000, 1001, 1011, 3000, 4999]), st.text(max_size=30)),
        ),
    )
    def send_close(self, which: bool, close: tuple[int, str]) -> None:
        us, them = self.ends(which)
        if us.closed:
            with pytest.raises(ConnectionClosedError):
                us.connection.encode_close(*close)
            return
        self.emit(us, them, us.connection.encode_close(*close), (CLOSE, close))
        us.close()

    @rule(which=st.booleans(), size=st.one_of(st.integers(1, 40), st.just(1 << 20)))
    def deliver(self, which: bool, size: int) -> None:
        side = self.sides[which]
        piece = bytes(side.wire[:size])
        del side.wire[:size]
        side.consumed += len(piece)
        side.received += feed(side.connection, piece)

    @invariant()
    def what_arrived_is_what_was_sent(self) -> None:
        for side in getattr(self, "sides", ()):
            assert side.received == side.due()

    def teardown(self) -> None:
        for which in (False, True):
            if not hasattr(self, "sides"):
                return
            self.deliver(which, 1 << 30)
        self.what_arrived_is_what_was_sent()
        for side in self.sides:
            got_close = bool(side.received) and side.received[-1][0] == CLOSE
            state = {
                (False, False): ConnectionState.OPEN,
                (True, False): ConnectionState.CLOSING,
                (False, True): ConnectionState.CLOSE_RECEIVED,
                (True, True): ConnectionState.CLOSED,
            }
            assert side.connection.state is state[side.closed, got_close]
            side.connection.receive_eof()
            assert side.connection.config.pool.lent == 0


TestBackToBack = pytest.mark.slow(BackToBack.TestCase)
TestBackToBack.settings = stateful


# input cut anywhere


@st.composite
def wires(draw: st.DrawFn) -> bytes:
    """Frames, mostly good ones, and sometimes noise."""
    out = []
    for _ in range(draw(st.integers(1, 6))):
        opcode = draw(st.sampled_from([0, 1, 1, 2, 2, 8, 9, 10, 3]))
        payload = draw(st.binary(max_size=140))
        if opcode >= 8:
            payload = payload[:125]
        if opcode == 1 and draw(st.booleans()):
            payload = draw(st.text(max_size=50)).encode()
        fin = draw(st.sampled_from([True, True, True, False]))
        rsv = draw(st.sampled_from([0, 0, 0, 0, 0, 4]))
        out.append(frame(opcode, payload, fin=fin, rsv=rsv, key=draw(st.binary(min_size=4, max_size=4))))
    if draw(st.integers(0, 9)) == 0:
        out.append(draw(st.binary(max_size=30)))
    return b"".join(out)


def joined(events: list[Any]) -> list[Any]:
    """Chunks of one message put together; of an unfinished one, or one cut by a fault, nothing is said."""
    out: list[Any] = []
    data = b""
    for kind, value in events:
        if kind != CHUNK:
            out.append((kind, value))
            continue
        data += value[2]
        if value[1]:
            out.append((value[0], data))
            data = b""
    return out


@bounded
@given(wires(), st.lists(st.integers(0, 300), max_size=6), PARAMS, st.booleans(), st.booleans())
def test_the_cuts_of_the_input_do_not_matter(
    wire: bytes, cuts: list[int], params: DeflateParams | None, chunked: bool, closing: bool
) -> None:
    def run(segments: list[bytes]) -> list[Any]:
        codec = None if params is None else DeflatePool().codec(params, DeflateOptions(), server=True)
        config = ConnectionConfig(Role.SERVER, chunked=chunked, max_message_size=250, message_buffer_size=7)
        connection = Connection(config, codec)
        if closing:
            connection.encode_close(1000, "")
        events = feed(connection, *segments)
        connection.receive_eof()
        assert config.pool.lent == 0
        return joined(events)

    edges = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    whole = run([wire])
    assert run([wire[a:b] for a, b in pairwise(edges)]) == whole
    assert run([wire[i : i + 1] for i in range(len(wire))]) == whole
    assert all(kind not in (CLOSE, FAIL) for kind, _ in whole[:-1])


@bounded
@given(st.binary(max_size=400), st.booleans())
def test_noise_never_raises(wire: bytes, server: bool) -> None:
    connection = Connection(ConnectionConfig(Role.SERVER if server else Role.CLIENT))
    feed(connection, wire)


# the parts


@bounded
@given(payloads(), st.binary(min_size=4, max_size=4), st.integers(0, 9), st.integers(0, 9))
def test_masking_is_its_own_inverse_and_may_be_done_in_parts(data: bytes, key: bytes, offset: int, cut: int) -> None:
    masked = mask(data, key, offset)
    assert mask(masked, key, offset) == data
    assert mask(data[:cut], key, offset) + mask(data[cut:], key, offset + len(data[:cut])) == masked
    assert mask(data, rotate(key, offset)) == masked


@bounded
@given(
    st.one_of(st.binary(max_size=60), st.text(max_size=30).map(str.encode)), st.lists(st.integers(0, 60), max_size=5)
)
def test_utf8_in_pieces_is_utf8_at_once(data: bytes, cuts: list[int]) -> None:
    try:
        data.decode()
        good = True
    except UnicodeDecodeError:
        good = False
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    validator = Utf8Validator()
    assert (all(validator.feed(data[a:b]) for a, b in pairwise(edges)) and validator.feed(b"", True)) is good


@bounded
@given(
    st.lists(st.sampled_from(b"a\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe2\xed\xef\xf0\xf3\xf4\xf5\xff")).map(
        bytes
    )
)
def test_bad_utf8_is_refused_at_the_first_byte_that_no_good_text_continues(data: bytes) -> None:
    validator = Utf8Validator()
    for i in range(len(data)):
        taken = validator.feed(data[i : i + 1])
        assert taken is _may_go_on(data[: i + 1])
        if not taken:
            break


def _may_go_on(data: bytes) -> bool:
    """Whether some continuation makes `data` valid, tried out on the code point at its end."""
    for tail in (
        b"",
        b"\x80",
        b"\xbf",
        b"\x80\x80",
        b"\xbf\xbf",
        b"\x80\x80\x80",
        b"\xbf\xbf\xbf",
        b"\x90\x80\x80",
        b"\xa0\x80",
    ):
        try:
            (data + tail).decode()
        except UnicodeDecodeError:
            continue
        return True
    return False


@bounded
@given(
    st.integers(0, (1 << 63) - 1),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.booleans(),
    st.one_of(st.none(), st.just(b"keys")),
)
def test_headers_are_read_back(length: int, opcode: int, fin: bool, rsv1: bool, key: bytes | None) -> None:
    head = frame_header(opcode, length, fin=fin, rsv1=rsv1, key=key)
    assert parse_header(head, 0, len(head), key is not None) == (head[0], length, key, len(head))


@bounded
@given(st.integers(0, 5000), st.text(max_size=30))
def test_close_bodies_are_read_back(code: int, reason: str) -> None:
    if may_travel(code):
        assert parse_close_body(encode_close_body(code, reason)) == (code, reason)


TOKENS = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=8)


@bounded
@given(st.lists(st.tuples(TOKENS, st.lists(st.tuples(TOKENS, st.one_of(st.none(), TOKENS)), max_size=4)), max_size=4))
def test_extensions_are_read_back(offers: list[tuple[str, list[tuple[str, str | None]]]]) -> None:
    header = ", ".join(format_extension(name, params) for name, params in offers)
    assert parse_extensions(header) == offers


@bounded
@given(st.text('ab;,="\\ \t\x00é', max_size=40))
def test_any_extension_header_is_read_or_refused(header: str) -> None:
    try:
        offers = parse_extensions(header)
    except HandshakeError:
        return
    assert parse_extensions(", ".join(format_extension(*offer) for offer in offers)) == offers


OPTIONS = st.builds(
    DeflateOptions,
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
    server_max_window_bits=st.integers(8, 15),
    client_max_window_bits=st.integers(8, 15),
)


@bounded
@given(OPTIONS, OPTIONS)
def test_our_client_and_our_server_always_agree(ours: DeflateOptions, theirs: DeflateOptions) -> None:
    chosen = negotiate(parse_extensions(make_offer(ours)), theirs)
    assert chosen is not None
    assert accept_answer(parse_extensions(chosen[0]), ours) == chosen[1]


# buffers


class Buffers(RuleBasedStateMachine):
    """Messages are lent, viewed, released, some twice; nobody ever sees another's bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BufferPool(keep=2, max_size=50)
        self.filling: list[tuple[bytearray, bytes]] = []
        self.lent: list[tuple[ByteBuffer, bytes]] = []
        self.released: list[ByteBuffer] = []
        self.views: list[tuple[memoryview, bytes]] = []

    @rule()
    def begin(self) -> None:
        storage = self.pool.take()
        assert storage == b""
        assert all(storage is not other for other, _ in self.filling)
        self.filling.append((storage, b""))

    @precondition(lambda self: self.filling)
    @rule(data=st.data(), piece=st.binary(max_size=40))
    def grow(self, data: st.DataObject, piece: bytes) -> None:
        at = data.draw(st.integers(0, len(self.filling) - 1))
        storage, content = self.filling[at]
        storage += piece
        self.filling[at] = (storage, content + piece)

    @precondition(lambda self: self.filling)
    @rule(data=st.data())
    def lend(self, data: st.DataObject) -> None:
        storage, content = self.filling.pop(data.draw(st.integers(0, len(self.filling) - 1)))
        self.lent.append((ByteBuffer.of(storage, self.pool), content))

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def view(self, data: st.DataObject) -> None:
        buffer, content = data.draw(st.sampled_from(self.lent))
        self.views.append((buffer.get_bytes(), content))

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        buffer, content = self.lent.pop(data.draw(st.integers(0, len(self.lent) - 1)))
        assert take(buffer) == content
        self.released.append(buffer)

    @precondition(lambda self: self.released)
    @rule(data=st.data())
    def release_again(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.released)).release()

    @invariant()
    def every_message_is_its_own(self) -> None:
        assert self.pool.lent == len(self.filling) + len(self.lent)
        assert all(storage == content for storage, content in self.filling)
        assert all(bytes(buffer) == content for buffer, content in self.lent)
        assert all(view == content for view, content in self.views)
        for buffer in self.released:
            with pytest.raises(BufferReleasedError):
                len(buffer)


TestBuffers = pytest.mark.slow(Buffers.TestCase)
TestBuffers.settings = stateful
