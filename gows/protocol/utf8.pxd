cdef class Utf8Validator:
    cdef public bytes _rest

    cpdef bint feed(self, bytes data, bint final=*) except -1

cpdef bint is_utf8(bytes payload) except -1
