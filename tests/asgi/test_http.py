"""HTTP of ASGI on the wire: every message, at every moment, in each way of serving."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import gows
from gows.http.connection import HttpConnection
from tests.asgi.conftest import MakeSite
from tests.support.asgi_site import AsgiSite, HttpPeer, answer, get
from tests.support.waiting import wait_until

START = {"type": "http.response.start", "status": 200, "headers": []}
END = {"type": "http.response.body"}


def start(*headers: tuple[bytes, bytes], **fields: Any) -> dict[str, Any]:
    return START | {"headers": list(headers)} | fields


def body(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def sends(*messages: Any) -> Callable[..., Any]:
    """An application that sends these messages."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body, piece by piece as it comes."""
    await send(START)
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
        await send(body(message["body"], more))


async def count(scope: Any, receive: Any, send: Any) -> None:
    """Answers how many bytes have come."""
    size, more = 0, True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        size, more = size + len(message["body"]), message["more_body"]
    await answer(b"%d" % size)(scope, receive, send)


class Waits:
    """An application that takes some steps, and then waits until it is let go on."""

    def __init__(self, *messages: Any, reads: bool = False) -> None:
        self.messages = messages
        self.reads = reads  # else it sleeps
        self.called = threading.Event()
        self.received: list[Any] = []
        self.ended: list[str] = []
        self.go_on: asyncio.Event | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.go_on = asyncio.Event()
        self.aloop = asyncio.get_running_loop()
        for message in self.messages:
            await send(message)
        self.called.set()
        try:
            if self.reads:
                while not self.received or self.received[-1]["type"] != "http.disconnect":
                    self.received.append(await receive())
            else:
                await self.go_on.wait()
            await self.then(scope, receive, send)
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        self.ended.append("returned")

    async def then(self, scope: Any, receive: Any, send: Any) -> None:
        """What comes after the wait."""

    def wait(self) -> None:
        assert self.called.wait(5.0)

    def release(self) -> None:
        assert self.go_on is not None
        self.aloop.call_soon_threadsafe(self.go_on.set)


def connections_of(site: AsgiSite) -> list[HttpConnection]:
    streams = [getattr(stream, "observer", None) for stream in list(site.server.loop.streams)]
    return [each for each in streams if isinstance(each, HttpConnection)]


# ---------------------------------------------------------------------- answers


def test_an_answer_in_one_piece_has_a_length(serve: MakeSite) -> None:
    with serve(answer(b"hello", headers=[(b"content-type", b"text/plain")])) as site, site.peer() as peer:
        for _ in range(3):
            peer.send(get())
            status, headers, data, _ = peer.answer()
            assert (status, data) == (200, b"hello")
            assert (headers["content-type"], headers["content-length"]) == ("text/plain", "5")
            assert "date" in headers
            assert "connection" not in headers


def test_an_answer_in_pieces_is_chunked(serve: MakeSite) -> None:
    with serve(answer(b"a", b"", b"b" * 100_000, b"c")) as site, site.peer() as peer:
        peer.send(get(), get())
        for _ in range(2):
            found = peer.answer()
            assert found.headers["transfer-encoding"] == "chunked"
            assert found.body == b"a" + b"b" * 100_000 + b"c"


def test_to_http_1_0_the_end_of_the_connection_is_the_end(serve: MakeSite) -> None:
    with serve(answer(b"a", b"b")) as site, site.peer() as peer:
        peer.send(get("/", "Connection: keep-alive", version="HTTP/1.0"))
        found = peer.answer()
        assert (found.body, found.headers["connection"]) == (b"ab", "close")
        assert "transfer-encoding" not in found.headers


def test_http_1_0_may_be_kept(serve: MakeSite) -> None:
    with serve(answer(b"ab")) as site, site.peer() as peer:
        for _ in range(2):
            peer.send(get("/", "Connection: keep-alive", version="HTTP/1.0"))
            found = peer.answer()
            assert (found.body, found.headers["connection"]) == (b"ab", "keep-alive")


def test_a_length_of_the_applications_is_kept(serve: MakeSite) -> None:
    with serve(answer(b"ab", b"c", headers=[(b"Content-Length", b"3")])) as site, site.peer() as peer:
        peer.send(get(), get())
        for _ in range(2):
            found = peer.answer()
            assert (found.headers["content-length"], found.body) == ("3", b"abc")
            assert "transfer-encoding" not in found.headers


@pytest.mark.parametrize("pieces", [(b"abc",), (b"ab", b"c")])
def test_head_has_no_body(serve: MakeSite, pieces: tuple[bytes, ...]) -> None:
    with serve(answer(*pieces, headers=[(b"content-length", b"3")])) as site, site.peer() as peer:
        for _ in range(2):
            peer.send(get(method="HEAD"))
            assert peer.answer(head=True).headers["content-length"] == "3"


def test_head_without_a_length(serve: MakeSite) -> None:
    with serve(answer(b"abc", b"d")) as site, site.peer() as peer:
        peer.send(get(method="HEAD"), get())
        assert peer.answer(head=True).headers["transfer-encoding"] == "chunked"
        assert peer.answer().body == b"abcd"
    with serve(sends(START, END)) as site:
        assert "content-length" not in site.fetch(get(method="HEAD")).headers


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body(serve: MakeSite, status: int) -> None:
    headers = [(b"content-length", b"3")]
    with serve(answer(b"abc", status=status, headers=headers)) as site, site.peer() as peer:
        peer.send(get(), get())
        for _ in range(2):
            found = peer.answer()
            assert (found.status, found.headers.get("content-length")) == (status, None if status == 204 else "3")
            assert "transfer-encoding" not in found.headers


def test_connection_close_of_either_side(serve: MakeSite) -> None:
    with serve(answer(b"a", headers=[(b"connection", b"close")])) as site, site.peer() as peer:
        peer.send(get(), get())
        assert peer.answer().headers["connection"] == "close"
        assert peer.read_end() == "FIN"
    with serve(answer(b"a")) as site, site.peer() as peer:
        peer.send(get("/", "Connection: close"))
        assert peer.answer().headers["connection"] == "close"
        assert peer.read_end() == "FIN"


@pytest.mark.slow
def test_many_pipelined_requests_are_answered_in_order(serve: MakeSite) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].endswith("7"):
            await asyncio.sleep(0)
        await answer(scope["path"].encode())(scope, receive, send)

    with serve(app) as site, site.peer() as peer:
        peer.send(*(get(f"/{number}") for number in range(2000)))
        for number in range(2000):
            assert peer.answer().body == b"/%d" % number


def test_pipelined_bodies(serve: MakeSite) -> None:
    with serve(echo) as site, site.peer() as peer:
        bodies = [b"%d" % number * number for number in range(200)]
        peer.send(*(get(method="POST", body=each) for each in bodies))
        assert [peer.answer().body for _ in bodies] == bodies


def test_large_heads(serve: MakeSite) -> None:
    value = b"x" * 60_000
    with serve(answer(b"a", headers=[(b"x-large", value)] * 3), max_head_size=200_000) as site:
        found = site.fetch(get("/", "X-Large: " + "y" * 150_000))
        assert found.headers["x-large"] == value.decode()


def test_trailers_for_those_who_ask(serve: MakeSite) -> None:
    trailers = {"type": "http.response.trailers", "headers": [(b"x-sum", b"7")], "more_trailers": True}
    last = {"type": "http.response.trailers", "headers": [(b"x-more", b"8")]}
    app = sends(start(trailers=True), body(b"a"), body(b"b", False), trailers, last)
    with serve(app) as site, site.peer() as peer:
        for fields, expected in ((("TE: trailers",), {"x-sum": "7", "x-more": "8"}), ((), {})):
            peer.send(get("/", *fields))
            found = peer.answer()
            assert (found.body, found.trailers) == (b"ab", expected)
        peer.send(get("/", "TE: trailers", version="HTTP/1.0"))
        assert peer.answer().body == b"ab"


def test_early_hints(serve: MakeSite) -> None:
    hint = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]}
    with serve(sends(hint, START, body(b"a", False))) as site, site.peer() as peer:
        peer.send(get())
        found = peer.answer()
        assert (found.status, found.headers) == (103, {"link": "</b.js>; rel=preload"})
        assert peer.answer().body == b"a"
        peer.send(get(version="HTTP/1.0"))
        assert peer.answer().status == 200


@pytest.mark.parametrize("size", [0, 10, 1_000_000])
def test_files(serve: MakeSite, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    message = {"type": "http.response.pathsend", "path": str(path)}
    for headers in ([], [(b"content-length", b"%d" % size)]):
        with serve(sends(start(*headers), message)) as site, site.peer() as peer:
            for _ in range(2):
                peer.send(get())
                assert peer.answer().body == b"x" * size


def test_a_file_that_is_not_there(serve: MakeSite) -> None:
    with serve(sends(START, {"type": "http.response.pathsend", "path": "/does/not/exist"})) as site:
        assert site.fetch(get()).status == 500
        assert site.faults.take() == ["GET /: the ASGI application failed"]


# ---------------------------------------------------------------------- bodies of requests


def test_a_body_comes_back(serve: MakeSite) -> None:
    data = bytes(range(256)) * 4000
    with serve(echo) as site:
        assert site.fetch(get(method="POST", body=b"short")).body == b"short"
        assert site.fetch(get(method="POST", body=data)).body == data


def test_a_chunked_body_byte_by_byte(serve: MakeSite) -> None:
    wire = get("/", "Transfer-Encoding: chunked", method="POST")
    wire += b"5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nX-Trailer: 1\r\n\r\n" + get()
    with serve(count) as site, site.peer() as peer:
        for byte in wire:
            peer.send(bytes([byte]))
        assert peer.answer().body == b"6"
        assert peer.answer().body == b"0"


def test_the_application_is_called_before_the_body_comes(serve: MakeSite) -> None:
    with serve(echo) as site, site.peer() as peer:
        peer.send(get("/", "Content-Length: 6", method="POST"))
        peer.send(b"abc")
        status, headers = peer.head()
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        assert peer.chunk() == b"abc"
        peer.send(b"def")
        assert peer.chunk() + peer.chunk() == b"def"


def test_no_body_is_one_empty_piece(serve: MakeSite) -> None:
    found: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(await receive())
        await answer(b"a")(scope, receive, send)
        found.append(await receive())
        found.append(await receive())

    with serve(app) as site:
        assert site.fetch(get()).body == b"a"
        wait_until(lambda: len(found) == 3)
    assert found == [{"type": "http.request", "body": b"", "more_body": False}, *[{"type": "http.disconnect"}] * 2]


@pytest.mark.slow
def test_a_body_of_any_size_is_taken_unless_there_is_a_limit(serve: MakeSite) -> None:
    data = b"x" * 3_000_000
    chunked = get("/", "Transfer-Encoding: chunked", method="POST") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
    with serve(count) as site:
        assert site.fetch(get(method="POST", body=data)).body == b"3000000"
        assert site.fetch(chunked).body == b"3000000"
    with serve(answer(b"never"), max_body_size=100_000) as site:
        assert site.fetch(get("/", "Content-Length: 100001", method="POST")).status == 413
    with serve(count, max_body_size=3_000_000) as site:
        assert site.fetch(chunked).body == b"3000000"


def test_a_chunked_body_that_becomes_too_large(serve: MakeSite) -> None:
    app = Waits(reads=True)
    with serve(app, max_body_size=100_000) as site, site.peer() as peer:
        peer.send(get("/", "Transfer-Encoding: chunked", method="POST"), b"f000\r\n", b"x" * 0xF000, b"\r\n")
        app.wait()
        peer.send(b"f000\r\n", b"x" * 0xF000, b"\r\n")
        assert peer.answer().status == 413
        wait_until(lambda: app.ended)
        assert app.received[-1] == {"type": "http.disconnect"}


@pytest.mark.parametrize("begun", [False, True])
def test_a_malformed_chunk(serve: MakeSite, begun: bool) -> None:
    app = Waits(*([START, body(b"a")] if begun else []), reads=True)
    with serve(app) as site, site.peer() as peer:
        peer.send(get("/", "Transfer-Encoding: chunked", method="POST"))
        app.wait()
        peer.send(b"zzz\r\n")
        if begun:
            assert peer.ended() == "RST"
        else:
            assert peer.answer().status == 400
        wait_until(lambda: app.ended == ["returned"])


def test_continue_is_sent_when_the_body_is_asked_for(serve: MakeSite) -> None:
    app = Waits()
    app.then = count  # type: ignore[method-assign]
    with serve(app) as site, site.peer() as peer:
        peer.send(get("/", "Expect: 100-continue", "Content-Length: 3", method="POST"))
        app.wait()
        peer.sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            peer.sock.recv(1)
        peer.sock.settimeout(5.0)
        app.release()
        assert peer.answer().status == 100
        peer.send(b"abc")
        assert peer.answer().body == b"3"


def test_continue_is_not_sent_to_one_that_is_refused(serve: MakeSite) -> None:
    with serve(answer(b"no", status=403)) as site, site.peer() as peer:
        peer.send(get("/", "Expect: 100-continue", "Content-Length: 3", method="POST"))
        found = peer.answer()
        assert (found.status, found.headers["connection"]) == (403, "close")
        assert peer.read_end() == "FIN"


def test_continue_is_not_sent_when_the_body_has_come(serve: MakeSite) -> None:
    with serve(count) as site, site.peer() as peer:
        peer.send(get("/", "Expect: 100-continue", method="POST", body=b"abc"))
        assert peer.answer().body == b"3"


def test_a_body_that_nobody_reads(serve: MakeSite) -> None:
    with serve(answer(b"a")) as site, site.peer() as peer:
        peer.send(get("/", "Content-Length: 200000", method="POST"))
        assert peer.answer().body == b"a"
        peer.send(b"x" * 200_000, get())
        assert peer.answer().body == b"a"
        peer.send(get("/", "Content-Length: 20000000", method="POST"))
        assert peer.answer().body == b"a"
        with pytest.raises(OSError):  # noqa: PT011 - of which kind depends on the moment
            peer.send(b"x" * 19_999_999)


@pytest.mark.slow
def test_a_slow_application_is_sent_no_more_than_it_takes(serve: MakeSite) -> None:
    app = Waits()
    app.then = count  # type: ignore[method-assign]
    size = 64 << 20
    with serve(app) as site, site.peer() as peer:
        peer.send(get("/", f"Content-Length: {size}", method="POST"))
        app.wait()
        sent = 0
        peer.sock.settimeout(0.2)
        try:
            while sent < size:
                sent += peer.sock.send(b"x" * 65536)
        except TimeoutError:
            pass
        assert sent < size
        (connection,) = connections_of(site)
        assert site.server.receiving.total <= 65536 + len(site.server.loop.scratch)
        assert connection.stream.queued == 0
        app.release()
        peer.sock.settimeout(10.0)
        while sent < size:
            sent += peer.sock.send(b"x" * min(65536, size - sent))
        assert peer.answer().body == b"%d" % size
        assert site.server.receiving.total == 0


# ---------------------------------------------------------------------- slow readers


@pytest.mark.slow
@pytest.mark.parametrize("taken", [True, False], ids=["taken", "ignored"])
@pytest.mark.parametrize("size", [70_000, 200_000, 600_000])
def test_a_body_that_comes_at_once_does_not_end_the_reading(serve: MakeSite, size: int, taken: bool) -> None:
    """Its last piece is more than what may wait unread, and complete."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = taken
        while more:
            more = (await receive())["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    with serve(app) as site, site.peer() as peer:
        for _ in range(3):
            site.server.loop.call_soon(time.sleep, 0.1)  # so that all of it waits in the kernel
            peer.send(get("/", method="POST", body=bytes(size)))
            if not taken and size > 500_000:  # too much to be read for nothing
                return
            assert peer.answer().body == b"ok"


def test_send_waits_for_a_slow_reader(serve: MakeSite) -> None:
    sent = [0]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(640):
            await send(body(b"x" * 100_000))
            sent[0] += 100_000
        await send(END)

    with serve(app) as site, site.peer(receive_buffer=65536) as peer:
        peer.send(get())
        assert peer.head()[0] == 200
        (connection,) = connections_of(site)
        wait_until(lambda: connection.stream.queued > 262144)
        before = -1
        while before != sent[0]:
            before = sent[0]
            threading.Event().wait(0.05)
        assert sent[0] < 64_000_000
        assert connection.stream.queued <= 262144 + 100_020
        assert site.fetch(get("/", method="HEAD")).status == 200  # others are served
        size = 0
        while piece := peer.chunk():
            size += len(piece)
        assert size == 64_000_000


@pytest.mark.slow
def test_a_fast_reader_does_not_keep_others_from_their_turn() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/other":
            await answer(b"other")(scope, receive, send)
            return
        await send(START)
        for _ in range(300):
            await send(body(b"x" * 1_000_000))
        await send(END)

    with AsgiSite(app) as site, site.peer() as peer:
        peer.send(get())
        reader = threading.Thread(target=lambda: [None for _ in iter(peer.chunk, b"")])
        assert peer.head()[0] == 200
        reader.start()
        assert site.fetch(get("/other")).body == b"other"
        assert reader.is_alive()
        reader.join(20.0)


# ---------------------------------------------------------------------- clients that go


@pytest.mark.parametrize("leave", [HttpPeer.close, HttpPeer.reset])
@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_goes_while_the_application_works(
    serve: MakeSite, begun: bool, leave: Callable[[HttpPeer], None]
) -> None:
    app = Waits(*([START, body(b"a")] if begun else []), reads=True)
    with serve(app) as site:
        with site.peer() as peer:
            peer.send(get())
            app.wait()
            leave(peer)
            wait_until(lambda: app.ended)
        assert [message["type"] for message in app.received] == ["http.request", "http.disconnect"]
        wait_until(lambda: not connections_of(site))


def test_a_client_that_goes_amid_its_body(serve: MakeSite) -> None:
    app = Waits(reads=True)
    with serve(app) as site:
        with site.peer() as peer:
            peer.send(get("/", "Content-Length: 10", method="POST"), b"abc")
            app.wait()
        wait_until(lambda: app.ended)
        first, *_, last = app.received
        assert (first["more_body"], last["type"]) == (True, "http.disconnect")


def test_to_send_to_a_client_that_has_gone_is_an_oserror(serve: MakeSite) -> None:
    app = Waits(START, body(b"a"))

    async def then(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(1000):
            await send(body(b"x" * 1000))
            await asyncio.sleep(0.005)

    app.then = then  # type: ignore[method-assign]
    with serve(app) as site:
        with site.peer() as peer:
            peer.send(get())
            app.wait()
            peer.reset()
        app.release()
        wait_until(lambda: app.ended == ["DisconnectedError"])
        assert issubclass(gows.DisconnectedError, OSError)


def test_a_client_that_goes_while_send_waits(serve: MakeSite) -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            while True:
                await send(body(b"x" * 100_000))
        except OSError as error:
            ended.append(type(error).__name__)
            raise RuntimeError("because of it") from error  # as Starlette does

    with serve(app) as site:
        with site.peer() as peer:
            peer.send(get())
            wait_until(lambda: any(each.stream.queued > 262144 for each in connections_of(site)))
        wait_until(lambda: ended == ["DisconnectedError"])


def test_a_client_that_closes_its_side_still_gets_the_answer(serve: MakeSite) -> None:
    app = Waits()
    app.then = answer(b"late")  # type: ignore[method-assign]
    with serve(app) as site, site.peer() as peer:
        peer.send(get())
        app.wait()
        peer.sock.shutdown(1)
        app.release()
        assert peer.answer().body == b"late"
        assert peer.read_end() == "FIN"


# ---------------------------------------------------------------------- applications that fail


def raising(*messages: Any) -> Callable[..., Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await sends(*messages)(scope, receive, send)
        raise RuntimeError("the application's own fault")

    return app


async def late(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0.01)
    raise SystemExit("at the wrong place")


NOTHING_SENT: dict[str, tuple[Any, str]] = {
    "raises": (raising(), "failed"),
    "raises after start": (raising(START), "failed"),
    "raises later": (late, "failed"),
    "returns": (sends(), "returned without an answer"),
    "returns after start": (sends(START), "returned without an answer"),
    "too much": (sends(start((b"content-length", b"1")), body(b"ab", False)), "failed"),
}
AMID: dict[str, tuple[Any, str]] = {
    "raises": (raising(START, body(b"a")), "failed"),
    "returns": (sends(START, body(b"a")), "returned amid its answer"),
    "too little": (sends(start((b"content-length", b"3")), body(b"a"), body(b"b", False)), "failed"),
    "too much": (sends(start((b"content-length", b"3")), body(b"a"), body(b"bcd")), "failed"),
    "no trailers": (sends(start(trailers=True), body(b"a", False)), "returned amid its answer"),
}


@pytest.mark.parametrize("name", NOTHING_SENT)
def test_a_failure_before_anything_was_sent(serve: MakeSite, name: str) -> None:
    app, what = NOTHING_SENT[name]
    with serve(app) as site, site.peer() as peer:
        peer.send(get("/page"))
        assert peer.answer().status == 500
        assert peer.read_end() == "FIN"
        assert site.faults.take() == [f"GET /page: the ASGI application {what}"]


@pytest.mark.parametrize("name", AMID)
def test_a_failure_amid_the_answer(serve: MakeSite, name: str) -> None:
    app, what = AMID[name]
    with serve(app) as site, site.peer() as peer:
        peer.send(get())
        assert peer.ended() == "RST"
        wait_until(lambda: site.faults.messages)
        assert site.faults.take() == [f"GET /: the ASGI application {what}"]


def test_a_failure_after_the_answer_is_logged_only(serve: MakeSite) -> None:
    with serve(raising(START, body(b"a", False))) as site, site.peer() as peer:
        for _ in range(2):
            peer.send(get())
            assert peer.answer().body == b"a"
            wait_until(lambda: site.faults.messages)
            assert site.faults.take() == ["GET /: the ASGI application failed"]


BAD_MESSAGES: list[tuple[Iterable[Any], type[Exception], str]] = [
    ([{}], ValueError, "a message is a dict with a type"),
    (["http.response.start"], ValueError, "a message is a dict with a type"),
    ([{"type": "http.response.push"}], ValueError, "'http.response.push' is no message that answers"),
    ([{"type": "websocket.send"}], ValueError, "is no message that answers"),
    ([{"type": "http.response.start"}], ValueError, "has no status"),
    ([START | {"status": "200"}], ValueError, "'200' is no final HTTP status"),
    ([START | {"status": 101}], ValueError, "101 is no final HTTP status"),
    ([START | {"headers": [("a", "b")]}], ValueError, "must be bytes"),
    ([START | {"headers": [(b"a", b"b\r\n")]}], ValueError, "control byte"),
    ([START, START], RuntimeError, "started already"),
    ([body(b"a")], RuntimeError, "not started"),
    ([START, body("text")], ValueError, "must be bytes, not str"),  # type: ignore[arg-type]
    ([START, body(b"a"), START], RuntimeError, "started already"),
    ([START, body(b"a", False), body(b"b")], RuntimeError, "the body is complete"),
    ([START, body(b"a", False), START], RuntimeError, "started already"),
    ([{"type": "http.response.trailers"}], RuntimeError, "trailers follow the body"),
    ([START, body(b"a", False), {"type": "http.response.trailers"}], RuntimeError, "trailers follow the body"),
    ([START, body(b"a"), {"type": "http.response.early_hint", "links": []}], RuntimeError, "early hint comes before"),
    ([{"type": "http.response.early_hint", "links": [b"a\r\nb: c"]}], ValueError, "control byte"),
    ([START, {"type": "http.response.pathsend"}], ValueError, "path of http.response.pathsend must be a str"),
]


@pytest.mark.parametrize(("messages", "kind", "text"), BAD_MESSAGES)
def test_bad_messages_raise_and_send_nothing(messages: Any, kind: type[Exception], text: str) -> None:
    *before, last = messages
    caught: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        sent = []
        for message in before:
            await send(message)
            sent.append(message["type"])
        with pytest.raises(kind, match=text) as found:
            await send(last)
        caught.append(found.value)
        if "http.response.start" not in sent:
            await send(START)
        if not (sent and before[-1].get("more_body") is False):
            await send(body(b"!", False))

    with AsgiSite(app) as site, site.peer() as peer:
        for _ in range(2):
            peer.send(get())
            assert peer.answer().body in (b"!", b"a!", b"a")
    assert len(caught) == 2


# ---------------------------------------------------------------------- times, and the end


@pytest.mark.slow
def test_a_body_that_does_not_come(serve: MakeSite) -> None:
    app = Waits(reads=True)
    with serve(app, body_timeout=0.3) as site, site.peer() as peer:
        peer.send(get("/", "Content-Length: 10", method="POST"), b"abc")
        assert peer.answer().status == 408
        wait_until(lambda: app.ended)
        assert app.received[-1] == {"type": "http.disconnect"}


@pytest.mark.slow
def test_an_application_that_does_not_read_is_not_the_clients_fault(serve: MakeSite) -> None:
    app = Waits()
    app.then = count  # type: ignore[method-assign]
    with serve(app, body_timeout=0.2) as site, site.peer() as peer:
        peer.send(get("/", "Content-Length: 6", method="POST"), b"abc")
        app.wait()
        threading.Event().wait(0.6)
        app.release()
        peer.send(b"def")
        assert peer.answer().body == b"6"


@pytest.mark.slow
@pytest.mark.parametrize("reads", [False, True])
def test_hanging_applications_are_cancelled_in_the_end(serve: MakeSite, reads: bool) -> None:
    app = Waits(START, body(b"a"))
    if reads:
        app.reads = True
        app.then = lambda *args: asyncio.sleep(3600)  # type: ignore[method-assign]
    with serve(app, stop_timeout=0.3) as site:
        with site.peer() as peer:
            peer.send(get())
            app.wait()
            site.stop()
            assert app.ended == ["CancelledError"]
            assert peer.ended() == "RST"
        assert [message.split(" ", 1)[1] for message in site.faults.take()] == [
            "connections did not close in time; they are reset"
        ]


@pytest.mark.slow
def test_answers_during_the_stop_are_the_last(serve: MakeSite) -> None:
    app = Waits()
    app.then = answer(b"a")  # type: ignore[method-assign]
    with serve(app) as site, site.peer() as peer:
        peer.send(get(), get())
        app.wait()
        stopper = threading.Thread(target=site.stop)
        stopper.start()
        wait_until(lambda: site.server.draining)
        app.release()
        assert peer.answer().headers["connection"] == "close"
        assert peer.read_end() == "FIN"
        peer.close()
        stopper.join(10.0)
