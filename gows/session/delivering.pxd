cimport cython

from gows.bytebuffer cimport ByteBuffer
from gows.reactor.lock cimport Lock
from gows.reactor.stream cimport Stream
from gows.session.sending cimport Sending

cdef int CHUNK, TEXT, BINARY, CLOSE, PING, PONG, FAIL, OPENED, HALF_CLOSED, STREAM_LOST, DRAINED, DISMISS, PINGED
cdef int MAX_QUEUED_PONGS, EVENT_SIZE, LARGE, SMALL
cdef int COROUTINE, AWAITING, HELD, INBOX_FULL, MUTED, FINISHED, UNSERVED, DISMISSED, COUNTED, PONG_UNIT
cdef bint DEBUG
cdef tuple OPCODES


cdef class Delivering(Sending):
    cdef public object handler
    cdef public object _request
    cdef public object _inbox
    cdef public int _flags

    cdef _init_delivering(self, request)

    @cython.locals(lock=Lock, over=bint, full=bint, size=Py_ssize_t)
    cdef _enqueue(self, list events)

    @cython.locals(size=Py_ssize_t, kind=int)
    cdef Py_ssize_t _size_of(self, list events)

    @cython.locals(stream=Stream, lock=Lock, corked=bint, held=bint, full=int)
    cpdef run(self)

    cpdef list take_events_locked(self)

    @cython.locals(stream=Stream, high_water=Py_ssize_t, kind=int, buffer=ByteBuffer)
    cdef list _deliver(self, list events)
