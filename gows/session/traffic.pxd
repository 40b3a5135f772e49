cdef class Traffic:
    cdef public long long received
    cdef public long long received_bytes
    cdef public long long sent
    cdef public long long sent_bytes
    cdef public long long accepted
    cdef public dict endings
    cdef public dict refusals
