"""make load: start a server, run 20,000 users against it for a minute, and leave a report.

    python loadtest/_run.py [--users 20000] [--rate 500] [--seconds 60] [--processes 2] [more words for locust]

The report is artifacts/load.html. The exit status is Locust's: not 0 when anything failed.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "artifacts" / "load.html"
EACH = 12_500
"""Users that one process of Locust can hold beside its other descriptors."""


def raise_descriptors() -> int:
    """As many as the hard limit allows, for this program and those that it starts; the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def main() -> int:
    """Start both, wait for the end of Locust."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=20_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--rate", type=int, default=500, metavar="N", help="new users a second (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=60, metavar="S", help="default: %(default)s")
    parser.add_argument("--processes", type=int, metavar="N", help="of Locust, and of the server (default: by need)")
    chosen, more = parser.parse_known_args()
    processes = chosen.processes or max(2, -(-chosen.users // EACH))
    limit = raise_descriptors()
    if chosen.users / processes > limit - 500:
        raise SystemExit(f"load: {limit} open files a process are too few for {chosen.users} users in {processes}")
    REPORT.parent.mkdir(exist_ok=True)
    echo = [sys.executable, "-m", "gows", "echo", "--port", "0", "--broadcast-path", "/broadcast"]
    server = subprocess.Popen([*echo, "--processes", str(processes)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line.startswith("listening on "):
            raise SystemExit(f"load: the server did not start (exit status {server.wait(30)})")
        address = line.removeprefix("listening on ").strip()
        print(f"load: {chosen.users:,} users against gows echo at {address}, {processes} processes each", flush=True)
        locust = [sys.executable, "-m", "locust", "-f", "loadtest/", "--headless", "--only-summary"]
        words = ["-u", chosen.users, "-r", chosen.rate, "-t", f"{chosen.seconds}s", "--processes", processes]
        words += ["--host", f"ws://{address}", "--html", REPORT.relative_to(ROOT), *more]
        environment = os.environ | {"PYTHONWARNINGS": "ignore"}
        status = subprocess.run([*locust, *map(str, words)], cwd=ROOT, env=environment, check=False).returncode
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
    print(f"load: the report is {REPORT.relative_to(ROOT)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
