"""Autobahn against our server: wstest is the client, `python -m gows echo --compression` answers.

    python -m tests.conformance.run_server [--quick] [--jobs N] [--url URL] [CASE ...]

A CASE is a number of the suite: 6.4.1, or 6.4 for all under it. Reports: artifacts/autobahn/server/.
Exit status: 0 when every chosen case passed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tests.conformance import suite
from tests.support.processes import Children, start_echo, stop_on_sigterm


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the Autobahn suite against the gows echo server.")
    parser.add_argument("--quick", action="store_true", help="337 cases: only three of each compression group")
    parser.add_argument("--jobs", type=int, default=2, help="wstest processes at a time (default 2)")
    parser.add_argument("--url", help="a server that already runs, instead of ours")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="a case or a group of cases (default: all)")
    arguments = parser.parse_args()
    stop_on_sigterm()
    cases = suite.choose(suite.installed_cases(), arguments.cases, arguments.quick)
    children = Children()

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

    with children:
        url = arguments.url or f"ws://127.0.0.1:{start_echo(children, '--compression')}/"
        return suite.run("server", cases, arguments.jobs, children, run_batch)


if __name__ == "__main__":
    sys.exit(main())
