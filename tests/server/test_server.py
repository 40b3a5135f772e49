"""Server: what it serves, how it starts and stops, what it is inside of other programs. Real sockets, real threads."""

from __future__ import annotations

import errno
import gc
import logging
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from gows import (
    AcceptOptions,
    ByteBuffer,
    Handler,
    HttpError,
    LoopClosedError,
    Opcode,
    Request,
    Response,
    Server,
    UsageError,
    WebSocket,
    accept,
    connect,
)
from gows.reactor import Loop
from gows.server import signals
from tests.support import wire
from tests.support.processes import Children
from tests.support.raw import RawPeer
from tests.support.servers import LOCAL, MakeServer, serving
from tests.support.serving import Faults, Recorder
from tests.support.waiting import wait_until
from tests.support.wire import TEXT, frame


@pytest.fixture(params=[0, 4], ids=["inline", "workers"])
def make_server(request: pytest.FixtureRequest, make_server: MakeServer) -> Callable[..., Server]:
    """The fixture of all, for servers that have `/echo` and are not started."""

    def make(**settings: Any) -> Server:
        return make_server({"/echo": serving(Recorder)}, start=False, **{"workers": request.param, **settings})

    return make


workers_only = pytest.mark.parametrize("make_server", [4], indirect=True, ids=["workers"])


def get(address: Any, path: str, method: str = "GET") -> tuple[int, bytes]:
    with RawPeer(address) as peer:
        peer.send(f"{method} {path} HTTP/1.1\r\nHost: gows.test\r\nConnection: close\r\n\r\n".encode())
        answer, body = peer.read_answer()
        return answer.status, body


def echoes(address: Any, **settings: Any) -> None:
    """A WebSocket at `address` is served."""
    with RawPeer(address, **settings) as peer:
        peer.upgrade("/echo")
        peer.send(frame(TEXT, "hello"))
        assert peer.read_text() == "hello"
        peer.send(wire.close(1000))
        peer.expect_close(1000)


def served(server: Server, count: int) -> list[tuple[RawPeer, Recorder]]:
    """So many WebSockets of the server, and their handlers, which have heard of their opening."""
    handlers: list[Recorder] = []

    def view(request: Request) -> None:
        ws = accept(request)
        handlers.append(Recorder())
        ws.serve(handlers[-1])

    server.add_route("/served", view)
    peers = []
    for number in range(count):
        peers.append(RawPeer(server.addresses[0]))
        peers[-1].upgrade("/served")
        wait_until(lambda number=number: len(handlers) > number and handlers[number].calls)  # type: ignore[misc]
    return list(zip(peers, handlers, strict=True))


# ---------------------------------------------------------------------- what is served


def test_routes_pages_and_sockets_on_one_port(make_server: MakeServer, tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text("body {}")
    server = make_server()

    @server.route("/")
    def index(request: Request) -> str:
        return "<p>index"

    @server.route("/room/{name}", methods=["GET", "POST"])
    def room(request: Request, name: str) -> Response:
        return Response.text(f"{request.method} {name}")

    @server.route("/fails")
    def fails(request: Request) -> str:
        raise HttpError(418, "a teapot")

    server.static("/static", str(tmp_path))
    server.start(LOCAL)
    (address,) = server.addresses
    assert get(address, "/") == (200, b"<p>index")
    assert get(address, "/room/blue", "POST") == (200, b"POST blue")
    assert get(address, "/fails")[0] == 418
    assert get(address, "/static/style.css") == (200, b"body {}")
    assert get(address, "/nowhere")[0] == 404
    assert get(address, "/", "DELETE")[0] == 405
    echoes(address)
    assert index(None) == "<p>index", "the decorator gives the view back"  # type: ignore[arg-type]


def test_what_no_route_answers_goes_to_the_wsgi_application(make_server: MakeServer) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
        return [b"wsgi"]

    server = make_server(wsgi=application)
    server.add_route("/own", lambda request: "own")
    server.start(LOCAL)
    (address,) = server.addresses
    assert get(address, "/own") == (200, b"own")
    assert get(address, "/other") == (200, b"wsgi")
    assert get(address, "/own", "POST")[0] == 405, "the route is there, so the application is not asked"
    echoes(address)


def test_a_pattern_is_taken_once(make_server: MakeServer) -> None:
    server = make_server()
    with pytest.raises(ValueError, match="/echo"):
        server.add_route("/echo", lambda request: "")
    with pytest.raises(ValueError, match="nowhere"):
        server.static("/static", "/nowhere/at/all")


def test_its_connections(make_server: MakeServer) -> None:
    server = make_server()
    server.start(LOCAL)
    assert server.connections == []
    peers = served(server, 3)
    with RawPeer(server.addresses[0]) as not_upgraded:
        not_upgraded.send(b"GET ")
        assert {ws.remote_addr for ws in server.connections} == {peer.sock.getsockname() for peer, _ in peers}
    for ws in server.connections:
        ws.write_string("to all")
    for peer, _ in peers:
        assert peer.read_text() == "to all"
    server.connections[0].close_handshake()
    assert len(server.connections) == 2, "one that is closing does not count"
    for peer, _ in peers:
        peer.close()
    wait_until(lambda: not server.connections)


# ---------------------------------------------------------------------- limits


@pytest.mark.parametrize("name", ["head_timeout", "body_timeout", "keep_alive_timeout"])
@pytest.mark.parametrize("value", [0, -1, None, "1"])
def test_times_that_cannot_be_meant(name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=name):
        Server(**{name: value})


def test_more_connections_than_allowed(make_server: MakeServer) -> None:
    server = make_server(max_connections=2)
    server.start(LOCAL)
    (address,) = server.addresses
    peers = served(server, 2)
    for _ in range(5):
        with RawPeer(address) as peer:
            answer, _ = peer.read_answer()
            assert answer.status == 503
            assert 5 <= int(answer.headers["retry-after"]) <= 30
            assert peer.read_end() == "FIN"
    peers[0][0].close()
    wait_until(lambda: server.loop.live_streams < 2)
    echoes(address)
    peers[1][0].close()


# ---------------------------------------------------------------------- where it listens


def test_several_addresses(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server()
    path = str(tmp_path / "socket")
    assert server.listen(LOCAL)[0] == "127.0.0.1"
    server.listen(("127.0.0.1", 0))
    assert server.listen(f"unix:{path}") == path
    server.start()
    assert len(server.addresses) == 3
    for address in server.addresses:
        echoes(address)
    server.stop()
    assert not os.path.exists(path)


def test_who_connects_by_a_unix_socket(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server()
    asked: list[Any] = []

    @server.route("/who")
    def who(request: Request) -> str:
        asked.append(request.remote_addr)
        return "ok"

    server.start(f"unix:{tmp_path}/socket")
    assert get(f"{tmp_path}/socket", "/who") == (200, b"ok")
    assert asked == [""]


@pytest.mark.slow
def test_under_tls(make_server: MakeServer) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    server = make_server(ssl_context=context)
    schemes: list[str] = []

    @server.route("/scheme")
    def scheme(request: Request) -> str:
        schemes.append(request.scheme)
        return "ok"

    server.start(LOCAL)
    (address,) = server.addresses
    for _ in range(2):
        echoes(address, ssl_context=trusting)
    with RawPeer(address, ssl_context=trusting) as peer:
        peer.upgrade("/echo", "Origin: https://gows.test")
        data = os.urandom(500_000)
        peer.send(frame(wire.BINARY, data, key=bytes(4)))
        assert peer.read().payload == data
    with RawPeer(address, ssl_context=trusting) as peer:
        assert peer.ask(b"GET /scheme HTTP/1.1\r\nHost: gows.test\r\n\r\n").status == 200
    assert schemes == ["https"]


def test_an_address_that_is_taken_is_named(make_server: MakeServer) -> None:
    server = make_server()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port}") as caught:
            server.start(f"127.0.0.1:{port}")
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError, match=str(port)):
            server.listen_and_serve(f"127.0.0.1:{port}")
    server.start(LOCAL)
    echoes(server.addresses[0])


# ---------------------------------------------------------------------- stopping


def test_stop_closes_everybody_with_1001(make_server: MakeServer) -> None:
    server = make_server()
    server.start(LOCAL)
    peers = served(server, 10)
    with RawPeer(server.addresses[0]) as idle:
        idle.ask(b"GET /nowhere HTTP/1.1\r\nHost: gows.test\r\n\r\n")
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        for peer, _ in peers:
            assert peer.read().close_code == 1001
            peer.send(wire.close(1001))
            assert peer.read_end() == "FIN"
            peer.close()
        assert idle.read_end() == "FIN"
        idle.close()
        stopping.join(10)
        assert not stopping.is_alive()
    for _, handler in peers:
        assert handler.calls == ["on_open", "on_close"]
        assert handler.close_code == 1001
    with pytest.raises(ConnectionRefusedError):
        RawPeer(server.addresses[0])


@pytest.mark.slow
def test_stop_waits_no_longer_than_it_may_for_peers(make_server: MakeServer) -> None:
    server = make_server(options=AcceptOptions(close_timeout=60))
    faults = listen_to_log()
    server.start(LOCAL)
    ((peer, handler),) = served(server, 1)
    with peer:
        server.stop(timeout=0.3)
        assert peer.read().close_code == 1001
        assert peer.read_end() == "RST"
    assert handler.calls == ["on_open", "on_close"]
    assert handler.close_code == 1006
    (said,) = faults.take()
    assert "did not close in time" in said
    stop_listening(faults)


def listen_to_log() -> Faults:
    faults = Faults()
    logging.getLogger("gows").addHandler(faults)
    return faults


def stop_listening(faults: Faults) -> None:
    logging.getLogger("gows").removeHandler(faults)
    assert not faults.take()


class Blocker(Recorder):
    """Works until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.let_go = threading.Event(), threading.Event()
        self.seen: list[str] = []

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self.ws = ws
        self.seen.append(buff.get_string())
        self.begun.set()
        self.let_go.wait(30)


def blocked(server: Server) -> tuple[RawPeer, Blocker]:
    handler = Blocker()
    server.add_route("/blocked", lambda request: accept(request).serve(handler))
    peer = RawPeer(server.addresses[0])
    peer.upgrade("/blocked")
    peer.send(frame(TEXT, "go"))
    assert handler.begun.wait(10)
    return peer, handler


@pytest.mark.slow
@workers_only
def test_stop_does_not_wait_for_a_handler_that_blocks(make_server: MakeServer) -> None:
    server = make_server()
    server.start(LOCAL)
    faults = listen_to_log()
    peers = served(server, 3)
    peer, handler = blocked(server)
    with peer:
        for other, _ in peers:
            other.close()
        server.stop(timeout=0.3)
        assert peer.read().close_code == 1001
        assert all(each.calls[-1] == "on_close" for _, each in peers)
        assert handler.closes == 0, "its callback has not returned"
        handler.let_go.set()
        wait_until(lambda: handler.closes)
    assert len(faults.take()) == 1
    stop_listening(faults)


@pytest.mark.slow
def test_stop_says_that_the_loop_itself_is_blocked_and_may_be_tried_again() -> None:
    server = Server(workers=0)
    server.start(LOCAL)
    peer, handler = blocked(server)
    with peer:
        with pytest.raises(TimeoutError):
            server.stop(timeout=0.1)
        handler.let_go.set()
    server.stop()
    assert handler.closes == 1


@pytest.mark.parametrize("where", ["route", "callback"])
def test_stop_is_refused_where_it_would_wait_for_itself(make_server: MakeServer, where: str) -> None:
    server = make_server()
    refusals: list[Exception] = []

    def stop() -> str:
        try:
            server.stop()
        except UsageError as error:
            refusals.append(error)
        return "refused"

    class Stopper(Handler):
        def on_message(self, ws: WebSocket, opcode: Opcode, buff: object) -> None:
            ws.write_string(stop())

    server.add_route("/stop", lambda request: stop())
    server.add_route("/ws", lambda request: accept(request).serve(Stopper()))
    server.start(LOCAL)
    (address,) = server.addresses
    if where == "route":
        assert get(address, "/stop") == (200, b"refused")
    else:
        with RawPeer(address) as peer:
            peer.upgrade()
            peer.send(frame(TEXT, "stop"))
            assert peer.read_text() == "refused"
    assert len(refusals) == 1
    echoes(address)


def test_a_route_may_have_the_server_stopped(make_server: MakeServer) -> None:
    server = make_server()
    stopping = threading.Thread(target=server.stop)

    @server.route("/stop")
    def stop(request: Request) -> str:
        stopping.start()
        return "stopping"

    server.start(LOCAL)
    assert get(server.addresses[0], "/stop") == (200, b"stopping")
    stopping.join(10)
    assert not server.loop.running


def test_stop_waits_for_a_request_that_is_being_answered(make_server: MakeServer) -> None:
    server = make_server()
    begun, go_on = threading.Event(), threading.Event()

    def slow(request: Request) -> str:
        begun.set()
        go_on.wait(10)
        return "answered"

    server.add_route("/slow", slow)
    server.start(LOCAL)
    with RawPeer(server.addresses[0]) as peer:
        peer.send(b"GET /slow HTTP/1.1\r\nHost: gows.test\r\n\r\n")
        assert begun.wait(10)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        wait_until(lambda: server._stopping)
        go_on.set()
        assert peer.read_answer()[1] == b"answered"
        assert peer.read_end() == "FIN"
        peer.close()
        stopping.join(10)
    assert not stopping.is_alive()


def test_stop_again_before_the_start_and_after(make_server: MakeServer) -> None:
    server = make_server()
    server.listen(LOCAL)
    server.stop()
    server.stop()
    with pytest.raises(UsageError):
        server.listen(LOCAL)
    with pytest.raises(UsageError):
        server.start(LOCAL)
    with pytest.raises(LoopClosedError):
        server.start()


@pytest.mark.slow
def test_stop_with_a_drain_closes_one_after_the_other_with_1012(make_server: MakeServer) -> None:
    """The pace of it is in tests/server/test_drain.py."""
    server = make_server()
    server.start(LOCAL)
    peers = served(server, 8)
    assert not server.draining
    stopping = threading.Thread(target=server.stop, kwargs={"drain": 0.5})
    stopping.start()
    wait_until(lambda: server.draining)
    left = [peer for peer, _ in peers]
    while left:
        ready, _, _ = select.select([peer.sock for peer in left], [], [], 10)
        assert ready
        for peer in [peer for peer in left if peer.sock in ready]:
            assert peer.read().close_code == 1012
            peer.send(wire.close(1012))
            assert peer.read_end() == "FIN"
            peer.close()
            left.remove(peer)
    stopping.join(10)
    assert not server.loop.running
    assert {handler.close_code for _, handler in peers} == {1012}


@pytest.mark.slow
@workers_only
def test_a_drain_has_what_was_sent_before_answered(make_server: MakeServer) -> None:
    server = make_server()
    server.start(LOCAL)
    peer, handler = blocked(server)
    with peer:
        peer.send(*[frame(TEXT, str(number)) for number in range(3)])
        stopping = threading.Thread(target=server.stop, kwargs={"drain": 0.2})
        stopping.start()
        wait_until(lambda: handler.ws.dismissed)
        handler.let_go.set()
        assert peer.read().close_code == 1012
        peer.send(wire.close(1012))
        assert peer.read_end() == "FIN"
        peer.close()
        stopping.join(10)
    assert handler.seen == ["go", "0", "1", "2"]


@pytest.mark.parametrize(("drain", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError), (True, TypeError)])
def test_a_drain_is_a_number_of_seconds(make_server: MakeServer, drain: Any, error: type[Exception]) -> None:
    server = make_server()
    with pytest.raises(error, match="drain must be"):
        server.stop(drain=drain)
    with pytest.raises(error, match="drain must be"):
        server.listen_and_serve(LOCAL, drain=drain)
    assert not server.draining


def test_a_timeout_is_a_number_of_seconds(make_server: MakeServer) -> None:
    with pytest.raises(TypeError, match="timeout must be a number of seconds"):
        make_server().listen_and_serve(LOCAL, timeout=None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_timeout_of_listen_and_serve_is_that_of_its_end(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_server()
    stopped: list[Any] = []
    stop = server.stop

    def spy(*arguments: Any, **keywords: Any) -> None:
        stopped.append((arguments, keywords))
        stop(*arguments, **keywords)

    monkeypatch.setattr(server, "stop", spy)
    server.listen_and_serve(LOCAL, timeout=0.5, ready=server._end)
    assert stopped == [((0.5,), {"drain": None, "not_ready": None})]


def test_stop_from_several_threads(make_server: MakeServer) -> None:
    server = make_server()
    server.start(LOCAL)
    ((peer, handler),) = served(server, 1)
    peer.close()
    threads = [threading.Thread(target=server.stop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not server.loop.running
    assert handler.closes == 1


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0


@pytest.mark.slow
def test_start_and_stop_many_times(make_server: MakeServer) -> None:
    def once() -> None:
        server = make_server()
        server.start(LOCAL)
        echoes(server.addresses[0])
        server.stop()

    once()
    gc.collect()
    before = descriptors(), threading.active_count()
    for _ in range(8):
        once()
    assert (descriptors(), threading.active_count()) == before


# ---------------------------------------------------------------------- in a program


def test_in_a_thread_of_a_program(make_server: MakeServer) -> None:
    server = make_server()
    ready = threading.Event()
    serving = threading.Thread(target=server.listen_and_serve, args=(LOCAL,), kwargs={"ready": ready.set})
    serving.start()
    assert ready.wait(10)
    echoes(server.addresses[0])
    server.stop()
    serving.join(10)
    assert not serving.is_alive()


def test_several_servers_in_one_process(make_server: MakeServer) -> None:
    first, second = make_server(), make_server()
    first.start(LOCAL)
    second.start(LOCAL)
    echoes(first.addresses[0])
    echoes(second.addresses[0])
    first.stop()
    echoes(second.addresses[0])


@pytest.mark.slow
def test_servers_that_share_a_loop_have_their_own_connections() -> None:
    with Loop(workers=2) as loop:
        loop.start()
        first, second = Server(loop=loop), Server(loop=loop)
        for server in (first, second):
            server.listen(LOCAL)
        ((one, handler),) = served(first, 1)
        ((other, _),) = served(second, 1)
        with connect(f"ws://127.0.0.1:{second.addresses[0][1]}/served", loop=loop) as client, one, other:
            assert len(first.connections) == 1
            assert len(second.connections) == 2
            stopping = threading.Thread(target=first.stop)
            stopping.start()
            assert one.read().close_code == 1001
            one.send(wire.close(1001))
            one.read_end()
            one.close()
            stopping.join(10)
            assert handler.close_code == 1001
            assert loop.running
            client.write_string("still here")
            assert client.recv(10) == "still here"
            other.send(frame(TEXT, "me too"))
            assert other.read_text() == "me too"
        second.stop()


PROGRAM = """
import sys, threading, gows

class Talker(gows.Handler):
    def on_open(self, ws):
        ws.write_string("welcome")
    def on_close(self, ws):
        print("on_close", ws.close_code, flush=True)

server = gows.Server()

@server.route("/ws")
def talk(request):
    gows.accept(request).serve(Talker())

address = server.listen("127.0.0.1:0")
drain = float(sys.argv[1]) if sys.argv[1:] else None
server.listen_and_serve(ready=lambda: print(address[1], flush=True), drain=drain)
print("stopped", threading.active_count(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(number: signal.Signals) -> None:
    with Children() as children:
        process = children.start([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout, RawPeer(("127.0.0.1", int(process.stdout.readline()))) as peer:
            peer.upgrade()
            assert peer.read_text() == "welcome"
            process.send_signal(number)
            assert peer.read().close_code == 1001
            peer.send(wire.close(1001))
            peer.read_end()
            peer.close()
            assert process.stdout.read() == "on_close 1001\nstopped 1\n"
        assert process.wait(10) == 0


@pytest.mark.slow
def test_a_signal_drains_it() -> None:
    with Children() as children:
        command = [sys.executable, "-c", PROGRAM, "0.3"]
        process = children.start(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout, RawPeer(("127.0.0.1", int(process.stdout.readline()))) as peer:
            peer.upgrade()
            assert peer.read_text() == "welcome"
            process.send_signal(signal.SIGTERM)
            assert peer.read().close_code == 1012
            peer.send(wire.close(1012))
            peer.read_end()
            peer.close()
            assert process.stdout.read() == "on_close 1012\nstopped 1\n"
        assert process.wait(10) == 0


@pytest.mark.slow
def test_a_second_signal_ends_a_drain_at_once() -> None:
    with Children() as children:
        command = [sys.executable, "-c", PROGRAM, "600"]
        process = children.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stderr is not None
        address = ("127.0.0.1", int(process.stdout.readline()))
        with process.stdout, process.stderr, RawPeer(address) as peer:
            peer.upgrade()
            peer.read_text()
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: not listens(address))
            while process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
            assert "KeyboardInterrupt" in process.stderr.read()
            assert "stopped" not in process.stdout.read()


def listens(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once() -> None:
    with Children() as children:
        command = [sys.executable, "-c", PROGRAM]
        process = children.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stderr is not None
        with process.stdout, process.stderr, RawPeer(("127.0.0.1", int(process.stdout.readline()))) as peer:
            peer.upgrade()
            peer.read_text()
            process.send_signal(signal.SIGINT)
            assert peer.read().close_code == 1001  # and is not answered
            while process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
            assert "KeyboardInterrupt" in process.stderr.read()
            assert "stopped" not in process.stdout.read()


def test_a_signal_that_is_delivered_twice_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by timeout(1), which sends it to the process and to its group."""
    came: list[int] = []
    with signals.EndSignals(lambda: came.append(1)) as end:
        assert not end.came
        monkeypatch.setattr(signals, "SECOND_SIGNAL", 1000.0)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert end.came
        monkeypatch.setattr(signals, "SECOND_SIGNAL", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert came == [1]


def test_signal_handlers_are_put_back(make_server: MakeServer) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    server = make_server()
    timer = threading.Timer(0, os.kill, (os.getpid(), signal.SIGTERM))
    server.listen_and_serve(LOCAL, ready=timer.start)
    timer.join()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


FORKING = """
import multiprocessing, os, signal, time
import gows

server = gows.Server()

@server.route("/")
def forking(request):
    up, told = os.pipe()
    child = multiprocessing.get_context("fork").Process(target=lambda: os.write(told, b"x") and time.sleep(60))
    child.start()
    os.read(up, 1)
    child.terminate()
    child.join(5)
    try:
        return str(child.exitcode)
    finally:
        child.kill()

signal.signal(signal.SIGINT, signal.SIG_IGN)
address = server.listen("127.0.0.1:0")
server.listen_and_serve(ready=lambda: print(address[1], flush=True))
print("stopped", signal.getsignal(signal.SIGINT) == signal.SIG_IGN)
"""


@pytest.mark.slow
def test_a_forked_child_does_not_take_signals_for_the_server() -> None:
    with Children() as children:
        process = children.start([sys.executable, "-c", FORKING], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout:
            assert get(("127.0.0.1", int(process.stdout.readline())), "/") == (200, b"-15")
            process.send_signal(signal.SIGTERM)
            assert process.stdout.read() == "stopped True\n"
        assert process.wait(10) == 0


def test_options_of_the_server(make_server: MakeServer) -> None:
    options = AcceptOptions(max_message_size=10, frame_read_buffer_size=512)
    server = make_server(options=options)
    assert server.options is options
    assert len(server.loop.scratch) == 512
    server.start(LOCAL)
    with RawPeer(server.addresses[0]) as peer:
        peer.upgrade("/echo")
        peer.send(frame(TEXT, "x" * 11))
        peer.expect_close(1009)


# ---------------------------------------------------------------------- servers that never serve


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.parametrize("end", ["del", "stop", "listen", "failed start"])
def test_a_server_that_was_never_started_leaves_nothing(end: str, tmp_path: Path) -> None:
    """As of an application factory in tests, or where the port is taken. Warnings are errors here."""

    def make(number: int) -> None:
        server = Server()
        if end == "stop":
            server.listen("127.0.0.1:0")
            server.stop()
        elif end == "listen":
            server.listen("127.0.0.1:0")
            server.listen(f"unix:{tmp_path}/{number}")
        elif end == "failed start":
            with pytest.raises(OSError, match="cannot listen"):
                server.start("192.0.2.1:1")

    make(0)
    gc.collect()
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for number in range(10):
        make(number)
    gc.collect()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
    assert os.listdir(tmp_path) == []


def test_a_signal_handler_that_is_not_pythons(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What installed it cannot be asked of Python, which says None, and takes no None."""
    set_signal = signal.signal
    monkeypatch.setattr(signal, "signal", lambda number, handler: set_signal(number, handler) and None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server = make_server()
        server.listen_and_serve("127.0.0.1:0", ready=lambda: threading.Thread(target=server.stop).start())
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in before.items():
            set_signal(number, handler)


def test_the_first_signal_during_a_stop_is_no_second_one(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_server()
    server._end()
    monkeypatch.setattr(signals, "SECOND_SIGNAL", -1.0)
    with signals.EndSignals(server._signalled):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


# ---------------------------------------------------------------------- stopped amid something


def test_stopped_by_a_signal_handler_amid_a_stop(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler runs in the thread that is stopping, at any point of it."""
    server = make_server()
    server.start("127.0.0.1:0")
    close = server.broker.close

    def interrupted() -> None:
        server.stop()
        server.stop(not_ready=60)
        close()

    monkeypatch.setattr(server.broker, "close", interrupted)
    server.stop()
    assert not server.loop.running


def test_stopped_by_a_signal_handler_amid_the_start(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server = make_server()
    monkeypatch.setattr(server.broker, "start", server.stop)
    server.start("127.0.0.1:0")
    assert not server.loop.running
    with pytest.raises(LoopClosedError, match="was stopped"):
        server.start()


@pytest.mark.parametrize("number", range(3))
def test_stopped_by_another_thread_while_it_starts(make_server: MakeServer, number: int) -> None:
    """It either serves and is stopped, or does not begin; nothing stays."""
    server = make_server()
    server.listen("127.0.0.1:0")
    stopping = threading.Thread(target=server.stop)
    if number == 0:
        server.stop()
    stopping.start()
    server.listen_and_serve()
    stopping.join(10)
    assert not stopping.is_alive()
    assert not server.loop.running


def test_stopped_twice_at_once(make_server: MakeServer) -> None:
    server = make_server()
    server.start("127.0.0.1:0")
    threads = [threading.Thread(target=server.stop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    server.stop()


@workers_only
@pytest.mark.parametrize("where", ["on_open", "view"])
def test_it_is_not_stopped_in_a_callback(make_server: MakeServer, where: str) -> None:
    """It would wait for the thread it is called in; it goes on serving, and may be stopped in another."""
    server = make_server()
    said: list[str] = []

    def stop() -> None:
        try:
            server.stop()
        except UsageError as error:
            said.append(str(error))

    class Stopping(Recorder):
        def on_open(self, ws: WebSocket) -> None:
            stop()
            super().on_open(ws)

    @server.route("/stop")
    def view(asked: Request) -> str | None:
        if where == "on_open":
            accept(asked).serve(Stopping())
            return None
        stop()
        return "still here"

    server.start("127.0.0.1:0")
    with RawPeer(server.addresses[0]) as peer:
        if where == "view":
            assert get(server.addresses[0], "/stop") == (200, b"still here")
        else:
            assert peer.ask(wire.request("/stop")).status == 101
        wait_until(lambda: said)
    assert "call it in another" in said[0]
    assert not server.draining
