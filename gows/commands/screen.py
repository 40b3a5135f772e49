"""Screen: where a command prints while its user may be typing."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import unicodedata


def columns(text: str) -> int:
    """Return how many columns wide a terminal shows `text`."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def end_output() -> None:
    """Send what is left, in the buffer too, nowhere: nobody reads the output any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    finally:
        os.close(nowhere)


def say(text: str) -> None:
    """Print a line. A server goes on when nobody reads what it prints."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        end_output()


class Screen:
    """Where things are printed: messages on standard output, remarks on standard error. Any thread."""

    def __init__(self, interactive: bool) -> None:
        self.interactive = interactive
        self._lock = threading.Lock()
        self._prompted = False

    def prompt(self) -> None:
        """Invite the user to type, in a terminal."""
        with self._lock:
            if self.interactive:
                sys.stdout.write("> ")
                sys.stdout.flush()
                self._prompted = True

    def entered(self) -> None:
        """Note that the user has ended the line."""
        self._prompted = False

    def end_prompt(self) -> None:
        """End the line: no more is asked of the user."""
        with self._lock:
            if self._prompted:
                self._prompted = False
                print(flush=True)

    def note(self, text: str) -> None:
        """Print a remark."""
        with self._lock:
            if self._prompted:
                self._insert(text)
            else:
                print(text, file=sys.stderr, flush=True)

    def show(self, text: str) -> None:
        """Print a message. Raises BrokenPipeError when nobody reads any more."""
        with self._lock:
            if self._prompted:
                self._insert(text)
            else:
                print(text, flush=True)

    def _insert(self, text: str) -> None:
        """Print above the line that is being typed, and leave that as it is: make room below, move the line down by
        inserting before it, and put the cursor back to where it was in it."""
        rows = max(1, -(-columns(text) // shutil.get_terminal_size().columns))
        save, restore = "\x1b7", "\x1b8"
        make_room = "\n" * rows + f"\x1b[{rows}A\x1b[{rows}L"
        sys.stdout.write(f"{save}{make_room}\r{text}{restore}\x1b[{rows}B")
        sys.stdout.flush()
