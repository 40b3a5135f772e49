"""Autobahn against our client: wstest is the server, and `gows.connect` goes through its cases.

    python -m tests.conformance.run_client [--quick] [--jobs N] [CASE ...]

A CASE is a number of the suite: 6.4.1, or 6.4 for all under it. Reports: artifacts/autobahn/client/.
Exit status: 0 when every chosen case passed.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import threading
import time
from pathlib import Path

import gows
from tests.conformance import suite
from tests.support.processes import Children, stop_on_sigterm

START_SECONDS = 20
CASE_SECONDS = 500
"""wstest itself gives its longest cases 480 s."""

OPTIONS = gows.AcceptOptions(
    compression=True,
    max_message_size=1 << 24,  # cases 9.* send up to 16 MiB
    max_fragments=1 << 17,  # … and 9.3, 9.4 cut 4 MiB into 65,536 pieces
    high_water=1 << 25,
)


class Listener(gows.Handler):
    """Keeps the last message, answers nothing, and tells when the connection is gone."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.last = b""

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        self.last = buff.clone_bytes()

    def on_close(self, ws: gows.WebSocket) -> None:
        self.closed.set()


class Echo(Listener):
    """Sends every message back."""

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        ws.write_message(opcode, buff)


def visit(url: str, handler: Listener) -> None:
    """Connect, and wait until the server has closed the connection. A failure shows as a case that did not run."""
    try:
        ws = gows.connect(url, handler, options=OPTIONS)
    except gows.GowsError as error:
        print(f"conformance: {url}: {error}", flush=True)
        return
    if not handler.closed.wait(CASE_SECONDS):
        print(f"conformance: {url} did not end within {CASE_SECONDS} s", flush=True)
        ws.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def await_port(port: int) -> None:
    """Return once somebody listens on `port`; SystemExit after START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"conformance: wstest does not listen on port {port}") from None
            time.sleep(0.05)
        else:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the Autobahn suite against the gows client.")
    parser.add_argument("--quick", action="store_true", help="337 cases: only three of each compression group")
    parser.add_argument("--jobs", type=int, default=2, help="wstest processes at a time (default 2)")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="a case or a group of cases (default: all)")
    arguments = parser.parse_args()
    stop_on_sigterm()
    cases = suite.choose(suite.installed_cases(), arguments.cases, arguments.quick)
    children = Children()

    def run_batch(outdir: Path, members: list[str]) -> None:
        port = free_port()
        base = f"ws://127.0.0.1:{port}"
        spec = outdir / "spec.json"
        spec.write_text(json.dumps({"outdir": str(outdir), "url": base, "cases": members}))
        with (outdir / "wstest.log").open("wb") as log:
            wstest = children.start(suite.wstest_command("fuzzingserver", spec), stdout=log, stderr=log)
            try:
                await_port(port)
                count = Listener()
                visit(f"{base}/getCaseCount", count)
                if count.last != str(len(members)).encode():
                    raise SystemExit(f"conformance: wstest has {count.last!r} cases instead of {len(members)}")
                for number in range(1, len(members) + 1):
                    visit(f"{base}/runCase?case={number}&agent={suite.AGENT}", Echo())
                visit(f"{base}/updateReports?agent={suite.AGENT}", Listener())
            finally:
                children.end(wstest)

    with children:
        return suite.run("client", cases, arguments.jobs, children, run_batch)


if __name__ == "__main__":
    sys.exit(main())
