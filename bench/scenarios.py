"""What is measured: each scenario takes the name of a server and gives its figures."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from bench.holding import holding
from bench.idle import idle_bytes
from bench.loading import HttpLoad, Load, generate, run_load
from bench.servers import DEFLATE, FLOOR, PLAIN, SERVERS, TLS, running
from bench.stuck import latencies
from bench.tools import BUILT
from bench.usage import cpu_seconds, family

Figures = dict[str, float]

FANOUT_SIZE = 100
CPU = "us CPU a message"
GOWS = tuple(name for name, server in SERVERS.items() if server.kind == "gows")
ASGI = ("gows, ASGI", "gows, ASGI, uvloop", "uvicorn", "granian", "hypercorn", "gunicorn")
FASTAPI = ("FastAPI on gows", "FastAPI on uvicorn")
HTTP = ASGI + FASTAPI
"""Those that have a page beside the echo."""
LIBRARIES = tuple(name for name in SERVERS if name != FLOOR)
"""The C loop cannot do all: it drops messages that come in parts, does not close, and has nothing for a connection."""


class Settings(NamedTuple):
    """How long, and how much."""

    seconds: float = 2.0
    warm_up: float = 0.5
    idle: int = 15000
    idle_tls: int = 2000


class Scenario(NamedTuple):
    """One row of questions to every server."""

    title: str
    measure: Callable[[str, Settings], Figures]
    figure: str
    """The one of its figures that servers are compared by."""
    unit: str
    servers: tuple[str, ...] = tuple(SERVERS)


def echo(mode: str = PLAIN, **load: Any) -> Callable[[str, Settings], Figures]:
    """Connections that send a message, wait for its echo, and send it again."""

    def measure(name: str, settings: Settings) -> Figures:
        with running(name, mode) as (pid, port):
            compressed = compressed_json() if mode == DEFLATE else None
            asked = Load(
                seconds=settings.seconds, warm_up=settings.warm_up, tls=mode == TLS, compressed=compressed, **load
            )
            cost = run_load(asked, pid, port)
        return cost._asdict()

    return measure


def compressed_json() -> str:
    """A file with 1 KiB of JSON as it is in the world, compressed as one message (RFC 7692 §7.2.1)."""
    path = BUILT / "json.deflate"
    if not path.exists():
        BUILT.mkdir(exist_ok=True)
        rows = [
            {"id": 7919 * n % 10007, "symbol": f"S{n * 31 % 97:02}", "bid": 100 + n * 0.37, "ask": 100 + n * 0.41}
            for n in range(18)
        ]
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        packed = deflate.compress(json.dumps(rows).encode()[:1024]) + deflate.flush(zlib.Z_SYNC_FLUSH)
        path.write_bytes(packed[:-4])
    return str(path)


def accepting(mode: str, connections: int) -> Callable[[str, Settings], Figures]:
    """New connections, upgrade included, 200 at a time."""

    def measure(name: str, settings: Settings) -> Figures:
        with running(name, mode) as (pid, port):
            before = cpu_seconds(family(pid))
            load = Load(connections=connections, seconds=0.1, warm_up=0.0, mode="idle", tls=mode == TLS)
            result = generate(load, port)
            spent = cpu_seconds(family(pid)) - before
        return {"connects_per_s": result["connects_per_s"], "cpu_us": spent * 1e6 / connections}

    return measure


def churn(name: str, settings: Settings) -> Figures:
    """100 at a time connect, echo once, close in order, and come again."""
    with running(name) as (pid, port):
        load = Load(connections=100, seconds=settings.seconds, warm_up=settings.warm_up, mode="churn")
        return run_load(load, pid, port)._asdict()


def idle(mode: str) -> Callable[[str, Settings], Figures]:
    """Connections that say nothing."""

    def measure(name: str, settings: Settings) -> Figures:
        return idle_bytes(name, settings.idle if mode == PLAIN else settings.idle_tls, mode)

    return measure


def flat(name: str, settings: Settings) -> Figures:
    """100 that echo, alone and beside idle ones."""
    load = Load(connections=100, seconds=settings.seconds, warm_up=settings.warm_up)
    with running(name) as (pid, port):
        alone = run_load(load, pid, port)
        with holding(port, settings.idle):
            beside = run_load(load, pid, port)
    return {"ratio": beside.cpu_us / alone.cpu_us, "cpu_us": beside.cpu_us, "p999_us": beside.p999_us}


def fanout(subscribers: int) -> Callable[[str, Settings], Figures]:
    """One message to all who are on a path, again once everybody has it. A message is one delivery."""

    def measure(name: str, settings: Settings) -> Figures:
        with running(name) as (pid, port):
            load = Load(
                connections=subscribers,
                size=FANOUT_SIZE,
                seconds=settings.seconds,
                warm_up=settings.warm_up,
                mode="shout",
                path="/broadcast",
            )
            return run_load(load, pid, port)._asdict()

    return measure


def http(path: str) -> Callable[[str, Settings], Figures]:
    """100 connections that are kept ask for a page, again and again. A message is one request and its answer."""

    def measure(name: str, settings: Settings) -> Figures:
        with running(name) as (pid, port):
            return run_load(HttpLoad(path, seconds=settings.seconds, warm_up=settings.warm_up), pid, port)._asdict()

    return measure


def stuck(kind: str) -> Callable[[str, Settings], Figures]:
    """The latency of 100 that echo, while handlers of others are busy; see bench.stuck."""
    return lambda name, settings: latencies(SERVERS[name], kind, settings.seconds)


SCENARIOS: dict[str, Scenario] = {
    "echo": Scenario("1,000 connections echo 32 B", echo(), "cpu_us", CPU),
    "echo-16": Scenario("1,000 connections, 16 messages of 32 B in flight each", echo(flight=16), "cpu_us", CPU),
    "echo-binary": Scenario("1,000 connections echo 32 B, binary", echo(binary=True), "cpu_us", CPU),
    "echo-1": Scenario("1 connection echoes 32 B", echo(connections=1), "cpu_us", CPU),
    "echo-100": Scenario("100 connections echo 32 B", echo(connections=100), "cpu_us", CPU),
    "echo-10000": Scenario("10,000 connections echo 32 B", echo(connections=10000), "cpu_us", CPU),
    "echo-1k": Scenario("1,000 connections echo 1 KiB", echo(size=1024), "cpu_us", CPU),
    "echo-16k": Scenario("100 connections echo 16 KiB", echo(connections=100, size=16384), "cpu_us", CPU),
    "echo-1m": Scenario("10 connections echo 1 MiB", echo(connections=10, size=1 << 20), "cpu_us", CPU, LIBRARIES),
    "deflate": Scenario("1,000 connections echo 1 KiB of JSON, compressed", echo(DEFLATE), "cpu_us", CPU, LIBRARIES),
    "tls": Scenario("1,000 connections echo 32 B over TLS", echo(TLS), "cpu_us", CPU, LIBRARIES),
    "fanout-1000": Scenario("one message of 100 B to 1,000", fanout(1000), "cpu_us", "us CPU a delivery"),
    "fanout-10000": Scenario("one message of 100 B to 10,000", fanout(10000), "cpu_us", "us CPU a delivery"),
    "accept": Scenario("10,000 new connections", accepting(PLAIN, 10000), "connects_per_s", "a second"),
    "accept-tls": Scenario(
        "2,000 new connections over TLS", accepting(TLS, 2000), "connects_per_s", "a second", LIBRARIES
    ),
    "churn": Scenario("100 connect, echo once, close, and again", churn, "cpu_us", "us CPU a round", LIBRARIES),
    "idle": Scenario("idle connections", idle(PLAIN), "user", "B of memory each", LIBRARIES),
    "idle-tls": Scenario("idle connections over TLS", idle(TLS), "user", "B of memory each", LIBRARIES),
    "flat": Scenario("100 that echo beside idle ones, over alone", flat, "ratio", "times the CPU"),
    "http-hello": Scenario("100 ask for a line of text", http("/hello"), "cpu_us", "us CPU a request", HTTP),
    "http-json": Scenario("100 ask for a little JSON", http("/json"), "cpu_us", "us CPU a request", HTTP),
    "stuck": Scenario("100 echo, a worker is stuck 100 ms a second", stuck("sleep"), "p99_us", "us p99", GOWS),
    "burning": Scenario("100 echo, two workers compute without end", stuck("burn"), "p99_us", "us p99", GOWS),
}
