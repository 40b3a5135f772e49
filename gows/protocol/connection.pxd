cimport cython

from gows.bytebuffer cimport ByteBuffer
from gows.protocol.assembly cimport Assembly
from gows.protocol.config cimport ConnectionConfig as Config  # under its own name it would be no attribute of the module
from gows.protocol.utf8 cimport Utf8Validator
from gows.protocol.fastpath cimport FastPath, data_frame, text_frame


cdef int READING, GOT_CLOSE, FAULT, ENDED, READY, MESSAGE, DEFLATED, SENT_CLOSE, FIN, RSV1, MAX_CONTROL


cdef class Connection:
    cdef public Config config
    cdef public object deflate
    cdef public int _in
    cdef public int _out
    cdef public Assembly _assembly
    cdef public Utf8Validator _sent_text
    cdef public object close_code
    cdef public object close_reason

    cpdef ByteBuffer receive_one(self, object buf, Py_ssize_t pos, Py_ssize_t n)

    @cython.locals(assembly=Assembly, config=Config, fastpath=FastPath, left=Py_ssize_t, known=Py_ssize_t)
    cpdef receive(self, object buf, Py_ssize_t n, list events, Py_ssize_t pos=*)

    @cython.locals(assembly=Assembly)
    cdef _stop(self, int receiving)

    @cython.locals(assembly=Assembly)
    cdef Py_ssize_t _advance(self, object buf, Py_ssize_t pos, Py_ssize_t n, list events) except -1

    cpdef bytes encode_message(self, int opcode, object data, bint compress=*)
    cpdef bytes encode_text(self, object text, bint compress=*)

    @cython.locals(config=Config)
    cdef bytes _message(self, int opcode, bytes data, bint compress)

    cdef Assembly _kept(self)

    @cython.locals(assembly=Assembly)
    cdef _put_aside(self, object buf, Py_ssize_t pos, Py_ssize_t n)
