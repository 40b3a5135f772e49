cimport cython

from gows.reactor.interfaces cimport Transport
from gows.reactor.lock cimport Lock



cdef Py_ssize_t SEND_AT_ONCE
cdef bint DEBUG
cdef int READ, WRITE, ERROR
cdef int ABORTED, BLOCKED, CLOSE_TIMER_SET, SEND_FAILED, CLOSING, CONNECTING, CORKED, DIRTY, FIN_SENT, FIN_QUEUED, EOF_RECEIVED, NO_LINGER, LINGERING, LOST_REPORTED, NO_DATA, WILL_BE_SENT, NO_SEND, NO_WRITE, DRAIN_OWED, PAUSED, RESET, WATCHED


cdef class Stream(Transport):
    cdef public object loop
    cdef public Lock lock
    cdef public list _out
    cdef public Py_ssize_t queued
    cdef public long long seen
    cdef public long long _progress
    cdef public int _state

    @cython.locals(n=Py_ssize_t)
    cpdef on_readable(self, scratch, ticks)

    @cython.locals(state=int, size=Py_ssize_t)
    cpdef write_locked(self, data)

    cpdef cork_locked(self)
    cpdef uncork_locked(self)

    @cython.locals(state=int)
    cpdef uncork_later_locked(self)

    @cython.locals(out=list, sent=Py_ssize_t)
    cpdef flush_locked(self)

    @cython.locals(lock=Lock)
    cpdef flush_dirty(self)

    @cython.locals(lock=Lock)
    cpdef flush(self)

    cdef _mark_dirty_locked(self, int state)

    cdef _sent_some_locked(self, list out, Py_ssize_t sent)


@cython.locals(size=Py_ssize_t, length=Py_ssize_t, count=Py_ssize_t, small=Py_ssize_t, most=Py_ssize_t)
cpdef join_small(list out)

@cython.locals(count=Py_ssize_t)
cpdef drop_sent(list out, Py_ssize_t sent)
