"""Every program in examples/ is run as a user runs it: it prints an address, is talked to there, and ends by Ctrl-C."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import gows
from tests.support.addresses import tcp
from tests.support.needs import need_module
from tests.support.processes import ROOT, START_SECONDS, Children
from tests.support.topic_server import topic_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


class Program:
    """A running example, and where it listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = ""
        self.complaints = ""
        assert process.stderr is not None
        self._stderr = process.stderr
        self._reader = threading.Thread(target=self._read_complaints)
        self._reader.start()

    def _read_complaints(self) -> None:
        self.complaints = self._stderr.read()

    def await_line(self, pattern: str) -> re.Match[str]:
        """Read what it says up to the line in which `pattern` is found."""
        assert self.process.stdout is not None
        overdue = threading.Timer(START_SECONDS, self.process.kill)
        overdue.start()
        try:
            for line in self.process.stdout:
                self.said += line
                found = re.search(pattern, line)
                if found:
                    return found
        finally:
            overdue.cancel()
        self.process.wait(10)
        self._reader.join(10)
        pytest.fail(f"no {pattern} in {self.said!r}; it complains: {self.complaints}")

    def await_port(self) -> int:
        """The port in the address that it says."""
        return int(self.await_line(r"127\.0\.0\.1\D+(\d+)")[1])

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def ended(self, expected: str = "", status: int = 0) -> None:
        """Wait for the end, which must be a good one, with no complaint but the expected one."""
        assert self.process.stdout is not None
        found = self.process.wait(15)
        self.said += self.process.stdout.read()
        self._reader.join(10)
        assert found == status, self.complaints
        assert self.complaints == expected


@contextmanager
def running(name: str, *arguments: str) -> Iterator[Program]:
    """The example as a process, in development mode: what Python warns of counts as a complaint."""
    with Children() as children, ExitStack() as stack:
        # Without the checks of locks: a KeyboardInterrupt amid the lines of a checked lock may leave it taken.
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDEVMODE": "1", "GOWS_DEBUG": "0"}
        command = [sys.executable, f"examples/{name}.py", *arguments]
        process = children.start(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stderr is not None
        stack.enter_context(process.stdout)
        stack.enter_context(process.stderr)
        stack.callback(children.end_all)  # first of all, for to close what a thread reads from would wait for that
        yield Program(process)


# ---------------------------------------------------------------------- what each of them does


def fetch(port: int, target: str, method: str = "GET", body: str | None = None, **headers: str) -> tuple[int, str, str]:
    """Status, body, and the cookie that was set."""
    browser = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    browser.request(method, target, body, headers)
    answer = browser.getresponse()
    text = answer.read().decode()
    browser.close()
    return answer.status, text, (answer.headers["Set-Cookie"] or "").partition(";")[0]


def play_echo(port: int) -> None:
    assert "new WebSocket" in fetch(port, "/")[1]
    with connect(f"ws://127.0.0.1:{port}/echo") as ws:
        for message in ("hello", b"\0\1"):
            ws.send(message)
            assert ws.recv(10) == message


def play_chat(port: int) -> None:
    assert "new WebSocket" in fetch(port, "/")[1]
    with connect(f"ws://127.0.0.1:{port}/chat") as ws:
        assert ws.recv(10) == "somebody came: 1 here"


def play_rooms(port: int) -> None:
    url = f"ws://127.0.0.1:{port}/room"
    with connect(f"{url}/kitchen") as ann, connect(f"{url}/cellar") as ben:
        assert ann.recv(10) == ben.recv(10) == "somebody came in"
        ann.send("in the kitchen")
        assert ann.recv(10) == "in the kitchen"
        with connect(f"{url}/cellar") as eve:
            assert eve.recv(10) == ben.recv(10) == "somebody came in"
            eve.send(b"not text")
            assert ben.recv(10) == "somebody left (1003)"
        ben.send("in the cellar")
        assert ben.recv(10) == "in the cellar"
    assert eve.close_code == 1003


def play_embedding(port: int) -> None:
    assert "new WebSocket" in fetch(port, "/")[1]
    with connect(f"ws://127.0.0.1:{port}/live") as ws:
        numbers = [int(ws.recv(10)) for _ in range(3)]
    assert all(all(number % divisor for divisor in range(2, number)) for number in numbers)
    assert numbers == sorted(set(numbers))


def play_flask_app(port: int) -> None:
    assert "Who are you?" in fetch(port, "/")[1]
    url = f"ws://127.0.0.1:{port}/talk"
    with pytest.raises(InvalidStatus) as refusal, connect(url):
        pass
    assert refusal.value.response.status_code == 401
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    status, _, cookie = fetch(port, "/login", "POST", urlencode({"user": "Zoë"}), **form)
    assert status == 302
    assert "Say something, Zoë" in fetch(port, "/", Cookie=cookie)[1]
    ours = {"Cookie": cookie}
    with connect(url, additional_headers=ours) as one, connect(url, additional_headers=ours) as two:
        two.send("here")
        assert two.recv(10) == "Zoë: here"  # so it has joined
        one.send("hello")
        assert two.recv(10) == "Zoë: hello"
        assert one.recv(10) in ("Zoë: here", "Zoë: hello")  # it may have joined later than the other
    foreign = {"Cookie": cookie, "Origin": "http://evil.test"}
    with pytest.raises(InvalidStatus) as refusal, connect(url, additional_headers=foreign):
        pass
    assert refusal.value.response.status_code == 403


def play_django_app(port: int) -> None:
    assert "have this page open" in fetch(port, "/")[1]
    assert fetch(port, "/count")[:2] == (426, "this address speaks WebSocket; send an upgrade")
    with connect(f"ws://127.0.0.1:{port}/count") as one:
        assert one.recv(10) == "1"
        with connect(f"ws://127.0.0.1:{port}/count") as two:
            assert one.recv(10) == two.recv(10) == "2"
        assert one.recv(10) == "1"


def play_line_echo(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"hello\n")
        assert sock.recv(100) == b"hello\n"


SERVERS: dict[str, Callable[[int], None]] = {
    "chat": play_chat,
    "django_app": play_django_app,
    "echo": play_echo,
    "embedding": play_embedding,
    "flask_app": play_flask_app,
    "line_echo": play_line_echo,
    "rooms": play_rooms,
}

COMPLAINTS = {"django_app": "Upgrade Required: /count\n"}
"""Django logs the answers that are errors."""

OTHERS = {"async_client", "client", "tls"}
"""Each has a test of its own below."""

ASGI = {"channels_app", "fastapi_app", "litestar_app", "quart_app", "starlette_app", "strawberry_app"}
"""They are compared with what they are under uvicorn, in tests/integration/test_asgi_frameworks.py."""

STAYS = {"echo": "/echo", "chat": "/chat", "embedding": "/live", "rooms": "/room/x", "django_app": "/count"}
"""Where a connection is kept open, to see how the program leaves it."""


def test_every_example_is_tested() -> None:
    assert set(EXAMPLES) == SERVERS.keys() | OTHERS | ASGI


@pytest.mark.parametrize("name", SERVERS)
def test_an_example_that_serves(name: str) -> None:
    if name in ("flask_app", "django_app"):
        need_module(name.partition("_")[0])
    with running(name, "127.0.0.1:0") as program:
        port = program.await_port()
        SERVERS[name](port)
        program.interrupt()
        program.ended(COMPLAINTS.get(name, ""))


@pytest.mark.parametrize("name", STAYS)
def test_who_is_still_connected_is_told(name: str) -> None:
    with running(name, "127.0.0.1:0") as program:
        port = program.await_port()
        with connect(f"ws://127.0.0.1:{port}{STAYS[name]}") as ws:
            program.interrupt()
            for _ in ws:  # ends with a close that is in order
                pass
            assert ws.close_code == gows.CloseCode.GOING_AWAY
        program.ended()


def test_client() -> None:
    """Asks, asks with a hundred connections, and watches until Ctrl-C; and says when nobody is there."""
    with running("echo", "127.0.0.1:0") as server:
        url = f"ws://127.0.0.1:{server.await_port()}/echo"
        for mode, said in (("ask", "hello\nb'\\x00\\x01\\x02'\n"), ("many", "100 of 100 were answered\n")):
            with running("client", mode, url) as program:
                program.ended()
                assert program.said == said
        with running("client", "watch", url) as program:
            program.await_line("heard here I am")
            program.interrupt()
            program.ended()
            assert program.said == "connected\nheard here I am\nlost: 1000 \n"
        server.interrupt()
        server.ended()
    with running("client", "ask", url) as program:
        program.ended(f"cannot connect to {url[5:-5]}: [Errno 111] Connection refused\n", status=1)


def test_async_client() -> None:
    """The same in asyncio; and topics, of the example with rooms."""
    with running("echo", "127.0.0.1:0") as server:
        url = f"ws://127.0.0.1:{server.await_port()}/echo"
        with running("async_client", "many", url) as program:
            program.ended()
            assert program.said == "100 of 100 were answered\n"
        with running("async_client", "watch", url) as program:
            program.await_line("heard 'here I am'")
            program.interrupt()
            program.ended()
            assert program.said == "connected\nheard 'here I am'\n"
        server.interrupt()
        server.ended()
    with topic_server() as topics:
        host, port = tcp(topics.addresses[0])
        topics.publish("kept", "news")
        with running("async_client", "listen", f"ws://{host}:{port}/live", "kept") as program:
            program.await_line("kept: news")
            program.interrupt()
            program.ended()


def test_tls(tmp_path: Path) -> None:
    authority = need_module("trustme").CA()
    certificate = authority.issue_cert("127.0.0.1")
    trusted, cert, key = (tmp_path / name for name in ("trusted.pem", "cert.pem", "key.pem"))
    authority.cert_pem.write_to_path(trusted)
    for part in certificate.cert_chain_pems:
        part.write_to_path(cert, append=True)
    certificate.private_key_pem.write_to_path(key)
    with running("tls", "serve", str(cert), str(key), "127.0.0.1:0") as server:
        url = f"wss://127.0.0.1:{server.await_port()}/echo"
        with running("tls", "ask", str(trusted), url) as client:
            client.ended()
            assert client.said == "nobody on the way can read this\n"
        server.interrupt()
        server.ended()


@pytest.mark.parametrize("name", EXAMPLES)
def test_its_head_says_how_to_run_it(name: str) -> None:
    text = (ROOT / "examples" / f"{name}.py").read_text("utf-8")
    head = text.partition('"""')[2].partition('"""')[0]
    assert f"python examples/{name}.py" in head
    assert len(head.splitlines()[0]) > 20
