cdef class Lock:
    cdef unsigned long _owner
    cdef int _depth
    cdef int _waiting
    cdef object _gate

    cpdef bint acquire(self) except -1
    cpdef release(self)
    cdef _wait(self, unsigned long me)
    cdef _open_gate(self)
