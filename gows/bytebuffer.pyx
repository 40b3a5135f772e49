"""ByteBuffer in C; `bytebuffer.py` is its plain twin, and says what it is. In C it has the buffer protocol on every Python."""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcpy

from gows.errors import BufferReleasedError

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    void* PyUnicode_DATA(object text)

cdef str _RELEASED = "the buffer was given back when the callback returned; copy it there with clone_bytes()"


@cython.freelist(64)
@cython.no_gc  # it holds bytes, a bytearray and a pool: no cycle, and one is made for every message
cdef class ByteBuffer:
    """The payload of one message or chunk. Valid until the callback it was lent to returns.

    Supports `len()`, `bytes()`, and the buffer protocol: wherever the modules are compiled, and in plain Python from
    3.12 on (PEP 688); elsewhere use `get_bytes()`.
    Raises BufferReleasedError when used after it was given back. May be read from any thread while it is lent.
    """

    def __init__(self, *arguments, **named):
        raise TypeError("ByteBuffer() cannot be called: gows makes the buffers, and lends them to callbacks")

    @staticmethod
    def of(data, pool=None):
        """Return a buffer over `data`; a bytearray goes to `pool` when it is released."""
        cdef ByteBuffer buffer = lend(data, False)
        buffer._pool = pool
        return buffer

    def get_bytes(self):
        """Return a read-only view of the payload, without a copy."""
        return memoryview(_there(self)).toreadonly()

    def clone_bytes(self):
        """Return a copy that stays valid after the release."""
        data = _there(self)
        return data if type(data) is bytes else bytes(data)

    def get_string(self):
        """Return the payload decoded as UTF-8; raises UnicodeDecodeError for a binary message that is not UTF-8."""
        data = _there(self)
        if self._ascii and type(data) is bytes:  # a copy: the decoder would look at every byte again
            return _copied(<bytes>data)
        if type(data) is bytes:
            return (<bytes>data).decode("utf-8")
        return data.decode()

    def size(self):
        """Return the length in bytes."""
        return len(_there(self))

    cpdef release(self):
        """Give the storage back. Idempotent. The engine calls it; a user may call it early."""
        data, self._data = self._data, None
        if self._pool is not None and type(data) is bytearray:
            self._pool.give(data)

    def __len__(self):
        return len(_there(self))

    def __bool__(self):
        return True

    def __bytes__(self):
        return self.clone_bytes()

    def __buffer__(self, flags):
        return self.get_bytes()

    def __getbuffer__(self, Py_buffer* view, int flags):
        data = _there(self)
        if flags & PyBUF_WRITABLE:
            raise BufferError("a received message cannot be changed")
        PyObject_GetBuffer(data, view, flags)  # the view holds the storage, not this wrapper: it may outlive a release
        view.readonly = 1

    def __repr__(self):
        return "<ByteBuffer released>" if self._data is None else f"<ByteBuffer {len(self._data)} bytes>"


cdef ByteBuffer lend(object data, bint is_ascii):
    """Return `ByteBuffer.of(data)`, for the engine."""
    cdef ByteBuffer buffer = ByteBuffer.__new__(ByteBuffer)
    buffer._data = data
    buffer._ascii = is_ascii
    return buffer


cdef object _copied(bytes data):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    text = PyUnicode_New(size, 127)
    memcpy(PyUnicode_DATA(text), PyBytes_AS_STRING(data), size)
    return text


cdef inline object _there(ByteBuffer buffer):
    data = buffer._data
    if data is None:
        raise BufferReleasedError(_RELEASED)
    return data
