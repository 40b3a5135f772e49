"""The masking of RFC 6455 §5.3 in C; `masking.py` is its plain twin, and tests hold the two equal."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Check, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(_MSC_VER)
    #define GOWS_ALONE __restrict
    #else
    #define GOWS_ALONE
    #endif
    /* Eight bytes at a time, as a loop of which compilers make vector instructions: half of the steps. */
    static uint64_t gows_mask(unsigned char *GOWS_ALONE out, const unsigned char *GOWS_ALONE source, Py_ssize_t words,
                              uint64_t twice)
    {
        uint64_t seen = 0, word;
        Py_ssize_t i;
        for (i = 0; i < words; i++) {
            memcpy(&word, source + 8 * i, 8);
            word ^= twice;
            seen |= word;
            memcpy(out + 8 * i, &word, 8);
        }
        return seen;
    }
    """
    uint64_t gows_mask(unsigned char* out, const unsigned char* source, Py_ssize_t words, uint64_t twice) nogil


cdef const unsigned char* bytes_of(object buf, Py_ssize_t n) except NULL:
    """The first `n` bytes of `buf`, of which so many there must be. Good until somebody may resize a bytearray: until
    code that is not ours runs, so do not make an object that the collector tracks in between."""
    cdef Py_ssize_t size
    cdef const unsigned char* data
    if PyByteArray_Check(buf):
        data = <const unsigned char*>PyByteArray_AS_STRING(buf)
        size = PyByteArray_GET_SIZE(buf)
    elif PyBytes_Check(buf):
        data = <const unsigned char*>PyBytes_AS_STRING(buf)
        size = PyBytes_GET_SIZE(buf)
    else:
        raise TypeError(f"bytes or bytearray, not {type(buf).__name__}")
    if n < 0 or n > size:
        raise IndexError(f"{n} bytes of a buffer that has {size}")
    return data


cdef uint64_t mask_into(unsigned char* out, const unsigned char* source, Py_ssize_t size, uint32_t key) noexcept nogil:
    """XOR `size` bytes with `key`, as it lies in memory, into another place. Returns what has a bit 7 set somewhere in
    a byte if, and only if, a byte of the result has."""
    cdef uint64_t twice = <uint64_t>key << 32 | key  # the same bytes in memory whatever the byte order
    cdef uint64_t seen = gows_mask(out, source, size >> 3, twice)
    cdef Py_ssize_t at = size & ~(<Py_ssize_t>7)
    while at < size:
        out[at] = source[at] ^ (<const unsigned char*>&key)[at & 3]
        seen |= out[at]
        at += 1
    return seen


cpdef bytes mask(object data, bytes key, object offset=0):
    """Return `data` XORed with the 4 bytes of `key`, starting with key[offset % 4]. Masks and unmasks alike."""
    cdef Py_buffer view
    cdef bytes masked
    cdef bytes turned = rotate(key, offset)
    cdef uint32_t number = _number(turned)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        masked = PyBytes_FromStringAndSize(NULL, view.len)
        mask_into(<unsigned char*>PyBytes_AS_STRING(masked), <const unsigned char*>view.buf, view.len, number)
    finally:
        PyBuffer_Release(&view)
    return masked


cpdef bytes rotate(bytes key, object offset):
    """Return the key that goes on after `offset` bytes were masked with `key`."""
    cdef Py_ssize_t turn = offset & 3
    return key[turn:] + key[:turn] if turn else key


cpdef bytes mask_range(object buf, Py_ssize_t start, Py_ssize_t end, bytes key):
    """Return buf[start:end] XORed with `key`: the receiver's way, without a copy of the slice first."""
    cdef const unsigned char* data = bytes_of(buf, end)
    cdef bytes masked
    if start < 0 or start > end:
        raise IndexError(f"a range from {start} to {end}")
    masked = PyBytes_FromStringAndSize(NULL, end - start)
    mask_into(<unsigned char*>PyBytes_AS_STRING(masked), data + start, end - start, _number(key))
    return masked


cdef uint32_t _number(bytes key) except? 0:
    cdef uint32_t number
    if key is None or len(key) != 4:
        raise ValueError("a masking key has 4 bytes")
    memcpy(&number, PyBytes_AS_STRING(key), 4)
    return number
