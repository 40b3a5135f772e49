"""Frameworks of ASGI, each as in examples/: gows answers as uvicorn does, over HTTP and WebSockets.

What is compared is all that a client sees but the fields that are a server's own: Date, Server, and how an answer is
framed. (uvicorn sends one in chunks if its end comes by itself.)
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.support.needs import need_module
from tests.support.processes import ROOT, START_SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

EXAMPLES = ROOT / "examples"
SECONDS = 20.0
OWN = {"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"}
"""Fields that a server adds."""

FRAMEWORKS = {
    "fastapi": "fastapi",
    "starlette": "starlette",
    "channels": "channels",
    "quart": "quart",
    "litestar": "litestar",
    "strawberry": "strawberry",
}
"""By the name of the example: the module that it needs."""


@contextmanager
def program(*command: str, said: str) -> Iterator[int]:
    """Run a server until the block ends; the port, which it says in a line with `said`. It must end well by SIGINT."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(EXAMPLES), str(ROOT)]), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    ended = False
    try:
        end = time.monotonic() + START_SECONDS
        for line in process.stdout:
            lines.append(line)
            found = re.search(said + r".*?(\d+)\D*$", line)
            if found or time.monotonic() > end:
                break
        assert found, lines
        yield int(found[1])
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=SECONDS)
        ended = True
        assert process.returncode in (0, 130), (process.returncode, rest)
        assert "Task was destroyed" not in rest, rest
    finally:
        if not ended:
            process.kill()
            process.communicate()


def gows(name: str) -> Any:
    return program(str(EXAMPLES / f"{name}_app.py"), "127.0.0.1:0", said="serving on")


def uvicorn(name: str) -> Any:
    return program("-m", "uvicorn", f"{name}_app:app", "--port", "0", "--no-access-log", said="running on http://")


# ---------------------------------------------------------------------- what a client sees


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """A status, the fields that the application has written, and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request(method, path, body, headers, encode_chunked=not isinstance(body, bytes | None))
        answer = connection.getresponse()
        fields = {name.lower(): value for name, value in answer.getheaders() if name.lower() not in OWN}
        if "allow" in fields:  # some frameworks have it from a set
            fields["allow"] = ", ".join(sorted(fields["allow"].split(", ")))
        return answer.status, fields, answer.read()
    finally:
        connection.close()


def talk(port: int, path: str, *messages: str | bytes, subprotocols: tuple[str, ...] = ()) -> Any:
    """What a WebSocket answers, and how it ends; or the status of the refusal."""
    heard: list[Any] = []
    try:
        with connect(
            f"ws://127.0.0.1:{port}{path}",
            subprotocols=[Subprotocol(name) for name in subprotocols] or None,
            proxy=None,
            compression=None,
            open_timeout=SECONDS,
        ) as ws:
            assert ws.response is not None
            heard += [ws.subprotocol, ws.response.headers.get("x-name")]
            try:
                for message in messages:
                    ws.send(message)
                    heard.append(ws.recv(timeout=SECONDS))
            except ConnectionClosed:
                heard.append((ws.close_code, ws.close_reason))
    except InvalidStatus as error:
        return error.response.status_code
    return heard


def until_done(port: int) -> Any:
    """What was done in the background, which may take a moment."""
    end = time.monotonic() + SECONDS
    while True:
        found = ask(port, "GET", "/done")
        if json.loads(found[2]) or time.monotonic() > end:
            return found


def pages(port: int) -> dict[str, Any]:
    """One conversation with an application of examples/."""
    chunks = [b"in ", b"pieces"]
    return {
        "page": ask(port, "GET", "/"),
        "head": ask(port, "HEAD", "/"),
        "body": ask(port, "POST", "/upper", b"small"),
        "large body": ask(port, "POST", "/upper", b"large" * 100_000),
        "chunked body": ask(port, "POST", "/upper", iter(chunks)),
        "waits": ask(port, "POST", "/upper", b"body", Expect="100-continue"),
        "stream": ask(port, "GET", "/count?upto=5"),
        "later": ask(port, "POST", "/later?what=dishes"),
        "done": until_done(port),
        "missing": ask(port, "GET", "/missing"),
        "wrong method": ask(port, "DELETE", "/upper"),
        "talk": talk(port, "/talk?name=ann", "hi", "hällo", "", subprotocols=("x", "chat")),
        "bye": talk(port, "/talk?name=ann", "hi", "bye"),
        "refused": talk(port, "/talk"),
        "no socket": talk(port, "/nowhere"),
    }


def graphql(port: int) -> dict[str, Any]:
    """A query, and a subscription by graphql-transport-ws."""
    query = json.dumps({"query": "{ hello }"}).encode()
    subscribe = {"id": "1", "type": "subscribe", "payload": {"query": "subscription { count(upto: 3) }"}}
    with connect(
        f"ws://127.0.0.1:{port}/graphql", subprotocols=[Subprotocol("graphql-transport-ws")], proxy=None
    ) as ws:
        heard: list[Any] = [ws.subprotocol]
        ws.send('{"type": "connection_init"}')
        heard.append(json.loads(ws.recv(timeout=SECONDS)))
        ws.send(json.dumps(subscribe))
        while heard[-1]["type"] != "complete":
            heard.append(json.loads(ws.recv(timeout=SECONDS)))
    headers = {"Content-Type": "application/json"}
    return {"query": ask(port, "POST", "/graphql", query, **headers), "subscription": heard}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_gows_answers_as_uvicorn_does(name: str) -> None:
    need_module(FRAMEWORKS[name])
    need_module("uvicorn")
    converse = graphql if name == "strawberry" else pages
    with gows(name) as port:
        ours = converse(port)
    with uvicorn(name) as port:
        theirs = converse(port)
    assert ours == theirs
    if name == "strawberry":
        assert [each["payload"]["data"]["count"] for each in ours["subscription"][2:-1]] == [0, 1, 2]
    else:
        assert ours["page"][0::2] == (200, b"hello from " + ours["page"][2].split()[-1])
        assert ours["large body"][2] == b"LARGE" * 100_000
        assert ours["stream"][2] == b"0\n1\n2\n3\n4\n"
        assert json.loads(ours["done"][2]) == ["dishes"]
        assert ours["talk"] == ["chat", ours["talk"][1], "ann: hi", "ann: hällo", "ann: "]
        assert ours["bye"][-1] == (4000, "bye, ann")
        assert ours["refused"] in (401, 403)
