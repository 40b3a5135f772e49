cdef Py_ssize_t STREAMED_FRAGMENT
cdef bint DEBUG
