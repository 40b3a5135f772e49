from gows.protocol.fastpath cimport FastPath


cdef class ConnectionConfig:
    cdef public object role
    cdef public bint masked
    cdef public object max_message_size
    cdef public object max_compressed_size
    cdef public object max_fragments
    cdef public object max_empty_fragments
    cdef public bint chunked
    cdef public object message_buffer_size
    cdef public object min_compress_size
    cdef public object pool
    cdef public object rates
    cdef public object budget
    cdef public Py_ssize_t portion
    cdef public FastPath fastpath
