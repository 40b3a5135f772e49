"""What a program wrote before it ended: programs of their own, and a server here that puts down what arrives."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gows import AcceptOptions, Handler, Server, TopicClient, TopicHandler, WebSocket, accept, connect
from gows import serve_topics as serve
from gows.client import exit as leaving
from gows.client import topics
from gows.reactor import Loop
from tests.support.addresses import tcp
from tests.support.scripted import Peer, ScriptedServer
from tests.support.waiting import wait_until

BIG = 3 << 20


class Site:
    """A server, and what came to it."""

    def __init__(self) -> None:
        self.messages: dict[str, Any] = {}
        self.codes: dict[str, int | None] = {}
        self.published: list[Any] = []
        self.slowly = threading.Event()
        site = self

        class Receiver(Handler):
            def on_open(self, ws: WebSocket) -> None:
                ws.write_string("what nobody receives: closing a socket with it unread would reset the connection")

            def on_message(self, ws: WebSocket, opcode: Any, buff: Any) -> None:
                assert ws.request is not None
                site.messages[ws.request.path] = buff.get_string() if len(buff) < 100 else len(buff)

            def on_close(self, ws: WebSocket) -> None:
                assert ws.request is not None
                site.codes[ws.request.path] = ws.close_code

        class Topics(TopicHandler):
            def on_publish(self, ws: WebSocket, topic: str, data: Any) -> Any:
                if site.slowly.is_set():
                    time.sleep(0.1)
                site.published.append(data)
                return data

        self.server = Server(may_subscribe=lambda ws, topic: True, may_publish=lambda ws, topic: True)
        serve(self.server, "/live", make_handler=lambda request: Topics())
        options = AcceptOptions(max_message_size=BIG, keep_request=True)
        self.server.add_route("/{name}", lambda request, name: accept(request, options).serve(Receiver()))
        _, port = tcp(self.server.listen("127.0.0.1:0"))
        self.server.start()
        self.url = f"ws://127.0.0.1:{port}"


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.stop()


def run_program(code: str, *arguments: str, seconds: float = 20) -> float:
    """Run it, and see that it had nothing to complain about; the seconds that it took from its last line on."""
    program = "import gows, sys, time\nurl = sys.argv[1]\n" + code + "\nprint(time.time())"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=Path(__file__).parents[2],
    )
    ended = time.time()
    assert (done.returncode, done.stderr) == (0, "")
    return ended - float(done.stdout.split()[-1])


LAST_WORDS = {
    "plain": ("gows.connect(url + 'plain').write_string('x')", 1001),
    "much": (f"gows.connect(url + 'much').write_binary(bytes({BIG}))", 1001),
    "handler": ("gows.connect(url + 'handler', gows.Handler()).write_string('x')", 1001),
    "loop": ("loop = Loop()\nloop.start()\ngows.connect(url + 'loop', loop=loop).write_string('x')", 1001),
    "handshake": (
        f"ws = gows.connect(url + 'handshake')\nws.write_binary(bytes({BIG}))\nws.close_handshake(4000)",
        4000,
    ),
    "close": (f"ws = gows.connect(url + 'close')\nws.write_binary(bytes({BIG}))\nws.close()", 1006),
    "with": ("with gows.connect(url + 'with') as ws: ws.write_string('x')", 1000),
    "reconnect": ("gows.connect(url + 'reconnect', gows.Handler(), reconnect=True).ws.write_string('x')", 1001),
    "stopped": (
        "c = gows.connect(url + 'stopped', gows.Handler(), reconnect=True)\nc.ws.write_string('x')\nc.stop()",
        1000,
    ),
    "atexit": ("ws = gows.connect(url + 'atexit')\natexit.register(ws.write_string, 'x')", 1001),
}
"""By path, what ends a program, and the code with which that connection is closed."""


@pytest.mark.slow
def test_last_words_arrive(site: Site) -> None:
    lines = ["import atexit", "from gows.reactor import Loop", *(code for code, _ in LAST_WORDS.values())]
    topics = [
        "with gows.TopicClient(url + 'live') as t: t.publish('a', 'with')",
        "gows.TopicClient(url + 'live').publish('a', 'none')",
        "t = gows.TopicClient(url + 'live')\nt.publish('a', 'close')\nt.close()",
    ]
    seconds = run_program("\n".join(lines + topics), site.url + "/")
    wait_until(lambda: len(site.messages) == len(LAST_WORDS) and len(site.codes) == len(LAST_WORDS))
    for name, (code, close_code) in LAST_WORDS.items():
        assert site.messages["/" + name] == ("x" if "'x'" in code else BIG)
        assert site.codes["/" + name] == close_code
    wait_until(lambda: len(site.published) == 3)
    assert set(site.published) == {"with", "none", "close"}
    assert seconds < 5


@pytest.mark.slow
def test_a_server_that_takes_nothing_does_not_keep_the_program() -> None:
    code = f"from gows.client import exit\nexit.STALL_SECONDS = 0.5\ngows.connect(url).write_binary(bytes({BIG << 2}))"
    ended = threading.Event()

    def script(peer: Peer) -> None:
        peer.accept()
        assert ended.wait(20)

    with ScriptedServer(script) as server:
        try:
            assert 0.4 < run_program(code, server.url) < 5
        finally:
            ended.set()


def test_clients_of_a_loop_are_ended_and_nobody_else(site: Site, loop: Loop) -> None:
    """The same without a program of its own: what is done at exit."""
    other = Server(loop=loop)
    codes: list[int | None] = []

    class Accepted(Handler):
        def on_close(self, ws: WebSocket) -> None:
            codes.append(ws.close_code)

    other.add_route("/", lambda request: accept(request).serve(Accepted()))
    _, port = tcp(other.listen("127.0.0.1:0"))
    peer = connect(f"ws://127.0.0.1:{port}/")  # by the shared loop
    client = connect(site.url + "/one", Handler(), reconnect=True, loop=loop)
    client.ws.write_string("x")
    blocking = connect(site.url + "/other", loop=loop)
    leaving._loops.discard(peer.context.loop)
    leaving.end_clients()
    assert loop.live_streams == 1  # the server's end
    assert not peer.closed
    assert client.wait(5)
    assert blocking.closed
    wait_until(lambda: site.codes == {"/one": 1001, "/other": 1001})
    assert site.messages == {"/one": "x"}
    assert codes == []
    with peer:
        pass
    wait_until(lambda: codes == [1000])
    wait_until(lambda: peer.context.loop.live_streams == loop.live_streams == 0)
    peer.context.loop.close()


def test_a_loop_that_does_not_turn_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch, loop: Loop) -> None:
    monkeypatch.setattr(leaving, "STALL_SECONDS", 0.05)
    go_on = threading.Event()
    leaving.flush_at_exit(loop)
    loop.call_soon(go_on.wait, 10)
    began = time.monotonic()
    leaving.end_clients()
    go_on.set()
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_leaving_the_block_waits_for_the_answers(site: Site, loop: Loop) -> None:
    site.slowly.set()
    with TopicClient(site.url + "/live", loop=loop) as client:
        futures = [client.publish("a", number) for number in range(3)]
    assert all(future.done() and future.exception() is None for future in futures)
    assert site.published == [0, 1, 2]


@pytest.mark.slow
def test_leaving_the_block_does_not_wait_for_ever(site: Site, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "ANSWER_SECONDS", 0.05)
    site.slowly.set()
    with TopicClient(site.url + "/live", loop=loop) as client:
        futures = [client.publish("a", number) for number in range(3)]
    assert not futures[-1].done()
    wait_until(lambda: site.published == [0, 1, 2])
    assert futures[-1].exception(5) is not None
    monkeypatch.setattr(topics, "ANSWER_SECONDS", 5.0)
    with pytest.raises(ZeroDivisionError), TopicClient(site.url + "/live", loop=loop) as client:  # noqa: PT012
        future = client.publish("a", 3)
        raise ZeroDivisionError
    wait_until(lambda: future.done())
