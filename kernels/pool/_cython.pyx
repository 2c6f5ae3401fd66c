"""Compiled pooling; the contract is the folder's docstring, the loops are in max_pool*.h, avg_pool.h and lines.h."""

include "kernel.pxi"

cdef extern from "pool_call.h":
    ctypedef struct fd_axis:
        ptrdiff_t kernel
        ptrdiff_t stride
        ptrdiff_t dilation
        ptrdiff_t before
        ptrdiff_t after
    ctypedef struct pool_call:
        fd_tensor image
        fd_tensor pooled
        fd_tensor indices
        fd_tensor out
        fd_axis h
        fd_axis w
        int include_pad
    int max_pool_forward(pool_call *p, int threads) nogil
    int max_pool_backward(pool_call *p, int threads) nogil
    int avg_pool_forward(pool_call *p, int threads) nogil
    int avg_pool_backward(pool_call *p, int threads) nogil
    int global_avg_pool_forward(pool_call *p, int threads) nogil
    int global_avg_pool_backward(pool_call *p, int threads) nogil


cdef int prepare(pool_call *p, problem, image, pooled) except -1:
    """Arrays and window of ``problem``; no indices, no mask."""
    fd_tensor_of(image, &p.image)
    fd_tensor_of(pooled, &p.pooled)
    p.indices.data = NULL
    p.indices.type = FD_U8
    p.out.data = NULL
    p.h.kernel, p.w.kernel = problem.attr("kernel")
    p.h.stride, p.w.stride = problem.stride
    p.h.dilation, p.w.dilation = problem.dilation
    p.h.before, p.h.after, p.w.before, p.w.after = problem.pads
    return 0


def max_pool2d_forward(problem, x, out, indices, int threads):
    """out = the largest element of each window, the first of equals; indices = its tap."""
    cdef pool_call p
    cdef int status
    prepare(&p, problem, x, out)
    if indices is not None:
        fd_tensor_of(indices, &p.indices)
    with nogil:
        status = max_pool_forward(&p, threads)
    finish(status)


def max_pool2d_backward(problem, dout, indices, out, dx, int threads):
    """dx = the sum of dout over the windows that chose the element and, with ``out``, whose result is not <= 0."""
    cdef pool_call p
    cdef int status
    prepare(&p, problem, dx, dout)
    fd_tensor_of(indices, &p.indices)
    if out is not None:
        fd_tensor_of(out, &p.out)
    with nogil:
        status = max_pool_backward(&p, threads)
    finish(status)


def avg_pool2d_forward(problem, x, out, int threads):
    """out = the mean of each window."""
    cdef pool_call p
    cdef int status
    prepare(&p, problem, x, out)
    p.include_pad = problem.attr("count_include_pad")
    with nogil:
        status = avg_pool_forward(&p, threads)
    finish(status)


def avg_pool2d_backward(problem, dout, dx, int threads):
    """dx = the sum, over the windows that cover the element, of dout / divisor."""
    cdef pool_call p
    cdef int status
    prepare(&p, problem, dx, dout)
    p.include_pad = problem.attr("count_include_pad")
    with nogil:
        status = avg_pool_backward(&p, threads)
    finish(status)


def global_avg_pool2d_forward(problem, x, out, int threads):
    """out[n, c] = the mean of x[n, c] over H and W."""
    cdef pool_call p
    cdef int status
    fd_tensor_of(x, &p.image)
    fd_tensor_of(out, &p.pooled)
    p.indices.data = p.out.data = NULL
    with nogil:
        status = global_avg_pool_forward(&p, threads)
    finish(status)


def global_avg_pool2d_backward(problem, dout, dx, int threads):
    """dx[n, c, h, w] = dout[n, c] / (H * W)."""
    cdef pool_call p
    cdef int status
    fd_tensor_of(dx, &p.image)
    fd_tensor_of(dout, &p.pooled)
    p.indices.data = p.out.data = NULL
    with nogil:
        status = global_avg_pool_backward(&p, threads)
    finish(status)
