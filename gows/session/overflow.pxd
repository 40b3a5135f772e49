from gows.reactor.stream cimport Stream

cdef bint DEBUG
