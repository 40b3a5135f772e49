"""The pages about health: before any route, in the loop, and 503 as soon as the end has begun."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from gows import Request, Server
from tests.support.raw import RawPeer
from tests.support.servers import LOCAL, MakeServer
from tests.support.waiting import wait_until


@pytest.fixture(params=[0, 2], ids=["inline", "workers"])
def make_server(request: pytest.FixtureRequest, make_server: MakeServer) -> Callable[..., Server]:
    """The fixture of all, with one page for every path."""

    def make(**settings: Any) -> Server:
        server = make_server(start=False, workers=request.param, **settings)
        server.add_route("/{any:path}", lambda request, any: "caught", methods=["GET", "POST"])
        server.start(LOCAL)
        return server

    return make


def ask(peer: RawPeer, path: str, method: str = "GET") -> tuple[int, str]:
    peer.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer, body = peer.read_answer()
    return answer.status, body.decode()


def test_only_where_it_is_asked_for(make_server: Callable[..., Server]) -> None:
    with RawPeer(make_server().addresses[0]) as peer:
        assert ask(peer, "/-/live") == (200, "caught")
        assert ask(peer, "/-/ready") == (200, "caught")


def test_before_the_routes(make_server: Callable[..., Server]) -> None:
    with RawPeer(make_server(health=True).addresses[0]) as peer:
        assert ask(peer, "/-/live") == (200, "live\n")
        assert ask(peer, "/-/ready?now=1") == (200, "ready\n")
        assert ask(peer, "/-/%72eady") == (200, "ready\n")
        assert ask(peer, "/-/live", "POST") == (405, "POST is not allowed here\n")
        assert ask(peer, "/-/other") == (200, "caught")
        peer.send(b"HEAD /-/live HTTP/1.1\r\nHost: x\r\n\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        data = b""
        while not data.endswith(b"caught"):
            data += peer.sock.recv(65536)
        assert data.startswith(b"HTTP/1.1 200 OK")
        assert b"live" not in data


@pytest.mark.parametrize("make_server", [2], indirect=True, ids=["workers"])
def test_workers_that_are_stuck_are_no_reason_to_end_the_process(make_server: Callable[..., Server]) -> None:
    server = make_server(health=True)
    over, busy = threading.Event(), threading.Semaphore(0)

    @server.route("/stuck")
    def hang(request: Request) -> str:
        busy.release()
        over.wait(10)
        return ""

    stuck = [RawPeer(server.addresses[0]) for _ in range(4)]
    for peer in stuck:
        peer.send(b"GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n")
    assert busy.acquire(timeout=10)
    assert busy.acquire(timeout=10)
    with RawPeer(server.addresses[0]) as peer:
        assert ask(peer, "/-/live") == (200, "live\n")
        assert ask(peer, "/-/ready") == (200, "ready\n")
    over.set()
    for peer in stuck:
        peer.close()


def test_not_ready_once_the_end_has_begun(make_server: Callable[..., Server]) -> None:
    server = make_server(health=True)
    with RawPeer(server.addresses[0]) as peer, RawPeer(server.addresses[0]) as other:
        wait_until(lambda: server.loop.live_streams == 2)
        thread = threading.Thread(target=server.stop, kwargs={"drain": 5.0})
        thread.start()
        wait_until(lambda: server.draining)
        assert ask(peer, "/-/ready") == (503, "draining\n")
        assert ask(other, "/-/live") == (200, "live\n")
    thread.join()


def test_not_ready_comes_before_the_end(make_server: Callable[..., Server]) -> None:
    """The port still accepts, answers do not end connections, and a second stop() cuts it short."""
    server = make_server(health=True)
    address = server.addresses[0]
    stopping = threading.Thread(target=server.stop, kwargs={"not_ready": 60})
    with RawPeer(address) as kept:
        assert ask(kept, "/-/ready") == (200, "ready\n")
        stopping.start()
        wait_until(lambda: ask(kept, "/-/ready") == (503, "draining\n"))
        assert not server.draining
        with RawPeer(address) as other:
            assert ask(other, "/-/live") == (200, "live\n")
            assert ask(other, "/page") == (200, "caught")
        server.stop()
        assert server.draining
    stopping.join(10)
    assert not stopping.is_alive()


def test_not_ready_ends_by_itself(make_server: Callable[..., Server]) -> None:
    server = make_server(health=True)
    server.stop(not_ready=0.1)
    assert server.draining
    with pytest.raises(ValueError, match="not_ready must be more than 0"):
        server.stop(not_ready=0)
