"""Whole messages in C; `fastpath.py` is its plain twin, and says what they are. Tests hold the two equal."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from gows.bytebuffer cimport ByteBuffer, lend
from gows.protocol.masking cimport bytes_of, mask_into
from gows.protocol.utf8 cimport is_utf8

from gows.protocol.assembly import not_utf8

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef enum:
    SMALL = 125

cdef uint64_t _NOT_ASCII = 0x8080808080808080
cdef object _TEXT = 1
cdef object _BINARY = 2


cdef class FastPath:
    """Takes whole messages of at most `limit` bytes of payload; with -1 none at all."""

    def __init__(self, limit):
        self._limit = min(limit, 65535)

    cpdef ByteBuffer one(self, object buf, Py_ssize_t pos, Py_ssize_t n):
        """Return the small message (of at most 125 bytes) with which buf[pos:n] begins; its opcode stands in buf[pos],
        as 0x81 or 0x82, and it has 6 bytes more than its payload. None: what comes first is something else."""
        cdef const unsigned char* data
        cdef Py_ssize_t size
        if pos < 0:
            raise IndexError(f"position {pos}")
        if n - pos < 6:
            return None
        data = bytes_of(buf, n) + pos
        size = data[1] - 0x80
        if size < 0 or size > SMALL or size > self._limit or size > n - pos - 6:
            return None
        if data[0] != 0x81 and data[0] != 0x82:
            return None
        return _unmasked(data + 2, size, data[0] == 0x81)

    cpdef Py_ssize_t take(self, object buf, Py_ssize_t pos, Py_ssize_t n, list events, Py_ssize_t most=1 << 30) except -1:
        """Take as many messages as follow each other in buf[pos:n], `most` of them, and append them to `events`.
        Returns the end of the last. Raises ProtocolError (1007) for a text that is not UTF-8."""
        cdef const unsigned char* data
        cdef Py_ssize_t size, head
        cdef ByteBuffer buffer
        if pos < 0:
            raise IndexError(f"position {pos}")
        while n - pos > 5 and most > 0:
            most -= 1
            data = bytes_of(buf, n) + pos  # anew, for to append a tuple may run a finalizer
            if data[0] != 0x81 and data[0] != 0x82:
                break
            size = data[1] - 0x80
            head = 2
            if size == 126:
                size = data[2] << 8 | data[3]
                head = 4
                if size < 126:
                    break
            if size < 0 or size == 127 and head == 2 or size > self._limit or size > n - pos - head - 4:
                break
            buffer = _unmasked(data + head, size, data[0] == 0x81)
            if buffer is None:
                raise not_utf8()
            events.append((_TEXT if data[0] == 0x81 else _BINARY, buffer))
            pos += head + 4 + size
        return pos


cpdef bytes text_frame(object text):
    """Return `text` as one unmasked frame. Raises UnicodeEncodeError for a lone surrogate, AttributeError for no
    str."""
    cdef const char* data
    cdef Py_ssize_t size
    cdef bytes encoded
    if PyUnicode_Check(text) and PyUnicode_IS_COMPACT_ASCII(text):  # it is its own UTF-8, and is copied once
        data = <const char*>PyUnicode_DATA(text)
        size = PyUnicode_GET_LENGTH(text)
    else:
        encoded = text.encode()
        data = PyBytes_AS_STRING(encoded)
        size = PyBytes_GET_SIZE(encoded)
    return _framed(0x81, data, size)


cpdef bytes data_frame(int opcode, bytes data):
    """Return a whole message, TEXT or BINARY, as one unmasked frame."""
    return _framed(0x80 | opcode, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef bytes _framed(int first, const char* data, Py_ssize_t size):
    """Return a frame without a mask (RFC 6455 §5.2)."""
    cdef Py_ssize_t head = 2 if size < 126 else 4 if size < 65536 else 10
    cdef uint64_t left = size
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, head + size)
    cdef unsigned char* out = <unsigned char*>PyBytes_AS_STRING(frame)
    cdef Py_ssize_t at = head
    out[0] = first
    out[1] = size if head == 2 else 126 if head == 4 else 127
    while at > 2:
        at -= 1
        out[at] = left & 0xFF
        left >>= 8
    memcpy(out + head, data, size)
    return frame


cdef ByteBuffer _unmasked(const unsigned char* data, Py_ssize_t size, bint text):
    """Return the payload behind the key at `data`; None for a text that is not UTF-8."""
    cdef uint32_t key
    cdef bint is_ascii
    cdef bytes payload = PyBytes_FromStringAndSize(NULL, size)
    memcpy(&key, data, 4)
    is_ascii = not mask_into(<unsigned char*>PyBytes_AS_STRING(payload), data + 4, size, key) & _NOT_ASCII
    if text and not is_ascii and not is_utf8(payload):
        return None
    return lend(payload, is_ascii)
