"""The command line: `python -m gows`, also installed as `gows`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from gows.commands import check, connect, demo, echo, serve
from gows.commands.screen import end_output

COMMANDS = {
    "serve": (serve, "serve an application of yours: a gows.Server, ASGI or WSGI"),
    "demo": (demo, "run a chat with rooms: open it in two browser tabs and talk"),
    "echo": (echo, "answer every message with itself: the target of conformance and load tests"),
    "connect": (connect, "talk to a WebSocket server from the terminal"),
    "check": (check, "say what this machine allows: selector, descriptors, compiled or plain"),
}


class _Version(argparse.Action):
    """Says which gows this is: it is found out only when somebody asks."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"gows {check.gows_version()}, {check.engine()}, {check.python()}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(prog="gows", description="A WebSocket engine for very many connections.")
    top.add_argument("--version", action=_Version, nargs=0, help="say the version, and whether it is compiled")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        try:
            chosen = parser().parse_args(arguments)
            return int(chosen.run(chosen))
        finally:  # here, and not when Python ends, where an error has no other end than a traceback
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # of `gows check | head`
        end_output()
        return 1


if __name__ == "__main__":
    sys.exit(main())
