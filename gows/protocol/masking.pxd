from libc.stdint cimport uint32_t, uint64_t

cdef const unsigned char* bytes_of(object buf, Py_ssize_t n) except NULL
cdef uint64_t mask_into(unsigned char* out, const unsigned char* source, Py_ssize_t size, uint32_t key) noexcept nogil
cpdef bytes mask(object data, bytes key, object offset=*)
cpdef bytes rotate(bytes key, object offset)
cpdef bytes mask_range(object buf, Py_ssize_t start, Py_ssize_t end, bytes key)
