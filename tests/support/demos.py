"""The chat demo as a process of its own, for tests that kill it, restart it, or look at how it ends."""

from __future__ import annotations

import re
import subprocess
import sys
import threading

from tests.support.processes import START_SECONDS, Children


def demo_command(port: int = 0, *flags: str) -> list[str]:
    """The command line of a demo on 127.0.0.1."""
    return [sys.executable, "-m", "gows", "demo", "--host", "127.0.0.1", "--port", str(port), *flags]


def start_demo(children: Children, port: int = 0, *flags: str) -> tuple[subprocess.Popen[str], int]:
    """Start `gows demo` and wait for the address it prints: the process, with the rest of its output, and the port."""
    demo = children.start(demo_command(port, *flags), stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    overdue = threading.Timer(START_SECONDS, demo.kill)
    overdue.start()
    try:
        line = demo.stdout.readline()
    finally:
        overdue.cancel()
    address = re.search(r"Open http://127\.0\.0\.1:(\d+)/ ", line)
    assert address, f"the demo said {line!r} and no address"
    return demo, int(address[1])
