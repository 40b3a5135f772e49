"""Child: the worker of `gows serve --reload`, a program of its own: `python -m gows.commands.serving.child`.

Its arguments are the options as JSON, and a descriptor that is at its end when the supervisor is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from gows.commands.serving.building import make_server
from gows.commands.serving.failing import failures
from gows.commands.serving.logs import configure
from gows.commands.serving.options import ServeOptions
from gows.commands.serving.reloader import DRAIN, PATIENCE, STOP_TIMEOUT
from gows.commands.serving.running import announce, places
from gows.processes.interpreter import dedicate
from gows.reactor.loop import SIGNAL_INTERVAL
from gows.server.signals import EndSignals


def to_json(options: ServeOptions) -> str:
    """Return options as the text from which `from_json` makes them again."""
    return json.dumps(asdict(options) | {"given": sorted(options.given)})


def from_json(text: str) -> ServeOptions:
    """Return the options of a text."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()
    }
    return ServeOptions(**values | {"given": frozenset(values["given"])})


def end_with(descriptor: int) -> None:
    """Have this process end once the other end of the pipe is closed: in order, or else PATIENCE later."""

    def wait() -> None:
        os.read(descriptor, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="gows-supervisor", daemon=True).start()


def serve(options: ServeOptions) -> None:
    """Serve until a signal comes. What waits in the queue of a socket then is left to the successor."""
    server = make_server(options)
    listeners = [server.add_listener(place) for place in places(options)]
    dedicate()
    ended: SimpleQueue[None] = SimpleQueue()
    with EndSignals(partial(ended.put, None)) as signals:
        server.start()
        announce(server.addresses, secure=server.ssl_context is not None)
        while not (signals.came or server.draining):
            try:
                ended.get(timeout=SIGNAL_INTERVAL)
            except Empty:
                pass
        for listener in listeners:
            server.drop_listener(listener)
        server.stop(STOP_TIMEOUT, drain=DRAIN)


def main(arguments: list[str]) -> int:
    """Serve until a signal comes; return the exit status."""
    options = from_json(arguments[0])
    os.set_inheritable(int(arguments[1]), False)
    end_with(int(arguments[1]))
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the supervisor has it blocked until now
        with failures() as status:
            configure(options)
            serve(options)
    except KeyboardInterrupt:
        return 130
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
