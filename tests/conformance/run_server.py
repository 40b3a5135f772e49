"""Autobahn against our server: wstest is the client, `python -m gows echo --compression` answers.

    python -m tests.conformance.run_server [--quick] [--jobs N] [--url URL] [CASE ...]

A CASE is a number of the suite: 6.4.1, or 6.4 for all under it. Reports: artifacts/autobahn/server/.
Exit status: 0 every chosen case passed, 1 some did not, 2 no working suite or server.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

from tests.conformance import suite

START_SECONDS = 20


def start_server(children: suite.Children) -> str:
    """Start the echo server on a port of its own choice; its URL, from the line it prints. Its errors go to echo.log."""
    log = suite.ARTIFACTS / "echo.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as errors:
        server = children.start(
            [sys.executable, "-m", "gows", "echo", "--host", "127.0.0.1", "--port", "0", "--compression"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert server.stdout is not None
    overdue = threading.Timer(START_SECONDS, server.kill)
    overdue.start()
    for line in server.stdout:
        address = re.search(r"listening on (?:ws://)?(127\.0\.0\.1:\d+)", line)
        if address:
            overdue.cancel()
            threading.Thread(target=server.stdout.read, daemon=True).start()  # an unread pipe would block it
            return f"ws://{address[1]}/"
    overdue.cancel()
    print(f"conformance: the echo server did not start (exit status {server.wait()}); see {log}", file=sys.stderr)
    raise SystemExit(2)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the Autobahn suite against the gows echo server.")
    parser.add_argument("--quick", action="store_true", help="337 cases: only three of each compression group")
    parser.add_argument("--jobs", type=int, default=2, help="wstest processes at a time (default 2)")
    parser.add_argument("--url", help="a server that already runs, instead of ours")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="a case or a group of cases (default: all)")
    arguments = parser.parse_args()
    suite.stop_on_sigterm()
    cases = suite.choose(suite.installed_cases(), arguments.cases, arguments.quick)
    children = suite.Children()

    def run_batch(outdir: Path, members: list[str]) -> None:
        spec = outdir / "spec.json"
        spec.write_text(
            json.dumps({"outdir": str(outdir), "servers": [{"agent": suite.AGENT, "url": url}], "cases": members})
        )
        with (outdir / "wstest.log").open("wb") as log:
            wstest = children.start(suite.wstest_command("fuzzingclient", spec), stdout=log, stderr=log)
            try:
                wstest.wait(suite.BATCH_SECONDS)
            except subprocess.TimeoutExpired:
                print(f"conformance: {outdir.name} took over {suite.BATCH_SECONDS} s and was stopped", flush=True)
            finally:
                children.end(wstest)

    try:
        url = arguments.url or start_server(children)
        return suite.run("server", cases, arguments.jobs, children, run_batch)
    finally:
        children.end_all()


if __name__ == "__main__":
    sys.exit(main())
