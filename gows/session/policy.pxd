cdef int TEXT
cdef bint DEBUG


cdef class Policy:
    cdef public object _loop
    cdef public object _overflow
    cdef public Py_ssize_t _high_water
    cdef public object _write_timeout
    cdef public Py_ssize_t mark

    cpdef bint make_room_locked(self, sender, int opcode, data, bint compress, key, Py_ssize_t deferred, double expires, bint wait) except -1
    cpdef bint decide_locked(self, sender, Py_ssize_t size, Py_ssize_t deferred, bint wait) except -1


cdef class Refuse(Policy):
    pass


cdef class Block(Refuse):
    pass


cdef class Drop(Policy):
    pass


cdef class Close(Policy):
    pass


cdef class DropOldest(Drop):
    cdef public bint _by_key


cdef class Latest(DropOldest):
    pass
