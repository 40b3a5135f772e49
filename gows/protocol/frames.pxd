cimport cython

cdef object _PACK_16, _PACK_64, _UNPACK_KEY, _UNPACK_64

@cython.locals(first=int, masked=int, head=bytes)
cpdef bytes frame_header(int opcode, object length, bint fin=*, bint rsv1=*, bytes key=*)

cpdef bytes encode_frame(int opcode, bytes payload, bint fin=*, bint rsv1=*, bytes key=*)
