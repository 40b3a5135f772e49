"""The re-entrant lock of streams; this is the plain twin.

`threading.RLock` takes a semaphore of the operating system for every acquire, and parses arguments: 64 ns with its
release, several times a message. Called from Python too, that of `lock.pyx` takes 25. It has the same methods, and
the interpreter lock is enough for it as long as nobody has to wait.
"""

from __future__ import annotations

import threading

Lock = threading.RLock
"""Lock(): acquire(), release(), `with`, and `_is_owned()`: whether the caller's thread has it."""
