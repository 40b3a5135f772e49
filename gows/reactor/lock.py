"""The re-entrant lock of streams; this is the plain twin.

`threading.RLock` takes a semaphore of the operating system for every acquire and reads its arguments from a tuple: with
a release 0.1 us, several times a message. `lock.pyx` has a lock with the same methods for which the interpreter lock is
enough as long as nobody has to wait.
"""

from __future__ import annotations

import threading

Lock = threading.RLock
"""Lock(): acquire(), release(), and `with`."""
