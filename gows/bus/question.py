"""Question: one `Bus.ask` that waits for the answers of other processes."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from gows.reactor.waits import inner_lock


class Question:
    """The answers to one `Bus.ask`, and the processes that have not answered yet. Any thread."""

    __slots__ = ("_answers", "_lock", "_open", "done")

    def __init__(self, names: Iterable[str]) -> None:
        self.done = threading.Event()
        self._lock = inner_lock("bus answers")
        self._open = set(names)  # from whom something may still come
        self._answers: dict[str, bytes] = {}
        if not self._open:
            self.done.set()

    def answer(self, name: str, data: bytes | None) -> None:
        """Take the answer of a process; None: it answered, and has nothing to say."""
        with self._lock:
            if data is not None:
                self._answers[name] = data
        self.forget(name)

    def forget(self, name: str) -> None:
        """Wait for the process `name` no longer."""
        with self._lock:
            self._open.discard(name)
            if not self._open:
                self.done.set()

    def answers(self) -> dict[str, bytes]:
        """Return the answers that came until now, by process."""
        with self._lock:
            return dict(self._answers)
