cdef class Endpoint:
    cpdef on_readable(self, scratch, ticks)
    cpdef on_event(self, mask, scratch, ticks)


cdef class Transport(Endpoint):
    cdef public object sock
    cdef public object observer
    cdef public long long deadline
