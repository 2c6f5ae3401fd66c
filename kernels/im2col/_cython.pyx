"""Compiled im2col and col2im; the contract is the folder's docstring, the loops are in im2col.h and col2im.h."""

include "kernel.pxi"

cdef extern from "im2col_call.h":
    ctypedef struct fd_axis:
        ptrdiff_t windows
        ptrdiff_t kernel
        ptrdiff_t stride
        ptrdiff_t dilation
        ptrdiff_t before
    ctypedef struct im2col_call:
        fd_tensor image
        fd_tensor col
        fd_axis h
        fd_axis w
    int im2col_start(im2col_call *p, int threads) nogil
    int col2im_start(im2col_call *p, int threads) nogil

from fastdl.kernels.geometry import window_grid


cdef int prepare(im2col_call *p, problem, image, col) except -1:
    """Arrays and windows of ``problem``."""
    fd_tensor_of(image, &p.image)
    fd_tensor_of(col, &p.col)
    kernel = problem.attr("kernel")
    p.h.kernel, p.w.kernel = kernel
    p.h.stride, p.w.stride = problem.stride
    p.h.dilation, p.w.dilation = problem.dilation
    p.h.before, _, p.w.before, _ = problem.pads
    size = problem.shapes[0][2:]
    p.h.windows, p.w.windows = window_grid(size, kernel, problem.stride, problem.pads, problem.dilation)
    return 0


def im2col_forward(problem, x, out, int threads):
    """out[(n, oh, ow), (c, kh, kw)] = x[n, c, h, w], 0 in the padding."""
    cdef im2col_call p
    cdef int status
    prepare(&p, problem, x, out)
    with nogil:
        status = im2col_start(&p, threads)
    finish(status)


def col2im_forward(problem, col, out, int threads):
    """out[n, c, h, w] = sum of col over the windows and taps that stand on (h, w)."""
    cdef im2col_call p
    cdef int status
    prepare(&p, problem, out, col)
    with nogil:
        status = col2im_start(&p, threads)
    finish(status)
