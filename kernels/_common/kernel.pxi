# What every _cython.pyx starts with: the runtime, and the errors of a kernel.
from libc.stddef cimport ptrdiff_t

from fastdl.kernels._common._runtime import _api

cdef extern from "runtime.h":
    enum: FD_F32, FD_F64, FD_F16, FD_BF16, FD_E4M3, FD_E5M2, FD_U8, FD_I32, FD_I64, FD_U64, FD_TF32, FD_OTHER
    ctypedef struct fd_tensor:
        char *data
        int ndim
        int type
        ptrdiff_t itemsize
        ptrdiff_t size
        ptrdiff_t shape[16]
        ptrdiff_t stride[16]
    int fd_use_runtime(object capsule) except -1
    int fd_tensor_of(object array, fd_tensor *out) except -1

fd_use_runtime(_api)


cdef const fd_tensor *optional(object array, fd_tensor *to) except? NULL:
    """``to``, filled from an array; NULL for None."""
    if array is None:
        return NULL
    fd_tensor_of(array, to)
    return to


cdef int finish(int status) except -1:
    """Turns the status of a parallel_for into an exception."""
    if status != 0:
        raise MemoryError("a kernel found no memory for its scratch space")
    return 0
