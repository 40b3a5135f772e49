from gows.bytebuffer cimport ByteBuffer


cdef class FastPath:
    cdef Py_ssize_t _limit

    cpdef ByteBuffer one(self, object buf, Py_ssize_t pos, Py_ssize_t n)
    cpdef Py_ssize_t take(self, object buf, Py_ssize_t pos, Py_ssize_t n, list events, Py_ssize_t most=*) except -1

cpdef bytes text_frame(object text)
cpdef bytes data_frame(int opcode, bytes data)
