cimport cython

from gows.reactor.stream cimport Stream

cdef bint DEBUG
cdef int READ
cdef double LEAST_SHARE
cdef Py_ssize_t LEAST_BUFFER, MOST_OWED, MOST_USELESS, WORTH
cdef int ABORTED, BLOCKED, CLOSING, CONNECTING, TLS_DEFERRED, FIN_SENT, FIN_QUEUED, EOF_RECEIVED, CLOSE_NOTIFY_SENT, LOST_REPORTED, NO_CIPHER, DRAIN_OWED, PAUSED, WATCHED


cdef class TLSStream(Stream):
    cdef public object ssl_object
    cdef public object _incoming
    cdef public object _outgoing
    cdef public object _cipher
    cdef public Py_ssize_t _useless
    cdef public Py_ssize_t _room

    @cython.locals(state=int, n=Py_ssize_t, room=Py_ssize_t, filled=Py_ssize_t)
    cpdef on_readable(self, scratch, ticks)

    @cython.locals(more=bint, filled=Py_ssize_t, total=Py_ssize_t)
    cdef Py_ssize_t _deliver(self, scratch, cipher)

    @cython.locals(filled=Py_ssize_t, size=Py_ssize_t, n=Py_ssize_t, fed=Py_ssize_t)
    cdef tuple _decipher_locked(self, scratch, cipher)

    @cython.locals(pieces=list)
    cpdef flush_locked(self)

    @cython.locals(out=list, pieces=list, written=Py_ssize_t, length=Py_ssize_t)
    cdef list _encipher_locked(self)

    @cython.locals(sent=Py_ssize_t, queued=Py_ssize_t)
    cdef _send_locked(self)
