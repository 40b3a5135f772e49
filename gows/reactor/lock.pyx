"""The re-entrant lock of streams in C; `lock.py` is its plain twin, and says why.

No Python code runs inside these methods, so the interpreter lock makes each of them one step, but for the wait at the
gate. The gate is a semaphore: a release that finds somebody waiting opens it, and whoever comes through it looks anew,
for a third thread may have been faster.
"""

from cpython.pythread cimport PyThread_get_thread_ident

import threading


cdef class Lock:
    """Lock(): acquire(), release(), and `with`; owned by a thread, which may acquire it again."""

    def __cinit__(self):
        self._gate = threading.Lock()
        self._gate.acquire()

    cpdef bint acquire(self) except -1:
        """Wait until the lock is ours."""
        cdef unsigned long me = PyThread_get_thread_ident()
        if self._depth == 0:
            self._owner = me
            self._depth = 1
        elif self._owner == me:
            self._depth += 1
        else:
            self._wait(me)
        return True

    cpdef release(self):
        """Give it up, once for each acquire. Raises RuntimeError in a thread that does not own it."""
        if self._depth == 0 or self._owner != <unsigned long>PyThread_get_thread_ident():
            raise RuntimeError("cannot release a lock that this thread does not own")
        self._depth -= 1
        if self._depth == 0 and self._waiting:
            self._open_gate()

    def _is_owned(self):
        """Return whether the caller's thread has the lock; `threading.RLock` has this method, for conditions."""
        return self._depth > 0 and self._owner == <unsigned long>PyThread_get_thread_ident()

    def __enter__(self):
        return self.acquire()

    def __exit__(self, kind, error, traceback):
        self.release()

    cdef _wait(self, unsigned long me):
        self._waiting += 1
        try:
            while self._depth:
                self._gate.acquire()  # lets the interpreter lock go; raises what a signal handler raises
            self._owner = me
            self._depth = 1
        finally:
            self._waiting -= 1
            if self._waiting and not self._depth:  # we leave without it, and the gate may have been opened for us
                self._open_gate()

    cdef _open_gate(self):
        if self._gate.locked():
            self._gate.release()
