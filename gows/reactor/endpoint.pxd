cdef class Endpoint:
    cpdef on_readable(self, scratch, ticks)
    cpdef on_event(self, mask, scratch, ticks)
