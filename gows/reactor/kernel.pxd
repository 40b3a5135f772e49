cdef class Socket:
    cdef int _fd
    cdef int _family
    cdef int _type
    cdef int _proto
