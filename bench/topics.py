"""What one message to very many subscribers costs: topics of gows beside other libraries, and a C loop of sends.

    python -m bench.topics [--connections 1000 10000 19000] [--rounds 3] [--messages N] [--servers NAME ...] [--deflate]

For each server, in turn: its CPU time per delivery, its sends included, of one message after the other and of 16 that
are published at once; how long a message takes to the last subscriber; and the longest that another connection waited
for its echo while messages went out. The server has CPU 0, the subscribers CPU 1; each of the two processes needs a
descriptor for every connection (ulimit -n). Writes topics.json and topics.md after every round, so that an interrupted
run has what it found. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import gows
from bench import report
from bench.holding import say
from bench.loading import LOAD_CPU, Load
from bench.scenarios import FANOUT_SIZE, Figures, compressed_json
from bench.servers import DEFLATE, FLOOR, PLAIN, SERVERS, Server
from bench.serving import serving
from bench.tools import ROOT, Unavailable
from bench.usage import cpu_seconds, family
from gows.processes.interpreter import dedicate

BURST = 16
DELIVERIES = 100_000
"""In a round, where --messages does not say: a second of CPU time, which is told in hundredths."""
ECHO_MESSAGES = 3
SPARE_DESCRIPTORS = 200

PUBLISH, PICOWS = "gows, publish to a topic", "picows, a loop of sends"
FIGURES = {"cpu_us": "one after the other", "burst_cpu_us": f"{BURST} at once"}
"""Those that servers are compared by."""


class Way(NamedTuple):
    """To get a message to everybody."""

    start: Callable[[str, int], list[str]]
    """From mode and port to the command of the server."""
    path: str = "/broadcast"
    """What comes here goes to all who are here."""
    socketio: bool = False


def gows_server(mode: str, port: int) -> list[str]:
    """The command of `serve`, in a process of its own."""
    return [sys.executable, "-m", "bench.topics", "--serve", str(port), *(["--deflate"] if mode == DEFLATE else [])]


WAYS = {
    FLOOR: Way(SERVERS[FLOOR].command),
    PUBLISH: Way(gows_server, "/topic"),
    "gows, server.broadcast": Way(gows_server, "/broadcast"),
    "gows, a loop of writes": Way(gows_server, "/loop"),
    PICOWS: Way(SERVERS["picows"].command),
    "socketify, publish": Way(SERVERS["socketify"].command),
    "websockets, broadcast": Way(SERVERS["websockets"].command),
    "python-socketio, emit to a room": Way(
        Server("python", file="socketio_echo.py").command, "/socket.io/?EIO=4&transport=websocket", socketio=True
    ),
}


class Budget(NamedTuple):
    """How many times the CPU per delivery of another way publish may cost."""

    over: str
    limit: float


BUDGETS = (Budget(PICOWS, 0.6), Budget(FLOOR, 1.5))


# ---------------------------------------------------------------------- the server of gows


class Echo(gows.Handler):
    """For the one connection that measures how long others wait."""

    __slots__ = ()

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        ws.write_string(buff.get_string())


class Topic(gows.Handler):
    """Publishes what comes."""

    __slots__ = ("server",)

    def __init__(self, server: gows.Server) -> None:
        self.server = server

    def on_open(self, ws: gows.WebSocket) -> None:
        ws.subscribe("news")

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        self.server.publish("news", buff.get_string())


class Broadcast(gows.Handler):
    """The same without topics."""

    __slots__ = ("server",)

    def __init__(self, server: gows.Server) -> None:
        self.server = server

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        self.server.broadcast(buff.get_string(), group=ws.group)


class Loop(gows.Handler):
    """… and as one would write it without either."""

    __slots__ = ("everybody",)

    def __init__(self, everybody: set[gows.WebSocket]) -> None:
        self.everybody = everybody

    def on_open(self, ws: gows.WebSocket) -> None:
        self.everybody.add(ws)

    def on_close(self, ws: gows.WebSocket) -> None:
        self.everybody.discard(ws)

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        text = buff.get_string()
        for other in self.everybody:
            other.write_string(text)


def serve(port: int, compression: bool) -> None:
    """The server's process."""
    options = partial(gows.AcceptOptions, compression=compression, min_compress_size=0, ping_interval=None)
    server = gows.Server(workers=0)
    everybody: set[gows.WebSocket] = set()
    for path, make in (
        ("/", Echo),
        ("/topic", partial(Topic, server)),
        ("/broadcast", partial(Broadcast, server)),
        ("/loop", partial(Loop, everybody)),
    ):
        server.add_route(path, partial(join, options(group=path), make))
    dedicate()
    server.listen_and_serve(("127.0.0.1", port))


def join(options: gows.AcceptOptions, make: Callable[[], gows.Handler], request: gows.Request) -> None:
    gows.accept(request, options).serve(make())


# ---------------------------------------------------------------------- measuring


class Crowd:
    """The subscribers, wsload's. A context: leaving it ends them. Raises Unavailable when not all are there."""

    def __init__(self, load: Load, port: int) -> None:
        self.subscribers = load.connections
        self.process = subprocess.Popen(
            ["taskset", "-c", LOAD_CPU, *load.command(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Crowd:
        try:
            self._line(120)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        try:
            self.process.communicate(timeout=5)  # at the end of its input it ends, and its child with it
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()

    def publish(self, messages: int, at_once: int = 1, echo: bool = False) -> dict[str, Any]:
        """What wsload says of so many times so many messages, when all have them."""
        assert self.process.stdin is not None
        expected = self.subscribers * messages * at_once
        try:
            self.process.stdin.write(b"%d %d %d\n" % (messages, at_once, echo))
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the line that does not come says why
        said: dict[str, Any] = json.loads(self._line(60 + expected / 1000))
        if said["subscribers"] < self.subscribers:
            raise Unavailable(f"{said['subscribers']:,} of {self.subscribers:,} connections were upgraded")
        if said["deliveries"] < expected:
            raise Unavailable(f"{said['deliveries']:,} of {expected:,} deliveries came")
        return said

    def _line(self, seconds: float) -> bytes:
        """The next one: there is never more than one on its way."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            raise Unavailable(f"wsload said nothing for {seconds:.0f} s")
        line = self.process.stdout.readline()
        if not line.startswith((b"{", b"measuring")):
            self.process.kill()
            raise Unavailable(f"wsload ended: {self.process.communicate()[1].decode().strip() or line.decode()!r}")
        return line


def measure(way: Way, mode: str, connections: int, messages: int) -> Figures:
    """Of one server with so many subscribers. Raises Unavailable."""
    if mode == DEFLATE and way.socketio:
        raise Unavailable("wsload sends no compressed events")
    load = Load(
        connections=connections,
        size=FANOUT_SIZE,
        seconds=0.0,
        warm_up=0.5,
        mode="told",
        path=way.path,
        compressed=compressed_json() if mode == DEFLATE else None,
        socketio=way.socketio,
    )
    with serving(partial(way.start, mode), cpus="0") as (pid, port), Crowd(load, port) as crowd:

        def cost(times: int, at_once: int) -> tuple[float, dict[str, Any]]:
            before = cpu_seconds(family(pid))
            said = crowd.publish(times, at_once)
            time.sleep(0.1)  # what it does after the last delivery counts, too
            return (cpu_seconds(family(pid)) - before) * 1e6 / said["deliveries"], said["last"]

        crowd.publish(1)
        cpu, last = cost(messages, 1)
        burst_cpu, burst_last = cost(-(-messages // BURST), BURST)
        echo = crowd.publish(ECHO_MESSAGES, echo=True)["echo"]
    return {
        "cpu_us": cpu,
        "last_ms": last["median"] * 1e3,
        "last_most_ms": last["most"] * 1e3,
        "burst_cpu_us": burst_cpu,
        "burst_last_ms": burst_last["median"] * 1e3,
        "echo_ms": echo * 1e3,
    }


# ---------------------------------------------------------------------- telling


Found = dict[int, dict[str, list[Figures]]]
"""By the number of subscribers, and the way."""
Missing = dict[int, dict[str, str]]


def values(rounds: dict[str, list[Figures]], way: str, figure: str) -> list[float]:
    """Of every round, from the least; empty when it was not measured."""
    return sorted(figures[figure] for figures in rounds.get(way, ()))


def ratio(rounds: dict[str, list[Figures]], way: str, over: str, figure: str) -> float | None:
    """Of the medians; None when one of them is not there."""
    mine, base = values(rounds, way, figure), values(rounds, over, figure)
    return median(mine) / median(base) if mine and base and median(base) else None


def table(rounds: dict[str, list[Figures]], missing: dict[str, str], subscribers: int) -> list[str]:
    """One number of subscribers, in Markdown."""
    heads = []
    for figure in FIGURES.values():
        heads += [f"µs CPU a delivery, {figure}", "least to most", "to the C loop", "to picows"]
    heads += ["ms to the last", "least to most", f"ms to the last of {BURST}", "longest echo, ms"]
    lines = [f"### {subscribers:,} subscribers", "", f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for way in WAYS:
        if way not in rounds:
            if way in missing:
                lines.append(f"| {way} | not measured: {missing[way]} |" + " |" * (len(heads) - 1))
            continue
        cells = []
        for figure in FIGURES:
            cells += middle(values(rounds, way, figure))
            for over in (FLOOR, PICOWS):
                times = ratio(rounds, way, over, figure)
                cells.append("" if times is None else f"{times:.2f}")
        cells += middle(values(rounds, way, "last_ms"))
        cells.append(report.number(median(values(rounds, way, "burst_last_ms"))))
        cells.append(report.number(median(values(rounds, way, "echo_ms"))))
        name = f"{way} (later: {missing[way]})" if way in missing else way
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def middle(figures: list[float]) -> list[str]:
    """The median, and the spread."""
    return [report.number(median(figures)), f"{report.number(figures[0])} to {report.number(figures[-1])}"]


def budgets(found: Found) -> list[str]:
    """What was promised, and what was measured; in Markdown."""
    lines = []
    for over, limit in BUDGETS:
        for subscribers, rounds in found.items():
            for figure, title in FIGURES.items():
                measured = ratio(rounds, PUBLISH, over, figure)
                if measured is not None:
                    verdict = "kept" if measured <= limit else "**not kept**"
                    lines.append(f"| over {over} | {subscribers:,}, {title} | {limit:g} | {measured:.2f} | {verdict} |")
    heads = [
        "### CPU of a delivery by publish",
        "",
        "| | subscribers | at most | measured | |",
        "|---|---|---:|---:|---|",
    ]
    return [*heads, *lines, ""] if lines else []


def write(folder: Path, found: Found, missing: Missing, facts: dict[str, Any]) -> str:
    """`topics.json` and `topics.md`; the latter's text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "topics.json").write_text(
        json.dumps({**facts, "results": found, "not_measured": missing}, indent=1) + "\n"
    )
    lines = [
        "# Fan-out",
        "",
        f"{facts['date']}, {facts['machine']}; `{facts['command']}`, medians of {facts['rounds']} rounds.",
        "The server has one CPU, the subscribers the other. The C loop sends in one go what one read brought.",
        "",
        *budgets(found),
    ]
    for subscribers, rounds in found.items():
        lines += table(rounds, missing[subscribers], subscribers)
    text = "\n".join(lines)
    (folder / "topics.md").write_text(text)
    return text


def check_descriptors(connections: int) -> None:
    """Take as many as there may be. Raises SystemExit when they are too few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if connections + SPARE_DESCRIPTORS > most:
        raise SystemExit(f"bench.topics: {connections:,} subscribers need more than a process's {most:,} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(arguments: list[str] | None = None) -> int:
    """Measure all that was asked for; 1 when nothing could be."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.topics",
        description=__doc__.partition("\n")[0],
        epilog="servers:\n" + "\n".join(f"  {name!r}" for name in WAYS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--connections",
        type=int,
        nargs="+",
        default=[1000, 10000, 19000],
        metavar="N",
        help="default: 1000 10000 19000",
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--messages", type=int, metavar="N", help=f"a round (default: as many as are {DELIVERIES:,} deliveries)"
    )
    parser.add_argument("--servers", nargs="+", choices=WAYS, default=list(WAYS), metavar="NAME", help="default: all")
    parser.add_argument("--deflate", action="store_true", help="compressed: 1 KiB of JSON in place of 100 bytes")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "bench" / "results", metavar="FOLDER", help="default: bench/results"
    )
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.serve is not None:
        serve(chosen.serve, chosen.deflate)
        return 0
    if min(*chosen.connections, chosen.rounds, 1 if chosen.messages is None else chosen.messages) < 1:
        raise SystemExit("bench.topics: connections, rounds and messages must be 1 or more")
    check_descriptors(max(chosen.connections))
    found: Found = {connections: {} for connections in chosen.connections}
    missing: Missing = {connections: {} for connections in chosen.connections}
    facts = {
        "date": datetime.date.today().isoformat(),
        "machine": report.machine(),
        "command": " ".join(["python -m bench.topics", *(sys.argv[1:] if arguments is None else arguments)]),
    }
    began = time.monotonic()
    asked = [(connections, way) for connections in chosen.connections for way in chosen.servers]
    text = ""
    for number in range(chosen.rounds):
        for done, (connections, way) in enumerate(asked, number * len(asked) + 1):
            if way in missing[connections]:
                continue
            took = time.monotonic() - began
            say(f"[{took:5.0f} s] {done} of {chosen.rounds * len(asked)}: round {number + 1}, {connections:,}, {way}")
            messages = chosen.messages or -(-DELIVERIES // connections)
            try:
                figures = measure(WAYS[way], DEFLATE if chosen.deflate else PLAIN, connections, messages)
                found[connections].setdefault(way, []).append(figures)
            except Unavailable as error:
                missing[connections][way] = str(error)
                say(f"  not measured: {error}")
        text = write(chosen.output, found, missing, facts | {"rounds": number + 1})
    print(text)
    print(f"took {time.monotonic() - began:.0f} s; written to {os.path.relpath(chosen.output)}")
    return 0 if any(found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
