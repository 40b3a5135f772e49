"""WebSockets of ASGI applications: every message in every state, and peers and applications that behave badly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

import gows
from gows import AcceptOptions, DisconnectedError, InvalidCloseCodeError, InvalidHeaderError, Server
from gows.asgi import websocket
from gows.reactor import Stream
from tests.support import wire
from tests.support.asgi_serving import WAYS, Message, Notes, address_of
from tests.support.raw import RawPeer
from tests.support.waiting import wait_until

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Serve = Callable[..., AbstractContextManager[Server]]

ACCEPT: Message = {"type": "websocket.accept"}


@pytest.fixture(params=[*WAYS.values()], ids=[*WAYS])
def serve(request: pytest.FixtureRequest) -> Serve:
    found: Serve = request.param
    return found


def peer_of(server: Server) -> RawPeer:
    return RawPeer(address_of(server))


def text(data: str) -> bytes:
    return wire.frame(wire.TEXT, data)


async def echo(scope: Any, receive: Receive, send: Send) -> None:
    """Echoes, and returns when the client has gone. It has no lifespan."""
    assert scope["type"] == "websocket"
    assert await receive() == {"type": "websocket.connect"}
    await send(ACCEPT)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    assert message["type"] == "websocket.disconnect"


# ---------------------------------------------------------------------- a conversation


def test_text_and_bytes_both_ways(serve: Serve) -> None:
    with serve(echo) as server, peer_of(server) as peer:
        peer.upgrade("/")
        peer.send(text("hällo"), wire.frame(wire.BINARY, b"\0\xff"), text(""), wire.frame(wire.BINARY, b""))
        assert [peer.read()[:2] for _ in range(4)] == [
            (wire.TEXT, "hällo".encode()),
            (wire.BINARY, b"\0\xff"),
            (wire.TEXT, b""),
            (wire.BINARY, b""),
        ]
        peer.send(wire.close(1000))
        peer.expect_close(1000)


def test_the_scope(serve: Serve) -> None:
    notes = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            notes.put(scope)
            await send({"type": "websocket.close"})

    with serve(app) as server, peer_of(server) as peer:
        peer.ask(wire.request("/a%20b?x=1", "Sec-WebSocket-Protocol: one, two", "X-A: 1", "X-A: 2"))
        scope = notes.next()
        own, there = peer.sock.getsockname(), address_of(server)
    headers = scope.pop("headers")
    assert (b"x-a", b"1") in headers
    assert (b"x-a", b"2") in headers
    assert (b"sec-websocket-key", wire.KEY.encode()) in headers
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"x=1",
        "root_path": "",
        "client": own,
        "server": there,
        "subprotocols": ["one", "two"],
        "state": {},
        "extensions": {"websocket.http.response": {}},
    }


def test_nothing_is_answered_before_accept() -> None:
    notes, go_on = Notes(), Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await receive()
        notes.put("connected")
        await asyncio.to_thread(go_on.next)
        await send({**ACCEPT, "subprotocol": "two", "headers": [(b"x-a", b"1"), [b"x-a", b"2"]]})
        await receive()

    with WAYS["thread"](app) as server, peer_of(server) as peer:
        peer.send(wire.request("/", "Sec-WebSocket-Protocol: one, two"))
        assert notes.next() == "connected"
        peer.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.sock.recv(1)
        peer.sock.settimeout(10)
        go_on.put(None)
        answer, _ = peer.read_answer()
        assert answer.status == 101
        assert answer.headers["sec-websocket-protocol"] == "two"
        assert "x-a" in answer.headers


def test_many_pipelined_messages_keep_their_order(serve: Serve) -> None:
    with serve(echo) as server, peer_of(server) as peer:
        peer.upgrade("/")
        count = 5 * websocket.QUEUE_MESSAGES + 3
        peer.send(*(text(str(n)) for n in range(count)))
        assert [peer.read_text() for _ in range(count)] == [str(n) for n in range(count)]


# ---------------------------------------------------------------------- every message in every state

STATES = ("CONNECTING", "DENYING", "OPEN", "CLOSING", "DENIED", "GONE")
SEND = {"type": "websocket.send", "text": "x"}
CLOSE: Message = {"type": "websocket.close"}
START = {"type": "websocket.http.response.start", "status": 404}
BODY = {"type": "websocket.http.response.body"}

R, D = RuntimeError, DisconnectedError
TABLE: dict[str, tuple[Any, ...]] = {
    # by state, as in STATES; None: it is taken
    "accept": (ACCEPT, None, R, R, D, D, D),
    "send": (SEND, R, R, None, D, D, D),
    "close": (CLOSE, None, R, None, None, None, None),
    "start": (START, None, R, R, D, D, D),
    "body": (BODY, R, None, R, D, D, D),
    "unknown": ({"type": "websocket.noise"}, *[ValueError] * 6),
    "http": ({"type": "http.response.start", "status": 200}, *[ValueError] * 6),
    "no type": ({"text": "x"}, *[ValueError] * 6),
    "no dict": ("websocket.accept", *[ValueError] * 6),
}


@pytest.mark.parametrize("kind", TABLE)
@pytest.mark.parametrize("state", STATES)
def test_every_message_in_every_state(kind: str, state: str) -> None:
    notes = Notes()
    message, *outcomes = TABLE[kind]
    expected = outcomes[STATES.index(state)]

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await receive()
        if state == "DENYING":
            await send(START)
        elif state == "DENIED":
            await send(CLOSE)
        elif state != "CONNECTING":
            await send(ACCEPT)
            if state == "CLOSING":
                await send(CLOSE)
            elif state == "GONE":
                assert (await receive())["type"] == "websocket.disconnect"
        try:
            await send(message)
        except Exception as error:
            notes.put(error)
        else:
            notes.put(None)

    with WAYS["thread"](app) as server, peer_of(server) as peer:
        peer.send(wire.request("/"))
        if state == "GONE":
            peer.read_answer()
            peer.reset()
        found = notes.next()
    if expected is None:
        assert found is None
    else:
        assert type(found) is expected, found
        assert str(found), "it says nothing"


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"type": "websocket.send"}, ValueError),
        ({"type": "websocket.send", "text": None, "bytes": None}, ValueError),
        ({"type": "websocket.send", "text": "a", "bytes": b"b"}, ValueError),
        ({"type": "websocket.send", "text": b"a"}, TypeError),
        ({"type": "websocket.send", "bytes": "a"}, TypeError),
        ({"type": "websocket.send", "text": "\ud800"}, ValueError),
        ({"type": "websocket.close", "code": 1006}, InvalidCloseCodeError),
        ({"type": "websocket.close", "reason": "x" * 124}, InvalidCloseCodeError),
    ],
)
def test_what_cannot_be_sent_is_an_error_and_the_connection_goes_on(message: Message, error: type[Exception]) -> None:
    notes = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await send(ACCEPT)
        try:
            await send(message)
        except Exception as found:
            notes.put(found)
        await send(SEND)

    with WAYS["thread"](app) as server, peer_of(server) as peer:
        peer.upgrade("/")
        assert isinstance(notes.next(), error)
        assert peer.read_text() == "x"


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({**ACCEPT, "subprotocol": "three"}, ValueError),
        ({**ACCEPT, "headers": [(b"sec-websocket-protocol", b"one")]}, InvalidHeaderError),
        ({**ACCEPT, "headers": [(b"x", b"a\r\nb: c")]}, InvalidHeaderError),
        ({**START, "status": 101}, ValueError),
        ({"type": "websocket.http.response.start"}, ValueError),
        ({**START, "headers": [(b"x", b"a\r\nb: c")]}, InvalidHeaderError),
    ],
)
def test_an_answer_that_cannot_be_sent_leaves_the_upgrade_waiting(message: Message, error: type[Exception]) -> None:
    notes = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        try:
            await send(message)
        except Exception as found:
            notes.put(found)
        await send({**ACCEPT, "subprotocol": "one"})

    with WAYS["thread"](app) as server, peer_of(server) as peer:
        assert peer.ask(wire.request("/", "Sec-WebSocket-Protocol: one, two")).status == 101
        assert isinstance(notes.next(), error)


# ---------------------------------------------------------------------- refusals


def test_close_before_accept_is_403(serve: Serve) -> None:
    notes = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send({"type": "websocket.close", "code": 4000, "reason": "secret"})
        notes.put(await receive())

    with serve(app) as server, peer_of(server) as peer:
        peer.send(wire.request("/"))
        answer, body = peer.read_answer()
        assert answer.status == 403
        assert b"secret" not in body
        assert peer.read_end() == "FIN"
        assert notes.next() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        assert server.traffic.refusals[403] == 1


def test_a_denial_that_the_application_writes(serve: Serve) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        assert "websocket.http.response" in scope["extensions"]
        await send({**START, "status": 401, "headers": [(b"www-authenticate", b"Basic")]})
        await send({**BODY, "body": b"one ", "more_body": True})
        await asyncio.sleep(0)
        await send({**BODY, "body": b"two"})

    with serve(app) as server, peer_of(server) as peer:
        answer = peer.ask(wire.request("/"))
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Basic"
        assert answer.headers["transfer-encoding"] == "chunked"


def test_a_denial_waits_for_a_slow_peer(serve: Serve) -> None:
    notes = Notes()
    piece = b"x" * 1_000_000

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await send({**START, "headers": [(b"content-length", b"%d" % (16 * len(piece)))]})
        for n in range(16):
            await send({**BODY, "body": piece, "more_body": n < 15})
            notes.put(n)

    with serve(app) as server, peer_of(server) as peer:
        peer.send(wire.request("/"))
        notes.next()
        [stream] = [each for each in server.loop.streams if isinstance(each, Stream)]
        wait_until(lambda: stream.queued > 262144)
        assert notes.qsize() < 15
        answer, body = peer.read_answer()
        assert (answer.status, len(body)) == (404, 16 * len(piece))


@pytest.mark.parametrize(
    ("headers", "status"),
    [(("Sec-WebSocket-Version: 12",), 426), (("Sec-WebSocket-Protocol: a, a",), 400), (("Sec-WebSocket-Key: x",), 400)],
)
def test_what_is_no_upgrade_never_comes_to_the_application(headers: tuple[str, ...], status: int) -> None:
    called = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            called.put(scope)

    with WAYS["thread"](app) as server, peer_of(server) as peer:
        assert peer.ask(wire.request("/", *headers)).status == status
    assert called.empty()


def test_the_origin_is_the_applications_concern_unless_the_server_is_told() -> None:
    with WAYS["thread"](echo) as server, peer_of(server) as peer:
        peer.upgrade("/", "Origin: https://elsewhere.example")
    options = AcceptOptions(check_origin=lambda request: request.headers.get("origin") == "https://here.example")
    with WAYS["thread"](echo, options=options) as server:
        with peer_of(server) as peer:
            assert peer.ask(wire.request("/", "Origin: https://elsewhere.example")).status == 403
        with peer_of(server) as peer:
            peer.upgrade("/", "Origin: https://here.example")


def test_the_options_of_the_server_apply() -> None:
    options = AcceptOptions(compression=True, min_compress_size=1, max_message_size=1000)
    with WAYS["thread"](echo, options=options) as server, peer_of(server) as peer:
        answer = peer.upgrade("/", wire.DEFLATE)
        assert "permessage-deflate" in answer.headers["sec-websocket-extensions"]
        peer.send(text("x" * 500))
        assert peer.read().rsv == 4
        peer.send(text("x" * 1001))
        peer.expect_close(1009)


# ---------------------------------------------------------------------- how it ends


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        (wire.close(1000), 1000, ""),
        (wire.close(4001, "böse"), 4001, "böse"),
        (wire.close(), 1005, ""),
        (wire.frame(3), 1002, None),
        (wire.frame(wire.TEXT, b"\xff"), 1007, None),
    ],
)
def test_what_the_application_is_told_of_the_end(serve: Serve, sent: bytes, code: int, reason: str | None) -> None:
    notes = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await send(ACCEPT)
        assert (await receive())["type"] == "websocket.connect"
        assert (await receive())["text"] == "last"
        notes.put(await receive())
        notes.put(await receive())  # and again

    with serve(app) as server, peer_of(server) as peer:
        peer.upgrade("/")
        peer.send(text("last"), sent)
        told = notes.next()
        assert told["type"] == "websocket.disconnect"
        assert told["code"] == code
        assert reason is None or told["reason"] == reason
        assert notes.next() == told


def test_a_lost_connection_is_1006(serve: Serve) -> None:
    notes = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send(ACCEPT)
        notes.put(await receive())
        notes.put(await receive())

    with serve(app) as server:
        peer = peer_of(server)
        peer.upgrade("/")
        peer.send(text("a"))
        assert notes.next()["text"] == "a"
        peer.reset()
        assert notes.next()["code"] == 1006


def test_the_application_closes(serve: Serve) -> None:
    notes = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send(ACCEPT)
        await send({**CLOSE, "code": 4002, "reason": "enough"})
        await send({**CLOSE, "code": 4003})
        notes.put(await receive())

    with serve(app) as server, peer_of(server) as peer:
        peer.upgrade("/")
        peer.send(text("too late"))
        found = peer.read()
        assert (found.close_code, found.reason) == (4002, "enough")
        peer.send(wire.close(4002))
        assert notes.next()["code"] == 4002
        assert peer.read_end() == "FIN"


def test_returning_closes_with_1000(serve: Serve) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await send(ACCEPT)

    with serve(app) as server, peer_of(server) as peer:
        peer.upgrade("/")
        assert peer.read().close_code == 1000


@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
def test_raising_closes_with_1011_and_is_logged(serve: Serve, late: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await send(ACCEPT)
        if late:
            await asyncio.sleep(0)
        raise ZeroDivisionError("of the application")

    with serve(app) as server, peer_of(server) as peer:
        peer.upgrade("/")
        assert peer.read()[:2] == (wire.CLOSE, (1011).to_bytes(2, "big"))
    assert "of the application" in caplog.text


@pytest.mark.parametrize("how", ["returns", "raises", "denies"])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
def test_ending_before_accept_is_500(how: str, late: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        if late:
            await asyncio.sleep(0)
        if how == "raises":
            raise ZeroDivisionError("of the application")
        if how == "denies":  # without a body
            await send(START)

    with WAYS["thread"](app) as server, peer_of(server) as peer:
        assert peer.ask(wire.request("/")).status == 500
    assert any(record.levelno == logging.ERROR for record in caplog.records)


def test_a_denial_that_is_cut_off_is_not_taken_for_the_whole() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await send(START)
        await send({**BODY, "body": b"half", "more_body": True})

    with WAYS["thread"](app) as server, peer_of(server) as peer:
        peer.send(wire.request("/"))
        assert peer.drain() == "RST"


# ---------------------------------------------------------------------- peers and applications that behave badly


@pytest.mark.parametrize("how", ["reset", "FIN", "half-close"])
def test_a_client_that_goes_before_accept(serve: Serve, how: str) -> None:
    notes = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        notes.put(await receive())
        notes.put(await receive())
        try:
            await send(ACCEPT)
        except OSError as error:
            notes.put(error)

    with serve(app) as server:
        peer = peer_of(server)
        peer.send(wire.request("/"))
        assert notes.next() == {"type": "websocket.connect"}
        if how == "half-close":
            peer.sock.shutdown(1)
        elif how == "FIN":
            peer.close()
        else:
            peer.reset()
        assert notes.next() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        assert isinstance(notes.next(), DisconnectedError)
        peer.close()


def test_a_client_that_talks_before_the_101_is_refused() -> None:
    notes = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await receive()
        try:
            await send(ACCEPT)
        except OSError as error:
            notes.put(error)
        notes.put(await receive())

    with WAYS["thread"](app) as server, peer_of(server) as peer:
        assert peer.ask(wire.request("/") + text("hasty")).status == 400
        assert isinstance(notes.next(), DisconnectedError)
        assert notes.next()["code"] == 1006


def test_an_application_that_never_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    monkeypatch.setattr(websocket, "ACCEPT_TIMEOUT", 0.05)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await receive()
        notes.put(await receive())

    with WAYS["thread"](app) as server, peer_of(server) as peer:
        assert peer.ask(wire.request("/")).status == 503
        assert notes.next()["code"] == 1006


def test_a_peer_that_floods_is_not_read_from(serve: Serve) -> None:
    notes, go_on = Notes(), Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send(ACCEPT)
        await asyncio.to_thread(go_on.next)
        count = 0
        while (await receive())["type"] == "websocket.receive":
            count += 1
        notes.put(count)

    with serve(app) as server, peer_of(server) as peer:
        peer.upgrade("/")
        piece = text("x" * 1000) * 100
        peer.sock.settimeout(0.5)
        sent = 0
        try:
            while sent < 1000:
                peer.send(piece)
                sent += 1
        except TimeoutError:
            pass
        assert sent < 1000
        [ws] = [each for each in server.connections if isinstance(each, gows.WebSocket)]
        handler: Any = ws.handler
        assert len(handler._queue) <= websocket.QUEUE_MESSAGES
        peer.reset()
        go_on.put(None)
        assert 0 < notes.next() <= 100 * (sent + 1)


def test_large_messages_wait_by_their_bytes() -> None:
    notes, go_on = Notes(), Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send(ACCEPT)
        await asyncio.to_thread(go_on.next)
        for _ in range(8):
            notes.put(len((await receive())["bytes"]))

    with WAYS["thread"](app) as server, peer_of(server) as peer:
        peer.upgrade("/")
        peer.send(*[wire.frame(wire.BINARY, bytes(websocket.QUEUE_BYTES))] * 8)
        [ws] = [each for each in server.connections if isinstance(each, gows.WebSocket)]
        handler: Any = ws.handler
        wait_until(lambda: handler._room is not None)
        assert len(handler._queue) == 1
        go_on.put(None)
        assert [notes.next() for _ in range(8)] == [websocket.QUEUE_BYTES] * 8


def test_sending_waits_for_a_peer_that_does_not_read(serve: Serve) -> None:
    notes = Notes()
    options = AcceptOptions(high_water=65536, low_water=1000)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await send(ACCEPT)
        for n in range(200):
            await send({"type": "websocket.send", "bytes": bytes(100_000)})
            notes.put(n)

    with serve(app, options=options) as server, RawPeer(address_of(server), receive_buffer=4096) as peer:
        peer.upgrade("/")
        notes.next()
        [ws] = [each for each in server.connections if isinstance(each, gows.WebSocket)]
        wait_until(lambda: ws.buffered > 65536)
        assert ws.buffered < 300_000
        for _ in range(200):
            assert len(peer.read().payload) == 100_000
        assert server.overflow.counts["refused"] == 0


def test_sending_to_one_who_has_gone_is_an_os_error(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await send(ACCEPT)
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(100_000)})
        except OSError as error:
            notes.put(error)
            raise

    with serve(app) as server:
        peer = peer_of(server)
        peer.upgrade("/")
        peer.reset()
        assert isinstance(notes.next(), DisconnectedError)
    assert "of the application" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_an_application_that_does_not_notice_the_end_keeps_nobody_from_their_turns(serve: Serve) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/echo":
            await echo(scope, receive, send)
            return
        assert scope["type"] == "websocket"
        await send(ACCEPT)
        while True:
            await receive()

    async def no_lifespan(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await app(scope, receive, send)

    with serve(no_lifespan, timeout=0.3) as server, peer_of(server) as peer:
        deaf = peer_of(server)
        deaf.upgrade("/deaf")
        deaf.reset()
        peer.upgrade("/echo")
        for n in range(20):
            peer.send(text(str(n)))
            assert peer.read_text() == str(n)


def test_two_tasks_may_not_receive_at_once() -> None:
    notes = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send(ACCEPT)
        first = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        try:
            await receive()
        except RuntimeError as error:
            notes.put(error)
        notes.put(await first)

    with WAYS["thread"](app) as server, peer_of(server) as peer:
        peer.upgrade("/")
        assert isinstance(notes.next(), RuntimeError)
        peer.send(text("for the first"))
        assert notes.next()["text"] == "for the first"


def test_a_receive_that_is_cancelled_loses_nothing(serve: Serve) -> None:
    notes = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send(ACCEPT)
        for _ in range(20):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(receive(), 0.001)
        notes.put("now")
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        while not notes.empty():
            await asyncio.sleep(0)
        connection: Any = receive.__self__  # type: ignore[attr-defined]
        while not (connection._queue or waiting.done()):  # it came, and perhaps the task did not run yet
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        got = await receive() if waiting.cancelled() else waiting.result()
        notes.put(got)

    with serve(app) as server, peer_of(server) as peer:
        peer.upgrade("/")
        assert notes.next() == "now"
        peer.send(text("once"))
        assert notes.next()["text"] == "once"


@pytest.mark.parametrize("where", ["before accept", "receiving", "sleeping", "sending", "flooded", "deaf"])
def test_a_stop_leaves_nothing(serve: Serve, where: str) -> None:
    """`serve` looks at the tasks that are left, and conftest.py at streams, buffers and threads."""
    notes = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await receive()
        notes.put(None)
        if where == "before accept":
            await asyncio.sleep(3600)
        await send(ACCEPT)
        if where == "receiving":
            while (await receive())["type"] != "websocket.disconnect":
                pass
        while where == "sending":
            await send({"type": "websocket.send", "bytes": bytes(100_000)})
        while where == "deaf":
            await receive()
        await asyncio.sleep(3600)

    with serve(app, timeout=0.3) as server:
        peers = [peer_of(server) for _ in range(3)]
        for peer in peers:
            peer.send(wire.request("/"))
            notes.next()
            if where != "before accept":
                peer.read_answer()
            if where == "flooded":
                peer.send(text("x") * 1000)
    for peer in peers:
        peer.close()


def test_context_variables_and_the_current_task_are_those_of_one_connection(serve: Serve) -> None:
    notes = Notes()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        before = asyncio.current_task()
        await send(ACCEPT)
        await receive()
        await receive()
        notes.put(asyncio.current_task() is before)

    with serve(app) as server, peer_of(server) as peer:
        peer.upgrade("/")
        peer.send(text("x"))
        assert notes.next() is True
