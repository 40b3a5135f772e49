"""Talk to a WebSocket server from the terminal (placeholder until the real one is written)."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `gows connect`."""
    parser.add_argument("url")


def run(arguments: argparse.Namespace) -> int:
    """Not written yet."""
    raise NotImplementedError
