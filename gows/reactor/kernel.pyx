"""Sockets whose calls do not let the interpreter lock go; `kernel.py` is the plain twin, and says why.

Reading and sending are asked of the kernel with MSG_DONTWAIT, so that they cannot block whatever the descriptor's mode
is. What is rare is left to the standard library's type, lent our descriptor for the call.
"""

import errno
import os
import socket
import warnings

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_CheckExact, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno

cdef extern from *:
    """
    #ifdef _WIN32
    #define gows_recv(fd, at, size) (WSASetLastError(WSAENOTSOCK), -1)
    #define gows_send(fd, at, size) (WSASetLastError(WSAENOTSOCK), -1)
    #else
    #include <sys/types.h>
    #include <sys/socket.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    #define gows_recv(fd, at, size) recv(fd, at, size, MSG_DONTWAIT)
    #define gows_send(fd, at, size) send(fd, at, size, MSG_DONTWAIT | MSG_NOSIGNAL)
    #endif
    """
    Py_ssize_t gows_recv(int fd, void* at, size_t size) nogil
    Py_ssize_t gows_send(int fd, const void* at, size_t size) nogil


cdef class Socket:
    """A connection's non-blocking socket: Socket(family, type, proto, fileno). A stand-in for `socket.SocketType`."""

    def __cinit__(self):
        self._fd = -1

    def __init__(self, int family, int type, int proto=0, object fileno=None):
        self._family = family
        self._type = type
        self._proto = proto
        self._fd = socket.SocketType(family, type, proto).detach() if fileno is None else fileno

    def __del__(self):
        if self._fd >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
            self.close()

    def __repr__(self):
        return f"<gows.reactor.kernel.Socket fd={self._fd}, family={self._family}, type={self._type}>"

    def recv_into(self, buffer):
        """Read into all of a writable buffer what has come, without waiting. Raises OSError."""
        cdef Py_ssize_t n
        cdef Py_buffer view
        if PyByteArray_CheckExact(buffer):
            n = gows_recv(self._fd, PyByteArray_AS_STRING(buffer), PyByteArray_GET_SIZE(buffer))
            return _result(n)
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            return _result(gows_recv(self._fd, view.buf, view.len))
        finally:
            PyBuffer_Release(&view)

    def send(self, data):
        """Have the kernel take as much of `data` as it will, without waiting. Raises OSError."""
        cdef Py_ssize_t n
        cdef Py_buffer view
        if PyBytes_CheckExact(data):
            n = gows_send(self._fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            return _result(n)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return _result(gows_send(self._fd, view.buf, view.len))
        finally:
            PyBuffer_Release(&view)

    def fileno(self):
        """The descriptor; -1 once it was closed."""
        return self._fd

    def detach(self):
        """Give the descriptor away."""
        cdef int fd = self._fd
        self._fd = -1
        return fd

    def close(self):
        """Close the descriptor. Idempotent."""
        cdef int fd = self._fd
        self._fd = -1
        if fd >= 0:
            try:
                os.close(fd)
            except ConnectionResetError:  # the peer's reset: closed all the same
                pass

    @property
    def family(self):
        return self._family

    @property
    def type(self):
        return self._type

    @property
    def proto(self):
        return self._proto

    def sendmsg(self, buffers):
        """`socket.sendmsg`: for large queues, and while those are copied another thread may well run."""
        return self._lent("sendmsg", buffers)

    def setblocking(self, flag):
        os.set_blocking(_open(self), flag)

    def connect_ex(self, address):
        return self._lent("connect_ex", address)

    def shutdown(self, how):
        return self._lent("shutdown", how)

    def getsockname(self):
        return self._lent("getsockname")

    def getpeername(self):
        return self._lent("getpeername")

    def getsockopt(self, level, option, *size):
        return self._lent("getsockopt", level, option, *size)

    def setsockopt(self, level, option, value):
        return self._lent("setsockopt", level, option, value)

    def _lent(self, name, *args):
        lent = socket.SocketType(self._family, self._type, self._proto, _open(self))
        try:
            return getattr(lent, name)(*args)
        finally:
            lent.detach()


cdef inline object _result(Py_ssize_t n):
    """Return what a system call returned; it has just set errno."""
    if n < 0:
        PyErr_SetFromErrno(OSError)
    return n


cdef inline int _open(Socket socket) except -1:
    if socket._fd < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return socket._fd
