cimport cython

from gows.reactor.lock cimport Lock
from gows.reactor.stream cimport Stream
from gows.session.session cimport Session
from gows.session.traffic cimport Traffic


cdef class WebSocket(Session):
    cdef object __weakref__
    cdef public object data

    @cython.locals(stream=Stream, lock=Lock, traffic=Traffic, frame=bytes, size=Py_ssize_t)
    cpdef write_string(self, text, bint compress=*, key=*)

    @cython.locals(stream=Stream, lock=Lock, traffic=Traffic, frame=bytes, size=Py_ssize_t)
    cdef _write(self, int opcode, data, bint compress, key)
