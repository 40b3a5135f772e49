"""The README and the guide say what is: their programs run, their tables are those of the code, their links lead
somewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
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

import gows
from gows import errors
from gows.__main__ import COMMANDS
from gows.bus.bus import Bus
from gows.codes import may_travel
from gows.reactor import Loop, shared_loop
from tests.support.needs import need_module
from tests.support.processes import ROOT, Children
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

README = (ROOT / "README.md").read_text("utf-8")
GUIDE = (ROOT / "docs" / "how-to" / "guide.md").read_text("utf-8")
TOPICS = (ROOT / "docs" / "reference" / "topics.md").read_text("utf-8")
DESIGN = (ROOT / "docs" / "explanation" / "design.md").read_text("utf-8")

BLOCK = re.compile(r"(?:<!-- example: (\w+) -->\n)?```python\n(.*?)```", re.DOTALL)
PROGRAMS: list[tuple[str, str]] = BLOCK.findall(README + GUIDE + TOPICS)


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
        text = re.sub(r'"(localhost)?:8080"', '"127.0.0.1:0"', text).replace('("", 8080)', '("127.0.0.1", 0)')
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
    with pytest.raises(InvalidStatus) as refusal, connect(f"ws://127.0.0.1:{port}/live/x", origin="http://evil.test"):
        pass
    assert refusal.value.response.status_code == 403
    assert fetch(port, "/live/kitchen")[0] == 400


def test_client(run: Callable[..., Running], url: str, shared: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    run("client", "localhost:8080", url).end()
    assert capsys.readouterr().out.splitlines()[:2] == ["hello", "how are you?"]


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
    with connect(f"{url}?token=secret", subprotocols=["chat.v1"], origin="https://app.example.com") as ws:
        assert (ws.subprotocol, ws.response.headers["X-User"]) == ("chat.v1", "ann")
    for query, origin, status in (("?token=guess", None, 401), ("?token=secret", "https://evil.test", 403)):
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


def test_every_program_is_run() -> None:
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert all(marker for marker, _ in PROGRAMS), "a program without a marker"
    assert {marker for marker, _ in PROGRAMS} <= tests


# ---------------------------------------------------------------------- the tables


def rows(name: str) -> list[list[str]]:
    """The cells of the table behind the marker, without their code marks."""
    table = README.partition(f"<!-- table: {name} -->\n")[2].partition("\n\n")[0]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_table_of_options_is_the_code() -> None:
    fields = {field.name: repr(field.default) for field in dataclasses.fields(gows.AcceptOptions)}
    assert {name: default for name, default, _ in rows("AcceptOptions")} == fields


def test_the_table_of_the_server_is_the_code() -> None:
    fields = [[field.name, repr(field.default)] for field in dataclasses.fields(gows.ServerOptions)]
    assert [row[:2] for row in rows("Server")] == fields


def test_the_table_of_admission_is_the_code() -> None:
    parameters = list(inspect.signature(gows.Admission).parameters.values())
    assert [row[:2] for row in rows("Admission")] == [[each.name, repr(each.default)] for each in parameters]


def test_the_table_of_close_codes_is_the_code() -> None:
    codes = [[str(code.value), code.name] for code in gows.CloseCode]
    assert [row[:2] for row in rows("CloseCode")] == codes
    marked = {int(code) for code, _, text in rows("CloseCode") if "may not travel" in text}
    assert marked == {code for code in gows.CloseCode if not may_travel(code)}


def test_the_table_of_errors_is_the_code() -> None:
    there = {name for name, each in vars(errors).items() if inspect.isclass(each) and issubclass(each, Exception)}
    assert {row[0] for row in rows("errors")} == there - {"GowsError"}
    assert there <= set(gows.__all__)


def test_the_commands_are_the_code() -> None:
    assert set(re.findall(r"^\| `gows (\w+)", README, re.MULTILINE)) == COMMANDS.keys()


def test_make_knows_what_is_promised() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"`?make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/how-to/guide.md",
        "docs/reference/topics.md",
        "docs/explanation/speed.md",
        "docs/explanation/design.md",
    ],
)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith("http"):
            continue
        assert ((ROOT / name).parent / path).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}, target


@pytest.mark.parametrize("text", [README, GUIDE, TOPICS, DESIGN], ids=["README", "guide", "topics", "design"])
def test_lines_are_readable_as_they_stand(text: str) -> None:
    code = re.sub(r"^\|.*$|```.*?```", "", text, flags=re.MULTILINE | re.DOTALL)
    assert [line for line in code.splitlines() if len(line) > 125] == []
