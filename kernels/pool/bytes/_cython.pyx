"""Compiled max pooling of bytes; the contract is the folder's docstring, the loops are in bytes_pool.h."""

include "kernel.pxi"

cdef extern from "bytes_pool.h":
    ctypedef struct bytes_pool_call:
        fd_tensor x
        fd_tensor out
        ptrdiff_t kernel[2]
        ptrdiff_t stride[2]
        ptrdiff_t before[2]
        ptrdiff_t dilation[2]
    int bytes_pool_run(bytes_pool_call *p, int threads) nogil


def max_pool2d_int8_forward(problem, x, out, int threads):
    """out = the largest byte of each window; 0 where there is none."""
    cdef bytes_pool_call p
    cdef int status
    fd_tensor_of(x, &p.x)
    fd_tensor_of(out, &p.out)
    p.kernel[0], p.kernel[1] = problem.attr("kernel")
    p.stride[0], p.stride[1] = problem.stride
    p.before[0], p.before[1] = problem.pads[0], problem.pads[2]
    p.dilation[0], p.dilation[1] = problem.dilation
    with nogil:
        status = bytes_pool_run(&p, threads)
    finish(status)
