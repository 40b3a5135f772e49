from gows.protocol.connection cimport Connection as Protocol  # the module's own name stays an attribute of it
from gows.reactor.stream cimport Stream
from gows.session.context cimport SessionContext

cdef bint DEBUG
cdef int TEXT


cdef class Sending:
    cdef public Stream stream
    cdef public Protocol connection
    cdef public SessionContext context
    cdef public object _cause
    cdef public object _writer

    cdef _init_sending(self, stream, connection, context)
