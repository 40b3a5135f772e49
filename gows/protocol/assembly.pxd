from gows.protocol.utf8 cimport Utf8Validator


cdef class Assembly:
    cdef public bytes raw
    cdef public Py_ssize_t start
    cdef public bint pending
    cdef public object left
    cdef public bytes key
    cdef public bint fin
    cdef public int control
    cdef public bytes body
    cdef public int opcode
    cdef public object size
    cdef public object fragments
    cdef public object empty_fragments
    cdef public object inflater
    cdef public Utf8Validator text
    cdef public bytearray storage

    cpdef add(self, bytes piece, object pool)
    cpdef finish(self)
    cpdef _store(self, bytes chunk, object pool)
    cpdef take(self)
    cpdef drop(self, object pool)
