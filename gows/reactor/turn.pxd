cimport cython

from gows.reactor.interfaces cimport Endpoint

cdef bint DEBUG
cdef int READ


@cython.locals(endpoint=Endpoint, fd=Py_ssize_t)
cpdef deliver(list events, list endpoints, scratch, ticks, failed, context, clean)

cpdef flush(dirty, failed)
