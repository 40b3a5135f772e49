from gows.reactor.stream cimport Stream


cdef class Heartbeat:
    cdef public object ping_interval
    cdef public object ping_timeout
    cdef public object read_timeout
    cdef public object write_timeout

    cpdef begin(self, Stream stream)
    cpdef next_look(self, Stream stream, long long pinged)
    cpdef tuple look(self, Stream stream, long long pinged)
    cdef _patience(self)


cdef double _spread(Stream stream) except -1
