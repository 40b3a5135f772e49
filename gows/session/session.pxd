cimport cython

from gows.bytebuffer cimport ByteBuffer
from gows.protocol.connection cimport Connection as Protocol  # the module's own name stays an attribute of it
from gows.session.context cimport SessionContext
from gows.session.delivering cimport Delivering
from gows.session.traffic cimport Traffic

cdef int CHUNK, CLOSE, PING, PONG, OPENED, HALF_CLOSED, STREAM_LOST, DRAINED
cdef int SMALL_HEAD, LARGE, MAY_INFLATE, DEAD, SEND_PING, SILENT, STALLED
cdef int AWAITING, HELD, INBOX_FULL, LEAVING, LOST_EARLY, UNSERVED, COUNTED, SPECIAL
cdef bint DEBUG
cdef tuple OPCODES


cdef class Session(Delivering):
    cdef public object _subprotocol
    cdef public long long _ping_tick

    @cython.locals(connection=Protocol, context=SessionContext, traffic=Traffic, buffer=ByteBuffer, events=list, rest=list, pos=Py_ssize_t, left=Py_ssize_t, unfinished=bint, pending=bint)
    cpdef data_received(self, bytearray buf, Py_ssize_t n)
