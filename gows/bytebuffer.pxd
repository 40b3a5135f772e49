cdef class ByteBuffer:
    cdef public object _data
    cdef public object _pool
    cdef bint _ascii  # known to be: `_data` is a bytes object without a byte above 127

    cpdef release(self)

cdef ByteBuffer lend(object data, bint is_ascii)
