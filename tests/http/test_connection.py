"""One HTTP connection, in virtual time; what needs threads is in test_connection_threads.py."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gows.errors import ConnectionClosedError, HandshakeError, HttpError
from gows.http import connection as module
from gows.http.connection import HttpConnection
from gows.http.request import Request
from gows.http.response import Response
from gows.reactor import Observer
from tests.support.http_site import Browser, Site, get

MakeSite = Callable[..., Site]


# ---------------------------------------------------------------------- one request after another


def test_an_answer_says_its_length_and_date_and_the_connection_stays(make_site: MakeSite) -> None:
    site = make_site(lambda request: Response.text(f"you asked for {request.path}"))
    browser = site.browser()
    for path in ("/one", "/two"):
        browser.send(get(path))
        answer = browser.answer()
        assert (answer.status, answer.body) == (200, f"you asked for {path}".encode())
        assert answer.headers["content-length"] == str(len(answer.body))
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["date"].endswith(" GMT")
        assert "connection" not in answer.headers
    assert not browser.over


@pytest.mark.parametrize(
    "wire", [get("/", "Connection: close"), get("/", version="HTTP/1.0"), b"GET / HTTP/1.0\r\n\r\n"]
)
def test_the_connection_ends_when_the_client_wants_it(make_site: MakeSite, wire: bytes) -> None:
    browser = make_site().browser()
    browser.send(wire + get("/never"))
    received = browser.until_over()
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in received
    assert received.endswith(b"\r\n\r\nhello")
    assert browser.ended
    assert [request.path for request in browser.site.app.requests] == ["/"]


def test_http_1_0_keeps_the_connection_when_it_asks_for_that(make_site: MakeSite) -> None:
    site = make_site()
    browser = site.browser()
    for head in (False, True, False):
        method = "HEAD" if head else "GET"
        browser.send(get("/", "Connection: Keep-Alive", version="HTTP/1.0", method=method))
        answer = browser.answer(head=head)
        assert answer.headers["connection"] == "keep-alive"
        assert answer.headers["content-length"] == "5"
    browser.send(get("/", "Connection: keep-alive, close", version="HTTP/1.0"))
    assert browser.answer().headers["connection"] == "close"
    browser.until_over()
    assert "connection" not in site.fetch(get("/", "Connection: keep-alive")).headers


@pytest.mark.parametrize("length", [None, 6])
def test_http_1_0_keeps_it_only_where_the_length_is_known(make_site: MakeSite, length: int | None) -> None:
    site = make_site(lambda request: Response(iter([b"abc", b"def"]), length=length))
    browser = site.browser()
    browser.send(get("/", "Connection: keep-alive", version="HTTP/1.0"))
    answer = browser.answer()
    assert answer.body == b"abcdef"
    assert answer.headers["connection"] == ("close" if length is None else "keep-alive")
    assert "transfer-encoding" not in answer.headers
    assert browser.over == (length is None)


def test_an_error_ends_http_1_0_too(make_site: MakeSite) -> None:
    browser = make_site().browser()
    browser.send(get("/", "Connection: keep-alive", "Transfer-Encoding: chunked", version="HTTP/1.0"))
    assert b"\r\nConnection: close\r\n" in browser.until_over()


@pytest.mark.parametrize("step", [1, 10, 10**6])
def test_pipelined_requests_are_answered_in_order(make_site: MakeSite, step: int) -> None:
    site = make_site(lambda request: f"{request.path} {request.body.decode()}")
    browser = site.browser()
    wire = get("/1", method="POST", body=b"body") + get("/2") + b"\r\n" + get("/3", "Connection: close")
    for at in range(0, len(wire), step):
        browser.send(wire[at : at + step])
        site.world.turn()
    assert [browser.answer().body for _ in range(3)] == [b"/1 body", b"/2 ", b"/3 "]
    browser.until_over()


def test_a_request_behind_a_refused_one_is_not_served(make_site: MakeSite) -> None:
    browser = make_site().browser()
    browser.send(get("/1") + get("/2", "Transfer-Encoding: chunked", "Content-Length: 3") + get("/3"))
    assert browser.answer().status == 200
    assert browser.answer().status == 400
    assert browser.until_over() == b""
    assert [request.path for request in browser.site.app.requests] == ["/1"]


def test_head_gets_the_head_of_get(make_site: MakeSite) -> None:
    browser = make_site().browser()
    browser.send(get("/", method="HEAD") + get("/"))
    head, whole = browser.answer(head=True), browser.answer()
    assert head.headers["content-length"] == whole.headers["content-length"] == "5"
    assert whole.body == b"hello"


def test_a_large_body_goes_out_whole(make_site: MakeSite) -> None:
    body = bytes(range(256)) * 4096
    site = make_site(lambda request: body)
    assert site.fetch(get()).body == body


@pytest.mark.parametrize(
    ("result", "content_type", "body"),
    [
        ("<p>ä", "text/html; charset=utf-8", "<p>ä".encode()),
        (b"\xff", "application/octet-stream", b"\xff"),
        (bytearray(b"a"), "application/octet-stream", b"a"),
        ({"a": "ä"}, "application/json", '{"a":"ä"}'.encode()),
        ([1, 2], "application/json", b"[1,2]"),
    ],
)
def test_what_a_view_may_return(make_site: MakeSite, result: Any, content_type: str, body: bytes) -> None:
    answer = make_site(lambda request: result).fetch(get())
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, content_type, body)


def test_a_view_may_redirect_to_what_was_asked_for(make_site: MakeSite) -> None:
    """Whatever the peer makes up."""
    site = make_site(lambda request: Response.redirect(request.path + "/"))
    for path in ("/caf%C3%A9", "/a%20b%22", "/a%0D%0AX:%20y", "/%00%FF"):
        answer = site.fetch(get(path))
        assert answer.status == 303
        assert "x" not in answer.headers
        assert answer.headers["location"].isascii()
    assert answer.headers["location"] == "/%00%EF%BF%BD/"


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize("result", [None, 1, object()])
def test_what_a_view_may_not_return_is_500(make_site: MakeSite, result: Any, caplog: pytest.LogCaptureFixture) -> None:
    site = make_site(lambda request: result)
    assert site.fetch(get("/path?query")).status == 500
    assert "GET /path: the view failed" in caplog.text
    assert "TypeError" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])  # which would end a worker without a word
def test_a_view_that_raises_is_500_logged_and_tells_the_client_nothing(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    def view(request: Request) -> str:
        raise error("the secret")

    site = make_site(view)
    browser = site.browser()
    browser.send(get("/broken"))
    received = browser.until_over()
    assert received.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b"secret" not in received
    assert "GET /broken: the view failed" in caplog.text
    assert "the secret" in caplog.text
    assert site.still_serves()


def test_ctrl_c_in_a_view_is_for_the_program(make_site: MakeSite) -> None:
    def view(request: Request) -> str:
        raise KeyboardInterrupt

    site = make_site(view)
    browser = site.browser()
    browser.send(get("/"))
    with pytest.raises(KeyboardInterrupt):
        browser.until_over()


def test_an_http_error_of_a_view_is_its_answer_and_the_connection_stays(make_site: MakeSite) -> None:
    def view(request: Request) -> str:
        raise HttpError(418, "no coffee", [("X-Pot", "tea")])

    site = make_site(view)
    browser = site.browser()
    for _ in range(2):
        browser.send(get())
        answer = browser.answer()
        assert (answer.status, answer.body, answer.headers["x-pot"]) == (418, b"no coffee\n", "tea")
    assert not browser.over


def test_a_refused_handshake_is_answered_and_the_connection_ends(make_site: MakeSite) -> None:
    def view(request: Request) -> None:
        raise HandshakeError(426, "upgrade", [("Upgrade", "websocket")])

    browser = make_site(view).browser()
    browser.send(get())
    received = browser.until_over()
    assert received.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    assert b"\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n" in received


@pytest.mark.parametrize("error", [HttpError, HandshakeError])
def test_an_error_whose_headers_may_not_be_sent(
    make_site: MakeSite, error: type[HttpError], caplog: pytest.LogCaptureFixture
) -> None:
    def view(request: Request) -> None:
        raise error(400, "no", [("X", "a\r\nSet-Cookie: b")])

    site = make_site(view)
    browser = site.browser()
    browser.send(get())
    received = browser.until_over()
    assert b"Set-Cookie" not in received
    assert "InvalidHeaderError" in caplog.text
    assert site.still_serves()


def test_an_answer_that_cannot_be_written_resets_the_connection(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Response):
        def head_bytes(self, *, keep_alive: bool, chunked: bool, version: str = "HTTP/1.1") -> bytes:
            raise RuntimeError("a bug")

    site = make_site(lambda request: Broken(b""))
    browser = site.browser()
    browser.send(get())
    browser.until(lambda: browser.reset)
    assert "<Request GET />: answering failed" in caplog.text
    assert site.still_serves()


def test_a_refusal_reaches_a_client_that_still_sends(make_site: MakeSite) -> None:
    """To close while bytes wait unread would make the kernel send RST, which destroys the answer."""
    site = make_site()
    browser = site.browser()
    browser.send(get("/", f"Content-Length: {10**6}") + bytes(10**5))
    browser.send(bytes(10**5))
    browser.until(lambda: b"413 Content Too Large" in browser.received or b"413 Request Entity" in browser.received)
    assert not browser.reset


# ---------------------------------------------------------------------- time


def test_a_head_that_trickles_is_408_after_10_seconds(make_site: MakeSite) -> None:
    site = make_site()
    browser = site.browser()
    start = site.world.clock()
    wire = get("/", "X: " + "a" * 100)
    for byte in wire:
        if browser.pump().received:
            break
        browser.send(bytes([byte]))
        site.world.run_for(1.0)
    assert browser.answer().status == 408
    assert 9.5 <= site.world.clock() - start <= 11.5
    browser.until_over()
    assert site.still_serves()


def test_a_connection_that_says_nothing_is_closed_without_a_word(make_site: MakeSite) -> None:
    """A browser opens connections ahead of need; a 408 there would be taken for the answer to its first request."""
    site = make_site()
    browser = site.browser()
    start = site.world.clock()
    assert browser.until_over() == b""
    assert 9.5 <= site.world.clock() - start <= 10.5


def test_a_kept_connection_is_closed_after_75_idle_seconds(make_site: MakeSite) -> None:
    site = make_site()
    browser = site.browser()
    browser.send(get())
    browser.answer()
    site.world.run_for(70)
    assert not browser.pump().over
    browser.send(get())
    assert browser.answer().status == 200
    start = site.world.clock()
    assert browser.until_over(100) == b""
    assert 74.5 <= site.world.clock() - start <= 75.5


def test_the_head_of_a_later_request_has_10_seconds_from_its_first_byte(make_site: MakeSite) -> None:
    site = make_site()
    browser = site.browser()
    browser.send(get())
    browser.answer()
    site.world.run_for(30)
    start = site.world.clock()
    browser.send(b"G")
    site.world.run_for(9)
    browser.send(b"E")
    assert browser.answer().status == 408
    assert 9.5 <= site.world.clock() - start <= 10.5


def test_a_body_that_trickles_is_408(make_site: MakeSite) -> None:
    site = make_site()
    browser = site.browser()
    start = site.world.clock()
    browser.send(get("/", "Content-Length: 100", method="POST"))
    for _ in range(30):
        if browser.pump().received:
            break
        browser.send(b"a")
        site.world.run_for(1.0)
    answer = browser.answer()
    assert (answer.status, answer.body) == (408, b"the request body did not come in time\n")
    assert 19.5 <= site.world.clock() - start <= 21.5


def test_a_view_may_take_its_time(make_site: MakeSite) -> None:
    """No deadline of the request's runs while it is answered."""

    def view(request: Request) -> str:
        site.world.clock.advance(1000)
        return "at last"

    site = make_site(view)
    browser = site.browser()
    browser.send(get())
    assert browser.answer().body == b"at last"
    browser.send(get())
    assert browser.answer().body == b"at last"


# ---------------------------------------------------------------------- Expect: 100-continue


def test_a_client_that_waits_is_told_to_continue(make_site: MakeSite) -> None:
    site = make_site(lambda request: request.body)
    browser = site.browser()
    browser.send(get("/", "Expect: 100-continue", "Content-Length: 5", method="POST"))
    browser.until(lambda: browser.received)
    assert browser.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    browser.received.clear()
    browser.send(b"he")
    site.world.run_for(0.1)
    browser.send(b"llo")
    assert browser.answer().body == b"hello"


def test_a_client_that_does_not_wait_is_not_told(make_site: MakeSite) -> None:
    site = make_site(lambda request: request.body)
    assert site.fetch(get("/", "Expect: 100-continue", method="POST", body=b"hello")).body == b"hello"


def test_a_client_that_waits_with_too_much_is_refused(make_site: MakeSite) -> None:
    site = make_site()
    assert site.fetch(get("/", "Expect: 100-continue", "Content-Length: 1001", method="POST")).status == 413


# ---------------------------------------------------------------------- half-close and loss


def test_a_request_before_a_half_close_is_answered(make_site: MakeSite) -> None:
    site = make_site(lambda request: request.path)
    browser = site.browser()
    browser.send(get("/1") + get("/2"))
    browser.sock.shutdown(1)
    assert [browser.answer().body, browser.answer().body] == [b"/1", b"/2"]
    assert browser.until_over() == b""


@pytest.mark.parametrize("wire", [b"", b"GET / HT", get("/", "Content-Length: 5"), get() + b"GET"])
def test_half_a_request_before_a_half_close_is_not(make_site: MakeSite, wire: bytes) -> None:
    site = make_site()
    browser = site.browser()
    browser.send(wire)
    browser.sock.shutdown(1)
    browser.until_over(5)
    assert browser.ended
    assert len(site.app.requests) == wire.count(b"\r\n\r\n") - (b"Length" in wire)


def test_a_client_that_goes_away_while_it_is_answered(make_site: MakeSite) -> None:
    site = make_site()
    browser = site.browser()

    def view(request: Request) -> str:
        browser.sock.close()
        return "x" * 100

    site.app.view = view
    browser.send(get() + get())
    site.world.run_until(lambda: not site.loop.live_streams)
    assert site.still_serves()


def test_a_stopping_server_ends_idle_connections_and_lets_the_others_finish(make_site: MakeSite) -> None:
    site = make_site()
    idle, busy = site.browser(), site.browser()

    def view(request: Request) -> str:
        for connection in site.connections:
            connection.end_when_idle()
        return "the last one"

    site.app.view = view
    busy.send(get("/1") + get("/2")[:-1])
    assert busy.answer().body == b"the last one"
    assert busy.until_over() == idle.until_over() == b""


# ---------------------------------------------------------------------- upgrades


class Upgraded(Observer):
    """What takes over."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.calls: list[str] = []

    def data_received(self, buf: bytearray, n: int, /) -> None:
        self.data += buf[:n]

    def eof_received(self) -> None:
        self.calls.append("eof_received")

    def blocked(self) -> None:
        self.calls.append("blocked")

    def drained(self) -> None:
        self.calls.append("drained")

    def deadline_reached(self) -> None:
        self.calls.append("deadline_reached")

    def connection_lost(self, error: Exception | None) -> None:
        self.calls.append("connection_lost")


def upgrading(observer: Observer, result: Any = None) -> Callable[[Request], Any]:
    def view(request: Request) -> Any:
        assert request.connection is not None
        request.connection.upgrade(b"HTTP/1.1 101 S\r\n\r\n", observer)
        return result

    return view


@pytest.mark.parametrize("result", [None, "ignored", 17])
def test_after_the_upgrade_the_stream_is_the_observers(make_site: MakeSite, result: Any) -> None:
    observer = Upgraded()
    site = make_site(upgrading(observer, result))
    browser = site.browser()
    browser.send(get())
    assert browser.answer().status == 101
    browser.send(b"frames")
    site.world.run_until(lambda: observer.data == b"frames")
    site.world.run_for(200)  # no deadline of ours is left
    assert browser.pump().received == b""
    assert not browser.over
    assert site.connections[0].upgraded
    browser.sock.shutdown(1)
    site.world.run_until(lambda: observer.calls == ["eof_received"])
    site.streams[0].close()
    site.world.run_until(lambda: observer.calls == ["eof_received", "connection_lost"])


def test_the_answer_of_a_view_that_upgraded_is_let_go(make_site: MakeSite) -> None:
    body = Pieces([b"never sent"])
    site = make_site(upgrading(Upgraded(), Response(body)))
    browser = site.browser()
    browser.send(get())
    assert browser.answer().status == 101
    site.world.run_for(1)
    assert browser.pump().received == b""
    assert body.closed == 1


def test_a_view_that_raises_after_the_upgrade_is_logged(make_site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    observer = Upgraded()

    def view(request: Request) -> None:
        upgrading(observer)(request)
        raise RuntimeError("after it")

    site = make_site(view)
    browser = site.browser()
    browser.send(get("/ws"))
    assert browser.answer().status == 101
    site.world.run_for(1)
    assert browser.pump().received == b""
    assert "GET /ws: the view failed" in caplog.text


def test_frames_before_the_101_are_400(make_site: MakeSite) -> None:
    observer = Upgraded()
    site = make_site(upgrading(observer))
    browser = site.browser()
    browser.send(get() + b"\x81\x80\0\0\0\0")
    answer = browser.answer()
    assert (answer.status, answer.body) == (400, b"data came before the handshake was answered\n")
    browser.until_over()
    assert observer.data == b""
    assert site.still_serves()


def test_an_upgrade_comes_once(make_site: MakeSite) -> None:
    errors: list[Exception] = []

    def view(request: Request) -> None:
        upgrading(Upgraded())(request)
        try:
            upgrading(Upgraded())(request)
        except ConnectionClosedError as error:
            errors.append(error)

    browser = make_site(view).browser()
    browser.send(get())
    browser.answer()
    assert len(errors) == 1


def test_an_upgrade_after_the_answer_is_refused(make_site: MakeSite) -> None:
    site = make_site()
    browser = site.browser()
    browser.send(get())
    browser.answer()
    with pytest.raises(ConnectionClosedError):
        upgrading(Upgraded())(site.app.requests[0])


@pytest.mark.parametrize("ending", ["abort", "eof"])
def test_an_upgrade_of_a_connection_that_is_gone_is_refused(make_site: MakeSite, ending: str) -> None:
    errors: list[Exception] = []

    def view(request: Request) -> None:
        if ending == "abort":
            site.streams[0].abort()
        else:
            site.connections[0].eof_received()
        try:
            upgrading(Upgraded())(request)
        except ConnectionClosedError as error:
            errors.append(error)
            raise HttpError(400, "gone") from error

    site = make_site(view)
    browser = site.browser()
    browser.send(get())
    browser.until_over()
    assert len(errors) == 1


@pytest.mark.parametrize("ending", ["abort", "eof"])
def test_a_view_need_not_mind_a_client_that_has_gone(
    make_site: MakeSite, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The peer's doing is no news for the log."""

    def view(request: Request) -> None:
        if ending == "abort":
            site.streams[0].abort()
        else:
            site.connections[0].eof_received()
        upgrading(Upgraded())(request)

    site = make_site(view)
    browser = site.browser()
    browser.send(get())
    received = browser.until_over()
    assert received.startswith(b"HTTP/1.1 400 " if ending == "eof" else b"")
    assert not caplog.records


def test_a_second_upgrade_that_is_let_pass_is_logged(make_site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    def view(request: Request) -> None:
        upgrading(Upgraded())(request)
        upgrading(Upgraded())(request)

    browser = make_site(view).browser()
    browser.send(get())
    assert browser.answer().status == 101
    assert "ConnectionClosedError" in caplog.text


def test_what_reaches_the_old_observer_on_the_way_goes_to_the_new_one(make_site: MakeSite) -> None:
    """The loop may have looked up the observer just before another thread upgraded the connection."""
    observer = Upgraded()
    site = make_site(upgrading(observer))
    browser = site.browser()
    browser.send(get())
    browser.answer()
    old = site.connections[0]
    old.data_received(bytearray(b"early..."), 5)
    old.eof_received()
    old.blocked()
    old.drained()
    old.deadline_reached()
    assert observer.data == b"early"
    assert observer.calls == ["eof_received", "blocked", "drained", "deadline_reached"]


# ---------------------------------------------------------------------- bodies in pieces


class Pieces:
    """A body that counts what is done with it."""

    def __init__(self, pieces: Any) -> None:
        self.pieces = iter(pieces)
        self.taken = 0
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece: bytes | type[Exception] = next(self.pieces)
        self.taken += 1
        if isinstance(piece, type):  # a class: an exception that lives on as a parameter would keep its frames alive
            raise piece("broken")
        return piece

    def close(self) -> None:
        self.closed += 1


def test_a_body_of_unknown_length_is_chunked_and_the_connection_stays(make_site: MakeSite) -> None:
    body = Pieces([b"one", b"", b"two" * 1000])
    site = make_site(lambda request: Response(body, content_type="text/x"))
    browser = site.browser()
    browser.send(get())
    answer = browser.answer()
    assert answer.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in answer.headers
    assert answer.headers["content-type"] == "text/x"
    assert answer.body == b"one" + b"two" * 1000
    assert body.closed == 1
    browser.send(get())
    assert browser.answer().status == 200


def test_a_body_of_unknown_length_for_http_1_0_ends_with_the_connection(make_site: MakeSite) -> None:
    site = make_site(lambda request: Response([b"one", b"two"]))
    browser = site.browser()
    browser.send(get("/", version="HTTP/1.0"))
    received = browser.until_over()
    assert b"Transfer-Encoding" not in received
    assert received.endswith(b"\r\n\r\nonetwo")


def test_a_body_of_known_length(make_site: MakeSite) -> None:
    site = make_site(lambda request: Response([b"one", b"two"], length=6))
    browser = site.browser()
    for _ in range(2):
        browser.send(get())
        answer = browser.answer()
        assert answer.headers["content-length"] == "6"
        assert answer.body == b"onetwo"


def test_what_a_body_has_over_its_length_is_not_sent(make_site: MakeSite) -> None:
    site = make_site(lambda request: Response([b"one", b"two", b"three"], length=4))
    browser = site.browser()
    browser.send(get() + get())
    assert [browser.answer().body, browser.answer().body] == [b"onet", b"onet"]


@pytest.mark.parametrize(
    ("pieces", "length", "log"),
    [
        ([b"one"], 6, "3 bytes shorter than announced"),
        ([b"one", RuntimeError], None, "the body failed"),
        ([b"one", "two"], None, "a body is made of bytes, not str"),
    ],
)
def test_a_body_that_fails_is_cut_off_so_that_nobody_takes_it_for_whole(
    make_site: MakeSite, pieces: list[Any], length: int | None, log: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = Pieces(pieces)
    site = make_site(lambda request: Response(body, length=length))
    browser = site.browser()
    browser.send(get())
    browser.until(lambda: browser.reset)
    assert not browser.received.endswith(b"0\r\n\r\n")
    assert body.closed == 1
    assert log in caplog.text
    assert site.still_serves()


def test_a_body_whose_close_raises_is_logged(make_site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    class Bad(Pieces):
        def close(self) -> None:
            raise RuntimeError("close is broken")

    site = make_site(lambda request: Response(Bad([b"one"])))
    assert site.fetch(get()).body == b"one"
    assert "closing the body failed" in caplog.text


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_a_body_that_may_not_be_sent_is_not_even_asked_for(make_site: MakeSite, method: str, status: int) -> None:
    body = Pieces([b"one"])
    site = make_site(lambda request: Response(body, status))
    browser = site.browser()
    browser.send(get("/", method=method))
    assert browser.answer(head=True).status == status
    assert (body.taken, body.closed) == (0, 1)
    assert browser.pump().received == b""


def test_other_tasks_have_their_turn_between_pieces(make_site: MakeSite) -> None:
    """Small pieces that a fast client takes at once must not keep a worker for ever."""
    endless = Pieces(b"x" for _ in iter(int, 1))
    site = make_site(lambda request: Response(endless) if request.path == "/endless" else "hello")
    site.browser().send(get("/endless"))
    site.world.turn()
    before = endless.taken
    browser = site.browser()
    browser.send(get())
    assert browser.answer().body == b"hello"
    assert before < endless.taken < before + 1000


@pytest.fixture
def big_file(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(bytes(range(256)) * 16384)  # 4 MiB
    return path


def test_a_large_file_is_sent_as_fast_as_the_client_reads(make_site: MakeSite, big_file: Path) -> None:
    site = make_site(lambda request: Response.file(big_file))
    browser = site.browser()
    browser.send(get())
    most = 0
    site.world.run_for(1)  # nobody reads
    assert 0 < site.streams[0].queued <= module.HIGH_WATER + 65536
    while len(browser.received) < 4 << 20:
        browser.pump()
        site.world.turn()
        most = max(most, site.streams[0].queued)
    assert most <= module.HIGH_WATER + 65536
    assert browser.answer().body == big_file.read_bytes()
    assert not browser.over


def file_of(site: Site) -> Any:
    """The open file that is being sent."""
    sending = site.connections[0]._sending
    assert sending is not None
    return sending.response.chunks


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_amid_a_file_lets_it_go(make_site: MakeSite, big_file: Path, how: str) -> None:
    site = make_site(lambda request: Response.file(big_file))
    browser = site.browser()
    browser.send(get())
    site.world.run_for(1)
    body = file_of(site)
    assert not body.file.closed
    if how == "reset":
        site.streams[0].abort()
    browser.sock.close()
    site.world.run_until(lambda: body.file.closed)
    assert site.still_serves()


def test_a_client_that_does_not_read_is_dropped_after_30_seconds(make_site: MakeSite, big_file: Path) -> None:
    site = make_site(lambda request: Response.file(big_file))
    browser = site.browser()
    browser.send(get())
    start = site.world.clock()
    site.world.run_for(1)
    body = file_of(site)
    site.world.run_until(lambda: body.file.closed)
    assert 29 <= site.world.clock() - start <= 31
    browser.until(lambda: browser.reset)


def test_a_client_that_reads_slowly_is_served(make_site: MakeSite) -> None:
    """60 KiB every 20 s: each wait is shorter than the write timeout, the whole is not."""
    body = bytes(range(256)) * 2048  # 512 KiB
    site = make_site(lambda request: body)
    browser = site.browser()
    browser.send(get())
    site.world.run_for(1)
    while len(browser.received) < len(body):
        browser.received += browser.sock.recv(61440)
        site.world.run_for(20)
        assert len(site.streams) == 1
    assert browser.answer().body == body


@pytest.mark.parametrize("body", [bytes(1 << 20), [bytes(1 << 18)] * 4], ids=["whole", "pieces"])
def test_a_client_that_takes_a_byte_now_and_then_is_dropped(make_site: MakeSite, body: Any) -> None:
    site = make_site(lambda request: body if isinstance(body, bytes) else Response(iter(body)))
    browser = site.browser()
    browser.send(get())
    start = site.world.clock()
    while not browser.reset:
        site.world.run_for(5)
        browser.pump(5 * 1000)
        assert site.world.clock() - start < 70
        if site.streams[0].closed:
            browser.pump()
    assert site.world.clock() - start >= 30


def test_a_client_that_takes_little_for_a_while_is_served(make_site: MakeSite) -> None:
    """The average of each half minute counts."""
    site = make_site(lambda request: bytes(1 << 20))
    browser = site.browser()
    browser.send(get())
    for _ in range(14):
        site.world.run_for(20)
        browser.pump(1000)
        assert not browser.over
        site.world.run_for(5)
        browser.pump(80_000)
    browser.until(lambda: len(browser.received) > 1 << 20)
    assert not browser.over


def test_a_body_does_not_wait_when_there_is_room_again(make_site: MakeSite) -> None:
    """The kernel may have taken the queue between the look at it and the lock."""
    site = make_site()
    site.browser()
    assert not site.connections[0]._wait()


def test_a_client_that_has_read_all_is_not_dropped_while_more_is_made(make_site: MakeSite) -> None:
    """The deadline that was set while it was slow finds nothing queued."""
    more: list[bytes] = [b""]
    site = make_site(lambda request: Response(iter(lambda: more[0], None)))
    browser = site.browser()
    browser.send(get())
    site.world.turn()
    site.connections[0].blocked()
    site.world.clock.advance(31)
    for _ in range(10):
        site.world.turn()
    more[0] = b"piece"
    browser.until(lambda: b"piece" in browser.received)
    assert not browser.over


@pytest.mark.parametrize("body", [bytes(1 << 20), [bytes(1 << 18)] * 4], ids=["whole", "pieces"])
def test_a_client_that_reads_steadily_gets_all_before_the_connection_is_closed(make_site: MakeSite, body: Any) -> None:
    site = make_site(lambda request: body if isinstance(body, bytes) else Response(iter(body)))
    browser = site.browser()
    browser.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    start = site.world.clock()
    while not browser.over:
        site.world.run_for(1)
        browser.pump(20_000)
        assert not browser.reset
    assert site.world.clock() - start > 40
    assert len(browser.received) > 1 << 20


def test_a_client_that_does_not_read_what_was_queued_is_dropped(make_site: MakeSite) -> None:
    """Also when the answer is out of the view's hands."""
    site = make_site(lambda request: bytes(1 << 20))
    browser = site.browser()
    browser.send(get())
    site.world.run_until(lambda: site.streams[0].closed, 200)
    browser.until(lambda: browser.reset)


# ---------------------------------------------------------------------- answers that nobody reads


def pipeline(site: Site, wire: bytes, seconds: float) -> Browser:
    """A client that sends `wire` over and over for a while, and reads nothing."""
    browser = site.browser()
    end = site.world.clock() + seconds
    left = b""
    while site.world.clock() < end:
        left = left or wire
        try:
            left = left[browser.sock.send(left) :]
        except BlockingIOError:
            site.world.run_for(0.1)
        site.world.turn()
    return browser


def held(site: Site) -> tuple[int, int]:
    """The bytes that wait to be sent, and those that were received and not looked at."""
    connection = site.connections[0]
    return site.streams[0].queued, len(connection._stash) + len(connection._parser._buffer)


@pytest.mark.parametrize("target", ["/", "/at-once", "/pieces", "/empty", "/error", "/continue"])
def test_answers_to_pipelined_requests_are_bounded(make_site: MakeSite, target: str) -> None:
    """Whoever makes them: a view, the loop, or the server itself. The next request is not even looked at."""

    def view(request: Request) -> Any:
        if request.path == "/error":
            raise HttpError(418, "x" * 9000)
        if request.path == "/pieces":
            return Response(iter([b"x" * 1000] * 3))
        empty = request.path == "/empty"
        return Response(status=204, headers={"X": "x" * 9000}) if empty else "x" * 30000

    site = make_site(view)
    fields = ("Expect: 100-continue", "Content-Length: 3") if target == "/continue" else ("X: " + "x" * 300,)
    browser = pipeline(site, (get(target, *fields) + (b"abc" if len(fields) > 1 else b"")) * 200, 20)
    waiting, unread = held(site)
    assert module.HIGH_WATER < waiting <= module.HIGH_WATER + 31000
    assert unread <= 2 * (module.MAX_STASH + len(site.loop.scratch))
    asked = len(site.app.requests)
    site.world.run_for(5)
    assert len(site.app.requests) == asked
    browser.until(lambda: len(site.app.requests) > asked)  # it reads: we go on
    assert not browser.over
    assert not browser.received.count(b" 400 ")


def test_what_was_pipelined_meanwhile_is_answered_in_order(make_site: MakeSite) -> None:
    site = make_site(lambda request: request.path * 5000)
    browser = site.browser()
    browser.send(b"".join(get(f"/{number}") for number in range(100)))
    site.world.run_for(20)
    assert len(site.app.requests) < 100
    for number in range(100):
        assert browser.answer().body == f"/{number}".encode() * 5000


@pytest.mark.parametrize("target", ["/", "/at-once"])
def test_a_client_that_pipelines_and_does_not_read_is_dropped_after_30_seconds(
    make_site: MakeSite, target: str
) -> None:
    site = make_site(lambda request: "x" * 30000)
    pipeline(site, get(target) * 1000, 20)
    assert not site.streams[0].closed
    site.world.run_for(15)
    assert site.streams[0].closed


def test_a_client_that_does_not_read_is_dropped_amid_a_later_answer(make_site: MakeSite) -> None:
    """The queue was blocked before the request came whose answer waits: that is told once only."""
    site = make_site(lambda request: Response(iter([bytes(1000)] * 10000)) if request.path == "/2" else bytes(200_000))
    browser = site.browser()
    browser.send(get("/1"))
    site.world.run_for(1)
    browser.send(get("/2"))
    site.world.run_until(lambda: site.streams[0].closed, 40)


@pytest.mark.parametrize("how", ["eof", "stop"])
def test_requests_that_wait_for_room_are_answered_before_the_end(make_site: MakeSite, how: str) -> None:
    site = make_site(lambda request: bytes(100_000))
    browser = site.browser()
    browser.send(get() * 10)
    site.world.run_for(1)
    assert held(site)[0] > module.HIGH_WATER
    if how == "eof":
        browser.sock.shutdown(socket.SHUT_WR)
    else:
        site.connections[0].end_when_idle()
    assert browser.until_over().count(b"HTTP/1.1 200 OK") == 10
    assert browser.ended


def test_a_client_that_sends_faster_than_it_is_answered_is_not_read_from(make_site: MakeSite) -> None:
    """What is put aside comes in again only when the requests before it are answered."""
    site = make_site(lambda request: "hello")
    browser = site.browser()
    wire, left, most = get() * 1000, b"", 0
    for _ in range(500):
        browser.pump().received.clear()
        try:
            while True:
                left = left or wire
                left = left[browser.sock.send(left) :]
        except BlockingIOError:
            pass
        site.world.turn()
        most = max(most, held(site)[1])
    assert most <= 2 * (module.MAX_STASH + len(site.loop.scratch))
    assert not browser.over


# ---------------------------------------------------------------------- bodies that cost much

LINES = b"\r\n\r\n" * 5000
CHUNKED = get("/slow", "Transfer-Encoding: chunked", method="POST") + b"4e20\r\n" + LINES + b"\r\n0\r\n\r\n"


def test_a_body_of_empty_lines_does_not_hold_up_others(make_site: MakeSite) -> None:
    """Each costs a call of the parser: a read of them would stop the loop for 70 ms."""
    site = make_site(lambda request: request.path + str(len(request.body)), max_body_size=30000)
    slow, fast = site.browser(), site.browser()
    slow.send(CHUNKED)
    fast.send(get("/fast"))
    assert fast.answer().body == b"/fast0"
    assert not slow.pump().received
    assert slow.answer().body == b"/slow20000"
    assert [request.path for request in site.app.requests] == ["/fast", "/slow"]


@pytest.mark.parametrize("step", [100, 5000, 10**6])
def test_what_is_pipelined_around_such_a_body_is_answered_in_order(make_site: MakeSite, step: int) -> None:
    site = make_site(lambda request: request.path + str(request.body.count(b"\r\n\r\n")), max_body_size=30000)
    browser = site.browser()
    wire = get("/1") + CHUNKED + CHUNKED + get("/2") + CHUNKED + get("/3")
    for at in range(0, len(wire), step):
        browser.send(wire[at : at + step])
        site.world.turn()
    browser.sock.shutdown(socket.SHUT_WR)
    bodies = [browser.answer().body for _ in range(6)]
    assert bodies == [b"/10", b"/slow5000", b"/slow5000", b"/20", b"/slow5000", b"/30"]
    browser.until_over()
    assert browser.ended


@pytest.mark.parametrize("end", ["malformed", "late", "reset"])
def test_such_a_body_that_ends_otherwise(make_site: MakeSite, end: str) -> None:
    site = make_site(lambda request: "never", max_body_size=30000)
    browser = site.browser()
    browser.send(CHUNKED[:-5] + (b"x\r\n" if end == "malformed" else b""))
    if end == "reset":
        site.streams[0].abort()
    browser.until(lambda: browser.over)
    status = {"malformed": b" 400 ", "late": b" 408 ", "reset": b""}[end]
    assert status in bytes(browser.received)
    assert not site.app.requests


# ---------------------------------------------------------------------- the access log


def test_the_access_log(make_site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="gows.access")

    def answer(request: Request) -> Any:
        if request.path == "/ws":
            return upgrading(Upgraded())(request)
        site.world.clock.advance(0.0125)
        return "hello"

    site = make_site(answer)
    site.fetch(get("/a?b"))
    site.fetch(get("/ws"))
    site.fetch(b"\0")
    lines = [record.getMessage().split(" ", 1)[1] for record in caplog.records if record.name == "gows.access"]
    assert lines == ['"GET /a HTTP/1.1" 200 5 12.5ms', '"GET /ws HTTP/1.1" 101 0 0.0ms', '"-" 400 0'], (
        "no query: it may hold a token"
    )


def test_no_access_log_unless_wanted(make_site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="gows.access")
    make_site().fetch(get())
    assert not caplog.records


def test_plain_connections_are_not_secure(make_site: MakeSite) -> None:
    site = make_site(lambda request: f"{request.scheme} {request.remote_addr}")
    assert site.fetch(get()).body.startswith(b"http ('10.0.0.")
    assert isinstance(site.connections[0], HttpConnection)
    assert not site.connections[0].secure
