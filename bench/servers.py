"""The servers that are measured: gows in both variants, other libraries, and the bare C loop."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from bench.serving import gows_echo, serving
from bench.tools import BUILT, NODE_MODULES, PEERS, Unavailable, build, node, peers_python

FLOOR = "C epoll loop"
PURE = {"GOWS_PURE": "1"}

PLAIN, DEFLATE, TLS = "plain", "deflate", "tls"
"""The modes: plain, with permessage-deflate for every message, and over TLS."""


class Server(NamedTuple):
    """How one is started."""

    kind: str
    """"gows", "async" (gows with `async def` callbacks), "asgi" (gows with an ASGI application), "floor", "python" (a
    program of peers/), or "node"."""
    flags: tuple[str, ...] = ()
    environment: dict[str, str] | None = None
    file: str = ""

    def command(self, mode: str, port: int) -> list[str]:
        """The command that serves on a port. Raises Unavailable when it cannot in this mode, or not here."""
        if self.kind == "gows":
            if mode == TLS:
                more = ["--certificate", certificate()]
            else:
                more = ["--compression"] if mode == DEFLATE else ["--broadcast-path", "/broadcast"]
            return gows_echo(*self.flags, *more)(port)
        if self.kind == "async":
            if mode != PLAIN:
                raise Unavailable("the engine below is the same in this mode")
            return [sys.executable, "-m", "bench.async_echo", str(port), *self.flags]
        if self.kind == "asgi":
            more = {DEFLATE: ["--compression"], TLS: ["--certificate", certificate()] if mode == TLS else []}.get(
                mode, []
            )
            return [sys.executable, "-m", "bench.asgi_echo", str(port), *self.flags, *more]
        if self.kind == "floor":
            if mode != PLAIN:
                raise Unavailable("the C loop knows no such thing")
            return [str(build("floor")), str(port)]
        program = [node()] if self.kind == "node" else [str(peers_python())]
        return [*program, str(PEERS / self.file), str(port), mode]


SERVERS: dict[str, Server] = {
    FLOOR: Server("floor"),
    "gows, workers=0": Server("gows", ("--workers", "0")),
    "gows": Server("gows"),
    "plain, workers=0": Server("gows", ("--workers", "0"), PURE),
    "plain": Server("gows", (), PURE),
    "gows, async": Server("async"),
    "gows, async, uvloop": Server("async", ("--uvloop",)),
    "gows, async that waits": Server("async", ("--suspend",)),
    "gows, async that waits, uvloop": Server("async", ("--suspend", "--uvloop")),
    "gows, ASGI": Server("asgi"),
    "gows, ASGI, uvloop": Server("asgi", ("--uvloop",)),
    "FastAPI on gows": Server("asgi", ("--fastapi", "--uvloop")),
    "picows": Server("python", file="picows_echo.py"),
    "socketify": Server("python", file="socketify_echo.py"),
    "ws (Node)": Server("node", file="ws_echo.mjs"),
    "granian": Server("python", file="granian_echo.py"),
    "aiohttp": Server("python", file="aiohttp_echo.py"),
    "websockets": Server("python", file="websockets_echo.py"),
    "uvicorn": Server("python", file="uvicorn_echo.py"),
    "FastAPI on uvicorn": Server("python", file="uvicorn_fastapi.py"),
    "hypercorn": Server("python", file="hypercorn_echo.py"),
    "gunicorn": Server("python", file="gunicorn_echo.py"),
    "tornado": Server("python", file="tornado_echo.py"),
    "simple-websocket": Server("python", file="simple_websocket_echo.py"),
}
"""By the name in the tables. "gows" is the compiled engine, "plain" the same in Python."""


@contextmanager
def running(name: str, mode: str = PLAIN, *, cpus: str | None = "0") -> Iterator[tuple[int, int]]:
    """Run one of SERVERS while the block runs; its process and its port. Raises Unavailable."""
    server = SERVERS[name]
    environment = {**(server.environment or {}), "BENCH_NODE_MODULES": str(NODE_MODULES)}
    if mode == TLS:
        environment["BENCH_CERTIFICATE"] = certificate()
    with serving(lambda port: server.command(mode, port), cpus=cpus, environment=environment) as found:
        yield found


def certificate() -> str:
    """A file with a certificate and its key (P-256), made at first use. Raises Unavailable without openssl(1)."""
    path = BUILT / "certificate.pem"
    if not path.exists():
        BUILT.mkdir(exist_ok=True)
        words = "openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 3650 -subj /CN=localhost"
        try:
            done = subprocess.run(
                [*words.split(), "-keyout", "-", "-out", "-"], capture_output=True, timeout=60, check=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unavailable(f"openssl makes no certificate: {error}") from None
        path.write_bytes(done.stdout)
    return str(path)
