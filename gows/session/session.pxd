cimport cython

from gows.bytebuffer cimport ByteBuffer
from gows.protocol.connection cimport Connection as Protocol  # the module's own name stays an attribute of it
from gows.reactor.lock cimport Lock
from gows.reactor.stream cimport Stream
from gows.session.context cimport SessionContext
from gows.session.traffic cimport Traffic

cdef int CHUNK, TEXT, BINARY, CLOSE, PING, PONG, FAIL, OPENED, HALF_CLOSED, LOST, DRAINED, DISMISS
cdef int SMALL_HEAD, LARGE, MAY_INFLATE, MAX_QUEUED_PONGS, DEAD, SEND_PING, SILENT, STALLED
cdef int HELD, INBOX_FULL, LEAVING, MUTED, FINISHED, LOST_EARLY, UNSERVED, DISMISSED, COUNTED, SPECIAL, PONG_UNIT
cdef bint DEBUG
cdef tuple _OPCODES


cdef class Session:
    cdef public Stream stream
    cdef public Protocol connection
    cdef public SessionContext context
    cdef public object handler
    cdef public object _subprotocol
    cdef public object _request
    cdef public object _inbox
    cdef public int _flags
    cdef public object _cause
    cdef public long long _ping_tick
    cdef public object _writer

    @cython.locals(connection=Protocol, context=SessionContext, traffic=Traffic, buffer=ByteBuffer, events=list, rest=list, pos=Py_ssize_t, left=Py_ssize_t, unfinished=bint, pending=bint)
    cpdef data_received(self, bytearray buf, Py_ssize_t n)

    @cython.locals(stream=Stream, high_water=Py_ssize_t, kind=int, buffer=ByteBuffer)
    cdef list _deliver(self, list events)

    @cython.locals(stream=Stream, lock=Lock, corked=bint, held=bint, full=int)
    cpdef run(self)

    cpdef list take_events_locked(self)

    @cython.locals(lock=Lock, full=bint)
    cdef _enqueue(self, list events)
