"""`gows serve` as a program of its own, in a folder of its own, and what a test asks of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT
from tests.support.waiting import wait_until

SECONDS = 20.0
"""Nothing here waits longer."""

WSGI = """
import os

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"wsgi {environ['wsgi.url_scheme']} {environ['REMOTE_ADDR']} {os.getpid()}".encode()]

def make():
    return app
"""

ASGI = """
import asyncio, os, sys

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            if message["type"] == "websocket.receive":
                loop = type(asyncio.get_running_loop()).__module__
                await send({"type": "websocket.send", "text": f"{loop} {message['text']}"})
    elif scope["type"] == "http":
        text = f"asgi {scope['scheme']} {scope['client'][0]} {scope['root_path']} {scope['path']} {os.getpid()}"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": text.encode()})

def make():
    return app

def with_lifespan(action):
    async def app_with_lifespan(scope, receive, send):
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        await receive()
        print("starting", file=sys.stderr, flush=True)
        if action == "wait":
            await asyncio.sleep(60)
        if action == "raise":
            raise LookupError("no database")
        if action == "fail":
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("ending", file=sys.stderr, flush=True)
        if action == "linger":
            await asyncio.sleep(60)
        await send({"type": "lifespan.shutdown.complete"})
    return app_with_lifespan

for each in ("start", "wait", "raise", "fail", "linger"):
    globals()[each] = with_lifespan(each)
"""

SERVER = """
import asyncio, os, threading, time
import gows

VERSION = "first"

class Member(gows.Handler):
    def on_message(self, ws, opcode, buff):
        text = buff.get_string()
        if text == "block":
            threading.Event().wait(60)
        ws.write_string(text)

class Awaiting(gows.Handler):
    async def on_message(self, ws, opcode, buff):
        ws.write_string(type(asyncio.get_running_loop()).__module__)

server = gows.Server()

@server.route("/")
def page(request):
    return f"{VERSION} {os.getpid()}"

@server.route("/ws")
def ws(request):
    gows.accept(request).serve(Member())

@server.route("/loop")
def loop(request):
    gows.accept(request).serve(Awaiting())
"""


class ServeProgram:
    """A running `gows serve`, whose applications are those above: `wsgi_app`, `asgi_app`, `server_app`, in its
    folder."""

    def __init__(self, folder: Path, *arguments: str, environ: dict[str, str] | None = None, **options: Any) -> None:
        write_apps(folder)
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gows", "serve", *arguments],
            cwd=folder,
            env=environment() | (environ or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.out: list[str] = []
        self.errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=each)
            for each in ((self.process.stdout, self.out), (self.process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(pipe: Any, lines: list[str]) -> None:
        for line in pipe:
            lines.append(line.rstrip("\n"))

    def count(self, words: str) -> int:
        """How many lines of its standard error have these words."""
        return sum(words in line for line in list(self.errors))

    def says(self, words: str, times: int = 1) -> str:
        """Wait until a line of its standard error has these words, or so many lines; the last of them."""
        wait_until(
            lambda: self.count(words) >= times or self.process.poll() is not None, SECONDS, lambda: str(self.errors)
        )
        wait_until(lambda: self.count(words) >= times, 1.0, lambda: "\n".join([words, *self.errors]))
        return next(line for line in reversed(list(self.errors)) if words in line)

    def port(self) -> int:
        """Wait until it serves; its port."""
        found = re.search(r"serving at https?://\S*:(\d+);", self.says("serving at"))
        assert found is not None
        return int(found[1])

    def get(self, path: str = "/") -> str:
        """The answer to a request."""
        return fetch(self.port(), path)

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """Send a signal to it and all that it has started, as a terminal does (`start_new_session=True`)."""
        os.killpg(self.process.pid, number)

    def end(self, number: int | None = signal.SIGTERM) -> int:
        """Send it a signal, and wait for its end; the exit status."""
        if number is not None:
            self.process.send_signal(number)
        status = self.process.wait(SECONDS)
        self.close()
        return status

    def close(self) -> None:
        """Kill it, if it has not ended, and wait for the end of all that it has started."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(SECONDS / 2)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for reader in self._readers:
            reader.join(SECONDS)
            assert not reader.is_alive(), "something that it started goes on"
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


def environment() -> dict[str, str]:
    """The environment of such a program: that of the tests, without what they may say to it themselves."""
    ours = {"GOWS_PURE", "GOWS_DEBUG", "GOWS_CI"}
    found = {name: value for name, value in os.environ.items() if not name.startswith("GOWS_") or name in ours}
    path = os.pathsep.join(filter(None, [str(ROOT), found.get("PYTHONPATH", "")]))
    return found | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


def write_apps(folder: Path) -> None:
    """Make the applications, unless they are there."""
    for name, text in (("wsgi_app.py", WSGI), ("asgi_app.py", ASGI), ("server_app.py", SERVER)):
        if not (folder / name).exists():
            (folder / name).write_text(text)


def fetch(port: int, path: str = "/", **headers: str) -> str:
    """The body of an answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        body: bytes = answer.read()
    return body.decode()
