"""Every program in the README and in docs/ is run. tests/test_docs.py looks at their tables, links and lines."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

import gows
from gows.bus.bus import Bus
from gows.reactor import Loop, shared_loop
from tests.support.needs import need_module
from tests.support.processes import ROOT, Children
from tests.support.proxies import FakeProxy
from tests.support.redis_server import RedisServer
from tests.support.scripted import ScriptedServer
from tests.support.waiting import wait_until

DECLARATIONS = ROOT / "docs" / "explanation" / "design.md"
"""Its blocks are no programs."""
PAGES = [ROOT / "README.md", *sorted({*(ROOT / "docs").rglob("*.md")} - {DECLARATIONS})]

BLOCK = re.compile(r"(?:<!-- example: (\w+) -->\n)?```python\n(.*?)```", re.DOTALL)
PROGRAMS: list[tuple[str, str]] = [found for page in PAGES for found in BLOCK.findall(page.read_text("utf-8"))]


# ---------------------------------------------------------------------- the programs


class Running:
    """A program of the text, in a thread of its own, as it stands but for the address."""

    def __init__(self, text: str, monkeypatch: pytest.MonkeyPatch, **names: Any) -> None:
        self.names = {"__name__": "__main__"} | names
        self.servers: list[gows.Server] = []
        self.loops: list[Loop] = []
        self.http_servers: list[ThreadingHTTPServer] = []
        self.error: BaseException | None = None
        self._watch(monkeypatch)
        text = re.sub(r'"(localhost|127\.0\.0\.1)?:8080"', '"127.0.0.1:0"', text).replace(
            '("", 8080)', '("127.0.0.1", 0)'
        )
        self._thread = threading.Thread(target=self._run, args=[text])
        self._thread.start()

    def _watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        server_listen, loop_listen, http_init = gows.Server.listen, Loop.listen, ThreadingHTTPServer.__init__

        def listen(server: gows.Server, address: Any, **settings: Any) -> Any:
            bound = server_listen(server, address, **settings)
            self.servers.append(server)
            return bound

        def listen_alone(loop: Loop, *arguments: Any, **settings: Any) -> Any:
            listener = loop_listen(loop, *arguments, **settings)
            self.loops.append(loop)
            if isinstance(listener.address, tuple):
                self.port = listener.address[1]
            return listener

        def init(server: ThreadingHTTPServer, *arguments: Any) -> None:
            http_init(server, *arguments)
            server.daemon_threads = True
            self.http_servers.append(server)

        monkeypatch.setattr(gows.Server, "listen", listen)
        monkeypatch.setattr(Loop, "listen", listen_alone)
        monkeypatch.setattr(ThreadingHTTPServer, "__init__", init)
        monkeypatch.setattr(BaseHTTPRequestHandler, "log_message", lambda *arguments: None)

    def _run(self, text: str) -> None:
        try:
            exec(compile(text, "program", "exec"), self.names)
        except BaseException as error:
            self.error = error

    def serving(self) -> int:
        """Wait until it serves; the port."""
        wait_until(lambda: self.servers or self.loops or self.http_servers or not self._thread.is_alive())
        if self.error is not None:
            raise self.error
        if self.http_servers:
            return self.http_servers[0].server_port
        return self.port

    def serving_all(self, count: int) -> int:
        """Wait until it listens at so many addresses; the port of the last."""
        wait_until(lambda: len(self.loops) == count or self.error is not None)
        return self.serving()

    def end(self) -> None:
        """Wait for its end, which is brought about if it serves."""
        for server in self.servers:
            server.stop()
        for http_server in self.http_servers:
            http_server.shutdown()
            http_server.server_close()
        for loop in self.loops:
            loop.stop()
        self._thread.join(15)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


def program(name: str) -> str:
    (found,) = (text for marker, text in PROGRAMS if marker == name)
    return found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    programs: list[Running] = []

    def start(name: str, old: str = "", new: str = "", **names: Any) -> Running:
        programs.append(Running(program(name).replace(old, new) if old else program(name), monkeypatch, **names))
        return programs[-1]

    yield start
    for started in programs:
        started.end()


@pytest.fixture
def url(run: Callable[..., Running]) -> str:
    """Where the first program of the README serves."""
    return f"127.0.0.1:{run('first').serving()}"


@pytest.fixture
def shared() -> Iterator[Loop]:
    """The loop of all clients; closed in the end."""
    loop = shared_loop()
    yield loop
    wait_until(lambda: not loop.live_streams)
    loop.close()


def fetch(port: int, target: str, data: bytes | None = None) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{target}", data, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_first(run: Callable[..., Running], capsys: pytest.CaptureFixture[str]) -> None:
    assert len(program("first").splitlines()) <= 26
    running = run("first")
    port = running.serving()
    assert fetch(port, "/") == (200, "<h1>It works</h1>")
    with connect(f"ws://127.0.0.1:{port}/echo") as ws:
        assert ws.recv(10) == "hello"
        ws.send("x")
        assert ws.recv(10) == "x"
        ws.close(4000, "enough")
    running.end()
    assert capsys.readouterr().out == "gone: 4000 enough\n"


def test_embedding(run: Callable[..., Running]) -> None:
    running = run("embedding", server=gows.Server())
    running.serving()
    running.end()


@pytest.mark.slow
def test_flask(run: Callable[..., Running]) -> None:
    need_module("flask")
    port = run("flask").serving()
    with connect(f"ws://127.0.0.1:{port}/live/kitchen") as ws:
        ws.send("nobody answers")
    with (
        pytest.raises(InvalidStatus) as refusal,
        connect(f"ws://127.0.0.1:{port}/live/x", origin=Origin("http://evil.test")),
    ):
        pass
    assert refusal.value.response.status_code == 403
    assert fetch(port, "/live/kitchen")[0] == 400


def test_client(run: Callable[..., Running], url: str, shared: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    run("client", "localhost:8080", url).end()
    assert capsys.readouterr().out.splitlines()[:2] == ["hello", "how are you?"]


def test_asyncio(run: Callable[..., Running]) -> None:
    over = threading.Event()
    try:
        port = run("asyncio", "asyncio.Event().wait()", "asyncio.to_thread(over.wait)", over=over).serving()
        assert fetch(port, "/") == (200, "hello")
        with connect(f"ws://127.0.0.1:{port}/ws") as ws:
            ws.send("hi")
            assert ws.recv(timeout=10) == "you said hi"
    finally:
        over.set()


def test_asyncdrain(run: Callable[..., Running], capsys: pytest.CaptureFixture[str]) -> None:
    over = threading.Event()
    try:
        port = run("asyncdrain", "asyncio.Event().wait()", "asyncio.to_thread(over.wait)", over=over).serving()
        with connect(f"ws://127.0.0.1:{port}/") as ws:
            assert [ws.recv(timeout=10) for _ in range(1000)] == [str(number) for number in range(1000)]
            assert ws.recv(timeout=10) == "a piece, " * 1000
            with pytest.raises(ConnectionClosed):
                ws.recv(timeout=10)
        wait_until(lambda: capsys.readouterr().out == "closed 1000\n")
    finally:
        over.set()


def test_asyncclient(run: Callable[..., Running], url: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("asyncclient", "localhost:8080", url).end()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["hello", "how are you?"]
    assert float(lines[2]) >= 0.0


def test_asyncreconnect(run: Callable[..., Running], url: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("asyncreconnect", "localhost:8080", url).end()
    assert capsys.readouterr().out.splitlines()[:2] == ["hello", "here I am"]


def test_client_proxy(run: Callable[..., Running], url: str, shared: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeProxy(int(url.rpartition(":")[2]), user=("user", "password"))
    with ScriptedServer(fake.http) as proxy:
        run("client_proxy", "proxy.example.com:3128", f"127.0.0.1:{proxy.port}").end()
    assert "hello" in capsys.readouterr().out.splitlines()
    assert fake.asked == [("server.example.com", 80)]


def test_reconnect(run: Callable[..., Running], url: str, shared: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    running = run("reconnect", "localhost:8080", url)
    running.end()
    assert running.names["client"].stopped
    said: list[str] = []

    def gone() -> bool:
        said.append(capsys.readouterr().out)
        return "gone: 1000" in "".join(said)

    wait_until(gone)


def test_pages(run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    port = run("pages").serving()
    assert fetch(port, "/") == (200, "<h1>Hello</h1>")
    assert fetch(port, "/greet/Ann") == (200, "Hello, Ann")
    assert fetch(port, "/greet/Ann?greeting=Hi") == (200, "Hi, Ann")
    assert fetch(port, "/greet/Ann?greeting=Hi", b"greeting=Ahoi") == (200, "Ahoi, Ann")
    for place in ("files", "static"):
        assert fetch(port, f"/{place}/echo.py") == (200, (ROOT / "examples" / "echo.py").read_text("utf-8"))
        assert fetch(port, f"/{place}/../README.md")[0] == 404
    assert fetch(port, "/teapot") == (418, "short and stout\n")
    assert fetch(port, "/files/echo.py", b"posted")[0] == 405


def test_handlers(run: Callable[..., Running], capsys: pytest.CaptureFixture[str]) -> None:
    running = run("handlers")
    with connect(f"ws://127.0.0.1:{running.serving()}/count/ann") as ws:
        assert ws.recv(10) == '{"welcome":"ann","from":"/count/ann"}'
        ws.send("a")
        ws.send(b"\0")
        ws.send("b")
        assert [ws.recv(10) for _ in range(3)] == ["1: a", b"\0", "3: b"]
    running.end()
    assert capsys.readouterr().out == "ann left with 1000 \n"


def test_welcome(run: Callable[..., Running]) -> None:
    url = f"ws://127.0.0.1:{run('welcome').serving()}/chat"
    ours = Origin("https://app.example.com")
    with connect(f"{url}?token=secret", subprotocols=[Subprotocol("chat.v1")], origin=ours) as ws:
        assert ws.response is not None
        assert (ws.subprotocol, ws.response.headers["X-User"]) == ("chat.v1", "ann")
    for query, origin, status in (("?token=guess", None, 401), ("?token=secret", Origin("https://evil.test"), 403)):
        with pytest.raises(InvalidStatus) as refusal, connect(url + query, origin=origin):
            pass
        assert refusal.value.response.status_code == status


def test_broadcast(run: Callable[..., Running]) -> None:
    url = f"ws://127.0.0.1:{run('broadcast').serving()}"
    with connect(f"{url}/hall") as one, connect(f"{url}/hall") as two, connect(f"{url}/desk") as desk:
        one.send("hello")
        assert two.recv(10) == "hello"
        assert [desk.recv(10), desk.recv(10)] == ["hello", "somebody spoke"]
        desk.send("yes?")
        assert [one.recv(10), two.recv(10)] == ["yes?", "yes?"]


def test_topics(run: Callable[..., Running], capsys: pytest.CaptureFixture[str]) -> None:
    running = run("topics")
    url = f"ws://127.0.0.1:{running.serving()}/trade"
    (server,) = running.servers
    running._thread.join(10)  # what it publishes was published to nobody
    with connect(url) as one, connect(url) as two:
        wait_until(lambda: server.subscriber_count("prices.eu.iron") == 2)
        server.publish("prices.eu.iron", "90")
        assert [one.recv(10), two.recv(10)] == ["90", "90"]
        two.send("to nobody, for nobody has subscribed")
    running.end()
    assert capsys.readouterr().out == "{} 0\n"


def test_topicclient(run: Callable[..., Running], shared: Loop) -> None:
    port = run("browser").serving()
    run("topicclient", "localhost:8080", f"127.0.0.1:{port}").end()


def test_asynctopics(run: Callable[..., Running], capsys: pytest.CaptureFixture[str]) -> None:
    port = run("browser").serving()
    run("asynctopics", "localhost:8080", f"127.0.0.1:{port}").end()
    assert "nothing new" in capsys.readouterr().out


def test_history(run: Callable[..., Running]) -> None:
    running = run("history")
    port = running.serving()
    running._thread.join(10)
    with connect(f"ws://127.0.0.1:{port}/live", subprotocols=["gows.v1"]) as ws:  # type: ignore[list-item]
        for topic in ("room.kitchen", "news", "price"):
            ws.send(json.dumps({"type": "subscribe", "topic": topic}))
            assert json.loads(ws.recv(10))["offset"] == 1
    running.end()


def test_presence(run: Callable[..., Running], capsys: pytest.CaptureFixture[str]) -> None:
    running = run("presence")
    with connect(f"ws://127.0.0.1:{running.serving()}/live", subprotocols=["gows.v1"]) as ws:  # type: ignore[list-item]
        ws.send(json.dumps({"type": "subscribe", "topic": "room.kitchen"}))
        assert json.loads(ws.recv(10))["me"]
        (server,) = running.servers
        assert [member.info for member in server.members("room.kitchen")] == [{"name": None}]
    running.end()
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.slow
def test_redis(run: Callable[..., Running], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Children() as children:
        redis = RedisServer(children, tmp_path, durable=False)
        running = run("redis", "localhost:6379", f"127.0.0.1:{redis.port}")
        with connect(f"ws://127.0.0.1:{running.serving()}/live", subprotocols=["gows.v1"]) as ws:  # type: ignore[list-item]
            running._thread.join(10)
            ws.send(json.dumps({"type": "subscribe", "topic": "news", "history": 1}))
            assert json.loads(ws.recv(10))["type"] == "subscribed"
            assert json.loads(ws.recv(10))["data"] == "rain"
        running.end()
    assert capsys.readouterr().out == "Redis has it\n"


def test_browser(run: Callable[..., Running]) -> None:
    port = run("browser").serving()
    with connect(f"ws://127.0.0.1:{port}/live", subprotocols=["gows.v1"]) as ws:  # type: ignore[list-item]
        for topic, answer in (("public.*", "subscribed"), ("private", "error")):
            ws.send(json.dumps({"type": "subscribe", "topic": topic}))
            assert json.loads(ws.recv(10))["type"] == answer
    assert "class Gows" in fetch(port, "/gows.js")[1]


def test_bus(run: Callable[..., Running], tmp_path: Path) -> None:
    running = run("bus", "/tmp/gows-guide-bus", str(tmp_path / "bus"))
    with connect(f"ws://127.0.0.1:{running.serving()}/ws") as ws:
        assert ws.recv(10) == "1 are here"
        with closing(Bus(str(tmp_path / "bus"), "another")) as other:
            other.start()
            wait_until(lambda: other.peers)
            assert list(other.ask("count", timeout=10).values()) == [b"1"]


def test_drain(run: Callable[..., Running]) -> None:
    with connect(f"ws://127.0.0.1:{run('drain').serving()}/feed", max_size=None) as ws:
        assert sum(len(message) for message in ws) == 160 * 65536
        assert ws.close_code == 1000


def test_chunks(run: Callable[..., Running]) -> None:
    content = bytes(range(256)) * 20_000
    with connect(f"ws://127.0.0.1:{run('chunks').serving()}/digest") as ws:
        for message in (content, [content[:100], content[100:]]):
            ws.send(message)
            assert ws.recv(10) == f"sha256 {hashlib.sha256(content).hexdigest()}"


@pytest.mark.slow
def test_http_server(run: Callable[..., Running], shared: Loop) -> None:
    port = run("http_server").serving()
    with connect(f"ws://127.0.0.1:{port}/") as ws:
        ws.send("nobody answers")
    assert fetch(port, "/")[0] == 426


def test_listen(run: Callable[..., Running], tmp_path: Path) -> None:
    path = tmp_path / "sock"
    running = run("listen", "/tmp/gows-guide.sock", str(path))
    assert fetch(running.serving_all(2), "/") == (200, "hello")
    assert path.stat().st_mode & 0o777 == 0o666
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK")
    running.end()
    assert not path.exists()


def test_admission(run: Callable[..., Running]) -> None:
    port = run("admission").serving()
    with connect(f"ws://127.0.0.1:{port}/chat") as ws:
        for _ in range(101):
            ws.send("x")
        with pytest.raises(ConnectionClosed):
            ws.recv(10)
        assert (ws.close_code, ws.close_reason) == (1008, "too many messages a second")
    assert fetch(port, "/refused")[1].startswith('{"max_connections":0,"per_ip":0,')


class Supervised:
    """A program that calls gows.run, as a process of its own."""

    def __init__(self, children: Children, name: str, file: Path) -> None:
        text = program(name).replace('":8080"', '"127.0.0.1:0"')
        if "ready=" not in text:
            text = text.replace("drain=10", "drain=10, ready=lambda addresses: print(addresses[0], flush=True)")
        file.write_text(text)
        self.process = children.start([sys.executable, str(file)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(re.findall(r"\d+", self.process.stdout.readline())[-1])

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(20) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.mark.slow
def test_run(tmp_path: Path) -> None:
    with Children() as children:
        running = Supervised(children, "run", tmp_path / "site.py")
        with connect(f"ws://127.0.0.1:{running.port}/ws") as ws:
            ws.send("nobody answers")
        assert fetch(running.port, "/-/ready") == (200, "ready\n")
        running.end()


@pytest.mark.slow
def test_processes(tmp_path: Path) -> None:
    with Children() as children:
        running = Supervised(children, "processes", tmp_path / "hall.py")
        with contextlib.ExitStack() as stack:
            url = f"ws://127.0.0.1:{running.port}/hall"
            peers = [stack.enter_context(connect(url)) for _ in range(8)]
            peers[0].send("hello")
            for peer in peers:
                while peer.recv(10) != "hello":
                    pass
        running.end()


def test_reactor(run: Callable[..., Running]) -> None:
    running = run("reactor")
    with socket.create_connection(("127.0.0.1", running.serving()), timeout=10) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"HELLO"


def test_tutorial_page(run: Callable[..., Running]) -> None:
    assert fetch(run("tutorial_page").serving(), "/") == (200, "<h1>Hello</h1>")


def test_tutorial_websocket(run: Callable[..., Running], capsys: pytest.CaptureFixture[str]) -> None:
    running = run("tutorial_websocket")
    with connect(f"ws://127.0.0.1:{running.serving()}/greet") as ws:
        assert ws.recv(10) == "What is your name?"
        ws.send("Ann")
        assert ws.recv(10) == "Hello, Ann!"
    running.end()
    assert capsys.readouterr().out == "closed with 1000\n"


def test_tutorial_room(run: Callable[..., Running]) -> None:
    port = run("tutorial_room").serving()
    assert "new WebSocket" in fetch(port, "/")[1]
    with connect(f"ws://127.0.0.1:{port}/chat") as one, connect(f"ws://127.0.0.1:{port}/chat") as two:
        one.send("hello")
        assert [one.recv(10), two.recv(10)] == ["hello", "hello"]


@pytest.mark.slow
def test_tutorial_topics(tmp_path: Path) -> None:
    with Children() as children:
        running = Supervised(children, "tutorial_topics", tmp_path / "chat.py")
        assert "/gows.js" in fetch(running.port, "/")[1]
        with connect(f"ws://127.0.0.1:{running.port}/live", subprotocols=["gows.v1"]) as ws:  # type: ignore[list-item]
            ws.send(json.dumps({"type": "publish", "topic": "room.kitchen", "data": "hello"}))
            assert json.loads(ws.recv(10))["type"] == "published"
            ws.send(json.dumps({"type": "subscribe", "topic": "room.kitchen", "history": 20}))
            assert json.loads(ws.recv(10))["type"] == "subscribed"
            assert json.loads(ws.recv(10))["data"] == "hello"
        running.end()


def closed(ws: Any) -> tuple[int | None, str | None]:
    """Wait for the end of `ws`; the code and the reason of the server's close frame."""
    with contextlib.suppress(ConnectionClosed):
        for _ in ws:
            pass
    return ws.close_code, ws.close_reason


def test_asgi(run: Callable[..., Running]) -> None:
    port = run("asgi").serving()
    assert fetch(port, "/anything", b"x" * 3_000_000) == (200, "3000000 bytes\n")
    assert json.loads(fetch(port, "/status")[1]) == {"websockets": 0}


def test_wsgi(run: Callable[..., Running]) -> None:
    port = run("wsgi").serving()
    with connect(f"ws://127.0.0.1:{port}/live") as ws:
        wait_until(lambda: fetch(port, "/") == (200, "1 connections"))
        assert fetch(port, "/news", b"rain")[0] == 202
        assert ws.recv(10) == b"rain"
        assert fetch(port, "/kick", b"")[0] == 202
        assert closed(ws) == (4403, "bye")
    assert fetch(port, "/live")[0] == 426


def post_json(port: int, target: str, data: bytes) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{target}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def check_views(port: int, data: bytes, received: str) -> None:
    """What the views of the pages on Flask and Django do."""
    with connect(f"ws://127.0.0.1:{port}/live/ann") as ann, connect(f"ws://127.0.0.1:{port}/live/bob") as bob:
        wait_until(lambda: json.loads(fetch(port, "/online")[1]) == {"connections": 2})
        wait_until(lambda: post_json(port, "/orders/ann", data) == {"subscribers": 1})
        assert ann.recv(10) == received
        assert post_json(port, "/kick/ann", b"{}") == {"kicked": 1}
        assert closed(ann) == (4403, "kicked")
        with pytest.raises(TimeoutError):
            bob.recv(0.1)


@pytest.mark.slow
def test_flask_views(run: Callable[..., Running]) -> None:
    need_module("flask")
    check_views(run("flask_views").serving(), b'{"item":7}', '{"item":7}')


@pytest.mark.slow
def test_flask_context(run: Callable[..., Running]) -> None:
    need_module("flask")
    with connect(f"ws://127.0.0.1:{run('flask_context').serving()}/greet?name=Ann") as ws:
        assert ws.recv(10) == "Ahoy, Ann"


DJANGO_SITE = """
import os, sys

import django
from django.conf import settings

os.chdir(sys.path[0])

settings.configure(
    SECRET_KEY="only for tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="views",
    MIDDLEWARE=["views.RefusedUpgrades"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.db"}},
)
django.setup()

from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

recorder = MigrationRecorder(connection)
recorder.ensure_schema()
recorder.record_applied("shop", "0001")
connection.close()

import views

server = views.make_server()
server.listen_and_serve("127.0.0.1:0", ready=lambda: print(server.addresses[0][1], flush=True))
"""


@pytest.mark.slow
def test_django_views(tmp_path: Path) -> None:
    need_module("django")
    (tmp_path / "views.py").write_text(program("django_views"))
    (tmp_path / "tested.py").write_text(DJANGO_SITE)
    with Children() as children:
        process = children.start([sys.executable, str(tmp_path / "tested.py")], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout:
            port = int(process.stdout.readline())
            check_views(port, b"rain", "rain")
            with connect(f"ws://127.0.0.1:{port}/live/eve") as ws:
                ws.send("shop")
                assert ws.recv(10) == "1"
            with (
                pytest.raises(InvalidStatus) as refusal,
                connect(f"ws://127.0.0.1:{port}/live/x", origin=Origin("http://a.b")),
            ):
                pass
            assert refusal.value.response.status_code == 403
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.slow
def test_sqlalchemy(run: Callable[..., Running], tmp_path: Path) -> None:
    sqlalchemy = need_module("sqlalchemy")
    url = f"sqlite:///{tmp_path / 'app.db'}"
    made = sqlalchemy.create_engine(url)
    with made.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE lines (line TEXT)"))
    made.dispose()
    running = run("sqlalchemy", "sqlite:///app.db", url)
    with connect(f"ws://127.0.0.1:{running.serving()}/lines") as ws:
        for count in ("1", "2"):
            ws.send("a line")
            assert ws.recv(10) == count
        pool = running.names["engine"].pool
        wait_until(lambda: pool.checkedout() == 0)
    running.end()
    running.names["engine"].dispose()


def test_timers(run: Callable[..., Running]) -> None:
    running = run("timers", "10.0, self", "0.3, self")
    port = running.serving()
    with connect(f"ws://127.0.0.1:{port}/quiz") as ws:
        assert ws.recv(10) == "7 * 8?"
        ws.send("56")
        assert ws.recv(10) == "right"
        assert closed(ws) == (4408, "too late")
    with connect(f"ws://127.0.0.1:{port}/live", subprotocols=["gows.v1"]) as ws:  # type: ignore[list-item]
        ws.send(json.dumps({"type": "subscribe", "topic": "clock"}))
        assert [json.loads(ws.recv(10))["type"] for _ in range(2)] == ["subscribed", "message"]


def test_publish_http(run: Callable[..., Running]) -> None:
    port = run("publish_http").serving()
    with connect(f"ws://127.0.0.1:{port}/live", subprotocols=["gows.v1"]) as ws:  # type: ignore[list-item]
        ws.send(json.dumps({"type": "subscribe", "topic": "news"}))
        assert json.loads(ws.recv(10))["type"] == "subscribed"
        assert fetch(port, "/publish/news", b"{}")[0] == 401
        headers = {"Authorization": "Bearer change-me"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/publish/news", b'{"text":"rain"}', headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert json.load(answer) == {"subscribers": 1}
        assert json.loads(ws.recv(10))["data"] == {"text": "rain"}


@pytest.mark.slow
def test_publish_redis(run: Callable[..., Running], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Children() as children:
        redis = RedisServer(children, tmp_path, durable=False)
        serving = run("redis", "localhost:6379", f"127.0.0.1:{redis.port}")
        with connect(f"ws://127.0.0.1:{serving.serving()}/live", subprotocols=["gows.v1"]) as ws:  # type: ignore[list-item]
            wait_until(lambda: "Redis has it" in capsys.readouterr().out)  # the program that serves has published
            ws.send(json.dumps({"type": "subscribe", "topic": "news"}))
            assert json.loads(ws.recv(10))["offset"] == 1
            run("publish_redis", "localhost:6379", f"127.0.0.1:{redis.port}").end()
            assert json.loads(ws.recv(10))["data"] == "rain"
        serving.end()
    assert capsys.readouterr().out == "Redis has it\n"


@pytest.mark.slow
def test_activation(tmp_path: Path) -> None:
    with Children() as children:
        running = Supervised(children, "activation", tmp_path / "app.py")
        with connect(f"ws://127.0.0.1:{running.port}/ws") as ws:
            ws.send("nobody answers")
        running.end()


def test_behind_proxy(run: Callable[..., Running]) -> None:
    port = run("behind_proxy").serving()
    named = {"X-Forwarded-For": "192.0.2.7"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/whoami", headers=named)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert "192.0.2.7" in answer.read().decode()
    with connect(f"ws://127.0.0.1:{port}/ws", additional_headers=named) as ws:
        assert "192.0.2.7" in ws.recv(10)
    assert fetch(port, "/-/ready") == (200, "ready\n")


def test_every_program_is_run() -> None:
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert all(marker for marker, _ in PROGRAMS), "a program without a marker"
    assert {marker for marker, _ in PROGRAMS} <= tests
