from gows.session.heartbeat cimport Heartbeat
from gows.session.policy cimport Policy
from gows.session.traffic cimport Traffic


cdef class SessionContext:
    cdef object __weakref__
    cdef public object loop
    cdef public object options
    cdef public object role
    cdef public object owner
    cdef public bint inline
    cdef public object _base
    cdef public object _other
    cdef public Heartbeat heartbeat
    cdef public Py_ssize_t high_water
    cdef public Py_ssize_t mark
    cdef public object overflow
    cdef public Policy policy
    cdef public object receiving
    cdef public Py_ssize_t portion
    cdef public Traffic traffic
    cdef public object config
    cdef public object chunk_config
    cdef public object deflate_pool
    cdef public object deflate_options
